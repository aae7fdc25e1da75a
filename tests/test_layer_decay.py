"""Layer-wise learning rates: which parameter gets which, in whatever the backbone is."""

from __future__ import annotations

import itertools
import logging
from typing import Any

import pytest
from mmengine.config import ConfigDict
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import DefaultScope
from torch import nn

from tests.small import SMALL, stage_modules
from vitbackbones.backbones.base import Backbone

LR, DECAY, RATE = 1e-3, 0.05, 0.5
every_backbone = pytest.mark.parametrize('name', sorted(SMALL))


def small(name: str, **options: Any) -> Backbone:
    return Backbone.registered()[name](SMALL[name], **options)


class Detector(nn.Module):
    """A backbone with what follows it, as detectors and segmentors name them."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = nn.Conv2d(4, 4, 1)
        self.bbox_head = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))


class Wrapper(nn.Module):
    """Parallel training keeps the model under ``module``."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


class SemiSupervised(nn.Module):
    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        self.student = student
        self.teacher = teacher.requires_grad_(False)


def wrap(model: nn.Module, constructor: str = 'LayerDecay', **paramwise_cfg: Any) -> OptimWrapper:
    cfg = ConfigDict(
        type='OptimWrapper',
        constructor=f'{constructor}OptimWrapperConstructor',
        optimizer=dict(type='AdamW', lr=LR, weight_decay=DECAY),
    )
    if paramwise_cfg:
        cfg.paramwise_cfg = paramwise_cfg
    return build_optim_wrapper(model, cfg)


def settings(model: nn.Module, wrapper: OptimWrapper) -> dict[str, tuple[float, float]]:
    """{name of parameter: learning rate and weight decay}; each parameter is in one group."""
    names = {id(param): name for name, param in model.named_parameters()}
    groups = wrapper.optimizer.param_groups
    members = [names[id(param)] for group in groups for param in group['params']]
    assert len(set(members)) == len(members)
    return {
        names[id(param)]: (group['lr'], group['weight_decay'])
        for group in groups
        for param in group['params']
    }


# ------------------------------------------------------------------- layers of the backbones


def layers(net: Backbone, parts: Any) -> set[int]:
    """The layers of all parameters in ``parts``, but for the last one, which output norms share."""
    names = {id(param): name for name, param in net.named_parameters()}
    found = {net.get_layer_depth(names[id(p)]) for part in parts for p in part.parameters()}
    return {depth for depth, count in found if depth < count - 1}


@every_backbone
def test_every_parameter_is_in_one_of_the_layers_and_none_of_them_is_empty(name: str) -> None:
    net = small(name)
    found = [net.get_layer_depth(key) for key, _ in net.named_parameters()]
    ((count),) = {count for _, count in found}
    # The last layer may be empty: it is that of the heads, and of output norms where there are any.
    assert {depth for depth, _ in found} | {count - 1} == set(range(count))


@every_backbone
def test_layers_rise_from_stage_to_stage(name: str) -> None:
    net = small(name)
    parts = [layers(net, modules) for modules in stage_modules(net)]
    assert parts[0] == {0}
    for lower, upper in itertools.pairwise(parts):
        assert max(lower) < min(upper)


@every_backbone
def test_blocks_have_layers_of_their_own(name: str) -> None:
    depths = SMALL[name].get('depths') or (SMALL[name]['depth'],)
    net = small(name)
    _, count = net.get_layer_depth(next(iter(dict(net.named_parameters()))))
    assert count == sum(depths) + 2


@every_backbone
def test_a_prefix_is_read_and_what_is_outside_it_is_in_the_last_layer(name: str) -> None:
    net = small(name)
    for key, _ in net.named_parameters():
        assert net.get_layer_depth(f'a.backbone.{key}', 'a.backbone.') == net.get_layer_depth(key)
    depth, count = net.get_layer_depth('neck.weight', 'a.backbone.')
    assert depth == count - 1


@every_backbone
def test_stages_that_are_not_built_have_no_layers(name: str) -> None:
    net = small(name, out_indices=(0,))
    found = [net.get_layer_depth(key) for key, _ in net.named_parameters()]
    assert max(found)[0] >= max(found)[1] - 2


