"""What `infer` and `test --dump` write, and which ids it has."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.models.detectors import BaseDetector
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from mmseg.visualization import SegLocalVisualizer
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.small import SMALL
from vitbackbones.cli.main import main
from vitbackbones.inference import drawing
from vitbackbones.inference.coco import results_of
from vitbackbones.inference.drawing import draw
from vitbackbones.inference.dump import CocoResultsHook
from vitbackbones.inference.images import infer
from vitbackbones.inference.rows import Rows
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
    palette = [[9, 0, 0], [0, 9, 0], [0, 0, 9]]  # lists, as from JSON
    meta = dict(classes=classes, palette=palette)
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=meta)), out)


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
    assert [row['file_name'] for row in found['images']] == [path.name for path in good]
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
    assert lines == [f'1/2 {paths[0]} failed', f'2/2 {paths[1]}']


@pytest.mark.parametrize('way', ['no folder', 'results are a folder'])
def test_results_that_could_not_be_written_are_refused_before_anything_is_predicted(
    here: Path, tmp_path: Path, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'out'
    if way == 'no folder':
        out.write_text('mine')
    else:
        (out / 'predictions.json').mkdir(parents=True)
    words = ['infer', 'detector.py', 'detector.pth', 'data/images/sub/0.png']
    assert main([*words, '--out-dir', str(out), '--device', 'cpu']) == 2
    said = capsys.readouterr()
    (sentence,) = sentences(said.err)
    assert sentence.startswith(f'vitbackbones infer: --out-dir {out}')
    assert '1/1' not in said.out
    assert way == 'no folder' or [path.name for path in out.iterdir()] == ['predictions.json']


def sentences(said: str) -> list[str]:
    """Lines of our command; loggers of earlier tests may still write to streams that are closed."""
    return [line for line in said.splitlines() if line.startswith('vitbackbones ')]


def test_a_full_disk_leaves_the_results_of_before_and_one_sentence(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / 'predictions.json'
    results.write_text('{}')

    def fill(rows: Rows, file: Any) -> None:
        file.write(b'some')
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(Rows, 'copy_to', fill)
    words = ['infer', 'detector.py', 'detector.pth', 'data/images/sub/0.png']
    assert main([*words, '--out-dir', str(tmp_path), '--device', 'cpu']) == 2
    said = capsys.readouterr().err
    reason = 'cannot be written: No space left on device'
    assert sentences(said) == [f'vitbackbones infer: {results} {reason}']
    assert results.read_text() == '{}'
    assert {path.name for path in tmp_path.iterdir()} == {'predictions.json', '0_prediction.jpg'}


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


def test_what_was_left_out_is_said_in_the_file(here: Path, tmp_path: Path) -> None:
    words = ['infer', 'detector.py', 'detector.pth', 'data/images/sub/0.png', '--device', 'cpu']
    said = []
    for number, options in enumerate(
        ([], ['--threshold', '0'], ['--threshold', '0.5'], ['--classes', 'red', 'blue'])
    ):
        out = tmp_path / str(number)
        assert main([*words, '--out-dir', str(out), *options]) == 0
        content = json.loads((out / 'predictions.json').read_text())
        said.append(content.get('info', {}).get('left_out'))
    assert said == [None, None, dict(scores_below=0.5), dict(classes=['green'])]


@pytest.mark.parametrize('palette', ['coco', 'random', (220, 20, 60), None, [[220, 20, 60]] * 3])
def test_every_palette_of_mmdet_is_drawn(palette: Any, tmp_path: Path) -> None:
    visualizer = DetLocalVisualizer()
    visualizer.dataset_meta = dict(classes=CLASSES, palette=palette)
    found = InstanceData(
        bboxes=torch.tensor([[10.0, 5, 50, 35]]), labels=torch.tensor([2]), scores=torch.ones(1)
    )
    path = save_image(tmp_path / '1.png')
    sample = DetDataSample(metainfo=dict(img_path=str(path)), pred_instances=found)
    draw(visualizer, sample, tmp_path / 'drawn.png', truth=False)
    assert np.asarray(Image.open(tmp_path / 'drawn.png')).shape == (40, 60, 3)


def test_masks_are_drawn_so_many_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, visualizer = save_image(tmp_path / '1.png'), DetLocalVisualizer()
    visualizer.dataset_meta = dict(classes=CLASSES, palette=[(250, 9, 9), (9, 250, 9), (9, 9, 250)])
    masks = np.zeros((40, 60, 5), np.uint8, order='F')
    for i in range(5):
        masks[4:36, 12 * i + 1 : 12 * i + 9, i] = 1
    found = InstanceData(
        bboxes=torch.tensor([[12.0 * i + 1, 4, 12 * i + 9, 36] for i in range(5)]),
        labels=torch.tensor([0, 1, 2, 0, 1]),
        scores=torch.tensor([0.9, 0.8, 0.7, 0.6, 0.1]),
        masks=coco_mask.encode(masks),
    )
    sample = DetDataSample(
        metainfo=dict(img_path=str(path), ori_shape=(40, 60)), pred_instances=found
    )
    pictures, counts = [], []
    add = DetLocalVisualizer.add_datasample

    def counted(self: Any, *args: Any, data_sample: Any, **options: Any) -> None:
        counts.append(len(data_sample.pred_instances.masks))
        add(self, *args, data_sample=data_sample, **options)

    monkeypatch.setattr(DetLocalVisualizer, 'add_datasample', counted)
    for pixels in (1 << 20, 3 * 40 * 60, 1):
        monkeypatch.setattr(drawing, 'MASK_PIXELS', pixels)
        draw(visualizer, sample, tmp_path / 'drawn.png', truth=False)
        pictures.append(np.asarray(Image.open(tmp_path / 'drawn.png')).astype(int))
    assert counts == [4, 3, 1, 1, 1, 1, 1]
    plain = np.asarray(Image.open(path)).astype(int)
    for picture in pictures:
        for i, channel in enumerate((0, 1, 2, 0)):
            place = np.s_[30:34, 12 * i + 3 : 12 * i + 7, channel]
            assert picture[place].mean() > plain[place].mean() + 20


def test_names_of_any_script_are_drawn_without_a_warning(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    path, names = save_image(tmp_path / '1.png'), ['a', '\u7ec6\u80de', 'c']
    found = InstanceData(
        bboxes=torch.tensor([[-1.0, 5, 70, 35]]), labels=torch.tensor([1]), scores=torch.ones(1)
    )
    pictures = []
    for classes in (names, ['a', 'class 1', 'c']):
        visualizer = DetLocalVisualizer()
        visualizer.dataset_meta = meta = dict(classes=classes, palette=[[9, 9, 9]] * 3)
        sample = DetDataSample(metainfo=dict(img_path=str(path)), pred_instances=found)
        draw(visualizer, sample, tmp_path / 'drawn.png', truth=False)
        assert visualizer.dataset_meta is meta
        visualizer = SegLocalVisualizer()
        visualizer.dataset_meta = dict(classes=classes, palette=[[9, 9, 9]] * 3)
        labels = PixelData(data=torch.ones(1, 40, 60, dtype=torch.long))
        sample = SegDataSample(metainfo=dict(img_path=str(path)), pred_sem_seg=labels)
        draw(visualizer, sample, tmp_path / 'map.png', truth=False)
        pictures.append([(tmp_path / f'{name}.png').read_bytes() for name in ('drawn', 'map')])
    assert pictures[0] == pictures[1]
    said = [str(each.message) for each in recwarn]
    assert [line for line in said if 'lyph' in line or 'out of bounds' in line] == []


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


# --------------------------------------------------------------------------- test --dump


@MODELS.register_module()
class Guess(BaseDetector):
    """Detects what is annotated, somewhat off, with a wrong class now and then."""

    def __init__(self) -> None:
        super().__init__(data_preprocessor=dict(type='mmdet.DetDataPreprocessor'))
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def predict(self, inputs: Any, samples: Any, rescale: bool = True) -> Any:
        for sample in samples:
            truth = sample.gt_instances
            draw = torch.Generator().manual_seed(int(truth.bboxes.sum()))
            number = len(truth)
            shift = torch.rand(number, 1, generator=draw) * 2
            wrong = torch.rand(number, generator=draw) < 0.3
            masks = torch.as_tensor(truth.masks.masks, dtype=torch.bool)
            sample.pred_instances = InstanceData(
                bboxes=truth.bboxes + shift,
                labels=torch.where(wrong, (truth.labels + 1) % len(CLASSES), truth.labels),
                scores=torch.rand(number, generator=draw),
                masks=torch.stack(
                    [mask.roll(int(s), 1) for mask, s in zip(masks, shift, strict=True)]
                ),
            )
        return samples

    def loss(self, *args: Any) -> Any:
        raise NotImplementedError

    _forward = extract_feat = loss


GUESS = f"""
default_scope = 'mmdet'
model = dict(type='Guess')
test_dataloader = dict(
    batch_size=2,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CocoDataset',
        data_root='data/',
        ann_file='guess.json',
        data_prefix=dict(img='images/'),
        metainfo=dict(classes={CLASSES}),
        test_mode=True,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=True),
            dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape')),
        ],
    ),
)
test_cfg = dict(type='TestLoop')
test_evaluator = dict(
    type='CocoMetric', ann_file='data/guess.json', metric=['bbox', 'segm'], format_only=False
)
custom_hooks = [dict(type='KeepMetrics')]
"""
METRICS: list[dict[str, float]] = []


@HOOKS.register_module()
class KeepMetrics(Hook):
    def after_test_epoch(self, runner: Any, metrics: Any = None) -> None:
        METRICS.append(metrics)


@pytest.fixture(scope='module')
def guess(place: Path) -> Path:
    """Five images with two or three objects each, in `place`."""
    draw = np.random.default_rng(1)
    images, rows = [], []
    for i in range(5):
        images.append(dict(id=3 * i + 1, file_name=f'guess/{i}.png', width=60, height=40))
        save_image(place / 'data/images' / images[i]['file_name'])
        for j in range(2 + i % 2):
            x, y, w, h = 20 * j, int(draw.integers(0, 10)), 12, int(draw.integers(9, 25))
            rows.append(
                dict(
                    id=len(rows) + 1,
                    image_id=images[i]['id'],
                    category_id=list(CATEGORIES.values())[len(rows) % 3],
                    bbox=[x, y, w, h],
                    segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]],
                    area=w * h,
                    iscrowd=0,
                )
            )
    # In the order of the classes: mmdet numbers labels by it.
    categories = [dict(id=CATEGORIES[name], name=name) for name in CLASSES]
    content = dict(images=images, categories=categories, annotations=rows)
    (place / 'data/guess.json').write_text(json.dumps(content))
    (place / 'guess.py').write_text(GUESS)
    torch.save(dict(state_dict=Guess().state_dict(), meta={}), place / 'guess.pth')
    return place


def test_the_dump_of_a_detector_evaluates_to_the_metrics_of_the_test(
    guess: Path, here: Path, tmp_path: Path
) -> None:
    out = tmp_path / 'new/found.json'
    words = ['test', 'guess.py', 'guess.pth', '--work-dir', str(tmp_path / 'run')]
    assert main([*words, '--dump', str(out)]) == 0
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    truth = COCO('data/guess.json')
    found = truth.loadRes(str(out))
    for kind in ('bbox', 'segm'):
        evaluation = COCOeval(truth, found, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        value = METRICS[-1][f'coco/{kind}_mAP']
        assert 0.1 < value < 0.9
        assert round(evaluation.stats[0], 3) == value
    rows = json.loads(out.read_text())
    assert {row['category_id'] for row in rows} == {*CATEGORIES.values()}
    assert {'image_id', 'category_id', 'bbox', 'score', 'segmentation'} == {*rows[0]}


def test_categories_of_a_dump_are_found_by_name(guess: Path, here: Path, tmp_path: Path) -> None:
    from mmdet.datasets import CocoDataset

    content = json.loads(Path('data/guess.json').read_text())
    content['categories'].reverse()
    (tmp_path / 'reversed.json').write_text(json.dumps(content))
    dataset = CocoDataset(
        ann_file=str(tmp_path / 'reversed.json'),
        data_prefix=dict(img=''),
        metainfo=dict(classes=CLASSES),
        pipeline=[],
    )
    written = dict(ann_file=str(tmp_path / 'reversed.json'))
    hook = CocoResultsHook(tmp_path / 'found.json', [dataset], [written])
    assert hook.category_ids == [CATEGORIES[name] for name in CLASSES]


def test_a_dump_has_the_ids_of_the_users_file(guess: Path, here: Path, tmp_path: Path) -> None:
    content = json.loads(Path('data/guess.json').read_text())
    content['images'][0]['id'] = str(content['images'][0]['id'])
    content['images'][2]['file_name'] = content['images'][3]['file_name']
    for row in content['categories']:
        row['id'] = str(row['id'])
    content['categories'].reverse()
    (tmp_path / 'typed.json').write_text(json.dumps(content))
    found = {}
    for path in (here / 'data/guess.json', tmp_path / 'typed.json'):
        words = ['test', 'guess.py', 'guess.pth', '--work-dir', str(tmp_path / 'run')]
        words += ['--dump', str(tmp_path / f'{path.stem}.out'), '--cfg-options']
        words += [f'test_dataloader.dataset.ann_file={path}', f'test_evaluator.ann_file={path}']
        assert main(words) == 0
        found[path.stem] = json.loads((tmp_path / f'{path.stem}.out').read_text())
    for row in found['guess']:
        row['image_id'] = {1: '1'}.get(row['image_id'], row['image_id'])
        row['category_id'] = str(row['category_id'])
    assert found['typed'] == found['guess']


def enter_rank(rank: int, place: Path, store: Path, words: Sequence[str]) -> None:
    """One of two processes of a test."""
    torch.set_num_threads(1)
    os.chdir(place)
    os.environ |= dict(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2')
    torch.distributed.init_process_group('gloo', f'file://{store}', rank=rank, world_size=2)
    assert main(list(words)) == 0
    torch.distributed.destroy_process_group()


def on_two_ranks(place: Path, tmp_path: Path, words: Sequence[str]) -> None:
    args = (place, tmp_path / 'store', words)
    torch.multiprocessing.start_processes(enter_rank, args, nprocs=2, start_method='fork')


def test_two_ranks_dump_every_image_once(guess: Path, here: Path, tmp_path: Path) -> None:
    single, double = tmp_path / 'single.json', tmp_path / 'double.json'
    words = ['test', 'guess.py', 'guess.pth', '--work-dir', str(tmp_path / 'run')]
    assert main([*words, '--dump', str(single)]) == 0
    on_two_ranks(guess, tmp_path, [*words, '--dump', str(double)])
    one, two = (json.loads(path.read_text()) for path in (single, double))
    assert len(one) == 12
    assert sorted(map(json.dumps, one)) == sorted(map(json.dumps, two))


SEGMENTOR = f"""
_base_ = '{ROOT}/configs/segmentation/sepvit_upernet.py'
norm = dict(_delete_=True, type='BN')
head = dict(channels=8, num_classes=3, norm_cfg=norm)
model = dict(
    data_preprocessor=dict(size=(64, 64), test_cfg=dict(size_divisor=32)),
    backbone=dict(arch=dict(_delete_=True, **{SMALL['SepViT']}), drop_path_rate=0.0),
    decode_head=dict(in_channels=[8, 16, 24, 32], **head),
    auxiliary_head=dict(in_channels=24, **head),
)
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmseg.LoadAnnotations'),
    dict(type='PackSegInputs'),
]
test_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        _delete_=True,
        type='BaseSegDataset',
        data_root='maps/',
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        img_suffix='.png',
        metainfo=dict(classes={CLASSES}, palette=[[9, 0, 0], [0, 9, 0], [0, 0, 9]]),
        pipeline=pipeline,
    ),
)
"""


@pytest.fixture(scope='module')
def segmentor(place: Path) -> Path:
    """A segmentor's config and checkpoint, and three images in two folders, in `place`."""
    draw = np.random.default_rng(2)
    for name in ('a/0', 'a/1', 'b/0'):
        save_image(place / f'maps/images/{name}.png', 60, 40)
        labels = place / f'maps/labels/{name}.png'
        labels.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 3, (40, 60), dtype=np.uint8)).save(labels)
    (place / 'segmentor.py').write_text(SEGMENTOR)
    save_weights(place / 'segmentor.py', place / 'segmentor.pth', CLASSES)
    return place


