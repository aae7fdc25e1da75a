"""The demo data: small images in COCO's and in ADE20K's format, without a download.

The same images are written twice, below OUT: as coco/ (boxes and instance masks under COCO's 80
categories) and as ade20k/ (label maps of ADE20K's 150 classes). Configs for the full datasets run
on them unchanged. Equal options give equal data.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vitbackbones.errors import UserError, notice
from vitbackbones.progress import progress_bar

from .demo_scenes import Scene, make_scene

OUT = Path('data/demo')
STAMP = 'demo_data.json'  # what a folder was generated with; it is complete if this is there
VERSION = 1  # of the images: to be raised when equal options no longer give equal data

# COCO's categories by supercategory, in the order of their ids, which leave out ten numbers.
COCO = {
    'person': ('person',),
    'vehicle': (*('bicycle', 'car', 'motorcycle', 'airplane', 'bus', 'train', 'truck', 'boat'),),
    'outdoor': ('traffic light', 'fire hydrant', 'stop sign', 'parking meter', 'bench'),
    'animal': (
        *('bird', 'cat', 'dog', 'horse', 'sheep', 'cow', 'elephant', 'bear', 'zebra', 'giraffe'),
    ),
    'accessory': ('backpack', 'umbrella', 'handbag', 'tie', 'suitcase'),
    'sports': (
        *('frisbee', 'skis', 'snowboard', 'sports ball', 'kite', 'baseball bat'),
        *('baseball glove', 'skateboard', 'surfboard', 'tennis racket'),
    ),
    'kitchen': ('bottle', 'wine glass', 'cup', 'fork', 'knife', 'spoon', 'bowl'),
    'food': (
        *('banana', 'apple', 'sandwich', 'orange', 'broccoli', 'carrot', 'hot dog', 'pizza'),
        *('donut', 'cake'),
    ),
    'furniture': ('chair', 'couch', 'potted plant', 'bed', 'dining table', 'toilet'),
    'electronic': ('tv', 'laptop', 'mouse', 'remote', 'keyboard', 'cell phone'),
    'appliance': ('microwave', 'oven', 'toaster', 'sink', 'refrigerator'),
    'indoor': ('book', 'clock', 'vase', 'scissors', 'teddy bear', 'hair drier', 'toothbrush'),
}
COCO_UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)

# Labels that ADE20K's maps give the classes drawn here; 0 is "not labelled".
ADE20K = {
    'wall': 1,
    'sky': 3,
    'floor': 4,
    'road': 7,
    'grass': 10,
    'water': 22,
    'signboard': 44,
    'plaything': 109,
    'ball': 120,
    'food': 121,
    'traffic light': 137,
    'clock': 149,
}

# name: (COCO's name, ADE20K's name, number of the first image)
SPLITS = {
    'train': ('train2017', 'training', 1),
    'val': ('val2017', 'validation', 500_001),
}


def generate(
    out: Path,
    *,
    train: int = 480,
    val: int = 80,
    seed: int = 0,
    sides: tuple[int, int] = (128, 192),
    force: bool = False,
) -> None:
    """Write the demo data to ``out``, all of it or nothing; equal data there stay as they are.

    Args:
        train, val: how many images.
        sides: least and largest height and width, in pixels.
        force: replace demo data that were generated with other options.

    Raises:
        UserError: an option outside its range, or ``out`` holds something else.
    """
    options = dict(version=VERSION, train=train, val=val, seed=seed, sides=list(sides))
    _check(options)
    found = _stamp(out)
    if found == options:
        notice(f'the demo data in {out} are there already')
        return
    if found is not None and not force:
        raise UserError(
            f'{out} holds demo data generated with {_words(found)}, not {_words(options)}: '
            'choose another --out, or replace them with --force'
        )
    # Next to `out`, so that the finished folder can be moved there in one step.
    partial = out.absolute().with_name(f'.{out.name}.{uuid.uuid4().hex[:8]}')
    try:
        partial.mkdir(parents=True)
        _write(partial, options)
        if found is not None:
            shutil.rmtree(out)
        try:
            partial.rename(out)
        except OSError:
            if _stamp(out) != options:  # unless another process has just generated the same
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    notice(f'demo data: {train} training and {val} validation images in {out}')


def ensure(out: Path) -> None:
    """Generate the demo data with default options unless ``out`` holds demo data of any options.

    Raises:
        UserError: ``out`` holds something else, or demo data of another version.
    """
    found = _stamp(out)
    if found is None:
        generate(out)
    elif found.get('version') != VERSION:
        raise UserError(
            f'{out} holds demo data of version {found.get("version")}, not {VERSION}: '
            f'replace them with vitbackbones demo-data --out {out} --force'
        )


def _check(options: Mapping[str, Any]) -> None:
    for name in ('train', 'val'):
        if options[name] < 1:
            raise UserError(f'{name}={options[name]}: there must be at least one image')
    if options['seed'] < 0:
        raise UserError(f'seed={options["seed"]}: must not be negative')
    smallest, largest = options['sides']
    if not 64 <= smallest <= largest:
        raise UserError(f'sides={smallest} {largest}: need 64 <= MIN <= MAX')


def _stamp(out: Path) -> dict[str, Any] | None:
    """What the demo data in ``out`` were generated with; None if there is nothing."""
    if (out / STAMP).is_file():
        return json.loads((out / STAMP).read_text())
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f'{out} is there, but holds no demo data: choose another folder')
    return None


def _words(options: Mapping[str, Any]) -> str:
    return ' '.join(f'{key}={value}' for key, value in options.items())


def _write(root: Path, options: Mapping[str, Any]) -> None:
    with progress_bar() as progress:
        task = progress.add_task('demo data', total=options['train'] + options['val'])
        for number, (split, folders) in enumerate(SPLITS.items()):
            for _ in _write_split(root, options, number, split, *folders):
                progress.advance(task)
    (root / STAMP).write_text(json.dumps(options) + '\n')


def _write_split(
    root: Path,
    options: Mapping[str, Any],
    number: int,
    split: str,
    coco_name: str,
    ade_name: str,
    first: int,
) -> Iterator[None]:
    """One step per image; ``first`` is the id of the split's first one in COCO's format."""
    coco, ade = root / 'coco' / coco_name, root / 'ade20k' / 'images' / ade_name
    labels = root / 'ade20k' / 'annotations' / ade_name
    for folder in (coco, ade, labels):
        folder.mkdir(parents=True)
    annotations = CocoAnnotations()
    for index in range(options[split]):
        # A generator of its own, so that an image does not depend on how many there are.
        rng = np.random.default_rng((options['seed'], number, index))
        smallest, largest = options['sides']
        height, width = (int(n) for n in rng.integers(smallest, largest + 1, 2))
        scene = make_scene(rng, height, width)
        name = f'{first + index:012d}.jpg'
        Image.fromarray(scene.image).save(coco / name, quality=92)
        annotations.add(first + index, name, scene)
        stem = f'ADE_{split}_{index + 1:08d}'
        shutil.copyfile(coco / name, ade / f'{stem}.jpg')
        Image.fromarray(label_map(scene)).save(labels / f'{stem}.png')
        yield
    annotations.save(root / 'coco' / 'annotations' / f'instances_{coco_name}.json')


def label_map(scene: Scene) -> np.ndarray:
    """ADE20K's label of each pixel, (H, W) uint8."""
    labels = np.vectorize(ADE20K.__getitem__, otypes=[np.uint8])(scene.background)
    for index, kind in enumerate(scene.kinds):
        labels[scene.objects == index] = ADE20K[kind.ade20k]
    return labels


