"""What of a file goes into which tensor of a classifier, or why it does not fit."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from vitbackbones.checkpoint.errors import CheckpointError
from vitbackbones.checkpoint.matching import (
    StateDictMatch,
    Target,
    differences,
    explain,
    match_backbone,
)
from vitbackbones.checkpoint.names import CheckpointNames, KeyTable
from vitbackbones.checkpoint.report import Reading
from vitbackbones.targets import as_target

from .network import Classifier

#: Where the network is in a classifier.
INSIDE = 'backbone.'


def match_classifier(classifier: Classifier, state: dict[str, Tensor], source: str) -> Reading:
    """How ``state`` goes into ``classifier``.

    All tensors have to be there; only the last layers, if the file is for another number of
    classes, keep their initial values.

    Raises:
        CheckpointError: it does not fit, or there is no classifier in it.
    """
    target = _as_target(classifier)
    match = match_backbone(target, state, complete=True)
    rows = [f'{name}.{kind}' for name in classifier.last_layers() for kind in ('weight', 'bias')]
    note = ''
    if classes := _other_classes(match, target, rows):
        note = f'{classifier.num_classes} classes instead of {classes}'
        match = dataclasses.replace(
            match,
            initialised=rows,
            tensors={k: v for k, v in match.tensors.items() if k not in rows},
            shape_mismatch={k: v for k, v in match.shape_mismatch.items() if k not in rows},
        )
    if match.problems:
        raise CheckpointError(f'{source} {_why(classifier, target, state, match)}')
    return Reading(target, match, f'{match.dialect} {target} classifier'.strip(), note=note)


def _other_classes(match: StateDictMatch, target: Target, rows: list[str]) -> int | None:
    """The number of classes in a file, if all that it changes is the number of ``rows``."""
    if not {*rows} <= match.shape_mismatch.keys():
        return None
    given = [match.tensors[name] for name in rows]
    for name, value in zip(rows, given, strict=True):
        own = target.tensors[name]
        if value.ndim != own.ndim or value.shape[1:] != own.shape[1:]:
            return None
    numbers = {len(value) for value in given}
    return numbers.pop() if len(numbers) == 1 else None


def _as_target(classifier: Classifier) -> Target:
    inner = as_target(classifier.backbone)
    names = inner.names

    def under(table: KeyTable) -> KeyTable:
        """``table`` for the classifier: what it drops is of no classifier, or is needed."""
        renamed = tuple((old, INSIDE + new) for old, new in table if new is not None)
        return *classifier.published.names, *renamed, ('', INSIDE)

    def adapt(state: dict[str, Tensor]) -> dict[str, Tensor]:
        inside = {k.removeprefix(INSIDE): v for k, v in state.items() if k.startswith(INSIDE)}
        adapted = {INSIDE + k: v for k, v in inner.adapt(inside).items()}
        return {**{k: v for k, v in state.items() if not k.startswith(INSIDE)}, **adapted}

    return dataclasses.replace(
        inner,
        names=CheckpointNames(
            official=under(names.official),
            timm=under(names.timm) if names.timm else (),
            stem=tuple(INSIDE + name for name in names.stem),
        ),
        tensors=classifier.state_dict(),
        adapt=adapt,
        larger=tuple,
        in_classifiers=tuple,
        others=tuple,
    )


def _why(
    classifier: Classifier, target: Target, state: dict[str, Tensor], match: StateDictMatch
) -> str:
    """What does not fit: the network, the head, or that there is none."""
    inside = {k.removeprefix(INSIDE): v for k, v in state.items() if k.startswith(INSIDE)} or state
    network = as_target(classifier.backbone)
    found = match_backbone(network, inside, complete=False)
    second = classifier.published.second
    if not any(name.partition('.')[0] in ('head', second) for name in state):
        if not found.problems:
            return (
                f'holds no classifier, but a network that {target} is built on: to fine-tune from '
                'it, build the classifier without it, then load_pretrained(classifier.backbone, '
                'FILE); no weight was changed'
            )
        with torch.device('meta'):
            dense = as_target(classifier.dense(dataclasses.asdict(classifier.backbone.arch)))
        if not match_backbone(dense, inside, complete=False).problems:
            return (
                f'holds no classifier, but the dense network of {target}, another one: a '
                'classifier starts from a classifier or from random weights; no weight was changed'
            )
    if found.problems:
        return explain(network, inside, found, complete=False)
    odd = [*match.unexpected, *match.missing]
    if (
        odd
        and not match.shape_mismatch
        and all(classifier.published.has_second([name]) for name in odd)
    ):
        has = bool(match.unexpected)
        return (
            f'has {"a" if has else "no"} second head, and the classifier of {target} has '
            f'{"none" if has else "one"}: set model.head.distillation={has} in a config, or '
            f'{second}={has} where it is built; no weight was changed'
        )
    lines = [f'does not fit the classifier of {target}; no weight was changed.']
    return '\n'.join([*lines, *differences(match)])
