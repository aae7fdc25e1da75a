# What every config of ours runs beside its framework's own hooks, and has imported to be run.
custom_hooks = [
    dict(type='vitbackbones.PreflightHook'),
    dict(type='vitbackbones.DurableHook'),
    dict(type='vitbackbones.NonFiniteHook'),
    dict(type='vitbackbones.ZeroLossHook'),
]
# Before anything else is read: for tools that know mmengine's configs alone.
custom_imports = dict(imports=['vitbackbones'], allow_failed_imports=False)