def coco_categories() -> list[dict[str, Any]]:
    """The ``categories`` of COCO's annotation files."""
    ids = (i for i in range(1, 91) if i not in COCO_UNUSED_IDS)
    return [
        dict(supercategory=supercategory, id=next(ids), name=name)
        for supercategory, names in COCO.items()
        for name in names
    ]


class CocoAnnotations:
    """Gathers the annotation file of one split."""

    def __init__(self) -> None:
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.categories = coco_categories()
        self.category_ids = {c['name']: c['id'] for c in self.categories}

    def add(self, image_id: int, file_name: str, scene: Scene) -> None:
        height, width = scene.objects.shape
        self.images.append(dict(id=image_id, file_name=file_name, height=height, width=width))
        for index, kind in enumerate(scene.kinds):
            mask = scene.objects == index
            rows, columns = (np.flatnonzero(mask.any(axis=axis)).tolist() for axis in (1, 0))
            left, top = columns[0], rows[0]
            self.annotations.append(
                dict(
                    id=len(self.annotations) + 1,
                    image_id=image_id,
                    category_id=self.category_ids[kind.coco],
                    bbox=[left, top, columns[-1] + 1 - left, rows[-1] + 1 - top],
                    area=int(mask.sum()),
                    iscrowd=0,
                    segmentation=dict(size=[height, width], counts=run_lengths(mask)),
                )
            )

    def save(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        content = dict(
            info=dict(description='vitbackbones demo data', version=str(VERSION)),
            images=self.images,
            annotations=self.annotations,
            categories=self.categories,
        )
        path.write_text(json.dumps(content, separators=(',', ':')))


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed run lengths: column by column, alternately outside and inside."""
    flat = np.concatenate([[False], mask.ravel(order='F')])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], changes, [mask.size]])).tolist()
