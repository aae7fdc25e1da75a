"""Images in folders by class, mmpretrain's format: what is in them, or why nothing is."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from vitbackbones.errors import UserError

from .findings import Finding
from .values import listed


class Folders(NamedTuple):
    """A dataset in mmpretrain's format.

    Attributes:
        rows: path and label of each image, in the order of the labels; the label of one without
            any is -1.
        findings: why it is not what the config says.
    """

    rows: Sequence[tuple[str, int]] = ()
    findings: tuple[Finding, ...] = ()


def folder_of(dataset: Mapping[str, Any]) -> str:
    """The folder that a dataset's images are below: mmpretrain's ImageNet names it by a split."""
    prefix = dataset.get('data_prefix') or ''
    below = prefix if isinstance(prefix, str) else prefix.get('img_path') or ''
    return os.path.join(dataset.get('data_root') or '', below or dataset.get('split') or '')


def list_of(dataset: Mapping[str, Any]) -> str:
    """The file that lists a dataset's images with their labels; '' where folders are the labels."""
    root, name = dataset.get('data_root') or '', dataset.get('ann_file') or ''
    if not name and dataset.get('split'):  # where mmpretrain's ImageNet looks for one
        name = os.path.join('meta', f'{dataset["split"]}.txt')
        return os.path.join(root, name) if os.path.isfile(os.path.join(root, name)) else ''
    return os.path.join(root, name) if name else ''


def class_folders(dataset: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The folders whose places in alphabetical order are the labels.

    None where a file lists the images, images have no labels, or the folder is not there.
    """
    folder = folder_of(dataset)
    unlabelled = not dataset.get('with_label', True) or dataset.get('split') == 'test'
    if unlabelled or list_of(dataset) or '://' in folder or not os.path.isdir(folder):
        return None
    return tuple(name for name in _folders_in(folder) if not name.startswith('.'))


def _folders_in(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir())


def wrong_folders(
    dataset: Mapping[str, Any], classes: Sequence[str], given: bool, trained: Sequence[str] | None
) -> str | None:
    """Why the folders of a dataset are not its classes, in a sentence; None if they are.

    Args:
        classes: the dataset's, in the order of their labels.
        given: whether the config names them.
        trained: folders of the training data, None where they are not there or are this dataset's.
    """
    own, place = class_folders(dataset), folder_of(dataset)
    if own is None:
        return None
    hidden = [name for name in _folders_in(place) if name.startswith('.')]
    if hidden:
        return (
            f'{place} has hidden folders ({listed(hidden)}), which mmpretrain takes for classes, '
            'so that all labels move: remove or rename them'
        )
    if not own:
        return f'{place} has no folders: put the images of each class into a folder of its own'
    if trained is not None and list(own) != list(trained):
        missing = [name for name in trained if name not in own]
        more = [name for name in own if name not in trained]
        parts = [f'lacks a folder of {listed(missing)}'] if missing else []
        parts += [f'has one of {listed(more)}, which training lacks'] if more else []
        return (
            f'{place} {" and ".join(parts)}: labels are the places of folders in alphabetical '
            'order, so both sides need the same ones, if need be empty'
        )
    if len(own) != len(classes):
        return (
            f'{place} has {len(own)} folders ({listed(own)}), one for each class, and the classes '
            f'are {len(classes)} ({listed(classes)})'
        )
    if given and list(own) != list(classes) and set(own) == set(classes):
        return (
            f'{place}: labels are the places of folders in alphabetical order ({listed(own)}), and '
            f'metainfo.classes has another ({listed(classes)}): write it in that order'
        )
    return None


def list_folders(
    cls: Any, dataset: Mapping[str, Any], classes: Sequence[str] | None, problem: str | None
) -> Folders:
    """List a dataset as mmpretrain would.

    Args:
        cls: the dataset's class.
        dataset: its config.
        classes: names by label.
        problem: what :func:`wrong_folders` says.

    Raises:
        UserError: the class does not take the config.
    """
    name = list_of(dataset) or folder_of(dataset)
    if problem is not None:
        return Folders(findings=(Finding('folders of classes', name, _without(name, problem)),))
    options = {k: v for k, v in dataset.items() if k not in ('type', '_scope_')}
    options.update(pipeline=[], lazy_init=True)
    try:
        built = cls(**options)
        rows = [(row['img_path'], row.get('gt_label', -1)) for row in built.load_data_list()]
    except OSError as error:
        missing = getattr(error, 'filename', None) or name
        return Folders(findings=(Finding('missing file', missing, str(error)),))
    except (AssertionError, RuntimeError, ValueError) as error:
        detail = ' '.join(str(error).split())
        return Folders(findings=(Finding('no images', name, detail),))
    except TypeError as error:
        raise UserError(f'{dataset.get("type")}: {error}') from error
    if not rows:
        return Folders(findings=(Finding('no images', name, 'it lists no images'),))
    return Folders(rows, tuple(_beyond(rows, classes, name)))


def _beyond(
    rows: Sequence[tuple[str, int]], classes: Sequence[str] | None, name: str
) -> Iterator[Finding]:
    wrong = sorted({label for _, label in rows if classes and label >= len(classes)})
    if wrong and classes:
        some = listed([*map(str, wrong)])
        yield Finding(
            'unknown label',
            name,
            f'it has the labels {some}, but classes are 0 to {len(classes) - 1}',
        )


def _without(name: str, problem: str) -> str:
    """A sentence that begins with a file, without it."""
    return problem.removeprefix(name).removeprefix(':').strip()
