"""Layers that take another way in inference on CPUs: the same numbers, for any layer put in."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vitbackbones.backbones.sepvit import Block, SepViT
from vitbackbones.layers import door, fast, layout
from vitbackbones.layers.blocks import DropPath, LayerNorm2d, Mlp
from vitbackbones.layers.door import CACHE_ENTRIES, fast_paths
from vitbackbones.layers.fast import add_mlp, linear, linear_with_zeros, residual_add, take
from vitbackbones.layers.layout import channels_first, to_map, to_tokens
from vitbackbones.layers.window import token_windows


@pytest.fixture(params=[False, True], ids=['plain', 'fast'])
def is_fast(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Both ways through a layer, in inference."""
    with fast_paths(request.param), torch.no_grad():
        yield request.param


either_way = pytest.mark.usefixtures('is_fast')


@either_way
@pytest.mark.parametrize('bias', [False, True])
def test_a_linear_layer_gives_its_own_output(bias: bool) -> None:
    layer, x = nn.Linear(4, 6, bias=bias), torch.randn(2, 5, 4)
    torch.testing.assert_close(linear(layer, x), layer(x))


@either_way
@pytest.mark.parametrize('bias', [False, True])
def test_a_linear_layer_says_what_it_makes_of_zeros(bias: bool) -> None:
    layer, x = nn.Linear(4, 6, bias=bias), torch.randn(2, 5, 4)
    one, other, zeros = linear_with_zeros(layer, x, (3, 2))
    torch.testing.assert_close(torch.cat([one, other], 1), layer(x))
    torch.testing.assert_close(zeros.expand(2, 1, 6), layer(torch.zeros(2, 1, 4)))


def mlp_parts() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {'norm': nn.LayerNorm(4), 'mlp': Mlp(4, 8), 'drop_path': DropPath(0.5).eval()}


CHANGES = {
    'nothing': lambda p: None,
    'no bias': lambda p: setattr(p['mlp'].fc1, 'bias', None),
    'another GELU': lambda p: setattr(p['mlp'].act, 'approximate', 'tanh'),
}


@either_way
@pytest.mark.parametrize('scale', [1.0, 0.5, torch.arange(4.0)], ids=['1', '0.5', 'channels'])
@pytest.mark.parametrize('change', CHANGES)
def test_an_mlp_added_in_chunks_equals_it_in_one(change: str, scale: Any, monkeypatch) -> None:
    monkeypatch.setattr(fast, 'MLP_CHUNK', 4)
    parts = mlp_parts()
    CHANGES[change](parts)
    for shape in ((2, 5, 4), (3, 4), (4,), (1, 2, 3, 4), (0, 4)):
        x = torch.randn(shape)
        want = x + scale * parts['drop_path'](parts['mlp'](parts['norm'](x)))
        torch.testing.assert_close(add_mlp(x.clone(), **parts, scale=scale), want)


@either_way
def test_drop_path_drops_an_mlp_in_training_without_gradients() -> None:
    parts, x = mlp_parts(), torch.zeros(400, 1, 4)
    parts['drop_path'].train()
    dropped = (add_mlp(x, **parts) == 0).all(-1).sum()
    assert 100 < dropped < 300


@either_way
@pytest.mark.parametrize('scale', [1.0, 0.5, torch.arange(4.0)], ids=['1', '0.5', 'channels'])
def test_a_residual_leaves_its_input_alone(scale: Any) -> None:
    x, y = torch.randn(3, 4), torch.randn(3, 4)
    before, want = x.clone(), x + scale * y
    torch.testing.assert_close(residual_add(x, y, scale), want)
    assert torch.equal(x, before)


def test_a_plain_residual_leaves_both_alone_and_keeps_the_larger_type() -> None:
    x, y = torch.randn(3, 4), torch.randn(3, 4).bfloat16()
    before = y.clone()
    assert torch.equal(residual_add(x, y), x + y)
    assert torch.equal(y, before)


@pytest.mark.parametrize('grad', [False, True])
def test_a_block_adds_in_single_precision_under_autocast(grad: bool) -> None:
    x = torch.randn(1, 5 * 7, 16)
    windows = token_windows(to_map(x, 5, 7), 4, 2, own='padding', mask_padding=False)
    block = Block(16, 2, 2, 0.0, own_token='padding').eval()
    with torch.set_grad_enabled(grad), torch.autocast('cpu', torch.bfloat16):
        assert block(x, windows).dtype == torch.float32


ORDERS = {
    'channels last': lambda x: x.contiguous(memory_format=torch.channels_last),
    'contiguous': lambda x: x.contiguous(),
    'cropped': lambda x: F.pad(x, (0, 2, 0, 1)).contiguous(memory_format=torch.channels_last)[
        :, :, :-1, :-2
    ],
}


