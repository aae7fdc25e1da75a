"""Layers that take another way in inference on CPUs: the same numbers, for any layer put in."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.small import SMALL
from vitbackbones.backbones import CASViT, GCViT, SuperViT
from vitbackbones.backbones.sepvit import MOST_KEPT, Block, SepViT, Windows, kept_windows
from vitbackbones.layers import (
    DropPath,
    LayerNorm2d,
    Mlp,
    add_mlp,
    add_to,
    channels_first,
    is_plain,
    layout,
    linear,
    mlp,
    rows_at,
    to_map,
    to_rows,
)


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


def scaled_buffer(layer: nn.Linear) -> nn.Linear:
    weight = layer.weight.detach().as_subclass(Scaled)
    del layer.weight
    layer.register_buffer('weight', weight)
    return layer


def scaled_attribute(layer: nn.Linear) -> nn.Linear:
    weight = layer.weight.detach().as_subclass(Scaled)
    del layer.weight
    layer.weight = weight
    return layer


class Seen(nn.Module):
    """An activation that notes how much it is given at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[torch.Size] = []

    def forward(self, x: Tensor) -> Tensor:
        self.shapes.append(x.shape)
        return x


@pytest.mark.parametrize('stand_in', [None, F.gelu])
def test_what_is_no_module_is_not_plain(stand_in: Any) -> None:
    assert not is_plain(stand_in, nn.GELU)


STAND_INS = (
    lambda layer: Doubled(4, 6),
    doubled,
    pre_doubled,
    patched,
    scaled,
    scaled_buffer,
    scaled_attribute,
)


@pytest.mark.parametrize('change', STAND_INS)
@torch.no_grad()
def test_what_stands_in_for_a_linear_layer_or_hooks_into_it_is_heard(change: Any) -> None:
    layer, x = change(nn.Linear(4, 6)), torch.randn(2, 5, 4)
    torch.testing.assert_close(linear(layer, x), layer(x))
    plain = x @ layer.weight.as_subclass(Tensor).t() + layer.bias
    assert not torch.allclose(layer(x), plain)


def mlp_parts() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {'norm': nn.LayerNorm(4), 'mlp': Mlp(4, 8), 'drop_path': DropPath(0.5).eval()}


CHANGES = {
    'nothing': lambda p: None,
    'hook on the MLP': lambda p: doubled(p['mlp']),
    'hook on a layer': lambda p: doubled(p['mlp'].fc2),
    'layer of another forward': lambda p: patched(p['mlp'].fc2),
    'weight of another type': lambda p: scaled(p['mlp'].fc1),
    'buffer of another type': lambda p: scaled_buffer(p['mlp'].fc1),
    'attribute of another type': lambda p: scaled_attribute(p['mlp'].fc1),
    'no bias': lambda p: setattr(p['mlp'].fc1, 'bias', None),
    'another activation': lambda p: setattr(p['mlp'], 'act', nn.ReLU()),
    'another GELU': lambda p: setattr(p['mlp'], 'act', nn.GELU('tanh')),
    'another norm': lambda p: p.update(norm=nn.Identity()),
    'hook on the norm': lambda p: doubled(p['norm']),
    'hook on drop path': lambda p: doubled(p['drop_path']),
    'another drop path': lambda p: p.update(drop_path=nn.Dropout(1.0)),
}


@pytest.mark.parametrize('scale', [1.0, 0.5, torch.arange(4.0)], ids=['1', '0.5', 'channels'])
@pytest.mark.parametrize('change', CHANGES)
@torch.no_grad()
def test_an_mlp_added_in_pieces_equals_it_in_one(change: str, scale: Any, monkeypatch) -> None:
    monkeypatch.setattr(mlp, 'PIECE', 4)
    parts = mlp_parts()
    CHANGES[change](parts)
    for shape in ((2, 5, 4), (3, 4), (4,), (1, 2, 3, 4), (0, 4)):
        x = torch.randn(shape)
        want = x + scale * parts['drop_path'](parts['mlp'](parts['norm'](x)))
        torch.testing.assert_close(add_mlp(x.clone(), **parts, scale=scale), want)


@torch.no_grad()
def test_drop_path_drops_an_mlp_in_training_without_gradients() -> None:
    parts, x = mlp_parts(), torch.zeros(400, 1, 4)
    parts['drop_path'].train()
    dropped = (add_mlp(x, **parts) == 0).all(-1).sum()
    assert 100 < dropped < 300


@torch.no_grad()
def test_what_a_hook_on_the_norm_has_kept_is_not_overwritten() -> None:
    parts, kept, x = mlp_parts(), [], torch.randn(3, 4)
    parts['norm'].register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0]))
    before = x.clone()
    add_mlp(x, **parts)
    assert torch.equal(kept[0], before)


@torch.no_grad()
def test_another_activation_is_given_all_at_once(monkeypatch) -> None:
    monkeypatch.setattr(mlp, 'PIECE', 4)
    parts = mlp_parts()
    parts['mlp'].act = seen = Seen()
    add_mlp(torch.randn(2, 5, 4), **parts)
    assert seen.shapes == [(2, 5, 8)]


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


