"""The sheet of images as annotated and as the pipeline makes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from vitbackbones.cli.main import main
from vitbackbones.errors import UserError
from vitbackbones.inference.preview import WIDTH, preview

NUMBER, SIDE = 8, 120
CLASSES = ('left', 'right', 'rare')
PALETTE = [[250, 0, 0], [0, 250, 0], [0, 0, 250]]


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey images with a black square, an object, at the left or right.

    The last one has two objects, one of a class that no other has, and so it is shown first.
    """
    root = tmp_path_factory.mktemp('data')
    images, rows = [], []
    for name in ('images', 'maps'):
        (root / name).mkdir()
    for i in range(NUMBER):
        pixels = np.full((SIDE, SIDE, 3), 200, dtype=np.uint8)
        labels = np.full((SIDE, SIDE), 255, dtype=np.uint8)
        label = 2 if i == NUMBER - 1 else i % 2
        x = 72 if label == 1 else 12
        pixels[40:76, x : x + 36] = 0
        labels[40:76, x : x + 36] = label
        Image.fromarray(pixels).save(root / 'images' / f'{i}.png')
        if label == 2:
            labels[90:110, 90:110] = 0
        Image.fromarray(labels).save(root / 'maps' / f'{i}.png')
        images.append(dict(id=i, file_name=f'{i}.png', width=SIDE, height=SIDE))
        boxes = [(label, [x, 40, 36, 36]), *([(0, [90, 90, 20, 20])] if label == 2 else [])]
        for kind, (left, top, width, height) in boxes:
            right, bottom = left + width, top + height
            rows.append(
                dict(
                    id=len(rows) + 1,
                    image_id=i,
                    category_id=kind + 1,
                    bbox=[left, top, width, height],
                    area=width * height,
                    iscrowd=0,
                    segmentation=[[left, top, right, top, right, bottom, left, bottom]],
                )
            )
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
    content = dict(images=images, annotations=rows, categories=categories)
    (root / 'coco.json').write_text(json.dumps(content))
    return root


def coco(root: Path, *, masks: bool = False, normalised: bool = False) -> Config:
    steps: list[dict[str, Any]] = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=masks),
        dict(type='Resize', scale=(60, 60), keep_ratio=True),
        dict(type='RandomFlip', prob=1.0),
    ]
    if normalised:
        norm = dict(mean=[120.0, 110.0, 100.0], std=[50.0, 60.0, 70.0], to_rgb=True)
        steps.append(dict(type='mmcv.Normalize', **norm))
    dataset = dict(
        type='CocoDataset',
        data_root=str(root),
        ann_file='coco.json',
        data_prefix=dict(img='images'),
        metainfo=dict(classes=CLASSES, palette=PALETTE),
        pipeline=[*steps, dict(type='PackDetInputs')],
    )
    return Config(dict(default_scope='mmdet', model={}, train_dataloader=dict(dataset=dataset)))


def maps(root: Path) -> Config:
    dataset = dict(
        type='BaseSegDataset',
        data_root=str(root),
        data_prefix=dict(img_path='images', seg_map_path='maps'),
        img_suffix='.png',
        seg_map_suffix='.png',
        metainfo=dict(classes=CLASSES, palette=PALETTE),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='RandomFlip', prob=1.0),
            dict(type='PackSegInputs'),
        ],
    )
    return Config(dict(default_scope='mmseg', model={}, train_dataloader=dict(dataset=dataset)))


def drawn(cfg: Config, path: Path, **options: Any) -> np.ndarray:
    preview(cfg, path, **options)
    return np.asarray(Image.open(path).convert('RGB'))


def cells(sheet: np.ndarray) -> list[np.ndarray]:
    """The images of the first row: those without the white around them."""
    gap, top = 10, 10 + 22 + 22
    count = (sheet.shape[1] - gap) // (WIDTH + gap)
    lefts = [gap + i * (WIDTH + gap) for i in range(count)]
    return [sheet[top : top + WIDTH, left : left + WIDTH] for left in lefts]


