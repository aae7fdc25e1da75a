# GC ViT-L, windows of 24 in all levels. Weights: from ImageNet-21K, tuned at 384 pixels;
# CC BY-NC-SA 4.0, non-commercial.
channels = [192, 384, 768, 1536]
backbone = dict(
    type='vitbackbones.GCViT',
    arch='large',
    drop_path_rate=0.2,  # ours: that of Swin-L in mmdet's DINO; no dense rate was published
    init_cfg=dict(type='Pretrained', checkpoint='published'),
)
