"""Another backbone in configs of mmdet and mmseg: each rule, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config

from tests.models import FOUR, anchors, decode_head
from vitbackbones.authoring.channels import Rewiring, positions_read
from vitbackbones.authoring.draft import Draft
from vitbackbones.authoring.maps import choose, in_place_of_fpn, pyramid_of
from vitbackbones.authoring.measuring import Map, measure
from vitbackbones.authoring.new import new_config
from vitbackbones.authoring.ours import network
from vitbackbones.cli.main import main
from vitbackbones.engine.networks import networks_of
from vitbackbones.engine.wiring import try_wiring
from vitbackbones.errors import UserError

DETECTOR = """
default_scope = 'mmdet'
model = dict(
    type='RetinaNet',
    data_preprocessor=dict(type='DetDataPreprocessor', mean=[0.0] * 3, std=[1.0] * 3),
    backbone=dict(type='ResNet', depth=18, frozen_stages=1,
                  init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18')),
    neck=dict(type='FPN', in_channels=[64, 128, 256, 512], out_channels=16, start_level=1,
              add_extra_convs='on_input', num_outs=5),
    bbox_head=dict(
        type='RetinaHead', num_classes=2, in_channels=16, feat_channels=16, stacked_convs=1,
        anchor_generator=dict(type='AnchorGenerator', ratios=[1.0], scales=[4],
                              strides=[8, 16, 32, 64, 128])),
    train_cfg=dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4)),
    test_cfg=dict())
optim_wrapper = dict(type='OptimWrapper',
                     optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4))
param_scheduler = [dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
                   dict(type='CosineAnnealingLR', eta_min=0.0005, begin=1, T_max=9, by_epoch=True)]
