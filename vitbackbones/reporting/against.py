"""What is better and what is worse than in an earlier report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vitbackbones.data.values import is_number, listed
from vitbackbones.errors import UserError

#: By what classes and images are compared.
CLASS = {'detection': 'ap', 'segmentation': 'iou'}
IMAGE = {'detection': 'f1', 'segmentation': 'iou'}
#: Differences below it are rounding.
EQUAL = 1e-9
#: Of report.json, as its ``format`` says; changes when an older one can no longer be compared.
FORMAT = 1


def read_report(path: Path) -> dict[str, Any]:
    """The figures of an earlier report: its folder, or the report.json in it.

    Raises:
        UserError: there is none, or none that is whole and of this format.
    """
    file = path / 'report.json' if path.is_dir() else path
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise UserError(f'--against {path}: {file} cannot be read: {error.strerror}') from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            f'--against {path}: {file} is no JSON, or not all of it: {error}'
        ) from error
    version = content.get('format', FORMAT) if isinstance(content, dict) else FORMAT
    if version != FORMAT:
        raise UserError(
            f'--against {path}: {file} has the format {version!r}, this version of vitbackbones '
            f'compares format {FORMAT}: make that report anew'
        )
    problem = _problem(content)
    if problem is not None:
        raise UserError(f'--against {path}: {file} is no report.json of this command: {problem}')
    return content


def _problem(content: Any) -> str | None:
    """Why what a file holds is no report, in words; only what is compared is looked at."""
    if not isinstance(content, dict):
        return f'it holds a {type(content).__name__}'
    task = content.get('task')
    if not isinstance(task, str) or task not in CLASS:
        return f'its task is {task!r:.40}'
    for field, name, value in (
        ('classes', 'name', CLASS[task]),
        ('per_image', 'image', IMAGE[task]),
    ):
        rows = content.get(field)
        if not isinstance(rows, list):
            return f'it has no list of {field}'
        for number, row in enumerate(rows):
            if not isinstance(row, dict) or not isinstance(row.get(name), str):
                return f'{field}[{number}] has no {name}'
            if value not in row or not (row[value] is None or is_number(row[value])):
                return f'{field}[{number}] has no {value}'
    threshold = content.get('threshold', {})
    if not isinstance(threshold, dict) or not is_number(threshold.get('used', 0)):
        return 'its threshold is no number'
    try:
        whole = _whole(content)
    except (KeyError, TypeError):
        return 'it has no figure of all classes'
    return None if whole is None or is_number(whole) else 'its figure of all classes is no number'


def check_comparable(
    other: Mapping[str, Any], path: Path, task: str, classes: Sequence[str], images: Sequence[str]
) -> None:
    """An earlier report must be of the same task, classes and images.

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
    before = {row['image'] for row in other['per_image']}
    ours = {*images}
    if before != ours:
        raise UserError(
            f'--against {path} is of another dataset: it has {len(before)} images, this report '
            f'{len(ours)}, and {len(before & ours)} of them are in both'
        )


def compare(
    figures: Mapping[str, Any], other: Mapping[str, Any], path: Path, shown: int
) -> dict[str, Any]:
    """Differences, this report less the earlier one that is comparable, by class and by image.

    Args:
        shown: images that got better, and that got worse, of which there is a row.

    Raises:
        UserError: one is of boxes and the other of masks.
    """
    task = figures['task']
    by_class, by_image = CLASS[task], IMAGE[task]
    theirs = {row['name']: row[by_class] for row in other['classes']}
    classes = [
        dict(name=row['name'], **_difference(row[by_class], theirs[row['name']]))
        for row in figures['classes']
    ]
    kinds = [each.get('measured', by_class) for each in (figures, other)]
    # What finds nothing may not say of which kind that would have been.
    if kinds[0] != kinds[1] and all(each.get('predictions') for each in (figures, other)):
        raise UserError(
            f'--against {path} reports on {kinds[1]}, this is of {kinds[0]}: only reports of the '
            'same results compare'
        )
    before = {row['image']: row[by_image] for row in other['per_image']}
    images = [
        dict(image=row['image'], **_difference(row[by_image], before[row['image']]))
        for row in figures['per_image']
    ]
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
        threshold=_thresholds(figures, other),
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


def _thresholds(now: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any] | None:
    """From which score on objects of images count; None where there are no scores."""
    used = [(each.get('threshold') or {}).get('used') for each in (now, before)]
    return dict(zip(('now', 'before'), used, strict=True)) if {*used} != {None} else None


def _whole(figures: Mapping[str, Any]) -> float | None:
    """The figure of all classes."""
    if figures['task'] == 'segmentation':
        return figures['iou']
    return figures['average_precision'][figures['measured']]['ap']


def _difference(now: float | None, before: float | None) -> dict[str, float | None]:
    difference = None if now is None or before is None else now - before
    return dict(now=now, before=before, difference=difference)
