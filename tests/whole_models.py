"""Small models with every head that whole models are exported with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import init_default_scope

from tests.small import SMALL
from tests.test_export import OPTIONS, SHALLOW
from vitbackbones.backbones.base import Backbone
from vitbackbones.benchmark.livened import vary_norms

CLASSES = 3
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
PALETTE = [(10, 20, 30), (40, 50, 60), (70, 80, 90)]


def backbone(name: str, **options: Any) -> tuple[dict[str, Any], list[int], list[int]]:
    """A small one, its channels and its strides."""
    arch = {**SMALL[name], **SHALLOW[name]}
    config = dict(type=name, arch=arch, **OPTIONS.get(name, {}), **options)
    with torch.device('meta'):
        built = Backbone.registered()[name](**{k: v for k, v in config.items() if k != 'type'})
    return config, list(built.out_channels), list(built.out_strides)


def anchors(strides: list[int], **options: Any) -> dict[str, Any]:
    return dict(type='AnchorGenerator', strides=strides, **options)


def _detector(kind: str, name: str, **backbone_options: Any) -> dict[str, Any]:
    body, channels, strides = backbone(name, **backbone_options)
    strides = [*strides, 2 * strides[-1]]
    neck = dict(type='FPN', in_channels=channels, out_channels=16, num_outs=len(strides))
    processor = dict(
        type='DetDataPreprocessor', mean=MEAN, std=STD, bgr_to_rgb=True, pad_size_divisor=32
    )
    return dict(type=kind, data_preprocessor=processor, backbone=body, neck=neck, strides=strides)


NMS = dict(type='nms', iou_threshold=0.5)


def one_stage(name: str, **backbone_options: Any) -> dict[str, Any]:
    """RetinaNet."""
    model = _detector('RetinaNet', name, **backbone_options)
    model['bbox_head'] = dict(
        type='RetinaHead',
        num_classes=CLASSES,
        in_channels=16,
        feat_channels=16,
        stacked_convs=1,
        anchor_generator=anchors(
            model.pop('strides'), octave_base_scale=4, scales_per_octave=2, ratios=[0.5, 1.0, 2.0]
        ),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2]),
    )
    model['test_cfg'] = dict(nms_pre=200, min_bbox_size=0, score_thr=0.05, nms=NMS, max_per_img=100)
    return model


def _extractor(size: int, strides: list[int], samples: int = 0) -> dict[str, Any]:
    return dict(
        type='SingleRoIExtractor',
        roi_layer=dict(type='RoIAlign', output_size=size, sampling_ratio=samples),
        out_channels=16,
        featmap_strides=strides,
        finest_scale=14,
    )


def _box_head(stds: list[float], *, agnostic: bool) -> dict[str, Any]:
    return dict(
        type='Shared2FCBBoxHead',
        in_channels=16,
        fc_out_channels=32,
        roi_feat_size=3,
        num_classes=CLASSES,
        reg_class_agnostic=agnostic,
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=stds),
    )


def _mask_head(*, agnostic: bool) -> dict[str, Any]:
    return dict(
        type='FCNMaskHead',
        num_convs=1,
        in_channels=16,
        conv_out_channels=8,
        num_classes=CLASSES,
        class_agnostic=agnostic,
    )


def _two_stage(kind: str, name: str, roi_head: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    model = _detector(kind, name, **options)
    strides = model.pop('strides')
    model['rpn_head'] = dict(
        type='RPNHead',
        in_channels=16,
        feat_channels=16,
        anchor_generator=anchors(strides, scales=[4], ratios=[0.5, 1.0, 2.0]),
    )
    model['roi_head'] = dict(roi_head)
    rcnn = dict(score_thr=0.05, nms=NMS, max_per_img=60, mask_thr_binary=0.5)
    rpn = dict(
        nms_pre=150, max_per_img=100, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0
    )
    model.update(train_cfg=None, test_cfg=dict(rpn=rpn, rcnn=rcnn))
    return model


def faster_rcnn(name: str, **options: Any) -> dict[str, Any]:
    strides = backbone(name)[2]
    roi = dict(
        type='StandardRoIHead',
        bbox_roi_extractor=_extractor(3, strides, samples=2),
        bbox_head=_box_head([0.1, 0.1, 0.2, 0.2], agnostic=True),
    )
    return _two_stage('FasterRCNN', name, roi, **options)


def mask_rcnn(name: str, **options: Any) -> dict[str, Any]:
    strides = backbone(name)[2]
    roi = dict(
        type='StandardRoIHead',
        bbox_roi_extractor=_extractor(3, strides),
        bbox_head=_box_head([0.1, 0.1, 0.2, 0.2], agnostic=False),
        mask_roi_extractor=_extractor(4, strides),
        mask_head=_mask_head(agnostic=False),
    )
    return _two_stage('MaskRCNN', name, roi, **options)


def cascade_mask_rcnn(name: str, *, agnostic: bool = False, **options: Any) -> dict[str, Any]:
    strides = backbone(name)[2]
    stds = ([0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1])
    roi = dict(
        type='CascadeRoIHead',
        num_stages=2,
        stage_loss_weights=[1, 0.5],
        bbox_roi_extractor=_extractor(3, strides),
        bbox_head=[_box_head(each, agnostic=agnostic) for each in stds],
        mask_roi_extractor=_extractor(4, strides),
        mask_head=_mask_head(agnostic=agnostic),
    )
    return _two_stage('CascadeRCNN', name, roi, **options)


DETECTORS: dict[str, Callable[..., dict[str, Any]]] = {
    'RetinaNet': one_stage,
    'FasterRCNN': faster_rcnn,
    'MaskRCNN': mask_rcnn,
    'CascadeMaskRCNN': cascade_mask_rcnn,
}

HEADS = (
    *('UPerHead', 'FPNHead', 'FCNHead', 'PSPHead', 'ASPPHead', 'DepthwiseSeparableASPPHead'),
    'SegformerHead',
)


def segmentor(kind: str, name: str, *, padded: bool = False, **options: Any) -> dict[str, Any]:
    """One of mmseg's heads; semantic FPN has a neck."""
    body, channels, strides = backbone(name)
    every = list(range(len(channels)))
    head: dict[str, Any] = dict(type=kind, channels=8, num_classes=CLASSES, **options)
    processor = dict(type='SegDataPreProcessor', mean=MEAN, std=STD, bgr_to_rgb=True, size=(64, 64))
    if padded:
        processor['test_cfg'] = dict(size_divisor=48)
    model: dict[str, Any] = dict(
        type='EncoderDecoder',
        data_preprocessor=processor,
        backbone=body,
        test_cfg=dict(mode='whole'),
    )
    if kind in ('UPerHead', 'SegformerHead'):
        head.update(in_channels=channels, in_index=every)
    elif kind == 'FPNHead':
        model['neck'] = dict(type='FPN', in_channels=channels, out_channels=8, num_outs=len(every))
        head.update(in_channels=[8] * len(every), in_index=every, feature_strides=strides)
    else:
        head.update(in_channels=channels[-1], in_index=every[-1])
    if kind in ('UPerHead', 'PSPHead'):
        head['pool_scales'] = (1, 2, 3, 6)
    if 'ASPP' in kind:
        head['dilations'] = (1, 3, 6)
    if kind == 'DepthwiseSeparableASPPHead':
        head.update(c1_in_channels=channels[0], c1_channels=4)
    model['decode_head'] = head
    aux = dict(
        type='FCNHead', channels=4, num_classes=CLASSES, in_channels=channels[-2], in_index=-2
    )
    model['auxiliary_head'] = [aux, dict(aux, num_convs=1)]
    return model


def write_config(model: dict[str, Any], path: Path) -> Path:
    scope = 'mmseg' if 'decode_head' in model else 'mmdet'
    classes = tuple(f'class{i}' for i in range(CLASSES))
    dataset = dict(
        type='BaseSegDataset' if scope == 'mmseg' else 'CocoDataset',
        metainfo=dict(classes=classes, palette=PALETTE),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(320, 160), keep_ratio=True),
            dict(type='PackSegInputs' if scope == 'mmseg' else 'PackDetInputs'),
        ],
    )
    loader = dict(dataset=dataset)
    path.write_text(f'default_scope = {scope!r}\nmodel = {model!r}\ntest_dataloader = {loader!r}\n')
    return path


def build(config: Path) -> Any:
    """The model of a config, with statistics for its BatchNorms."""
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = ROOT_MODELS.build(cfg.model)
    torch.manual_seed(0)
    return vary_norms(model)
