"""Comparing what a file holds with what a network needs, under every name it may have."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .reading import CheckpointError, examples

if TYPE_CHECKING:
    from vitbackbones.backbones.base import Backbone

Table = tuple[tuple[str, str | None], ...]

NOT_BUILT = 'stages and outputs not built'


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How a state dict and a network go together."""

    dialect: str
    tensors: dict[str, Tensor]  # under the names of the network, in its shapes
    dropped: dict[str, str]  # name in the file -> what it belongs to
    initialised: list[str]  # what the file may lack
    missing: list[str]
    unexpected: list[str]
    misshapen: dict[str, str]  # name -> its shape in the file and in the network
    adapted: dict[str, str]  # name -> what was changed

    @property
    def problems(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.misshapen)


def fit_backbone(backbone: Backbone, state: dict[str, Tensor], complete: bool) -> Fit:
    """The reading of ``state`` that fits ``backbone`` best, our own names first.

    ``complete`` says that the file is no classifier, so that nothing may be missing.
    """
    fits: list[Fit] = []
    tables = {'': (), 'official': backbone.official_keys, 'timm': backbone.timm_keys}
    for dialect, table in tables.items():
        if not fits or (fits[-1].problems and table):
            fit = _fit_by(table, dialect, backbone, state, complete)
            if fit.problems and not (fit.missing or fit.misshapen):
                fit = _without_other_outputs(fit, table, backbone, state, complete)
            fits.append(fit)
    return min(fits, key=lambda fit: fit.problems)


def _without_other_outputs(
    fit: Fit, table: Table, backbone: Backbone, state: dict[str, Tensor], complete: bool
) -> Fit:
    """``fit`` with what is only in the file dropped, if it all belongs to further outputs.

    The first stages of two variants may be equal. So the file has to fit a network that has more
    outputs than ``backbone`` and differs in nothing else: as a rule, all of them.
    """
    arch = dataclasses.asdict(backbone.arch)
    others = [i for i in range(len(backbone.strides)) if i not in backbone.out_indices]
    for count in range(len(others), 0, -1):
        for further in itertools.combinations(others, count):
            larger = _sibling(backbone, arch, sorted({*backbone.out_indices, *further}))
            if not _fit_by(table, fit.dialect, larger, state, complete).problems:
                unused = dict.fromkeys(fit.unexpected, NOT_BUILT)
                return dataclasses.replace(fit, dropped=fit.dropped | unused, unexpected=[])
    return fit


def _fit_by(
    table: Table, dialect: str, backbone: Backbone, state: dict[str, Tensor], complete: bool
) -> Fit:
    wanted = backbone.state_dict()
    renamed, dropped, published = rename(state, table)
    given = backbone.adapt_state_dict(renamed)
    built = {tuple(name.split('.')[:2]) for name in wanted}
    dropped |= {
        key: part_of(key) if tuple(name.split('.')[:2]) in built else NOT_BUILT
        for name, key in published.items()
        if name not in given
    }

    pattern = re.compile('|'.join(backbone.absent_from_classifier) or '(?!)')
    classifier = not complete and not any(map(pattern.match, given))
    absent = [name for name in wanted if classifier and pattern.match(name)]

    tensors, misshapen, adapted = {}, {}, {}
    for name in [name for name in wanted if name in given]:
        value, shape = given[name], wanted[name].shape
        if value.numel() != renamed.get(name, value).numel():
            adapted[name] = part_of(name)
        if {value.shape, shape} == {value.shape[:2], (*value.shape[:2], 1, 1)}:
            value = value.reshape(shape)  # a linear layer and a 1x1 convolution are the same
        elif name == backbone.stem_weight and value.ndim == 4 and value.shape[1] == 3 != shape[1]:
            value = _change_channels(value, shape[1])
            adapted[name] = f'{name} from RGB to {shape[1]} channels'
        if value.shape != shape:
            misshapen[name] = f'{tuple(given[name].shape)} for {tuple(shape)}'
        tensors[name] = value
    # Batch counters, the only integers, were not saved by old versions of torch.
    needed = [name for name, value in wanted.items() if value.is_floating_point()]
    return Fit(
        dialect=dialect,
        tensors=tensors,
        dropped=dropped,
        initialised=absent,
        missing=[name for name in needed if name not in given and name not in absent],
        unexpected=[published.get(name, name) for name in given if name not in wanted],
        misshapen=misshapen,
        adapted=adapted,
    )


def rename(
    state: dict[str, Tensor], table: Table
) -> tuple[dict[str, Tensor], dict[str, str], dict[str, str]]:
    """The tensors under our names, what the table drops, and the file's name of each of ours."""
    renamed, dropped, published = {}, {}, {}
    for key, value in state.items():
        name: str | None = key
        for pattern, replacement in table:
            found = re.match(pattern, key)
            if found:
                rest = key[found.end() :]
                name = None if replacement is None else found.expand(replacement) + rest
                break
        if not (value.is_floating_point() or key.endswith('num_batches_tracked')):
            dropped[key] = part_of(key)  # an index that follows from the architecture
        elif name is None:
            dropped[key] = key.partition('.')[0]
        else:
            renamed[name] = value
            published[name] = key
    return renamed, dropped, published


