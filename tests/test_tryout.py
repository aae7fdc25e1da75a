"""A config tried before it is trained: what is found out, and what stops it."""

from __future__ import annotations

import ast
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from tests import models
from tests.test_e2e import NARROW, ROOT
from vitbackbones.data import demo as demo_data
from vitbackbones.errors import UserError
from vitbackbones.launch import noise
from vitbackbones.launch.loading import load_config
from vitbackbones.launch.noise import fit_to_noise, noise_batch
from vitbackbones.launch.tryout import Tryout, try_out
from vitbackbones.launch.tryout_process import try_here

NAME = 'sepvit_mask_rcnn'


@pytest.fixture(scope='module')
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a demo set of few images."""
    folder = tmp_path_factory.mktemp('tryout')
    demo_data.generate(folder / demo_data.OUT, train=6, val=2)
    return folder


@pytest.fixture
def narrow(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """The demo of a narrow Mask R-CNN."""
    monkeypatch.chdir(place)
    options: dict[str, Any] = {
        'train_dataloader.batch_size': 2,
        'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False,
        'val_dataloader.num_workers': 0,
        'val_dataloader.persistent_workers': False,
    }
    for word in NARROW[NAME]:
        key, value = word.split('=')
        options[key] = value if value.isalpha() else ast.literal_eval(value)
    cfg = load_config(str(ROOT / f'configs/detection/{NAME}.py'), options, demo=True)
    monkeypatch.chdir(tmp_path)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.data_root = str(place / loader.dataset.data_root)
    cfg.val_evaluator.ann_file = str(place / cfg.val_evaluator.ann_file)
    return cfg


def written(cfg: Config, folder: Path) -> str:
    cfg.dump(folder / 'my.py')
    return str(folder / 'my.py')


def test_what_a_training_will_take_is_found_out_and_nothing_is_left(
    narrow: Config, tmp_path: Path
) -> None:
    narrow.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=10, val_begin=3, val_interval=2)
    narrow.param_scheduler = []
    narrow.default_hooks.checkpoint.by_epoch = True
    narrow.log_processor.by_epoch = True
    narrow.train_dataloader.sampler.type = 'DefaultSampler'
    before = (written(narrow, tmp_path), (tmp_path / 'my.py').read_text())
    found = try_out(before[0])
    assert (found.iterations, found.validations) == (30, 4)  # after epochs 4, 6, 8 and 10
    assert found.seconds == 30 * found.iteration + 4 * found.validation
    assert found.iteration > 0
    assert 2**28 < found.memory < 2**33
    assert found.loss > 0
    assert 'in 2 images' in found.predicted
    assert found.idle == ()
    assert any('random weights' in line for line in found.said)
    assert os.listdir(tmp_path) == ['my.py']
    assert (tmp_path / 'my.py').read_text() == before[1]


def test_a_config_without_its_data_is_tried_on_noise(
    narrow: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noise, 'SIDE', 128)
    for loader in (narrow.train_dataloader, narrow.val_dataloader):
        loader.dataset.data_root = str(tmp_path / 'none')
    found = try_here(written(narrow, tmp_path), str(tmp_path / 'out'))
    assert found['noise']
    assert found['loss'] > 0
    assert found['predicted'].endswith('in 2 images')


def test_parameters_without_gradient_are_named(narrow: Config, tmp_path: Path) -> None:
    narrow.model.neck.update(end_level=2, num_outs=3)  # nothing reads the last map
    narrow.model.rpn_head.anchor_generator.strides = [4, 8, 16]
    for part in ('bbox_roi_extractor', 'mask_roi_extractor'):
        narrow.model.roi_head[part].featmap_strides = [4, 8, 16]
    found = try_here(written(narrow, tmp_path), str(tmp_path / 'out'))
    assert 'backbone.norm_list.3.weight' in found['idle']
    assert all('backbone.' in name for name in found['idle'])
    assert any('nothing reads map 3' in line for line in found['said'])


def test_failures_are_one_sentence(narrow: Config, tmp_path: Path) -> None:
    path = written(narrow, tmp_path)
    narrow.model.neck.in_channels = [1, 2, 3, 4]
    with pytest.raises(UserError, match='training cannot start:'):
        try_here(written(narrow, tmp_path), str(tmp_path / 'out'))
    Path(path).write_text("__import__('os').kill(__import__('os').getpid(), 9)\n")
    with pytest.raises(UserError, match='killed in its first steps, as happens when memory'):
        try_out(path)


def test_what_is_printed() -> None:
    found = Tryout(
        device='cpu',
        noise=False,
        loss=1.23456,
        predicted='7 objects in 2 images',
        iteration=0.5,
        validation=60.0,
        iterations=1000,
        validations=10,
        memory=3 * 2**29,
        idle=('neck.conv.weight', 'neck.conv.bias'),
        said=('something is odd',),
    )
    assert list(found.lines()) == [
        'something is odd',
        '2 parameters got no gradient: neck.conv.weight, neck.conv.bias',
        'tried: one training step (loss 1.235) and one prediction (7 objects in 2 images), 1.5 GiB '
        'of resident memory (cpu)',
        '0.50 s per iteration, as busy as the machine is now: 1000 iterations and 10 validations '
        'take at most about 18 min',
    ]
    *_, last = replace(found, iteration=60.0).lines()
    assert last.startswith('shorter: ')


@pytest.mark.parametrize('kind', ['retinanet', 'upernet'])
def test_models_learn_from_noise_and_predict(kind: str) -> None:
    cfg = getattr(models, kind)()
    scope = cfg['type'].partition('.')[0]
    preprocessor = 'DetDataPreprocessor' if scope == 'mmdet' else 'SegDataPreProcessor'
    cfg['data_preprocessor'] = dict(type=f'{scope}.{preprocessor}')
    fit_to_noise(cfg, side=64)
    nms = dict(type='nms', iou_threshold=0.5)
    cfg['test_cfg'] |= dict(nms_pre=50, score_thr=0.0, nms=nms, max_per_img=9)
    model = models.build(cfg)
    with DefaultScope.overwrite_default_scope(scope):
        batch = noise_batch(cfg, number=2, side=64)
        losses = model.train_step(batch, models.adamw(model))
        assert torch.isfinite(losses['loss'])
        assert len(model.eval().val_step(batch)) == 2
    assert torch.equal(noise_batch(cfg, side=64)['inputs'][1], batch['inputs'][1])
