"""`test --tta`: views of an image that are tested, and what is made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.models.detectors import BaseDetector
from mmengine.registry import MODELS
from mmengine.structures import InstanceData
from mmseg.models.segmentors import BaseSegmentor
from PIL import Image

from vitbackbones.cli.main import main
from vitbackbones.errors import UserError
from vitbackbones.inference.tta import check_views
from vitbackbones.launch import demo
from vitbackbones.launch.loading import load_config

#: Of images of 60 x 40 pixels, what is red: (x1, y1, x2, y2).
OBJECTS = {'a': (5, 8, 25, 24), 'b': (30, 12, 50, 32)}
VIEWS: list[tuple[tuple[int, int], bool]] = []  # that a model has seen: size, and whether mirrored


def is_red(x: torch.Tensor) -> torch.Tensor:
    """(3, H, W) in B, G, R -> (H, W)."""
    return (x[2] > 128) & (x[1] < 100)


@MODELS.register_module()
class FindsLargeOnes(BaseDetector):
    """Detects what is red and at least 24 pixels wide."""

    def __init__(self) -> None:
        super().__init__(data_preprocessor=dict(type='mmdet.DetDataPreprocessor'))
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def predict(self, inputs: Any, samples: Any, rescale: bool = True) -> Any:
        for x, sample in zip(inputs, samples, strict=True):
            VIEWS.append((tuple(x.shape[1:]), bool(sample.metainfo.get('flip'))))
            rows, columns = is_red(x).nonzero(as_tuple=True)
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            found = torch.tensor([box if box[2] - box[0] >= 24 else []]).float().view(-1, 4)
            sample.pred_instances = InstanceData(
                bboxes=found / found.new_tensor(sample.scale_factor).repeat(2),
                labels=torch.zeros(len(found), dtype=torch.long),
                scores=torch.full((len(found),), 0.9),
            )
        return samples

    def loss(self, *args: Any) -> Any:
        raise NotImplementedError

    _forward = extract_feat = loss


@MODELS.register_module()
class LooksToTheRight(BaseSegmentor):
    """Tells red from the rest, but doubts it in the left half of what it is given."""

    align_corners, out_channels = False, 2

    def __init__(self, data_preprocessor: Any) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def predict(self, inputs: Any, samples: Any) -> Any:
        red = torch.stack([is_red(x) for x in inputs])
        logits = 4.0 * red[:, None] - 2
        left = torch.arange(red.shape[2]) < red.shape[2] / 2
        logits = torch.where(left & red[:, None], torch.tensor(-0.4), logits)
        return self.postprocess_result(torch.cat([-logits, logits], 1), samples)

    def loss(self, *args: Any) -> Any:
        raise NotImplementedError

    _forward = extract_feat = encode_decode = loss


DETECTOR = """
default_scope = 'mmdet'
model = dict(type='FindsLargeOnes')
steps = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(60, 40), keep_ratio=True),
    dict(type='Pad', size=(64, 64)),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'scale_factor')),
]
test_dataloader = dict(
    batch_size=2,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CocoDataset',
        ann_file='truth.json',
        data_prefix=dict(img='images/'),
        metainfo=dict(classes=('red',)),
        test_mode=True,
        pipeline=steps,
    ),
)
test_cfg = dict(type='TestLoop')
test_evaluator = dict(type='CocoMetric', ann_file='truth.json', metric='bbox')
"""

SEGMENTOR = """
default_scope = 'mmseg'
model = dict(type='LooksToTheRight', data_preprocessor=dict(type='mmseg.SegDataPreProcessor'))
steps = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(60, 40), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
test_dataloader = dict(
    batch_size=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='BaseSegDataset',
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        img_suffix='.png',
        metainfo=dict(classes=('other', 'red'), palette=[[0, 0, 0], [250, 0, 0]]),
        pipeline=steps,
    ),
)
test_cfg = dict(type='TestLoop')
test_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
"""


@pytest.fixture(scope='module')
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both models, two images, and what is in them."""
    folder = tmp_path_factory.mktemp('tta')
    images, rows = [], []
    for part in ('images', 'labels', 'wrong'):
        (folder / part).mkdir()
    for i, (name, (x1, y1, x2, y2)) in enumerate(OBJECTS.items()):
        pixels = np.full((40, 60, 3), 40, np.uint8)
        labels = np.zeros((40, 60), np.uint8)
        pixels[y1:y2, x1:x2] = (250, 20, 20)
        labels[y1:y2, x1:x2] = 1
        Image.fromarray(pixels).save(folder / f'images/{name}.png')
        Image.fromarray(labels).save(folder / f'labels/{name}.png')
        Image.fromarray(labels * 7).save(folder / f'wrong/{name}.png')
        images.append(dict(id=i, file_name=f'{name}.png', width=60, height=40))
        box = [x1, y1, x2 - x1, y2 - y1]
        rows.append(
            dict(id=i, image_id=i, category_id=1, bbox=box, area=box[2] * box[3], iscrowd=0)
        )
    content = dict(images=images, categories=[dict(id=1, name='red')], annotations=rows)
    (folder / 'truth.json').write_text(json.dumps(content))
    (folder / 'detector.py').write_text(DETECTOR)
    (folder / 'segmentor.py').write_text(SEGMENTOR)
    for name in ('detector', 'segmentor'):
        torch.save(dict(state_dict=dict(weight=torch.zeros(1)), meta={}), folder / f'{name}.pth')
    return folder