load_from = 'https://example.org/retinanet.pth'
"""

SEGMENTOR = """
default_scope = 'mmseg'
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', mean=[123.675, 116.28, 103.53],
                           std=[58.395, 57.12, 57.375], bgr_to_rgb=True),
    pretrained='open-mmlab://resnet18_v1c',
    backbone=dict(type='ResNetV1c', depth=18, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)),
    decode_head=dict(type='PSPHead', in_channels=512, in_index=3, channels=8, num_classes=2),
    auxiliary_head=dict(type='FCNHead', in_channels=256, in_index=2, channels=8, num_classes=2),
    train_cfg=dict(), test_cfg=dict(mode='whole'))
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.01))
"""


class Written:
    """A file that was written, and what was said of it."""

    def __init__(self, folder: Path, text: str, backbone: str, **options: Any) -> None:
        start = folder / 'start.py'
        start.write_text(text)
        result = new_config(str(start), backbone, folder / 'new.py', **options)
        self.said = dict(line.split(': ', 1) for line in result.said)
        self.text = result.path.read_text()
        self.config = Config.fromfile(result.path)
        self.lines = [
            line for line in self.text.splitlines() if line and not line.lstrip().startswith('#')
        ]

    def get(self, place: str) -> Any:
        node: Any = self.config
        for key in place.split('.'):
            node = node[int(key)] if key.isdigit() else node[key]
        return node


@pytest.fixture(scope='module')
def detector(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return Written(tmp_path_factory.mktemp('detector'), DETECTOR, 'sepvit_lite', weights='none')


@pytest.fixture(scope='module')
def segmentor(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return Written(tmp_path_factory.mktemp('segmentor'), SEGMENTOR, 'sepvit_lite', weights='none')


@pytest.fixture(scope='module')
def coarse(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """With a backbone whose finest stride is 16."""
    return Written(tmp_path_factory.mktemp('coarse'), DETECTOR, 'shvit_s1', weights='none')


# ------------------------------------------------------------------------------- whole files


def test_the_file_says_what_is_different_and_nothing_else(detector: Written) -> None:
    assert detector.lines[0] == "_base_ = ['start.py', 'vitbackbones::_base_/hooks.py']"
    assert len(detector.lines) <= 30
    assert {key for key in detector.config.model if key in detector.text} >= {'backbone', 'neck'}
    assert 'bbox_head' not in detector.text
    assert 'test_cfg' not in detector.text


def misfits(cfg: Config) -> list[str]:
    from mmdet.registry import MODELS

    with MODELS.switch_scope_and_registry(cfg.default_scope) as registry:
        model = registry.build(copy.deepcopy(cfg.model))
    (found,) = networks_of(model)
    wiring = try_wiring(found, lambda: None)
    return [*(misfit.text for misfit in wiring.misfits), *map(str, wiring.unread)]


@pytest.mark.parametrize('name', ['detector', 'segmentor', 'coarse'])
def test_everything_fits_and_every_map_is_read(name: str, request: pytest.FixtureRequest) -> None:
    assert misfits(request.getfixturevalue(name).config) == []


@pytest.mark.parametrize('name', ['detector', 'coarse'])
def test_levels_stay_what_they_were(name: str, request: pytest.FixtureRequest) -> None:
    old, new = Config.fromstring(DETECTOR, '.py'), request.getfixturevalue(name).config
    assert measure(new.model, 'mmdet').levels == measure(old.model, 'mmdet').levels


def test_the_same_input_gives_the_same_file(detector: Written, tmp_path: Path) -> None:
    assert Written(tmp_path, DETECTOR, 'sepvit_lite', weights='none').text == detector.text


def test_our_hooks_are_added_to_those_that_a_config_has(tmp_path: Path) -> None:
    own = (
        "custom_hooks = [dict(type='EmptyCacheHook'), dict(type='vitbackbones.PreflightHook')]\n"
        "custom_imports = dict(imports=['json'], allow_failed_imports=True)\n"
    )
    new = Written(tmp_path, DETECTOR + own, 'sepvit_lite', weights='none')
    types = [hook.type for hook in new.config.custom_hooks]
    assert types[:2] == ['EmptyCacheHook', 'vitbackbones.PreflightHook']
    assert types[2:] == [f'vitbackbones.{x}Hook' for x in ('Durable', 'NonFinite', 'ZeroLoss')]
    assert new.config.custom_imports == dict(
        imports=['vitbackbones', 'json'], allow_failed_imports=True
    )


# --------------------------------------------------------------------------------- rules


def test_maps_that_a_neck_does_not_read_are_not_output(detector: Written) -> None:
    assert detector.get('model.backbone.out_indices') == (1, 2, 3)
    neck = detector.get('model.neck')
    assert (neck.in_channels, neck.start_level) == ([64, 128, 256], 0)
    assert (neck.out_channels, neck.num_outs, neck.add_extra_convs) == (16, 5, 'on_input')


def test_a_neck_that_looks_at_a_map_without_reading_it_keeps_it(tmp_path: Path) -> None:
    text = DETECTOR.replace("type='FPN', ", "type='NASFCOS_FPN', ").replace("'on_input'", 'True')
    new = Written(tmp_path, text, 'sepvit_lite', weights='none')
    assert 'out_indices' not in new.get('model.backbone')
    assert new.get('model.neck.in_channels') == [32, 64, 128, 256]
    assert new.get('model.neck.start_level') == 1


def test_a_config_whose_name_mmengine_does_not_take_is_inherited_by_its_path(
    tmp_path: Path,
) -> None:
    new = new_config(
        'mmdet::gn+ws/faster-rcnn_r50_fpn_gn-ws-all_1x_coco.py',
        'sepvit_lite',
        tmp_path / 'new.py',
        weights='none',
    )
    read = Config.fromfile(new.path)
    assert read.model.neck.in_channels == [32, 64, 128, 256]
    assert read.model.neck.norm_cfg.type == 'GN'


def test_fpn_becomes_the_pyramid_that_makes_finer_levels(coarse: Written) -> None:
    assert coarse.get('model.neck') == dict(
        type='vitbackbones.TransposedConvFPN',
        in_channels=[128, 224, 320],
        out_channels=16,
        num_outs=5,
        num_trans_convs=1,
    )
    assert 'out_indices' not in coarse.get('model.backbone')


def test_maps_of_dilated_networks_are_chosen_by_depth(segmentor: Written) -> None:
    assert segmentor.said['maps'].startswith('strides 4, 8, 8, 8 become, by depth, 4, 8, 16, 32')
    assert segmentor.get('model.backbone.out_indices') == (2, 3)
    decode, auxiliary = segmentor.get('model.decode_head'), segmentor.get('model.auxiliary_head')
    assert (decode.in_channels, decode.in_index) == (256, 1)
    assert (auxiliary.in_channels, auxiliary.in_index) == (128, 0)


def test_sgd_becomes_adamw_at_the_published_rates_and_the_schedule_follows(
    detector: Written,
) -> None:
    assert detector.get('optim_wrapper.optimizer') == dict(type='AdamW', lr=1e-4, weight_decay=1e-3)
    warm_up, cosine = detector.config.param_scheduler
    assert warm_up.start_factor == 0.001
    assert cosine.eta_min == pytest.approx(0.0005 / 100)


def test_the_batch_that_a_rate_is_for_comes_with_it(tmp_path: Path) -> None:
    new = Written(tmp_path, DETECTOR + 'auto_scale_lr = dict(base_batch_size=64)', 'casvit_xs')
    assert new.get('optim_wrapper.optimizer.lr') == 2e-4
    assert new.config.auto_scale_lr.base_batch_size == 32


def test_the_detector_of_a_tracker_is_changed_alone(tmp_path: Path) -> None:
    tracker = (
        "part = dict(backbone=dict(type='ResNet', depth=18, norm_eval=True),\n"
        "            data_preprocessor=dict(type='DetDataPreprocessor'))\n"
        "model = dict(type='DeepSORT', detector=model, reid=part)\n"
    )
    new = Written(tmp_path, DETECTOR + tracker, 'sepvit_lite', weights='none')
    assert new.get('model.detector.backbone.type') == 'vitbackbones.SepViT'
    assert new.get('model.detector.data_preprocessor.bgr_to_rgb')
    assert 'reid' not in new.text
    assert new.said['owner'] == 'model.detector; model.reid keeps its backbone'


def test_a_package_that_only_the_old_backbone_needs_may_be_missing(
    tmp_path: Path,
) -> None:
    missing = DETECTOR.replace("type='ResNet', depth=18", "type='absent.ResNet'")
    missing += "custom_imports = dict(imports=['absent.models'], allow_failed_imports=False)\n"
    new = Written(tmp_path, missing, 'sepvit_lite', weights='none')
    assert new.said['guessed'].endswith('it gives 64@4 128@8 256@16 512@32')
    assert new.config.custom_imports.imports == ['vitbackbones']
    assert misfits(new.config) == []
    (tmp_path / 'new.py').unlink()
    with pytest.raises(UserError, match=r'imports absent\.models, which is not there'):
        Written(tmp_path, missing.replace("'FPN'", "'absent.FPN'"), 'sepvit_lite')
    assert not (tmp_path / 'new.py').exists()


def test_adamw_is_kept_and_a_rate_far_away_is_named(segmentor: Written) -> None:
    assert 'optim_wrapper' not in segmentor.text
    assert segmentor.said['optimizer'].startswith(
        'AdamW lr=0.001 decay=0.01 kept, 17 times from the published 6e-05'
    )


@pytest.mark.parametrize('backbone', ['sepvit_lite', 'supervit_deit_s'])
def test_layer_decay_of_others_goes(tmp_path: Path, backbone: str) -> None:
    foreign = (
        "optim_wrapper.update(constructor='LearningRateDecayOptimizerConstructor',\n"
        "    paramwise_cfg=dict(decay_rate=0.9, decay_type='layer_wise', num_layers=12,\n"
        "                       custom_keys={'backbone': dict(lr_mult=0.1)}))\n"
    )
    wrapper = Written(tmp_path, SEGMENTOR + foreign, backbone, weights='none').get('optim_wrapper')
    if backbone == 'sepvit_lite':
        assert wrapper.constructor == 'vitbackbones.NoWeightDecayOptimWrapperConstructor'
        assert wrapper.paramwise_cfg == dict(
            custom_keys=dict(backbone=dict(lr_mult=1.0), norm=dict(decay_mult=0.0))
        )
    else:  # nothing is spared of random weights
        assert wrapper.constructor == 'vitbackbones.LayerDecayOptimWrapperConstructor'
        assert wrapper.paramwise_cfg == dict(decay_rate=1.0, flat_decay_mult=0.0)


def test_layer_decay_of_ours_stays(tmp_path: Path) -> None:
    cfg = "_base_ = 'vitbackbones::segmentation/supervit_upernet.py'"
    wrapper = Written(tmp_path, cfg, 'supervit_deit_s', weights='none').get('optim_wrapper')
    assert wrapper.constructor == 'vitbackbones.LayerDecayOptimWrapperConstructor'
    assert wrapper.paramwise_cfg == dict(decay_rate=1.0, flat_decay_mult=0.0)


def test_multipliers_of_a_config_are_kept(tmp_path: Path) -> None:
    own = 'optim_wrapper.update(paramwise_cfg=dict(bias_lr_mult=2.0, bias_decay_mult=0.0))\n'
    new = Written(tmp_path, DETECTOR + own, 'sepvit_lite', weights='none')
    assert new.get('optim_wrapper.paramwise_cfg') == dict(bias_lr_mult=2.0, bias_decay_mult=0.0)


def test_several_optimizers_are_left_alone(tmp_path: Path) -> None:
    several = "optim_wrapper = dict(a=dict(optimizer=dict(type='SGD', lr=0.1)))\n"
    new = Written(tmp_path, DETECTOR + several, 'sepvit_lite', weights='none')
    assert new.get('optim_wrapper.a.optimizer.type') == 'SGD'
    assert 'several optimizers' in new.said['optimizer']


def test_pixels_become_those_of_the_weights(detector: Written, segmentor: Written) -> None:
    preprocessor = detector.get('model.data_preprocessor')
    assert preprocessor.mean == [123.675, 116.28, 103.53]
    assert preprocessor.std == [58.395, 57.12, 57.375]
    assert preprocessor.bgr_to_rgb
    assert 'data_preprocessor' not in segmentor.text  # it has them


def test_pixels_of_other_than_three_channels_are_left_alone(tmp_path: Path) -> None:
    four = "model['backbone']['in_channels'] = 4\nmodel['data_preprocessor'].update(mean=[9.0] * 4)"
    new = Written(tmp_path, DETECTOR + four, 'gcvit_xxtiny')
    assert new.get('model.data_preprocessor.mean') == [9.0] * 4
    assert new.get('model.backbone.in_channels') == 4
    assert 'init_cfg' not in new.get('model.backbone')
    assert 'published ones are for 3 channels, not 4' in new.said['weights']


def test_weights_of_others_are_dropped(detector: Written, segmentor: Written) -> None:
    assert detector.config.load_from is None
    assert segmentor.config.model.pretrained is None
    for written in (detector, segmentor):
        assert 'init_cfg' not in written.get('model.backbone')
        assert 'frozen_stages' not in written.get('model.backbone')


# -------------------------------------------------------------------------------- weights


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Torch's cache of weights, empty, and no network."""
    folder = tmp_path / 'hub'
    monkeypatch.setenv('TORCH_HOME', str(folder))
    monkeypatch.setenv('https_proxy', 'http://127.0.0.1:9')
    return folder


