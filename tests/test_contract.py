"""What every backbone promises: a backbone is covered, with all its variants, by being registered.

What depends on the network is tested on a small variant and on every published one at its own
widths; those above 60 million parameters are marked large. Images are small, and networks that
differ in their options alone share one set of weights.
"""

from __future__ import annotations

import collections
import copy
import dataclasses
import datetime
import functools
import inspect
import itertools
import math
import re
import socket
import statistics
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from tests.small import SMALL, stage_modules, stem_weight
from vitbackbones.backbones.base import Backbone
from vitbackbones.layers.blocks import DropPath

BACKBONES = list(Backbone.registered().values())
every_backbone = pytest.mark.parametrize('cls', BACKBONES, ids=lambda cls: cls.__name__)

# Above 60 million parameters.
LARGE = {'GCViT-base', 'GCViT-large', 'GCViT-small2', 'SepViT-base'}
# The default windows, of 24, would hold little but padding here.
OPTIONS = {'GCViT': {'window_size': (4, 3, 5, 2)}}


@dataclasses.dataclass(frozen=True)
class Case:
    """A published variant of a backbone, or without ``arch`` the small one."""

    name: str
    arch: str | None = None

    def __str__(self) -> str:
        return f'{self.name}-{self.arch}' if self.arch else self.name

    @property
    def cls(self) -> type[Backbone]:
        return Backbone.registered()[self.name]

    @property
    def stages(self) -> tuple[int, ...]:
        return tuple(range(len(self.cls.strides)))

    @property
    def out_indices(self) -> list[tuple[int, ...]]:
        """Choices of outputs: all there are of the small variant, some of the others."""
        if self.arch:
            return [*((i,) for i in self.stages), self.stages[1:], self.stages]
        lengths = range(1, len(self.stages) + 1)
        return [c for n in lengths for c in itertools.combinations(self.stages, n)]

    def build(self, **options: Any) -> Backbone:
        options = {**OPTIONS.get(self.name, {}), **options}
        return self.cls(self.arch or SMALL[self.name], **options)

    def build_on_meta(self, **options: Any) -> Backbone:
        """The network without memory: for what can be seen without running it."""
        with torch.device('meta'):
            return self.build(**options)

    def twin(self, **options: Any) -> Backbone:
        """The network with these options, and with the weights that all twins have."""
        net = self.build_on_meta(**options).to_empty(device='cpu')
        weights = tensors(original(self))
        with torch.no_grad():
            for name, value in tensors(net).items():
                value.copy_(weights[name])
        return net

    def image(self, batch: int = 1, extra: int = 9) -> Tensor:
        """An image of odd sides, just larger than the coarsest stride needs."""
        side = max(self.cls.strides)
        return torch.randn(batch, 3, side + extra, 2 * side + 1)


def tensors(net: nn.Module) -> dict[str, Tensor]:
    return {**dict(net.named_parameters()), **dict(net.named_buffers())}


@functools.lru_cache(maxsize=1)
def original(case: Case) -> Backbone:
    """A network of ``case`` in evaluation, which nobody changes.

    Scales that start at zero, or nearly, would hide the branches behind them: they are one here.
    """
    torch.manual_seed(0)
    net = case.build()
    with torch.no_grad():
        for name, value in net.named_parameters():
            if value.ndim == 1 and name.endswith(('weight', 'gamma1', 'gamma2')):
                value.fill_(1)
    return net.eval()


def cases() -> list[Any]:
    found = [Case(cls.__name__, arch) for cls in BACKBONES for arch in (None, *cls.archs)]
    large = {str(case): [pytest.mark.large] for case in found if str(case) in LARGE}
    return [pytest.param(case, id=str(case), marks=large.get(str(case), [])) for case in found]


@pytest.fixture(scope='module', params=cases())
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture
def net(case: Case) -> Backbone:
    return original(case)


@pytest.fixture(scope='module')
def image(case: Case) -> Tensor:
    torch.manual_seed(0)
    return case.image(batch=2)


@pytest.fixture(scope='module')
def maps(case: Case, image: Tensor) -> tuple[Tensor, ...]:
    """What the network makes of ``image``."""
    with torch.no_grad():
        return original(case)(image)


def test_every_backbone_is_covered() -> None:
    assert {cls.__name__ for cls in BACKBONES} == set(SMALL)
    assert {param.id for param in cases()} > LARGE


# ------------------------------------------------------------------------------ shapes


