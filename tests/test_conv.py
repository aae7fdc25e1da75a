"""Convolutions in inference on a CPU: faster ways to the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tests.small import SMALL
from vitbackbones.backbones import CASViT, SHViT
from vitbackbones.backbones.base import Backbone
from vitbackbones.backbones.casvit import AdditiveAttention, ConvMlp
from vitbackbones.backbones.shvit import ConvBN
from vitbackbones.benchmark.livened import vary_norms
from vitbackbones.deploy import fuse
from vitbackbones.layers import conv
from vitbackbones.layers.conv import Pointwise, channels_last
from vitbackbones.layers.door import fast_paths

both = pytest.mark.parametrize('cls', [CASViT, SHViT], ids=lambda cls: cls.__name__)


def build(cls: type[Backbone]) -> Backbone:
    torch.manual_seed(0)
    return vary_norms(cls(SMALL[cls.__name__]))


@pytest.fixture(params=[0, 1 << 17], ids=['in place', 'two maps'])
def _large(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways in which SHViT norms maps, whatever their size."""
    monkeypatch.setattr(conv, 'LARGE_MAP', request.param)


large = pytest.mark.usefixtures('_large')


def assert_close(got: tuple[Tensor, ...], want: tuple[Tensor, ...]) -> None:
    for one, other in zip(got, want, strict=True):
        assert (one - other).abs().max() <= 1e-5 * other.abs().max()


@both
@large
@pytest.mark.parametrize('fused', [False, True])
def test_inference_computes_what_training_code_does(cls: type[Backbone], fused: bool) -> None:
    net = build(cls)
    x = torch.randn(2, 3, 70, 97)
    want = net(x)  # with gradients, layer by layer
    with torch.no_grad():
        assert_close((fuse(net) if fused else net)(x), want)


@both
def test_a_fused_network_gives_the_same_with_and_without_gradients(cls: type[Backbone]) -> None:
    fused = fuse(build(cls))
    x = torch.randn(1, 3, 64, 96, requires_grad=True)
    with torch.no_grad():
        want = fused(x)
    maps = fused(x)
    assert_close(maps, want)
    sum(y.sum() for y in maps).backward()
    assert x.grad.abs().max() > 0


@both
@large
def test_inference_leaves_image_and_weights_as_they_were(cls: type[Backbone]) -> None:
    net = build(cls)
    for model in (net, fuse(net)):
        x = torch.randn(1, 3, 64, 64).to(memory_format=torch.channels_last)
        image, state = x.clone(), {key: v.clone() for key, v in model.state_dict().items()}
        with torch.no_grad():
            first, second = model(x), model(x)
        assert torch.equal(x, image)
        assert all(torch.equal(v, state[key]) for key, v in model.state_dict().items())
        assert all(map(torch.equal, first, second))


@both
def test_maps_do_not_share_memory_at_the_smallest_size(cls: type[Backbone]) -> None:
    with torch.no_grad():
        maps = fuse(build(cls))(torch.randn(1, 3, 64, 64))
    assert len({x.untyped_storage().data_ptr() for x in maps}) == len(maps)
    assert all(x.is_contiguous() for x in maps)


@both
def test_a_fused_network_can_be_saved_as_safetensors(cls: type[Backbone], tmp_path: Path) -> None:
    fused = fuse(build(cls))
    save_file(fused.state_dict(), tmp_path / 'fused.safetensors')
    other = fuse(cls(SMALL[cls.__name__]))
    other.load_state_dict(load_file(tmp_path / 'fused.safetensors'))
    x = torch.randn(1, 3, 64, 64)
    assert_close(other(x), fused(x))


@both
def test_counted_work_is_the_same_with_and_without_gradients(cls: type[Backbone]) -> None:
    net, x = build(cls), torch.randn(1, 3, 64, 64)
    counts = []
    for learning in (True, False):
        with torch.set_grad_enabled(learning), FlopCounterMode(display=False) as counter:
            net(x)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1]


@pytest.mark.parametrize('approximate', ['none', 'tanh'])
@torch.no_grad()
def test_an_mlp_of_convolutions_keeps_its_activation(approximate: str) -> None:
    mlp, x = ConvMlp(8, 16), channels_last(torch.randn(2, 8, 5, 6))
    mlp.act.approximate = approximate
    with fast_paths(True):
        torch.testing.assert_close(mlp(x), mlp.fc2(mlp.act(mlp.fc1(x))))


