"""Validation losses, early stopping and naming the best checkpoint."""

from __future__ import annotations

import copy
import json
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.evaluator import BaseMetric
from mmengine.logging import MessageHub
from mmengine.registry import METRICS
from mmengine.runner import Runner
from PIL import Image
from torch import nn

from tests import models
from tests.toy_training import DEFAULT, Signal, make_runner
from vitbackbones.engine import validation_loss
from vitbackbones.engine.early_stopping import EarlyStoppingHook
from vitbackbones.engine.trial import as_if_training
from vitbackbones.engine.validation_loss import ValidationLossHook
from vitbackbones.errors import UserError

CLASSES = ('round', 'square')
SIZES = ((96, 64), (64, 96), (80, 80))  # of images, width and height
SCALE = (120, 80)  # other than those of the images
PREPROCESSOR = dict(
    type='mmdet.DetDataPreprocessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    pad_size_divisor=32,
)
LEARNING = dict(
    rpn=dict(
        assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.7, neg_iou_thr=0.3, min_pos_iou=0.3),
        sampler=dict(type='RandomSampler', num=16, pos_fraction=0.5, add_gt_as_proposals=False),
        allowed_border=-1,
        pos_weight=-1,
    ),
    rpn_proposal=dict(nms_pre=50, max_per_img=20, nms=dict(type='nms', iou_threshold=0.7)),
    rcnn=dict(
        assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.5),
        sampler=dict(type='RandomSampler', num=16, pos_fraction=0.5, add_gt_as_proposals=True),
        mask_size=8,
        pos_weight=-1,
    ),
)


