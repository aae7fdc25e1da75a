"""What a training leaves behind works for everybody: for us, mmdet, mmseg and SAHI.

Three trainings of two iterations, then fresh processes that know nothing of this package but what
config and checkpoint say.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from mmengine.config import Config
from PIL import Image

from tests.small import SMALL
from vitbackbones.cli.main import main
from vitbackbones.data import demo as demo_data
from vitbackbones.launch.loading import load_config
from vitbackbones.launch.training import add_import

ROOT = Path(__file__).parents[1]

# Inherits one of ours, and is trained with --demo.
DETECTOR = f"""
_base_ = '{ROOT}/configs/detection/sepvit_retinanet.py'
model = dict(
    backbone=dict(arch=dict(_delete_=True, **{SMALL['SepViT']!r})),
    neck=dict(in_channels=[16, 24, 32], out_channels=16),
    bbox_head=dict(in_channels=16, feat_channels=16, stacked_convs=1),
    test_cfg=dict(score_thr=0.0, max_per_img=5),
)
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(96, 96), keep_ratio=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
"""

# Inherits one of mmdet, names neither our hooks nor our package, and has data of its own.
MASKS = f"""
_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
model = dict(
    backbone=dict(_delete_=True, type='SepViT', arch={SMALL['SepViT']!r}),
    neck=dict(in_channels=[8, 16, 24, 32], out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=16),
        mask_roi_extractor=dict(out_channels=16),
        mask_head=dict(in_channels=16, conv_out_channels=16, num_convs=1),
    ),
    # SAHI refuses masks that are empty, as those of a model that has learned nothing may be.
    test_cfg=dict(rcnn=dict(score_thr=0.0, max_per_img=5, mask_thr_binary=0.0)),
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(96, 96), keep_ratio=True),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(96, 96), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
root = 'ROOT/data/demo/coco/'
train_dataloader = dict(num_workers=0, persistent_workers=False)
train_dataloader['dataset'] = dict(data_root=root, pipeline=train_pipeline)
val_dataloader = dict(num_workers=0, persistent_workers=False)
val_dataloader['dataset'] = dict(data_root=root, pipeline=test_pipeline)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=root + 'annotations/instances_val2017.json')
test_evaluator = val_evaluator
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=1e-4))
param_scheduler = []
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=2, val_interval=2)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=2))
"""

# Inherits one of ours, and has data of its own.
SEGMENTOR = f"""
_base_ = '{ROOT}/configs/segmentation/casvit_upernet.py'
model = dict(
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(arch=dict(_delete_=True, **{SMALL['CASViT']!r}), init_cfg=None, norm_eval=False),
    decode_head=dict(in_channels=[8, 12, 16, 24], channels=16),
    auxiliary_head=dict(in_channels=16, channels=16),
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='RandomCrop', crop_size=(64, 64)),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(96, 96), keep_ratio=True),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='PackSegInputs'),
]
root = 'ROOT/data/demo/ade20k'
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)
train_dataloader['dataset'] = dict(data_root=root, pipeline=train_pipeline)
val_dataloader = dict(num_workers=0, persistent_workers=False)
val_dataloader['dataset'] = dict(data_root=root, pipeline=test_pipeline)
test_dataloader = val_dataloader
param_scheduler = []
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=2, val_interval=2)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=2))
"""

DEMO = [
    '--demo',
    '--cfg-options',
    'train_cfg.max_iters=2',
    *(
        f'{split}_dataloader.{option}'
        for split in ('train', 'val', 'test')
        for option in ('num_workers=0', 'persistent_workers=False')
    ),
]


class Run(NamedTuple):
    """A training: the user's config, the one that it saved, and its checkpoint."""

    config: Path
    saved: Path
    checkpoint: Path


@pytest.fixture(scope='module')
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('left')
    demo_data.generate(folder / 'data/demo', train=4, val=2)
    return folder


def train(place: Path, name: str, content: str, *words: str) -> Run:
    config = place / f'{name}.py'
    config.write_text(content.replace('ROOT/', f'{place}/'))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main(['train', str(config), '--work-dir', name, *words]) == 0
    return Run(config, place / name / config.name, place / name / 'iter_2.pth')


@pytest.fixture(scope='module')
def detector(place: Path) -> Run:
    return train(place, 'detector', DETECTOR, *DEMO)


