"""Layers that take another way in inference on CPUs: the same numbers, for any layer put in."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vitbackbones.backbones.sepvit import MOST_KEPT, Block, SepViT, Windows, kept_windows
from vitbackbones.layers import Mlp, add_to, channels_first, layout, linear, mlp


class Doubled(nn.Linear):
    """As adapters do: another layer in the place of a linear one."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def doubled(layer: nn.Linear) -> nn.Linear:
    layer.register_forward_hook(lambda module, inputs, output: 2 * output)
    return layer


def pre_doubled(layer: nn.Linear) -> nn.Linear:
    layer.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))
    return layer


@pytest.mark.parametrize('grad', [False, True])
@pytest.mark.parametrize('bias', [False, True])
def test_a_linear_layer_gives_its_own_output(grad: bool, bias: bool) -> None:
    layer, x = nn.Linear(4, 6, bias=bias), torch.randn(2, 5, 4)
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(linear(layer, x), layer(x))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float64])
@torch.no_grad()
def test_autocast_and_other_types_keep_theirs(dtype: torch.dtype) -> None:
    layer, x = nn.Linear(4, 6).to(dtype), torch.randn(2, 5, 4, dtype=dtype)
    assert linear(layer, x).dtype == dtype
    with torch.autocast('cpu', torch.bfloat16):
        assert linear(nn.Linear(4, 6), torch.randn(2, 4)).dtype == torch.bfloat16


def patched(layer: nn.Linear) -> nn.Linear:
    plain = layer.forward
    layer.forward = lambda x: 2 * plain(x)
    return layer


class Scaled(Tensor):
    """A weight that computes otherwise, as quantised ones do."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.linear:
            x, weight, bias = args
            return func(x, 2 * weight.as_subclass(Tensor), bias)
        if func in (torch.mm, torch.addmm):
            raise NotImplementedError
        return super().__torch_function__(func, types, args, kwargs or {})


def scaled(layer: nn.Linear) -> nn.Linear:
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Scaled), requires_grad=False)
    return layer


class Seen(nn.Module):
    """An activation that notes how much it is given at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[torch.Size] = []

    def forward(self, x: Tensor) -> Tensor:
        self.shapes.append(x.shape)
        return x


@pytest.mark.parametrize('change', [lambda x: Doubled(4, 6), doubled, pre_doubled, patched, scaled])
@torch.no_grad()
def test_what_stands_in_for_a_linear_layer_or_hooks_into_it_is_heard(change: Any) -> None:
    layer, x = change(nn.Linear(4, 6)), torch.randn(2, 5, 4)
    torch.testing.assert_close(linear(layer, x), layer(x))
    plain = x @ layer.weight.as_subclass(Tensor).t() + layer.bias
    assert not torch.allclose(layer(x), plain)


@pytest.mark.parametrize('fc2', [lambda x: x, doubled, patched, scaled])
@torch.no_grad()
def test_an_mlp_in_pieces_equals_it_in_one(fc2: Any, monkeypatch) -> None:
    monkeypatch.setattr(mlp, 'PIECE', 4)
    layer = Mlp(4, 8)
    fc2(layer.fc2)
    for shape in ((2, 5, 4), (3, 4), (4,), (1, 2, 3, 4), (0, 4)):
        x = torch.randn(shape)
        torch.testing.assert_close(layer(x), layer.fc2(layer.act(layer.fc1(x))))


@torch.no_grad()
def test_another_activation_is_given_all_at_once(monkeypatch) -> None:
    monkeypatch.setattr(mlp, 'PIECE', 4)
    layer = Mlp(4, 8)
    layer.act = Seen()
    layer(torch.randn(2, 5, 4))
    assert layer.act.shapes == [(2, 5, 8)]


def branch(watched: str = '') -> tuple[nn.Sequential, list[Tensor]]:
    """A branch, and what a hook on it or on its last layer has kept."""
    module = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 4)))
    kept: list[Tensor] = []
    if watched:
        hook = lambda module, inputs, output: kept.append(output)  # noqa: E731
        (module if watched == 'whole' else module[1][1]).register_forward_hook(hook)
    return module, kept


@pytest.mark.parametrize('watched', ['whole', 'last layer'])
@torch.no_grad()
def test_a_residual_does_not_overwrite_what_a_hook_has_kept(watched: str) -> None:
    module, kept = branch(watched)
    x = torch.randn(3, 4)
    y = add_to(x, module(x), module)
    torch.testing.assert_close(kept[0], y - x)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('grad', [False, True])
def test_a_residual_keeps_the_larger_type_and_the_input(dtype: torch.dtype, grad: bool) -> None:
    module, _ = branch()
    x = torch.randn(3, 4)
    before = x.clone()
    with torch.set_grad_enabled(grad):
        y = module(x).to(dtype)
        want = x + y
        assert torch.equal(add_to(x, y, module), want)
    assert torch.equal(x, before)


@pytest.mark.parametrize('grad', [False, True])
def test_a_block_adds_in_single_precision_under_autocast(grad: bool) -> None:
    x = torch.randn(1, 5, 7, 16)
    windows = Windows(5, 7, 4, 2, x.device)
    block = Block(16, 2, 2, 0.0, learnable_token=False).eval()
    with torch.set_grad_enabled(grad), torch.autocast('cpu', torch.bfloat16):
        assert block(x, windows).dtype == torch.float32


@pytest.mark.parametrize('grad', [False, True])
@pytest.mark.parametrize('batch', [1, 2])
def test_maps_are_transposed_pixel_by_pixel(grad: bool, batch: int, monkeypatch) -> None:
    monkeypatch.setattr(layout, 'PIECE', 4)
    x = torch.randn(batch, 3, 5, 2, requires_grad=grad)
    with torch.set_grad_enabled(grad):
        y = channels_first(x)
    assert y.is_contiguous()
    assert torch.equal(y, x.permute(0, 3, 1, 2))
    assert y.requires_grad == grad


def test_windows_kept_in_inference_are_few_and_do_not_meet_training() -> None:
    arch = {
        'dims': (8,) * 4,
        'depths': (1, 2, 1, 1),
        'num_heads': (1, 2, 1, 1),
        'window_sizes': ((3,), (3, 5), (3,), (3,)),
    }
    net = SepViT(arch, out_indices=(1,))
    kept_windows.cache_clear()
    sizes = [(32 + 8 * i, 40) for i in range(MOST_KEPT)]
    with torch.inference_mode():  # whose tensors must not be part of a backward pass
        for size in sizes:
            net(torch.randn(1, 3, *size))
    assert kept_windows.cache_info().currsize == MOST_KEPT
    net(torch.randn(1, 3, *sizes[-1]))[0].sum().backward()
