"""Every published variant at its own widths; those above 60 million parameters are marked large."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests import torchvision_stub
from tests.test_contract import BACKBONES, wake
from vitbackbones import create
from vitbackbones.backbones.base import Backbone
from vitbackbones.checkpoint import load_pretrained

with torchvision_stub.installed():
    import timm

LARGE = 60_000_000
PRETRAINING_WINDOWS = (7, 7, 14, 7)


def variants() -> list[Any]:
    cases = []
    for cls in BACKBONES:
        for arch in cls.archs:
            with torch.device('meta'):
                size = sum(p.numel() for p in cls(arch).parameters())
            marks = [pytest.mark.large] if size > LARGE else []
            cases.append(pytest.param(cls, arch, id=f'{cls.__name__}-{arch}', marks=marks))
    return cases


def build(cls: type[Backbone], arch: str, **options: Any) -> Backbone:
    if cls.__name__ == 'GCViT':
        options['window_size'] = PRETRAINING_WINDOWS  # small pictures need no windows of 24
    return wake(cls(arch, **options))


@pytest.mark.parametrize(('cls', 'arch'), variants())
def test_a_training_step_reaches_every_parameter_and_recomputing_changes_nothing(
    cls: type[Backbone], arch: str
) -> None:
    side = max(cls.strides)
    x = torch.randn(2, 3, side + 3, 2 * side)
    gradients = []
    net = build(cls, arch, norm_eval=True)
    for with_cp in (False, True):
        net.with_cp = with_cp
        net.zero_grad()
        torch.manual_seed(1)
        maps = net.train()(x)
        for m, channels, stride in zip(maps, net.out_channels, net.out_strides, strict=True):
            assert m.shape[1:] == (channels, *(math.ceil(s / stride) for s in x.shape[2:]))
        sum(m.float().square().mean() for m in maps).backward()
        gradients.append({name: p.grad.clone() for name, p in net.named_parameters()})
    plain, recomputed = gradients
    assert all(torch.isfinite(g).all() for g in plain.values())
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(('cls', 'arch'), variants())
@torch.no_grad()
def test_bfloat16_autocast_stays_within_three_percent(cls: type[Backbone], arch: str) -> None:
    net = build(cls, arch).eval()
    side = max(cls.strides)
    x = torch.randn(1, 3, 2 * side, side + 5)
    want = net(x)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        got = net(x)
    for one, other in zip(got, want, strict=True):
        assert torch.isfinite(one).all()
        assert (one.float() - other).norm() / other.norm() < 3e-2


def timm_names() -> list[Any]:
    names = ['gcvit_xxtiny', 'gcvit_xtiny', 'gcvit_tiny', 'gcvit_small', 'gcvit_base']
    names += [f'shvit_s{i}' for i in range(1, 5)]
    large = {'gcvit_base': [pytest.mark.large]}
    return [pytest.param(name, marks=large.get(name, [])) for name in names]


@pytest.mark.parametrize('name', timm_names())
@torch.no_grad()
def test_maps_equal_timm_s_with_timm_s_own_random_weights(name: str, tmp_path: Path) -> None:
    theirs = timm.create_model(name, pretrained=False).eval()
    torch.save(theirs.state_dict(), tmp_path / 'timm.pth')
    gcvit = name.startswith('gcvit')
    options: dict[str, Any] = {'window_size': PRETRAINING_WINDOWS} if gcvit else {}
    ours = create(name, **options).eval()
    report = load_pretrained(ours, tmp_path / 'timm.pth')
    assert 'timm' in report.description
    x = torch.randn(1, 3, 224, 224)
    want = timm.create_model(name, pretrained=False, features_only=True).eval()
    # The same weights in timm's form that returns maps, whose names lack the last dot.
    flat = {key.replace('.', '_', 1): value for key, value in theirs.state_dict().items()}
    own = want.state_dict()
    source = {**theirs.state_dict(), **flat}
    want.load_state_dict({key: source[key] for key in own})
    for one, other in zip(ours(x), want(x), strict=True):
        if gcvit:  # ours are normed; new norms have scale 1 and shift 0
            other = F.layer_norm(other.permute(0, 2, 3, 1), other.shape[1:2]).permute(0, 3, 1, 2)
        assert (one - other).abs().max() < 1e-4 * other.std()
