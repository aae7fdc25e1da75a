"""Files of whole models in use: the runner without PyTorch, `infer` and `test`."""

from __future__ import annotations

import ast
import importlib.util
import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope, init_default_scope
from PIL import Image
from pycocotools import mask as coco_mask

from tests.finder import save
from tests.onnx_files import CARD, CELLS, CLASSES, PLACE, write_colours, write_foreign
from tests.small import SMALL
from vitbackbones.benchmark.precisions import compare
from vitbackbones.cli.main import main
from vitbackbones.inference.onnx_model import OnnxDetector, config_of, read_onnx_model
from vitbackbones.launch.loading import load_config

ROOT = Path(__file__).parents[1]
RUNNER = ROOT / 'docs/examples/run_onnx.py'
COLOURS = np.uint8([[220, 30, 20], [10, 200, 40], [30, 20, 230]])  # R, G, B


def load_runner() -> Any:
    spec = importlib.util.spec_from_file_location('run_onnx', RUNNER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


run_onnx = load_runner()


def scene(label: int, width: int = 120, height: int = 80) -> np.ndarray:
    """An image (H, W, 3) of R, G, B with an object of a class at PLACE, on black."""
    pixels = np.zeros((height, width, 3), np.uint8)
    x1, y1, x2, y2 = np.int64(np.array(PLACE) * [width, height, width, height])
    pixels[y1:y2, x1:x2] = COLOURS[label]
    return pixels


def by_package(path: Path, image: Path) -> Any:
    """The data sample that the package makes of an image file."""
    model = read_onnx_model(path)
    cfg = config_of(model)
    init_default_scope(cfg.default_scope)
    packed = Compose(cfg.test_dataloader.dataset.pipeline)(dict(img_path=str(image), img_id=0))
    (sample,) = model.test_step({key: [value] for key, value in packed.items()})
    return sample


def test_a_file_is_read_in_any_default_scope(tmp_path: Path) -> None:
    path = write_colours(tmp_path / 'net.onnx', **WAYS['raw'])
    with DefaultScope.overwrite_default_scope('mmengine'):
        assert isinstance(read_onnx_model(path), OnnxDetector)


# ---------------------------------------------------------------- the runner and the package


WAYS: dict[str, dict[str, Any]] = {
    'boxes': {},
    'stretched': dict(keep_ratio=False, scale=[100, 90]),
    'as it is': dict(keep_ratio=None, scale=None),
    'bgr': dict(channels='bgr'),
    'hwc': dict(layout='hwc', dtype='float32'),
    'static': dict(dynamic=False, size=[64, 96]),
    'raw': dict(task='masks', masks='raw', mask_threshold=0.5),
    'raw static': dict(task='masks', masks='raw', mask_threshold=0.5, dynamic=False, size=[64, 48]),
    'pasted': dict(task='masks', masks='pasted', mask_threshold=0.5),
    'pasted static': dict(
        task='masks', masks='pasted', mask_threshold=0.5, dynamic=False, size=[64, 128]
    ),
    'labels': dict(task='labels'),
    'labels static': dict(task='labels', dynamic=False, size=[80, 80]),
    'probabilities': dict(task='labels', probabilities=True),
    'one channel': dict(
        task='labels', probabilities=True, mask_threshold=0.3, outputs=1, classes=['no', 'red']
    ),
}


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('size', [(211, 130), (90, 171)], ids=['wide', 'high'])
def test_the_runner_and_the_package_agree(way: str, size: tuple[int, int], tmp_path: Path) -> None:
    path = write_colours(tmp_path / 'net.onnx', **WAYS[way])
    noise = np.random.default_rng(0).integers(0, 90, (size[1], size[0], 3))
    pixels = cv2.GaussianBlur(scene(1, *size) // 2 + noise.astype(np.uint8), (9, 9), 0)
    image = save(tmp_path / 'image.png', pixels)
    sample = by_package(path, image)
    found = run_onnx.Model(str(path)).predict(cv2.imread(str(image)))
    if WAYS[way].get('task') == 'labels':
        labels = sample.pred_sem_seg.data[0].numpy()
        assert found['labels'].shape == labels.shape == size[::-1]
        assert len(np.unique(labels)) > 1
        assert (found['labels'] != labels).mean() < 1e-4  # ties of the rounding
        return
    wanted = sample.pred_instances
    np.testing.assert_allclose(found['boxes'], wanted.bboxes, rtol=1e-6)
    np.testing.assert_allclose(found['scores'], wanted.scores, rtol=1e-6)
    assert found['labels'].tolist() == wanted.labels.tolist()
    assert ('masks' in found) == ('masks' in wanted)
    if 'masks' in found:
        masks = wanted.masks.numpy()
        assert found['masks'].shape == masks.shape == (3, size[1], size[0])
        assert (found['masks'] == masks).all()
        assert 0.02 < masks.mean() < 0.9
    if not WAYS[way].get('dynamic', True):
        return  # PLACE and colours are of the image with what fills it up
    assert found['labels'][0] == 1  # that there is most of
    x1, y1, x2, y2 = np.array(PLACE) * [*size, *size]
    np.testing.assert_allclose(found['boxes'], [[x1, y1, x2, y2]] * 3, rtol=1e-4)


@pytest.mark.parametrize('way', ['static', 'raw static', 'pasted static'])
@pytest.mark.parametrize(('width', 'count'), [(90, 3), (25, 0)], ids=['half inside', 'outside'])
def test_boxes_end_at_an_image_that_is_filled_up(
    way: str, width: int, count: int, tmp_path: Path
) -> None:
    path = write_colours(tmp_path / 'net.onnx', **WAYS[way])
    image = save(tmp_path / 'image.png', scene(1, width, 171))
    wanted = by_package(path, image).pred_instances
    found = run_onnx.Model(str(path)).predict(cv2.imread(str(image)))
    for boxes in (found['boxes'], wanted.bboxes.numpy()):
        assert len(boxes) == count
        assert (boxes <= [width, 171] * 2).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
    if 'raw' in way:
        assert wanted.masks.shape == found['masks'].shape == (count, 171, width)


@pytest.mark.parametrize('way', ['boxes', 'raw', 'raw static', 'pasted', 'pasted static'])
def test_an_image_without_a_detection_has_empty_results(way: str, tmp_path: Path) -> None:
    path = write_colours(tmp_path / 'net.onnx', **WAYS[way], found=0)
    image = save(tmp_path / 'image.png', scene(1))
    wanted = by_package(path, image).pred_instances
    found = run_onnx.Model(str(path)).predict(cv2.imread(str(image)))
    shapes = dict(boxes=(0, 4), scores=(0,), labels=(0,))
    if way != 'boxes':
        shapes['masks'] = (0, 80, 120)
    assert {name: array.shape for name, array in found.items()} == shapes
    shapes['bboxes'] = shapes.pop('boxes')
    assert {name: tuple(array.shape) for name, array in wanted.items()} == shapes
    assert infer(path, image, '--out-dir', tmp_path / 'out') == 0
    assert json.loads((tmp_path / 'out/predictions.json').read_text())['annotations'] == []
    result = runner(path, image, '--out-dir', 'run', cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, f'1/1 {image}: nothing\n')
    drawn = cv2.imread(str(tmp_path / 'run/image_prediction.jpg'))
    assert np.abs(drawn.astype(int) - cv2.imread(str(image))).mean() < 5  # but for JPEG the image


def test_the_one_class_of_a_segmentor_is_told_from_the_rest(tmp_path: Path) -> None:
    one = dict(WAYS['one channel'], classes=['red'], palette=[[200, 0, 0]])
    path = write_colours(tmp_path / 'net.onnx', **one)
    save(tmp_path / 'a.png', scene(0))
    result = runner(path, 'a.png', '--out-dir', 'out', cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, '1/1 a.png: background, red\n')
    assert infer(path, tmp_path / 'a.png', '--out-dir', tmp_path / 'own') == 0
    maps = [np.asarray(Image.open(tmp_path / place / 'a_labels.png')) for place in ('out', 'own')]
    assert (maps[0] == maps[1]).all()
    assert {*np.unique(maps[0])} == {0, 1}


def test_the_runner_overwrites_nothing_unasked(tmp_path: Path) -> None:
    path = write_colours(tmp_path / 'net.onnx')
    save(tmp_path / 'a.png', scene(0))
    (tmp_path / 'a.json').write_text('of a labelling tool')
    result = runner(path, 'a.png', '--out-dir', '.', cwd=tmp_path)
    message = 'run_onnx: . has results of a: --force overwrites them\n'
    assert (result.returncode, result.stderr) == (2, message)
    assert (tmp_path / 'a.json').read_text() == 'of a labelling tool'
    assert runner(path, 'a.png', '--out-dir', '.', '--force', cwd=tmp_path).returncode == 0


def test_what_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    path = write_colours(tmp_path / 'net.onnx')
    save(tmp_path / 'a.png', scene(0))
    (tmp_path / 'out/a_prediction.jpg').mkdir(parents=True)
    result = runner(path, 'a.png', '--out-dir', 'out', '--force', cwd=tmp_path)
    assert result.returncode == 2
    assert 'a_prediction.jpg' in result.stderr


def test_probabilities_give_the_labels_of_resized_logits(tmp_path: Path) -> None:
    # mmseg resizes logits and takes the greatest: so do both of ours, from probabilities alone.
    path = write_colours(tmp_path / 'net.onnx', **WAYS['probabilities'])
    pixels = np.random.default_rng(1).integers(0, 255, (70, 110, 3)).astype(np.uint8)
    image = save(tmp_path / 'image.png', cv2.GaussianBlur(pixels, (0, 0), 4))
    seen = cv2.resize(cv2.imread(str(image)), (96, 61))[..., ::-1]
    logits = torch.tensor(seen.copy()).permute(2, 0, 1)[None] * 5 / 255
    resized = torch.nn.functional.interpolate(logits, (70, 110), mode='bilinear')
    wanted = resized.argmax(1)[0].numpy()
    sample = by_package(path, image)
    found = run_onnx.Model(str(path)).predict(cv2.imread(str(image)))
    assert found['probabilities'].shape == (3, 61, 96)
    assert len(np.unique(wanted)) == 3
    for labels in (sample.pred_sem_seg.data[0].numpy(), found['labels']):
        assert (labels != wanted).mean() < 1e-3


def test_the_runner_resizes_as_mmcv(tmp_path: Path) -> None:
    import mmcv

    model = run_onnx.Model(str(write_colours(tmp_path / 'net.onnx')))
    draw = np.random.default_rng(0)
    for _ in range(2000):
        width, height, *scale = draw.integers(20, 2500, 4).tolist()
        model.card['scale'] = scale
        wanted = mmcv.image.geometric.rescale_size((width, height), tuple(scale))
        assert model._size(width, height) == wanted


def test_the_runner_pastes_masks_as_mmdet() -> None:
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

    draw = np.random.default_rng(0)
    wrong = total = 0
    for _ in range(60):
        small = draw.random((CELLS, CELLS), dtype=np.float32)
        x, y = draw.random(2) * 50
        box = np.float32([x, y, x + 1 + 60 * draw.random(), y + 1 + 40 * draw.random()])
        box = box.clip(0, [100, 70] * 2).astype(np.float32)
        whole = np.zeros((70, 100), bool)
        run_onnx.paste(small, box, 0.4, whole)
        wanted = np.zeros((70, 100), bool)
        arrays = torch.from_numpy(small)[None, None], torch.from_numpy(box)[None]
        part, place = _do_paste_mask(*arrays, 70, 100)
        wanted[place] = part[0].numpy() >= 0.4
        wrong += (whole != wanted).sum()
        total += wanted.sum()
    assert total > 10000
    assert wrong <= 1e-4 * total


def test_the_runner_is_short_and_needs_neither_torch_nor_this_package() -> None:
    text = RUNNER.read_text(encoding='utf-8')
    assert len(text.splitlines()) <= 200
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split('.')[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.split('.')[0])
    assert names - sys.stdlib_module_names == {'cv2', 'numpy'}


def runner(*words: Any, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, RUNNER, *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def test_the_runner_draws_and_writes_what_it_finds(tmp_path: Path) -> None:
    path = write_colours(tmp_path / 'net.onnx', **WAYS['raw'])
    for name, label in (('a.jpg', 0), ('b.png', 2)):
        save(tmp_path / 'images' / name, scene(label))
    (tmp_path / 'images/notes.txt').write_text('none of the images')
    single = save(tmp_path / 'c.png', scene(1))
    result = runner(path, 'images', single, '--out-dir', 'out', '--score', 0.05, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, '')
    lines = result.stdout.splitlines()
    assert lines == ['1/3 images/a.jpg: red', '2/3 images/b.png: blue', f'3/3 {single}: green']
    names = [f'{stem}{end}' for stem in 'abc' for end in ('.json', '_prediction.jpg')]
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == names
    rows = json.loads((tmp_path / 'out/b.json').read_text())
    assert rows['classes'][0] == 'blue'
    np.testing.assert_allclose(rows['boxes'][0], np.array(PLACE) * [120, 80, 120, 80], rtol=1e-4)
    drawn = cv2.imread(str(tmp_path / 'out/b_prediction.jpg'))
    assert drawn.shape == (80, 120, 3)
    assert np.abs(drawn.astype(int) - scene(2)[..., ::-1]).max() > 50


def test_the_runner_writes_label_maps(tmp_path: Path) -> None:
    path = write_colours(tmp_path / 'net.onnx', **WAYS['labels'])
    save(tmp_path / 'a.png', scene(2))
    result = runner(path, 'a.png', '--out-dir', 'out', cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, '1/1 a.png: red, blue\n')
    labels = np.asarray(Image.open(tmp_path / 'out/a_labels.png'))
    assert labels.dtype == np.uint8
    assert (labels == np.where(scene(2).any(2), 2, 0)).mean() > 0.98


# ------------------------------------------------------------------------------- infer


def infer(*words: Any) -> int:
    return main(['infer', *map(str, words), '--device', 'cpu'])


def test_infer_writes_of_a_detector_what_it_writes_with_a_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_colours(tmp_path / 'net.onnx', **WAYS['raw'])
    images = [save(tmp_path / f'{label}.png', scene(label)) for label in range(2)]
    out = tmp_path / 'out'
    assert infer(path, *images, '--out-dir', out) == 0
    assert f'2/2 {images[1]}\n' in capsys.readouterr().out
    names = ['0_prediction.jpg', '1_prediction.jpg', 'predictions.json']
    assert sorted(p.name for p in out.iterdir()) == names
    found = json.loads((out / 'predictions.json').read_text())
    assert [row['file_name'] for row in found['images']] == [image.name for image in images]
    assert found['categories'] == [dict(id=i, name=name) for i, name in enumerate(CLASSES)]
    best = found['annotations'][3]
    assert (best['image_id'], best['category_id']) == (1, 1)
    np.testing.assert_allclose(best['bbox'], [30, 20, 60, 20], rtol=1e-4)
    assert 0.4 < coco_mask.area(best['segmentation']) / (60 * 20) < 0.6  # half of a ramp


def test_infer_writes_label_maps_of_a_segmentor(tmp_path: Path) -> None:
    path = write_colours(tmp_path / 'net.onnx', **WAYS['probabilities'])
    image = save(tmp_path / 'a.png', scene(1))
    assert infer(path, image, '--out-dir', tmp_path / 'out') == 0
    names = ['a_labels.png', 'a_prediction.jpg']
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == names
    labels = np.asarray(Image.open(tmp_path / 'out/a_labels.png'))
    assert (labels == np.where(scene(1).any(2), 1, 0)).mean() > 0.98


@pytest.mark.parametrize(
    ('way', 'lines'), [('labels', 1), ('probabilities', 0), ('pasted', 1), ('raw', 0)]
)
def test_that_masks_and_labels_are_resized_as_such_is_said_once(
    way: str, lines: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_colours(tmp_path / 'net.onnx', **WAYS[way])
    images = [save(tmp_path / f'{number}.png', scene(number)) for number in range(2)]
    assert infer(path, *images, '--out-dir', tmp_path / 'out') == 0
    assert capsys.readouterr().err.count('export with --') == lines


def test_infer_with_a_config_has_the_ids_of_its_annotations(data: Path, tmp_path: Path) -> None:
    path = write_colours(tmp_path / 'net.onnx')
    words = ('detector.py', path, 'images/2.png', '--out-dir', tmp_path / 'out')
    assert infer(*words) == 0
    found = json.loads((tmp_path / 'out/predictions.json').read_text())
    assert [row['id'] for row in found['images']] == [12]
    assert found['annotations'][0]['category_id'] == CATEGORIES['blue']


# -------------------------------------------------------------------------------- test


CATEGORIES = {'green': 31, 'red': 5, 'blue': 70}
DETECTOR = f"""
_base_ = '{ROOT}/configs/detection/sepvit_mask_rcnn.py'
model = dict(
    backbone=dict(arch=dict(_delete_=True, **{SMALL['SepViT']}), drop_path_rate=0.0),
    neck=dict(in_channels=[16, 24, 32, 40], out_channels=16),
    roi_head=dict(bbox_head=dict(num_classes=3), mask_head=dict(num_classes=3)),
)
test_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        data_root='.',
        ann_file='val.json',
        data_prefix=dict(img='images/'),
        metainfo=dict(classes={tuple(CLASSES)}),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(96, 64), keep_ratio=True),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            dict(
                type='PackDetInputs',
                meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
            ),
        ],
    ),
)
test_evaluator = dict(ann_file='val.json')
"""
SEGMENTOR = f"""
_base_ = '{ROOT}/configs/segmentation/sepvit_upernet.py'
model = dict(
    backbone=dict(arch=dict(_delete_=True, **{SMALL['SepViT']}), drop_path_rate=0.0),
    decode_head=dict(num_classes=3),
    auxiliary_head=dict(num_classes=3),
)
test_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        _delete_=True,
        type='BaseSegDataset',
        metainfo=dict(classes={tuple(CLASSES)}, palette={CARD['palette']}),
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        img_suffix='.png',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(96, 64), keep_ratio=True),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ],
    ),
)
"""


@pytest.fixture(scope='module')
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images of one object each, annotated as boxes, masks and label maps, and two configs."""
    folder = tmp_path_factory.mktemp('colours')
    images, rows = [], []
    for i in range(6):
        pixels = scene(i % 3)
        save(folder / f'images/{i}.png', pixels)
        save(folder / f'labels/{i}.png', np.where(pixels.any(2), i % 3, 0).astype(np.uint8))
        images.append(dict(id=10 + i, file_name=f'{i}.png', width=120, height=80))
        x1, y1, x2, y2 = (np.array(PLACE) * [120, 80, 120, 80]).tolist()
        rows.append(
            dict(
                id=i + 1,
                image_id=10 + i,
                category_id=CATEGORIES[CLASSES[i % 3]],
                bbox=[x1, y1, x2 - x1, y2 - y1],
                segmentation=[[x1, y1, x2, y1, x2, y2, x1, y2]],
                area=(x2 - x1) * (y2 - y1),
                iscrowd=0,
            )
        )
    categories = [dict(id=CATEGORIES[name], name=name) for name in CLASSES]
    content = dict(images=images, categories=categories, annotations=rows)
    (folder / 'val.json').write_text(json.dumps(content))
    (folder / 'detector.py').write_text(DETECTOR)
    (folder / 'segmentor.py').write_text(SEGMENTOR)
    return folder


@pytest.fixture
def data(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


def measured(folder: Path) -> dict[str, float]:
    """The metrics that a test has written into its work directory."""
    (path,) = folder.rglob('2*/2*.json')
    return json.loads(path.read_text())


def test_the_ap_of_a_file_is_measured_as_that_of_a_checkpoint(data: Path, tmp_path: Path) -> None:
    path = write_colours(tmp_path / 'net.onnx', **WAYS['pasted'])
    words = ['test', 'detector.py', str(path), '--work-dir', str(tmp_path / 'run')]
    assert main([*words, '--dump', str(tmp_path / 'dump.json')]) == 0
    found = measured(tmp_path / 'run')
    assert found['coco/bbox_mAP'] > 0.99
    assert found['coco/segm_mAP'] > 0.9
    rows = json.loads((tmp_path / 'dump.json').read_text())
    assert len(rows) == 18
    assert {row['category_id'] for row in rows} == {*CATEGORIES.values()}


def test_files_are_compared_on_the_test_set(data: Path, tmp_path: Path) -> None:
    paths = [write_colours(tmp_path / f'{number}.onnx') for number in range(2)]
    cfg = load_config('detector.py')
    cfg.test_evaluator.metric = 'bbox'
    cfg.visualizer.name = str(tmp_path)  # one that no test has used
    head, _, *rows = compare(cfg, paths, []).splitlines()
    assert head.endswith('| box AP |')
    assert len(rows) == 2
    assert all(float(row.split('|')[-2]) > 99 for row in rows)


def test_classes_in_another_order_are_brought_into_that_of_the_file(
    data: Path, tmp_path: Path
) -> None:
    path = write_colours(tmp_path / 'net.onnx')
    words = ['test', 'detector.py', str(path), '--work-dir', str(tmp_path / 'run')]
    options = ["test_dataloader.dataset.metainfo.classes=('blue','red','green')"]
    options.append('test_evaluator.metric=bbox')
    assert main([*words, '--cfg-options', *options]) == 0
    assert measured(tmp_path / 'run')['coco/bbox_mAP'] > 0.99


def test_the_miou_of_a_file_is_measured(data: Path, tmp_path: Path) -> None:
    path = write_colours(tmp_path / 'net.onnx', **WAYS['probabilities'])
    words = ['test', 'segmentor.py', str(path), '--work-dir', str(tmp_path / 'run')]
    shown = ['--show-dir', str(tmp_path / 'shown'), '--dump', str(tmp_path / 'maps')]
    assert main([*words, *shown]) == 0
    assert measured(tmp_path / 'run')['mIoU'] > 90
    assert sorted(p.name for p in (tmp_path / 'shown').iterdir()) == [f'{i}.png' for i in range(6)]
    labels = np.asarray(Image.open(tmp_path / 'maps/2.png'))
    assert (labels == np.where(scene(2).any(2), 2, 0)).mean() > 0.98


# ---------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ('card', 'words', 'message'),
    [
        (
            dict(classes=['cat', 'dog', 'green']),
            'test detector.py net.onnx',
            'net.onnx predicts the classes (cat, dog, green), test_dataloader has (red, green, '
            'blue): give the config that the file was made of',
        ),
        (
            dict(classes=['red', 'green', 'blue', 'grey']),
            'infer detector.py net.onnx images/0.png --out-dir out',
            'net.onnx predicts the classes (red, green, blue, grey), test_dataloader has (red, gr',
        ),
        (
            dict(dynamic=False, size=[32, 32]),
            'test detector.py net.onnx',
            'net.onnx takes images of 32 x 32 pixels and smaller ones, not 96 x 64: let the test p',
        ),
        (
            dict(smallest=65),
            'test detector.py net.onnx',
            'net.onnx takes images of 65 pixels and more on both sides, not 96 x 64',
        ),
        ({}, 'test detector.py foreign.onnx', "foreign.onnx has no metadata 'vitbackbones'; files"),
        ({}, 'infer text.onnx images/0.png --out-dir out', 'text.onnx cannot be read: it is no ON'),
        ({}, 'infer nowhere.onnx images/0.png --out-dir out', 'there is no file nowhere.onnx'),
        ({}, 'infer net.onnx nowhere.png --out-dir out', 'there is no image nowhere.png'),
        ({}, 'infer detector.py net.onnx --out-dir out', 'no image is named to be predicted by n'),
        (
            {},
            'infer net.onnx images/0.png --out-dir out --demo',
            'net.onnx has come without a config that options could change',
        ),
        (
            {},
            'test detector.py net.onnx --launcher pytorch',
            '--launcher pytorch: one process tests net.onnx',
        ),
    ],
)
def test_mistakes_are_said_in_one_sentence(
    card: dict[str, Any],
    words: str,
    message: str,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ('images', 'labels', 'detector.py', 'val.json'):
        (tmp_path / name).symlink_to(place / name)
    write_foreign(tmp_path / 'foreign.onnx')
    (tmp_path / 'text.onnx').write_text('a photograph')
    write_colours(tmp_path / 'net.onnx', **card)
    assert main(words.split()) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f'vitbackbones {words.split()[0]}: {message}')
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('words', ['test detector.py net.onnx', 'infer net.onnx images/0.png'])
def test_a_missing_runtime_is_named(
    words: str,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    path = write_colours(tmp_path / 'net.onnx')
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    given = words.replace('net.onnx', str(path)).split()
    assert main([*given, *(['--out-dir', 'out'] if given[0] == 'infer' else [])]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.endswith('onnxruntime is missing: pip install onnxruntime')


def foreign_files(folder: Path) -> None:
    write_foreign(folder / 'foreign.onnx')
    (folder / 'text.onnx').write_text('a photograph')
    write_colours(folder / 'later.onnx', format=2)
    write_colours(folder / 'least.onnx', scale=None, keep_ratio=None, smallest=300)
    for name, text in (('words', '"words"'), ('broken', '{')):
        write_foreign(folder / f'{name}.onnx', {'vitbackbones': text})
    write_colours(folder / 'net.onnx')
    save(folder / 'a.png', scene(0))
    save(folder / 'other/a.png', scene(0))
    (folder / 'b.png').write_text('not one')
    (folder / 'empty').mkdir()


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        ('nowhere.onnx a.png', 'there is no file nowhere.onnx'),
        ('text.onnx a.png', 'text.onnx cannot be read: it is another kind of file, or onnxr'),
        ('foreign.onnx a.png', 'foreign.onnx has no card of `vitbackbones export --part model`'),
        ('later.onnx a.png', 'later.onnx has no card of `vitbackbones export --part model`, in f'),
        ('words.onnx a.png', 'words.onnx cannot be read: it is another kind of file, or onnxrunt'),
        ('broken.onnx a.png', 'broken.onnx cannot be read: it is another kind of file, or onnxru'),
        ('least.onnx a.png', '120 x 80 pixels: both sides need 300 at least'),
        ('net.onnx z.png', 'z.png is neither an image nor a folder of images'),
        ('net.onnx b.png', 'b.png is neither an image nor a folder of images'),
        ('net.onnx empty', 'empty is neither an image nor a folder of images'),
        ('net.onnx a.png other', 'two images have one name and would be written to the same file'),
        ('net.onnx a.png --runtime openvino', 'openvino is missing: pip install openvino'),
    ],
)
def test_the_runner_says_in_one_sentence_what_is_wrong(
    words: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, 'openvino', None)
    foreign_files(tmp_path)
    before = {*tmp_path.rglob('*')}
    monkeypatch.setattr(sys, 'argv', ['run_onnx.py', *words.split(), '--out-dir', 'out'])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(RUNNER), run_name='__main__')
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f'run_onnx: {message}')
    assert len(said.splitlines()) == 1
    assert {*tmp_path.rglob('*')} == before