@pytest.fixture(scope='module')
def masks(place: Path) -> Run:
    return train(place, 'masks', MASKS)


@pytest.fixture(scope='module')
def segmentor(place: Path) -> Run:
    return train(place, 'segmentor', SEGMENTOR)


def fresh(place: Path, code: str, **values: Any) -> Any:
    """What ``code`` prints last, as JSON, in a process of its own; it finds ``values`` as names."""
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', f'{PRELUDE}\n{code}', json.dumps(values)],
        cwd=place,
        env={**os.environ, 'PYTHONPATH': f'{ROOT}:{os.environ.get("PYTHONPATH", "")}'},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


PRELUDE = """
import contextlib, json, runpy, sys
import mmcv, torch
torch.set_num_threads(1)
globals().update(json.loads(sys.argv[1]))
assert 'vitbackbones' not in sys.modules

def tool(package, *words):
    sys.argv = ['test.py', *words]
    path = __import__(package).__path__[0] + '/.mim/tools/test.py'
    runpy.run_path(path, run_name='__main__')

def vitbackbones(*words):
    from vitbackbones.cli.main import main
    assert main(words) == 0, words
"""


@pytest.mark.parametrize('kind', ['detector', 'masks', 'segmentor'])
def test_the_saved_config_is_what_was_written(kind: str, request: pytest.FixtureRequest) -> None:
    run = request.getfixturevalue(kind)
    saved = Config.fromfile(run.saved)
    ours = ('custom_hooks', 'custom_imports', 'work_dir', 'launcher')
    assert 'CheckedPipeline' not in saved.pretty_text
    assert saved.custom_imports == dict(imports=['vitbackbones'], allow_failed_imports=False)
    content = torch.load(run.checkpoint, weights_only=True)
    texts = content['meta']['cfg'], content['message_hub']['runtime_info']['cfg']
    assert texts == (saved.pretty_text, saved.pretty_text)
    if kind != 'detector':  # which --demo has changed
        written = Config.fromfile(run.config).to_dict()
        found = saved.to_dict()
        for key in (*ours, 'default_scope'):
            written.pop(key, None), found.pop(key, None)
        assert found == written