def test_published_weights_that_cannot_be_fetched_are_left_out(cache: Path, tmp_path: Path) -> None:
    new = Written(tmp_path, DETECTOR, 'shvit_s1')
    assert not {'init_cfg', 'norm_eval'} & {*new.get('model.backbone')}
    assert 'shvit_s1.pth could not be fetched' in new.said['weights']
    assert '--weights FILE' in new.said['weights']
    assert '# Random weights: ' in new.text


def test_published_weights_of_the_cache_are_used(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('vitbackbones.authoring.weights.local_file', lambda *_, **__: 'a')
    backbone = Written(tmp_path, DETECTOR, 'shvit_s1').get('model.backbone')
    assert backbone.init_cfg.checkpoint.endswith('/releases/download/v1.0/shvit_s1.pth')
    assert backbone.norm_eval  # as published


def test_weights_that_only_a_browser_can_fetch_are_named(tmp_path: Path) -> None:
    said = Written(tmp_path, DETECTOR, 'casvit_xs').said['weights']
    assert 'must be fetched with a browser, from https://drive' in said


def test_published_weights_can_be_insisted_on(cache: Path, tmp_path: Path) -> None:
    from vitbackbones import CheckpointError

    for backbone, said in (
        ('shvit_s1', '--weights published cannot be downloaded .*: fetch it by other means'),
        (
            'casvit_xs',
            r'fetched with a browser: save the file of https://drive\S+ as \S+/casvit-xs',
        ),
        ('sepvit_lite', 'no weights of sepvit_lite were ever published: give a file of your own'),
    ):
        with pytest.raises(CheckpointError, match=said):
            Written(tmp_path, DETECTOR, backbone, weights='published')
    assert not (tmp_path / 'new.py').exists()


def test_a_file_of_weights_has_to_fit(tmp_path: Path) -> None:
    from vitbackbones import CheckpointError, create

    file = tmp_path / 'weights.pth'
    torch.save(create('shvit_s1').state_dict(), file)
    new = Written(tmp_path, DETECTOR, 'shvit_s1', weights=str(file))
    assert new.get('model.backbone.init_cfg') == dict(type='Pretrained', checkpoint=str(file))
    (tmp_path / 'new.py').unlink()
    with pytest.raises(CheckpointError, match='SHViT'):
        Written(tmp_path, DETECTOR, 'shvit_s2', weights=str(file))
    assert not (tmp_path / 'new.py').exists()


# --------------------------------------------------------------------------- maps, by themselves

SEPVIT = [Map(c, s) for c, s in zip(FOUR, (4.0, 8.0, 16.0, 32.0), strict=True)]
SHVIT = [Map(c, s) for c, s in zip(FOUR, (16.0, 32.0, 64.0), strict=False)]


def maps(*strides: float, channels: list[int] | None = None) -> list[Map]:
    channels = channels or [64 * 2**i for i in range(len(strides))]
    return [Map(c, s) for c, s in zip(channels, strides, strict=True)]


@pytest.mark.parametrize(
    ('old', 'read', 'stages', 'strides', 'positions'),
    [
        (maps(4, 8, 16, 32), (0, 1, 2, 3), (0, 1, 2, 3), (4, 8, 16, 32), (0, 1, 2, 3)),
        (maps(8, 16, 32), (0, 1, 2), (1, 2, 3), (8, 16, 32), (0, 1, 2)),
        (maps(32), (0,), (3,), (32,), (0,)),
        (maps(4, 8, 8, 8), (0, 1, 2, 3), (0, 1, 2, 3), (4, 8, 16, 32), (0, 1, 2, 3)),
        (maps(4, 8, 8, 8), (2, 3), (2, 3), (16, 32), (0, 1)),
        (maps(16, 16, 16, 16, channels=[9] * 4), (3,), (3,), (32,), (0,)),
        # Through a pyramid: no stage is left out.
        (maps(16), (0,), (2, 3), (16,), (0,)),
        (maps(2, 4, 8), (0, 1, 2), (0, 1, 2, 3), (2, 4, 8), (0, 1, 2)),
        # Fused maps: several in one place.
        (maps(8, 8, 16, channels=[256, 128, 128]), (0, 1, 2), (1, 2, 3), (8, 16), (0, 0, 1)),
        (maps(8, 32, 8, channels=[64, 128, 128]), (0, 1, 2), (1, 2, 3), (8, 32), (0, 1, 0)),
    ],
)
def test_maps_are_chosen(
    old: list[Map],
    read: tuple[int, ...],
    stages: tuple[int, ...],
    strides: tuple[float, ...],
    positions: tuple[int, ...],
) -> None:
    choice = choose(SEPVIT, old, read)
    assert choice.stages == stages
    assert tuple(m.stride for m in choice.maps) == strides
    assert tuple(choice.positions[i] for i in read) == positions
    assert (choice.pyramid is None) == (choice.maps == tuple(SEPVIT[i] for i in stages))


@pytest.mark.parametrize(
    ('wanted', 'finer', 'outs', 'levels'),
    [
        ((4, 8, 16, 32, 64), 2, 5, None),
        ((8, 16, 32, 64, 128), 1, 5, None),
        ((8, 16, 32), 1, 4, [0, 1, 2]),
        ((32,), 0, 3, [1]),
        ((16, 64, 128), 0, 4, [0, 2, 3]),
    ],
)
def test_a_pyramid_has_the_wanted_strides(
    wanted: tuple[float, ...], finer: int, outs: int, levels: list[int] | None
) -> None:
    neck = pyramid_of(SHVIT, 32, wanted)
    assert (neck['num_trans_convs'], neck['num_outs']) == (finer, outs)
    assert neck.get('out_levels') == levels


def test_strides_that_do_not_double_are_refused() -> None:
    with pytest.raises(UserError, match=r'maps of strides 12, .* cannot be made of .* 16, 32, 64'):
        pyramid_of(SHVIT, 32, (12.0,))


def test_fpn_is_replaced_only_where_it_begins_too_fine() -> None:
    fpn = dict(type='mmdet.FPN', in_channels=[1, 2, 3], out_channels=16, num_outs=4)
    levels = [Map(16, s) for s in (4.0, 8.0, 16.0, 32.0)]
    found = in_place_of_fpn(fpn, SHVIT, levels)
    assert found is not None
    assert found[0] == (0, 1, 2)
    assert (found[1]['num_outs'], found[1]['out_levels']) == (5, [0, 1, 2, 3])
    assert in_place_of_fpn(fpn, SEPVIT, levels) is None
    assert in_place_of_fpn(dict(fpn, type='PAFPN'), SHVIT, levels) is None


def test_a_pyramid_for_coarse_stages_is_made_anew_for_finer_ones(tmp_path: Path) -> None:
    cfg = "_base_ = 'vitbackbones::detection/shvit_retinanet.py'"
    new = Written(tmp_path, cfg, 'sepvit_lite', weights='none')
    assert new.get('model.neck') == dict(
        type='vitbackbones.TransposedConvFPN',
        in_channels=[64, 128, 256],
        out_channels=256,
        num_outs=5,
        num_trans_convs=0,
    )
    assert new.get('model.backbone.out_indices') == (1, 2, 3)
    assert new.lines[0] == "_base_ = 'start.py'"  # it has our hooks


# ----------------------------------------------------------------------- channels, by themselves


def rewired(tmp_path: Path, owner: dict[str, Any], positions: dict[int, int]) -> Rewiring:
    path = tmp_path / 'part.py'
    path.write_text(f'model = {owner!r}\n')
    old = maps(4, 8, 16, 32, channels=[64, 128, 256, 512])
    new = SEPVIT[-len({*positions.values()}) :]
    return Rewiring(Draft([str(path)]), 'model', old, new, positions)


ALL = {0: 0, 1: 1, 2: 2, 3: 3}


@pytest.mark.parametrize(
    ('neck', 'expected'),
    [
        (dict(in_channels=[64, 128, 256, 512]), dict(in_channels=FOUR)),
        (dict(in_channels=(512, 256, 128, 64)), dict(in_channels=tuple(FOUR[::-1]))),
        (dict(in_channels=512), dict(in_channels=FOUR[-1])),
        ([dict(in_channels=[64, 128, 256, 512]), dict(in_channels=512)], None),
        (
            dict(in_channels=(64, 128, 256, 512), out_channels=(64, 128, 256, 512, 128)),
            dict(in_channels=tuple(FOUR), out_channels=(*FOUR, 128)),
        ),
    ],
)
def test_necks_are_rewired(tmp_path: Path, neck: Any, expected: Any) -> None:
    wiring = rewired(tmp_path, dict(neck=neck), ALL)
    wiring.neck()
    if expected is None:  # the first alone: what follows gets what it makes
        expected = [dict(in_channels=FOUR), dict(in_channels=512)]
    assert wiring.draft.get('model.neck') == expected


@pytest.mark.parametrize(
    ('head', 'positions', 'expected'),
    [
        (dict(in_channels=512), ALL, dict(in_channels=32)),
        (dict(in_channels=512, in_index=3), {3: 0}, dict(in_channels=32, in_index=0)),
        (  # of fused maps two may be in one place
            dict(in_channels=256, in_index=-2),
            {1: 0, 2: 1, 3: 0},
            dict(in_channels=32, in_index=1),
        ),
        (dict(in_channels=256), {2: 0, 3: 1}, dict(in_channels=256)),  # not that of the last map
        (
            dict(in_channels=[64, 256], in_index=[0, 2], c1_in_channels=64),
            ALL,
            dict(in_channels=[8, 24], in_index=[0, 2], c1_in_channels=8),
        ),
        (  # heads in a head; numbers in them that are no maps'
            dict(part=dict(in_channels=[64, 128, 256, 512]), other=dict(in_channels=256)),
            ALL,
            dict(part=dict(in_channels=FOUR), other=dict(in_channels=256)),
        ),
    ],
)
def test_heads_are_rewired(
    tmp_path: Path, head: dict[str, Any], positions: dict[int, int], expected: dict[str, Any]
) -> None:
    wiring = rewired(tmp_path, dict(decode_head=head), positions)
    wiring.heads()
    assert wiring.draft.get('model.decode_head') == expected


def test_what_heads_read_is_known() -> None:
    pair = [decode_head('A', in_channels=64, in_index=0), decode_head('B', in_channels=512)]
    assert positions_read(dict(decode_head=pair[0]), 4) == (0,)
    assert positions_read(dict(decode_head=pair[0], auxiliary_head=pair), 4) == (0, 3)
    first = decode_head('C', in_channels=512, in_index=3, c1_in_channels=64)
    assert positions_read(dict(decode_head=first), 4) == (0, 3)
    every = decode_head('D', in_channels=[64, 128, 256, 512])
    assert positions_read(dict(decode_head=every), 4) == (0, 1, 2, 3)
    assert positions_read(dict(bbox_head=dict(anchor_generator=anchors([8]))), 2) == (0, 1)


# ---------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        ('mmdet::nowhere/none.py', 'there is no config file .*none.py'),
        ('mmdet::detectors/detectors_cascade-rcnn_r50_1x_coco.py', 'DetectoRS_ResNet, .* without'),
        (
            'mmdet::tridentnet/tridentnet_r50-caffe_1x_coco.py',
            'TridentResNet, .* without it: its thre',
        ),
        (
            'mmseg::pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py',
            'PIDNet, .* without it: its thre',
        ),
        ('model = dict(', 'cannot be read: SyntaxError'),
        ('_base_ = [] + []\nx = 1 / 0', 'cannot be read: ZeroDiv'),
        ('default_scope = "mmdet"', 'describes no model; it begins with default_scope'),
        ('model = dict(type="Whole", layers=3)', "no backbone .* model.type='Whole' has type, lay"),
        ('model = 1 / 0', 'cannot be read: ZeroDivisionError'),
        ('with read_base():\n    pass', 'imports its bases .* cannot inherit'),
        (
            'part = dict(backbone=dict(type="ResNet"))\nmodel = dict(teacher=part, student=part)',
            'several networks with a backbone, model.teacher, model.student',
        ),
        ('mmdet::lad/lad_r101-paa-r50_fpn_2xb8_coco_1x.py', 'teacher_ckpt: a teacher trains'),
        ('mmdet::ld/ld_r18-gflv1-r101_fpn_1x_coco.py', 'teacher_config: a teacher trains'),
        (
            'mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py',
            'SoftTeacher: a teacher trains a student',
        ),
        (
            'default_scope = "mmdet"\nmodel = dict(backbone=dict(type="Nothing"))',
            r'what model.backbone \(Nothing\) gives cannot be told: KeyError',
        ),
        (
            DETECTOR.replace('64, 128, 256, 512', '1, 2, 3, 4'),
            'nothing in model.neck speaks of the maps of the old',
        ),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], config: str, message: str
) -> None:
    import re

    start = tmp_path / 'start.py'
    if '::' not in config:
        start.write_text(config)
        config = str(start)
    out = tmp_path / 'out' / 'new.py'
    out.parent.mkdir()
    argv = ['new', '--from', config, '--backbone', 'sepvit_lite', '-o', str(out)]
    assert main([*argv, '--weights', 'none']) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line), line
    assert not list(out.parent.iterdir())


