"""Learning rates that fall from the last layer of a backbone to its first."""

from __future__ import annotations

import inspect
import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from vitbackbones.registry import OPTIM_WRAPPER_CONSTRUCTORS, register

from .weight_decay import exempt_names

_OPTIONS = ('decay_rate', 'norm_decay_mult', 'bias_decay_mult', 'flat_decay_mult', 'custom_keys')
_NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm)


@register(OPTIM_WRAPPER_CONSTRUCTORS)
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Layer-wise learning rates for the backbone inside any detector or segmentor.

    A parameter in layer d of n learns at ``lr * decay_rate ** (n - 1 - d)``: the stem (d = 0) at
    the lowest rate, the backbone's last layer, the neck and the heads at the full one. That is the
    convention of BEiT (arXiv 2106.08254) and of ViTDet (arXiv 2203.16527), where n is the number
    of blocks plus two. ``decay_rate=1.0`` leaves the rates alone and only exempts parameters from
    weight decay.

    The layers come from the backbone's ``get_layer_depth(param_name, prefix)``, as all of ours and
    mmpretrain's have it. What its ``no_weight_decay()`` names never decays. Frozen parameters are
    left out, and what shares rate and decay becomes one parameter group.

    ::

        optim_wrapper = dict(
            constructor='vitbackbones.LayerDecayOptimWrapperConstructor',
            optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05),
            paramwise_cfg=dict(decay_rate=0.8, norm_decay_mult=0.0),
        )

    Args:
        optim_wrapper_cfg: as for mmengine's default constructor; its optimizer has to give ``lr``
            and ``weight_decay``.
        paramwise_cfg: ``decay_rate`` and, of mmengine's options, ``norm_decay_mult``,
            ``bias_decay_mult`` and ``flat_decay_mult``, of which the first that applies is taken,
            and ``custom_keys``, whose ``decay_mult`` replaces these three and whose ``lr_mult``
            multiplies the rate of the layer.

    Raises:
        ValueError: an unknown option or a value outside its range, a custom key that matches no
            parameter, or a model without such a backbone.
    """

    def __init__(
        self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: Mapping[str, Any] | None = None
    ) -> None:
        # Never empty, or the parent would hand over all parameters as one group.
        options = {'decay_rate': 1.0, **(paramwise_cfg or {})}
        super().__init__(optim_wrapper_cfg, options)
        for where, given, known in [
            ('paramwise_cfg', options, _OPTIONS),
            *(
                (f'paramwise_cfg.custom_keys[{key!r}]', value, ('lr_mult', 'decay_mult'))
                for key, value in options.get('custom_keys', {}).items()
            ),
        ]:
            unknown = [key for key in given if key not in known]
            if unknown:
                raise ValueError(
                    f'{where} has unknown keys {", ".join(unknown)}; choose from {", ".join(known)}'
                )
        if not 0 < options['decay_rate'] <= 1:
            raise ValueError(
                f'paramwise_cfg.decay_rate={options["decay_rate"]} must be above 0 and at most 1'
            )
        for key, value in (('lr', self.base_lr), ('weight_decay', self.base_wd)):
            if value is None:
                raise ValueError(
                    f'optim_wrapper.optimizer has no {key}, which layer-wise rates multiply; '
                    f'it has {", ".join(self.optimizer_cfg)}'
                )

    def add_params(
        self,
        params: list[dict[str, Any]],
        module: nn.Module,
        prefix: str = '',
        is_dcn_module: float | None = None,
    ) -> None:
        """Append the parameter groups of the whole model ``module`` to ``params``."""
        backbones = _find_backbones(module)
        exempt = exempt_names(backbones)
        names = [name for name, _ in module.named_parameters()]
        for key in self.paramwise_cfg.get('custom_keys', {}):
            if not any(key in name for name in names):
                raise ValueError(
                    f'paramwise_cfg.custom_keys: no parameter has {key!r} in its name; names are '
                    f'like {", ".join(names[:: max(len(names) // 4, 1)])}'
                )
        norms = {
            id(param)
            for owner in module.modules()
            if isinstance(owner, _NORMS)
            for param in owner.parameters(recurse=False)
        }
        groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
        layers: dict[tuple[float, float], dict[str, set[int]]] = {}
        for name, param in module.named_parameters():
            if not param.requires_grad:
                continue
            lr_mult, decay_mult = self._multipliers(name, param, id(param) in norms)
            part, depth, scale = self._layer(name, backbones)
            decay = 0.0 if name in exempt else self.base_wd * decay_mult
            setting = (self.base_lr * lr_mult * scale, decay)
            groups[setting].append(param)
            layers.setdefault(setting, defaultdict(set))[part].add(depth)
        for (lr, decay), members in groups.items():
            label = ', '.join(itertools.starmap(_describe, layers[lr, decay].items()))
            params.append({'params': members, 'lr': lr, 'weight_decay': decay, 'name': label})
        print_log(_table(params, self.paramwise_cfg['decay_rate']), logger='current')

    def _layer(self, name: str, backbones: Mapping[str, Any]) -> tuple[str, int, float]:
        """Part of the model, layer of it (-1: it has none) and factor on the learning rate."""
        for prefix, backbone in backbones.items():
            if name.startswith(prefix):
                depth, count = backbone.get_layer_depth(name, prefix)
                scale = self.paramwise_cfg['decay_rate'] ** (count - 1 - depth)
                return prefix.removesuffix('.') or type(backbone).__name__, depth, scale
        return name.partition('.')[0], -1, 1.0

    def _multipliers(self, name: str, param: nn.Parameter, is_norm: bool) -> tuple[float, float]:
        """Of learning rate and weight decay, by mmengine's options and in its order."""
        options = self.paramwise_cfg
        custom = options.get('custom_keys', {})
        # The longest key that is in the name; of equally long ones the first in the alphabet.
        key = min((k for k in custom if k in name), key=lambda k: (-len(k), k), default=None)
        if key is not None:
            return custom[key].get('lr_mult', 1.0), custom[key].get('decay_mult', 1.0)
        kinds = {
            'norm_decay_mult': is_norm,
            'bias_decay_mult': name.rpartition('.')[2] == 'bias',
            'flat_decay_mult': param.ndim == 1,
        }
        applying = (options[k] for k, applies in kinds.items() if applies and k in options)
        return 1.0, next(applying, 1.0)