@torch.no_grad()
def test_outputs_have_the_declared_channels_and_strides(case: Case, net: Backbone) -> None:
    assert net.out_strides == case.cls.strides
    largest = max(net.out_strides)
    for height, width in ((largest, largest), (largest + 1, 2 * largest - 1), (largest * 2, 75)):
        maps = net(torch.randn(1, 3, height, max(width, largest)))
        assert isinstance(maps, tuple)
        for x, channels, stride in zip(maps, net.out_channels, net.out_strides, strict=True):
            rows, columns = math.ceil(height / stride), math.ceil(max(width, largest) / stride)
            assert x.shape == (1, channels, rows, columns)
            assert torch.isfinite(x).all()


@torch.no_grad()
def test_outputs_are_contiguous(net: Backbone) -> None:
    """mmcv's RoIAlign takes any memory for (B, C, H, W) in this order, and then reads nonsense."""
    height, width = 2 * max(net.out_strides), 75 + max(net.out_strides)
    assert all(x.is_contiguous() for x in net(torch.randn(2, 3, height, width)))


@torch.no_grad()
def test_an_output_does_not_depend_on_which_others_are_asked_for(
    case: Case, net: Backbone, image: Tensor, maps: tuple[Tensor, ...]
) -> None:
    for out_indices in case.out_indices:
        part = case.twin(out_indices=out_indices).eval()
        assert part.out_channels == tuple(net.out_channels[i] for i in out_indices)
        assert part.out_strides == tuple(net.out_strides[i] for i in out_indices)
        for i, x in zip(out_indices, part(image), strict=True):
            assert torch.equal(x, maps[i])


@torch.no_grad()
def test_a_image_gives_the_same_maps_alone_and_in_a_batch(
    net: Backbone, image: Tensor, maps: tuple[Tensor, ...]
) -> None:
    for one, many in zip(net(image[1:]), maps, strict=True):
        torch.testing.assert_close(one[0], many[1], rtol=1e-4, atol=1e-5)


def test_more_input_channels_work(case: Case) -> None:
    net = case.build_on_meta(in_channels=5).eval()
    assert net.get_parameter(stem_weight(net)).shape[1] == 5
    side = max(net.strides)
    assert len(net(torch.empty(1, 5, side, side, device='meta'))) == len(net.strides)


# ----------------------------------------------------------------------------- options


@every_backbone
def test_options_and_defaults_are_the_common_ones(cls: type[Backbone]) -> None:
    parameters = inspect.signature(cls).parameters
    wanted = {
        'in_channels': 3,
        'frozen_stages': -1,
        'norm_eval': False,
        'with_cp': False,
        'drop_path_rate': None,
        'init_cfg': None,
    }
    assert {name: parameters[name].default for name in wanted} == wanted
    assert tuple(parameters['out_indices'].default) == tuple(range(len(cls.strides)))
    for name, parameter in parameters.items():
        assert parameter.kind is not inspect.Parameter.VAR_KEYWORD
        assert name == 'arch' or parameter.kind is inspect.Parameter.KEYWORD_ONLY


@every_backbone
def test_a_subclass_may_change_defaults(cls: type[Backbone]) -> None:
    class Mine(cls):  # type: ignore[misc, valid-type]
        def __init__(self, arch: Any, *, norm_eval: bool = True, **options: Any) -> None:
            super().__init__(arch, norm_eval=norm_eval, **options)

    class Yours(Mine):
        def __init__(self, arch: Any, *, out_indices: Any = (1,), **options: Any) -> None:
            super().__init__(arch, out_indices=out_indices, **options)

    class Theirs(Yours):
        pass

    def defaults(of: type[Backbone]) -> dict[str, Any]:
        return {name: p.default for name, p in inspect.signature(of).parameters.items()}

    changed = dict(arch=inspect.Parameter.empty, norm_eval=True)
    assert defaults(Mine) == {**defaults(cls), **changed}
    assert defaults(Theirs) == {**defaults(cls), **changed, 'out_indices': (1,)}
    net = Theirs(SMALL[cls.__name__], frozen_stages=0)
    assert (net.norm_eval, net.out_indices, net.frozen_stages) == (True, (1,), 0)


@every_backbone
def test_an_unknown_option_is_refused_by_name(cls: type[Backbone]) -> None:
    choices = ', '.join(inspect.signature(cls).parameters)
    message = f"{cls.__name__} has no option 'drop_path', choose from {choices}"
    with pytest.raises(TypeError, match=re.escape(message)):
        cls(drop_path=0.1)


