"""Files of a whole detector or segmentor: its backbone, neck and heads.

The backbone's part goes through the same tables as a file of its own, whoever trained the model.
Everything outside it has the names of mmdet and mmseg, which for the necks and heads that our
networks were published with are the same in MMDetection 2 and 3 and in MMSegmentation 0 and 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from .errors import CheckpointError
from .matching import Target, explain, match_backbone, rename
from .names import CheckpointNames
from .reading import find_weights, preview
from .report import LoadReport, choice_of
from .tensors import check_dense


def translate(
    model: nn.Module, backbones: Mapping[str, Target], content: Mapping[str, Any], source: str
) -> tuple[dict[str, Tensor], LoadReport]:
    """All that a file holds, what has another name in ``model`` under that.

    Args:
        backbones: the networks in the model that have a variant, by their names in it.

    Raises:
        CheckpointError: a backbone is not there completely.
    """
    state, holder = find_weights(content, source=source)
    check_dense(state, source)
    tensors, found = dict(state), []
    dropped: dict[str, str] = {}
    adapted: dict[str, str] = {}
    for name, part in model.named_modules():
        names = getattr(part, 'checkpoint_names', None)
        if not isinstance(names, CheckpointNames):
            continue
        prefix = f'{name}.'
        inside = {key: tensors.pop(key) for key in state if key.startswith(prefix)}
        inside = {key.removeprefix(prefix): value for key, value in inside.items()}
        if name not in backbones:  # a neck
            inside, *_ = rename(inside, names.official)
        elif not inside:
            raise CheckpointError(
                f'{source} holds nothing under {prefix!r}, only {preview(state)}; weights of a '
                f'backbone alone are for model.{name}.init_cfg'
            )
        else:
            target = backbones[name]
            match = match_backbone(target, inside, complete=True)
            if match.problems:
                reason = explain(target, inside, match, complete=True)
                raise CheckpointError(
                    f'{source} does not fit the model of the config: its {name} {reason}'
                )
            inside = match.tensors
            found.append(f'{match.dialect} {target}'.strip())
            dropped |= {prefix + key: what for key, what in match.dropped.items()}
            adapted |= {prefix + key: what for key, what in match.adapted.items()}
        tensors |= {prefix + key: value for key, value in inside.items()}
    report = LoadReport(
        source=source,
        description=' with '.join([type(model).__name__, *found]),
        loaded=tuple(tensors),
        total=len(tensors),
        dropped=dropped,
        initialised=(),
        adapted=adapted,
        choice=choice_of(content, holder),
    )
    return tensors, report


def require_exact_match(model: nn.Module, content: Mapping[str, Any], source: str) -> None:
    """mmengine resumes with whatever happens to match; here everything has to, under its own name.

    Raises:
        CheckpointError: tensors are missing in the checkpoint, differ in shape or are too many.
    """
    require_same_tensors(find_weights(content, source=source)[0], unwrapped(model), source)


def _differences(
    state: Mapping[str, Tensor], model: nn.Module
) -> tuple[list[str], dict[str, str], list[str]]:
    """What ``state`` lacks, what has another shape in it (and which), and what it has too much."""
    own = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    # Batch counters, the only integers, were not saved by old versions of torch.
    missing = [k for k, value in own.items() if value.is_floating_point() and k not in state]
    shape_mismatch = {
        name: f'{tuple(state[name].shape)} for {tuple(value.shape)}'
        for name, value in own.items()
        if name in state and state[name].shape != value.shape
    }
    return missing, shape_mismatch, [name for name in state if name not in own]


def require_same_tensors(state: Mapping[str, Tensor], model: nn.Module, source: str) -> None:
    """CheckpointError unless ``state`` holds the tensors of ``model``, all and no others."""
    missing, shape_mismatch, unexpected = _differences(state, model)
    if missing or shape_mismatch or unexpected:
        shapes = [f'{name} {shapes}' for name, shapes in shape_mismatch.items()]
        raise CheckpointError(
            f'{source} does not fit the model of the config{_hint(state, model)}: '
            f'{len(missing)} tensors missing, {len(shapes)} of another shape, '
            f'{len(unexpected)} too many '
            f'({", ".join([*shapes[:3], *missing[:3], *unexpected[:3]])}); use the config it was '
            'trained with'
        )


def _hint(state: Mapping[str, Tensor], model: nn.Module) -> str:
    """What else the file is, if it is a classifier around a backbone, and ``model`` is none."""
    parts, own = ({name.partition('.')[0] for name in each} for each in (state, model.state_dict()))
    if parts != {'backbone', 'head'} or own <= parts:
        return ''
    return (
        ', for it is a classifier, which a detector or segmentor starts from (--cfg-options '
        'model.backbone.init_cfg.checkpoint=FILE)'
    )


def unwrapped(model: nn.Module) -> nn.Module:
    """The model in the wrapper of distributed training."""
    return getattr(model, 'module', model)
