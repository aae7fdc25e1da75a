"""Comparing what a file holds with what a network needs, under every name it may have."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .names import CheckpointNames, KeyTable
from .reading import preview

NOT_BUILT = 'stages and outputs not built'


@dataclass(frozen=True, kw_only=True)
class Target:
    """A network that a file may be for: what matching has to know of it; ``str()`` is its name.

    Attributes:
        family: the network's name as its paper writes it.
        variant: name of its arch.
        names: what it declares of published files.
        tensors: its state dict, of which names, shapes and types are read.
        adapt: what a file holds, under our names -> the same changed to fit the network.
        larger: makes the network with further outputs, those with most of them first.
        in_classifiers: makes the network as classifiers have it, with its last output alone.
        others: makes whatever else a file may be for, each with what to set to have it.
    """

    family: str
    variant: str
    names: CheckpointNames
    tensors: Mapping[str, Tensor]
    adapt: Callable[[dict[str, Tensor]], dict[str, Tensor]]
    larger: Callable[[], Iterable[Target]]
    in_classifiers: Callable[[], Iterable[Target]]
    others: Callable[[], Iterable[tuple[str, Target]]]

    def __str__(self) -> str:
        return f'{self.family} {self.variant}'

    @property
    def stem_weight(self) -> str | None:
        return self.names.stem_weight(self.tensors)


@dataclass(frozen=True, kw_only=True)
class StateDictMatch:
    """How a state dict and a network go together."""

    dialect: str
    tensors: dict[str, Tensor]  # under the names of the network, in its shapes
    dropped: dict[str, str]  # name in the file -> what it belongs to
    initialised: list[str]  # what the file may lack
    missing: list[str]
    unexpected: list[str]
    shape_mismatch: dict[str, str]  # name -> its shape in the file and in the network
    adapted: dict[str, str]  # name -> what was changed

    @property
    def problems(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.shape_mismatch)


def match_backbone(
    target: Target, state: dict[str, Tensor], complete: bool, of_classifier: bool = False
) -> StateDictMatch:
    """The reading of ``state`` that fits ``target`` best, our own names first.

    Args:
        complete: nothing may be missing.
        of_classifier: but the network in a classifier of ours, which has its last output alone,
            may lack all the same what any classifier lacks.
    """
    match = _best_reading(target, state, complete)
    if match.problems and of_classifier:
        match = _without_what_classifiers_lack(target, state) or match
    return match


def _best_reading(target: Target, state: dict[str, Tensor], complete: bool) -> StateDictMatch:
    matches: list[StateDictMatch] = []
    for dialect, table in _tables(target).items():
        if not matches or (matches[-1].problems and table):
            match = _match_by(table, dialect, target, state, complete)
            if match.problems and not (match.missing or match.shape_mismatch):
                match = _without_other_outputs(match, table, target, state, complete)
            matches.append(match)
    return min(matches, key=lambda match: match.problems)


def _tables(target: Target) -> dict[str, KeyTable]:
    return {'': (), 'official': target.names.official, 'timm': target.names.timm}


def _without_what_classifiers_lack(
    target: Target, state: dict[str, Tensor]
) -> StateDictMatch | None:
    """The reading of ``state`` if that is all of the network as classifiers have it."""
    match = _best_reading(target, state, complete=False)
    absent = _absent_from_classifier(target)
    if match.shape_mismatch or not all(map(absent.match, match.missing)):
        return None
    for network in target.in_classifiers():
        for dialect, table in _tables(network).items():
            if not _match_by(table, dialect, network, state, complete=True).problems:
                others = [name for name in target.tensors if name not in match.tensors]
                return dataclasses.replace(
                    match,
                    initialised=[name for name in others if absent.match(name)],
                    missing=[],
                    dropped=match.dropped | dict.fromkeys(match.unexpected, NOT_BUILT),
                    unexpected=[],
                )
    return None


def _absent_from_classifier(target: Target) -> re.Pattern[str]:
    return re.compile('|'.join(target.names.absent_from_classifier) or '(?!)')


def _without_other_outputs(
    match: StateDictMatch, table: KeyTable, target: Target, state: dict[str, Tensor], complete: bool
) -> StateDictMatch:
    """``match`` with what is only in the file dropped, if it all belongs to further outputs.

    The first stages of two variants may be equal. So the file has to fit a network that has more
    outputs than ``target`` and differs in nothing else: as a rule, all of them.
    """
    for larger in target.larger():
        if not _match_by(table, match.dialect, larger, state, complete).problems:
            unused = dict.fromkeys(match.unexpected, NOT_BUILT)
            return dataclasses.replace(match, dropped=match.dropped | unused, unexpected=[])
    return match


def _match_by(
    table: KeyTable, dialect: str, target: Target, state: dict[str, Tensor], complete: bool
) -> StateDictMatch:
    wanted = target.tensors
    renamed, dropped, published = rename(state, table)
    given = target.adapt(renamed)
    built = {tuple(name.split('.')[:2]) for name in wanted}
    dropped |= {
        key: part_of(key) if tuple(name.split('.')[:2]) in built else NOT_BUILT
        for name, key in published.items()
        if name not in given
    }

    pattern = _absent_from_classifier(target)
    classifier = not complete and not any(map(pattern.match, given))
    absent = [name for name in wanted if classifier and pattern.match(name)]

    tensors, shape_mismatch, adapted = {}, {}, {}
    for name in [name for name in wanted if name in given]:
        value, shape = given[name], wanted[name].shape
        if value.numel() != renamed.get(name, value).numel():
            adapted[name] = part_of(name)
        if {value.shape, shape} == {value.shape[:2], (*value.shape[:2], 1, 1)}:
            value = value.reshape(shape)  # a linear layer and a 1x1 convolution are the same
        elif name == target.stem_weight and value.ndim == 4 and value.shape[1] == 3 != shape[1]:
            value = _change_channels(value, shape[1])
            adapted[name] = f'{name} from RGB to {shape[1]} channels'
        if value.shape != shape:
            shape_mismatch[name] = f'{tuple(given[name].shape)} for {tuple(shape)}'
        tensors[name] = value
    # Batch counters, the only integers, were not saved by old versions of torch.
    needed = [name for name, value in wanted.items() if value.is_floating_point()]
    return StateDictMatch(
        dialect=dialect,
        tensors=tensors,
        dropped=dropped,
        initialised=absent,
        missing=[name for name in needed if name not in given and name not in absent],
        unexpected=[published.get(name, name) for name in given if name not in wanted],
        shape_mismatch=shape_mismatch,
        adapted=adapted,
    )


def rename(
    state: dict[str, Tensor], table: KeyTable
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


# ----------------------------------------------------------------------------- what does not fit


def explain(
    target: Target,
    state: dict[str, Tensor],
    match: StateDictMatch,
    complete: bool,
    of_classifier: bool = False,
) -> str:
    """Both sides of what does not fit, and what the file would fit."""
    lines = [f'does not fit {target}; no weight was changed.', *differences(match)]
    return '\n'.join([*lines, _what_fits(target, state, match, complete, of_classifier)])


def differences(match: StateDictMatch) -> list[str]:
    """What does not fit, a line for each kind."""
    shapes = [f'{key} {shapes}' for key, shapes in match.shape_mismatch.items()]
    kinds = {
        'Missing in the file': match.missing,
        'Only in the file': match.unexpected,
        'Of another shape': shapes,
    }
    return [f'{what}: {len(keys)} ({preview(keys)}).' for what, keys in kinds.items() if keys]


def _what_fits(
    target: Target,
    state: dict[str, Tensor],
    match: StateDictMatch,
    complete: bool,
    of_classifier: bool,
) -> str:
    if match.problems == 1 and target.stem_weight in match.shape_mismatch:
        return 'The file is for another number of in_channels.'
    for label, other in target.others():
        if not match_backbone(other, state, complete, of_classifier).problems:
            return f'The file fits {label}: set that, or choose another file.'
    return 'The file fits no variant of any registered backbone: choose another file.'


def part_of(key: str) -> str:
    """The module, or the tensor of its own, that a name speaks of: ``norm0``, ``PSA_qk``."""
    *path, leaf = key.split('.')
    if leaf not in ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked'):
        return leaf
    return next((name for name in reversed(path) if not name.isdigit()), leaf)
