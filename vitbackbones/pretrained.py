"""Backbones with weights: by name, from files of their own, and in detectors and segmentors."""

from __future__ import annotations

import difflib
import functools
import os
from collections.abc import Mapping
from typing import Any, overload

from mmengine.logging import print_log
from torch import Tensor, nn

from .backbones.base import Backbone
from .checkpoint.errors import CheckpointError
from .checkpoint.matching import Target, explain, match_backbone
from .checkpoint.model import require_same_tensors, translate, unwrapped
from .checkpoint.reading import find_weights, preview, read_checkpoint
from .checkpoint.report import LoadReport, Reading, choice_of, describe, log_licence
from .checkpoint.tensors import check_dense, converted
from .classifiers import Classifier, build_classifier
from .classifiers.matching import match_classifier
from .classifiers.whole import classifier_in
from .published import PUBLISHED, source_of
from .targets import as_target, variant_of, variants

# ----------------------------------------------------------------------------- backbones by name


def list_backbones() -> list[str]:
    """The names that :func:`create` knows: ``'gcvit_tiny'``, ``'sepvit_lite'``, ..."""
    return sorted(variants())


@overload
def create(
    name: str,
    pretrained: str | os.PathLike[str] | bool | None = None,
    *,
    num_classes: None = None,
    **options: Any,
) -> Backbone: ...
@overload
def create(
    name: str,
    pretrained: str | os.PathLike[str] | bool | None = None,
    *,
    num_classes: int,
    **options: Any,
) -> Classifier: ...
def create(
    name: str,
    pretrained: str | os.PathLike[str] | bool | None = None,
    *,
    num_classes: int | None = None,
    **options: Any,
) -> Backbone | Classifier:
    """Build a published variant: ``create('gcvit_tiny', out_indices=(1, 2, 3))``.

    Args:
        name: lower-case class name, underscore, name of the variant; see :func:`list_backbones`.
        pretrained: path, URL or name on the Hugging Face hub of weights to load, or True for the
            published ones of the variant.
        num_classes: None makes the dense backbone, a number the published classifier, which
            returns logits (B, num_classes). ``create('shvit_s4', num_classes=1000)``
        options: arguments of the class; of a classifier those of
            :func:`~vitbackbones.classifiers.build_classifier`.

    Raises:
        ValueError: unknown name, or an option outside its choices.
        CheckpointError: ``pretrained`` cannot be read or is not of this variant.
    """
    known = variants()
    if name not in known:
        close = difflib.get_close_matches(name.lower(), known, n=3)
        choices = ', '.join(close or known)
        raise ValueError(f'unknown backbone {name!r}, choose from {choices}')
    cls, arch = known[name]
    source = None if pretrained is False else PUBLISHED if pretrained is True else pretrained
    network: Backbone | Classifier
    if num_classes is None:
        network = cls(arch, **options)
    else:
        network = build_classifier(cls, arch, num_classes=num_classes, pretrained=source, **options)
    if source is not None:
        load_pretrained(network, source)
    return network


# --------------------------------------------------------------------------------------- loading


def load_pretrained(
    backbone: Backbone | Classifier,
    source: str | os.PathLike[str],
    *,
    weights: str = 'auto',
    prefix: str | None = None,
    sha256: str | None = None,
    allow_pickle: bool = False,
    map_location: Any = 'cpu',
) -> LoadReport:
    """Load a published file, or one of ours, into a network and log what was done.

    The file may be the classifier or the dense backbone of the network's authors, timm's, a
    classifier, detector or segmentor that contains the backbone, or a state dict of the backbone
    itself. What a classifier lacks, the norms of other outputs than the last, say, keeps its
    initial values and is named. For a classifier the file has to be of one; if it has another
    number of classes, the last layer keeps its initial values.

    Args:
        backbone: what to load into, a backbone or a classifier.
        prefix: where the backbone is in the file; ``'backbone'`` is found without it. What is
            under a prefix was trained with the backbone, so nothing may be missing there, unless
            the file is a classifier: nothing but a ``head`` stands beside the backbone.
        weights: trained or averaged weights, see :func:`~vitbackbones.checkpoint.find_weights`;
            what ``'auto'`` is to a backbone, ``'measured'`` is to a classifier.
        source: what :func:`~vitbackbones.checkpoint.read_checkpoint` reads, or ``'published'`` for
            the published weights of the backbone's variant.
        sha256, allow_pickle, map_location: see
            :func:`~vitbackbones.checkpoint.read_checkpoint`.

    Raises:
        CheckpointError: the file cannot be read, or it is not of this network; no weight was
            changed then.
    """
    network = backbone.backbone if isinstance(backbone, Classifier) else backbone
    source, known = source_of(
        os.fspath(source),
        functools.partial(variant_of, network),
        classifier=network is not backbone,
    )
    sha256 = sha256 or known
    content = read_checkpoint(
        source, sha256=sha256, allow_pickle=allow_pickle, map_location=map_location
    )
    if isinstance(backbone, Classifier) and weights == 'auto':
        weights = 'measured'
    state, holder = find_weights(content, weights, source=source)
    if isinstance(backbone, Classifier):
        if prefix:
            state = _under(prefix.removesuffix('.') + '.', state, source)
        check_dense(state, source)
        reading = match_classifier(backbone, state, source)
    else:
        reading = _match_backbone(backbone, state, source, prefix)
    target, match, *_ = reading
    backbone.load_state_dict(converted(match.tensors, target.tensors, source), strict=False)
    report = reading.report(source, choice_of(content, holder))
    report.log()
    if target.names.licence:
        log_licence(target.family, target.names.licence)
    return report


