# ours: no dense recipe of SuperViT was published. These are the rates of mmseg's BEiT-B, a plain
# ViT of 12 blocks: AdamW 3e-5, decay 0.05, each block at 0.9 times the rate of the next.
_base_ = 'adamw_160k.py'
optim_wrapper = dict(
    optimizer=dict(lr=3e-5, weight_decay=0.05),
    constructor='vitbackbones.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(_delete_=True, decay_rate=0.9, flat_decay_mult=0.0),
)
