# ours: no dense recipe of SuperViT was published. These are ViTDet's rates for a plain ViT of 12
# blocks (arXiv 2203.16527): AdamW 1e-4, decay 0.1, each block at 0.7 times the rate of the next;
# over 36 epochs of 8 x 2 images rather than 100 of 64.
_base_ = 'adamw_3x.py'
optim_wrapper = dict(
    optimizer=dict(weight_decay=0.1),
    constructor='vitbackbones.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(_delete_=True, decay_rate=0.7, norm_decay_mult=0.0),
)
