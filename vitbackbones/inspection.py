"""What a weight file is, and which of our networks it would load into, without loading it."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .backbones.base import Backbone
from .checkpoint import CheckpointError, LoadReport, find_weights, read_checkpoint, trained_classes
from .checkpoint.matching import StateDictMatch, match_backbone, rename
from .checkpoint.reading import preview
from .checkpoint.report import choice_of, describe
from .checkpoint.tensors import check_dense
from .classifiers import build_classifier
from .classifiers.matching import match_classifier
from .metafiles import Weights, weights_of
from .pretrained import list_backbones
from .published import published_source
from .targets import as_target
from .tasks import Task, task_of_parts

KINDS = {
    Task.DETECTION: 'detector',
    Task.SEGMENTATION: 'segmentor',
    Task.CLASSIFICATION: 'classifier',
}
TRIED = 3  # variants that a file is held against

#: Whose names the tensors have, in words.
DIALECTS = {'': 'our', 'official': "the authors'", 'timm': "timm's"}


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A network of ours that a file would load into.

    Attributes:
        name: as :func:`~vitbackbones.create` takes it.
        options: what it has to be built with besides.
        backbone: the network itself, without memory for its weights.
        match: how the file goes together with it.
        report: what loading would log.
        classifier: whether the published classifier of that name takes all of the file, too.
    """

    name: str
    options: Mapping[str, Any]
    backbone: Backbone
    match: StateDictMatch
    report: LoadReport
    classifier: bool = False


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What a file is.

    Attributes:
        source: what was looked at.
        kind: 'classifier', 'dense backbone', 'detector', 'segmentor' or 'model' of another kind.
        fit: the network of ours that is in it, None if there is none.
        tensors: how many its state dict has.
        names: some of theirs.
        classes: their names, where the file says them.
        num_classes: how many, where names or the shape of a head say it.
        holder: the key that loading takes its state dict from, '' where there is none.
        averaged: whether that is an average over training; None where the file does not say.
        others: further state dicts in it, by their keys, and whether they are averages.
        trained: how long it was trained, in words.
        listed: the row of the model zoo that this file is, if it is one.
    """

    source: str
    kind: str
    fit: Fit | None
    tensors: int
    names: str
    classes: tuple[str, ...] | None
    num_classes: int | None
    holder: str
    averaged: bool | None
    others: Mapping[str, bool]
    trained: str
    listed: Weights | None


def inspect(source: str | os.PathLike[str], *, allow_pickle: bool = False) -> Inspection:
    """Look at a weight file. Nothing in it is run, and no weight is loaded into a network.

    Args:
        source: what :func:`~vitbackbones.load_pretrained` takes, or the name of a variant, for its
            published weights.
        allow_pickle: as in :func:`~vitbackbones.checkpoint.read_checkpoint`.

    Raises:
        CheckpointError: it cannot be read, or holds no weights.
    """
    source, sha256 = os.fspath(source), None
    if source in list_backbones() and not os.path.exists(source):
        source, sha256 = published_source(source)
    content = read_checkpoint(source, sha256=sha256, allow_pickle=allow_pickle, mmap=True)
    state, holder = find_weights(content, source=source)
    check_dense(state, source)
    prefix = _prefix(state)
    inside = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    outside = {key: key.partition('.')[0] for key in state if not key.startswith(prefix)}
    fit = None
    is_classifier = _is_classifier(inside, state, source)
    found = _found(inside, complete=bool(prefix) and not is_classifier)
    if found is not None:
        name, options, backbone, match = found
        report = LoadReport(
            source=source,
            description=describe(
                as_target(backbone),
                match,
                in_detector=bool(prefix) and not is_classifier and {*outside.values()} != {'head'},
                headed={*outside.values()} == {'head'},
            ),
            loaded=tuple(match.tensors),
            total=len(backbone.state_dict()) - len(match.initialised),
            dropped=match.dropped | outside,
            initialised=tuple(match.initialised),
            adapted=match.adapted,
            choice=choice_of(content, holder),
        )
        fit = Fit(
            name=name,
            options=options,
            backbone=backbone,
            match=match,
            report=report,
            classifier=is_classifier,
        )
    averages = _averages(content, source)
    classes = trained_classes(content)
    rows = (weights for name in list_backbones() for weights in weights_of(name))
    kind, count = _kind(set(outside.values()), fit, _rows(state)), _rows(state)
    if is_classifier:
        kind = KINDS[Task.CLASSIFICATION]
    if classes is not None or kind == 'dense backbone':
        count = None if classes is None else len(classes)
    return Inspection(
        source=source,
        kind=kind,
        fit=fit,
        tensors=len(state),
        names=preview(state),
        classes=None if classes is None else tuple(map(str, classes)),
        num_classes=count,
        holder=holder,
        averaged=averages.pop(holder, None),
        others=averages,
        trained=_trained(content),
        listed=next((each for each in rows if each.address == source), None),
    )


def _is_classifier(inside: dict[str, Tensor], state: dict[str, Tensor], source: str) -> bool:
    """Whether the published classifier of a network of ours takes all of a state dict.

    Args:
        inside: what of ``state`` is in a network, by its names there.
    """
    classes = _rows(state)
    if classes is None:
        return False
    options: dict[str, Any] = {}
    if any(name.rpartition('dist_head.')[1] for name in state):
        options['dist_head'] = True
    for cls, arch in _nearest(inside):
        stem = as_target(_built(cls, arch)).names.stem
        channels = {inside[name].shape[1] for name in stem if name in inside}
        for in_channels in (3, *channels - {3}):
            options['in_channels'] = in_channels
            try:
                with torch.device('meta'):
                    net = build_classifier(cls, arch, num_classes=classes, **options)
                if not match_classifier(net, state, source).match.initialised:
                    return True
            except (ValueError, CheckpointError):  # a network of somebody else's, or another one
                continue
    return False


def _prefix(state: Mapping[str, Tensor]) -> str:
    """Where the backbone of a larger model is, '' in a file of a network alone."""
    found = {each[0] for each in map(re.compile(r'(.*?\.)?backbone\.').match, state) if each}
    return 'backbone.' if 'backbone.' in found else min(found, default='')


def _found(
    state: dict[str, Tensor], *, complete: bool
) -> tuple[str, dict[str, Any], Backbone, StateDictMatch] | None:
    """The variant that ``state`` fits, the options that it needs, and how it fits."""
    for cls, arch in _nearest(state):
        found = _fit(cls, arch, state, complete=complete)
        if found is not None:
            return f'{cls.__name__.lower()}_{arch}', *found
    return None


def _nearest(state: dict[str, Tensor]) -> list[tuple[type[Backbone], str]]:
    """The variants with most tensors of the same name and shape: to try all would take seconds."""
    scores: dict[tuple[type[Backbone], str], float] = {}
    for cls in Backbone.registered().values():
        names = cls.checkpoint_names
        readings = [rename(state, table)[0] for table in ((), names.official, names.timm)]
        for arch in cls.archs:
            own = _built(cls, arch).state_dict()
            alike = [
                sum(name in own and own[name].shape == value.shape for name, value in each.items())
                for each in readings
            ]
            if not any(name in own for each in readings for name in each):
                break  # another family
            scores[cls, arch] = max(alike) / len(own)
    return sorted(scores, key=lambda each: -scores[each])[:TRIED]


def _built(cls: type[Backbone], arch: str, **options: Any) -> Backbone:
    with torch.device('meta'):
        return cls(arch, **options)


def _fit(
    cls: type[Backbone], arch: str, state: dict[str, Tensor], *, complete: bool
) -> tuple[dict[str, Any], Backbone, StateDictMatch] | None:
    options: dict[str, Any] = {}

    def tried(**further: Any) -> tuple[Backbone, StateDictMatch]:
        network = _built(cls, arch, **options, **further)
        return network, match_backbone(as_target(network), state, complete)

    network, match = tried()
    stem = as_target(network).stem_weight
    if stem in match.shape_mismatch and match.tensors[stem].ndim == 4:
        options['in_channels'] = match.tensors[stem].shape[1]
        network, match = tried()
    if match.problems == 0:
        return options, network, match
    if match.unexpected or match.shape_mismatch:
        return None
    stages = range(len(cls.strides))  # of a network with fewer outputs, some are missing
    for count in range(len(stages) - 1, 0, -1):
        for chosen in itertools.combinations(stages, count):
            network, match = tried(out_indices=chosen)
            if match.problems == 0:
                return {**options, 'out_indices': chosen}, network, match
    return None


def _kind(beside: set[str], fit: Fit | None, rows: int | None) -> str:
    """What kind of model has parts of these names beside its backbone."""
    task = task_of_parts(beside)
    if task is not None:
        return KINDS[task]
    if not beside and fit is not None and _is_dense(fit):
        return 'dense backbone'
    if not beside and rows is not None:
        return 'classifier'
    if beside or fit is None:
        return 'model'
    return 'classifier' if fit.match.initialised else 'dense backbone'


def _is_dense(fit: Fit) -> bool:
    """Whether a file has all that classifiers lack; the authors' may have a head left over."""
    patterns = fit.backbone.checkpoint_names.absent_from_classifier
    has_some = any(re.match(each, name) for each in patterns for name in fit.match.tensors)
    return has_some and not fit.match.initialised


