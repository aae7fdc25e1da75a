"""Layers that take another way in inference on CPUs: the same numbers, for any layer put in."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vitbackbones.backbones.sepvit import MOST_KEPT, SepViT, kept_windows
from vitbackbones.layers import Mlp, channels_first, layout, linear, mlp


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


@pytest.mark.parametrize(
    'layer', [Doubled(4, 6), doubled(nn.Linear(4, 6)), pre_doubled(nn.Linear(4, 6))]
)
@torch.no_grad()
def test_what_stands_in_for_a_linear_layer_or_hooks_into_it_is_heard(layer: nn.Module) -> None:
    x = torch.randn(2, 5, 4)
    torch.testing.assert_close(linear(layer, x), layer(x))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float64])
@torch.no_grad()
def test_autocast_and_other_types_keep_theirs(dtype: torch.dtype) -> None:
    layer, x = nn.Linear(4, 6).to(dtype), torch.randn(2, 5, 4, dtype=dtype)
    assert linear(layer, x).dtype == dtype
    with torch.autocast('cpu', torch.bfloat16):
        assert linear(nn.Linear(4, 6), torch.randn(2, 4)).dtype == torch.bfloat16


@pytest.mark.parametrize('fc2', [nn.Linear(8, 4), Doubled(8, 4), doubled(nn.Linear(8, 4))])
@torch.no_grad()
def test_an_mlp_in_pieces_equals_it_in_one(fc2: nn.Module, monkeypatch) -> None:
    monkeypatch.setattr(mlp, 'PIECE', 4)
    layer = Mlp(4, 8)
    layer.fc2 = fc2
    for shape in ((2, 5, 4), (3, 4), (4,), (1, 2, 3, 4)):
        x = torch.randn(shape)
        torch.testing.assert_close(layer(x), layer.fc2(layer.act(layer.fc1(x))))


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
