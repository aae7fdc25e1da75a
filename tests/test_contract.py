"""What every backbone promises, over the registry: a backbone is covered by being registered."""

from __future__ import annotations

import collections
import copy
import dataclasses
import inspect
import itertools
import math
import socket

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS as ROOT_MODELS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tests.small import SMALL
from vitbackbones.backbones.base import Backbone
from vitbackbones.layers import DropPath
from vitbackbones.registry import MODELS

BACKBONES = sorted(
    (cls for cls in MODELS.module_dict.values() if issubclass(cls, Backbone)),
    key=lambda cls: cls.__name__,
)
every_backbone = pytest.mark.parametrize('cls', BACKBONES, ids=lambda cls: cls.__name__)


def small(cls: type[Backbone], **options: object) -> Backbone:
    return cls(SMALL[cls.__name__], **options)


def stages(cls: type[Backbone]) -> range:
    return range(len(cls.strides))


def image(cls: type[Backbone], batch: int = 1, extra: int = 9) -> torch.Tensor:
    """A picture of odd sides, just larger than the coarsest stride needs."""
    side = max(cls.strides)
    return torch.randn(batch, 3, side + extra, 2 * side + 1)


def wake(net: Backbone) -> Backbone:
    """Zero-initialised scales would hide the branches behind them: set them to one."""
    with torch.no_grad():
        for name, value in net.named_parameters():
            if value.ndim == 1 and name.endswith('weight') and not value.any():
                value.fill_(1)
    return net


def test_every_backbone_is_covered() -> None:
    assert {cls.__name__ for cls in BACKBONES} == set(SMALL)


# ------------------------------------------------------------------------------ shapes


@every_backbone
def test_outputs_have_the_declared_channels_and_strides(cls: type[Backbone]) -> None:
    largest = max(cls.strides)
    for height, width in ((largest, largest), (largest + 1, 2 * largest - 1), (largest * 3, 75)):
        for count in range(1, len(cls.strides) + 1):
            out_indices = tuple(stages(cls))[-count:]
            net = small(cls, out_indices=out_indices).eval()
            maps = net(torch.randn(2, 3, height, max(width, largest)))
            assert isinstance(maps, tuple)
            assert net.out_strides == tuple(cls.strides[i] for i in out_indices)
            for x, channels, stride in zip(maps, net.out_channels, net.out_strides, strict=True):
                rows, columns = math.ceil(height / stride), math.ceil(max(width, largest) / stride)
                assert x.shape == (2, channels, rows, columns)
                assert torch.isfinite(x).all()


@every_backbone
def test_an_output_does_not_depend_on_which_others_are_asked_for(cls: type[Backbone]) -> None:
    torch.manual_seed(0)
    full = wake(small(cls)).eval()
    x = image(cls)
    want = full(x)
    for i in stages(cls):
        net = small(cls, out_indices=(i,)).eval()
        missing, _ = net.load_state_dict(full.state_dict(), strict=False)
        assert not missing
        assert torch.equal(net(x)[0], want[i])


@every_backbone
def test_a_picture_gives_the_same_maps_alone_and_in_a_batch(cls: type[Backbone]) -> None:
    net = wake(small(cls)).eval()
    x = image(cls, batch=3)
    together = net(x)
    alone = net(x[1:2])
    for one, many in zip(alone, together, strict=True):
        torch.testing.assert_close(one[0], many[1], rtol=1e-4, atol=1e-5)


@every_backbone
def test_more_input_channels_work(cls: type[Backbone]) -> None:
    net = small(cls, in_channels=5).eval()
    side = max(cls.strides)
    assert len(net(torch.randn(1, 5, side, side))) == len(cls.strides)


@every_backbone
def test_published_variants_build_and_declare_their_channels(cls: type[Backbone]) -> None:
    with torch.device('meta'):
        for name in cls.archs:
            net = cls(name)
            assert len(net.out_channels) == len(net.out_strides) == len(cls.strides)


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
    assert tuple(parameters['out_indices'].default) == tuple(stages(cls))
    for name, parameter in parameters.items():
        assert parameter.kind is not inspect.Parameter.VAR_KEYWORD
        assert name == 'arch' or parameter.kind is inspect.Parameter.KEYWORD_ONLY


@every_backbone
def test_config_lists_are_accepted_and_left_alone(cls: type[Backbone]) -> None:
    arch = {k: list(v) if isinstance(v, tuple) else v for k, v in SMALL[cls.__name__].items()}
    cfg = ConfigDict(type=cls.__name__, arch=arch, out_indices=list(stages(cls)))
    before = copy.deepcopy(cfg)
    net = ROOT_MODELS.build(cfg)
    assert isinstance(net, cls)
    assert cfg == before


@every_backbone
@pytest.mark.parametrize('prefix', ['', 'vitbackbones.'])
def test_it_is_found_from_the_scope_of_another_package(cls: type[Backbone], prefix: str) -> None:
    with ROOT_MODELS.switch_scope_and_registry('mmdet') as registry:
        assert registry.get(prefix + cls.__name__) is cls


