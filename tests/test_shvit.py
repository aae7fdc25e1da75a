"""SHViT against the published network, timm, and plain restatements of its rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests import parity, torchvision_stub
from tests.reference import refdata
from tests.small import SMALL
from vitbackbones import load_pretrained
from vitbackbones.backbones.shvit import ARCHS, Residual, SHViT
from vitbackbones.layers.blocks import DropPath

GOLDENS = parity.goldens('shvit')


def manifest(arch: str) -> dict[str, Any]:
    return parity.manifest('shvit', f'{arch}_det')


def build_on_meta(arch: str) -> SHViT:
    with torch.device('meta'):
        return SHViT(arch)


def small(**options: Any) -> SHViT:
    return SHViT(SMALL['SHViT'], **options)


# ---------------------------------------------------------------------- the published network


@pytest.mark.parametrize('path', GOLDENS, ids=lambda path: path.stem)
@torch.no_grad()
def test_outputs_equal_the_published_ones(path: Path) -> None:
    arch = path.stem.partition('_')[0]
    net = SHViT(arch).eval()
    net.load_state_dict(refdata.build_state_dict(manifest(arch)))
    parity.assert_maps_equal(net, refdata.load_json(path))


@pytest.mark.parametrize('arch', ARCHS)
def test_parameters_have_the_published_names_and_shapes(arch: str) -> None:
    net = build_on_meta(arch)
    ours = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    assert ours == {key: tuple(shape) for key, shape, dtype in manifest(arch)['tensors']}
    assert sum(p.numel() for p in net.parameters()) == manifest(arch)['params']


@pytest.mark.parametrize('arch', ARCHS)
def test_norms_have_the_published_eps(arch: str) -> None:
    norms = (nn.BatchNorm2d, nn.GroupNorm)
    modules = build_on_meta(arch).named_modules()
    assert {k: m.eps for k, m in modules if isinstance(m, norms)} == manifest(arch)['norm_eps']


@pytest.mark.parametrize('arch', ARCHS)
def test_no_paths_drop_unless_asked_for(arch: str) -> None:
    modules = build_on_meta(arch).modules()
    assert {m.rate for m in modules if isinstance(m, DropPath)} == {0.0}


# --------------------------------------------------------------------------------------- timm


@pytest.mark.parametrize('filled', [True, False])  # new residual branches are zero
@pytest.mark.parametrize('arch', ARCHS)
@torch.no_grad()
def test_it_equals_timm_on_a_file_of_timm(arch: str, filled: bool, tmp_path: Path) -> None:
    with torchvision_stub.installed():
        import timm
    theirs = timm.create_model(f'shvit_{arch}')
    state = theirs.state_dict()
    if filled:
        rows = [(name, v.shape, str(v.dtype).split('.')[1]) for name, v in state.items()]
        theirs.load_state_dict(refdata.build_state_dict(rows))
    torch.save(theirs.state_dict(), tmp_path / 'timm.pth')
    ours = SHViT(arch)
    report = load_pretrained(ours, str(tmp_path / 'timm.pth'))
    assert report.description == f'timm SHViT {arch} classifier'
    x = refdata.input_tensor((1, 3, 224, 224))
    maps = theirs.eval().forward_intermediates(x, intermediates_only=True)
    for got, want in zip(ours.eval()(x), maps, strict=True):
        assert got.shape == want.shape
        assert (got - want).abs().max() / want.std() < 1e-4


# ----------------------------------------------------------------------------- initialisation


def test_every_residual_branch_starts_as_zero() -> None:
    net = small().train()
    branches = [m for m in net.modules() if isinstance(m, Residual)]
    # Stage 1: one block without attention. Down-sampling has four. Then two blocks and one block.
    assert len(branches) == 2 + (4 + 2 * 3) + (4 + 3)
    for branch in branches:
        dim = [m for m in branch.modules() if isinstance(m, nn.BatchNorm2d)][-1].num_features
        x = torch.randn(2, dim, 3, 4)
        assert torch.equal(branch(x), x)


@pytest.mark.parametrize(
    ('arch', 'culprit'),
    [({'dims': (12, 24, 32)}, r'dims=\(12, 24, 32\)'), ({'partial_dims': (4, 25, 8)}, r'\(4, 25')],
)
def test_impossible_widths_are_refused(arch: dict[str, Any], culprit: str) -> None:
    with pytest.raises(ValueError, match=culprit):
        SHViT({**SMALL['SHViT'], **arch})


def test_the_narrowest_stage_still_has_a_gate() -> None:
    net = SHViT({**SMALL['SHViT'], 'dims': (8, 2, 2), 'partial_dims': (1, 2, 2)}).eval()
    assert [y.shape[1] for y in net(torch.randn(1, 3, 64, 64))] == [8, 2, 2]


# ------------------------------------------------------------------------- layers and weight decay


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_every_parameter_has_the_layer_that_forward_reaches_it_in(prefix: str) -> None:
    net = small()  # depths 1, 2, 1: the stem, then four blocks, the down-sampling before theirs
    want = {'patch_embed.': 0, 'blocks1.0.': 1}
    want |= {f'blocks2.{entry}.': layer for entry, layer in enumerate((2, 2, 2, 2, 3))}
    want |= {f'blocks3.{entry}.': 4 for entry in range(4)}
    for name, _ in net.named_parameters():
        layers = [layer for part, layer in want.items() if name.startswith(part)]
        assert [net.get_layer_depth(prefix + name, prefix)] == [(layer, 6) for layer in layers]


def test_layers_count_only_what_is_built() -> None:
    net = small(out_indices=(1,))
    depths = {net.get_layer_depth(name) for name, _ in net.named_parameters()}
    assert depths == {(layer, 5) for layer in range(4)}  # the last would be for output norms


def test_a_parameter_of_another_module_is_in_the_last_layer() -> None:
    assert small().get_layer_depth('neck.conv.weight', 'backbone.') == (5, 6)


def test_every_parameter_may_decay() -> None:
    assert small().no_weight_decay() == set()
