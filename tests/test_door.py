"""The door: the fast ways through a network are taken where nobody can tell, and nowhere else.

Whatever is done to a network, its output is that of the plain computation, and what a hook has kept
stays as it was.
"""

from __future__ import annotations

import copy
import functools
import gc
import io
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.analysis import get_model_complexity_info
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.small import SMALL
from vitbackbones import backbones
from vitbackbones.backbones.base import Backbone
from vitbackbones.deploy import fuse
from vitbackbones.layers import door
from vitbackbones.layers.blocks import DropPath, Mlp

NAMES = sorted(SMALL)
every_backbone = pytest.mark.parametrize('name', NAMES)


def build(name: str, **options: Any) -> Backbone:
    torch.manual_seed(0)
    if name == 'GCViT':
        options.setdefault('window_size', (3, 3, 3, 3))
    net = getattr(backbones, name)(SMALL[name], **options)
    with torch.no_grad():  # branches that start at zero, and biases, show what is done to them
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return net.eval()


IMAGE = torch.randn(1, 3, 72, 88, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def plainly(net: Backbone, x: Tensor = IMAGE) -> list[Tensor]:
    """What it computes behind a closed door."""
    return net.feature_maps(x)


def assert_close(got: Any, want: Any) -> None:
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


def is_open_to(net: Backbone, x: Tensor = IMAGE) -> bool:
    """Whether a pass takes the fast ways."""
    seen = []
    plain = type(net).feature_maps

    def spy(self: Backbone, x: Tensor) -> list[Tensor]:
        seen.append(door.allowed())
        return plain(self, x)

    type(net).feature_maps = spy
    try:
        net(x)
    finally:
        type(net).feature_maps = plain
    return seen == [True]


class Image(Tensor):
    """A tensor of a type of its own."""


# ------------------------------------------------------------------------------------ when it opens


@every_backbone
def test_it_opens_in_inference_on_a_cpu_alone(name: str) -> None:
    net = build(name)
    assert not is_open_to(net)  # gradients
    with torch.no_grad():
        assert is_open_to(net)
        assert not is_open_to(net, IMAGE.as_subclass(Image))
        assert not is_open_to(net.double(), IMAGE.double())
        net.float()
        with torch.autocast('cpu', torch.bfloat16):
            assert not is_open_to(net)
        assert is_open_to(net)
    with torch.inference_mode():
        assert is_open_to(net)
    assert not door.allowed()


@every_backbone
@torch.no_grad()
def test_a_pass_that_fails_leaves_it_closed(name: str) -> None:
    net = build(name)
    with pytest.raises(ValueError, match='expected an input'):
        net(torch.randn(1, 4, 64, 64))
    net.feature_maps = lambda x: 1 / 0
    with pytest.raises(ZeroDivisionError):
        net(IMAGE)
    assert not door.allowed()


@torch.no_grad()
def test_threads_decide_for_themselves() -> None:
    net, seen = build('SHViT'), []
    thread = threading.Thread(target=lambda: seen.append(door.allowed()))
    with door.fast_paths(True):
        thread.start()
        thread.join()
    assert seen == [False]
    watched, found = build('SHViT'), {}
    watched.patch_embed.register_forward_hook(lambda *_: None)

    def run(key: str, net: Backbone) -> None:
        with torch.no_grad():
            found[key] = [is_open_to(net) for _ in range(5)]

    run('watched', watched)
    run('other', net)
    assert found == {'watched': [False] * 5, 'other': [True] * 5}


# ------------------------------------------------------------------------------- what is done to it


class Adapter(nn.Module):
    """As LoRA does: another layer in the place of one, around it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return 0.8 * self.layer(x)


class Quantized(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, 0.8 * self.weight, self.bias)


class Scaled(Tensor):
    """A weight that computes otherwise, as quantised ones do."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (F.linear, F.conv2d, torch.conv2d):
            x, weight, *others = args
            return func(x, 0.8 * weight.as_subclass(Tensor), *others, **(kwargs or {}))
        if func in (torch.mm, torch.addmm):
            raise NotImplementedError
        return super().__torch_function__(func, types, args, kwargs or {})


def in_place_of(net: nn.Module, kind: type[nn.Module], make: Callable[[Any], Any]) -> int:
    """Put something in the place of every layer of a kind."""
    found = [(m, n, c) for m in net.modules() for n, c in m._modules.items() if type(c) is kind]
    for module, name, child in found:
        module._modules[name] = make(child)
    return len(found)


def each(change: Callable[[Any], Any], *kinds: type[nn.Module]) -> Callable[[nn.Module], int]:
    def apply(net: nn.Module) -> int:
        found = [m for m in [*net.modules()][1:] if type(m) in kinds]
        for module in found:
            change(module)
        return len(found)

    return apply


def patch(layer: nn.Module) -> None:
    own = layer.forward
    layer.forward = lambda x: 0.8 * own(x)


def scale_weight(layer: nn.Module) -> None:
    weight = layer.weight.detach().as_subclass(Scaled)
    layer.weight = nn.Parameter(weight, requires_grad=False)


def scale_buffer(layer: nn.Module) -> None:
    weight = layer.weight.detach().as_subclass(Scaled)
    del layer.weight
    layer.register_buffer('weight', weight)


def scale_attribute(layer: nn.Module) -> None:
    weight = layer.weight.detach().as_subclass(Scaled)
    del layer.weight
    layer.weight = weight


LAYERS = (nn.Linear, nn.Conv2d)
CHANGES: dict[str, Callable[[nn.Module], int]] = {
    'adapters around linear layers': lambda net: in_place_of(net, nn.Linear, Adapter),
    'adapters around convolutions': lambda net: in_place_of(net, nn.Conv2d, Adapter),
    'an MLP of another kind': lambda net: in_place_of(net, Mlp, lambda m: nn.Tanh()),
    'another activation': lambda net: in_place_of(net, nn.GELU, lambda m: nn.ReLU()),
    'another norm': lambda net: in_place_of(net, nn.LayerNorm, lambda m: nn.Identity()),
    'another class': each(lambda m: setattr(m, '__class__', Quantized), nn.Linear),
    'hooks that change outputs': each(
        lambda m: m.register_forward_hook(lambda m, inputs, y: 0.8 * y), *LAYERS
    ),
    'hooks that change inputs': each(
        lambda m: m.register_forward_pre_hook(lambda m, inputs: (0.8 * inputs[0],)), *LAYERS
    ),
    'a forward of their own': each(patch, *LAYERS),
    'weights of another type': each(scale_weight, *LAYERS),
    'weights that are buffers': each(scale_buffer, *LAYERS),
    'weights that are attributes': each(scale_attribute, *LAYERS),
}
#: What leaves the door open, since the functions heed it.
HEEDED: dict[str, Callable[[nn.Module], int]] = {
    'no bias': each(lambda m: setattr(m, 'bias', None), *LAYERS),
    'an approximate GELU': each(lambda m: setattr(m, 'approximate', 'tanh'), nn.GELU),
    'norms in training': each(lambda m: m.train(), nn.BatchNorm2d),
}


@every_backbone
@pytest.mark.parametrize('change', [*CHANGES, *HEEDED])
@torch.no_grad()
def test_whatever_is_done_to_a_network_is_heard(name: str, change: str) -> None:
    net = build(name)
    before = net(IMAGE)
    changed = {**CHANGES, **HEEDED}[change](net)
    got = copy.deepcopy(net)(IMAGE) if change == 'norms in training' else net(IMAGE)
    assert_close(got, plainly(net))
    if changed:
        assert not all(map(torch.allclose, got, before))
        assert is_open_to(net) == (change in HEEDED)
    else:
        assert is_open_to(net)


@every_backbone
@torch.no_grad()
def test_it_opens_again_when_a_change_is_taken_back(name: str) -> None:
    net = build(name)
    handle = next(net.children()).register_forward_hook(lambda *_: None)
    assert not is_open_to(net)
    handle.remove()
    assert is_open_to(net)
    in_place_of(net, nn.Conv2d, Adapter)
    assert not is_open_to(net)
    in_place_of(
        net, Adapter, lambda m: copy.deepcopy(m.layer)
    )  # merged: new layers of the old kind
    assert is_open_to(net)


@every_backbone
@torch.no_grad()
def test_a_layer_that_is_compiled_is_heard(name: str) -> None:
    net = build(name)
    next(net.children()).compile()  # which does nothing before its first pass
    assert not net.is_as_built()


@every_backbone
@torch.no_grad()
def test_it_opens_again_when_pruning_is_undone(name: str) -> None:
    net = build(name)
    *_, layer = (m for m in net.modules() if isinstance(m, (nn.Linear, nn.Conv2d)))
    prune.l1_unstructured(layer, 'weight', 0.5)
    assert not is_open_to(net)
    prune.remove(layer, 'weight')
    assert is_open_to(net)
    assert_close(net(IMAGE), plainly(net))


@every_backbone
@pytest.mark.parametrize('change', ['another activation', 'an MLP of another kind', 'another norm'])
@torch.no_grad()
def test_a_network_that_was_altered_is_fused_as_it_is(name: str, change: str) -> None:
    net = build(name)
    CHANGES[change](net)
    for module in net.modules():
        if type(module).__name__ == 'Residual':
            module.m = nn.Identity()
    fused = fuse(net)
    assert_close(fused(IMAGE), plainly(fused))
    for one, other in zip(fused(IMAGE), plainly(net), strict=True):
        error = (one - other).double().norm() / other.double().norm()
        assert error < 1e-2  # without norms rounding grows


@every_backbone
@pytest.mark.parametrize('kind', [nn.Linear, nn.Conv2d, nn.LayerNorm, nn.BatchNorm2d, nn.GELU])
@torch.no_grad()
def test_a_class_that_is_patched_is_heard(name: str, kind: Any, monkeypatch: Any) -> None:
    net, own = build(name), kind.forward
    monkeypatch.setattr(kind, 'forward', lambda self, x: 0.8 * own(self, x))
    assert_close(net(IMAGE), plainly(net))
    late = build(name)  # built when the class was patched already
    assert_close(late(IMAGE), plainly(late))


@every_backbone
@pytest.mark.parametrize('late', [False, True])
@torch.no_grad()
def test_a_class_of_ours_that_is_patched_is_heard(name: str, late: bool, monkeypatch: Any) -> None:
    net = None if late else build(name)
    for cls in {type(m) for m in build(name).modules() if type(m) in (Mlp, DropPath)}:
        own = cls.forward
        patched = functools.wraps(own)(lambda self, x, own=own: 0.8 * own(self, x))
        monkeypatch.setattr(cls, 'forward', patched)
    net = build(name) if net is None else net
    assert_close(net(IMAGE), plainly(net))


PATCHES: dict[str, tuple[Any, str]] = {
    'a call': (nn.Conv2d, '__call__'),
    'how modules are called': (nn.Module, '_call_impl'),
    'how convolutions compute': (nn.Conv2d, '_conv_forward'),
    'a function': (F, 'linear'),
}


@every_backbone
@pytest.mark.parametrize('patch', PATCHES)
@torch.no_grad()
def test_a_patch_elsewhere_is_heard(name: str, patch: str, monkeypatch: Any) -> None:
    net, (place, attribute) = build(name), PATCHES[patch]
    own = getattr(place, attribute)

    def scaled(*args: Any, **kwargs: Any) -> Any:
        y = own(*args, **kwargs)
        return 0.8 * y if isinstance(y, Tensor) else y

    monkeypatch.setattr(place, attribute, scaled)
    if attribute in ('_call_impl', '_conv_forward', 'linear'):
        assert_close(net(IMAGE), plainly(net))
    assert not is_open_to(net)


class Scaling(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        y = func(*args, **(kwargs or {}))
        return 0.8 * y if func in (F.linear, F.conv2d, torch.conv2d) else y


class Keeping(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.kept: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        y = func(*args, **(kwargs or {}))
        if isinstance(y, Tensor) and func in (
            torch.ops.aten.addmm.default,
            torch.ops.aten.gelu.default,
        ):
            self.kept.append((y, y.clone()))
        return y


@every_backbone
@torch.no_grad()
def test_modes_of_torch_are_heard(name: str) -> None:
    net = build(name)
    with Scaling():
        assert_close(net(IMAGE), plainly(net))
    with Keeping() as mode:
        assert not is_open_to(net)
    assert all(torch.equal(one, other) for one, other in mode.kept)


@every_backbone
@torch.no_grad()
def test_shallow_copies_and_new_tables_are_looked_at_themselves(name: str) -> None:
    net = build(name)
    net(IMAGE)
    other = copy.copy(net)
    other._modules = {key: copy.deepcopy(m) for key, m in net._modules.items()}
    CHANGES['hooks that change outputs'](other)
    assert_close(other(IMAGE), plainly(other))
    assert is_open_to(net)
    layer = next(m for m in net.modules() if isinstance(m, nn.Conv2d))
    layer._forward_hooks = OrderedDict({0: lambda m, inputs, y: 0.8 * y})
    assert_close(net(IMAGE), plainly(net))


@every_backbone
@torch.no_grad()
def test_a_class_in_the_place_of_torchs_is_heard(name: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(nn, 'Linear', Quantized)
    net = build(name)
    assert_close(net(IMAGE), plainly(net))


@every_backbone
@torch.no_grad()
def test_a_call_of_all_modules_that_is_patched_is_heard(name: str, monkeypatch: Any) -> None:
    net, heard, own = build(name), set(), nn.Module.__call__

    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        heard.add(self)
        return own(self, *args, **kwargs)

    monkeypatch.setattr(nn.Module, '__call__', call)
    net(IMAGE)
    assert {m for m in net.modules() if type(m) in (nn.Linear, nn.GELU, Mlp)} <= heard


class LowRank(nn.Module):
    """LoRA with a bias of its own: what it adds can be merged into the layer."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        self.down = nn.Linear(layer.in_features, 2, bias=False)
        self.up = nn.Linear(2, layer.out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.up(self.down(x))

    def merged(self) -> nn.Linear:
        layer = nn.Linear(self.layer.in_features, self.layer.out_features)
        layer.weight = nn.Parameter(self.layer.weight + self.up.weight @ self.down.weight)
        own = 0 if self.layer.bias is None else self.layer.bias
        layer.bias = nn.Parameter(self.up.bias + own)
        return layer


@every_backbone
@torch.no_grad()
def test_adapters_compute_what_they_do_merged(name: str) -> None:
    net = build(name)
    in_place_of(net, nn.Linear, LowRank)
    want = net(IMAGE)
    in_place_of(net, LowRank, lambda m: m.merged())
    assert_close(net(IMAGE), want)


@every_backbone
@torch.no_grad()
def test_a_quantized_network_runs(name: str) -> None:
    net = torch.ao.quantization.quantize_dynamic(build(name), {nn.Linear}, dtype=torch.qint8)
    assert_close(net(IMAGE), plainly(net))


@every_backbone
@torch.no_grad()
def test_weights_may_be_there_only_while_their_module_runs(name: str) -> None:
    """As accelerate offloads them: before a module runs, its parameters are brought."""
    net = build(name)
    want = net(IMAGE)
    for module in net.modules():
        own = {key: p for key, p in module._parameters.items() if p is not None}
        buffers = {key: b for key, b in module._buffers.items() if b is not None}

        def bring(module: nn.Module, _: Any, own: Any = own, buffers: Any = buffers) -> None:
            module._parameters.update(own)
            module._buffers.update(buffers)

        def take_away(module: nn.Module, *_: Any, own: Any = own, buffers: Any = buffers) -> None:
            to_meta = lambda p: nn.Parameter(p.to('meta'))  # noqa: E731
            module._parameters.update({key: to_meta(p) for key, p in own.items()})
            module._buffers.update({key: b.to('meta') for key, b in buffers.items()})

        if own:
            take_away(module)
            module.register_forward_pre_hook(bring)
            module.register_forward_hook(take_away)
    assert_close(net(IMAGE), want)


@every_backbone
@torch.no_grad()
def test_a_subclass_with_layers_of_its_own_is_heard(name: str) -> None:
    cls = type(build(name))

    class Altered(cls):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            in_place_of(self, nn.GELU, lambda m: nn.ReLU())
            self.finish()

    options = {'window_size': (3, 3, 3, 3)} if name == 'GCViT' else {}
    net = Altered(SMALL[name], **options).eval()
    assert_close(net(IMAGE), plainly(net))


# ---------------------------------------------------------------------------------- what is watched


def one_of_each_role(net: nn.Module) -> list[nn.Module]:
    """The first and the last of those modules that are called alike, in parents of like types.

    Blocks of a stage repeat each other; its last one makes a map that is handed out.
    """
    first: dict[Any, nn.Module] = {}
    last: dict[Any, nn.Module] = {}
    for name, module in net.named_modules():
        path = name.split('.')
        parents = [type(net.get_submodule('.'.join(path[:i]))) for i in range(len(path))]
        role = (*parents[-2:], type(module), '' if path[-1].isdigit() else path[-1])
        first.setdefault(role, module)
        last[role] = module
    return list(dict.fromkeys([*first.values(), *last.values()]))


# One hook alone has to close the door; with gradients, the door is closed whoever watches.
WATCHED = [
    *((where, grad) for where in ('whole process', 'all modules') for grad in (False, True)),
    ('each alone', False),
]


@every_backbone
@pytest.mark.parametrize(('where', 'grad'), WATCHED)
@pytest.mark.parametrize('before', [False, True])
def test_what_any_hook_has_kept_is_not_overwritten(
    name: str, where: str, before: bool, grad: bool
) -> None:
    net, kept = build(name), []

    def keep(module: nn.Module, inputs: Any, output: Any = None) -> None:
        kept.extend((x, x.detach().clone()) for x in (*inputs, output) if isinstance(x, Tensor))

    everywhere = nn.modules.module
    if before:
        on_all, on_one = everywhere.register_module_forward_pre_hook, 'register_forward_pre_hook'
    else:
        on_all, on_one = everywhere.register_module_forward_hook, 'register_forward_hook'
    alone = [[module] for module in one_of_each_role(net)]
    hooked = {'whole process': [[]], 'all modules': [[*net.modules()]], 'each alone': alone}
    want, seen = plainly(net), 0
    for watched in hooked[where]:
        handles = [getattr(module, on_one)(keep) for module in watched] or [on_all(keep)]
        with torch.set_grad_enabled(grad):
            got = net(IMAGE)
        for handle in handles:
            handle.remove()
        assert_close(got, want)
        assert all(torch.equal(one, other) for one, other in kept), watched
        seen += len(kept)
        kept.clear()
    assert seen > 40


@every_backbone
def test_backward_hooks_on_all_modules_can_be_used(name: str) -> None:
    net, seen = build(name), []
    for module in net.modules():
        module.register_full_backward_hook(lambda module, *_: seen.append(module))
    sum(y.sum() for y in net(IMAGE)).backward()
    assert len(seen) > 20


@every_backbone
@torch.no_grad()
def test_hooks_on_the_network_itself_leave_it_open(name: str) -> None:
    net, kept = build(name), []
    net.register_forward_hook(lambda module, inputs, outputs: kept.append(outputs))
    assert is_open_to(net)
    net(IMAGE)
    before = [y.clone() for y in kept[-1]]
    net(IMAGE)
    assert all(map(torch.equal, kept[-2], before))


# --------------------------------------------------------------------------------- copies and files


@every_backbone
@torch.no_grad()
def test_copies_files_and_fused_networks_go_through_it_too(name: str) -> None:
    net = build(name)
    want = net(IMAGE)
    file = io.BytesIO()
    torch.save(net, file)
    loaded = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    for other in (copy.deepcopy(net), loaded, fuse(net)):
        assert is_open_to(other)
        assert_close(other(IMAGE), want)
        in_place_of(other, nn.Conv2d, Adapter)
        assert not is_open_to(other)
        assert_close(other(IMAGE), plainly(other))
    assert is_open_to(net)


@every_backbone
@torch.no_grad()
def test_a_pass_adds_nothing_to_a_saved_or_copied_network(name: str) -> None:
    sizes = []
    net = build(name)
    for _ in range(2):
        file = io.BytesIO()
        torch.save(net, file)
        sizes.append(len(file.getvalue()))
        net(IMAGE)
    assert sizes[0] == sizes[1]


# ---------------------------------------------------------------------------------- where it stands


WORDS = (
    'is_cpu',
    'is_compiling',
    'is_grad_enabled',
    'is_autocast',
    'is_tracing',
    '_hooks',
    'cache',
    'allowed()',
)


NETWORKS = [p for p in Path(backbones.__file__).parent.glob('*.py') if p.stem != 'base']


@pytest.mark.parametrize('path', NETWORKS, ids=lambda path: path.stem)
def test_no_condition_of_speed_stands_in_a_network(path: Path) -> None:
    source = path.read_text()
    assert [word for word in WORDS if word in source] == []


# ------------------------------------------------------------------------------------------- traces


@every_backbone
@pytest.mark.parametrize('grad', [False, True])
@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
def test_a_trace_holds_for_other_sizes(name: str, grad: bool) -> None:
    net = build(name)
    with torch.set_grad_enabled(grad):
        traced = torch.jit.trace(net, IMAGE, check_trace=False)
    assert 'addc' not in str(traced.inlined_graph)  # which converters do not know
    for shape in ((1, 3, 72, 88), (2, 3, 64, 104), (1, 3, 190, 70)):
        x = torch.randn(shape)
        assert_close(traced(x), plainly(net, x))


@pytest.mark.parametrize(
    'point', [dict(scale=0.6), dict(keep_rate=0.6), dict(scale=0.5, keep_rate=0.7)]
)
@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
def test_a_trace_of_an_operating_point_holds_for_other_sizes(point: dict[str, float]) -> None:
    net = build('SuperViT', operating_point=point)
    traced = torch.jit.trace(net, IMAGE, check_trace=False)
    for shape in ((1, 3, 72, 88), (1, 3, 128, 128), (2, 3, 64, 104), (1, 3, 190, 170)):
        x = torch.randn(shape)
        assert_close(traced(x), plainly(net, x))


def test_an_exported_graph_holds_operations_that_converters_know() -> None:
    """Of the network with a scale for each channel; traces of all of them are looked at above."""
    graph = torch.export.export(build('GCViT'), (IMAGE,)).graph
    targets = {str(node.target) for node in graph.nodes if node.op == 'call_function'}
    assert 'aten.gelu.default' in targets
    assert not [target for target in targets if 'addc' in target]


@every_backbone
def test_mmengine_counts_the_work_of_a_network_in_training(name: str) -> None:
    found = get_model_complexity_info(build(name).train(), input_shape=(3, 128, 128))
    assert found['flops'] > 0


@pytest.mark.parametrize('name', ['GCViT', 'SepViT'])
@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
@torch.no_grad()
def test_a_trace_that_masks_padding_refuses_other_sizes(name: str) -> None:
    net = build(name, mask_padding=True)
    traced = torch.jit.trace(net, IMAGE, check_trace=False)
    assert_close(traced(IMAGE), plainly(net))
    for shape in ((1, 3, 128, 128), (1, 3, 72, 180), (1, 3, 144, 88)):
        with pytest.raises(RuntimeError):
            traced(torch.randn(shape))


@torch.no_grad()
def test_padding_may_be_masked_later() -> None:
    net = build('GCViT')
    net(IMAGE)
    for module in net.modules():
        if hasattr(module, 'mask_padding'):
            module.mask_padding = True
    assert_close(net(IMAGE), plainly(net))


@torch.no_grad()
def test_a_pass_of_fake_tensors_leaves_nothing() -> None:
    net = build('SepViT')
    with FakeTensorMode(allow_non_fake_inputs=True):
        net(torch.empty(1, 3, 72, 88))
    assert_close(net(IMAGE), plainly(net))


def test_threads_share_cached_biases() -> None:
    net = build('GCViT')
    failed: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for i in range(12):
                with torch.no_grad():
                    net(torch.randn(1, 3, 64 + 8 * ((seed + i) % 6), 72))
        except BaseException as error:  # to be told by the test
            failed.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert failed == []


@every_backbone
@torch.no_grad()
def test_a_network_goes_with_its_last_user(name: str) -> None:
    net = build(name)
    net(IMAGE)
    gone = weakref.ref(net)
    gc.disable()
    try:
        del net
        assert gone() is None
    finally:
        gc.enable()
