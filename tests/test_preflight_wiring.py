"""Neck and heads are tried on an empty image: what trains is not refused, what idles is named."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.model import MMDistributedDataParallel
from torch import Tensor, nn

from tests.models import (
    FOUR,
    anchors,
    backbone,
    build,
    checked,
    mask_rcnn,
    problems,
    retinanet,
    semantic_fpn,
    unchanged,
    upernet,
)


def yolov3() -> dict[str, Any]:
    """Its neck lists channels, and gives maps, from the deepest to the finest."""
    sizes = [[(10, 13), (16, 30)], [(8, 8), (9, 9)], [(4, 4), (5, 5)]]
    return dict(
        type='mmdet.YOLOV3',
        backbone=backbone(out_indices=(1, 2, 3)),
        neck=dict(
            type='YOLOV3Neck', num_scales=3, in_channels=[32, 24, 16], out_channels=[16, 8, 4]
        ),
        bbox_head=dict(
            type='YOLOV3Head',
            num_classes=2,
            in_channels=[16, 8, 4],
            out_channels=[16, 8, 4],
            anchor_generator=dict(
                type='YOLOAnchorGenerator', base_sizes=sizes, strides=[32, 16, 8]
            ),
            featmap_strides=[32, 16, 8],
        ),
        train_cfg=None,
        test_cfg=dict(),
    )


def yolact(side: float = 550) -> dict[str, Any]:
    """Anchors for images of one size: the side divided by those of the maps."""
    cfg = retinanet()
    strides = [side / count for count in (69, 35, 18, 9, 5)]
    cfg['bbox_head'] = dict(
        type='YOLACTHead',
        num_classes=2,
        in_channels=8,
        feat_channels=8,
        num_protos=4,
        anchor_generator=dict(anchors(strides), base_sizes=[8] * 5, centers=[(4, 4)] * 5),
    )
    cfg['type'] = 'mmdet.YOLACT'
    cfg['mask_head'] = dict(
        type='YOLACTProtonet', in_channels=8, num_classes=2, num_protos=4, proto_channels=(4, 4)
    )
    return cfg


def ssd() -> dict[str, Any]:
    """Its last maps come of convolutions that smaller images than 300 x 300 do not survive."""
    return dict(
        type='mmdet.SingleStageDetector',
        backbone=backbone(out_indices=(1, 2)),
        neck=dict(
            type='SSDNeck',
            in_channels=(16, 24),
            out_channels=(16, 24, 16, 8, 8, 8),
            level_strides=(2, 2, 1, 1),
            level_paddings=(1, 1, 0, 0),
            l2_norm_scale=20,
        ),
        bbox_head=dict(
            type='SSDHead',
            num_classes=2,
            in_channels=(16, 24, 16, 8, 8, 8),
            anchor_generator=dict(
                type='SSDAnchorGenerator',
                scale_major=False,
                input_size=300,
                basesize_ratio_range=(0.15, 0.9),
                strides=[8, 16, 32, 64, 100, 300],
                ratios=[[2], [2, 3], [2, 3], [2, 3], [2], [2]],
            ),
        ),
        train_cfg=None,
        test_cfg=dict(),
    )


def detr() -> dict[str, Any]:
    """Its head reads what a transformer made of the maps."""
    attention = dict(self_attn_cfg=dict(embed_dims=8, num_heads=2))
    decoding = dict(**attention, cross_attn_cfg=dict(embed_dims=8, num_heads=2))
    ffn = dict(ffn_cfg=dict(embed_dims=8, feedforward_channels=8))
    return dict(
        type='mmdet.DETR',
        num_queries=3,
        backbone=backbone(out_indices=(3,)),
        neck=dict(
            type='ChannelMapper', in_channels=[32], kernel_size=1, out_channels=8, num_outs=1
        ),
        encoder=dict(num_layers=1, layer_cfg=dict(**attention, **ffn)),
        decoder=dict(num_layers=1, layer_cfg=dict(**decoding, **ffn), return_intermediate=True),
        positional_encoding=dict(num_feats=4, normalize=True),
        bbox_head=dict(
            type='DETRHead',
            num_classes=2,
            embed_dims=8,
            # The default is changed by the first head that is built with it.
            loss_cls=dict(type='CrossEntropyLoss', class_weight=1.0),
        ),
        train_cfg=None,
        test_cfg=dict(max_per_img=3),
    )


def solo() -> dict[str, Any]:
    """Its head brings the maps to strides of its own."""
    cfg = retinanet()
    cfg['type'] = 'mmdet.SOLO'
    del cfg['bbox_head']
    cfg['neck'] = dict(type='FPN', in_channels=FOUR, out_channels=8, num_outs=5)
    cfg['mask_head'] = dict(
        type='SOLOHead',
        num_classes=2,
        in_channels=8,
        stacked_convs=1,
        feat_channels=8,
        strides=[8, 8, 16, 32, 32],
        num_grids=[4, 3, 2, 2, 1],
        norm_cfg=None,
        cls_down_index=0,
        loss_mask=dict(type='DiceLoss', use_sigmoid=True),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True),
    )
    return cfg


def yolox() -> dict[str, Any]:
    return dict(
        type='mmdet.SingleStageDetector',
        backbone=backbone(out_indices=(1, 2, 3)),
        neck=dict(type='YOLOXPAFPN', in_channels=[16, 24, 32], out_channels=8, num_csp_blocks=1),
        bbox_head=dict(
            type='YOLOXHead', num_classes=2, in_channels=8, feat_channels=8, stacked_convs=1
        ),
        train_cfg=None,
        test_cfg=dict(),
    )


def images_of(height: int, width: int | None = None) -> dict[str, Any]:
    """A Runner's loader of images of one size."""
    sample = dict(inputs=torch.zeros(3, height, width or height, dtype=torch.uint8))
    return dict(train_dataloader=SimpleNamespace(dataset=[sample]))


