"""Fusing a network for inference: fewer layers, the same numbers."""

from __future__ import annotations

import copy
import functools
import itertools
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from vitbackbones.backbones.base import Backbone
from vitbackbones.layers.folding import (
    ChannelAffine,
    Fusible,
    fold_after,
    fold_before,
    has_statistics,
)

M = TypeVar('M', bound=nn.Module)

# Of mmdet: computes with the weight of a ConvModule's convolution, by itself.
READS_WEIGHTS = {'TaskDecomposition'}


@dataclass(frozen=True)
class FusionReport:
    """What became of each BatchNorm, by its name in the original model."""

    #: Gone, into a convolution.
    folded: tuple[str, ...] = ()
    #: No convolution next to it: a scale and a shift per channel.
    affine: tuple[str, ...] = ()
    #: Kept, for they have no statistics and follow the batch in evaluation too.
    kept: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f'{len(self.folded)} BatchNorms folded into convolutions']
        for names, fate in (
            (self.affine, 'without a convolution next to them, now a scale and a shift'),
            (self.kept, 'without statistics, kept'),
        ):
            if names:
                lines.append(f'{len(names)} {fate}: {", ".join(names)}')
        return '\n'.join(lines)


class InferenceOnly(nn.Module):
    """Mixed into the class of a fused model: it refuses to train."""

    fusion_report: FusionReport

    def train(self, mode: bool = True) -> InferenceOnly:
        if mode:
            raise RuntimeError(
                f'{type(self).__name__} is fused and serves inference alone, without BatchNorms to '
                'train; train the model that it was made from and fuse that one again'
            )
        return super().train(False)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _revive, (type(self).__bases__[1],), self.__dict__


@functools.cache
def _inference_only(cls: type[nn.Module]) -> type[nn.Module]:
    return type(cls.__name__, (InferenceOnly, cls), {'__module__': cls.__module__})


def _revive(cls: type[nn.Module]) -> nn.Module:
    """For pickle, which does not find a class that was made here: a fused model, still empty."""
    made = cast(Any, _inference_only)(cls)
    return made.__new__(made)


def fuse(model: M) -> M:
    """A copy of ``model`` for inference, equal to it in evaluation but for rounding.

    BatchNorms are folded into the convolutions next to them, residual convolutions into one kernel;
    BatchNorms with no convolution next to them become a scale and a shift per channel. ``model``
    may be a backbone or hold one, as detectors do: convolutions and BatchNorms that follow each
    other in an ``nn.Sequential`` or in mmcv's ``ConvModule`` are folded too.

    On a CPU the 1 x 1 convolutions of CAS-ViT and SHViT become matrix products whose weights lie in
    memory as a CPU reads them fastest: fuse a model where it will run.

    The copy is in eval mode, without gradients, and of a subclass of ``type(model)`` whose
    ``train()`` raises RuntimeError. Its ``fusion_report`` is a :class:`FusionReport`.
    """
    names = _batch_norms(model)
    root = nn.ModuleList([copy.deepcopy(model).eval()])  # a place for what replaces the model
    intact = [m for m in root.modules() if isinstance(m, Backbone) and m.is_as_built()]
    _fuse(root, {})
    fused = root[0]
    left = _batch_norms(fused)
    _replace_norms(root, {})
    fused = root[0].eval().requires_grad_(False)
    affine = [name for name in left if isinstance(fused.get_submodule(name), ChannelAffine)]
    if not isinstance(fused, InferenceOnly):
        fused.__class__ = cast(Any, _inference_only)(type(fused))
    for backbone in intact:
        backbone.sign()
    cast(InferenceOnly, fused).fusion_report = FusionReport(
        folded=tuple(name for name in names if name not in left),
        affine=tuple(affine),
        kept=tuple(name for name in left if name not in affine),
    )
    return cast(M, fused)


def _batch_norms(model: nn.Module) -> list[str]:
    modules = model.named_modules(remove_duplicate=False)
    return [name for name, module in modules if isinstance(module, _BatchNorm)]


def _fuse(module: nn.Module, done: dict[nn.Module, nn.Module]) -> nn.Module:
    """Fuse ``module``, children first; a module in two places is fused once and stays one."""
    if module not in done:
        for name, child in module._modules.items():
            if child is not None:
                module._modules[name] = _fuse(child, done)
        if isinstance(module, Fusible):
            done[module] = module.fuse()
        else:
            if type(module).forward is nn.Sequential.forward:
                _fuse_sequential(module)
            for child in module.children():
                if _is_conv_module(child) and type(module).__name__ not in READS_WEIGHTS:
                    _fuse_conv_module(child)
            done[module] = module
    return done[module]


def _fuse_sequential(module: nn.Module) -> None:
    for first, second in itertools.pairwise(list(module._modules)):
        one, other = module.get_submodule(first), module.get_submodule(second)
        if (folded := fold_after(one, other)) is not None:
            module._modules[first], module._modules[second] = folded, nn.Identity()
        elif (folded := fold_before(one, other)) is not None:
            module._modules[first], module._modules[second] = nn.Identity(), folded


def _is_conv_module(module: nn.Module) -> bool:
    """mmcv's convolution with norm and activation; mmcv need not be installed."""
    return type(module).__name__ == 'ConvModule' and type(module).__module__.startswith('mmcv.')


def _fuse_conv_module(module: Any) -> None:
    order = module.order
    if not module.with_norm or order.index('norm') != order.index('conv') + 1:
        return
    if (folded := fold_after(module.conv, module.norm)) is not None:
        module._modules['conv'] = folded
        module._modules[module.norm_name] = nn.Identity()
        module.efficient_conv_bn_eval_forward = None  # would read the BatchNorm


def _replace_norms(module: nn.Module, done: dict[nn.Module, nn.Module]) -> None:
    for name, child in module._modules.items():
        if child is None:
            continue
        if has_statistics(child):
            module._modules[name] = done.setdefault(child, ChannelAffine(child))
        else:
            _replace_norms(child, done)