WITHOUT_SCALES = {
    GCViT: {**SMALL['GCViT'], 'layer_scale': None},
    SuperViT: {**SMALL['SuperViT'], 'residual_scale': 1.0},
    SepViT: SMALL['SepViT'],
}
# SHViT's calls of relu_ overwrite what a hook on the layer before them keeps, as in ResNets.
NOT_SHVIT: dict[Any, Any] = {**WITHOUT_SCALES, CASViT: SMALL['CASViT']}


@pytest.mark.parametrize('before', [False, True])
@pytest.mark.parametrize('where', ['whole process', 'all modules', 'each alone'])
@pytest.mark.parametrize('cls', NOT_SHVIT)
def test_what_any_hook_has_kept_is_not_overwritten(cls: Any, where: str, before: bool) -> None:
    net, kept = cls(NOT_SHVIT[cls]).eval(), []

    def keep(module: nn.Module, inputs: Any, output: Any = None) -> None:
        kept.extend((x, x.clone()) for x in (*inputs, output) if isinstance(x, Tensor))

    everywhere = nn.modules.module
    if before:
        on_all, on_one = everywhere.register_module_forward_pre_hook, 'register_forward_pre_hook'
    else:
        on_all, on_one = everywhere.register_module_forward_hook, 'register_forward_hook'
    modules = list(net.modules())
    hooked = {'whole process': [[]], 'all modules': [modules], 'each alone': [[m] for m in modules]}
    for module in modules:
        if isinstance(module, nn.ReLU):
            module.inplace = False  # else they say themselves that they overwrite their input
    x = torch.randn(1, 3, 72, 88)
    want, seen = net(x), 0
    for watched in hooked[where]:
        handles = [getattr(module, on_one)(keep) for module in watched] or [on_all(keep)]
        with torch.no_grad():
            got = net(x)
        for handle in handles:
            handle.remove()
        for one, other in zip(got, want, strict=True):
            torch.testing.assert_close(one, other)
        assert all(torch.equal(one, other) for one, other in kept), watched
        seen += len(kept)
        kept.clear()
    assert seen > 50


@pytest.mark.parametrize('cls', WITHOUT_SCALES)
def test_the_ways_of_inference_and_training_agree_without_scales(cls: Any) -> None:
    net = cls(WITHOUT_SCALES[cls]).eval()
    for shape in ((0, 3, 72, 88), (1, 3, 72, 88), (2, 3, 64, 104)):
        x = torch.randn(shape)
        with torch.no_grad():
            got = net(x)
        for one, other in zip(got, net(x), strict=True):
            torch.testing.assert_close(one, other)


@torch.no_grad()
def test_hooks_on_all_modules_of_a_process_hear_every_layer() -> None:
    net, heard = SepViT(SMALL['SepViT']).eval(), set()
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: heard.add(module))
    try:
        net(torch.randn(1, 3, 64, 64))
    finally:
        handle.remove()
    assert {m for m in net.modules() if isinstance(m, (nn.Linear, nn.GELU, Mlp))} <= heard


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
    x = torch.randn(1, 5 * 7, 16)
    windows = Windows(5, 7, 4, 2, x.device)
    block = Block(16, 2, 2, 0.0, learnable_token=False).eval()
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
    monkeypatch.setattr(layout, 'PIECE', 4)
    x = torch.randn(batch, 2, 3, 5, requires_grad=grad)
    with torch.set_grad_enabled(grad):
        y = channels_first(ORDERS[order](x))
    assert y.is_contiguous()
    assert torch.equal(y, x)
    assert y.requires_grad == grad


@torch.no_grad()
def test_a_trace_transposes_maps_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, 'PIECE', 4)
    one, other = (ORDERS['channels last'](torch.randn(b, 2, 3 * b, 5)) for b in (1, 2))
    traced = torch.jit.trace(channels_first, one)
    assert torch.equal(traced(other), other)
    assert traced(other).is_contiguous()


@pytest.mark.parametrize('batch', [1, 2])
def test_maps_and_rows_are_the_same_memory_in_an_order_that_torch_knows(batch: int) -> None:
    rows = torch.randn(batch, 15, 2)
    x = to_map(rows, 3, 5)
    assert x.shape == (batch, 2, 3, 5)
    assert x.stride() == (30, 1, 10, 2)  # the first one too, though one image never needs it
    assert to_rows(x).data_ptr() == rows.data_ptr()
    assert torch.equal(to_rows(x.contiguous()), rows)
    normed = LayerNorm2d(2)(x.contiguous())
    assert normed.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(to_rows(normed), nn.LayerNorm(2)(rows))


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


@pytest.mark.parametrize('batch', [0, 1, 2])
@pytest.mark.parametrize('grad', [False, True])
def test_rows_are_taken_from_every_image(batch: int, grad: bool) -> None:
    x, index = torch.randn(batch, 5, 3), torch.tensor([4, 0, 4])
    with torch.set_grad_enabled(grad):
        assert torch.equal(rows_at(x, index), x[:, index])
