"""Whether metrics measure the images that the model predicts, not others of the same numbers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mmengine.config import Config

from vitbackbones.data.configs import format_of, metrics_of, place
from vitbackbones.errors import UserError


def check_evaluated_files(cfg: Config, split: str) -> None:
    """A metric's annotation file must number images as that of its dataset does.

    Two files that number their images from 1 give metrics of nothing without a word.

    Raises:
        UserError: an image has another number there, or no image has the same.
    """
    for metric, measured in metrics_of(cfg, split):
        if (
            len(measured) != 1
            or not metric.get('ann_file')
            or format_of(cfg, measured[0]) != 'coco'
        ):
            continue
        ours, theirs = Path(place(measured[0])), Path(metric['ann_file'])
        if not (ours.is_file() and theirs.is_file()) or ours.resolve() == theirs.resolve():
            continue
        one, other = _names(ours), _names(theirs)
        shared = one.keys() & other.keys()
        differing = next((i for i in one if i in shared and one[i] != other[i]), None)
        if one and other and (not shared or differing is not None):
            why = (
                f'image {differing} is {one[differing]} in one and {other[differing]} in the other'
                if differing is not None
                else 'no image has the same id in both'
            )
            raise UserError(
                f'{split}_evaluator.ann_file={theirs} is not the file of the {split} dataset, '
                f'{ours}: {why}; name the same file in both'
            )


def _names(path: Path) -> dict[Any, str]:
    """File names of a COCO file's images by id, without folders; none where others say why."""
    try:
        images = json.loads(path.read_bytes())['images']
        return {row['id']: os.path.basename(row['file_name']) for row in images}
    except (ValueError, KeyError, TypeError):
        return {}
