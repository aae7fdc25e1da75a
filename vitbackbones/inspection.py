"""What a weight file is, and which of our networks it would load into, without loading it."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
from collections.abc import Iterable, Mapping
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
from .classifiers.heads import CLASSIFIERS
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
ALIKE = 0.9  # of the names in a file that are a family's, to be of it

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
        dialect: whose names the tensors have, a key of ``DIALECTS``; a classifier's if it is one.
    """

    name: str
    options: Mapping[str, Any]
    backbone: Backbone
    match: StateDictMatch
    report: LoadReport
    classifier: bool
    dialect: str


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What a file is.

    Attributes:
        source: what was looked at.
        kind: 'classifier', 'dense backbone', 'detector', 'segmentor' or 'model' of another kind.
        fit: the network of ours that is in it, None if there is none.
        family: of that network, or the one whose tensors it has in numbers of no variant; None if
            it is none of ours.
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
    family: str | None
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
    beside = set(outside.values())
    fit = None
    found = _found(inside, complete=bool(prefix), of_classifier=bool(prefix) and beside <= {'head'})
    if found is not None:
        name, options, backbone, match = found
        report = LoadReport(
            source=source,
            description=describe(
                as_target(backbone),
                match,
                in_detector=not beside <= {'head'},
                headed=beside == {'head'},
            ),
            loaded=tuple(match.tensors),
            total=len(backbone.state_dict()) - len(match.initialised),
            dropped=match.dropped | outside,
            initialised=tuple(match.initialised),
            adapted=match.adapted,
            choice=choice_of(content, holder),
        )
        classifier = _as_classifier(backbone, state, source)
        fit = Fit(
            name=name,
            options=options,
            backbone=backbone,
            match=match,
            report=report,
            classifier=classifier is not None,
            dialect=(classifier or match).dialect,
        )
    averages = _averages(content, source)
    classes = trained_classes(content)
    rows = (weights for name in list_backbones() for weights in weights_of(name))
    kind, count = _kind(beside, fit, _rows(state)), _rows(state)
    if classes is not None or kind == 'dense backbone':
        count = None if classes is None else len(classes)
    return Inspection(
        source=source,
        kind=kind,
        fit=fit,
        family=_family_of(inside) if fit is None else fit.backbone.family,
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


def _as_classifier(
    backbone: Backbone, state: dict[str, Tensor], source: str
) -> StateDictMatch | None:
    """How the published classifier of a network takes a state dict, None if it does not."""
    classes, kind = _rows(state), type(backbone)
    published = CLASSIFIERS.get(kind.__name__)
    if classes is None or published is None:
        return None
    options: dict[str, Any] = dict(in_channels=backbone.in_channels)
    if published.has_second(state):
        options[published.second] = True
    with torch.device('meta'):
        arch = dataclasses.asdict(backbone.arch)
        net = build_classifier(kind, arch, num_classes=classes, **options)
    try:
        match = match_classifier(net, state, source).match
    except CheckpointError:
        return None
    return None if match.initialised else match


def _prefix(state: Mapping[str, Tensor]) -> str:
    """Where the backbone of a larger model is, '' in a file of a network alone."""
    found = {each[0] for each in map(re.compile(r'(.*?\.)?backbone\.').match, state) if each}
    return 'backbone.' if 'backbone.' in found else min(found, default='')


def _found(
    state: dict[str, Tensor], *, complete: bool, of_classifier: bool
) -> tuple[str, dict[str, Any], Backbone, StateDictMatch] | None:
    """The variant that ``state`` fits, the options that it needs, and how it fits."""
    for cls, arch in _nearest(state):
        found = _fit(cls, arch, state, complete=complete, of_classifier=of_classifier)
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


def _family_of(state: dict[str, Tensor]) -> str | None:
    """The family that has tensors of these names but for the numbers in them, None if none has."""

    def kinds(names: Iterable[str]) -> set[str]:
        return {re.sub(r'\d+', '#', name) for name in names}

    for cls, arch in _nearest(state):
        options = cls.checkpoint_names.classifier_options
        own = kinds(_built(cls, arch).state_dict()) | kinds(
            _built(cls, arch, **options).state_dict()
        )
        names = cls.checkpoint_names
        for table in ((), names.official, names.timm):
            given = kinds(rename(state, table)[0])
            if given and len(given & own) >= ALIKE * len(given):
                return cls.family
    return None


def _built(cls: type[Backbone], arch: str, **options: Any) -> Backbone:
    with torch.device('meta'):
        return cls(arch, **options)


def _fit(
    cls: type[Backbone],
    arch: str,
    state: dict[str, Tensor],
    *,
    complete: bool,
    of_classifier: bool,
) -> tuple[dict[str, Any], Backbone, StateDictMatch] | None:
    options: dict[str, Any] = {}

    def tried(**further: Any) -> tuple[Backbone, StateDictMatch]:
        network = _built(cls, arch, **options, **further)
        return network, match_backbone(as_target(network), state, complete, of_classifier)

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
    if any(found.values()):
        return found
    # Training with an average would have saved both, beside what it goes on with.
    return {key: False for key in found if key == 'state_dict' and 'message_hub' in content}


def _trained(content: Mapping[str, Any]) -> str:
    """How long, as a training of mmengine, mmcv or timm notes it."""
    meta = content.get('meta')
    notes = meta if isinstance(meta, Mapping) else content
    numbers = {key: notes.get(key) for key in ('epoch', 'iter')}
    return ', '.join(f'{k} {v}' for k, v in numbers.items() if isinstance(v, int))