@every_backbone
def test_what_must_not_decay_exists(name: str) -> None:
    net = small(name)
    assert net.no_weight_decay() <= {key for key, _ in net.named_parameters()}


def test_window_tokens_and_position_encodings_must_not_decay() -> None:
    net = small('SepViT', window_token='learnable')
    names = net.no_weight_decay()
    encodings = {name for name, _ in net.named_parameters() if name.startswith('pos_block.')}
    assert len(encodings) == 2 * len(SMALL['SepViT']['depths'])
    assert encodings < names
    assert len(names - encodings) == sum(SMALL['SepViT']['depths'])


# -------------------------------------------------------------------------------- the rates


@every_backbone
def test_rates_follow_the_layers_and_the_rest_learns_at_the_full_rate(name: str) -> None:
    model = Detector(small(name))
    got = settings(model, wrap(model, decay_rate=RATE))
    assert set(got) == {key for key, _ in model.named_parameters()}
    for key, (lr, _) in got.items():
        if key.startswith('backbone.'):
            depth, count = model.backbone.get_layer_depth(key, 'backbone.')
            assert lr == pytest.approx(LR * RATE ** (count - 1 - depth))
        else:
            assert lr == LR


def test_the_convention_is_that_of_beit() -> None:
    """A ViT of L blocks: stem at rate ** (L + 1), first block at rate ** L, heads at rate ** 0."""
    model = Detector(small('SuperViT'))
    got = settings(model, wrap(model, decay_rate=RATE))
    blocks = SMALL['SuperViT']['depth']
    for key, power in (
        ('patch_embed.proj.weight', blocks + 1),
        ('cls_token', blocks + 1),
        ('blocks.0.attn.qkv.weight', blocks),
        (f'blocks.{blocks - 1}.mlp.fc2.bias', 1),
    ):
        names = [name for name in got if name.startswith(f'backbone.{key}')]
        assert names, list(got)
        assert got[names[0]][0] == pytest.approx(LR * RATE**power)
    assert got['bbox_head.0.weight'][0] == LR


@every_backbone
def test_what_must_not_decay_does_not(name: str) -> None:
    model = Detector(small(name))
    exempt = {f'backbone.{key}' for key in model.backbone.no_weight_decay()}
    for key, (_, decay) in settings(model, wrap(model)).items():
        assert decay == (0 if key in exempt else DECAY)


@every_backbone
@pytest.mark.parametrize(
    'options',
    [
        dict(norm_decay_mult=0.0),
        dict(norm_decay_mult=0.5, bias_decay_mult=0.0),
        dict(bias_decay_mult=0.0),
        dict(flat_decay_mult=0.0, norm_decay_mult=0.3),
        dict(
            norm_decay_mult=0.0,
            custom_keys=dict(backbone=dict(lr_mult=0.1), bbox_head=dict(decay_mult=0.2)),
        ),
        dict(
            custom_keys={
                'head': dict(lr_mult=2.0),
                'neck': dict(),
                'bbox_head.0': dict(lr_mult=3.0),
            }
        ),
    ],
    ids=str,
)
def test_without_decay_of_rates_the_options_mean_what_mmengine_makes_of_them(
    name: str, options: dict[str, Any]
) -> None:
    model = Detector(small(name))
    exempt = {f'backbone.{key}' for key in model.backbone.no_weight_decay()}
    want = settings(model, wrap(model, 'Default', **options))
    got = settings(model, wrap(model, decay_rate=1.0, **options))
    assert got.keys() == want.keys()
    for key, (lr, decay) in want.items():
        assert got[key] == pytest.approx((lr, 0 if key in exempt else decay))


@every_backbone
def test_the_exempting_constructor_is_mmengines_but_for_what_must_not_decay(name: str) -> None:
    model = Detector(small(name))
    exempt = {f'backbone.{key}' for key in model.backbone.no_weight_decay()}
    for options in ({}, dict(custom_keys=dict(neck=dict(lr_mult=0.1)), bias_decay_mult=0.5)):
        got = wrap(model, 'NoWeightDecay', **options)
        want = settings(model, wrap(model, 'Default', **options))
        assert len(got.optimizer.param_groups) == len(want)  # as checkpoints of either have them
        for key, (lr, decay) in settings(model, got).items():
            assert (lr, decay) == (want[key][0], 0.0 if key in exempt else want[key][1])