@pytest.mark.parametrize(
    ('model', 'side'),
    [
        (yolov3, 320),
        (yolact, 550),
        (ssd, 300),
        (detr, 256),
        (solo, 256),
        (yolox, 640),
    ],
)
def test_what_trains_is_not_refused(model: Any, side: int) -> None:
    found, _ = checked(build(model()), **images_of(side))
    assert found == ()


@pytest.mark.parametrize(
    ('model', 'change', 'side', 'message'),
    [
        (
            yolov3,
            ('neck.in_channels', [1024, 512, 256]),
            320,
            'model.neck.in_channels=[1024, 512, 256] must be [32, 24, 16], the channels of '
            'model.backbone (SepViT)',
        ),
        (
            yolact,
            ('bbox_head.anchor_generator.strides', [4, 8, 16, 32, 64]),
            550,
            'model.bbox_head.anchor_generator.strides=[4, 8, 16, 32, 64] must be '
            '[8, 16, 32, 64, 128], the strides of model.neck (FPN)',
        ),
        (
            ssd,
            ('bbox_head.anchor_generator.strides', [8, 16, 32, 64, 100, 150]),
            300,
            'model.bbox_head.anchor_generator.strides=[8, 16, 32, 64, 100, 150] must be '
            '[7.89474, 15.7895, 30, 60, 100, 300], the strides of model.neck (SSDNeck)',
        ),
        (
            yolox,
            ('bbox_head.in_channels', 4),
            640,
            'model.bbox_head.in_channels=4 must be 8, the channels of model.neck (YOLOXPAFPN)',
        ),
    ],
    ids=['yolov3', 'yolact', 'ssd', 'yolox'],
)
def test_the_same_models_are_refused_where_they_do_not_fit(
    model: Any, change: tuple[str, Any], side: int, message: str
) -> None:
    found, _ = checked(build(model(), change), **images_of(side))
    assert found == (message,)