def test_the_dump_of_a_segmentor_has_the_pixels_that_were_measured(
    segmentor: Path, here: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = ['test', 'segmentor.py', 'segmentor.pth', '--work-dir', str(tmp_path / 'run')]
    options = ['--cfg-options', 'custom_hooks.0.type=KeepMetrics']
    assert main([*words, '--dump', str(tmp_path / 'single'), *options]) == 0
    names = [f'{name}.png' for name in ('a/0', 'a/1', 'b/0')]
    found = [np.asarray(Image.open(tmp_path / 'single' / name)) for name in names]
    truth = [np.asarray(Image.open(f'maps/labels/{name}')) for name in names]
    assert METRICS[-1]['aAcc'] == pytest.approx(
        100 * np.mean([a == b for a, b in zip(found, truth, strict=True)]), abs=0.01
    )
    on_two_ranks(segmentor, tmp_path, [*words, '--dump', str(tmp_path / 'double')])
    assert (
        sorted(str(p.relative_to(tmp_path / 'double')) for p in tmp_path.glob('double/*/*'))
        == names
    )
    for name, labels in zip(names, found, strict=True):
        assert (np.asarray(Image.open(tmp_path / 'double' / name)) == labels).all()


def test_a_model_whose_classes_nobody_names_is_refused(
    segmentor: Path, here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load('segmentor.pth', weights_only=True)
    torch.save(dict(state_dict=content['state_dict']), tmp_path / 'bare.pth')
    words = ['infer', 'segmentor.py', str(tmp_path / 'bare.pth'), 'maps/images/a/0.png']
    options = ['--cfg-options', 'test_dataloader.dataset.metainfo=None']
    assert main([*words, '--device', 'cpu', '--out-dir', str(tmp_path / 'out'), *options]) == 2
    assert 'says which classes there are' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('model', 'way'), [('guess', 'there'), ('guess', 'below a file'), ('segmentor', 'there')]
)
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_predicted(
    guess: Path,
    segmentor: Path,
    here: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    model: str,
    way: str,
) -> None:
    kept = tmp_path / 'labels/0.png'
    kept.parent.mkdir()
    kept.write_bytes(b'mine')
    path = kept / 'below' if way != 'there' else kept if model == 'guess' else kept.parent
    words = ['test', f'{model}.py', f'{model}.pth', '--work-dir', str(tmp_path / 'run')]
    before = len(METRICS)
    assert main([*words, '--dump', str(path)]) == 2
    assert f'vitbackbones test: --dump {path} ' in capsys.readouterr().err
    assert kept.read_bytes() == b'mine'
    assert len(METRICS) == before
