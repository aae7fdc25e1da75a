# What every config of ours runs in addition to its framework's hooks, and has imported for that.
custom_hooks = [
    dict(type='vitbackbones.PreflightHook'),
    dict(type='vitbackbones.DurableHook'),
    dict(type='vitbackbones.NonFiniteHook'),
    dict(type='vitbackbones.ZeroLossHook'),
]
# Before anything else is read: for tools that know mmengine's configs alone.
custom_imports = dict(imports=['vitbackbones'], allow_failed_imports=False)