def _find_backbones(model: nn.Module) -> dict[str, Any]:
    """{prefix of its parameters' names: backbone}, inside whatever wrappers.

    Raises:
        ValueError: there is none.
    """
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        method = getattr(module, 'get_layer_depth', None)
        # A whole classifier of mmpretrain has a method of this name, too, but no `prefix`.
        if method is not None and 'prefix' in inspect.signature(method).parameters:
            found[f'{name}.' if name else ''] = module
    if not found:
        parts = [f'{name} ({type(part).__name__})' for name, part in model.named_children()]
        raise ValueError(
            f'LayerDecayOptimWrapperConstructor: nothing in {type(model).__name__} has a method '
            "get_layer_depth(param_name, prefix), as vitbackbones' and mmpretrain's backbones "
            f'have; its parts are {", ".join(parts)}'
        )
    return found


def _describe(part: str, depths: set[int]) -> str:
    """Name of a part of the model and the range of its layers."""
    first, last = min(depths), max(depths)
    if last < 0:
        return part
    return f'{part} layer {first}' if first == last else f'{part} layers {first}-{last}'


def _table(groups: Iterable[Mapping[str, Any]], decay_rate: float) -> str:
    lines = [
        f'layer-wise learning rates, decay_rate={decay_rate}',
        f'{"rate":<10} {"decay":<8} {"tensors":>7}  parameters of',
    ]
    for group in groups:
        lr, decay, count = group['lr'], group['weight_decay'], len(group['params'])
        lines.append(f'{lr:<10.3g} {decay:<8.3g} {count:>7}  {group["name"]}')
    return '\n'.join(lines)