@pytest.mark.parametrize('leaf', ['detection/sepvit_retinanet', 'segmentation/casvit_upernet'])
def test_the_demo_validates_and_tests_with_loaders_of_their_own(
    leaf: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    cfg = load_config(f'vitbackbones::{leaf}.py', demo=True)
    tested = cfg.test_dataloader.to_dict()
    cfg.val_dataloader.dataset.pipeline.clear()
    cfg.val_evaluator.type = 'Other'
    assert cfg.test_dataloader == tested
    assert cfg.test_evaluator.type != 'Other'


@pytest.mark.parametrize(
    ('own', 'expected'),
    [
        (None, (['vitbackbones'], False)),
        (dict(imports='mine'), (['vitbackbones', 'mine'], False)),
        (dict(imports=['mine'], allow_failed_imports=True), (['vitbackbones', 'mine'], True)),
        (dict(imports=['mine', 'vitbackbones.engine']), (['mine', 'vitbackbones.engine'], False)),
    ],
)
def test_imports_of_the_user_stay(own: Any, expected: tuple[list[str], bool]) -> None:
    cfg = Config(dict(custom_imports=own) if own else {})
    add_import(cfg)
    imports, failing = expected
    assert cfg.custom_imports == dict(imports=imports, allow_failed_imports=failing)


def test_weights_alone_make_a_detector_in_a_fresh_process(place: Path, masks: Run) -> None:
    code = """
from mmdet.apis import DetInferencer
inferencer = DetInferencer(weights=checkpoint, device='cpu', show_progress=False)
print(json.dumps([len(p['masks']) for p in inferencer(image)['predictions']]))
"""
    image = min((place / 'data/demo/coco/val2017').glob('*.jpg'))
    assert fresh(place, code, checkpoint=str(masks.checkpoint), image=str(image)) == [5]


DETECT = """
from mmdet.apis import DetInferencer, inference_detector, init_detector
found = {}
arrays = [mmcv.imread(image) for image in images]
for name, (config, checkpoint) in models.items():
    inferencer = DetInferencer(config, checkpoint, device='cpu', show_progress=False)
    calls = [images[0], arrays[0], images, arrays]
    found[name] = [
        [len(p['scores']) for p in inferencer(each, batch_size=2)['predictions']] for each in calls
    ]
    model = init_detector(config, checkpoint, device='cpu')
    results = inference_detector(model, images)  # arrays change the model's config for good
    results.append(inference_detector(model, arrays[0]))
    found[name].append([len(result.pred_instances) for result in results])

from sahi import AutoDetectionModel
from sahi.predict import get_sliced_prediction
for name, (config, checkpoint) in models.items():
    model = AutoDetectionModel.from_pretrained(
        model_type='mmdet', model_path=checkpoint, config_path=config, device='cpu',
        confidence_threshold=0.0,
    )
    sliced = get_sliced_prediction(
        images[0], model, slice_height=80, slice_width=80, verbose=0, perform_standard_pred=False
    )
    found[name].append(len(sliced.object_prediction_list) > 0)

for name, (config, checkpoint) in models.items():
    if name == 'shipped':
        continue
    tool('mmdet', config, checkpoint, '--work-dir', f'tool_{name}')
    vitbackbones('test', config, checkpoint, '--work-dir', f'ours_{name}')
    vitbackbones('infer', config, checkpoint, *images, '--out-dir', f'found_{name}')
print()
print(json.dumps(found))
"""


def test_a_detector_is_used_by_all_who_read_config_and_checkpoint(
    place: Path, detector: Run, masks: Run
) -> None:
    images = sorted(map(str, (place / 'data/demo/coco/val2017').glob('*.jpg')))
    models = {
        'masks': (masks.saved, masks.checkpoint),
        'saved': (detector.saved, detector.checkpoint),
        'shipped': (detector.config, detector.checkpoint),
    }
    models = {name: [*map(str, paths)] for name, paths in models.items()}
    found = fresh(place, DETECT, models=models, images=images)
    for name in models:
        assert found[name] == [[5], [5], [5, 5], [5, 5], [5, 5, 5], True], name
    for name in ('masks', 'saved'):
        predictions = json.loads((place / f'found_{name}/predictions.json').read_text())
        assert len(predictions['annotations']) == 10


def test_a_damaged_image_is_named_while_testing(
    place: Path, masks: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for image in (place / 'data/demo/coco/val2017').glob('*.jpg'):
        (tmp_path / image.name).write_bytes(image.read_bytes()[:200])
    words = ['--cfg-options', f'test_dataloader.dataset.data_prefix.img={tmp_path}']
    words += ['--work-dir', str(tmp_path / 'tested')]
    assert main(['test', str(masks.saved), str(masks.checkpoint), *words]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f'vitbackbones test: {tmp_path}/')


SEGMENT = """
from mmseg.apis import MMSegInferencer, inference_model, init_model
found = {}
arrays = [mmcv.imread(image) for image in images]
for name, config in dict(shipped=shipped, saved=saved).items():
    inferencer = MMSegInferencer(config, checkpoint, device='cpu')
    maps = [inferencer(each)['predictions'] for each in (images[0], arrays[0])]
    maps += [*inferencer(images)['predictions'], *inferencer(arrays)['predictions']]
    model = init_model(config, checkpoint, device='cpu')
    maps.append(inference_model(model, arrays[0]).pred_sem_seg.data[0])
    found[name] = [list(each.shape) for each in maps]
tool('mmseg', saved, checkpoint, '--work-dir', 'tool_seg')
vitbackbones('test', saved, checkpoint, '--work-dir', 'ours_seg')
vitbackbones('infer', saved, checkpoint, *images, '--out-dir', 'found_seg')
print()
print(json.dumps(found))
"""


def test_a_segmentor_is_used_by_all_who_read_config_and_checkpoint(
    place: Path, segmentor: Run
) -> None:
    images = sorted(map(str, (place / 'data/demo/ade20k/images/validation').glob('*.jpg')))
    shipped, saved, checkpoint = map(str, segmentor)
    values = dict(shipped=shipped, saved=saved, checkpoint=checkpoint, images=images)
    found = fresh(place, SEGMENT, **values)
    first, second = (list(Image.open(image).size[::-1]) for image in images)
    expected = [first, first, first, second, first, second, first]
    assert found == dict(shipped=expected, saved=expected)
    assert len(list((place / 'found_seg').glob('*_labels.png'))) == 2