@every_backbone
def test_config_lists_are_accepted_and_left_alone(cls: type[Backbone]) -> None:
    arch = {k: list(v) if isinstance(v, tuple) else v for k, v in SMALL[cls.__name__].items()}
    cfg = ConfigDict(type=cls.__name__, arch=arch, out_indices=[*range(len(cls.strides))])
    before = copy.deepcopy(cfg)
    net = ROOT_MODELS.build(cfg)
    assert isinstance(net, cls)
    assert cfg == before


@every_backbone
@pytest.mark.parametrize('prefix', ['', 'vitbackbones.'])
def test_it_is_found_from_the_scope_of_another_package(cls: type[Backbone], prefix: str) -> None:
    with ROOT_MODELS.switch_scope_and_registry('mmdet') as registry:
        assert registry.get(prefix + cls.__name__) is cls


def test_drop_path_rises_linearly_to_the_asked_or_the_published_rate(
    case: Case, net: Backbone
) -> None:
    for asked, want in ((0.4, 0.4), (None, net.arch.drop_path_rate)):
        other = case.build_on_meta(drop_path_rate=asked)
        rates = [m.rate for m in other.modules() if isinstance(m, DropPath)]
        assert rates == sorted(rates)
        assert rates[0] == 0
        assert rates[-1] == pytest.approx(want)
        steps = [upper - lower for lower, upper in itertools.pairwise(dict.fromkeys(rates))]
        assert steps == pytest.approx(steps[:1] * len(steps))


@every_backbone
def test_wrong_archs_name_the_value_and_the_choices(cls: type[Backbone]) -> None:
    name = cls.__name__
    with pytest.raises(ValueError, match=f"{name}: unknown arch 'huge', choose from '"):
        cls('huge')
    with pytest.raises(ValueError, match=r"unknown: \['colour'\]"):
        cls({**SMALL[name], 'colour': 'red'})
    with pytest.raises(ValueError, match='missing: '):
        cls({})


def test_wrong_options_name_the_value_and_the_choices(case: Case) -> None:
    build, last = case.build_on_meta, len(case.stages)
    with pytest.raises(ValueError, match=rf'out_indices=\({last},\) must name stages out of'):
        build(out_indices=(last,))
    with pytest.raises(ValueError, match=r'out_indices=\(\) must name stages'):
        build(out_indices=())
    with pytest.raises(ValueError, match='strictly increasing'):
        build(out_indices=(1, 0))
    for value in (-2, last + 1):
        with pytest.raises(ValueError, match=f'frozen_stages={value} must be -1'):
            build(frozen_stages=value)
    with pytest.raises(ValueError, match='in_channels=0'):
        build(in_channels=0)
    with pytest.raises(ValueError, match=r'drop_path_rate=1.5 must be in \[0, 1\)'):
        build(drop_path_rate=1.5)
    with pytest.raises(TypeError, match='drop_path'):
        build(drop_path=0.1)
    with pytest.raises(ValueError, match='init_cfg must be None or'):
        build(init_cfg={'type': 'Kaiming'})


@every_backbone
def test_archs_of_another_number_of_stages_are_refused(cls: type[Backbone]) -> None:
    name, count = cls.__name__, len(cls.strides)
    fields = {key: value for key, value in SMALL[name].items() if isinstance(value, tuple)}
    per_stage = {f.name for f in dataclasses.fields(cls.arch_type) if 'tuple' in str(f.type)}
    assert set(fields) <= per_stage
    assert per_stage or cls.__name__ == 'SuperViT'  # one number of blocks for all its stages
    for number in (0, count - 1, count + 1):
        other = {key: (value * 2)[:number] for key, value in fields.items()}
        for wrong in (other, *({key: value} for key, value in other.items())) if fields else ():
            with pytest.raises(ValueError, match=rf'{name}: .* one entry per stage, {count}$'):
                cls({**SMALL[name], **wrong})
    for key in fields:
        with pytest.raises(ValueError, match=rf'{key}=8 must .* one entry per stage'):
            cls({**SMALL[name], key: 8})
    if 'depths' in fields:
        depths = (0, *fields['depths'][1:])
        with pytest.raises(ValueError, match=rf'{name}: depths=.* must be at least 1'):
            cls({**SMALL[name], 'depths': depths})


