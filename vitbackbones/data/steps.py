"""Steps of pipelines: which may make something else of a label map than what is in its file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.registry import TRANSFORMS

from .nodes import type_name

# Theirs move labels and cut them, and ours leave them alone.
_KNOWN = {'mmcv', 'mmdet', 'mmengine', 'mmseg', 'vitbackbones'}


def is_foreign(cls: type) -> bool:
    """Whether somebody else has written a transform, who knows what it does with labels."""
    return cls.__module__.partition('.')[0] not in _KNOWN


def converts_labels(pipeline: Sequence[Mapping[str, Any]], scope: str | None) -> bool:
    """Whether a step from LoadAnnotations on, or any where there is none, is somebody else's.

    Args:
        pipeline: configs of the steps.
        scope: of the registry that knows them.
    """
    names = [type_name(step) for step in pipeline]
    start = names.index('LoadAnnotations') if 'LoadAnnotations' in names else 0
    with TRANSFORMS.switch_scope_and_registry(scope) as registry:
        for step in _all(pipeline[start:]):
            cls = step.get('type')
            cls = registry.get(cls) if isinstance(cls, str) else cls
            if isinstance(cls, type) and is_foreign(cls):
                return True
    return False


def last_foreign(steps: Sequence[Any]) -> int:
    """The place of the last step, or one that holds it, that is somebody else's; -1 for none."""
    places = [i for i, step in enumerate(steps) if any(map(is_foreign, _classes(step)))]
    return max(places, default=-1)


def _classes(step: Any) -> Iterator[type]:
    yield type(step)
    inner = getattr(step, 'transforms', None)
    for part in inner if isinstance(inner, (list, tuple)) else ():
        yield from _classes(part)


def _all(steps: Any) -> Iterator[Mapping[str, Any]]:
    """Steps, and those inside of steps such as RandomChoice."""
    for step in steps if isinstance(steps, (list, tuple)) else ():
        if isinstance(step, Mapping):
            yield step
            yield from _all(step.get('transforms'))
        else:
            yield from _all(step)
