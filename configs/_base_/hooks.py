# What every config of ours runs beside its framework's own hooks.
custom_hooks = [
    dict(type='vitbackbones.PreflightHook'),
    dict(type='vitbackbones.DurableHook'),
    dict(type='vitbackbones.BadNumbersHook'),
    dict(type='vitbackbones.ZeroLossHook'),
]
