"""Small detectors and segmentors with our backbones, and what the pre-flight hook says of them."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from torch import nn

from tests.small import SMALL
from vitbackbones.engine.preflight import PreflightError, PreflightHook

FOUR = [8, 16, 24, 32]  # channels of the small SepViT, at strides 4, 8, 16, 32


def backbone(name: str = 'SepViT', **options: Any) -> dict[str, Any]:
    return dict(type=f'vitbackbones.{name}', arch=SMALL[name], **options)


def anchors(strides: list[int]) -> dict[str, Any]:
    return dict(type='AnchorGenerator', ratios=[1.0], scales=[4], strides=strides)


def retinanet() -> dict[str, Any]:
    """As most of them: the neck gets four maps and starts at the second."""
    return dict(
        type='mmdet.RetinaNet',
        backbone=backbone(),
        neck=dict(
            type='FPN',
            in_channels=FOUR,
            out_channels=8,
            start_level=1,
            add_extra_convs='on_input',
            num_outs=5,
        ),
        bbox_head=dict(
            type='RetinaHead',
            num_classes=2,
            in_channels=8,
            feat_channels=8,
            stacked_convs=1,
            anchor_generator=anchors([8, 16, 32, 64, 128]),
        ),
        train_cfg=dict(
            assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0),
            sampler=dict(type='PseudoSampler'),
            allowed_border=-1,
            pos_weight=-1,
        ),
        test_cfg=dict(),
    )


def extractor(size: int) -> dict[str, Any]:
    return dict(
        type='SingleRoIExtractor',
        roi_layer=dict(type='RoIAlign', output_size=size, sampling_ratio=0),
        out_channels=8,
        featmap_strides=[4, 8, 16, 32],
    )


def mask_rcnn() -> dict[str, Any]:
    return dict(
        type='mmdet.MaskRCNN',
        backbone=backbone(),
        neck=dict(type='FPN', in_channels=FOUR, out_channels=8, num_outs=5),
        rpn_head=dict(
            type='RPNHead',
            in_channels=8,
            feat_channels=8,
            anchor_generator=anchors([4, 8, 16, 32, 64]),
        ),
        roi_head=dict(
            type='StandardRoIHead',
            bbox_roi_extractor=extractor(3),
            bbox_head=dict(
                type='Shared2FCBBoxHead',
                in_channels=8,
                fc_out_channels=8,
                roi_feat_size=3,
                num_classes=2,
            ),
            mask_roi_extractor=extractor(4),
            mask_head=dict(type='FCNMaskHead', in_channels=8, conv_out_channels=8, num_classes=2),
        ),
        train_cfg=dict(rpn=dict(), rcnn=dict()),
        test_cfg=dict(rpn=dict(), rcnn=dict()),
    )


def cascade_rcnn() -> dict[str, Any]:
    cfg = mask_rcnn()
    cfg['type'] = 'mmdet.CascadeRCNN'
    head = cfg['roi_head']['bbox_head']
    cfg['roi_head'] = dict(
        type='CascadeRoIHead',
        num_stages=2,
        stage_loss_weights=[1, 0.5],
        bbox_roi_extractor=extractor(3),
        bbox_head=[head, head],
    )
    sampling = dict(
        assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.5),
        sampler=dict(type='RandomSampler', num=8, pos_fraction=0.5),
    )
    cfg['train_cfg']['rcnn'] = [sampling, sampling]
    return cfg


def fcos() -> dict[str, Any]:
    cfg = retinanet()
    cfg['type'] = 'mmdet.FCOS'
    cfg['bbox_head'] = dict(
        type='FCOSHead',
        num_classes=2,
        in_channels=8,
        feat_channels=8,
        strides=[8, 16, 32, 64, 128],
        norm_cfg=None,
    )
    return cfg


def shvit_retinanet() -> dict[str, Any]:
    """Levels finer than the backbone's own, by the neck of SHViT's detectors."""
    cfg = retinanet()
    cfg['backbone'] = backbone('SHViT')
    cfg['neck'] = dict(
        type='vitbackbones.TransposedConvFPN',
        in_channels=[16, 24, 32],
        out_channels=8,
        num_outs=5,
        num_trans_convs=1,
    )
    return cfg


def two_necks() -> dict[str, Any]:
    cfg = retinanet()
    cfg['neck'] = [
        cfg['neck'],
        dict(type='BFP', in_channels=8, num_levels=5, refine_level=2),
    ]
    return cfg


def channel_mapper() -> dict[str, Any]:
    cfg = retinanet()
    cfg['neck'] = dict(
        type='ChannelMapper',
        in_channels=[16, 24, 32],
        out_channels=8,
        num_outs=5,
        norm_cfg=dict(type='BN'),
    )
    cfg['backbone']['out_indices'] = (1, 2, 3)
    return cfg


def condinst() -> dict[str, Any]:
    """Its mask head has channels and strides of its own, which say nothing of the levels."""
    cfg = retinanet()
    cfg['type'] = 'mmdet.CondInst'
    cfg['bbox_head'] = dict(
        type='CondInstBboxHead',
        num_params=169,
        strides=[8, 16, 32, 64, 128],
        num_classes=2,
        in_channels=8,
        feat_channels=8,
        norm_cfg=None,
    )
    cfg['mask_head'] = dict(
        type='CondInstMaskHead',
        mask_feature_head=dict(
            in_channels=8, feat_channels=8, start_level=0, end_level=2, out_channels=8
        ),
        loss_mask=dict(type='mmdet.DiceLoss'),
    )
    return cfg


def decode_head(kind: str, **options: Any) -> dict[str, Any]:
    return dict(type=kind, channels=8, num_classes=2, **options)


def upernet() -> dict[str, Any]:
    every = dict(in_channels=FOUR, in_index=[0, 1, 2, 3])
    return dict(
        type='mmseg.EncoderDecoder',
        backbone=backbone(),
        decode_head=decode_head('UPerHead', pool_scales=(1, 2), **every),
        auxiliary_head=decode_head('FCNHead', in_channels=24, in_index=2, num_convs=1),
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )


def semantic_fpn() -> dict[str, Any]:
    cfg = upernet()
    del cfg['auxiliary_head']
    cfg['neck'] = dict(type='FPN', in_channels=FOUR, out_channels=8, num_outs=4)
    cfg['decode_head'] = decode_head(
        'FPNHead', in_channels=[8] * 4, in_index=[0, 1, 2, 3], feature_strides=[4, 8, 16, 32]
    )
    return cfg


def several_heads() -> dict[str, Any]:
    """Two heads in a row, two auxiliary ones, and one that puts all maps side by side."""
    cfg = semantic_fpn()
    cfg['type'] = 'mmseg.CascadeEncoderDecoder'
    cfg['num_stages'] = 2
    point = decode_head('PointHead', in_channels=[8], in_index=[0])
    cfg['decode_head'] = [cfg['decode_head'], point]
    concatenated = dict(in_channels=[8] * 4, in_index=[0, 1, 2, 3], input_transform='resize_concat')
    cfg['auxiliary_head'] = [
        decode_head('FCNHead', in_channels=8, in_index=-1, num_convs=1),
        decode_head('FCNHead', num_convs=1, **concatenated),
    ]
    return cfg


def build(cfg: dict[str, Any], *changes: tuple[str, Any]) -> nn.Module:
    """The model of ``cfg`` with some of its values changed."""
    from mmdet.registry import MODELS as DETECTION
    from mmseg.registry import MODELS as SEGMENTATION

    cfg = ConfigDict(copy.deepcopy(cfg))
    for path, value in changes:
        *parents, key = path.split('.')
        node: Any = cfg
        for parent in parents:
            node = node[int(parent)] if parent.isdigit() else node[parent]
        node[key] = value
    scope = cfg.type.partition('.')[0]
    # Runners of other tests leave their own scope behind.
    with DefaultScope.overwrite_default_scope(scope):
        return {'mmdet': DETECTION, 'mmseg': SEGMENTATION}[scope].build(cfg)


def adamw(model: nn.Module) -> OptimWrapper:
    learning = [param for param in model.parameters() if param.requires_grad]
    return OptimWrapper(torch.optim.AdamW(learning, lr=1e-4))


class Heard(logging.Handler):
    """Warnings, in the order in which they are logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def checked(model: nn.Module, **runner: Any) -> tuple[tuple[str, ...], list[str]]:
    """What the hook stops for, and what it warns of, but random weights.

    Args:
        runner: attributes of the Runner besides model, optimizer and logger.
    """
    logger, heard = logging.Logger('preflight'), Heard()
    logger.addHandler(heard)
    options = {'optim_wrapper': adamw(model), **runner}
    try:
        PreflightHook().before_train(SimpleNamespace(model=model, logger=logger, **options))
    except PreflightError as error:
        return error.problems, []
    return (), [line for line in heard.lines if 'random weights' not in line]


def problems(model: nn.Module, wrapper: OptimWrapper | None = None) -> tuple[str, ...]:
    """What the hook stops for."""
    return checked(model, optim_wrapper=wrapper or adamw(model))[0]


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """What happens to a model in here leaves weights, modes, gradients and random numbers alone."""
    modes = {name: module.training for name, module in model.named_modules()}
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    yield
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(param.grad is None for param in model.parameters())
