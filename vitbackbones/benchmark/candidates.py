"""Who takes part in a benchmark: our backbones, networks of other packages, whole models."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

import vitbackbones
from vitbackbones.deploy import fuse
from vitbackbones.errors import UserError
from vitbackbones.launch.loading import load_config

from .models import build_model, noise, spare_single_values

CPU = torch.device('cpu')
DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}

# Backbones of mmdet with random weights: class and options.
MMDET: dict[str, tuple[str, dict[str, Any]]] = {
    'swin-t': ('SwinTransformer', {}),
    'swin-s': ('SwinTransformer', dict(depths=(2, 2, 18, 2))),
    'resnet-50': ('ResNet', dict(depth=50)),
    'resnet-101': ('ResNet', dict(depth=101)),
    'pvt-v2-b2': ('PyramidVisionTransformerV2', dict(embed_dims=64, num_layers=[3, 4, 6, 3])),
}


@dataclass(frozen=True)
class Setting:
    """What all candidates have in common.

    Args:
        dtype: of weights and images; in training and of whole models that of autocast.
        batch: images at a time.
        train: forward and backward instead of forward alone.
        compile: by torch.compile, backbones alone.
        channels_last: NHWC in memory.
        deploy: fuse what is ours.

    Raises:
        UserError: ``deploy`` with ``train``.
    """

    device: torch.device = CPU
    dtype: torch.dtype = torch.float32
    batch: int = 1
    train: bool = False
    compile: bool = False
    channels_last: bool = False
    deploy: bool = False

    def __post_init__(self) -> None:
        if self.deploy and self.train:
            raise UserError(
                'what is deployed (--deploy, +deploy) is for inference alone: '
                'it goes with --mode eval'
            )

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(
            self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32
        )


@dataclass(frozen=True)
class Candidate:
    """``at(height, width)`` gives two functions for images of that size.

    The first is one forward pass, the second what is timed: that pass, or one with its backward
    pass. ``compiled`` is the part of ``model`` that torch.compile is to take, if any.
    """

    name: str
    model: nn.Module
    compiled: nn.Module | None
    at: Callable[[int, int], tuple[Callable[[], Any], Callable[[], Any]]]


def arch_names() -> list[str]:
    """``sepvit:tiny`` and all the others."""
    return [name.replace('_', ':', 1) for name in vitbackbones.list_backbones()]


def with_variants(word: str, setting: Setting, variants: Sequence[str]) -> tuple[str, Setting]:
    """Of ``NAME+VARIANT...`` the name, and the setting with these variants on.

    Raises:
        UserError: an unknown variant.
    """
    name, *chosen = word.split('+')
    for variant in chosen:
        if variant not in variants:
            raise UserError(f'{word}: {variant!r} is unknown, choose from {", ".join(variants)}')
    changes: dict[str, Any] = {variant.replace('-', '_'): True for variant in chosen}
    return name, replace(setting, **changes)


def backbone(word: str, options: Mapping[str, Any], setting: Setting) -> Candidate:
    """One of ours, ``word`` being out of :func:`arch_names`, with ``+deploy`` and others behind it.

    Raises:
        UserError: unknown name, or an option that it does not take.
    """
    name, setting = with_variants(word, setting, ('compile', 'channels-last', 'deploy'))
    if name not in arch_names():
        near = difflib.get_close_matches(name, arch_names(), n=3) or arch_names()
        raise UserError(f'--archs {word}: unknown, choose from {", ".join(near)} or all')
    try:
        net: nn.Module = vitbackbones.create(name.replace(':', '_', 1), **options)
    except (TypeError, ValueError) as error:
        raise UserError(f'--archs {word} with {dict(options)}: {error}') from error
    if setting.deploy:
        net = fuse(net.to(setting.device))
    return _of_network(word, net, setting)


def peer(word: str, setting: Setting) -> Candidate:
    """``timm:NAME``, ``mmdet:NAME`` of :data:`MMDET` or ``module:callable`` that makes a network.

    Raises:
        UserError: there is no such peer, or what it needs is not installed.
    """
    path, setting = with_variants(word, setting, ('compile', 'channels-last'))
    package, _, name = path.partition(':')
    if not package or not name:
        raise UserError(f'--peers {word}: expected timm:NAME, mmdet:NAME or module:callable')
    try:
        if package == 'timm':
            net = import_module('timm').create_model(name, pretrained=False, num_classes=0)
        elif package == 'mmdet':
            if name not in MMDET:
                raise UserError(f'--peers {word}: unknown, choose from {", ".join(MMDET)}')
            cls, options = MMDET[name]
            net = getattr(import_module('mmdet.models.backbones'), cls)(**options)
        else:
            net = getattr(import_module(package), name)()
    except ImportError as error:
        raise UserError(f'--peers {word}: {package} cannot be imported: {error}') from error
    except UserError:
        raise
    except Exception as error:  # whatever somebody's code raises
        raise UserError(f'--peers {word}: {type(error).__name__}: {error}') from error
    if not isinstance(net, nn.Module):
        raise UserError(f'--peers {word} makes a {type(net).__name__}, not a torch module')
    return _of_network(word, net, setting)


def _of_network(name: str, net: nn.Module, setting: Setting) -> Candidate:
    """A network from a image to maps; weights have the dtype, in training autocast does it."""
    dtype = torch.float32 if setting.train else setting.dtype
    _place(net, setting)
    net.to(dtype)

    def at(height: int, width: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
        images = torch.randn(setting.batch, 3, height, width, device=setting.device, dtype=dtype)
        if setting.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)

        def forward() -> Any:
            with torch.no_grad():
                return net(images)

        def step() -> None:
            with setting.autocast():
                outputs = net(images)
            torch.stack([y.float().mean() for y in _tensors(outputs)]).sum().backward()
            net.zero_grad(set_to_none=True)

        return forward, step if setting.train else forward

    return Candidate(name, net, net if setting.compile else None, at)


def _tensors(outputs: Any) -> Iterator[Tensor]:
    """Those of floating point in nested tuples, lists and dicts."""
    if isinstance(outputs, Tensor):
        if outputs.is_floating_point():
            yield outputs
    else:
        for value in outputs.values() if isinstance(outputs, Mapping) else outputs:
            yield from _tensors(value)


def _place(model: nn.Module, setting: Setting) -> None:
    model.to(setting.device)
    model.train(setting.train)  # no more in this line: mmdet's Swin returns None
    if setting.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def whole_model(name: str, options: Mapping[str, Any] | None, setting: Setting) -> Candidate:
    """The model of a config; of other precision than fp32 by autocast.

    Raises:
        UserError: the config cannot be read or built.
    """
    cfg = load_config(name, options)
    model = build_model(cfg)
    if setting.deploy:
        model = fuse(model.to(setting.device))
    if setting.train:
        spare_single_values(model)
    _place(model, setting)

    def at(height: int, width: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
        data = noise(cfg, model, height, width, setting.batch)

        def forward() -> Any:
            with torch.no_grad(), setting.autocast():
                return model.test_step(data)

        def step() -> None:
            with setting.autocast():
                inputs = model.data_preprocessor(data, True)
                loss, _ = model.parse_losses(model(**inputs, mode='loss'))
            loss.backward()
            model.zero_grad(set_to_none=True)

        return forward, step if setting.train else forward

    short = name.rpartition('::')[2].removesuffix('.py')
    return Candidate(short, model, model.backbone if setting.compile else None, at)
