"""Weight decay for all parameters but those that a backbone says it would harm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from vitbackbones.registry import OPTIM_WRAPPER_CONSTRUCTORS, register


@register(OPTIM_WRAPPER_CONSTRUCTORS)
class NoWeightDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's default constructor, which asks the backbone what must not decay.

    What a part of the model names in ``no_weight_decay()``, as all backbones of ours do, has a
    weight decay of 0. A key of ``custom_keys`` with a ``decay_mult`` decides in its place, if it is
    the one that mmengine goes by: the longest in the name::

        optim_wrapper = dict(
            constructor='vitbackbones.NoWeightDecayOptimWrapperConstructor',
            optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05),
            paramwise_cfg=dict(custom_keys=dict(norm=dict(decay_mult=0.0))),  # norms do not either
        )

    Parameter groups are those of mmengine's constructor: one for each parameter, in its order.
    Arguments are its own, too.
    """

    def __init__(
        self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: Mapping[str, Any] | None = None
    ) -> None:
        # Never empty, or the parent would hand over all parameters as one group.
        super().__init__(optim_wrapper_cfg, {'custom_keys': {}, **(paramwise_cfg or {})})

    def add_params(
        self,
        params: list[dict[str, Any]],
        module: nn.Module,
        prefix: str = '',
        is_dcn_module: float | None = None,
    ) -> None:
        """Append the parameter groups of ``module``, which the parent calls for all its parts."""
        super().add_params(params, module, prefix, is_dcn_module)
        if prefix:
            return  # a part: all groups are there when the whole model's turn ends
        parts = {f'{name}.' if name else '': part for name, part in module.named_modules()}
        exempt = {name for name in exempt_names(parts) if not self._is_decided(name)}
        ids = {id(param) for name, param in module.named_parameters() if name in exempt}
        for group in params:
            if all(id(param) in ids for param in group['params']):
                group['weight_decay'] = 0.0

    def _is_decided(self, name: str) -> bool:
        """Whether the key that mmengine goes by for a parameter says how it decays."""
        custom: Mapping[str, Mapping[str, Any]] = self.paramwise_cfg['custom_keys']
        keys = sorted(sorted(custom), key=len, reverse=True)
        first = next((key for key in keys if key in name), None)
        return first is not None and 'decay_mult' in custom[first]


def exempt_names(parts: Mapping[str, Any]) -> set[str]:
    """The parameters that must not decay, by the names that they have in the model.

    Args:
        parts: {prefix of its parameters' names: part}; what has no ``no_weight_decay`` names none.
    """
    return {
        prefix + name
        for prefix, part in parts.items()
        if hasattr(part, 'no_weight_decay')
        for name in part.no_weight_decay()
    }
