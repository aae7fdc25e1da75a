"""What `infer` and `test --dump` write, and which ids it has."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData
from PIL import Image
from pycocotools import mask as coco_mask

from tests.small import SMALL
from vitbackbones.cli.main import main
from vitbackbones.inference.coco import results_of
from vitbackbones.inference.images import infer
from vitbackbones.launch.loading import load_config

ROOT = Path(__file__).parents[1]
CLASSES = ('red', 'green', 'blue')
CATEGORIES = {'blue': 70, 'red': 5, 'green': 31}  # in the annotation file's order

DETECTOR = f"""
_base_ = '{ROOT}/configs/detection/sepvit_retinanet.py'
model = dict(
    backbone=dict(arch=dict(_delete_=True, **{SMALL['SepViT']}), drop_path_rate=0.0),
    neck=dict(in_channels=[16, 24, 32], out_channels=16),
    bbox_head=dict(num_classes=3, in_channels=16, feat_channels=16, stacked_convs=1),
    test_cfg=dict(score_thr=0.0, max_per_img=4),
)
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomApply', prob=1.0, transforms=[
        dict(type='Resize', scale=(64, 64), keep_ratio=True),
        dict(type='mmdet.LoadAnnotations', with_bbox=True),
    ]),
    dict(type='PackDetInputs'),
]
test_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        data_root='data/',
        ann_file='val.json',
        data_prefix=dict(img='images/'),
        metainfo=dict(classes={CLASSES}),
        pipeline=pipeline,
    ),
)
test_evaluator = dict(ann_file='data/val.json')
"""


def save_image(path: Path, width: int = 60, height: int = 40) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope='module')
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a detector's config, its checkpoint, and images with annotations."""
    folder = tmp_path_factory.mktemp('predictions')
    (folder / 'detector.py').write_text(DETECTOR)
    images = [dict(id=100 + 7 * i, file_name=f'sub/{i}.png', width=60, height=40) for i in range(3)]
    for row in images:
        save_image(folder / 'data/images' / row['file_name'])
    content = dict(
        images=images,
        categories=[dict(id=number, name=name) for name, number in CATEGORIES.items()],
        annotations=[],
    )
    (folder / 'data/val.json').write_text(json.dumps(content), encoding='utf-8-sig')
    save_weights(folder / 'detector.py', folder / 'detector.pth', CLASSES)
    return folder


def save_weights(config: Path, out: Path, classes: Sequence[str]) -> None:
    """A checkpoint of random weights."""
    cfg = load_config(str(config))
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    torch.save(
        dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(classes=classes))), out
    )


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


def found_by_infer(*images: Path | str, out: Path, status: int = 0) -> dict[str, Any]:
    """predictions.json of the detector."""
    words = ['infer', 'detector.py', 'detector.pth', *map(str, images), '--out-dir', str(out)]
    assert main([*words, '--device', 'cpu']) == status
    return json.loads((out / 'predictions.json').read_text())


# --------------------------------------------------------------------------------- infer


def test_images_that_fail_are_named_and_the_others_go_on(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = [save_image(tmp_path / name) for name in ('first.png', 'last.png')]
    odd = [save_image(tmp_path / 'wide.png', 5600, 8), save_image(tmp_path / 'high.png', 8, 32800)]
    found = found_by_infer(good[0], *odd, good[1], out=tmp_path / 'out', status=1)
    assert [row['file_name'] for row in found['images']] == [str(path) for path in good]
    for path in good:
        assert (tmp_path / f'out/{path.stem}_prediction.jpg').exists()
    error = capsys.readouterr().err
    for path in odd:
        assert f'{path}: the test pipeline fails: error: ' in error
    assert error.endswith('vitbackbones infer: 2 of 4 images failed\n')


@pytest.mark.parametrize('step', ['the model', 'drawing'])
def test_a_failure_in_any_step_concerns_one_image(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    target = {
        'the model': 'mmdet.models.detectors.SingleStageDetector.predict',
        'drawing': 'mmdet.visualization.DetLocalVisualizer.add_datasample',
    }[step]
    calls = []

    def fails_once(*args: Any, **options: Any) -> Any:
        calls.append(args)
        if len(calls) == 1:
            raise ValueError('too odd')
        return right(*args, **options)

    owner, _, name = target.rpartition('.')
    module, _, cls = owner.rpartition('.')
    owner = getattr(__import__(module, fromlist=[cls]), cls)
    right = getattr(owner, name)
    monkeypatch.setattr(owner, name, fails_once)
    paths = [save_image(tmp_path / name) for name in ('a.png', 'b.png')]
    lines: list[str] = []
    outcome = infer(
        load_config('detector.py'), 'detector.pth', paths, tmp_path / 'out', report=lines.append
    )
    assert outcome.failed == {paths[0]: f'{step} fails: ValueError: too odd'}
    assert outcome.written == [paths[1]]
    assert lines == [f'1/2 {paths[0]}: {step} fails: ValueError: too odd', f'2/2 {paths[1]}']


def test_images_of_the_test_annotations_keep_their_ids(here: Path, tmp_path: Path) -> None:
    (tmp_path / 'link').symlink_to(here / 'data')
    images = ['data/images/sub/2.png', tmp_path / 'link/images/sub/0.png']
    found = found_by_infer(*images, out=tmp_path / 'out')
    assert [row['id'] for row in found['images']] == [114, 100]
    assert {row['image_id'] for row in found['annotations']} == {114, 100}
    assert found['categories'] == [dict(id=CATEGORIES[name], name=name) for name in CLASSES]
    assert {row['category_id'] for row in found['annotations']} <= {*CATEGORIES.values()}


def test_an_image_beside_those_of_the_annotations_gets_a_number_of_its_own(
    here: Path, tmp_path: Path
) -> None:
    other = save_image(tmp_path / 'sub/1.png')  # a name that the file has, another image
    found = found_by_infer(other, 'data/images/sub/2.png', out=tmp_path / 'out')
    assert [row['id'] for row in found['images']] == [0, 114]


def test_images_that_no_annotation_file_names_are_numbered(here: Path, tmp_path: Path) -> None:
    images = [save_image(tmp_path / name) for name in ('1.png', '2.png')]
    found = found_by_infer(*images, out=tmp_path / 'out')
    assert [row['id'] for row in found['images']] == [0, 1]
    assert found['categories'] == [dict(id=i, name=name) for i, name in enumerate(CLASSES)]
    assert {row['image_id'] for row in found['annotations']} == {0, 1}


def test_results_have_boxes_of_coco_and_masks_as_run_lengths() -> None:
    mask = torch.zeros(2, 6, 9, dtype=torch.bool)
    mask[0, 1:4, 2:5] = mask[1, 5, :] = True
    found = InstanceData(
        bboxes=torch.tensor([[2.0, 1, 5, 4], [0, 5, 9, 6]]),
        labels=torch.tensor([3, 0]),
        scores=torch.tensor([0.5, 0.25]),
        masks=mask,
    )
    rows = json.loads(json.dumps(results_of(found, 7, (10, 11, 12, 13))))
    assert [(row['image_id'], row['category_id']) for row in rows] == [(7, 13), (7, 10)]
    assert [row['bbox'] for row in rows] == [[2, 1, 3, 3], [0, 5, 9, 1]]
    for row, want in zip(rows, mask.numpy(), strict=True):
        assert (coco_mask.decode(row['segmentation']) == want).all()
