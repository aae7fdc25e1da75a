"""Folders of images and label maps in mmseg's format: what is in them, or why nothing is."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from vitbackbones.errors import UserError

from .findings import Finding

MOST_FILES = 10_000  # that are looked at to tell what is in a folder instead


class LabelMaps(NamedTuple):
    """A dataset in mmseg's format.

    Attributes:
        rows: what mmseg has of each image: ``img_path``, and ``seg_map_path`` if it has labels.
        findings: why it is not what the config says.
    """

    rows: Sequence[dict[str, Any]] = ()
    findings: tuple[Finding, ...] = ()


def list_label_maps(cls: Any, dataset: Mapping[str, Any], name: str) -> LabelMaps:
    """List a dataset as mmseg would.

    Args:
        cls: the dataset's class.
        dataset: its config.
        name: what findings about all of it are said of.

    Raises:
        UserError: the class does not take the config.
    """
    options = {k: v for k, v in dataset.items() if k not in ('type', '_scope_')}
    options.update(pipeline=[], lazy_init=True)
    try:
        built = cls(**options)
        rows = built.load_data_list()
    except (OSError, AssertionError) as error:
        missing = getattr(error, 'filename', None) or name
        return LabelMaps(findings=(Finding('missing file', missing, str(error)),))
    except (TypeError, ValueError) as error:
        raise UserError(f'{dataset.get("type")}: {error}') from error
    folder, suffix = built.data_prefix.get('img_path') or '', built.img_suffix
    if not rows:
        if built.ann_file and not os.path.isdir(built.ann_file):
            detail = 'it lists no images'
        else:
            detail = f'no file of it ends in {suffix!r}, its img_suffix; {_content(folder)}'
        return LabelMaps(findings=(Finding('no images', name, detail),))
    findings = [
        *_nothing_there('no images', folder, [row['img_path'] for row in rows], built.img_suffix),
        *_nothing_there(
            'no label maps',
            built.data_prefix.get('seg_map_path') or '',
            [row['seg_map_path'] for row in rows if 'seg_map_path' in row],
            built.seg_map_suffix,
        ),
    ]
    return LabelMaps(rows, tuple(findings))


def _nothing_there(kind: str, folder: str, paths: Sequence[str], suffix: str) -> Iterator[Finding]:
    """That not one of the files is there, although their folder is."""
    if paths and os.path.isdir(folder) and not any(map(os.path.exists, paths)):
        option = 'img_suffix' if kind == 'no images' else 'seg_map_suffix'
        none = f'none of {len(paths)} files, such as {os.path.basename(paths[0])}, is there'
        yield Finding(kind, folder, f'{none} ({option}={suffix!r}); {_content(folder)}')


def _content(folder: str) -> str:
    """What a folder holds, in words: each ending with an example."""
    examples: dict[str, str] = {}
    for path in islice(_files(folder), MOST_FILES):
        examples.setdefault(path.suffix, path.name)
    return f'it has {", ".join(list(examples.values())[:5]) or "no files"}'


def _files(folder: str) -> Iterable[Path]:
    for place, _, names in os.walk(folder):
        yield from (Path(place, name) for name in sorted(names))
