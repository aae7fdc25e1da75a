"""CAS-ViT against the numbers of the published dense network, and what is its own."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path

import pytest
import torch
from torch import nn

from tests import parity
from tests.reference import refdata
from tests.small import SMALL
from vitbackbones.backbones import CASViT

GOLDEN = parity.goldens('casvit')
SUBSETS = [c for n in range(1, 5) for c in itertools.combinations(range(4), n)]


def manifest(arch: str) -> dict:
    return parity.manifest('casvit', f'{arch}_det')


@functools.lru_cache(maxsize=1)
def published(arch: str) -> CASViT:
    """The network with the reference weights; loading is strict, so every name is the published."""
    net = CASViT(arch).eval()
    net.load_state_dict(refdata.build_state_dict(manifest(arch)))
    return net


def small(**options: object) -> CASViT:
    return CASViT(SMALL['CASViT'], **options)


def test_all_dense_golden_files_are_there() -> None:
    assert len(GOLDEN) == 10


@pytest.mark.parametrize('path', GOLDEN, ids=lambda path: path.stem)
@torch.no_grad()
def test_maps_equal_the_published_ones(path: Path) -> None:
    parity.assert_maps_equal(published(path.name.partition('_')[0]), refdata.load_json(path))


@pytest.mark.parametrize('arch', CASViT.archs)
def test_parameters_and_norm_eps_are_the_published_ones(arch: str) -> None:
    with torch.device('meta'):
        net = CASViT(arch)
    want = manifest(arch)
    assert sum(p.numel() for p in net.parameters()) == want['params']
    norms = {n: m.eps for n, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert norms == want['norm_eps']


def test_drop_path_rates_are_the_published_dense_ones() -> None:
    rates = {arch: fields.drop_path_rate for arch, fields in CASViT.archs.items()}
    assert rates == {'xs': 0.0, 's': 0.0, 'm': 0.1, 't': 0.1}


def test_drop_path_spares_the_local_perception() -> None:
    net = small(drop_path_rate=0.999999).train()
    block = net.network[6][-1]
    x = torch.randn(4, 24, 5, 5)
    torch.testing.assert_close(block(x), x + block.local_perception(x))


@pytest.mark.parametrize('out_indices', SUBSETS, ids=str)
def test_only_listed_outputs_have_a_norm(out_indices: tuple[int, ...]) -> None:
    net = small(out_indices=out_indices)
    norms = {name for name, _ in net.named_children() if name.startswith('norm')}
    assert norms == {f'norm{2 * i}' for i in out_indices}
    assert len(net.network) == 2 * max(out_indices) + 1


def test_the_next_stage_reads_the_map_before_the_output_norm() -> None:
    net = small().eval()
    x = torch.randn(1, 3, 64, 64)
    before = net(x)
    nn.init.zeros_(net.norm2.weight)
    after = net(x)
    assert torch.equal(after[1], net.norm2.bias[:, None, None].expand_as(after[1]))
    for i in (0, 2, 3):
        assert torch.equal(after[i], before[i])


def test_the_layer_of_a_parameter_is_that_of_its_block() -> None:
    net = small()  # the stem, 6 blocks, output norms
    assert net.get_layer_depth('network.1.proj.weight') == (2, 8)
    assert net.get_layer_depth('network.2.1.mlp.fc1.weight') == (3, 8)
    assert net.get_layer_depth('norm0.weight') == (7, 8)


def test_every_parameter_may_decay() -> None:
    assert small().no_weight_decay() == set()


def test_an_odd_first_width_is_refused() -> None:
    with pytest.raises(ValueError, match=r'dims=\(9, 12, 16, 24\) must begin with an even number'):
        CASViT({**SMALL['CASViT'], 'dims': (9, 12, 16, 24)})
