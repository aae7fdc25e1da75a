"""Loading a file into a backbone, if all of it fits."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmengine.logging import print_log
from torch import Tensor

from .fitting import Fit, check_dense, converted, explain, fit_backbone, part_of, variant
from .reading import CheckpointError, examples, find_weights, holders, read_checkpoint

if TYPE_CHECKING:
    from vitbackbones.backbones.base import Backbone


def _select(state: dict[str, Tensor], prefix: str, source: str) -> dict[str, Tensor]:
    """The tensors whose names start with ``prefix``, without it."""
    chosen = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if not chosen:
        tops = dict.fromkeys(key.partition('.')[0] for key in state)
        raise CheckpointError(f'{source} holds nothing under {prefix!r}, only {examples(tops)}')
    return chosen


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What was loaded; ``str()`` is its line in the log.

    Attributes:
        source: path or URL.
        description: what the file was recognised as.
        loaded: names in the network that were set.
        total: tensors that the network has and the file should hold.
        dropped: names in the file that were not used, and what they belong to.
        initialised: names in the network that keep their initial values.
        adapted: names in the network whose tensors were changed to fit, and how.
        choice: which of several state dicts in the file was taken.
    """

    source: str
    description: str
    loaded: tuple[str, ...]
    total: int
    dropped: Mapping[str, str]
    initialised: tuple[str, ...]
    adapted: Mapping[str, str]
    choice: str

    def __str__(self) -> str:
        parts = [f'loaded {len(self.loaded)}/{self.total} tensors ({self.description})']
        for what, names in (
            ('dropped', self.dropped),
            ('initialised', {name: part_of(name) for name in self.initialised}),
            ('adapted', self.adapted),
        ):
            if names:
                labels = ', '.join(dict.fromkeys(names.values()))
                parts.append(f'{what} {len(names)} ({labels})')
        return '; '.join([*parts, *filter(None, [self.choice]), f'from {self.source}'])


def load_pretrained(
    backbone: Backbone,
    source: str | os.PathLike[str],
    *,
    weights: str = 'auto',
    prefix: str | None = None,
    sha256: str | None = None,
    allow_pickle: bool = False,
    map_location: Any = 'cpu',
) -> LoadReport:
    """Load a published file, or one of ours, into ``backbone`` and log what was done.

    The file may be the classifier or the dense backbone of the network's authors, timm's, a
    detector or segmentor that contains the backbone, or a state dict of the backbone itself.

    Args:
        prefix: where the backbone is in the file; ``'backbone'`` is found without it. What is
            under a prefix was trained with the backbone, so nothing may be missing there.
        weights: trained or averaged weights, see :func:`find_weights`.
        source, sha256, allow_pickle, map_location: see :func:`read_checkpoint`.

    Raises:
        CheckpointError: the file cannot be read, or it is not of this network; no weight was
            changed then.
    """
    source = os.fspath(source)
    content = read_checkpoint(
        source, sha256=sha256, allow_pickle=allow_pickle, map_location=map_location
    )
    state, holder = find_weights(content, weights, source=source)
    outside = []
    if prefix is None and any(key.startswith('backbone.') for key in state):
        prefix = 'backbone'
    if prefix:
        prefix = prefix.removesuffix('.') + '.'
        outside = [key for key in state if not key.startswith(prefix)]
        state = _select(state, prefix, source)
    check_dense(state, source)
    complete = bool(prefix)  # what contains the backbone was trained with all of it
    fit = fit_backbone(backbone, state, complete)
    if fit.problems:
        raise CheckpointError(f'{source} {explain(backbone, state, fit, complete)}')
    backbone.load_state_dict(converted(fit.tensors, backbone, source), strict=False)

    report = LoadReport(
        source=source,
        description=_describe(backbone, fit, in_detector=prefix == 'backbone.'),
        loaded=tuple(fit.tensors),
        total=len(backbone.state_dict()) - len(fit.initialised),
        dropped=fit.dropped | {key: key.partition('.')[0] for key in outside},
        initialised=tuple(fit.initialised),
        adapted=fit.adapted,
        choice=choice_of(content, holder),
    )
    print_log(str(report), logger='current')
    if backbone.weights_licence:
        _say_licence(backbone.family, backbone.weights_licence)
    return report


def choice_of(content: Mapping[str, Any], holder: str) -> str:
    """Which of the state dicts in a file was taken, if there are several."""
    unused = ', '.join(repr(key) for key in holders(content) if key != holder)
    return f'took {holder!r}, not {unused}' if unused else ''


def _describe(backbone: Backbone, fit: Fit, in_detector: bool) -> str:
    what = f'{fit.dialect} {backbone.family} {variant(backbone)}'.strip()
    if in_detector:
        return f'{what} in a detector or segmentor'
    # Where a classifier lacks nothing, only the head that was dropped betrays it.
    headed = any(key.partition('.')[0].endswith('head') for key in fit.dropped)
    return f'{what} {"classifier" if fit.initialised or headed else "backbone"}'


@functools.cache
def _say_licence(family: str, licence: str) -> None:
    """Once per process."""
    print_log(f'the published weights of {family} are licensed {licence}', logger='current')
