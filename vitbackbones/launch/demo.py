"""``--demo``: any config of ours on the generated demo data, in minutes on a CPU."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config, ConfigDict

from vitbackbones.data.demo import OUT, ensure
from vitbackbones.data.demo_folders import ensure_folders
from vitbackbones.data.nodes import type_name
from vitbackbones.errors import UserError
from vitbackbones.tasks import Task, task_of

from .smallest import RANDOM_RATE

DETECTION_ITERATIONS = 900
SEGMENTATION_ITERATIONS = 300  # a loss for every pixel teaches faster than one for a few boxes
CLASSIFICATION_ITERATIONS = 300
BATCH = 4
IMAGES = 16  # of a classification in a batch
SIDE = 96  # of its images, pixels


def apply_demo(cfg: Config) -> None:
    """Point data, image scale, schedule and batch of ``cfg`` at the demo set, in place.

    The model stays what it is, except that no weights are downloaded, that BatchNorm learns its
    statistics, which would come with them, that no more proposals or queries are taken than
    small images hold, and that a classifier has the classes of the demo. Its rate is for small
    batches. The data are generated if they are not there.

    Raises:
        UserError: the demo data cannot be written.
    """
    ensure(OUT)
    _no_weights(cfg.model)
    cfg.pop('tta_pipeline', None)  # of other images
    match task_of(cfg.model):
        case Task.SEGMENTATION:
            _segmentation(cfg)
            _schedule(cfg, SEGMENTATION_ITERATIONS)
        case Task.CLASSIFICATION:
            _classification(cfg)
            _schedule(cfg, CLASSIFICATION_ITERATIONS)
        case Task.DETECTION:
            _detection(cfg)
            _fewer_proposals(cfg.model)
            _schedule(cfg, DETECTION_ITERATIONS)


def fit_schedule(cfg: Config) -> None:
    """Let the learning rate reach its end with ``train_cfg.max_iters``, whatever was asked for.

    Raises:
        UserError: it is no positive number.
    """
    end = cfg.train_cfg.get('max_iters')
    if not isinstance(end, int) or end < 1:
        raise UserError(f'train_cfg.max_iters={end!r} must be a positive number')
    warm_up = max(1, min(100, end // 10))
    cfg.param_scheduler = [
        ConfigDict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=warm_up)
    ]
    if end > warm_up:
        rest = dict(by_epoch=False, begin=warm_up, end=end, T_max=end - warm_up)
        cfg.param_scheduler.append(ConfigDict(type='CosineAnnealingLR', **rest))


def _no_weights(node: Any) -> None:
    """Start everything below ``node`` from random weights, and nothing from their statistics."""
    if isinstance(node, dict):
        init = node.get('init_cfg')
        if isinstance(init, dict) and type_name(init) in ('Pretrained', 'PretrainedInit'):
            node['init_cfg'] = None
        if 'norm_eval' in node:
            node['norm_eval'] = False
        for value in node.values():
            _no_weights(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            _no_weights(value)


def _detection(cfg: Config) -> None:
    masks = 'mask_head' in cfg.model or 'mask_head' in cfg.model.get('roi_head', {})
    train: list[dict[str, Any]] = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=masks),
        dict(type='Resize', scale=(160, 160), keep_ratio=True),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackDetInputs'),
    ]
    meta = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
    test: list[dict[str, Any]] = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(160, 160), keep_ratio=True),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=masks),
        dict(type='PackDetInputs', meta_keys=meta),
    ]

    def dataset(split: str, pipeline: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return dict(
            type='CocoDataset',
            data_root=str(OUT / 'coco'),
            ann_file=f'annotations/instances_{split}2017.json',
            data_prefix=dict(img=f'{split}2017'),
            pipeline=pipeline,
            **more,
        )

    _loaders(cfg, dataset('train', train), dataset('val', test, test_mode=True))
    metric = ['bbox', 'segm'] if masks else 'bbox'
    ann_file = str(OUT / 'coco/annotations/instances_val2017.json')
    cfg.val_evaluator = ConfigDict(type='CocoMetric', ann_file=ann_file, metric=metric)
    cfg.test_evaluator = copy.deepcopy(cfg.val_evaluator)


def _segmentation(cfg: Config) -> None:
    if cfg.model.data_preprocessor.get('size') is not None:  # crops are padded to it
        cfg.model.data_preprocessor.size = (128, 128)
    if 'crop_size' in (cfg.model.get('test_cfg') or {}):  # of the sliding window
        cfg.model.test_cfg.update(crop_size=(128, 128), stride=(85, 85))
    train: list[dict[str, Any]] = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', reduce_zero_label=True),
        dict(type='RandomResize', scale=(192, 192), ratio_range=(0.8, 1.5), keep_ratio=True),
        dict(type='RandomCrop', crop_size=(128, 128), cat_max_ratio=0.75),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackSegInputs'),
    ]
    test: list[dict[str, Any]] = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(192, 192), keep_ratio=True),
        dict(type='LoadAnnotations', reduce_zero_label=True),
        dict(type='PackSegInputs'),
    ]

    def dataset(split: str, pipeline: list[dict[str, Any]]) -> dict[str, Any]:
        return dict(
            type='ADE20KDataset',
            data_root=str(OUT / 'ade20k'),
            data_prefix=dict(img_path=f'images/{split}', seg_map_path=f'annotations/{split}'),
            pipeline=pipeline,
        )

    _loaders(cfg, dataset('training', train), dataset('validation', test))
    cfg.val_evaluator = ConfigDict(type='IoUMetric', iou_metrics=['mIoU'])
    cfg.test_evaluator = copy.deepcopy(cfg.val_evaluator)


def _classification(cfg: Config) -> None:
    root = ensure_folders(OUT)
    _set_classes(
        [cfg.model, cfg.get('data_preprocessor') or {}], len([*(root / 'train').iterdir()])
    )
    train: list[dict[str, Any]] = [
        dict(type='LoadImageFromFile'),
        dict(type='RandomResizedCrop', scale=SIDE, crop_ratio_range=(0.5, 1.0)),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackInputs'),
    ]
    test: list[dict[str, Any]] = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(SIDE, SIDE)),
        dict(type='PackInputs'),
    ]

    def dataset(split: str, pipeline: list[dict[str, Any]]) -> dict[str, Any]:
        return dict(type='CustomDataset', data_root=str(root), data_prefix=split, pipeline=pipeline)

    _loaders(cfg, dataset('train', train), dataset('val', test), batch=IMAGES, val_batch=IMAGES)
    # The published rates are for thousands of images in a step; those of detectors are for 16.
    optimizer = cfg.optim_wrapper.optimizer
    optimizer.lr = min(optimizer.lr, RANDOM_RATE)
    # Averages over many thousand iterations would be the start still.
    cfg.custom_hooks = [h for h in cfg.get('custom_hooks', ()) if type_name(h) != 'EMAHook']
    cfg.val_evaluator = ConfigDict(type='Accuracy', topk=(1, 5))
    cfg.test_evaluator = copy.deepcopy(cfg.val_evaluator)


def _set_classes(node: Any, number: int) -> None:
    """Let everything below ``node`` that counts classes have this number of them."""
    if isinstance(node, dict):
        if 'num_classes' in node:
            node['num_classes'] = number
        for value in node.values():
            _set_classes(value, number)
    elif isinstance(node, (list, tuple)):
        for value in node:
            _set_classes(value, number)


def _loaders(
    cfg: Config,
    train: dict[str, Any],
    val: dict[str, Any],
    *,
    batch: int = BATCH,
    val_batch: int = 1,
) -> None:
    cfg.train_dataloader = ConfigDict(
        batch_size=batch,
        num_workers=1,
        persistent_workers=True,
        sampler=dict(type='InfiniteSampler', shuffle=True),
        dataset=train,
    )
    cfg.val_dataloader = ConfigDict(
        batch_size=val_batch,
        num_workers=1,
        persistent_workers=True,
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=val,
    )
    cfg.test_dataloader = copy.deepcopy(cfg.val_dataloader)


def _fewer_proposals(model: ConfigDict) -> None:
    """The numbers of proposals, RoI samples and queries are made for 1333 x 800 images."""
    train_cfg = model.get('train_cfg') or {}
    stages = train_cfg.get('rcnn') or []
    for stage in stages if isinstance(stages, (list, tuple)) else [stages]:
        stage.sampler.num = min(stage.sampler.num, 32)
    for part in (train_cfg.get('rpn_proposal'), (model.get('test_cfg') or {}).get('rpn')):
        if part:
            part.nms_pre = min(part.nms_pre, 300)
            part.max_per_img = min(part.max_per_img, 150)
    if 'num_queries' in model:  # DINO chooses them among the positions of all maps
        model.num_queries = min(model.num_queries, 100)
        model.test_cfg.max_per_img = min(model.test_cfg.max_per_img, 100)


def _schedule(cfg: Config, iterations: int) -> None:
    cfg.train_cfg = _loop(cfg.get('train_cfg') or {}, iterations)
    cfg.val_cfg = ConfigDict(type='ValLoop')
    cfg.test_cfg = ConfigDict(type='TestLoop')
    cfg.auto_scale_lr = ConfigDict(enable=False, base_batch_size=cfg.train_dataloader.batch_size)
    cfg.log_processor = ConfigDict(type='LogProcessor', window_size=50, by_epoch=False)
    cfg.default_hooks.checkpoint = ConfigDict(
        type='CheckpointHook', by_epoch=False, interval=iterations, max_keep_ckpts=1
    )
    cfg.load_from = None


def _loop(own: Mapping[str, Any], iterations: int) -> ConfigDict:
    """mmengine's loop over iterations, or ours with all that it is told besides their number."""
    length = dict(max_iters=iterations, val_interval=iterations)
    if not type_name(own).endswith('PointsLoop'):
        return ConfigDict(type='IterBasedTrainLoop', **length)
    lengths = ('max_epochs', 'max_iters', 'val_begin', 'val_interval', 'dynamic_intervals')
    options = {key: value for key, value in own.items() if key not in lengths}
    return ConfigDict({**options, **length, 'type': 'vitbackbones.IterBasedPointsLoop'})