@pytest.mark.parametrize(
    'layer',
    [
        nn.Conv2d(8, 24, 1),
        nn.Conv2d(8, 24, 1, bias=False),
        Pointwise(torch.randn(24, 8, 1, 1), torch.randn(24)),
    ],
    ids=['convolution', 'without bias', 'product'],
)
@torch.no_grad()
def test_a_projection_in_parts_equals_it_in_one(layer: nn.Module) -> None:
    x = channels_last(torch.randn(1, 8, 5, 6))
    want = layer(x).chunk(3, 1)
    with fast_paths(True):
        for part, other in zip(conv.pointwise_parts(layer, x, 3), want, strict=True):
            torch.testing.assert_close(part, other)


@large
@pytest.mark.parametrize('options', [{}, dict(affine=False), dict(track_running_stats=False)])
@pytest.mark.parametrize('last', [torch.channels_last, torch.contiguous_format])
def test_a_convolution_is_normed_as_with_gradients(
    options: dict[str, bool], last: torch.memory_format
) -> None:
    module, x = vary_norms(ConvBN(8, 16)), torch.randn(2, 8, 5, 6).to(memory_format=last)
    module.bn = nn.BatchNorm2d(16, **options).eval()
    want = module(x)
    with torch.no_grad(), fast_paths(True):
        torch.testing.assert_close(module(x), want)


@large
@pytest.mark.parametrize('bias', [False, True])
def test_a_replaced_convolution_keeps_its_bias(bias: bool) -> None:
    module, x = vary_norms(ConvBN(8, 16)), torch.randn(1, 8, 5, 6)
    module.c = nn.Conv2d(8, 16, 1, bias=bias)
    want = module(x)
    with torch.no_grad(), fast_paths(True):
        torch.testing.assert_close(module(x), want)


@torch.no_grad()
def test_training_statistics_follow_the_batch_without_gradients() -> None:
    module = ConvBN(8, 16).train()
    with fast_paths(True):
        module(torch.randn(4, 8, 5, 6) + 3)
    assert module.bn.num_batches_tracked == 1
    assert module.bn.running_mean.abs().max() > 0


@both
def test_fused_products_take_the_place_of_pointwise_convolutions(cls: type[Backbone]) -> None:
    fused = fuse(build(cls))
    assert any(isinstance(m, Pointwise) for m in fused.modules())
    for m in fused.modules():
        if isinstance(m, AdditiveAttention):
            assert isinstance(m.qkv, Pointwise)


def test_only_channels_last_memory_of_a_cpu_is_chosen() -> None:
    x = torch.randn(2, 3, 4, 5)
    assert channels_last(x).is_contiguous(memory_format=torch.channels_last)
    meta = x.to('meta')
    assert channels_last(meta) is meta


OPTIONS = {
    'plain': {},
    'strided': {'stride': 2, 'padding': 1},
    'oblong': {'stride': (1, 2), 'padding': (0, 2), 'dilation': (2, 1)},
    'without bias': {'bias': False},
    'grouped': {'groups': 2},
    'same': {'padding': 'same'},
    'circular': {'padding': 1, 'padding_mode': 'circular'},
}


@pytest.mark.parametrize('options', OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize('many', [0, 10**6])
@torch.no_grad()
def test_a_convolution_of_a_small_map_is_a_product(
    options: dict[str, Any], many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conv, 'MANY_WEIGHTS', many)
    layer = nn.Conv2d(4, 6, 3, **options)
    x = channels_last(torch.randn(2, 4, 9, 7))
    with fast_paths(True):
        torch.testing.assert_close(conv.conv(layer, x), layer(x))


@pytest.mark.parametrize(
    ('weights', 'inputs', 'memory_format', 'convolved'),
    [
        (600, 100, torch.contiguous_format, False),
        (594, 100, torch.contiguous_format, True),
        (600, 100, torch.channels_last, True),  # which a product would have to copy
    ],
)
@torch.no_grad()
def test_only_maps_of_far_fewer_pixels_than_weights_become_products(
    weights: int, inputs: int, memory_format: torch.memory_format, convolved: bool
) -> None:
    layer = nn.Conv2d(2, weights // 6, (1, 3)).to(memory_format=memory_format)
    calls = []
    layer._conv_forward = lambda *args: calls.append(args) or nn.Conv2d._conv_forward(layer, *args)
    with fast_paths(True):
        conv.conv(layer, torch.randn(1, 2, 5, inputs // 10))
    assert bool(calls) == convolved