@pytest.mark.parametrize('order', ORDERS)
@pytest.mark.parametrize('grad', [False, True])
@pytest.mark.parametrize('batch', [0, 1, 2])
def test_maps_are_transposed_pixel_by_pixel(
    batch: int, grad: bool, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, 'TRANSPOSE_BLOCK', 4)
    x = torch.randn(batch, 2, 3, 5, requires_grad=grad)
    with torch.set_grad_enabled(grad):
        y = channels_first(ORDERS[order](x))
    assert y.is_contiguous()
    assert torch.equal(y, x)
    assert y.requires_grad == grad


@torch.no_grad()
def test_a_trace_transposes_maps_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, 'TRANSPOSE_BLOCK', 4)
    one, other = (ORDERS['channels last'](torch.randn(b, 2, 3 * b, 5)) for b in (1, 2))
    traced = torch.jit.trace(channels_first, one)
    assert torch.equal(traced(other), other)
    assert traced(other).is_contiguous()


@pytest.mark.parametrize('batch', [1, 2])
def test_maps_and_tokens_are_the_same_memory_in_an_order_that_torch_knows(batch: int) -> None:
    tokens = torch.randn(batch, 15, 2)
    x = to_map(tokens, 3, 5)
    assert x.shape == (batch, 2, 3, 5)
    assert x.stride() == (30, 1, 10, 2)  # the first one too, though one image never needs it
    assert to_tokens(x).data_ptr() == tokens.data_ptr()
    assert torch.equal(to_tokens(x.contiguous()), tokens)
    normed = LayerNorm2d(2)(x.contiguous())
    assert normed.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(to_tokens(normed), nn.LayerNorm(2)(tokens))


def test_windows_kept_in_inference_are_few_and_do_not_meet_training() -> None:
    arch = {
        'dims': (8,) * 4,
        'depths': (1, 2, 1, 1),
        'num_heads': (1, 2, 1, 1),
        'window_sizes': ((3,), (3, 5), (3,), (3,)),
    }
    net = SepViT(arch, out_indices=(1,))
    door._cached.cache_clear()
    sizes = [(32 + 8 * i, 40) for i in range(CACHE_ENTRIES)]
    with torch.inference_mode():  # whose tensors must not be part of a backward pass
        for size in sizes:
            net(torch.randn(1, 3, *size))
    assert door._cached.cache_info().currsize == CACHE_ENTRIES
    net(torch.randn(1, 3, *sizes[-1]))[0].sum().backward()


# Ten blocks of 20 MB at a time, more than glibc keeps by itself: 48,828 pages of 4 KiB.
FAULTS = """
import platform, resource, torch
from vitbackbones.backbones import SHViT
net, x = SHViT('s1', out_indices=(0,)), torch.zeros(1, 3, 64, 64)
{use}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    [torch.ones(5_000_000) for _ in range(10)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(platform.libc_ver()[0], *[faults() for _ in range(6)])
"""


COMPILED = "torch.compile(net, backend='eager', fullgraph=True)(x)"


@pytest.mark.parametrize(
    ('use', 'limits', 'kept'),
    [
        ('net(x)', {}, True),
        (COMPILED, {}, True),
        ('net(x)', {'MALLOC_TRIM_THRESHOLD_': '131072'}, False),
        ('net(x)', {'MALLOC_MMAP_THRESHOLD_': '131072'}, False),
        ('net(x)', {'GLIBC_TUNABLES': 'glibc.malloc.trim_threshold=131072'}, False),
        ('net(x)', {'GLIBC_TUNABLES': 'glibc.malloc.mmap_threshold=131072'}, False),
    ],
)
def test_a_process_keeps_what_a_pass_of_a_backbone_frees(
    use: str, limits: dict[str, str], kept: bool
) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith(('MALLOC_', 'GLIBC_'))}
    code = FAULTS.format(use=use)
    done = subprocess.run(
        [sys.executable, '-c', code], env=env | limits, capture_output=True, check=True, text=True
    )
    libc, *faults = done.stdout.split()
    if libc == 'glibc':
        # One of the ten blocks may lie behind one in use, and be mapped anew now and then.
        assert (max(map(int, faults[2:])) < 2 * 4883) == kept


@either_way
@pytest.mark.parametrize('batch', [0, 1, 2])
def test_tokens_are_taken_from_every_image(batch: int) -> None:
    x, index = torch.randn(batch, 5, 3), torch.tensor([4, 0, 4])
    assert torch.equal(take(x, index), x[:, index])
