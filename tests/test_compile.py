"""torch.compile: every backbone is one graph, and a new size of images seldom needs another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from tests.small import SMALL
from vitbackbones.backbones.base import Backbone

# The default windows, of 24, would hold little but padding here.
OPTIONS: dict[str, Any] = {'GCViT': {'window_size': (4, 3, 5, 2)}}
SIZES = [(64, 96), (70, 97), (128, 75), (224, 224), (65, 160), (97, 331), (128, 128)]

every_backbone = pytest.mark.parametrize('name', SMALL)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def build(name: str, **options: Any) -> Backbone:
    torch.manual_seed(0)
    return Backbone.registered()[name](SMALL[name], **OPTIONS.get(name, {}), **options)


def assert_compiles(net: Backbone, *sizes: tuple[int, int]) -> int:
    """Compare with the network as it is; the number of graphs that this took."""
    graphs = CompileCounter()
    compiled = torch.compile(net, backend=graphs, fullgraph=True)
    for size in sizes:
        x = torch.randn(2, 3, *size)
        for got, want in zip(compiled(x), net(x), strict=True):
            torch.testing.assert_close(got, want)
    return graphs.frame_count


@every_backbone
@torch.no_grad()
def test_evaluation_is_one_graph_with_the_same_outputs(name: str) -> None:
    assert assert_compiles(build(name).eval(), SIZES[0]) == 1


@every_backbone
def test_training_is_one_graph_with_the_same_gradients(name: str) -> None:
    results = []
    for compiled in (False, True):
        net = build(name, drop_path_rate=0.0).train()
        graphs = CompileCounter()
        run = torch.compile(net, backend=graphs, fullgraph=True) if compiled else net
        torch.manual_seed(1)
        sum(x.square().mean() for x in run(torch.randn(2, 3, *SIZES[1]))).backward()
        assert graphs.frame_count == int(compiled)
        results.append({key: p.grad for key, p in net.named_parameters()})
    plain, other = results
    for key, value in plain.items():
        torch.testing.assert_close(other[key], value, msg=key)


@every_backbone
@torch.no_grad()
def test_further_sizes_need_no_further_graphs(name: str) -> None:
    # One for the first size, one for all others; SuperViT has one per position table.
    assert assert_compiles(build(name).eval(), *SIZES) <= (5 if name == 'SuperViT' else 2)


@pytest.mark.parametrize('name', ['GCViT', 'SepViT', 'SuperViT'])
def test_norms_are_of_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile takes any four axes for (B, C, H, W), and brings others out of their order."""
    axes, norm = [], torch.nn.functional.layer_norm
    monkeypatch.setattr(
        torch.nn.functional, 'layer_norm', lambda x, *a: axes.append(x.ndim) or norm(x, *a)
    )
    build(name).eval()(torch.randn(1, 3, *SIZES[0]))
    assert axes
    assert max(axes) <= 3


@every_backbone
@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning', 'ignore::DeprecationWarning')
@torch.no_grad()
def test_a_trace_for_one_size_has_the_same_outputs(name: str) -> None:
    net, x = build(name).eval(), torch.randn(1, 3, *SIZES[1])
    traced = torch.jit.trace(net, x, check_trace=False)
    for got, want in zip(traced(x), net(x), strict=True):
        torch.testing.assert_close(got, want)
