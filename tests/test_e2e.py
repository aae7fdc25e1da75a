"""Whole runs: every default config trains, is tested and draws what it finds, as a user runs it.

All twenty run under the marker `e2e`, at full size; in every run of the tests there are two of
them, narrower.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from vitbackbones.data import demo as demo_data

ROOT = Path(__file__).parents[1]
DEFAULTS = sorted(
    path for task in ('detection', 'segmentation') for path in ROOT.glob(f'configs/{task}/*.py')
)
TRAIN = (
    *('train_cfg.max_iters=3', 'train_dataloader.batch_size=2', 'train_dataloader.num_workers=0'),
    *('train_dataloader.persistent_workers=False', 'default_hooks.checkpoint.save_optimizer=False'),
    *('val_dataloader.num_workers=0', 'val_dataloader.persistent_workers=False'),
    'default_hooks.logger.interval=1',
)
TEST = ('test_dataloader.num_workers=0', 'test_dataloader.persistent_workers=False')
# After three iterations nothing has a high score: show the best of what there is.
FEW = ('score_thr=0.0', 'max_per_img=5')
NARROW = {
    'sepvit_mask_rcnn': (
        *('model.backbone.arch=lite', 'model.neck.in_channels=[32,64,128,256]'),
        *('model.roi_head.bbox_head.fc_out_channels=64', 'model.roi_head.mask_head.num_convs=1'),
    ),
    'casvit_upernet': (
        *('model.backbone.arch=xs', 'model.decode_head.in_channels=[48,56,112,220]'),
        *('model.auxiliary_head.in_channels=112', 'model.decode_head.channels=32'),
        'model.auxiliary_head.channels=32',
    ),
}


def run(*words: object, cwd: Path) -> str:
    """Run Python with ``words``; what it printed, after checking that it succeeded."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=3600,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope='module')
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a demo set of few images."""
    folder = tmp_path_factory.mktemp('e2e')
    demo_data.generate(folder / demo_data.OUT, train=6, val=2)
    return folder


def check(
    config: Path, place: Path, *, words: Sequence[str] = (), options: Sequence[str] = ()
) -> None:
    """Train, test and infer: metrics are printed, and every image shows what was predicted."""
    name = config.stem
    segmentor = name.endswith('upernet')
    masks = name.endswith('mask_rcnn')
    out = run(
        *(ROOT / 'tools/train.py', config, '--demo', '--work-dir', name, *words),
        *('--cfg-options', *TRAIN, *options),
        cwd=place,
    )
    losses = [float(loss) for loss in re.findall(r'Iter\(train\).* loss: (\S+)', out)]
    assert len(losses) == 3
    assert np.isfinite(losses).all()
    checkpoint = f'{name}/iter_3.pth'
    limits = 'model.test_cfg.rcnn' if masks else 'model.test_cfg'
    options = [*TEST, *options, *(() if segmentor else (f'{limits}.{limit}' for limit in FEW))]
    out = run(
        *(ROOT / 'tools/test.py', config, checkpoint, '--demo', '--work-dir', name),
        *('--show-dir', f'{name}/shown', '--show-score', 0, '--cfg-options', *options),
        cwd=place,
    )
    assert ('mIoU:' if segmentor else 'bbox_mAP_50:') in out
    assert ('segm_mAP_50:' in out) is masks

    data = 'ade20k/images/validation' if segmentor else 'coco/val2017'
    images = sorted((place / demo_data.OUT / data).iterdir())
    run(
        *(ROOT / 'tools/infer.py', config, checkpoint, *images, '--demo'),
        *('--out-dir', f'{name}/found', '--cfg-options', *options),
        cwd=place,
    )
    for image in images:
        plain = np.asarray(Image.open(image)).astype(int)
        height, width, _ = plain.shape
        shown = np.asarray(Image.open(place / name / 'shown' / image.name)).astype(int)
        assert shown.shape == (height, 2 * width, 3)  # ground truth at the left
        changed = abs(shown[:, width:] - plain).max(axis=2) > 16
        if segmentor:
            labels = np.asarray(Image.open(place / name / f'found/{image.stem}_labels.png'))
            assert labels.shape == (height, width)
            assert changed.mean() > 0.9
            continue
        found = json.loads((place / name / 'found/predictions.json').read_text())
        (number,) = [row['id'] for row in found['images'] if row['file_name'] == image.name]
        rows = [row for row in found['annotations'] if row['image_id'] == number]
        assert rows
        assert changed.any()
        if masks:
            covered = coco_mask.decode([row['segmentation'] for row in rows]).any(axis=2)
            assert covered.any()
            assert changed[covered].mean() > 0.9


@pytest.mark.parametrize(
    ('name', 'words'),
    [('detection/sepvit_mask_rcnn', ('--amp',)), ('segmentation/casvit_upernet', ())],
)
def test_a_narrow_default_trains_and_draws(name: str, words: Sequence[str], place: Path) -> None:
    config = ROOT / f'configs/{name}.py'
    check(config, place, words=words, options=NARROW[config.stem])


@pytest.mark.e2e
@pytest.mark.parametrize('config', DEFAULTS, ids=lambda path: path.stem)
def test_default_trains_and_draws(config: Path, place: Path) -> None:
    check(config, place)
    shutil.rmtree(place / config.stem)  # hundreds of megabytes


@pytest.mark.e2e
def test_the_marker_covers_five_backbones_with_four_heads() -> None:
    backbones = ('casvit', 'gcvit', 'sepvit', 'shvit', 'supervit')
    heads = ('retinanet', 'mask_rcnn', 'cascade_mask_rcnn', 'upernet')
    assert sorted(p.stem for p in DEFAULTS) == sorted(f'{b}_{h}' for b in backbones for h in heads)


@pytest.mark.e2e
@pytest.mark.parametrize(
    'name', ['detection/gcvit/gcvit-large_dino-4scale_36e', 'segmentation/shvit_upernet']
)
def test_the_demo_trains_its_smallest_arch(name: str, place: Path) -> None:
    out = run(
        *('-m', 'vitbackbones', 'demo', ROOT / f'configs/{name}.py'),
        *('--iterations', 2, '--work-dir', 'demo'),
        cwd=place,
    )
    assert ('mIoU' if 'segmentation' in name else 'bbox_mAP_50') in out
    assert Image.open(place / 'demo/predictions.png').width > 1000
    shutil.rmtree(place / 'demo')