def test_a_custom_key_decides_what_the_exempting_constructor_would() -> None:
    model = Detector(small('SepViT'))
    custom = {'pos_block.0': dict(decay_mult=0.5), 'backbone': dict(lr_mult=0.1)}
    got = settings(model, wrap(model, 'NoWeightDecay', custom_keys=custom))
    decays = {key: decay for key, (_, decay) in got.items() if 'pos_block' in key}
    assert {decay for key, decay in decays.items() if 'pos_block.0' in key} == {DECAY / 2}
    assert {decay for key, decay in decays.items() if 'pos_block.0' not in key} == {0.0}


def test_a_custom_rate_multiplies_that_of_the_layer() -> None:
    model = Detector(small('SHViT'))
    plain = settings(model, wrap(model, decay_rate=RATE))
    custom = dict(backbone=dict(lr_mult=0.1))
    scaled = settings(model, wrap(model, decay_rate=RATE, custom_keys=custom))
    for key, (lr, _) in plain.items():
        factor = 0.1 if key.startswith('backbone') else 1
        assert scaled[key][0] == pytest.approx(factor * lr)


# ------------------------------------------------------------------------------- the groups


def test_there_is_one_group_for_each_rate_and_decay() -> None:
    model = Detector(small('GCViT'))
    for rate in (1.0, RATE):
        wrapper = wrap(model, decay_rate=rate, norm_decay_mult=0.0)
        pairs = [(g['lr'], g['weight_decay']) for g in wrapper.optimizer.param_groups]
        assert len(set(pairs)) == len(pairs)
        assert len(pairs) == (2 if rate == 1 else 2 * (sum(SMALL['GCViT']['depths']) + 2))


def test_groups_are_named_by_their_layers() -> None:
    model = Detector(small('SHViT'))
    names = [g['name'] for g in wrap(model, decay_rate=RATE).optimizer.param_groups]
    assert names == [*(f'backbone layer {i}' for i in range(5)), 'neck, bbox_head']
    (name,) = [g['name'] for g in wrap(model).optimizer.param_groups]
    assert name == 'backbone layers 0-4, neck, bbox_head'


def test_frozen_parameters_are_in_no_group() -> None:
    model = Detector(small('SepViT', frozen_stages=2))
    got = settings(model, wrap(model, decay_rate=RATE))
    assert set(got) == {key for key, param in model.named_parameters() if param.requires_grad}
    assert not any(key.startswith('backbone.blocks.0.') for key in got)


def test_shared_parameters_are_in_one_group() -> None:
    model = Detector(small('SHViT'))
    model.other_head = nn.Conv2d(4, 4, 1)
    model.other_head.weight = model.neck.weight
    assert 'other_head.weight' not in settings(model, wrap(model, decay_rate=RATE))


def test_the_log_has_a_table(caplog: pytest.LogCaptureFixture) -> None:
    MMLogger.get_current_instance().addHandler(caplog.handler)
    try:
        with caplog.at_level(logging.INFO):
            wrap(Detector(small('SHViT')), decay_rate=RATE)
    finally:
        MMLogger.get_current_instance().removeHandler(caplog.handler)
    (table,) = [record.message for record in caplog.records if 'decay_rate' in record.message]
    lines = table.splitlines()
    assert lines[0] == 'layer-wise learning rates, decay_rate=0.5'
    assert lines[2].split() == ['3.13e-05', '0.05', '12', 'backbone', 'layer', '0']
    assert lines[-1].split() == ['0.001', '0.05', '6', 'neck,', 'bbox_head']


# --------------------------------------------------------------------------- where backbones are


def test_parallel_training_changes_nothing() -> None:
    model = Detector(small('SHViT'))
    plain = settings(model, wrap(model, decay_rate=RATE))
    assert settings(model, wrap(Wrapper(model), decay_rate=RATE)) == plain
    model.backbone = Wrapper(model.backbone)  # as where each part is wrapped by itself
    inner = settings(model, wrap(model, decay_rate=RATE))
    assert {key.replace('module.', ''): value for key, value in inner.items()} == plain


