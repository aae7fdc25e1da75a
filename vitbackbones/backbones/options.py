"""The options that all backbones share: what they mean, who shows them, their checks."""

from __future__ import annotations

import inspect
import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

from vitbackbones.checkpoint.names import LOADING_OPTIONS

from .arch import Arch, int_tuple, is_finite, is_whole


class Options(TypedDict, total=False):
    """What every backbone takes besides its ``arch`` and the options of its own.

    Args:
        in_channels: channels of the input image.
        out_indices: stages to output, 0-based and strictly increasing; None stands for all.
            Stages after the last of them are not built.
        frozen_stages: -1 freezes nothing, 0 the stem, i the stem and stages 1..i. Frozen parts
            need no gradient and stay in eval mode.
        norm_eval: keep every BatchNorm on its running statistics while training.
        with_cp: save memory by recomputing blocks in the backward pass (non-reentrant
            checkpointing; BatchNorm statistics are updated once, not twice).
        drop_path_rate: stochastic depth of the last block, rising linearly from 0;
            None takes the published dense value of ``arch``.
        init_cfg: ``dict(type='Pretrained', checkpoint=SOURCE)`` or None. The source is a path, a
            URL, a name on the Hugging Face hub or ``'published'``; options of
            :func:`~vitbackbones.load_pretrained` may be added.
    """

    in_channels: int
    out_indices: Sequence[int] | None
    frozen_stages: int
    norm_eval: bool
    with_cp: bool
    drop_path_rate: float | None
    init_cfg: Mapping[str, Any] | None


def full_signature(cls: type, parent: type, stages: int) -> inspect.Signature:
    """The signature of ``cls`` with the options of ``parent`` in place of ``**options``.

    Args:
        stages: how many ``out_indices`` of None stands for.
    """
    _, *own = inspect.signature(cls.__init__).parameters.values()  # type: ignore[misc]
    named = {p.name: p for p in own if p.kind is not p.VAR_KEYWORD}
    if len(named) < len(own):
        for p in inspect.signature(parent).parameters.values():
            if p.kind is p.KEYWORD_ONLY and p.name not in named:
                all_stages = p.name == 'out_indices' and p.default is None
                named[p.name] = p.replace(default=tuple(range(stages))) if all_stages else p
    return inspect.Signature([*named.values()])


def refuse_unknown(cls: type, unknown: Iterable[str]) -> None:
    """TypeError if there is an option that ``cls`` does not have."""
    for option in unknown:
        raise TypeError(
            f'{cls.__name__} has no option {option!r}, choose from '
            f'{", ".join(inspect.signature(cls).parameters)}'
        )


# Each of the following returns an option that it has checked. ``name`` is the class's, for the
# ValueError, ``stages`` how many stages it has.


def checked_out_indices(name: str, value: Sequence[int] | None, stages: int) -> tuple[int, ...]:
    indices = int_tuple(range(stages) if value is None else value)
    if not indices or any(i not in range(stages) for i in indices):
        raise ValueError(
            f'{name}: out_indices={value} must name stages out of {tuple(range(stages))}'
        )
    if any(a >= b for a, b in itertools.pairwise(indices)):
        raise ValueError(f'{name}: out_indices={value} must be strictly increasing')
    return indices


def checked_frozen_stages(name: str, value: int, stages: int) -> int:
    if not is_whole(value) or value not in range(-1, stages + 1):
        raise ValueError(
            f'{name}: frozen_stages={value!r} must be -1 (nothing), 0 (the stem) or a '
            f'number of stages up to {stages}'
        )
    return value


def checked_in_channels(name: str, value: int) -> int:
    if not is_whole(value) or value < 1:
        raise ValueError(f'{name}: in_channels={value!r} must be at least 1, and whole')
    return value


def checked_drop_path_rate(name: str, value: float | None, arch: Arch) -> float:
    value = arch.drop_path_rate if value is None else value
    if not (is_finite(value) and 0 <= value < 1):
        raise ValueError(f'{name}: drop_path_rate={value!r} must be in [0, 1)')
    return value


def checked_init_cfg(name: str, value: Any) -> dict[str, Any] | None:
    if value is None:
        return None
    source = value.get('checkpoint') if isinstance(value, Mapping) else None
    if (
        not isinstance(source, (str, os.PathLike))
        or not os.fspath(source)
        or value.get('type') != 'Pretrained'
        or set(value) - {'type', 'checkpoint', *LOADING_OPTIONS}
    ):
        raise ValueError(
            f"{name}: init_cfg must be None or dict(type='Pretrained', checkpoint=PATH_OR_URL), "
            f'with {", ".join(LOADING_OPTIONS)} if needed; got {value}'
        )
    return dict(value)
