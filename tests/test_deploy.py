"""Fused networks: the same numbers with fewer layers, whatever the network."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmcv.cnn import ConvModule
from mmdet.models.dense_heads.tood_head import TaskDecomposition
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import init_default_scope
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tests.small import SMALL
from vitbackbones.backbones import SHViT
from vitbackbones.backbones.base import Backbone
from vitbackbones.backbones.shvit import Residual
from vitbackbones.benchmark.livened import vary_norms
from vitbackbones.deploy import fuse
from vitbackbones.launch.loading import load_config

ROOT = Path(__file__).parents[1]

CASES = [
    pytest.param(name, arch, id=f'{name}-{arch}' if arch else name)
    for name, cls in Backbone.registered().items()
    for arch in (None, *(cls.archs if name in ('CASViT', 'SHViT', 'SuperViT') else ()))
]


def build(name: str, arch: str | None = None, **options: Any) -> Backbone:
    torch.manual_seed(0)
    return vary_norms(Backbone.registered()[name](arch or SMALL[name], **options))


def flat(result: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples and lists."""
    if isinstance(result, Tensor):
        yield result
    else:
        for part in result:
            yield from flat(part)


@torch.no_grad()
def assert_equal_in_evaluation(model: nn.Module, fused: nn.Module, *args: Any) -> None:
    pairs = list(zip(flat(model(*args)), flat(fused(*args)), strict=True))
    assert pairs
    for want, got in pairs:
        assert got.shape == want.shape
        assert (got - want).abs().max() <= 1e-5 * want.abs().max()


def norms(model: nn.Module) -> dict[str, nn.Module]:
    return {n: m for n, m in model.named_modules() if isinstance(m, _BatchNorm)}


# ------------------------------------------------------------------------------ backbones


@pytest.mark.parametrize(('name', 'arch'), CASES)
def test_a_fused_backbone_computes_the_same_without_batch_norms(
    name: str, arch: str | None
) -> None:
    net = build(name, arch)
    fused = fuse(net)
    assert not norms(fused)
    assert_equal_in_evaluation(net, fused, torch.randn(2, 3, 70, 97))


@pytest.mark.parametrize('name', Backbone.registered())
def test_every_batch_norm_is_accounted_for(name: str) -> None:
    net = build(name)
    report = fuse(net).fusion_report
    assert sorted(report.folded + report.affine + report.kept) == sorted(norms(net))
    # CAS-ViT's output norms read a map that the next stage reads too.
    affine = tuple(f'norm{2 * i}' for i in range(4)) if name == 'CASViT' else ()
    assert (report.affine, report.kept) == (affine, ())
    assert str(report).startswith(f'{len(norms(net)) - len(affine)} BatchNorms folded')
    assert all(norm in str(report) for norm in affine)


@pytest.mark.parametrize('name', Backbone.registered())
def test_the_original_is_left_as_it_was(name: str) -> None:
    net = build(name).train()
    before = copy.deepcopy(net.state_dict())
    modes = [module.training for module in net.modules()]
    fused = fuse(net)
    assert not fused.training
    assert [module.training for module in net.modules()] == modes
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    own = {value.data_ptr() for value in fused.state_dict().values()}
    assert own.isdisjoint(value.data_ptr() for value in net.state_dict().values())


def test_a_residual_depthwise_convolution_becomes_one_kernel() -> None:
    net = build('SHViT')
    fused = fuse(net)
    kinds = [type(block.conv) for block in (net.blocks1[0], fused.blocks1[0])]
    assert kinds == [Residual, nn.Conv2d]


def test_a_fused_model_refuses_to_train_and_says_what_to_do() -> None:
    fused = fuse(build('SHViT'))
    for _ in range(2):
        assert isinstance(fused, SHViT)
        assert fused.eval() is fused.train(False) is fused
        with pytest.raises(RuntimeError, match='SHViT is fused and serves inference alone'):
            fused.train()
        with pytest.raises(RuntimeError, match='fused'):
            nn.Sequential(fused).train()
        assert not fused.training
        assert not any(p.requires_grad for p in fused.parameters())
        fused = copy.deepcopy(fused)


def test_fusing_twice_changes_nothing_more() -> None:
    once = fuse(build('CASViT'))
    twice = fuse(once)
    assert type(twice) is type(once)
    x = torch.randn(1, 3, 64, 64)
    assert all(torch.equal(a, b) for a, b in zip(once(x), twice(x), strict=True))


@pytest.mark.parametrize('name', SMALL)
def test_a_fused_model_can_be_saved_whole(name: str, tmp_path: Path) -> None:
    fused, x = fuse(build(name)), torch.randn(1, 3, 64, 64)
    torch.save(fused, tmp_path / 'fused.pth')
    loaded = torch.load(tmp_path / 'fused.pth', weights_only=False)
    assert loaded.fusion_report == fused.fusion_report
    for got, want in zip(loaded(x), fused(x), strict=True):
        assert torch.equal(got, want)
    with pytest.raises(RuntimeError, match='serves inference alone'):
        loaded.train()


@torch.no_grad()
def test_bfloat16_stays_bfloat16() -> None:
    fused = fuse(build('CASViT')).bfloat16()
    maps = fused(torch.randn(1, 3, 64, 64).bfloat16())
    assert {x.dtype for x in maps} == {torch.bfloat16}


# ---------------------------------------------------------------------- layers of any model


def conv_bn(**options: Any) -> list[nn.Module]:
    return [nn.Conv2d(4, 6, 3, **options), nn.BatchNorm2d(6)]