# ------------------------------------------------------------------------------ data, models


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of three sizes with objects, a crowd and label maps; the last one has no object."""
    root = tmp_path_factory.mktemp('data')
    draw = np.random.default_rng(0)
    images: list[Any] = []
    rows: list[Any] = []
    for i, (width, height) in enumerate(SIZES):
        pixels = draw.integers(0, 255, (height, width, 3), dtype=np.uint8)
        labels = draw.integers(0, 2, (height // 8, width // 8), dtype=np.uint8).repeat(8, 0)
        Image.fromarray(pixels).save(root / f'{i}.png')
        Image.fromarray(labels.repeat(8, 1)).save(root / f'{i}_labels.png')
        images.append(dict(id=i, file_name=f'{i}.png', width=width, height=height))
        for k in range(3 if i < 2 else 0):
            x, y, w, h = (int(v) for v in (*draw.integers(2, 30, 2), *draw.integers(16, 33, 2)))
            corners = [x, y, x + w, y, x + w, y + h, x, y + h]
            rows.append(
                dict(
                    id=len(rows) + 1,
                    image_id=i,
                    category_id=1 + k % 2,
                    bbox=[x, y, w, h],
                    area=w * h,
                    iscrowd=int(k == 2),
                    segmentation=[corners]
                    if k < 2
                    else dict(size=[height, width], counts=[0, width * height // 2, height]),
                )
            )
    rows[2]['segmentation']['counts'] = [96 * 32, 96 * 64 - 96 * 32]
    rows[5]['segmentation']['counts'] = [96 * 32, 96 * 64 - 96 * 32]
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
    content = dict(images=images, annotations=rows, categories=categories)
    (root / 'coco.json').write_text(json.dumps(content))
    return root


def detection(
    root: Path, *, early: bool = False, annotations: bool = True, masks: bool = True
) -> dict[str, Any]:
    """A validation dataset whose pipeline loads annotations before or after it resizes."""
    load = dict(type='LoadAnnotations', with_bbox=True, with_mask=masks)
    resize = dict(type='Resize', scale=SCALE, keep_ratio=True)
    steps = [load, resize] if early else [resize, load]
    meta = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
    return dict(
        type='mmdet.CocoDataset',
        _scope_='mmdet',
        data_root=str(root),
        ann_file='coco.json',
        data_prefix=dict(img=''),
        metainfo=dict(classes=CLASSES),
        test_mode=True,
        pipeline=[
            dict(type='LoadImageFromFile'),
            *(steps if annotations else [resize]),
            dict(type='PackDetInputs', meta_keys=meta),
        ],
    )


def segmentation(root: Path, *, early: bool = False) -> dict[str, Any]:
    steps = [dict(type='LoadAnnotations'), dict(type='Resize', scale=SCALE, keep_ratio=True)]
    return dict(
        type='mmseg.BaseSegDataset',
        _scope_='mmseg',
        data_root=str(root),
        data_prefix=dict(img_path='', seg_map_path=''),
        img_suffix='.png',
        seg_map_suffix='_labels.png',
        ann_file='names.txt',
        metainfo=dict(classes=CLASSES, palette=[(255, 0, 0), (0, 0, 255)]),
        pipeline=[
            dict(type='LoadImageFromFile'),
            *(steps if early else steps[::-1]),
            dict(type='PackSegInputs'),
        ],
    )


def detector(kind: str) -> dict[str, Any]:
    cfg = getattr(models, kind)()
    if kind in ('mask_rcnn', 'cascade_rcnn'):
        # mmdet takes no map of one position with one anchor.
        cfg['rpn_head']['anchor_generator']['ratios'] = [0.5, 1.0, 2.0]
        cfg['train_cfg'] = copy.deepcopy(LEARNING)
        if kind == 'cascade_rcnn':
            cfg['train_cfg']['rcnn'] = [LEARNING['rcnn'], LEARNING['rcnn']]
        cfg['test_cfg'] = dict(
            rpn=LEARNING['rpn_proposal'],
            rcnn=dict(
                score_thr=0.0,
                nms=dict(type='nms', iou_threshold=0.5),
                max_per_img=10,
                mask_thr_binary=0.5,
            ),
        )
    else:
        cfg['test_cfg'] = dict(
            nms_pre=50, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5), max_per_img=10
        )
    return {**cfg, 'data_preprocessor': PREPROCESSOR}


def segmentor() -> dict[str, Any]:
    preprocessor = {k: v for k, v in PREPROCESSOR.items() if not k.startswith('pad')}
    padding = dict(size_divisor=32)
    preprocessor |= dict(type='mmseg.SegDataPreProcessor', **padding, test_cfg=padding)
    return {**models.upernet(), 'data_preprocessor': preprocessor}


def loader(dataset: dict[str, Any], batch: int) -> Any:
    return Runner.build_dataloader(
        dict(
            dataset=dataset,
            batch_size=batch,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
        ),
        seed=0,
    )


class Batches(list[Any]):
    """Those of a loader, which draws a random number whenever it starts."""

    def __init__(self, batches: Any) -> None:
        super().__init__(batches)
        self.dataset = batches.dataset


def validated(
    model: nn.Module, batches: Any, hook: ValidationLossHook | None = None
) -> tuple[dict[str, float], list[str]]:
    """The metrics that the hook adds to one validation, and its warnings."""
    said: list[str] = []
    hook = hook or ValidationLossHook()
    runner: Any = SimpleNamespace(
        model=model.eval(),
        val_dataloader=batches,
        logger=SimpleNamespace(warning=said.append),
        message_hub=MessageHub.get_instance('losses'),
    )
    hook.before_val_epoch(runner)
    for i, batch in enumerate(batches):
        with torch.no_grad():
            predicted = model.val_step(batch)
        hook.after_val_iter(runner, i, batch, predicted)
    metrics = {'mAP': 0.5}
    hook.after_val_epoch(runner, metrics)
    assert metrics.pop('mAP') == 0.5
    return metrics, said


def of_training(model: nn.Module, batches: Any) -> float:
    """The loss as training computes it of data that were annotated before they were resized."""
    twin = copy.deepcopy(model)
    as_if_training(twin)
    total = 0.0
    for i, batch in enumerate(batches):
        validation_loss.random_states.seed(0, i)
        with torch.no_grad():
            data = twin.data_preprocessor(batch, True)
            loss, _ = twin.parse_losses(twin(**data, mode='loss'))
        total += float(loss) * len(batch['inputs'])
    return total / len(SIZES)


# ------------------------------------------------------------------------------- the losses


@pytest.mark.parametrize(
    ('kind', 'batch'),
    [('retinanet', 2), ('fcos', 1), ('mask_rcnn', 1), ('mask_rcnn', 2), ('cascade_rcnn', 2)],
)
def test_losses_of_a_detector_are_those_of_training_on_the_same_images(
    kind: str, batch: int, data: Path
) -> None:
    cfg = detector(kind)
    if kind == 'fcos':  # predicts in other units than it learns in
        cfg['bbox_head']['norm_on_bbox'] = True
    model = models.build(cfg)
    masks = kind == 'mask_rcnn'  # which also tell whether boxes were resized
    first = detection(data, early=True, masks=masks)
    last = detection(data, masks=masks)
    # As in a training, where the steps are inside another one.
    last['pipeline'] = [dict(type='vitbackbones.CheckedPipeline', steps=last['pipeline'])]
    late, said = validated(model, loader(last, batch))
    early, _ = validated(model, loader(first, batch))
    assert said == []
    assert late == early
    expected = of_training(model, loader(first, batch))
    assert late['val_loss'] == pytest.approx(expected, rel=1e-6)
    parts = [value for name, value in late.items() if 'loss_' in name]
    assert len(parts) > 1
    assert sum(parts) == pytest.approx(late['val_loss'], rel=1e-5)


def test_losses_of_a_segmentor_are_those_of_training_on_the_same_images(data: Path) -> None:
    (data / 'names.txt').write_text('0\n1\n2\n')
    model = models.build(segmentor())
    late, said = validated(model, loader(segmentation(data), 1))
    early, _ = validated(model, loader(segmentation(data, early=True), 1))
    assert said == []
    assert late == early
    expected = of_training(model, loader(segmentation(data, early=True), 1))
    assert late['val_loss'] == pytest.approx(expected, rel=1e-6)
    assert {'val_decode.loss_ce', 'val_aux.loss_ce'} <= late.keys()


def test_what_is_drawn_at_random_is_the_same_in_every_validation(data: Path) -> None:
    model = models.build(detector('mask_rcnn'))
    hook = ValidationLossHook()
    batches = Batches(loader(detection(data), 2))
    before = torch.get_rng_state()
    first, _ = validated(model, batches, hook)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    assert validated(model, batches, hook)[0] == first


def test_the_model_stays_what_it_was(data: Path) -> None:
    """Heads that count, as Dynamic R-CNN's, and losses with buffers, as Seesaw's, do so apart."""
    cfg = detector('retinanet')
    cfg['bbox_head']['norm_cfg'] = dict(type='BN')
    model = models.build(cfg).eval()
    model.bbox_head.seen = []
    model.bbox_head.register_buffer('count', torch.zeros(1))

    def counting(*args: Any) -> None:
        head = args[0]
        head.seen.append(1)
        head.count += 1

    model.bbox_head.register_forward_pre_hook(counting)
    batches = Batches(loader(detection(data), 2))
    with models.unchanged(model):
        validated(model, batches)
        predictions = len(model.bbox_head.seen)
        model.bbox_head.count.zero_()
    assert predictions == 2  # one for each batch


def test_ranks_are_averaged_by_images(monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    model = models.build(detector('retinanet'))
    alone, _ = validated(model, loader(detection(data), 2))

    def gathered(own: Any) -> list[Any]:
        return [own, {'loss': (12.0, 1)}]

    monkeypatch.setattr(validation_loss, 'all_gather_object', gathered)
    both, _ = validated(model, loader(detection(data), 2))
    assert both['val_loss'] == pytest.approx((3 * alone['val_loss'] + 12) / 4)


def test_metrics_of_nothing_stay_empty_and_the_loss_is_logged(data: Path) -> None:
    """CheckpointHook would look for its metric among others, and fail."""
    model, hub = models.build(detector('retinanet')), MessageHub.get_instance('nothing')
    batches = loader(detection(data), 2)
    runner: Any = SimpleNamespace(model=model, val_dataloader=batches, message_hub=hub)
    hook, metrics = ValidationLossHook(), {}
    for _ in range(2):  # the log averages over what the hub has
        hook.before_val_epoch(runner)
        for i, batch in enumerate(batches):
            hook.after_val_iter(runner, i, batch)
        hook.after_val_epoch(runner, metrics)
    assert metrics == {}
    assert len(hub.get_scalar('val/val_loss').data[0]) == 1


def test_a_model_without_such_losses_warns_once(data: Path) -> None:
    model = models.build(detector('retinanet'))
    model.bbox_head.loss = None
    hook = ValidationLossHook()
    batches = loader(detection(data), 1)
    metrics, said = validated(model, batches, hook)
    assert metrics == {}
    (line,) = said
    assert line.startswith('there will be no validation loss: computing it fails with TypeError')
    assert validated(model, batches, hook) == ({}, [])


def test_data_without_annotations_warn(data: Path) -> None:
    model = models.build(detector('retinanet'))
    _, said = validated(model, loader(detection(data, annotations=False), 1))
    assert said == [
        'there will be no validation loss: the validation pipeline loads no annotations'
    ]


# ------------------------------------------------------------------------- a whole training


def coco_training(data: Path, work_dir: Path, hooks: list[Any]) -> Runner:
    """Two epochs of Mask R-CNN, which draws at random, with BatchNorm, validated and averaged."""
    cfg = detector('mask_rcnn')
    cfg['backbone'] = models.backbone('SepViT', drop_path_rate=0.2)
    own = dict(num_workers=0, batch_size=2)
    train = detection(data, early=True) | dict(test_mode=False)
    measure = dict(type='mmdet.CocoMetric', ann_file=str(data / 'coco.json'), metric='bbox')
    return Runner(
        model=ConfigDict(cfg),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=train, sampler=dict(type='DefaultSampler', shuffle=True), **own
        ),
        train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=2, val_interval=1),
        val_dataloader=dict(
            dataset=detection(data), sampler=dict(type='DefaultSampler', shuffle=False), **own
        ),
        val_cfg=dict(type='ValLoop'),
        val_evaluator=measure,
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3)),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=10, save_last=False)),
        custom_hooks=[dict(type='EMAHook', momentum=0.5), *hooks],
        randomness=dict(seed=3),
        default_scope='mmdet',
        experiment_name=work_dir.name,
        log_level='ERROR',
    )


def scalars(work_dir: Path) -> list[dict[str, Any]]:
    (path,) = work_dir.glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_nothing_else_changes_in_a_training_and_the_log_has_the_loss(
    data: Path, tmp_path: Path
) -> None:
    weights, lines = {}, {}
    for name, hooks in {
        'plain': [],
        'loss': [dict(type='vitbackbones.ValidationLossHook')],
    }.items():
        runner = coco_training(data, tmp_path / name, hooks)
        runner.train()
        weights[name] = runner.model.state_dict()
        lines[name] = [line for line in scalars(tmp_path / name) if 'coco/bbox_mAP' in line]
    for key, value in weights['plain'].items():
        assert torch.equal(value, weights['loss'][key]), key
    assert len(lines['plain']) == len(lines['loss']) == 2
    for plain, with_loss in zip(lines['plain'], lines['loss'], strict=True):
        metrics = {key: value for key, value in plain.items() if 'time' not in key}
        assert {key: with_loss[key] for key in metrics} == metrics
    first, second = (line['val_loss'] for line in lines['loss'])
    hub = runner.message_hub.get_scalar('val/val_loss')
    assert second == pytest.approx(hub.current())  # not an average over validations
    assert first != second


# --------------------------------------------------------------------------- early stopping


@METRICS.register_module('ToyScript')
class Script(BaseMetric):
    """A metric whose values are told in advance; ``at`` says how many validations there were."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values = values

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        iteration = MessageHub.get_current_instance().get_info('iter') + 1
        return dict(acc=self.values[iteration // 6 - 1])


def scripted(
    work_dir: Path, values: list[float], kind: str = 'epochs', hooks: Any = (), **options: Any
) -> Runner:
    """A training of as many validations as there are values, with patience 2."""
    by_epoch = kind == 'epochs'
    length = dict(max_epochs=len(values)) if by_epoch else dict(max_iters=6 * len(values))
    loop = 'EpochBasedTrainLoop' if by_epoch else 'IterBasedTrainLoop'
    stopping = dict(type='vitbackbones.EarlyStoppingHook', patience=2)
    best = dict(type='vitbackbones.BestCheckpointHook')
    return make_runner(
        work_dir,
        kind,
        checkpoint=dict(save_best='acc', rule='greater'),
        val_evaluator=dict(type='ToyScript', values=values),
        train_cfg=dict(type=loop, val_interval=1 if by_epoch else 6, **length),
        custom_hooks=[DEFAULT, stopping, best, *hooks],
        log_level='INFO',
        **options,
    )


VALUES = [0.1, 0.3, 0.2, 0.4, 0.4, 0.3, 0.9, 0.9]  # stops after the sixth


@pytest.mark.parametrize('kind', ['epochs', 'iterations'])
def test_training_stops_when_the_metric_gets_no_better_and_names_the_best(
    kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    runner = scripted(tmp_path / 'run', VALUES, kind)
    runner.train()
    assert runner.iter == 36
    said = capfd.readouterr().out
    now, then = ('epoch 6', 'epoch 4') if kind == 'epochs' else ('iteration 36', 'iteration 24')
    assert (
        f'training stops early, after {now}: acc has not got better than the 0.4000 of {then} in 2 '
        'validations'
    ) in said
    (best,) = (tmp_path / 'run').glob('best_acc_*.pth')
    assert f'the best checkpoint (acc 0.4000) is {best}; test it with `vitbackbones test ' in said


def test_a_training_that_has_found_nothing_yet_goes_on(tmp_path: Path) -> None:
    runner = scripted(tmp_path / 'run', [0.0, 0.0, 0.0, 0.0, 0.1, 0.1, 0.1, 0.2])
    runner.train()
    assert runner.epoch == 7


@pytest.mark.parametrize('iteration', [20, 29, 31])
@pytest.mark.parametrize('stage', ['train_iter', 'val_iter'])
def test_a_training_that_was_ended_and_resumed_stops_where_it_would_have(
    iteration: int, stage: str, tmp_path: Path
) -> None:
    iteration = iteration if stage == 'train_iter' else iteration // 6 * 6
    end = dict(type='ToySignal', iteration=iteration, number=signal.SIGTERM, stage=stage)
    with pytest.raises(SystemExit):
        scripted(tmp_path / 'run', VALUES, hooks=[end]).train()
    runner = scripted(tmp_path / 'run', VALUES, resume=True)
    runner.train()
    assert runner.iter == 36


def test_a_validation_that_is_made_up_for_counts_once(tmp_path: Path) -> None:
    end = dict(type='ToySignal', iteration=27, number=signal.SIGTERM)
    with pytest.raises(SystemExit):
        scripted(tmp_path / 'run', VALUES, hooks=[end]).train()
    (tmp_path / 'run/interrupted.pth').unlink()  # as if it had been killed
    runner = scripted(tmp_path / 'run', VALUES, resume=True)
    runner.train()
    assert runner.iter == 36


def test_a_training_that_had_stopped_does_not_go_on_when_resumed(tmp_path: Path) -> None:
    scripted(tmp_path / 'run', VALUES).train()
    runner = scripted(tmp_path / 'run', VALUES, resume=True)
    runner.train()
    assert runner.iter == 36


def test_what_cannot_be_stopped_by_is_said(tmp_path: Path) -> None:
    stopping = dict(type='vitbackbones.EarlyStoppingHook')
    with pytest.raises(UserError, match=r'name a metric with monitor=.*save_best'):
        make_runner(tmp_path / 'run', custom_hooks=[stopping]).train()
    with pytest.raises(ValueError, match='patience=0 must be at least 1'):
        EarlyStoppingHook(patience=0)


def test_a_missing_metric_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stopping = dict(type='vitbackbones.EarlyStoppingHook', monitor='mAP', patience=1)
    runner = make_runner(tmp_path / 'run', custom_hooks=[stopping], log_level='INFO')
    runner.train()
    assert runner.epoch == 3
    assert "there is no 'mAP' among the metrics: error" in capfd.readouterr().out


def test_without_a_best_checkpoint_the_last_one_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hook = dict(type='vitbackbones.BestCheckpointHook')
    make_runner(tmp_path / 'run', custom_hooks=[DEFAULT, hook], log_level='INFO').train()
    last = tmp_path / 'run/epoch_3.pth'
    assert f'the last checkpoint is {last}; test it with' in capfd.readouterr().out


assert Signal  # registered with the toy training
