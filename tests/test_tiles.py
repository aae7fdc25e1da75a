"""Images in tiles: what is found in them, and what becomes one."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from PIL import Image
from pycocotools import mask as coco_mask

from tests.finder import CLASSES, Thing, paint, save, write_finder
from tests.onnx_files import write_colours
from vitbackbones.cli.main import main
from vitbackbones.inference.tiles import merge

SIZE = (320, 200)
#: In one tile of 128, across two, across four, in the last corner, and one larger than a tile.
THINGS: list[Thing] = [
    (0, (10, 12, 30, 40)),
    (0, (90, 60, 140, 80)),
    (1, (190, 90, 250, 140)),
    (0, (300, 180, 320, 200)),
    (2, (5, 150, 180, 170)),
]


@pytest.fixture(scope='module')
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('tiles')
    save(folder / 'large.png', paint(THINGS, SIZE))
    save(folder / 'small.png', paint([(0, (10, 10, 50, 30))]))
    write_finder(folder)
    write_finder(folder, masks=True)
    write_colours(folder / 'colours.onnx')
    write_colours(folder / 'labels.onnx', task='labels')
    return folder


@pytest.fixture
def infer(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., str]:
    monkeypatch.chdir(place)

    def run(*words: str, status: int = 0) -> str:
        given = [*words, '--out-dir', str(tmp_path / 'out'), '--device', 'cpu']
        assert main(['infer', *given]) == status
        return capsys.readouterr().err

    return run


def found_in(out: Path) -> list[dict[str, Any]]:
    return json.loads((out / 'predictions.json').read_text())['annotations']


def as_things(rows: list[dict[str, Any]]) -> list[Thing]:
    """As :data:`THINGS`, sorted."""
    things = []
    for row in rows:
        x, y, w, h = (round(value) for value in row['bbox'])
        things.append((row['category_id'], (x, y, x + w, y + h)))
    return sorted(things)


@pytest.mark.parametrize('kind', ['boxes', 'masks'])
def test_objects_that_tiles_cut_are_one(
    kind: str, infer: Callable[..., str], tmp_path: Path
) -> None:
    infer(f'{kind}.py', f'{kind}.pth', 'large.png', '--tile', '128', '--threshold', '0.1')
    rows = found_in(tmp_path / 'out')
    assert as_things(rows) == sorted(THINGS)
    for row in rows if kind == 'masks' else ():
        label, (x1, y1, x2, y2) = as_things([row])[0]
        mask = coco_mask.decode(row['segmentation'])
        assert mask.shape == SIZE[::-1]
        assert mask[y1:y2, x1:x2].all()
        assert mask.sum() == (x2 - x1) * (y2 - y1) == row['area']
    assert Image.open(tmp_path / 'out/large_prediction.jpg').size == SIZE


def test_what_is_small_in_the_image_is_found_in_its_tile(
    place: Path, infer: Callable[..., str], tmp_path: Path
) -> None:
    """The detector gets the image with a quarter of its sides, tiles as they are."""
    config = (place / 'boxes.py').read_text()
    step = "dict(type='LoadImageFromFile'),"
    shrunk = "dict(type='Resize', scale=(64, 64), keep_ratio=True),"
    config = config.replace(step, step + shrunk).replace(
        "'img_shape')", "'img_shape', 'scale_factor')"
    )
    (place / 'shrunk.py').write_text(config)
    things: list[Thing] = [
        (0, (23, 23, 26, 26)),
        (0, (151, 199, 154, 202)),
        (1, (60, 100, 160, 150)),
    ]
    save(place / 'dots.png', paint(things, (256, 256)))
    infer('shrunk.py', 'boxes.pth', 'dots.png')
    assert [row['category_id'] for row in found_in(tmp_path / 'out')] == [1]
    infer('shrunk.py', 'boxes.pth', 'dots.png', '--tile', '64')
    assert sorted(row['category_id'] for row in found_in(tmp_path / 'out')) == [0, 0, 1]


def test_an_image_no_larger_than_a_tile_is_predicted_as_ever(
    infer: Callable[..., str], tmp_path: Path
) -> None:
    infer('masks.py', 'masks.pth', 'small.png')
    wanted = found_in(tmp_path / 'out')
    infer('masks.py', 'masks.pth', 'small.png', '--tile', '96')
    assert found_in(tmp_path / 'out') == wanted


def test_an_onnx_file_takes_tiles(infer: Callable[..., str], tmp_path: Path) -> None:
    infer('colours.onnx', 'large.png', '--tile', '160', '--threshold', '0')
    found = found_in(tmp_path / 'out')
    assert {row['category_id'] for row in found} == {0, 1, 2}
    assert len(found) > 3  # as many as it finds in the whole image


def instances(*rows: tuple[float, ...], cut: bool = True) -> InstanceData:
    """Of x1, y1, x2, y2, score and label."""
    table = torch.tensor(rows)
    return InstanceData(
        bboxes=table[:, :4],
        scores=table[:, 4],
        labels=table[:, 5].long(),
        cut=torch.full([len(rows)], cut),
    )


def boxes(found: InstanceData) -> list[list[float]]:
    return [
        [*map(round, box), score]
        for box, score in zip(found.bboxes.tolist(), found.scores.tolist(), strict=True)
    ]


def test_parts_are_merged_as_sahi_does() -> None:
    from sahi.postprocess.combine import GreedyNMMPostprocess
    from sahi.prediction import ObjectPrediction

    draw = np.random.default_rng(3)
    corners = draw.uniform(0, 300, (60, 2))
    sides = draw.uniform(10, 60, (60, 2))
    table = np.concatenate(
        [corners, corners + sides, draw.uniform(0.3, 1, (60, 1)), draw.integers(0, 2, (60, 1))], 1
    )
    theirs = GreedyNMMPostprocess(0.5, 'IOS', class_agnostic=False)(
        [
            ObjectPrediction(row[:4].tolist(), int(row[5]), CLASSES[int(row[5])], score=row[4])
            for row in table
        ]
    )
    ours = merge(instances(*table.tolist()), 0.3)
    wanted = {(*map(round, each.bbox.to_xyxy()), round(each.score.value, 4)) for each in theirs}
    got = {(*map(round, box), round(score, 4)) for *box, score in boxes(ours)}
    assert got <= wanted
    assert len(wanted) - 5 <= len(got) < 55  # ours go on to leave out what is there twice


def test_low_scores_enlarge_nothing() -> None:
    good, around, other = (
        (10, 10, 30, 30, 0.9, 0),
        (0, 0, 100, 100, 0.06, 0),
        (12, 9, 31, 30, 0.05, 0),
    )
    found = merge(instances(good, around, other), 0.3)
    assert boxes(found) == [
        [10, 10, 30, 30, pytest.approx(0.9)],
        [0, 0, 100, 100, pytest.approx(0.06)],
    ]
    assert len(merge(instances(good, (*around[:5], 1)), 0.3)) == 2  # of another class


def test_whole_objects_that_touch_stay_two_and_parts_of_them_go() -> None:
    whole = instances((10, 10, 50, 50, 0.6, 0), (28, 12, 70, 52, 0.7, 0), cut=False)
    parts = instances((10, 10, 26, 50, 0.9, 0), (50, 12, 70, 52, 0.4, 1))
    found = merge(InstanceData.cat([whole, parts]), 0.3)
    assert [each[:4] for each in boxes(found)] == [
        [28, 12, 70, 52],
        [10, 10, 50, 50],
        [50, 12, 70, 52],  # of another class
    ]
    weak = instances((10, 10, 50, 50, 0.1, 0), cut=False)  # proves nothing about a good part
    assert len(merge(InstanceData.cat([weak, parts[:1]]), 0.3)) == 2
    assert 'cut' not in found


def test_nothing_found_is_nothing() -> None:
    assert len(merge(instances((1, 1, 9, 9, 0.9, 0))[[False]], 0.3)) == 0


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        (
            'labels.onnx small.png --tile 64',
            '--tile is for detectors: a segmentor is tested in wind',
        ),
        ('boxes.py boxes.pth small.png --tile 8', '--tile 8 must be a number of pixels from 32 on'),
    ],
)
def test_tiles_that_cannot_be_are_refused(
    words: str, said: str, infer: Callable[..., str], tmp_path: Path
) -> None:
    assert f'vitbackbones infer: {said}' in infer(*words.split(), status=2)
    assert not (tmp_path / 'out').exists()


def test_a_missing_sahi_is_one_sentence(
    infer: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name.startswith('sahi'):
            raise ModuleNotFoundError(f'No module named {name!r}')
        return right(name, *args, **options)

    monkeypatch.setattr(builtins, '__import__', without)
    said = infer('boxes.py', 'boxes.pth', 'small.png', '--tile', '64', status=2)
    assert "--tile needs SAHI (No module named 'sahi.postprocess.combine'): pip install" in said
    assert not (tmp_path / 'out').exists()