@every_backbone
@pytest.mark.parametrize(
    ('option', 'value'),
    [
        ('out_indices', 2),
        ('out_indices', (1.0,)),
        ('frozen_stages', 1.0),
        ('frozen_stages', '1'),
        ('in_channels', 3.0),
        ('in_channels', '3'),
        ('drop_path_rate', '0.1'),
    ],
)
def test_options_of_another_type_are_refused_by_name(
    cls: type[Backbone], option: str, value: Any
) -> None:
    with pytest.raises(ValueError, match=re.escape(f'{cls.__name__}: {option}={value!r} must')):
        cls(SMALL[cls.__name__], **{option: value})


@every_backbone
@pytest.mark.parametrize('arch', [None, 3, ('tiny',)], ids=str)
def test_an_arch_is_a_name_or_a_dict(cls: type[Backbone], arch: Any) -> None:
    message = re.escape(f'{cls.__name__}: unknown arch {arch!r}, choose from ')
    with pytest.raises(ValueError, match=message):
        cls(arch)


@every_backbone
@pytest.mark.parametrize('number', [0, -1, 1.5, math.nan, '1', None])
def test_arch_fields_are_positive_whole_numbers(cls: type[Backbone], number: Any) -> None:
    name = cls.__name__
    for field in dataclasses.fields(cls.arch_type):
        value = SMALL[name].get(field.name, field.default)
        if 'int' not in field.type or (number is None and 'None' in field.type):
            continue
        wrong = (*value[:-1], number) if isinstance(value, tuple) else number
        message = re.escape(f'{name}: {field.name}={wrong!r} must be at least 1, and whole')
        with pytest.raises(ValueError, match=message):
            cls({**SMALL[name], field.name: wrong})


@every_backbone
@pytest.mark.parametrize('number', [math.nan, math.inf, '1'])
def test_arch_fields_are_finite_numbers(cls: type[Backbone], number: Any) -> None:
    name = cls.__name__
    for field in dataclasses.fields(cls.arch_type):
        if 'float' in field.type:
            message = re.escape(f'{name}: {field.name}={number!r} must be finite')
            with pytest.raises(ValueError, match=message):
                cls({**SMALL[name], field.name: number})


def test_wrong_inputs_are_refused_with_the_shape_received(net: Backbone) -> None:
    side = max(net.strides)
    for shape in ((3, side, side), (1, 4, side, side), (1, 3, side - 1, side), (1, 3, side, 1)):
        with pytest.raises(ValueError, match=r'got \(' + ', '.join(map(str, shape))):
            net(torch.randn(shape))


# ---------------------------------------------------------------------------- training


def test_every_parameter_gets_a_gradient(case: Case) -> None:
    for out_indices in case.out_indices:
        net = case.twin(out_indices=out_indices, drop_path_rate=0.0)
        sum(x.sum() for x in net(case.image(batch=2))).backward()
        assert [n for n, p in net.named_parameters() if p.grad is None] == []


def test_frozen_stages_freeze_from_the_constructor_on(case: Case) -> None:
    trainable = []
    for frozen in range(-1, len(case.stages) + 1):
        net = case.build_on_meta(frozen_stages=frozen)
        trainable.append(sum(p.requires_grad for p in net.parameters()))
        for model in (net, net.train(), net.eval().train()):
            assert model is net
            for module in itertools.chain(*stage_modules(net)[: frozen + 1]):
                assert not any(p.requires_grad for p in module.parameters())
                assert not any(m.training for m in module.modules())
    assert trainable[0] == len(list(net.parameters()))
    assert all(more > fewer for more, fewer in itertools.pairwise(trainable))


def test_norm_eval_keeps_the_statistics_of_batch_norms(case: Case) -> None:
    for norm_eval in (True, False):
        net = case.twin(norm_eval=norm_eval)  # in training mode, without a call of train()
        assert net.training
        norms = [m for m in net.modules() if isinstance(m, _BatchNorm)]
        before = [m.running_mean.clone() for m in norms]
        net(case.image(batch=2) + 1)
        for norm, mean in zip(norms, before, strict=True):
            assert norm.training is not norm_eval
            assert torch.equal(norm.running_mean, mean) is norm_eval
        net.eval().train()
        assert all(norm.training is not norm_eval for norm in norms)


def count_calls_of_blocks(net: Backbone) -> collections.Counter[nn.Module]:
    """How often each module that is handed to ``run`` is called, from now on."""
    calls: collections.Counter[nn.Module] = collections.Counter()
    run = net.run

    def watched(block: nn.Module, *args: object) -> object:
        assert block not in calls
        block.register_forward_pre_hook(lambda module, _: calls.update([module]))
        return run(block, *args)

    net.run = watched
    return calls


