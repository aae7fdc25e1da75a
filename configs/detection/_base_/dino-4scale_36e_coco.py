# DINO with four scales, 36 epochs of 8 x 2 images: mmdet's recipe with the rates of the GC ViT
# paper (arXiv 2206.09959: 3x, 1e-4, decay 0.05, batch 16). The neck adds a scale to three maps.
_base_ = ['mmdet::dino/dino-4scale_r50_8xb2-36e_coco.py', '../../_base_/hooks.py']
model = dict(backbone=dict(_delete_=True))
# ours: milestone, clipping, the backbone's tenth of the rate and decay on everything are mmdet's;
# the paper is silent
optim_wrapper = dict(optimizer=dict(lr=1e-4, weight_decay=0.05))
auto_scale_lr = dict(enable=False, base_batch_size=16)
