"""Every config that is shipped: what it says, what it builds, and that it learns and predicts."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS as DET_DATASETS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config, ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, init_default_scope
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.structures import InstanceData, PixelData
from mmseg.registry import DATASETS as SEG_DATASETS
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vitbackbones.engine.durable import DurableHook
from vitbackbones.engine.non_finite import NonFiniteHook
from vitbackbones.engine.preflight import PreflightHook
from vitbackbones.engine.zero_losses import ZeroLossHook
from vitbackbones.launch.device import adapt_to_device
from vitbackbones.published import published_source
from vitbackbones.registry import MODELS

ROOT = Path(__file__).parents[1] / 'configs'
LEAVES = {
    path.relative_to(ROOT).with_suffix('').as_posix(): path
    for kind in ('detection', 'segmentation')
    for path in sorted((ROOT / kind).glob('**/*.py'))
    if '_base_' not in path.parts
}
FRAGMENTS = sorted((ROOT / '_base_/backbones').glob('*.py'))

FAMILIES = ('sepvit', 'casvit', 'supervit', 'gcvit', 'shvit')
DEFAULTS = {
    f'{kind}/{family}_{head}'
    for family in FAMILIES
    for kind, head in (
        ('detection', 'retinanet'),
        ('detection', 'mask_rcnn'),
        ('detection', 'cascade_mask_rcnn'),
        ('segmentation', 'upernet'),
    )
}

# Built and checked like all others, but its step needs more memory than a machine for tests has.
WITHOUT_STEP = {'detection/gcvit/gcvit-large_dino-4scale_36e'}

each_leaf = pytest.mark.parametrize('leaf', LEAVES)


class Schedule(NamedTuple):
    """How long the training is and how its rate changes."""

    length: int  # epochs, or iterations of the loop that counts them
    warm_up: tuple[int, float] | None  # iterations, first factor
    decay: tuple[Any, ...]  # epochs of the steps, or power and least rate of the polynomial
    batch: tuple[int, int] = (2, 16)  # per GPU, in all


SCHEDULES = {
    '1x': Schedule(12, (500, 1e-3), (8, 11)),
    'casvit-1x': Schedule(12, (500, 1e-6), (8, 11), batch=(4, 32)),
    '3x': Schedule(36, (500, 1e-3), (27, 33)),
    'gcvit-3x': Schedule(36, (2500, 1e-3), (27, 33)),
    'dino-36e': Schedule(36, None, (30,)),
    '40k': Schedule(40_000, None, (0.9, 0.0), batch=(4, 32)),
    '80k': Schedule(80_000, None, (0.9, 1e-6)),
    'casvit-80k': Schedule(80_000, (1500, 1e-6), (1.0, 0.0), batch=(4, 32)),
    '160k': Schedule(160_000, (1500, 1e-6), (1.0, 0.0)),
}

# Schedule, learning rate, weight decay, drop path, loss scale of mixed precision (None: single).
VALUES = {
    'detection/sepvit_retinanet': ('1x', 1e-4, 1e-3, 0.2, None),
    'detection/sepvit_mask_rcnn': ('1x', 2e-4, 1e-3, 0.2, None),
    'detection/sepvit_cascade_mask_rcnn': ('1x', 2e-4, 1e-3, 0.2, None),
    'detection/sepvit/sepvit-small_retinanet_1x': ('1x', 1e-4, 1e-4, 0.3, None),
    'detection/sepvit/sepvit-small_mask-rcnn_1x': ('1x', 2e-4, 1e-4, 0.3, None),
    'detection/sepvit/sepvit-tiny_retinanet_ms-crop-3x': ('3x', 1e-4, 0.05, 0.2, None),
    'detection/sepvit/sepvit-small_retinanet_ms-crop-3x': ('3x', 1e-4, 0.1, 0.3, None),
    'detection/sepvit/sepvit-tiny_mask-rcnn_ms-crop-3x': ('3x', 1e-4, 0.05, 0.2, 512.0),
    'detection/sepvit/sepvit-small_mask-rcnn_ms-crop-3x': ('3x', 1e-4, 0.1, 0.3, 512.0),
    'detection/casvit_retinanet': ('casvit-1x', 2e-4, 1e-4, 0.1, None),
    'detection/casvit_mask_rcnn': ('casvit-1x', 2e-4, 1e-4, 0.1, None),
    'detection/casvit_cascade_mask_rcnn': ('casvit-1x', 2e-4, 1e-4, 0.1, None),
    'detection/casvit/casvit-xs_retinanet_1x': ('casvit-1x', 2e-4, 1e-4, 0.0, None),
    'detection/casvit/casvit-s_retinanet_1x': ('casvit-1x', 2e-4, 1e-4, 0.0, None),
    'detection/casvit/casvit-m_retinanet_1x': ('casvit-1x', 2e-4, 1e-4, 0.1, None),
    'detection/casvit/casvit-xs_mask-rcnn_1x': ('casvit-1x', 2e-4, 1e-4, 0.0, None),
    'detection/casvit/casvit-s_mask-rcnn_1x': ('casvit-1x', 2e-4, 1e-4, 0.0, None),
    'detection/casvit/casvit-m_mask-rcnn_1x': ('casvit-1x', 2e-4, 1e-4, 0.1, None),
    'detection/supervit_retinanet': ('3x', 1e-4, 0.1, 0.1, None),
    'detection/supervit_mask_rcnn': ('3x', 1e-4, 0.1, 0.1, None),
    'detection/supervit_cascade_mask_rcnn': ('3x', 1e-4, 0.1, 0.1, None),
    'detection/supervit/supervit-deit_s_retinanet_sandwich-3x': ('3x', 1e-4, 0.1, 0.1, None),
    'detection/supervit/supervit-deit_s_mask-rcnn_sandwich-3x': ('3x', 1e-4, 0.1, 0.1, None),
    'detection/gcvit_retinanet': ('gcvit-3x', 1e-4, 0.05, 0.2, None),
    'detection/gcvit_mask_rcnn': ('gcvit-3x', 1e-4, 0.05, 0.2, 'dynamic'),
    'detection/gcvit_cascade_mask_rcnn': ('gcvit-3x', 1e-4, 0.05, 0.2, None),
    'detection/gcvit/gcvit-small_cascade-mask-rcnn_ms-crop-3x': ('gcvit-3x', 1e-4, 0.05, 0.3, None),
    'detection/gcvit/gcvit-base_cascade-mask-rcnn_ms-crop-3x': ('gcvit-3x', 1e-4, 0.05, 0.5, None),
    'detection/gcvit/gcvit-large_dino-4scale_36e': ('dino-36e', 1e-4, 0.05, 0.2, None),
    'detection/shvit_retinanet': ('1x', 1e-4, 0.05, 0.0, None),
    'detection/shvit_mask_rcnn': ('1x', 1e-4, 0.05, 0.0, None),
    'detection/shvit_cascade_mask_rcnn': ('1x', 1e-4, 0.05, 0.0, None),
    'segmentation/sepvit_upernet': ('160k', 6e-5, 0.01, 0.2, None),
    'segmentation/sepvit/sepvit-small_upernet_160k': ('160k', 6e-5, 0.01, 0.3, None),
    'segmentation/sepvit/sepvit-base_upernet_160k': ('160k', 6e-5, 0.03, 0.5, None),
    'segmentation/sepvit/sepvit-tiny_semantic-fpn_80k': ('80k', 1e-4, 1e-4, 0.2, None),
    'segmentation/sepvit/sepvit-small_semantic-fpn_80k': ('80k', 1e-4, 1e-4, 0.3, None),
    'segmentation/sepvit/sepvit-base_semantic-fpn_80k': ('80k', 1e-4, 1e-4, 0.5, None),
    'segmentation/casvit_upernet': ('casvit-80k', 1.2e-4, 0.01, 0.1, None),
    'segmentation/casvit/casvit-xs_semantic-fpn_40k': ('40k', 2e-4, 1e-4, 0.0, None),
    'segmentation/casvit/casvit-s_semantic-fpn_40k': ('40k', 2e-4, 1e-4, 0.0, None),
    'segmentation/casvit/casvit-m_semantic-fpn_40k': ('40k', 2e-4, 1e-4, 0.1, None),
    'segmentation/casvit/casvit-t_semantic-fpn_40k': ('40k', 2e-4, 1e-4, 0.1, None),
    'segmentation/supervit_upernet': ('160k', 3e-5, 0.05, 0.1, None),
    'segmentation/supervit/supervit-deit_s_upernet_sandwich-160k': ('160k', 3e-5, 0.05, 0.1, None),
    'segmentation/gcvit_upernet': ('160k', 6e-5, 0.01, 0.2, None),
    'segmentation/gcvit/gcvit-small_upernet_160k': ('160k', 6e-5, 0.01, 0.3, None),
    'segmentation/gcvit/gcvit-base_upernet_160k': ('160k', 6e-5, 0.01, 0.5, None),
    'segmentation/shvit_upernet': ('160k', 6e-5, 0.01, 0.0, None),
}

# Parameters without weight decay, by a part of their name, for each family and schedule.
# SuperViT's come from its constructor, which has tests of its own.
UNDECAYED = {
    'detection/sepvit_retinanet': (),
    'detection/sepvit/sepvit-tiny_retinanet_ms-crop-3x': ('pos_block', 'norm'),
    'detection/casvit_retinanet': (),
    # Its published key for the tables, 'rpb', is in no parameter's name.
    'detection/gcvit_mask_rcnn': ('norm',),
    'detection/gcvit_cascade_mask_rcnn': ('relative_position_bias_table', 'norm'),
    'detection/gcvit/gcvit-large_dino-4scale_36e': (),
    'detection/shvit_mask_rcnn': (),
    'segmentation/sepvit_upernet': ('pos_block', 'norm'),
    'segmentation/sepvit/sepvit-tiny_semantic-fpn_80k': (),
    'segmentation/casvit_upernet': (),
    'segmentation/casvit/casvit-xs_semantic-fpn_40k': (),
    'segmentation/shvit_upernet': (),
    'segmentation/gcvit_upernet': ('relative_position_bias_table', 'norm'),
}


# ------------------------------------------------------------------------------- as files


def test_each_pair_of_backbone_and_head_has_a_default() -> None:
    assert set(LEAVES) >= DEFAULTS
    assert {leaf for leaf in LEAVES if leaf.count('/') == 1} == DEFAULTS


@pytest.mark.parametrize('leaf', sorted(set(LEAVES) - DEFAULTS))
def test_names_in_folders_say_variant_head_and_schedule(leaf: str) -> None:
    _, family, name = leaf.split('/')
    variant, head, schedule = name.rsplit('_', 2)
    assert (ROOT / f'_base_/backbones/{variant}.py').is_file()
    assert variant.startswith(f'{family}-')
    assert head in {'retinanet', 'mask-rcnn', 'cascade-mask-rcnn', 'dino-4scale'} | {
        'semantic-fpn',
        'upernet',
    }
    schedules = {'1x', 'ms-crop-3x', '36e', '40k', '80k', '160k', 'sandwich-3x', 'sandwich-160k'}
    assert schedule in schedules
    assert load(leaf).train_cfg.get('train_points') == ('sandwich' if 'sandwich' in leaf else None)


@each_leaf
def test_the_header_states_the_published_figure_or_that_there_is_none(leaf: str) -> None:
    header = re.match(r'(#.*\n)+', LEAVES[leaf].read_text())
    assert header is not None
    text = header.group().replace('\n# ', ' ')
    figure = re.search(r'(box AP|mean IoU) \d\d\.\d.*\((https://|arXiv |the archive)', text)
    assert figure or re.search(
        r'No published figure|is published without|are published without', text
    )


def test_mmengine_reads_configs_and_they_import_the_package() -> None:
    code = (
        'import sys; from mmengine.config import Config\n'
        'for path in sys.argv[1:]: Config.fromfile(path, import_custom_modules=False)\n'
        "assert 'vitbackbones' not in sys.modules\n"
        'imports = [Config.fromfile(path).custom_imports for path in sys.argv[1:]]\n'
        "assert 'vitbackbones' in sys.modules\n"
        "own = dict(imports=['vitbackbones'], allow_failed_imports=False)\n"
        'assert all(each == own for each in imports)'
    )
    paths = [LEAVES[leaf] for leaf in DEFAULTS | WITHOUT_STEP]
    subprocess.run([sys.executable, '-W', 'ignore', '-c', code, *map(str, paths)], check=True)


@each_leaf
def test_its_pipelines_can_be_built_and_our_hooks_are_on(leaf: str) -> None:
    cfg = load(leaf)
    init_default_scope(cfg.default_scope)
    datasets = DET_DATASETS if cfg.default_scope == 'mmdet' else SEG_DATASETS
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        dataset = datasets.build({**loader.dataset, 'lazy_init': True})
        assert len(dataset.pipeline.transforms) == len(loader.dataset.pipeline)
    hooks = [type(HOOKS.build(hook)) for hook in cfg.custom_hooks]
    assert hooks == [PreflightHook, DurableHook, NonFiniteHook, ZeroLossHook]


# ------------------------------------------------------------------------- what they say


# Keys of the published configs: what has them in its name does not decay.
PUBLISHED_KEYS = {
    'sepvit': ('pos_block', 'norm'),
    'gcvit': ('relative_position_bias_table', 'norm'),
}
WITH_KEYS = [
    leaf
    for leaf, path in LEAVES.items()
    if re.search(r'/(adamw_3x|gcvit_3x|adamw_160k)\.py', path.read_text()) and 'shvit' not in leaf
]


@pytest.mark.parametrize('leaf', WITH_KEYS)
def test_what_does_not_decay_is_what_the_published_keys_name(leaf: str) -> None:
    cfg = load(leaf)
    wrapper = cfg.optim_wrapper
    assert wrapper.constructor == 'vitbackbones.NoWeightDecayOptimWrapperConstructor'
    model = build(cfg, 'meta')
    keys = PUBLISHED_KEYS[Path(leaf).name.split('_')[0].split('-')[0]]
    if leaf == 'detection/gcvit_mask_rcnn':
        keys = ('rpb', 'norm')  # the first is in no name
    published = copy.deepcopy(wrapper)
    published.pop('constructor')
    custom = {key: dict(decay_mult=0.0) for key in keys}
    published.paramwise_cfg = ConfigDict(custom_keys=custom)
    assert groups(model, wrapper) == groups(model, published)


def groups(model: Any, wrapper: ConfigDict) -> list[tuple[list[str], float, float]]:
    """Names, learning rate and weight decay of each parameter group."""
    names = {id(param): name for name, param in model.named_parameters()}
    wrapper = copy.deepcopy(wrapper)
    wrapper.type = 'OptimWrapper'  # mixed precision needs a GPU
    wrapper.pop('loss_scale', None)
    optimizer = build_optim_wrapper(model, wrapper).optimizer
    return [
        ([names[id(param)] for param in group['params']], group['lr'], group['weight_decay'])
        for group in optimizer.param_groups
    ]


@each_leaf
def test_the_recipe_has_the_published_values(leaf: str) -> None:
    cfg = load(leaf)
    name, rate, weight_decay, drop_path, loss_scale = VALUES[leaf]
    schedule = SCHEDULES[name]
    wrapper = cfg.optim_wrapper
    assert wrapper.optimizer.type == 'AdamW'
    assert (wrapper.optimizer.lr, wrapper.optimizer.weight_decay) == (rate, weight_decay)
    assert cfg.model.backbone.drop_path_rate == drop_path
    if loss_scale is None:
        assert wrapper.type == 'OptimWrapper'
    else:
        assert wrapper.type == 'AmpOptimWrapper'
        assert wrapper.get('loss_scale', 'dynamic') == loss_scale
    assert bool(wrapper.get('clip_grad')) == ('dino' in leaf)

    assert cfg.train_cfg.get('max_epochs', cfg.train_cfg.get('max_iters')) == schedule.length
    *warm_up, decay = cfg.param_scheduler
    assert [(s.type, s.end, s.start_factor, s.by_epoch) for s in warm_up] == [
        ('LinearLR', *pair, False) for pair in [schedule.warm_up] if pair
    ]
    assert decay.end == schedule.length
    if decay.type == 'MultiStepLR':
        assert (decay.by_epoch, decay.gamma) == (True, 0.1)
        assert tuple(decay.milestones) == schedule.decay
    else:
        assert (decay.type, decay.by_epoch) == ('PolyLR', False)
        assert (decay.power, decay.eta_min) == schedule.decay
        assert decay.begin == (schedule.warm_up or (0,))[0]

    batches = (cfg.train_dataloader.batch_size, cfg.auto_scale_lr.base_batch_size)
    assert batches == schedule.batch
    assert cfg.auto_scale_lr.enable is False


@pytest.mark.parametrize('leaf', UNDECAYED)
def test_only_the_published_parameters_do_not_decay(leaf: str) -> None:
    cfg = load(leaf)
    cfg.optim_wrapper.type = 'OptimWrapper'
    cfg.optim_wrapper.pop('loss_scale', None)
    model = build(cfg, 'meta')
    names = {id(param): name for name, param in model.named_parameters()}
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    undecayed = {names[id(p)] for g in groups if g['weight_decay'] == 0 for p in g['params']}
    keys = UNDECAYED[leaf]
    assert undecayed == {name for name in names.values() if any(key in name for key in keys)}
    assert all(any(key in name for name in undecayed) for key in keys)


@each_leaf
def test_batch_norms_keep_their_statistics_where_the_published_ones_did(leaf: str) -> None:
    backbone = load(leaf).model.backbone
    fixed = backbone.type in ('vitbackbones.CASViT', 'vitbackbones.SHViT')
    assert backbone.get('norm_eval', False) is fixed  # written out, not a default


@each_leaf
def test_weights_come_from_an_address_where_one_serves_files(leaf: str) -> None:
    backbone = load(leaf).model.backbone
    network = backbone.type.removeprefix('vitbackbones.').lower()
    addresses = {
        'gcvit': 'https://huggingface.co/nvidia/GCViT/resolve/main/gcvit_',
        'shvit': 'https://github.com/ysj9909/SHViT/releases/download/v1.0/shvit_',
    }
    if network in addresses:
        assert backbone.init_cfg == dict(type='Pretrained', checkpoint='published')
        source, _ = published_source(f'{network}_{backbone.arch}')
        assert source.startswith(addresses[network])
    else:
        assert backbone.get('init_cfg') is None


@pytest.mark.parametrize('path', FRAGMENTS, ids=lambda path: path.stem)
def test_a_fragment_names_the_channels_of_its_variant(path: Path) -> None:
    cfg = Config.fromfile(path)
    with torch.device('meta'):
        backbone = MODELS.build({**cfg.backbone, 'init_cfg': None})
    assert cfg.channels == list(backbone.out_channels)
    family, _, arch = path.stem.partition('-')
    assert (type(backbone).__name__.lower(), cfg.backbone.arch) == (family, arch)


def test_every_variant_has_a_fragment() -> None:
    variants = {
        f'{name.lower()}-{arch}'
        for name in ('SepViT', 'CASViT', 'SuperViT', 'GCViT', 'SHViT')
        for arch in MODELS.get(name).archs
    }
    assert {path.stem for path in FRAGMENTS} == variants


# ------------------------------------------------------------------------ what they build


@each_leaf
def test_channels_and_strides_agree_from_backbone_to_heads(leaf: str) -> None:
    cfg = load(leaf)
    model = build(cfg, 'meta').eval()
    size = 256
    images = torch.zeros(1, 3, size, size, device='meta')
    outputs = model.backbone(images)
    assert [x.shape[1] for x in outputs] == list(model.backbone.out_channels)
    assert [size // x.shape[2] for x in outputs] == list(model.backbone.out_strides)
    if model.with_neck:
        assert cfg.model.neck.in_channels == list(model.backbone.out_channels)
        outputs = model.neck(outputs)
    channels = [x.shape[1] for x in outputs]
    strides = [size // x.shape[2] for x in outputs]

    head = cfg.model.get('rpn_head') or cfg.model.get('bbox_head')
    if 'dino' in leaf:
        assert (channels, strides) == ([256] * 4, [8, 16, 32, 64])
    elif head:
        assert set(channels) == {head.in_channels}
        assert strides == head.anchor_generator.strides
    else:
        for head in (cfg.model.decode_head, cfg.model.get('auxiliary_head')):
            if head:
                index = head.in_index
                assert head.in_channels == (
                    channels[index] if isinstance(index, int) else [channels[i] for i in index]
                )
        assert strides[:4] == cfg.model.decode_head.get('feature_strides', [4, 8, 16, 32])
    if 'roi_head' in cfg.model:
        for key in ('bbox_roi_extractor', 'mask_roi_extractor'):
            extractor = cfg.model.roi_head[key]
            assert extractor.featmap_strides == strides[:4] == [4, 8, 16, 32]
            assert extractor.out_channels == channels[0]


@pytest.mark.parametrize('leaf', sorted(set(LEAVES) - WITHOUT_STEP))
def test_a_step_changes_every_part_and_the_model_predicts(
    leaf: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    cfg = load(leaf)
    fit_to_small_images(cfg)
    adapt_to_device(cfg)
    # Weight decay alone would change parameters, too; no scheduler runs, so nothing warms up.
    cfg.optim_wrapper.optimizer.weight_decay = 0.0
    model = build(cfg, 'cpu')
    model.init_weights()
    for module in model.modules():
        if isinstance(module, _BatchNorm) and not module.weight.any():
            nn.init.ones_(module.weight)  # or the branch behind it would get no gradient
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    assert {id(p) for g in wrapper.optimizer.param_groups for p in g['params']} == {
        id(p) for p in model.parameters() if p.requires_grad
    }
    before = {name: param.detach().clone() for name, param in model.named_parameters()}
    losses = model.train().train_step(batch(cfg), wrapper)
    assert len(losses) > 1
    assert all(torch.isfinite(value).all() for value in losses.values()), losses
    changed = [name for name, param in model.named_parameters() if (param != before[name]).any()]
    for part in parts(model):
        assert any(name.startswith(f'{part}.') for name in changed), f'{part} learned nothing'
    assert all(torch.isfinite(param).all() for param in model.parameters())

    images = batch(cfg)
    with torch.no_grad():
        results = model.eval().test_step(images)
    for image, result in zip(images['inputs'], results, strict=True):
        check_prediction(cfg, image, result)


def test_one_word_turns_the_test_of_a_segmentor_into_a_sliding_one() -> None:
    cfg = load('segmentation/shvit_upernet')
    assert cfg.model.test_cfg == dict(mode='whole', crop_size=(512, 512), stride=(341, 341))
    cfg.merge_from_dict({'model.test_cfg.mode': 'slide'})
    cfg.model.test_cfg.update(crop_size=(128, 128), stride=(85, 85))  # as fits a small image
    model = build(cfg, 'cpu').eval()
    seen = []
    model.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[2:]))
    image = torch.zeros(3, 128, 192, dtype=torch.uint8)
    sample = SegDataSample(metainfo=dict(img_shape=(128, 192), ori_shape=(128, 192)))
    with torch.no_grad():
        (result,) = model.test_step(dict(inputs=[image], data_samples=[sample]))
    assert seen == [(128, 128)] * 2
    assert result.pred_sem_seg.shape == (128, 192)


# -------------------------------------------------------------------------------- helpers


@cache
def _read(leaf: str) -> Config:
    return Config.fromfile(LEAVES[leaf])


def load(leaf: str) -> Config:
    """A config to be changed at will: reading one takes longer than most tests."""
    return copy.deepcopy(_read(leaf))


def build(cfg: Config, device: str) -> Any:
    """The model of a config, without its published weights."""
    cfg.model.backbone.init_cfg = None
    init_default_scope(cfg.default_scope)
    with torch.device(device):
        return ROOT_MODELS.build(cfg.model)


def fit_to_small_images(cfg: Config) -> None:
    """No weights from afar, no crops padded to 512 x 512, and few proposals to sample from."""
    if 'decode_head' in cfg.model:
        cfg.model.data_preprocessor.size = (96, 96)
    if 'roi_head' in cfg.model:
        stages = cfg.model.train_cfg.rcnn
        for stage in stages if isinstance(stages, list) else [stages]:
            stage.sampler.num = 16
        cfg.model.train_cfg.rpn_proposal.max_per_img = 200
        cfg.model.test_cfg.rpn.max_per_img = 20
        cfg.model.test_cfg.rcnn.score_thr = 0.0  # an untrained head is sure of nothing


def batch(cfg: Config) -> dict[str, Any]:
    """Two images with two objects each, as a data loader hands them on."""
    rng = np.random.default_rng(0)
    sizes = [(96, 96)] * 2 if 'decode_head' in cfg.model else [(64, 96), (96, 80)]
    inputs, samples = [], []
    for height, width in sizes:
        inputs.append(torch.from_numpy(rng.integers(0, 256, (3, height, width), dtype=np.uint8)))
        meta = dict(img_shape=(height, width), ori_shape=(height, width), scale_factor=(1.0, 1.0))
        if 'decode_head' in cfg.model:
            sample = SegDataSample(metainfo=meta)
            labels = torch.from_numpy(rng.integers(0, 150, (1, height, width)))
            sample.gt_sem_seg = PixelData(data=labels)
        else:
            sample = DetDataSample(metainfo=meta)
            masks = np.zeros((2, height, width), dtype=np.uint8)
            masks[0, 8:56, 8:48] = masks[1, 24:60, 30:76] = 1
            sample.gt_instances = InstanceData(
                bboxes=torch.tensor([[8.0, 8.0, 48.0, 56.0], [30.0, 24.0, 76.0, 60.0]]),
                labels=torch.tensor([3, 70]),
                masks=BitmapMasks(masks, height, width),
            )
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def parts(model: nn.Module) -> Iterator[str]:
    """Names of backbone, neck and every single head."""
    for name, module in model.named_modules():
        own = name.rpartition('.')[2]
        heads = name.rpartition('.')[0] if own.isdigit() else name
        if isinstance(module, nn.ModuleList) or heads == 'roi_head':
            continue  # made of heads
        if heads in ('backbone', 'neck') or heads.endswith('_head'):
            yield name


def check_prediction(cfg: Config, image: Tensor, result: Any) -> None:
    height, width = image.shape[1:]
    if 'decode_head' in cfg.model:
        labels = result.pred_sem_seg.data
        assert labels.shape == (1, height, width)
        assert 0 <= labels.min() <= labels.max() < 150
        assert torch.isfinite(result.seg_logits.data).all()
        return
    found = result.pred_instances
    assert torch.isfinite(found.bboxes).all()
    assert torch.isfinite(found.scores).all()
    if 'roi_head' in cfg.model:
        assert len(found) > 0
        assert found.masks.shape == (len(found), height, width)