def test_with_cp_changes_neither_outputs_gradients_nor_statistics(
    case: Case, image: Tensor
) -> None:
    results = []
    for with_cp in (False, True):
        net = case.twin(with_cp=with_cp, drop_path_rate=0.3).train()
        calls = count_calls_of_blocks(net)
        x = image.clone().requires_grad_()
        torch.manual_seed(2)
        maps = net(x)
        sum(m.square().mean() for m in maps).backward()
        assert set(calls.values()) == {2 if with_cp else 1}
        gradients = {n: p.grad for n, p in net.named_parameters()}
        results.append((maps, {**gradients, 'input': x.grad}, dict(net.named_buffers())))
    (maps, gradients, buffers), (cp_maps, cp_gradients, cp_buffers) = results
    for one, other in zip(maps, cp_maps, strict=True):
        assert torch.equal(one, other)
    for name, value in gradients.items():
        assert torch.isfinite(value).all()
        torch.testing.assert_close(cp_gradients[name], value)
    for name, value in buffers.items():
        assert torch.equal(cp_buffers[name], value), name


@every_backbone
def test_padding_of_a_batch_leaves_gradients_of_new_weights_in_bounds(cls: type[Backbone]) -> None:
    ratios = []
    for seed in range(5):
        torch.manual_seed(seed)
        net, x = Case(cls.__name__).build(), torch.randn(1, 3, 128, 128)
        padded = F.pad(x[..., :64], (0, 64))
        norms = []
        for image in (padded, x):
            net.zero_grad()
            sum(y.square().mean() for y in net(image)).backward()
            grads = [p.grad.norm() for p in net.parameters() if p.grad is not None]
            norms.append(torch.stack(grads).norm())
        ratios.append(float(norms[0] / norms[1]))
    assert statistics.median(ratios) <= 10


def assert_bfloat16_is_close(
    net: Backbone, image: Tensor, maps: tuple[Tensor, ...] | None = None
) -> None:
    with torch.no_grad():
        want = net(image) if maps is None else maps
        with torch.autocast('cpu', dtype=torch.bfloat16):
            got = net(image)
    for one, other in zip(got, want, strict=True):
        assert torch.isfinite(one).all()
        assert (one.float() - other).norm() / other.norm() < 3e-2


def test_bfloat16_autocast_stays_close_to_float32(
    net: Backbone, image: Tensor, maps: tuple[Tensor, ...]
) -> None:
    assert_bfloat16_is_close(net, image, maps)


WINDOWED = [
    param
    for param in cases()
    if 'mask_padding' in inspect.signature(param.values[0].cls).parameters
]


def test_the_networks_with_windows_are_covered() -> None:
    assert {param.values[0].name for param in WINDOWED} == {'GCViT', 'SepViT'}


@pytest.mark.parametrize('case', WINDOWED, indirect=True, scope='module')
def test_bfloat16_autocast_stays_close_where_padding_is_masked(
    case: Case, image: Tensor, maps: tuple[Tensor, ...]
) -> None:
    net = case.twin(mask_padding=True).eval()
    assert_bfloat16_is_close(net, image)
    with torch.no_grad():
        assert not torch.allclose(net(image)[0], maps[0], atol=1e-3)  # there is padding


@torch.no_grad()
def test_evaluation_is_deterministic_and_leaves_no_trace(
    case: Case, image: Tensor, maps: tuple[Tensor, ...]
) -> None:
    net = case.twin().eval()
    for one, other in zip(net(image), maps, strict=True):
        assert torch.equal(one, other)
    before = tensors(original(case))
    assert all(torch.equal(value, before[name]) for name, value in tensors(net).items())


@torch.no_grad()
def test_a_copy_is_independent(net: Backbone, image: Tensor, maps: tuple[Tensor, ...]) -> None:
    twin = copy.deepcopy(net)
    for p in twin.parameters():
        p.zero_()
    for one, other in zip(net(image), maps, strict=True):
        assert torch.equal(one, other)


def test_layers_are_numbered_from_the_stem_to_the_last_output(case: Case) -> None:
    for out_indices in (case.stages, (1,)):
        net = case.build_on_meta(out_indices=out_indices)
        depths = {n: net.get_layer_depth(f'b.{n}', prefix='b.') for n, _ in net.named_parameters()}
        layers, counts = zip(*depths.values(), strict=True)
        (count,) = set(counts)
        assert min(layers) == 0
        assert set(layers) >= set(range(count - 1))
        assert max(layers) < count
        assert depths[stem_weight(net)] == (0, count)
        assert net.get_layer_depth('head.weight', prefix='b.') == (count - 1, count)
        by_stage = [
            [depths[n][0] for n in depths if any(n.startswith(m) for m in names)]
            for names in stage_names(net)
        ]
        # Output norms, next to the trunk, are of the last layer.
        firsts = [min(part) for part in by_stage if part]
        assert all(lower < upper for lower, upper in itertools.pairwise(firsts))


