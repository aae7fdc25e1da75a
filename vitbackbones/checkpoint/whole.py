"""Loading a file into a whole detector or segmentor: its backbone, neck and heads.

The backbone's part goes through the same tables as a file of its own, whoever trained the model.
Everything outside it has the names of mmdet and mmseg, which for the necks and heads that our
networks were published with are the same in MMDetection 2 and 3 and in MMSegmentation 0 and 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.logging import print_log
from torch import Tensor, nn

from .fitting import check_dense, converted, explain, fit_backbone, rename, variant
from .loading import LoadReport, choice_of
from .reading import CheckpointError, examples, find_weights


def load_whole(model: nn.Module, content: Mapping[str, Any], source: str) -> LoadReport:
    """Load all of a detector or segmentor into ``model``, and log what was done.

    Args:
        content: of a file that mmengine, or mmcv before it, saved for such a model.
        source: name of the file for messages.

    Raises:
        CheckpointError: a tensor is missing, differs in shape or belongs to nothing in the model;
            none was changed then.
    """
    model = _unwrapped(model)
    tensors, report = _translate(model, content, source)
    _check(tensors, model, source)
    model.load_state_dict(converted(tensors, model, source), strict=False)
    print_log(str(report), logger='current')
    return report


def starting_weights(
    model: nn.Module, content: Mapping[str, Any], source: str
) -> dict[str, Tensor]:
    """The tensors of a detector or segmentor under the names of ``model``, to start training from.

    A backbone of ours has to be there completely. Necks and heads may differ: other classes have
    other heads. mmengine reports what it then leaves out.

    Raises:
        CheckpointError: the file holds no backbone that fits, or nothing of the model.
    """
    model = _unwrapped(model)
    tensors, report = _translate(model, content, source)
    if tensors.keys().isdisjoint(model.state_dict()):
        raise CheckpointError(f'{source} holds nothing of the model, only {examples(tensors)}')
    print_log(f'starting from {report.description} of {source}', logger='current')
    return tensors


def check_fits(model: nn.Module, content: Mapping[str, Any], source: str) -> None:
    """mmengine resumes with whatever happens to match; here everything has to, under its own name.

    Raises:
        CheckpointError: tensors are missing in the checkpoint, differ in shape or are too many.
    """
    _check(find_weights(content, source=source)[0], _unwrapped(model), source)


def _translate(
    model: nn.Module, content: Mapping[str, Any], source: str
) -> tuple[dict[str, Tensor], LoadReport]:
    """All that the file holds, what has another name in ``model`` under that."""
    state, holder = find_weights(content, source=source)
    check_dense(state, source)
    tensors, backbones = dict(state), []
    dropped: dict[str, str] = {}
    adapted: dict[str, str] = {}
    for name, part in model.named_modules():
        if not hasattr(part, 'official_keys'):
            continue
        prefix = f'{name}.'
        inside = {key: tensors.pop(key) for key in state if key.startswith(prefix)}
        inside = {key.removeprefix(prefix): value for key, value in inside.items()}
        if not hasattr(part, 'archs'):  # a neck
            inside, *_ = rename(inside, part.official_keys)
        elif not inside:
            raise CheckpointError(
                f'{source} holds nothing under {prefix!r}, only {examples(state)}; weights of a '
                f'backbone alone are for model.{name}.init_cfg'
            )
        else:
            fit = fit_backbone(part, inside, complete=True)
            if fit.problems:
                reason = explain(part, inside, fit, complete=True)
                raise CheckpointError(
                    f'{source} does not fit the model of the config: its {name} {reason}'
                )
            inside = fit.tensors
            backbones.append(f'{fit.dialect} {part.family} {variant(part)}'.strip())
            dropped |= {prefix + key: what for key, what in fit.dropped.items()}
            adapted |= {prefix + key: what for key, what in fit.adapted.items()}
        tensors |= {prefix + key: value for key, value in inside.items()}
    report = LoadReport(
        source=source,
        description=' with '.join([type(model).__name__, *backbones]),
        loaded=tuple(tensors),
        total=len(tensors),
        dropped=dropped,
        initialised=(),
        adapted=adapted,
        choice=choice_of(content, holder),
    )
    return tensors, report


def _differences(
    state: Mapping[str, Tensor], model: nn.Module
) -> tuple[list[str], dict[str, str], list[str]]:
    """What ``state`` lacks, what has another shape in it (and which), and what it has too much."""
    own = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    # Batch counters, the only integers, were not saved by old versions of torch.
    missing = [k for k, value in own.items() if value.is_floating_point() and k not in state]
    misshapen = {
        name: f'{tuple(state[name].shape)} for {tuple(value.shape)}'
        for name, value in own.items()
        if name in state and state[name].shape != value.shape
    }
    return missing, misshapen, [name for name in state if name not in own]


def _check(state: Mapping[str, Tensor], model: nn.Module, source: str) -> None:
    missing, misshapen, unexpected = _differences(state, model)
    if missing or misshapen or unexpected:
        shapes = [f'{name} {shapes}' for name, shapes in misshapen.items()]
        raise CheckpointError(
            f'{source} does not fit the model of the config: {len(missing)} tensors missing, '
            f'{len(shapes)} of another shape, {len(unexpected)} too many '
            f'({", ".join([*shapes[:3], *missing[:3], *unexpected[:3]])}); use the config it was '
            'trained with'
        )


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model in the wrapper of distributed training."""
    return getattr(model, 'module', model)