def _change_channels(weight: Tensor, channels: int) -> Tensor:
    """(O, 3, k, k) -> (O, channels, k, k), repeated; equal channels give an equal response."""
    share = F.one_hot(torch.arange(channels) % 3, 3).to(weight.dtype)  # (channels, 3)
    share[:, share.sum(0) == 0] = 1  # fewer than three channels: the others go to all of them
    return torch.einsum('oihw,ci->ochw', weight, share / share.sum(0))


def _sibling(backbone: Backbone, arch: Any, out_indices: Sequence[int] | None = None) -> Backbone:
    """``arch`` with all outputs, or those, and the options of ``backbone``, without memory.

    Sequences are left at their defaults: they belong to the outputs that ``backbone`` has.
    """
    cls = type(backbone)
    stored = {name: getattr(backbone, name, None) for name in inspect.signature(cls).parameters}
    options = {name: v for name, v in stored.items() if isinstance(v, (str, int, float))}
    out_indices = out_indices or range(len(cls.strides))
    with torch.device('meta'):
        return cls(**{**options, 'arch': arch, 'out_indices': out_indices})


def _others(backbone: Backbone) -> Iterator[tuple[str, Backbone]]:
    """Every variant of every registered family, those of ``backbone``'s own family first."""
    cls = type(backbone)
    for arch in cls.archs:
        yield f'arch={arch!r}', _sibling(backbone, arch)
    for other in backbone.registered().values():
        if other is not cls:
            for arch in other.archs:
                with torch.device('meta'):
                    network = other(arch, in_channels=backbone.in_channels)
                yield f'type={other.__name__!r}, arch={arch!r}', network


# ----------------------------------------------------------------------------- what does not fit


def variant(backbone: Backbone) -> str:
    return next((k for k, v in backbone.archs.items() if v == backbone.arch), '(custom arch)')


def explain(backbone: Backbone, state: dict[str, Tensor], fit: Fit, complete: bool) -> str:
    """Both sides of what does not fit, and what the file would fit."""
    lines = [f'does not fit {backbone.family} {variant(backbone)}; no weight was changed.']
    for what, keys in (
        ('Missing in the file', fit.missing),
        ('Only in the file', fit.unexpected),
        ('Of another shape', [f'{key} {shapes}' for key, shapes in fit.misshapen.items()]),
    ):
        if keys:
            lines.append(f'{what}: {len(keys)} ({examples(keys)}).')
    return '\n'.join([*lines, _what_fits(backbone, state, fit, complete)])


def _what_fits(backbone: Backbone, state: dict[str, Tensor], fit: Fit, complete: bool) -> str:
    if fit.problems == 1 and backbone.stem_weight in fit.misshapen:
        return 'The file is for another number of in_channels.'
    for label, other in _others(backbone):
        if not fit_backbone(other, state, complete).problems:
            return f'The file fits {label}: set that, or choose another file.'
    return 'The file fits no variant of any registered backbone: choose another file.'


def part_of(key: str) -> str:
    """The module, or the tensor of its own, that a name speaks of: ``norm0``, ``PSA_qk``."""
    *path, leaf = key.split('.')
    if leaf not in ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked'):
        return leaf
    return next((name for name in reversed(path) if not name.isdigit()), leaf)


# ------------------------------------------------------------------------------ kinds of tensors


def check_dense(state: dict[str, Tensor], source: str) -> None:
    """Copying from any other kind of tensor fails, halfway through the network."""
    kinds = {
        'sparse': lambda value: value.layout is not torch.strided,
        'nested': lambda value: value.is_nested,
        'quantized': lambda value: value.is_quantized,
        'without values (meta)': lambda value: value.is_meta,
    }
    for kind, applies in kinds.items():
        names = [name for name, value in state.items() if applies(value)]
        if names:
            raise CheckpointError(
                f'{source} holds tensors that are {kind}: {len(names)} ({examples(names)}); save '
                'them as plain arrays. No weight was changed.'
            )


def converted(tensors: dict[str, Tensor], network: nn.Module, source: str) -> dict[str, Tensor]:
    """``tensors`` in the types of the network, so that nothing is left that could fail."""
    own, result = network.state_dict(), {}
    for name, value in tensors.items():
        try:
            result[name] = value.to(own[name].dtype)
        except (NotImplementedError, RuntimeError) as error:
            raise CheckpointError(
                f'{source} holds {name} as {value.dtype}, which torch does not convert to '
                f'{own[name].dtype}; save it as that. No weight was changed.'
            ) from error
    return result