def test_strides_of_another_size_of_image_are_refused() -> None:
    """That it runs with them proves nothing: no anchor would be where it is taken to be."""
    found, _ = checked(build(yolact(1100)), **images_of(550))
    (problem,) = found
    assert 'model.bbox_head.anchor_generator.strides=' in problem


@pytest.mark.parametrize(('factor', 'fits'), [(1.04, True), (0.96, True), (1.06, False)])
def test_strides_within_five_percent_are_right(factor: float, fits: bool) -> None:
    strides = [factor * stride for stride in (8, 16, 32, 64, 128)]
    model = build(retinanet(), ('bbox_head.anchor_generator.strides', strides))
    assert (problems(model) == ()) is fits


class Projection(nn.Module):
    """A head whose ``in_channels`` means something of its own, and which runs."""

    in_channels = 99

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 2, 1)
        self.norm = nn.BatchNorm2d(2)

    def forward(self, maps: tuple[Tensor, ...]) -> list[Tensor]:
        return [torch.dropout(self.norm(self.conv(x)), 0.5, self.training) for x in maps]


def test_what_runs_has_the_right_channels() -> None:
    model = build(retinanet())
    model.bbox_head = Projection()
    assert problems(model) == ()
    model.bbox_head.conv = nn.Conv2d(99, 2, 1)
    assert problems(model) == (
        'model.bbox_head.in_channels=99 must be 8, the channels of model.neck (FPN)',
    )


def test_a_neck_that_lists_its_channels_in_its_own_way_passes() -> None:
    model = build(retinanet())
    model.neck.in_channels = [1, 2, 3, 4]
    assert problems(model) == ()


class Pooling(nn.Module):
    """As mmpretrain's: of several maps it takes a tuple only, as backbones give it."""

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        assert isinstance(maps, tuple)
        return tuple(x.mean((2, 3)) for x in maps)


def test_a_classifier_is_not_refused() -> None:
    model = build(retinanet())
    model.neck, model.bbox_head = Pooling(), nn.Linear(32, 2)
    assert problems(model) == ()


class Drawing(Projection):
    """Draws random numbers in eval mode, too."""

    def forward(self, maps: tuple[Tensor, ...]) -> list[Tensor]:
        torch.rand(3)
        return super().forward(maps)


def test_trying_heads_changes_nothing() -> None:
    model = build(retinanet())
    model.bbox_head = Drawing()
    model.bbox_head.conv.eval()  # a mode of its own must stay, too
    with unchanged(model):
        assert problems(model) == ()


# -------------------------------------------------------------------- maps that nobody reads


def last_map_unread() -> nn.Module:
    """The auxiliary head is all that there is, and reads the third of four maps."""
    head = dict(upernet()['auxiliary_head'])
    cfg = upernet()
    del cfg['auxiliary_head']
    return build(cfg, ('decode_head', head))


def neck_map_unread() -> nn.Module:
    """Semantic FPN of which the head leaves out the last map."""
    return build(
        semantic_fpn(),
        ('decode_head.in_index', [0, 1, 2]),
        ('decode_head.in_channels', [8] * 3),
        ('decode_head.feature_strides', [4, 8, 16]),
    )


@pytest.mark.parametrize(
    ('model', 'start', 'end'),
    [
        (
            last_map_unread,
            'nothing reads maps 0 (stride 4), 1 (stride 8), 3 (stride 32) of the 4 of '
            'model.backbone (SepViT), so that ',
            ' parameters get no gradient; output only what is read, by out_indices or num_outs',
        ),
        (
            neck_map_unread,
            'nothing reads map 3 (stride 32) of the 4 of model.neck (FPN), so that 2',
            ' parameters get no gradient; output only what is read, by out_indices or num_outs',
        ),
        (
            lambda: build(retinanet()),
            'nothing reads map 0 (stride 4) of the 4 of model.backbone (SepViT); output only',
            '',
        ),
    ],
    ids=['backbone', 'neck', 'harmless'],
)
def test_maps_that_nobody_reads_are_said_in_one_process(model: Any, start: str, end: str) -> None:
    found, (line,) = checked(model())
    assert found == ()
    assert line.startswith(start)
    assert line.endswith(end)