@every_backbone
def test_drop_path_rises_linearly_to_the_asked_rate(cls: type[Backbone]) -> None:
    net = small(cls, drop_path_rate=0.4)
    rates = [m.rate for m in net.modules() if isinstance(m, DropPath)]
    assert rates == sorted(rates)
    assert rates[0] == 0
    assert rates[-1] == pytest.approx(0.4)
    for arch in list(cls.archs)[:2]:
        with torch.device('meta'):
            net = cls(arch)
        rates = [m.rate for m in net.modules() if isinstance(m, DropPath)]
        assert max(rates) == pytest.approx(cls.archs[arch].drop_path_rate)


@every_backbone
def test_wrong_options_name_the_value_and_the_choices(cls: type[Backbone]) -> None:
    name, last = cls.__name__, len(cls.strides)
    with pytest.raises(ValueError, match=f"{name}: unknown arch 'huge', choose from '"):
        cls('huge')
    with pytest.raises(ValueError, match=r"unknown: \['colour'\]"):
        cls({**SMALL[name], 'colour': 'red'})
    with pytest.raises(ValueError, match='missing: '):
        cls({})
    with pytest.raises(ValueError, match=rf'out_indices=\({last},\) must name stages out of'):
        small(cls, out_indices=(last,))
    with pytest.raises(ValueError, match=r'out_indices=\(\) must name stages'):
        small(cls, out_indices=())
    with pytest.raises(ValueError, match='strictly increasing'):
        small(cls, out_indices=(1, 0))
    for value in (-2, last + 1):
        with pytest.raises(ValueError, match=f'frozen_stages={value} must be -1'):
            small(cls, frozen_stages=value)
    with pytest.raises(ValueError, match='in_channels=0'):
        small(cls, in_channels=0)
    with pytest.raises(ValueError, match=r'drop_path_rate=1.5 must be in \[0, 1\)'):
        small(cls, drop_path_rate=1.5)
    with pytest.raises(TypeError, match='drop_path'):
        small(cls, drop_path=0.1)
    with pytest.raises(ValueError, match='init_cfg must be None or'):
        small(cls, init_cfg={'type': 'Kaiming'})


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
def test_wrong_inputs_are_refused_with_the_shape_received(cls: type[Backbone]) -> None:
    net, side = small(cls), max(cls.strides)
    for shape in ((3, side, side), (1, 4, side, side), (1, 3, side - 1, side), (1, 3, side, 1)):
        with pytest.raises(ValueError, match=r'got \(' + ', '.join(map(str, shape))):
            net(torch.randn(shape))


# ---------------------------------------------------------------------------- training


@every_backbone
def test_every_parameter_gets_a_gradient(cls: type[Backbone]) -> None:
    choices = [c for n in (1, 2, len(cls.strides)) for c in itertools.combinations(stages(cls), n)]
    for out_indices in choices:
        net = small(cls, out_indices=out_indices, drop_path_rate=0.0)
        sum(x.sum() for x in net(image(cls, batch=2))).backward()
        assert [n for n, p in net.named_parameters() if p.grad is None] == []


@every_backbone
def test_frozen_stages_freeze_from_the_constructor_on(cls: type[Backbone]) -> None:
    trainable = []
    for frozen in range(-1, len(cls.strides) + 1):
        net = small(cls, frozen_stages=frozen)
        trainable.append(sum(p.requires_grad for p in net.parameters()))
        for model in (net, net.train(), net.eval().train()):
            assert model is net
            for module in itertools.chain(*net.stage_modules()[: frozen + 1]):
                assert not any(p.requires_grad for p in module.parameters())
                assert not any(m.training for m in module.modules())
    assert trainable[0] == len(list(small(cls).parameters()))
    assert all(more > fewer for more, fewer in itertools.pairwise(trainable))


@every_backbone
def test_norm_eval_keeps_the_statistics_of_batch_norms(cls: type[Backbone]) -> None:
    for norm_eval in (True, False):
        net = small(cls, norm_eval=norm_eval)  # in training mode, without a call of train()
        assert net.training
        norms = [m for m in net.modules() if isinstance(m, _BatchNorm)]
        before = [m.running_mean.clone() for m in norms]
        net(image(cls, batch=2) + 1)
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


@every_backbone
def test_with_cp_changes_neither_outputs_gradients_nor_statistics(cls: type[Backbone]) -> None:
    results = []
    for with_cp in (False, True):
        torch.manual_seed(1)
        net = wake(small(cls, with_cp=with_cp, drop_path_rate=0.3)).train()
        calls = count_calls_of_blocks(net)
        x = image(cls, batch=2).requires_grad_()
        torch.manual_seed(2)
        maps = net(x)
        sum((m * m).sum() for m in maps).backward()
        assert set(calls.values()) == {2 if with_cp else 1}
        gradients = {n: p.grad for n, p in net.named_parameters()}
        results.append((maps, {**gradients, 'input': x.grad}, dict(net.named_buffers())))
    (maps, gradients, buffers), (cp_maps, cp_gradients, cp_buffers) = results
    for one, other in zip(maps, cp_maps, strict=True):
        assert torch.equal(one, other)
    for name, value in gradients.items():
        torch.testing.assert_close(cp_gradients[name], value)
    for name, value in buffers.items():
        assert torch.equal(cp_buffers[name], value), name


