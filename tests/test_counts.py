"""How much there is to learn: what is counted, what is an error, and what is said."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.registry import DATASETS, TRANSFORMS, init_default_scope

from vitbackbones.data.annotations import read_coco
from vitbackbones.data.counts import count_objects

HEIGHT, WIDTH = 48, 64
POLYGON = [[4, 4, 24, 4, 24, 20]]


def run_lengths(width: int) -> dict[str, Any]:
    return dict(size=[HEIGHT, width], counts=[9, HEIGHT * width - 9])


def odd_rows(seed: int) -> dict[str, Any]:
    """An annotation file with every reason that there is to leave something out."""
    rng = random.Random(seed)
    images = [
        dict(id=i * 3, file_name=f'{i}.png', width=rng.choice([WIDTH, 20]), height=HEIGHT)
        for i in range(12)
    ]
    annotations = []
    for i in range(60):
        image = rng.choice(images[:10])
        row = dict(
            id=i,
            image_id=image['id'] if i % 9 else 1,
            category_id=rng.choice([2, 5, 7]),
            bbox=[rng.randrange(-30, 70), 4, rng.choice([0.5, 8, 20]), 16],
            area=rng.choice([0, 9, 9, 9]),
            iscrowd=rng.choice([0, 0, 0, 1]),
            segmentation=rng.choice(
                [POLYGON, POLYGON, run_lengths(image['width']), [[1, 1, 2, 2]]]
            ),
        )
        if rng.random() < 0.1:
            row['ignore'] = 1
        annotations.append(row)
    categories = [dict(id=7, name='dog'), dict(id=2, name='cat'), dict(id=5, name='cow')]
    return dict(images=images, annotations=annotations, categories=categories)


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('poly2mask', [True, False])
def test_counted_is_what_mmdet_hands_on(seed: int, poly2mask: bool, tmp_path: Path) -> None:
    file = tmp_path / 'annotations.json'
    file.write_text(json.dumps(odd_rows(seed)))
    options: dict[str, Any] = dict(
        filter_cfg=[None, dict(filter_empty_gt=True), dict(filter_empty_gt=True, min_size=32)][
            seed % 3
        ],
        indices=[None, 5, [0, 2, 3], None][seed],
    )
    init_default_scope('mmdet')
    dataset = DATASETS.build(
        dict(
            type='CocoDataset',
            ann_file=str(file),
            data_prefix=dict(img=''),
            metainfo=dict(classes=('dog', 'cow')),
            pipeline=[],
            **options,
        )
    )
    step = dict(type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=poly2mask)
    load = TRANSFORMS.build(step)
    objects, without = [0, 0], 0
    for info in dataset:
        info = load(dict(info, ori_shape=(info['height'], info['width'])))
        labels = info['gt_bboxes_labels'][~info['gt_ignore_flags']]
        objects = np.add(objects, np.bincount(labels, minlength=2)).tolist()
        without += len(labels) == 0

    rows = read_coco(file, ('dog', 'cow'), masks=True).rows
    assert rows is not None
    counts = count_objects(rows, poly2mask=poly2mask, **options)
    assert counts.objects == dict(zip(('dog', 'cow'), objects, strict=True))
    assert (counts.images_used, counts.images_without_objects) == (len(dataset), without)
    assert counts.annotations == 60 == sum(objects) + sum(counts.annotations_left_out.values())
    assert counts.images == 12 == len(dataset) + sum(counts.images_left_out.values())