@pytest.mark.parametrize(
    'layers',
    [
        conv_bn(stride=2, padding=1, bias=False),
        conv_bn(groups=2, dilation=2),
        [nn.ConvTranspose2d(4, 6, 2, 2), nn.BatchNorm2d(6)],
        [nn.Conv2d(4, 6, 1), nn.SyncBatchNorm(6)],
        [nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6, affine=False)],
        [nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3)],
        [nn.BatchNorm2d(4), nn.Conv2d(4, 6, 1, bias=False), nn.BatchNorm2d(6)],
    ],
    ids=['plain', 'groups', 'transposed', 'synced', 'no-affine', 'before', 'both-sides'],
)
def test_neighbours_in_a_sequence_are_folded(layers: list[nn.Module]) -> None:
    model = vary_norms(nn.Sequential(*layers))
    fused = fuse(model)
    assert len(fused.fusion_report.folded) == len(norms(model))
    assert_equal_in_evaluation(model, fused, torch.randn(2, 4, 7, 9))


@pytest.mark.parametrize(
    'layers',
    [
        [nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=1)],
        [nn.BatchNorm2d(4), nn.Conv2d(4, 6, 1, groups=2)],
        [nn.ConvTranspose2d(4, 6, 2, 2, groups=2), nn.BatchNorm2d(6)],
        [nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 6, 1)), nn.BatchNorm2d(6)],
        [nn.utils.spectral_norm(nn.Conv2d(4, 6, 1)), nn.BatchNorm2d(6)],
        [nn.Conv2d(4, 6, 1), nn.ReLU(), nn.BatchNorm2d(6)],
    ],
    ids=['padded', 'groups', 'transposed', 'parametrised', 'hooked', 'apart'],
)
def test_what_cannot_be_folded_becomes_a_scale_and_a_shift(layers: list[nn.Module]) -> None:
    model = vary_norms(nn.Sequential(*layers))
    fused = fuse(model)
    assert fused.fusion_report.affine == tuple(norms(model))
    assert not norms(fused)
    assert_equal_in_evaluation(model, fused, torch.randn(2, 4, 7, 9))


def test_a_batch_norm_without_statistics_is_kept() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6, track_running_stats=False)).eval()
    fused = fuse(model)
    assert fused.fusion_report.kept == ('1',)
    assert 'kept: 1' in str(fused.fusion_report)
    assert_equal_in_evaluation(model, fused, torch.randn(2, 4, 7, 9))


def test_a_batch_norm_alone_can_be_fused() -> None:
    norm = vary_norms(nn.BatchNorm1d(5))
    for shape in ((3, 5), (3, 5, 7)):
        assert_equal_in_evaluation(norm, fuse(norm), torch.randn(shape))


class Shared(nn.Module):
    """One convolution with a norm for each of two levels, and once without, as some heads do."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            ConvModule(4, 4, 3, padding=1, norm_cfg={'type': 'BN'}) for _ in range(2)
        )
        self.levels[1].conv = self.levels[0].conv
        self.plain = self.levels[0].conv
        self.again = self.levels[1]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.levels[0](x), self.levels[1](x), self.plain(x), self.again(x)


def test_a_shared_convolution_is_folded_with_each_of_its_norms() -> None:
    model = vary_norms(Shared())
    fused = fuse(model)
    assert len(fused.fusion_report.folded) == 3
    assert fused.again is fused.levels[1]
    assert_equal_in_evaluation(model, fused, torch.randn(1, 4, 8, 8))


@pytest.mark.parametrize(
    ('order', 'folded'),
    [
        (('conv', 'norm', 'act'), True),
        (('act', 'conv', 'norm'), True),
        (('conv', 'act', 'norm'), False),
        (('norm', 'conv', 'act'), False),
    ],
)
@pytest.mark.parametrize('efficient', [True, False])
def test_conv_modules_of_mmcv_are_folded_where_the_norm_follows(
    order: tuple[str, ...], folded: bool, efficient: bool
) -> None:
    options = {'norm_cfg': {'type': 'BN'}, 'efficient_conv_bn_eval': efficient}
    model = vary_norms(ConvModule(4, 4, 3, order=order, **options))
    fused = fuse(model)
    assert bool(fused.fusion_report.folded) is folded
    assert_equal_in_evaluation(model, fused, torch.randn(1, 4, 8, 8))


def test_a_convolution_whose_weight_others_read_is_left_alone() -> None:
    model = vary_norms(TaskDecomposition(4, stacked_convs=2, norm_cfg={'type': 'BN'}))
    fused = fuse(model)
    assert fused.fusion_report.affine == ('reduction_conv.bn',)
    assert_equal_in_evaluation(model, fused, torch.randn(1, 8, 5, 5))


# ------------------------------------------------------------------ detectors, segmentors


@pytest.mark.parametrize(
    ('config', 'names'),
    [
        ('detection/shvit_retinanet.py', 'blocks1.0.ffn'),
        ('segmentation/casvit_upernet.py', 'decode_head'),
    ],
)
def test_a_whole_model_is_fused_with_neck_and_heads(config: str, names: str) -> None:
    cfg = load_config(str(ROOT / 'configs' / config))
    init_default_scope(cfg.default_scope)
    model = vary_norms(ROOT_MODELS.build(cfg.model))
    fused = fuse(model)
    assert any(names in norm for norm in fused.fusion_report.folded)
    assert not norms(fused)
    assert_equal_in_evaluation(model, fused, torch.randn(1, 3, 128, 128))
