"""The number of classes, wherever a model says it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vitbackbones.data.configs import class_names, datasets
from vitbackbones.errors import UserError

from .draft import Draft

#: Parts that predict the classes of a dataset; others, a region proposal's say, have their own.
HEADS = (
    'bbox_head',
    'mask_head',
    'mask_iou_head',
    'decode_head',
    'auxiliary_head',
    'query_head',
    'segm_head',
)


def set_classes(draft: Draft, number: int) -> None:
    """Let all heads predict ``number`` classes.

    Changed is what a head says, and what else is as many as the classes of the config's data.

    Raises:
        UserError: no head predicts any.
    """
    model, old = draft.config.model, _former(draft)
    why = f'{number} {"class" if number == 1 else "classes"} instead of {old or "others"}.'
    changed: list[str] = []
    for place, key, value in list(_numbers(model, 'model')):
        if key == 'num_stuff_classes':
            new = 0
        elif value == old or place.rpartition('.')[2] in HEADS or _is_listed(place):
            new = number
        else:
            continue
        if new != value:
            draft.set(f'{place}.{key}', new, '' if changed else why)
        changed.append(f'{place}.{key}')
    for place, weights in list(_weights(model, 'model')):
        rest = weights[old or 0 :]
        if old and len(rest) <= 1 and len(set(weights[:old])) == 1:
            draft.set(place, [weights[0]] * number + list(rest))  # alike, and the background's
        else:
            draft.drop(place, 'The weights of classes that are not yours.')
    if not changed:
        raise UserError(
            f'config {draft.bases[0]} predicts no classes (model.type={model.get("type")!r}), as '
            'proposals have none: choose a detector or segmentor'
        )
    draft.said.append(f'classes: {why[:-1]}: {", ".join(changed)}')


def _former(draft: Draft) -> int | None:
    for dataset in datasets(draft.original, 'train'):
        names = class_names(draft.original, dataset)
        if names is not None:
            return len(names)
    return None


def _is_listed(place: str) -> bool:
    """Whether a part of a list of heads, as those of a cascade."""
    parts = place.split('.')
    return len(parts) > 1 and parts[-1].isdigit() and parts[-2] in HEADS


def _numbers(node: Any, place: str) -> Iterator[tuple[str, str, int]]:
    for part, path in parts(node, place):
        for key in ('num_classes', 'num_things_classes', 'num_stuff_classes'):
            value = part.get(key)
            if isinstance(value, int) and not isinstance(value, bool):
                yield path, key, value


def _weights(node: Any, place: str) -> Iterator[tuple[str, list[float]]]:
    for part, path in parts(node, place):
        if isinstance(part.get('class_weight'), (list, tuple)):
            yield f'{path}.class_weight', list(part['class_weight'])


def parts(node: Any, place: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    if isinstance(node, Mapping):
        yield node, place
        for key, value in node.items():
            yield from parts(value, f'{place}.{key}')
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from parts(value, f'{place}.{i}')