def test_a_pyramid_needs_a_place(tmp_path: Path) -> None:
    base = 'mmdet::mask2former_vis/mask2former_r101_8xb2-8e_youtubevis2019.py'
    with pytest.raises(UserError, match=r'SHViT needs a pyramid .* Mask2FormerVideo takes no neck'):
        new_config(base, 'shvit_s1', tmp_path / 'new.py', weights='none')
    assert not list(tmp_path.iterdir())


def test_options_are_checked_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start, out = tmp_path / 'start.py', tmp_path / 'new.py'
    start.write_text(DETECTOR)
    base = ['new', '--from', str(start), '--weights', 'none']
    for argv, message in [
        (['--backbone', 'sepvit_light', '-o', str(out)], "unknown backbone 'sepvit_light', choose"),
        (['--backbone', 'shvit_s1', '-o', str(tmp_path / 'no' / 'x.py')], 'there is no folder'),
        (['--backbone', 'shvit_s1', '-o', str(tmp_path / 'x.yaml')], 'name it x.py'),
        (['--backbone', 'shvit_s1', '-o', str(start)], 'is there already; --force writes over it'),
        (
            ['--backbone', 'shvit_s1', '-o', str(out), '--weights', 'gone.pth'],
            'gone.pth: there is no such file',
        ),
        (
            ['--backbone', 'shvit_s1', '-o', str(out), '--weights', 'http://127.0.0.1:9/x.pth'],
            'cannot be downloaded ([Errno 111] Connection refused)',
        ),
    ]:
        assert main([*base, *argv]) == 2
        assert message in capsys.readouterr().err
    assert start.read_text() == DETECTOR
    between = tmp_path / 'between.py'
    between.write_text("_base_ = ['start.py']")
    for argv in (['--from', str(start)], ['--from', str(between)]):  # would inherit itself
        argv = ['new', *argv, '--backbone', 'shvit_s1', '--weights', 'none']
        assert main([*argv, '-o', str(start), '--force']) == 2
        assert 'needs that file' in capsys.readouterr().err
    assert start.read_text() == DETECTOR
    assert network('shvit_s1').stages == tuple(
        Map(c, s) for c, s in [(128, 16.0), (224, 32.0), (320, 64.0)]
    )


def test_the_command_prints_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start, out = tmp_path / 'start.py', tmp_path / 'new.py'
    start.write_text(SEGMENTOR)
    out.write_text('old')
    argv = ['new', '--from', str(start), '--backbone', 'sepvit_lite', '-o', str(out), '--force']
    assert main([*argv, '--weights', 'none', '--no-check']) == 0
    said = capsys.readouterr().out
    assert 'old: ResNetV1c 64@4 128@8 256@8 512@8\n' in said
    assert 'new: SepViT lite 128@16 256@32\n' in said
    assert f'written: {out}' in said
    assert Config.fromfile(out).model.backbone.type == 'vitbackbones.SepViT'
