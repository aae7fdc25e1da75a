"""Training on a CPU: backward passes that keep less give the gradients of the plain ones.

Whoever watches a layer, or differentiates otherwise than once backwards, gets the plain layers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from tests.test_door import IMAGE, build, every_backbone
from vitbackbones.backbones.base import Backbone
from vitbackbones.benchmark.memory import saved_memory
from vitbackbones.layers import door, training
from vitbackbones.layers.blocks import Mlp

# Enough tokens for several pieces.
IMAGES = torch.randn(2, 3, 72, 88, generator=torch.Generator().manual_seed(1))
closed = functools.partial(mock.patch.object, Backbone, 'is_as_built', return_value=False)


@pytest.fixture(autouse=True)
def pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, 'CHUNK', 100)


def train(name: str, **options: Any) -> Backbone:
    return build(name, **options).train()


def loss(net: Backbone, x: Tensor) -> Any:
    return sum((y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum() for y in net(x))


def gradients(net: Backbone, x: Tensor = IMAGES) -> dict[str, Tensor | None]:
    """Of the input and of all parameters; the same samples are dropped each time."""
    torch.manual_seed(0)
    x = x.clone().requires_grad_()
    net.zero_grad()
    loss(net, x).backward()
    return {'input': x.grad, **{name: p.grad for name, p in net.named_parameters()}}


def assert_same(got: dict[str, Tensor | None], want: dict[str, Tensor | None]) -> None:
    largest = max(float(g.abs().max()) for g in want.values() if g is not None)
    for name, gradient in want.items():
        if gradient is None:
            assert got[name] is None, name
        else:  # what is before a BatchNorm has gradients of roundings
            close = dict(rtol=1e-4, atol=1e-5 * largest)
            torch.testing.assert_close(got[name], gradient, msg=name, **close)


def is_taken(run: Callable[[], Any]) -> bool:
    """Whether a backward pass of our own is what ``run`` leads to."""
    seen = []
    plain = door.allowed_in_training

    def spy() -> bool:
        seen.append(plain())
        return seen[-1]

    asked = [f'vitbackbones.layers.{name}.allowed_in_training' for name in ('fast', 'conv')]
    with mock.patch(asked[0], spy), mock.patch(asked[1], spy):
        run()
    assert seen
    return any(seen)


@every_backbone
@pytest.mark.parametrize('options', [{}, {'drop_path_rate': 0.5}, {'with_cp': True}], ids=str)
def test_gradients_are_those_of_the_plain_layers(name: str, options: dict[str, Any]) -> None:
    net = train(name, **options)
    state = {key: value.clone() for key, value in net.state_dict().items()}
    got, after = gradients(net), {key: value.clone() for key, value in net.state_dict().items()}
    net.load_state_dict(state)
    with closed():
        want = gradients(net)
    assert_same(got, want)
    for key, value in net.state_dict().items():  # statistics of BatchNorms, updated once
        torch.testing.assert_close(after[key], value, msg=key)


@every_backbone
def test_frozen_parts_get_none(name: str) -> None:
    net = train(name, frozen_stages=1)
    got = gradients(net)
    with closed():
        assert_same(got, gradients(net))
    assert any(p.grad is None for p in net.parameters())


def test_layers_of_an_mlp_are_frozen_one_by_one() -> None:
    torch.manual_seed(0)
    norm, mlp = nn.LayerNorm(6), Mlp(6, 12)
    layers = [mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias]
    x = torch.randn(3, 70, 6, requires_grad=True)
    inputs = [x, norm.weight, norm.bias, *layers]
    for frozen in [(), *((i,) for i in range(7)), (1, 2), (3, 4, 5, 6)]:
        for i, value in enumerate(inputs):
            value.requires_grad_(i not in frozen)
            value.grad = None
        training.mlp(x, norm, *layers, approximate='none').square().sum().backward()
        got = [value.grad for value in inputs]
        for value in inputs:
            value.grad = None
        mlp(norm(x)).square().sum().backward()
        for one, value in zip(got, inputs, strict=True):
            torch.testing.assert_close(one, value.grad)


# Shares of what the plain layers keep. SuperViT's small network is little but its stem.
KEPT = {'CASViT': 0.75, 'GCViT': 0.87, 'SepViT': 0.85, 'SuperViT': 0.985}


@pytest.mark.parametrize(('name', 'share'), KEPT.items())
def test_less_is_kept(name: str, share: float) -> None:
    net = train(name)
    kept = saved_memory(net, IMAGES)
    with closed():
        assert kept <= share * saved_memory(net, IMAGES)


@every_backbone
@pytest.mark.parametrize(
    'hook', ['register_forward_hook', 'register_full_backward_hook', 'register_forward_pre_hook']
)
def test_whoever_watches_a_layer_is_called(name: str, hook: str) -> None:
    net, seen = train(name), []
    layers = [m for m in net.modules() if isinstance(m, (nn.Linear, nn.GELU, nn.Conv2d))]
    for layer in layers:
        getattr(layer, hook)(lambda module, *_: seen.append(module))
    gradients(net)
    used = {*seen}
    assert len(used) >= 0.9 * len(layers)


# torch's fused attention has one derivative, and so have the networks that use it.
@pytest.mark.parametrize('norm', [nn.LayerNorm(6), None])
def test_gradients_can_be_differentiated(norm: nn.LayerNorm | None) -> None:
    torch.manual_seed(0)
    mlp = Mlp(6, 12)
    layers = [mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias]
    x = torch.randn(3, 70, 6, requires_grad=True)
    results = []
    for y in (
        training.mlp(x, norm, *layers, approximate='none'),
        mlp(x if norm is None else norm(x)),
    ):
        (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        results.append(torch.autograd.grad(first.square().sum(), [x, *layers]))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_gradients_of_a_network_can_be_differentiated() -> None:
    net = train('CASViT', drop_path_rate=0.0)
    results = []
    for door_is_open in (True, False):
        x = IMAGE.clone().requires_grad_()
        with mock.patch.object(Backbone, 'is_as_built', return_value=door_is_open):
            (first,) = torch.autograd.grad(loss(net, x), x, create_graph=True)
        parameters = dict(net.named_parameters())
        second = torch.autograd.grad(
            first.square().sum(), [*parameters.values()], allow_unused=True
        )
        results.append(dict(zip(parameters, second, strict=True)))
    assert_same(*results)


@every_backbone
def test_other_ways_to_differentiate_get_the_plain_layers(name: str) -> None:
    net = train(name).eval()  # statistics are not updated in a transform

    def functional() -> None:
        torch.func.grad(lambda x: loss(net, x))(IMAGE)

    def forward() -> None:
        with forward_ad.dual_level():
            net(IMAGE)

    def autocast() -> None:
        with torch.autocast('cpu', torch.bfloat16):
            net(IMAGE)

    assert is_taken(lambda: net(IMAGE))
    assert not is_taken(forward)
    assert not is_taken(autocast)
    if name != 'GCViT':  # whose attention has a backward pass of its own
        assert not is_taken(functional)