@pytest.mark.parametrize('model', [upernet, mask_rcnn, yolov3, detr, solo])
def test_where_all_is_read_or_may_be_nothing_is_said(model: Any) -> None:
    assert checked(build(model())) == ((), [])


class Supervised(nn.Module):
    """Reads the last map, and the others while training only: deep supervision."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(channels, 2, 1) for channels in FOUR])
        # Of one value per channel no BatchNorm can take the statistics.
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(2), nn.Dropout())
        self.register_buffer('calls', torch.zeros(()))

    def forward(self, maps: tuple[Tensor, ...]) -> list[Tensor]:
        self.calls = self.calls + 1
        found = [conv(x) for conv, x in zip(self.convs, maps, strict=True)]
        return [self.pool(x) for x in (found if self.training else found[-1:])]


class Choosy(Supervised):
    """Fails while training unless it gets the objects as well."""

    def forward(self, maps: tuple[Tensor, ...], objects: Any = None) -> list[Tensor]:
        assert not self.training or objects is not None
        return super().forward(maps)


class SupervisedNeck(nn.Module):
    """Hands on the last map, and the others while training only."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(channels, 8, 1) for channels in FOUR])

    def forward(self, maps: tuple[Tensor, ...]) -> list[Tensor]:
        found = [conv(x) for conv, x in zip(self.convs, maps, strict=True)]
        return found if self.training else found[-1:]


def supervised(head: type[nn.Module] | None) -> nn.Module:
    model = build(retinanet())
    if head is None:
        model.neck, model.bbox_head = SupervisedNeck(), Projection()
    else:
        model.neck, model.bbox_head = None, head()
    return model


@pytest.mark.parametrize('head', [Supervised, Choosy, None])
@pytest.mark.usefixtures('process_group')
def test_maps_that_are_read_while_training_only_are_read(head: Any) -> None:
    model = supervised(head)
    model.bbox_head.eval()
    state = copy.deepcopy(model.state_dict())
    parallel = MMDistributedDataParallel(model, broadcast_buffers=False)
    for each in (model, parallel):
        assert checked(each) == ((), [])
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(part.training for part in model.bbox_head.modules())


@pytest.mark.parametrize('model', [last_map_unread, neck_map_unread])
@pytest.mark.usefixtures('process_group')
def test_they_stop_a_distributed_run_that_would_stop_by_itself(model: Any) -> None:
    inner = model()
    parallel = MMDistributedDataParallel(inner, broadcast_buffers=False)
    (problem,), _ = checked(parallel)
    assert 'nothing reads map' in problem
    assert 'DistributedDataParallel would stop in the second iteration' in problem
    assert 'find_unused_parameters=True' in problem
    bearing = MMDistributedDataParallel(inner, find_unused_parameters=True, broadcast_buffers=False)
    assert checked(bearing)[0] == ()


@pytest.mark.usefixtures('process_group')
def test_a_map_that_costs_no_gradient_does_not_stop_a_distributed_run() -> None:
    parallel = MMDistributedDataParallel(build(retinanet()), broadcast_buffers=False)
    assert checked(parallel)[0] == ()


@pytest.mark.usefixtures('process_group')
def test_the_trial_talks_to_no_other_process() -> None:
    """On a CPU, BatchNorm over all processes raises as soon as it would communicate."""
    norm = dict(type='SyncBN')
    model = build(retinanet(), ('neck.norm_cfg', norm), ('neck.in_channels', FOUR))
    model.bbox_head = Projection()
    model.bbox_head.norm = nn.SyncBatchNorm(2)
    assert problems(model) == ()