def _rows(state: Mapping[str, Tensor]) -> int | None:
    """How many classes the last layer of a head has, where there is one row for each."""
    for pattern, background in (
        (r'(.*\.)?decode_head\.conv_seg\.weight', 0),
        (r'(.*\.)?roi_head\.bbox_head\.(\d+\.)?fc_cls\.weight', 1),
        (r'(backbone\.)?head\.(.*\.)?weight', 0),
    ):
        found = [value for key, value in state.items() if re.fullmatch(pattern, key)]
        rows = [len(value) - background for value in found if value.ndim in (2, 4)]
        if rows:
            return rows[-1]
    return None


def _averages(content: Mapping[str, Any], source: str) -> dict[str, bool]:
    """The keys of plain and averaged weights, where a file has both kinds or says which it has."""
    found = {}
    for kind in ('plain', 'ema'):
        try:
            holder = find_weights(content, kind, source=source)[1]
        except CheckpointError:  # none of the kind
            continue
        found[holder] = kind == 'ema'
    return found if any(found.values()) else {}


def _trained(content: Mapping[str, Any]) -> str:
    """How long, as a training of mmengine, mmcv or timm notes it."""
    meta = content.get('meta')
    notes = meta if isinstance(meta, Mapping) else content
    numbers = {key: notes.get(key) for key in ('epoch', 'iter')}
    return ', '.join(f'{k} {v}' for k, v in numbers.items() if isinstance(v, int))
