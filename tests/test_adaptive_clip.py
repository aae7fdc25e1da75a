"""Adaptive clipping of gradients: equation 3 of arXiv 2102.06171, on what the optimiser gets."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from vitbackbones.engine.adaptive_clip import AdaptiveClipHook, clip_adaptively

CLIPPING = 0.02


def model() -> nn.Sequential:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5))
    with torch.no_grad():
        net[0].weight[1] = 0  # a filter of zeros, as residual branches start
        net[0].weight[2] *= 1e4  # and one that no gradient here reaches
    return net


def runner(net: nn.Module, **options: Any) -> Any:
    wrapper = OptimWrapper(torch.optim.SGD(net.parameters(), lr=1.0), **options)
    return types.SimpleNamespace(model=net, optim_wrapper=wrapper)


def clipped(weight: Tensor, grad: Tensor) -> Tensor:
    """The equation, unit by unit and number by number."""
    if weight.ndim == 1:
        weight, grad = weight[None], grad[None]
        return clipped(weight, grad)[0]
    rows = []
    for w, g in zip(weight, grad, strict=True):
        size = max(float((w**2).sum() ** 0.5), 1e-3)
        ratio = float((g**2).sum() ** 0.5) / size
        rows.append(g * (CLIPPING / ratio) if ratio > CLIPPING else g)
    return torch.stack(rows)


def test_each_unit_s_gradient_is_bounded_by_its_weights() -> None:
    net = model()
    net(torch.randn(6, 3, 4, 4)).square().sum().backward()
    for name, param in net.named_parameters():
        before = param.grad.clone()
        want = clipped(param.detach(), before)
        clip_adaptively(param, CLIPPING)
        torch.testing.assert_close(param.grad, want, rtol=1e-5, atol=1e-9)
        kept = (param.grad == before).flatten(1).all(1) if param.ndim > 1 else torch.tensor([0])
        assert kept.tolist() == ([0, 0, 1, 0] if name == '0.weight' else [0] * len(kept)), name


@pytest.mark.parametrize(('exempt', 'spared'), [((), set()), (('3.',), {'3.weight', '3.bias'})])
def test_a_step_takes_what_is_left_of_the_gradients(
    exempt: tuple[str, ...], spared: set[str]
) -> None:
    net = model()
    run = runner(net, accumulative_counts=2)
    run.optim_wrapper.initialize_count_status(net, 0, 2)
    AdaptiveClipHook(clipping=CLIPPING, exempt=exempt).before_train(run)
    images = torch.randn(2, 6, 3, 4, 4)
    before = {name: param.detach().clone() for name, param in net.named_parameters()}
    losses = [net(x).square().sum() for x in images]
    names, params = zip(*net.named_parameters(), strict=True)
    # mmengine averages over what is accumulated; that average is clipped, once.
    grads = dict(zip(names, torch.autograd.grad(sum(losses) / 2, params), strict=True))
    for x in images:
        run.optim_wrapper.update_params(net(x).square().sum())
    for name, param in net.named_parameters():
        step = grads[name] if name in spared else clipped(before[name], grads[name])
        torch.testing.assert_close(before[name] - param, step, rtol=1e-3, atol=1e-3)
        if name not in spared:
            assert (before[name] - param).norm() <= 1.1 * CLIPPING * max(before[name].norm(), 2e-3)


@pytest.mark.parametrize('unscaled', [False, True], ids=['', 'clipped by the norm before'])
@pytest.mark.parametrize('fused', [False, True], ids=['', 'fused'])
def test_the_scale_of_a_loss_changes_nothing(fused: bool, unscaled: bool) -> None:
    """A fused optimiser divides by it within its step, where it is too late to clip."""
    net, images = model(), torch.randn(6, 3, 4, 4)
    before = {name: param.detach().clone() for name, param in net.named_parameters()}
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0, fused=fused)
    run = types.SimpleNamespace(model=net, optim_wrapper=types.SimpleNamespace(optimizer=optimizer))
    AdaptiveClipHook(clipping=CLIPPING).before_train(run)
    scaler = torch.amp.GradScaler('cpu', init_scale=1024.0)
    names, params = zip(*net.named_parameters(), strict=True)
    grads = dict(zip(names, torch.autograd.grad(net(images).square().sum(), params), strict=True))
    scaler.scale(net(images).square().sum()).backward()
    if unscaled:
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    for name, param in net.named_parameters():
        step = clipped(before[name], grads[name])
        torch.testing.assert_close(before[name] - param, step, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(clipping=0), 'AdaptiveClipHook: clipping=0 must be positive'),
        (dict(eps=-1.0), 'eps=-1.0 must be positive'),
        (dict(exempt=('head.',)), "exempt='head.' is in no name of a parameter; .* like 0.weight"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdaptiveClipHook(**options).before_train(runner(model()))