@pytest.fixture
def test(place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Run the command; where predictions are."""
    monkeypatch.chdir(place)
    VIEWS.clear()

    def run(model: str, *words: str, status: int = 0) -> Path:
        out = tmp_path / f'found{len([*tmp_path.iterdir()])}'
        command = ['test', f'{model}.py', f'{model}.pth', '--work-dir', str(tmp_path / 'run')]
        assert main([*command, '--dump', str(out), *words]) == status
        return out

    return run


def test_boxes_of_all_views_are_merged_where_they_are_in_the_image(test: Any) -> None:
    assert json.loads(test('detector').read_text()) == []
    VIEWS.clear()
    found = json.loads(test('detector', '--tta').read_text())
    assert [row['image_id'] for row in found] == [0, 1]  # one for each, of two views that have it
    for row, (x1, y1, x2, y2) in zip(found, OBJECTS.values(), strict=True):
        assert row['bbox'] == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=1)
    sizes = [(64, 64), (64, 64), (96, 96)]  # padded after they are mirrored
    assert VIEWS[::2] == [(size, flip) for size in sizes for flip in (False, True)]


def test_labels_of_mirrored_views_are_mirrored_back(test: Any) -> None:
    def wrong(*words: str) -> int:
        out = test('segmentor', *words)
        pairs = [(out / f'{name}.png', f'labels/{name}.png') for name in OBJECTS]
        labels = [[np.asarray(Image.open(path)) for path in pair] for pair in pairs]
        return sum(int((found != truth).sum()) for found, truth in labels)

    assert wrong() > 300
    assert wrong('--tta') < 30  # at edges, which are resized


def test_what_a_config_says_of_views_goes_before(test: Any, place: Path) -> None:
    (place / 'own.py').write_text(
        "_base_ = 'detector.py'\n"
        'tta_pipeline = [\n'
        "    dict(type='LoadImageFromFile'),\n"
        "    dict(type='TestTimeAug', transforms=[\n"
        "        [dict(type='Resize', scale=(90, 60))],\n"
        "        [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)],\n"
        "        [dict(type='PackDetInputs', meta_keys=(\n"
        "            'img_id', 'img_path', 'ori_shape', 'scale_factor', 'flip',\n"
        "            'flip_direction'))],\n"
        '    ]),\n'
        ']\n'
        "tta_model = dict(type='DetTTAModel', tta_cfg=dict(\n"
        "    nms=dict(type='nms', iou_threshold=0.99), max_per_img=1))\n"
    )
    (place / 'own.pth').write_bytes((place / 'detector.pth').read_bytes())
    found = json.loads(test('own', '--tta').read_text())
    assert [row['image_id'] for row in found] == [0, 1]
    assert set(VIEWS) == {((60, 90), True), ((60, 90), False)}
    test('own', '--tta', '--cfg-options', 'tta_pipeline=None')
    assert ((96, 96), True) in VIEWS


def test_views_of_the_config_are_not_those_of_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, 'ensure', lambda out: None)  # no image is read
    config = 'vitbackbones::segmentation/sepvit_upernet.py'
    assert load_config(config).tta_pipeline
    assert load_config(config, demo=True).get('tta_pipeline') is None


def test_label_maps_of_views_are_looked_at(test: Any, capsys: pytest.CaptureFixture[str]) -> None:
    words = ('--cfg-options', 'test_dataloader.dataset.data_prefix.seg_map_path=wrong')
    test('segmentor', '--tta', *words, status=2)
    assert 'wrong/a.png: ' in capsys.readouterr().err


def test_label_maps_of_views_of_a_config_are_looked_at(
    test: Any, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / 'views.py').write_text(
        "_base_ = 'segmentor.py'\n"
        'tta_pipeline = [\n'
        "    dict(type='LoadImageFromFile'),\n"
        "    dict(type='TestTimeAug', transforms=[\n"
        "        [dict(type='Resize', scale=(60, 40), keep_ratio=True)],\n"
        "        [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)],\n"
        "        [dict(type='LoadAnnotations')],\n"
        "        [dict(type='PackSegInputs')],\n"
        '    ]),\n'
        ']\n'
    )
    (place / 'views.pth').write_bytes((place / 'segmentor.pth').read_bytes())
    test('views', '--tta')
    words = ('--cfg-options', 'test_dataloader.dataset.data_prefix.seg_map_path=wrong')
    test('views', '--tta', *words, status=2)
    assert 'wrong/a.png: ' in capsys.readouterr().err


def test_a_segmentor_of_one_channel_is_refused() -> None:
    cfg = load_config('vitbackbones::segmentation/shvit_upernet.py')
    check_views(cfg)
    cfg.model.decode_head.update(num_classes=2, out_channels=1)
    with pytest.raises(UserError, match='decode_head has out_channels=1'):
        check_views(cfg)


# Of bad input: the config, and what is said of it.
REFUSED = {
    'masks': (
        "model = dict(type='MaskRCNN', roi_head=dict(mask_head=dict(type='FCNMaskHead')))",
        'MaskRCNN predicts masks',
    ),
    'masks that are loaded': (
        'steps = [*_base_.steps]\n'
        "steps[3] = dict(type='LoadAnnotations', with_bbox=True, with_mask=True)\n"
        'test_dataloader = dict(dataset=dict(pipeline=steps))',
        'FindsLargeOnes predicts masks',
    ),
    'no scale': (
        "steps = [dict(type='LoadImageFromFile'), dict(type='PackDetInputs')]\n"
        'test_dataloader = dict(dataset=dict(pipeline=steps))',
        'the test pipeline, LoadImageFromFile, PackDetInputs, has no Resize',
    ),
}


@pytest.mark.parametrize('case', REFUSED)
def test_what_cannot_be_merged_is_refused_in_one_sentence(
    test: Any, place: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    change, message = REFUSED[case]
    (place / 'refused.py').write_text(f"_base_ = 'detector.py'\n{change}\n")
    (place / 'refused.pth').write_bytes((place / 'detector.pth').read_bytes())
    out = test('refused', '--tta', status=2)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f'vitbackbones test: --tta: {message}')
    assert not out.exists()


def test_an_exported_file_has_one_view(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['test', str(place / 'detector.py'), 'model.onnx', '--tta']) == 2
    assert '--tta: model.onnx is an ONNX file' in capsys.readouterr().err
