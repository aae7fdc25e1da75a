"""Fused attention whose bias is learned, and what training stores for it."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.small import SMALL
from vitbackbones.backbones import GCViT, SepViT, gcvit
from vitbackbones.benchmark.memory import peak_memory, saved_memory
from vitbackbones.layers import attention
from vitbackbones.layers.attention import attention_with_bias
from vitbackbones.layers.position_bias import PositionBias


def plain_attention(q: Tensor, k: Tensor, v: Tensor, table: Tensor, which: PositionBias) -> Tensor:
    return (q @ k.mT * q.shape[3] ** -0.5 + which(table)).softmax(-1) @ v


def inputs(windows: int, heads: int, which: PositionBias, dtype: torch.dtype) -> list[Tensor]:
    """Queries, keys, values of three channels, and a table."""
    t = which.height * which.width
    s, side = t + which.with_padding_key, 2 * which.window_size - 1
    shapes = ((windows, heads, t, 3), *[(windows, heads, s, 3)] * 2, (side**2, heads))
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


CUTS = [(3, 3, False), (3, 2, True), (1, 3, True), (2, 2, False), (1, 1, True)]
# A head of a window at a time, several windows, all of a head, several heads, everything.
SLICES = [1, 200, 405, 900, 1 << 20]


@pytest.mark.parametrize('cut', CUTS, ids=str)
@pytest.mark.parametrize('slice_elements', SLICES)
def test_its_gradients_are_those_of_plain_attention(
    slice_elements: int, cut: tuple[int, int, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, 'BACKWARD_ELEMENTS', slice_elements)
    which = PositionBias(3, *cut)
    values = inputs(5, 3, which, torch.double)
    weights = torch.randn(values[0].shape, dtype=torch.double)
    outputs = [f(*values, which) for f in (attention_with_bias, plain_attention)]
    torch.testing.assert_close(*outputs)
    results = [torch.autograd.grad((y * weights).sum(), values) for y in outputs]
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want)


def test_in_half_precision_gradients_are_summed_in_single() -> None:
    which = PositionBias(7, 7, 5, True)
    values = inputs(40, 2, which, torch.float32)
    halves = [x.detach().bfloat16().requires_grad_() for x in values]
    same = [x.detach().float().requires_grad_() for x in halves]
    got = torch.autograd.grad(attention_with_bias(*halves, which).sum(), halves)
    want = torch.autograd.grad(plain_attention(*same, which).sum(), same)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == torch.bfloat16
        torch.testing.assert_close(a.float(), b, rtol=0.02, atol=0.02 * b.abs().max().item())


def test_the_backward_pass_makes_a_slice_of_the_matrices_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    which = PositionBias(6, 6, 6)
    values = inputs(64, 2, which, torch.float32)
    peaks = []
    for elements in (1 << 10, 1 << 20):
        monkeypatch.setattr(attention, 'BACKWARD_ELEMENTS', elements)
        total = attention_with_bias(*values, which).sum()
        peaks.append(peak_memory(functools.partial(torch.autograd.grad, total, values)))
    assert peaks[0] < 0.4 * peaks[1]


@pytest.mark.parametrize(
    ('cls', 'arch', 'limit'),
    [
        (GCViT, {'dim': 16}, 0.6),
        (SepViT, {'window_sizes': ((7,), (7, 14), (7, 14), (7,))}, 0.9),
    ],
    ids=['GCViT', 'SepViT'],
)
def test_attention_matrices_are_not_stored(
    cls: Any, arch: Any, limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = cls({**SMALL[cls.__name__], **arch})
    x = torch.randn(1, 3, 192, 192)
    fused = saved_memory(net, x)
    monkeypatch.setattr(gcvit, 'attention_with_bias', plain_attention)
    with sdpa_kernel(SDPBackend.MATH):
        assert fused <= limit * saved_memory(net, x)