def centre(cell: np.ndarray) -> float:
    """Where the dark square is, as a share of the width."""
    return float(np.nonzero(cell.sum(2) < 60)[1].mean()) / cell.shape[1]


def has(cell: np.ndarray, colour: Sequence[int]) -> bool:
    return bool((cell == colour).all(2).any())


def test_a_row_shows_the_annotated_image_and_draws_of_the_pipeline(
    root: Path, tmp_path: Path
) -> None:
    shown = cells(drawn(coco(root), tmp_path / 'sheet.png', count=3, draws=2))
    assert len(shown) == 3
    # Flipped by the pipeline, and boxes with it: their edges are at the square's.
    assert centre(shown[1]) == pytest.approx(1 - centre(shown[0]), abs=0.02)
    for cell in shown:
        rows, columns = np.nonzero((cell == PALETTE[2]).all(2))
        middle = (columns.min() + columns.max()) / 2 / cell.shape[1]
        assert rows.size
        assert middle == pytest.approx(centre(cell), abs=0.05)


def test_every_class_is_shown_and_the_same_sheet_comes_again(root: Path, tmp_path: Path) -> None:
    first = drawn(coco(root), tmp_path / 'one.png', count=3)
    assert all(has(first, PALETTE[label]) for label in range(3))
    assert np.array_equal(first, drawn(coco(root), tmp_path / 'two.png', count=3))


def test_masks_are_drawn(root: Path, tmp_path: Path) -> None:
    (cell, *_) = cells(drawn(coco(root, masks=True), tmp_path / 'sheet.png', count=1))
    half = np.array(PALETTE[2]) // 2  # over black
    assert (np.abs(cell.astype(int) - half).max(2) <= 1).mean() > 0.05


def test_normalisation_is_undone(root: Path, tmp_path: Path) -> None:
    _, made = cells(drawn(coco(root, normalised=True), tmp_path / 'sheet.png', count=1, draws=1))
    assert (np.abs(made[5:40, 5:40].astype(int) - 200) <= 1).all()


def test_label_maps_are_drawn_in_the_colours_of_the_dataset(root: Path, tmp_path: Path) -> None:
    plain, flipped = cells(drawn(maps(root), tmp_path / 'sheet.png', count=1, draws=1))
    blue = (plain[..., 2] > 100) & (plain[..., 0] < 30)  # over black
    assert blue.mean() > 0.05
    assert np.nonzero(blue)[1].mean() < WIDTH / 2
    moved = (flipped[..., 2] > 100) & (flipped[..., 0] < 30)
    assert np.nonzero(moved)[1].mean() > WIDTH / 2


def test_check_data_draws_it(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coco(root).dump(tmp_path / 'config.py')
    sheet = tmp_path / 'sheet.png'
    command = ['check-data', str(tmp_path / 'config.py'), '--split', 'train', '--jobs', '1']
    assert main([*command, '--preview', str(sheet)]) == 0
    before = sheet.read_bytes()
    assert main([*command, '--preview', str(sheet)]) == 2  # it is there
    assert sheet.read_bytes() == before
    assert main([*command, '--preview', str(sheet), '--force']) == 0
    assert str(sheet) in capsys.readouterr().out
    assert Image.open(sheet).width > 3 * WIDTH
    assert main([*command, '--preview', str(tmp_path / 'none/sheet.png')]) == 2
    assert 'there is no folder' in capsys.readouterr().err


def test_what_cannot_be_drawn_is_said(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'must end in \.png or \.jpg'):
        preview(coco(root), tmp_path / 'sheet.gif')
    with pytest.raises(UserError, match='no val_dataloader'):
        preview(coco(root), tmp_path / 'sheet.png', split='val')
    assert not any(tmp_path.iterdir())