@every_backbone
def test_bfloat16_autocast_stays_close_to_float32(cls: type[Backbone]) -> None:
    net = wake(small(cls)).eval()
    x = image(cls, batch=2)
    with torch.no_grad():
        want = net(x)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            got = net(x)
    for one, other in zip(got, want, strict=True):
        assert torch.isfinite(one).all()
        assert (one.float() - other).norm() / other.norm() < 3e-2


@every_backbone
def test_evaluation_is_deterministic_and_leaves_no_trace(cls: type[Backbone]) -> None:
    net = wake(small(cls)).eval()
    x = image(cls)
    before = copy.deepcopy(net.state_dict())
    first, second = net(x), net(x)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@every_backbone
def test_a_copy_is_independent(cls: type[Backbone]) -> None:
    net = wake(small(cls)).eval()
    twin = copy.deepcopy(net)
    x = image(cls)
    want = net(x)
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
    for one, other in zip(net(x), want, strict=True):
        assert torch.equal(one, other)


@every_backbone
def test_layers_are_numbered_from_the_stem_to_the_last_output(cls: type[Backbone]) -> None:
    for out_indices in (tuple(stages(cls)), (1,)):
        net = small(cls, out_indices=out_indices)
        depths = {n: net.get_layer_depth(f'b.{n}', prefix='b.') for n, _ in net.named_parameters()}
        layers, counts = zip(*depths.values(), strict=True)
        (count,) = set(counts)
        assert min(layers) == 0
        assert set(layers) >= set(range(count - 1))
        assert max(layers) < count
        assert depths[net.stem_weight] == (0, count)
        assert net.get_layer_depth('head.weight', prefix='b.') == (count - 1, count)
        by_stage = [
            [depths[n][0] for n in depths if any(n.startswith(m) for m in names)]
            for names in stage_names(net)
        ]
        # Output norms, beside the trunk, are of the last layer.
        firsts = [min(part) for part in by_stage if part]
        assert all(lower < upper for lower, upper in itertools.pairwise(firsts))


def stage_names(net: Backbone) -> list[list[str]]:
    """Prefixes of the parameters in the stem and in each stage."""
    names = {module: name for name, module in net.named_modules()}
    return [[f'{names[m]}.' for m in part] for part in net.stage_modules()]


@every_backbone
def test_parameters_without_decay_exist(cls: type[Backbone]) -> None:
    net = small(cls)
    assert net.no_weight_decay() <= {name for name, _ in net.named_parameters()}


# --------------------------------------------------------------------- several processes


class WithHead(nn.Module):
    """A backbone with a small trainable layer behind it, so that freezing all of it is allowed."""

    def __init__(self, net: Backbone) -> None:
        super().__init__()
        self.net = net
        self.heads = nn.ModuleList(nn.Conv2d(c, 2, 1) for c in net.out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return sum(head(m).mean() for head, m in zip(self.heads, self.net(x), strict=True))


def _train_in_process(rank: int, port: int, name: str) -> None:
    torch.set_num_threads(1)
    address = f'tcp://127.0.0.1:{port}'
    torch.distributed.init_process_group('gloo', init_method=address, rank=rank, world_size=2)
    cls = MODELS.get(name)
    every = tuple(stages(cls))
    for frozen in range(-1, len(every) + 1):
        _two_steps(cls, rank, frozen_stages=frozen)
    for out_indices in [(i,) for i in every] + [every[1:]]:
        _two_steps(cls, rank, out_indices=out_indices)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _two_steps(cls: type[Backbone], rank: int, **options: object) -> None:
    """An unused parameter is only noticed in the second step."""
    torch.manual_seed(0)
    head = WithHead(small(cls, **options).train())
    model = nn.parallel.DistributedDataParallel(head, find_unused_parameters=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for step in range(2):
        torch.manual_seed(10 * step + rank)
        optimizer.zero_grad()
        model(image(cls, batch=2)).backward()
        optimizer.step()
    for p in model.parameters():
        first = p.detach().clone()
        torch.distributed.broadcast(first, src=0)
        assert torch.equal(first, p.detach())


@every_backbone
def test_two_processes_train_without_searching_for_unused_parameters(cls) -> None:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    context = torch.multiprocessing.spawn(
        _train_in_process, (port, cls.__name__), nprocs=2, join=False
    )
    try:
        # Each call returns when one more process has ended.
        assert context.join(timeout=240) or context.join(timeout=60), 'a process did not end'
    finally:
        for process in context.processes:
            process.kill()
