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


def plain_attention(q: Tensor, k: Tensor, v: Tensor, table: Tensor, build: Any, *_: Any) -> Tensor:
    return (q @ k.mT * q.shape[3] ** -0.5 + build(table)).softmax(-1) @ v


def biased_attention(*args: Any) -> Tensor:
    *inputs, build = args
    return attention_with_bias(*inputs, functools.partial(build))


def inputs() -> tuple[Tensor, ...]:
    shapes = ((5, 3, 4, 3), (5, 3, 6, 3), (5, 3, 6, 3), (3, 4, 6))
    return tuple(torch.randn(s, dtype=torch.double, requires_grad=True) for s in shapes)


@pytest.mark.parametrize('chunk', [1, 48, 72, 2 * 72, 1 << 20])
def test_its_gradients_are_those_of_plain_attention(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, 'BACKWARD_ELEMENTS', chunk)
    values = inputs()
    weights = torch.randn(5, 3, 4, 3, dtype=torch.double)
    results = [
        torch.autograd.grad((function(*values, torch.sin) * weights).sum(), values)
        for function in (biased_attention, plain_attention)
    ]
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want)


def test_the_backward_pass_makes_a_slice_of_the_matrices_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shapes = ((64, 2, 32, 4),) * 3 + ((2, 32, 32),)
    values = tuple(torch.randn(s, requires_grad=True) for s in shapes)
    peaks = []
    for chunk in (1 << 10, 1 << 20):
        monkeypatch.setattr(attention, 'BACKWARD_ELEMENTS', chunk)
        total = biased_attention(*values, torch.sin).sum()
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
