"""What is better and what is worse than in an earlier report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vitbackbones.data.values import listed
from vitbackbones.errors import UserError

#: By what classes and images are compared.
CLASS = {'detection': 'ap', 'segmentation': 'iou'}
IMAGE = {'detection': 'f1', 'segmentation': 'iou'}
#: Differences below it are rounding.
EQUAL = 1e-9


def read_report(path: Path) -> dict[str, Any]:
    """The figures of an earlier report: its folder, or the report.json in it.

    Raises:
        UserError: there is none.
    """
    file = path / 'report.json' if path.is_dir() else path
    try:
        content = json.loads(file.read_bytes())
        known = content['task'] in CLASS and isinstance(content['per_image'], list)
    except OSError as error:
        raise UserError(f'--against {path}: {file} cannot be read: {error.strerror}') from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f'--against {path}: {file} is no report.json: {error!r}') from error
    if not known:
        raise UserError(f'--against {path}: {file} is no report.json of this command')
    return content


def check_comparable(
    other: Mapping[str, Any], path: Path, task: str, classes: Sequence[str]
) -> None:
    """An earlier report must be of the same task and classes.

    Raises:
        UserError: it is not.
    """
    if other['task'] != task:
        raise UserError(f'--against {path} reports on {other["task"]}, this is {task}')
    theirs = [row['name'] for row in other['classes']]
    if {*theirs} != {*classes}:
        raise UserError(
            f'--against {path} has the classes {listed(theirs)}, the config {listed(classes)}: '
            'only reports of the same classes compare'
        )


def compare(
    figures: Mapping[str, Any], other: Mapping[str, Any], path: Path, shown: int
) -> dict[str, Any]:
    """Differences, this report less the earlier one, by class and by image.

    Args:
        shown: images that got better, and that got worse, of which there is a row.

    Raises:
        UserError: they are of other images, or one of boxes and the other of masks.
    """
    task = figures['task']
    by_class, by_image = CLASS[task], IMAGE[task]
    theirs = {row['name']: row[by_class] for row in other['classes']}
    classes = [
        dict(name=row['name'], **_difference(row[by_class], theirs[row['name']]))
        for row in figures['classes']
    ]
    kinds = [each.get('measured', by_class) for each in (figures, other)]
    if kinds[0] != kinds[1]:
        raise UserError(
            f'--against {path} reports on {kinds[1]}, this is of {kinds[0]}: only reports of the '
            'same results compare'
        )
    before = {row['image']: row[by_image] for row in other['per_image']}
    images = [
        dict(image=row['image'], **_difference(row[by_image], before[row['image']]))
        for row in figures['per_image']
        if row['image'] in before
    ]
    if len(images) < max(len(figures['per_image']), len(before)):
        raise UserError(
            f'--against {path} is of another dataset: it has {len(before)} images, this report '
            f'{len(figures["per_image"])}, and {len(images)} of them are in both'
        )
    known = [row for row in images if row['difference'] is not None]
    better = sorted(
        (row for row in known if row['difference'] > EQUAL), key=lambda row: -row['difference']
    )
    worse = sorted(
        (row for row in known if row['difference'] < -EQUAL), key=lambda row: row['difference']
    )
    return dict(
        report=str(path),
        by_class=by_class,
        by_image=by_image,
        all=_difference(_whole(figures), _whole(other)),
        classes=classes,
        images=dict(
            compared=len(images),
            better=len(better),
            worse=len(worse),
            most_better=better[:shown],
            most_worse=worse[:shown],
        ),
    )


def _whole(figures: Mapping[str, Any]) -> float | None:
    """The figure of all classes."""
    if figures['task'] == 'segmentation':
        return figures['iou']
    return figures['average_precision'][figures['measured']]['ap']


def _difference(now: float | None, before: float | None) -> dict[str, float | None]:
    difference = None if now is None or before is None else now - before
    return dict(now=now, before=before, difference=difference)
