"""Whole models with random weights, and noise for them to work on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData, PixelData
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vitbackbones.data.configs import iter_datasets
from vitbackbones.errors import UserError
from vitbackbones.launch.checks import build_backbone
from vitbackbones.launch.device import adapt_to_device
from vitbackbones.launch.loading import load_config
from vitbackbones.tasks import Task, task_of

SIDE = 512  # of images that detectors and segmentors are measured with, unless asked for others


def build_model(cfg: Config) -> Any:
    """The model of a config with the weights that its own initialisation gives.

    Raises:
        UserError: it cannot be built.
    """
    init_default_scope(cfg.get('default_scope') or task_of(cfg.model).scope)
    adapt_to_device(cfg)
    build_backbone(cfg)
    _no_files(cfg.model)
    MMLogger.get_instance('benchmark', log_level='WARNING')  # else it lists all parameters
    try:
        model = revert_sync_batchnorm(ROOT_MODELS.build(cfg.model))
    except (AssertionError, AttributeError, ImportError, KeyError, TypeError, ValueError) as error:
        raise UserError(f'the model of the config cannot be built: {error}') from error
    model.init_weights()
    return model


def _no_files(node: Any) -> None:
    """Leave out weights from files: cost does not depend on them."""
    if isinstance(node, dict) and 'checkpoint' in (node.get('init_cfg') or {}):
        node['init_cfg'] = None
    for value in node.values() if isinstance(node, dict) else node:
        if isinstance(value, (dict, list, tuple)):
            _no_files(value)


def spare_single_values(model: nn.Module) -> None:
    """Let a model train with one value per channel, pooled from one image: no norm can by itself.

    For training alone: a network with hooks inside computes plainly, which takes longer.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_pre_hook(_spare_single_values)


def _spare_single_values(norm: nn.Module, args: tuple[Tensor, ...]) -> None:
    if norm.training and args[0].numel() == args[0].shape[1]:
        norm.eval()


def usual_size(cfg: Config) -> tuple[int, int]:
    """Height and width that a model is measured with: a classifier those that it is tested with."""
    loader = cfg.get('test_dataloader')
    if task_of(cfg.model) is Task.CLASSIFICATION and loader:
        for step in reversed(next(iter_datasets(loader.dataset)).get('pipeline') or ()):
            size = step.get('crop_size') or step.get('scale')
            if isinstance(size, int):
                return size, size
            if isinstance(size, (list, tuple)) and len(size) == 2:  # crops have height and width
                return tuple(size) if 'crop_size' in step else (size[1], size[0])
    return SIDE, SIDE


def usual_sizes(configs: Sequence[str]) -> list[tuple[int, int]]:
    """What the models of configs are measured with, each size once; 512 x 512 without any."""
    sizes = dict.fromkeys(usual_size(load_config(each)) for each in configs)
    return list(sizes) or [(SIDE, SIDE)]


def noise(cfg: Config, model: Any, height: int, width: int, count: int) -> dict[str, Any]:
    """A batch of noise as images, with a few objects or labels, as a data loader hands it on."""
    rng = np.random.default_rng(0)
    shape = dict(img_shape=(height, width), ori_shape=(height, width), scale_factor=(1.0, 1.0))
    sample: Any
    samples = []
    task = task_of(cfg.model)
    for _ in range(count):
        if task is Task.SEGMENTATION:
            from mmseg.structures import SegDataSample

            # In training images are padded to it.
            model.data_preprocessor.size = (height, width)
            labels = rng.integers(0, model.decode_head.num_classes, (1, height, width))
            sample = SegDataSample(metainfo=shape)
            sample.gt_sem_seg = PixelData(data=torch.from_numpy(labels))
        elif task is Task.CLASSIFICATION:
            from mmpretrain.structures import DataSample

            sample = DataSample(metainfo=shape).set_gt_label(0)
        else:
            from mmdet.structures import DetDataSample

            sample = DetDataSample(metainfo=shape)
            sample.gt_instances = _objects(height, width)
        samples.append(sample)
    images = rng.integers(0, 256, (count, 3, height, width), dtype=np.uint8)
    return dict(inputs=list(torch.from_numpy(images)), data_samples=samples)


def _objects(height: int, width: int) -> InstanceData:
    """Eight objects of the first class from an eighth of the image to all of it."""
    from mmdet.structures.mask import BitmapMasks

    parts = torch.arange(1, 9)[:, None] / 8
    boxes = parts * torch.tensor([[0, 0, width, height]])
    masks = np.zeros((len(boxes), height, width), dtype=np.uint8)
    for mask, (_, _, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[:bottom, :right] = 1
    return InstanceData(
        bboxes=boxes,
        labels=torch.zeros(len(boxes), dtype=torch.long),
        masks=BitmapMasks(masks, height, width),
    )
