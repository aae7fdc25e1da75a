"""Networks as what a weight file may be for, in the terms of :mod:`.checkpoint.matching`."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from .backbones.base import Backbone
from .checkpoint.errors import CheckpointError
from .checkpoint.matching import Target
from .metafiles import published_weights
from .published import OWN


def variants() -> dict[str, tuple[type[Backbone], str]]:
    """Every variant of the registered networks, by the name that ``create`` takes."""
    return {
        f'{cls.__name__.lower()}_{arch}': (cls, arch)
        for cls in Backbone.registered().values()
        for arch in cls.archs
    }


def variant_of(network: Backbone) -> str:
    """The name by which ``create`` builds what ``network`` is, be it the one in a classifier.

    Raises:
        CheckpointError: its arch is no published one; the message names those with weights.
    """
    for name, (cls, arch) in variants().items():
        if network.family == cls.family and network.arch == cls.archs[arch]:
            return name
    kinds = {cls.family: cls.__name__ for cls in Backbone.registered().values()}
    kind = kinds.get(network.family, type(network).__name__)
    archs = ', '.join(map(repr, published_weights(kind) or ()))
    raise CheckpointError(
        f'{kind}: there are no published weights for a custom arch, '
        f'{f"choose arch={archs}" if archs else "nor for any other"}; {OWN}'
    )


def as_target(backbone: Backbone) -> Target:
    """``backbone`` as something that a file may be for."""
    arch = backbone.arch
    return Target(
        family=backbone.family,
        variant=next((k for k, v in backbone.archs.items() if v == arch), '(custom arch)'),
        names=backbone.checkpoint_names,
        tensors=backbone.state_dict(),
        adapt=backbone.adapt_state_dict,
        larger=functools.partial(_with_further_outputs, backbone),
        in_classifiers=functools.partial(_in_classifiers, backbone),
        others=functools.partial(_other_variants, backbone),
    )


def _with_further_outputs(backbone: Backbone) -> Iterator[Target]:
    arch = dataclasses.asdict(backbone.arch)
    others = [i for i in range(len(backbone.strides)) if i not in backbone.out_indices]
    for count in range(len(others), 0, -1):
        for further in itertools.combinations(others, count):
            yield as_target(_sibling(backbone, arch, sorted({*backbone.out_indices, *further})))


def _in_classifiers(backbone: Backbone) -> Iterator[Target]:
    arch, last = dataclasses.asdict(backbone.arch), len(backbone.strides) - 1
    options = backbone.checkpoint_names.classifier_options
    for own in ({}, options) if options else ({},):
        yield as_target(_sibling(backbone, arch, [last], **own))


def _other_variants(backbone: Backbone) -> Iterator[tuple[str, Target]]:
    """Every variant of every registered family, those of ``backbone``'s own family first."""
    cls = type(backbone)
    for arch in cls.archs:
        yield f'arch={arch!r}', as_target(_sibling(backbone, arch))
    for other in backbone.registered().values():
        if other is not cls:
            for arch in other.archs:
                with torch.device('meta'):
                    network = other(arch, in_channels=backbone.in_channels)
                yield f'type={other.__name__!r}, arch={arch!r}', as_target(network)


def _sibling(
    backbone: Backbone, arch: Any, out_indices: Sequence[int] | None = None, **other: Any
) -> Backbone:
    """``arch`` with all outputs, or those, and the options of ``backbone``, without memory.

    ``other`` options take the place of its own.

    Sequences are left at their defaults: they belong to the outputs that ``backbone`` has.
    """
    cls = type(backbone)
    stored = {name: getattr(backbone, name, None) for name in inspect.signature(cls).parameters}
    options = {name: v for name, v in stored.items() if isinstance(v, (str, int, float))}
    out_indices = out_indices or range(len(cls.strides))
    with torch.device('meta'):
        return cls(**{**options, **other, 'arch': arch, 'out_indices': out_indices})
