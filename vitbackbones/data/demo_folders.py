"""The demo data as a classification has them: its objects, cut out into folders by class."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path

from PIL import Image

from vitbackbones.errors import notice

from .demo import SPLITS, ensure
from .demo_scenes import KINDS

SIDE = 64  # pixels
MARGIN = 0.15  # of an object's longer side, on each side of it


def ensure_folders(out: Path) -> Path:
    """The folder with train/CLASS/*.jpg and val/CLASS/*.jpg below ``out``, made if it is not there.

    Raises:
        UserError: ``out`` holds something else than demo data.
    """
    ensure(out)
    whole = out / 'folders'
    if whole.is_dir():
        return whole
    partial = out / f'.folders.{uuid.uuid4().hex[:8]}'
    try:
        numbers = [_cut_out(out / 'coco', name, partial / split) for split, (name, *_) in _SPLITS]
        try:
            partial.rename(whole)
        except OSError:
            if not whole.is_dir():  # another process may have been faster
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    notice(f'demo data: {numbers[0]} training and {numbers[1]} validation objects in {whole}')
    return whole


_SPLITS = tuple(SPLITS.items())


def _cut_out(coco: Path, name: str, into: Path) -> int:
    """Write each object of a split as a square image; how many there were."""
    content = json.loads((coco / 'annotations' / f'instances_{name}.json').read_text())
    classes = {row['id']: row['name'] for row in content['categories']}
    files = {row['id']: row['file_name'] for row in content['images']}
    for kind in KINDS:  # all on both sides, whatever few images show: they are the labels
        (into / kind.coco).mkdir(parents=True)
    for row in content['annotations']:
        x, y, width, height = row['bbox']
        half = max(width, height) * (0.5 + MARGIN)
        centre = (x + width / 2, y + height / 2)
        box = [centre[0] - half, centre[1] - half, centre[0] + half, centre[1] + half]
        with Image.open(coco / name / files[row['image_id']]) as image:
            crop = image.crop([round(side) for side in box])  # black where the image ends
        crop = crop.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        crop.save(into / classes[row['category_id']] / f'{row["id"]:06d}.jpg', quality=92)
    return len(content['annotations'])