def _match_backbone(
    backbone: Backbone, state: dict[str, Tensor], source: str, prefix: str | None
) -> Reading:
    outside = []
    if prefix is None and any(key.startswith('backbone.') for key in state):
        prefix = 'backbone'
    if prefix:
        prefix = prefix.removesuffix('.') + '.'
        outside = [key for key in state if not key.startswith(prefix)]
        state = _under(prefix, state, source)
    check_dense(state, source)
    complete = bool(prefix)  # what contains the backbone was trained with all of it
    beside = {_sibling_of(prefix or '', key) for key in outside}
    of_classifier = beside <= {'head'}  # or with its last output alone
    target = as_target(backbone)
    match = match_backbone(target, state, complete, of_classifier)
    if match.problems:
        reason = explain(target, state, match, complete, of_classifier)
        raise CheckpointError(f'{source} {reason}')
    in_detector = prefix == 'backbone.' and not of_classifier
    description = describe(target, match, in_detector=in_detector, headed=beside == {'head'})
    return Reading(target, match, description, {k: k.partition('.')[0] for k in outside})


def _under(prefix: str, state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """The tensors whose names start with ``prefix``, without it."""
    chosen = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if not chosen:
        tops = dict.fromkeys(key.partition('.')[0] for key in state)
        raise CheckpointError(f'{source} holds nothing under {prefix!r}, only {preview(tops)}')
    return chosen


def _sibling_of(prefix: str, key: str) -> str:
    """The part beside the one under ``prefix`` that ``key`` is of: ``head``, ``neck``, ..."""
    parent = prefix.removesuffix('.').rpartition('.')[0]
    return (key.removeprefix(f'{parent}.') if parent else key).partition('.')[0]


def load_model(model: nn.Module, content: Mapping[str, Any], source: str) -> LoadReport:
    """Load all of a detector, segmentor or classifier into ``model``, and log what was done.

    Args:
        content: of a file that mmengine, or mmcv before it, saved for such a model; of a classifier
            also that of its authors or timm.
        source: name of the file for messages.

    Raises:
        CheckpointError: a tensor is missing, differs in shape or belongs to nothing in the model;
            none was changed then.
    """
    model = unwrapped(model)
    classifier = classifier_in(model)
    if classifier is not None:
        reading, choice = _read_classifier(classifier, content, source)
        if reading.match.initialised:
            raise CheckpointError(
                f'{source} is a classifier of other classes than the model of the config: '
                f'{reading.note}; set num_classes, or fine-tune from it with --cfg-options '
                f'load_from={source}'
            )
        report = reading.report(source, choice)
        tensors = reading.match.tensors
        model.load_state_dict(converted(tensors, model.state_dict(), source), strict=False)
        report.log()
        return report
    tensors, report = translate(model, _backbones_in(model), content, source)
    require_same_tensors(tensors, model, source)
    model.load_state_dict(converted(tensors, model.state_dict(), source), strict=False)
    report.log()
    return report


def translate_for_finetuning(
    model: nn.Module, content: Mapping[str, Any], source: str
) -> dict[str, Tensor]:
    """The tensors of a file under the names of ``model``, to start training from.

    A backbone of ours has to be there completely, of a classifier all but the layers with a row for
    each class. Necks and heads may differ: other classes have other heads. mmengine reports what it
    then leaves out.

    Raises:
        CheckpointError: the file holds no backbone that fits, or nothing of the model.
    """
    model = unwrapped(model)
    classifier = classifier_in(model)
    if classifier is not None:
        reading, choice = _read_classifier(classifier, content, source)
        reading.report(source, choice).log()
        return reading.match.tensors
    tensors, report = translate(model, _backbones_in(model), content, source)
    if tensors.keys().isdisjoint(model.state_dict()):
        raise CheckpointError(f'{source} holds nothing of the model, only {preview(tensors)}')
    print_log(f'starting from {report.description} of {source}', logger='current')
    return tensors


def _read_classifier(
    classifier: Classifier, content: Mapping[str, Any], source: str
) -> tuple[Reading, str]:
    """How a file goes into a classifier, and which of its state dicts was taken."""
    state, holder = find_weights(content, 'measured', source=source)
    check_dense(state, source)
    return match_classifier(classifier, state, source), choice_of(content, holder)


def _backbones_in(model: nn.Module) -> dict[str, Target]:
    return {
        name: as_target(part) for name, part in model.named_modules() if isinstance(part, Backbone)
    }