def test_layers_hold_every_parameter_once(net: Backbone) -> None:
    parts = [part for layer in net.layers() for _, part in layer]
    listed = [
        id(p)
        for part in parts
        for p in ([part] if isinstance(part, nn.Parameter) else part.parameters())
    ]
    assert sorted(listed) == sorted(id(p) for p in net.parameters())


def test_a_parameter_that_is_not_there_has_no_layer(net: Backbone) -> None:
    with pytest.raises(ValueError, match=r"has no parameter 'blocks.99.weight'"):
        net.get_layer_depth('b.blocks.99.weight', 'b.')


def stage_names(net: Backbone) -> list[list[str]]:
    """Prefixes of the parameters in the stem and in each stage."""
    names = {module: name for name, module in net.named_modules()}
    return [[f'{names[m]}.' for m in part] for part in stage_modules(net)]


def test_parameters_without_decay_exist(net: Backbone) -> None:
    assert net.no_weight_decay() <= {name for name, _ in net.named_parameters()}


# --------------------------------------------------------------------- several processes


class WithHead(nn.Module):
    """A backbone with a small trainable layer behind it, so that freezing all of it is allowed."""

    def __init__(self, net: Backbone) -> None:
        super().__init__()
        self.net = net
        self.heads = nn.ModuleList(nn.Conv2d(c, 2, 1) for c in net.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return sum(head(m).mean() for head, m in zip(self.heads, self.net(x), strict=True))


def train_one_step(case: Case, rank: int, **options: Any) -> None:
    model = DistributedDataParallel(
        WithHead(case.twin(**options).train()),
        find_unused_parameters=False,
        gradient_as_bucket_view=True,
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    torch.manual_seed(rank)
    model(case.image(batch=2, extra=0)).backward()
    optimizer.step()
    model(case.image(batch=2, extra=0))  # where an unused parameter is noticed
    sums = torch.stack([p.detach().double().sum() for p in model.parameters()])
    first = sums.clone()
    torch.distributed.broadcast(first, src=0)
    assert torch.isfinite(sums).all()
    assert torch.equal(first, sums), f'the processes have drifted apart with {options}'


def _work(rank: int, port: int, orders: Connection) -> None:
    """Train each case that comes in, and answer with what went wrong."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        'gloo',
        init_method=f'tcp://127.0.0.1:{port}',
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=300),
    )
    while True:
        case = orders.recv()
        try:
            for frozen in range(-1, len(case.stages) + 1):
                train_one_step(case, rank, frozen_stages=frozen)
            for out_indices in [*((i,) for i in case.stages), case.stages[1:]]:
                train_one_step(case, rank, out_indices=out_indices)
        except Exception:
            orders.send(traceback.format_exc())
        else:
            orders.send('')


class Pair:
    """Two processes of one group, started when they are needed and again after a failure."""

    def __init__(self) -> None:
        self.workers: list[tuple[Any, Connection]] = []

    def train(self, case: Case) -> None:
        if not self.workers:
            self.start()
        try:
            for _, orders in self.workers:
                orders.send(case)
            for rank, (_, orders) in enumerate(self.workers):
                assert orders.poll(900), f'no answer from process {rank}'
                answer = orders.recv()
                assert not answer, answer
        except BaseException:
            self.stop()
            raise

    def start(self) -> None:
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            port = free.getsockname()[1]
        context = torch.multiprocessing.get_context('spawn')
        for rank in range(2):
            orders, theirs = context.Pipe()
            process = context.Process(target=_work, args=(rank, port, theirs), daemon=True)
            process.start()
            theirs.close()
            self.workers.append((process, orders))

    def stop(self) -> None:
        for process, _ in self.workers:
            process.kill()
            process.join()
        self.workers = []


@pytest.fixture(scope='module')
def pair() -> Iterator[Pair]:
    processes = Pair()
    yield processes
    processes.stop()


def test_two_processes_train_without_searching_for_unused_parameters(
    case: Case, pair: Pair
) -> None:
    pair.train(case)