def test_the_student_of_a_semi_supervised_model_is_found_and_its_teacher_left_out() -> None:
    detector = Detector(small('SHViT'))
    plain = settings(detector, wrap(detector, decay_rate=RATE))
    model = SemiSupervised(detector, Detector(small('SHViT')))
    got = settings(model, wrap(model, decay_rate=RATE))
    assert got == {f'student.{key}': value for key, value in plain.items()}


def test_a_backbone_alone_is_found() -> None:
    net = small('SHViT')
    got = settings(net, wrap(net, decay_rate=RATE))
    assert got['patch_embed.0.c.weight'][0] == pytest.approx(LR * RATE**5)


class Foreign(nn.Module):
    """A backbone as in mmpretrain, which knows nothing of weight decay."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        return int(param_name.removeprefix(prefix).split('.')[1]), 4


class Classifier(nn.Module):
    """As mmpretrain's, whose own method of that name takes no prefix."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Foreign()
        self.head = nn.Linear(2, 2)

    def get_layer_depth(self, param_name: str) -> tuple[int, int]:
        raise AssertionError('only a backbone knows its layers')


def test_backbones_of_mmpretrain_are_found() -> None:
    model = Classifier()
    got = settings(model, wrap(model, decay_rate=RATE))
    assert got['backbone.layers.0.weight'] == (LR / 8, DECAY)
    assert got['backbone.layers.2.bias'] == (LR / 2, DECAY)
    assert got['head.weight'] == (LR, DECAY)


def test_a_detector_of_mmdet_trains_with_it() -> None:
    from mmdet.registry import MODELS

    cfg = dict(
        type='RetinaNet',
        backbone=dict(type='vitbackbones.SHViT', arch=SMALL['SHViT']),
        neck=dict(type='FPN', in_channels=[16, 24, 32], out_channels=8, num_outs=3),
        bbox_head=dict(
            type='RetinaHead',
            num_classes=2,
            in_channels=8,
            feat_channels=8,
            anchor_generator=dict(
                type='AnchorGenerator', ratios=[1.0], scales=[4], strides=[16, 32, 64]
            ),
        ),
    )
    with DefaultScope.overwrite_default_scope('mmdet'):  # whatever other tests left behind
        model = MODELS.build(cfg)
    got = settings(model, wrap(model, 'vitbackbones.LayerDecay', decay_rate=RATE))
    assert set(got) == {key for key, _ in model.named_parameters()}
    assert got['backbone.patch_embed.0.c.weight'][0] == pytest.approx(LR * RATE**5)
    assert got['neck.lateral_convs.0.conv.weight'][0] == LR


# ------------------------------------------------------------------------------------- slips


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(decay_rat=0.8), r'paramwise_cfg has unknown keys decay_rat; choose from decay_rate'),
        (dict(num_layers=12), r'unknown keys num_layers'),
        (dict(decay_rate=0.0), r'decay_rate=0.0 must be above 0 and at most 1'),
        (dict(decay_rate=1.1), r'decay_rate=1.1 must be'),
        (
            dict(custom_keys=dict(neck=dict(lr=1))),
            r"custom_keys\['neck'\] has unknown keys lr; choose from lr_mult, decay_mult",
        ),
        (
            dict(custom_keys=dict(absolute_pos_embed=dict(decay_mult=0.0))),
            r"no parameter has 'absolute_pos_embed' in its name; names are like backbone\.",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_slip_in_the_options_is_an_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrap(Detector(small('SHViT')), **options)


@pytest.mark.parametrize('key', ['lr', 'weight_decay'])
def test_an_optimizer_without_what_is_multiplied_is_an_error(key: str) -> None:
    optimizer = dict(type='AdamW', lr=LR, weight_decay=DECAY)
    del optimizer[key]
    cfg = dict(constructor='LayerDecayOptimWrapperConstructor', optimizer=optimizer)
    with pytest.raises(ValueError, match=f'optimizer has no {key},'):
        build_optim_wrapper(Detector(small('SHViT')), ConfigDict(cfg))


def test_a_model_without_such_a_backbone_is_an_error() -> None:
    with pytest.raises(
        ValueError,
        match=r'nothing in Detector has a method get_layer_depth\(param_name, prefix\).*'
        r'its parts are backbone \(Conv2d\), neck \(Conv2d\), bbox_head \(Sequential\)',
    ):
        wrap(Detector(nn.Conv2d(3, 4, 1)), decay_rate=RATE)
