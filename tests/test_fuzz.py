"""Every backbone with whatever can be drawn: any options, sizes, types and memory, right or wrong.

What is drawn right must work and agree, to rounding, with the same network computed the plain way
in float64; what is drawn wrong must be refused with a ValueError that names it. Networks are small
and their weights lively: initial values hide whole branches.

`pytest -m endurance tests/test_fuzz.py -s` draws thousands and prints what it drew; other draws
with each `--hypothesis-seed`.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import itertools
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from torch import Tensor, nn
from torch.nn import functional as F

from tests.small import stage_modules
from vitbackbones.backbones import supervit
from vitbackbones.backbones.base import Backbone

BACKBONES = Backbone.registered()
every_backbone = pytest.mark.parametrize('name', BACKBONES)
# Whoever switches oneDNN off is told about graphics cards.
pytestmark = pytest.mark.filterwarnings('ignore:TF32 acceleration')

# Hypothesis keeps what it finds in the sources in a folder, which is not to lie in a checkout. A
# failing case is small anyway, and making it smaller takes longer than the test.
set_hypothesis_home_dir(Path(tempfile.gettempdir(), 'hypothesis'))
_COMMON: dict[str, Any] = dict(
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate,),
    print_blob=True,
)
CI = settings(**_COMMON, max_examples=30, derandomize=True)
RECORDED = settings(**_COMMON, max_examples=int(os.environ.get('FUZZ_EXAMPLES', 2000)))

LARGEST_SIDE = 700
PIXELS = (8_000, 8_000, 8_000, 40_000)  # of all images together, at most
LAYOUTS = ('contiguous', 'channels last', 'sliced', 'transposed')
WAYS = ('no_grad', 'inference_mode', 'hooks', 'grad')  # in which a forward pass can be made
#: Largest distance from the plain way, relative to the norm of a map, and how much clearer than
#: others a token must be to be chosen in the same way.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 0.5, torch.float16: 0.06}
CLEAR = {torch.float64: 1e-9, torch.float32: 1e-4}


def runs_on_this_cpu(dtype: torch.dtype) -> bool:
    """Older versions of torch lack some operations for half precision on CPUs."""
    try:
        x = F.conv2d(torch.ones(1, 1, 4, 4, dtype=dtype), torch.ones(1, 1, 2, 2, dtype=dtype))
        x = F.interpolate(F.layer_norm(x, (3,)), (2, 2), mode='bicubic')
        F.max_pool2d(F.scaled_dot_product_attention(x, x, x), 2)
    except RuntimeError:
        return False
    return True


# A LayerNorm of few channels turns rounding into another result: of networks that have one, the
# narrowest that are drawn, and the narrowest that are compared in half precision.
NARROWEST, NARROWEST_IN_HALF = 4, 8

DTYPES = [dtype for dtype in TOLERANCE if runs_on_this_cpu(dtype)]


# ------------------------------------------------------------------------------- what is drawn


@dataclass(frozen=True)
class Flaw:
    """What is wrong with a case: an option or, without ``option``, the image."""

    culprit: str  # as the message must name it
    value: Any
    option: str | None = None


@dataclass(frozen=True)
class Case:
    """A network, an image and what is done with them."""

    name: str
    options: dict[str, Any]
    shape: tuple[int, ...]
    dtype: torch.dtype
    layout: str
    way: str
    training: bool
    seed: int
    flaw: Flaw | None

    @property
    def out_strides(self) -> list[int]:
        return [BACKBONES[self.name].strides[i] for i in self.options['out_indices']]

    def build(self) -> Backbone:
        return BACKBONES[self.name](**self.options)

    def build_lively(self) -> Backbone:
        net = self.build()
        enliven(net, self.seed)
        return net

    def image(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randn(self.shape, generator=generator, dtype=torch.float64).to(self.dtype)


def log_uniform(low: int, high: int) -> st.SearchStrategy[int]:
    """Whole numbers of which those between 10 and 20 are as many as those between 100 and 200."""
    parts = st.tuples(st.integers(0, 99), st.integers(0, 99))
    return parts.map(lambda p: round(low * (high / low) ** ((100 * p[0] + p[1]) / 9999)))


def pick(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


@st.composite
def drawn_arch(draw: Callable[..., Any], name: str) -> dict[str, Any]:
    """A variant that is right: widths up to 32, and 64 in GC ViT, which doubles them."""
    stages = range(len(BACKBONES[name].strides))
    depths = tuple(draw(pick(1, 2)) for _ in stages)
    rate = draw(pick(0.0, 0.1, 0.5))
    if name == 'SuperViT':
        heads = draw(pick(1, 2, 3, 4))
        return dict(
            dim=heads * draw(st.integers(-(-NARROWEST // heads), 32 // heads)),
            depth=draw(pick(1, 2, 4, 5, 7, 10)),  # tokens are dropped in blocks 3, 6 and 9
            num_heads=heads,
            mlp_ratio=draw(pick(1, 2, 4)),
            qkv_bias=draw(st.booleans()),
            norm_eps=draw(pick(1e-6, 1e-5)),
            stem_dim=draw(st.one_of(st.none(), st.integers(1, 32))),
            residual_scale=draw(pick(0.5, 1.0, 1)),
            drop_path_rate=rate,
        )
    if name == 'GCViT':
        dim = draw(st.integers(NARROWEST, 8))
        heads = tuple(draw(pick(*divisors(dim << i, 8))) for i in stages)
        scale = draw(pick(None, 1e-5, 1, 0.5))
        ratio = draw(pick(1, 2, 3))
        common = dict(depths=depths, num_heads=heads, drop_path_rate=rate)
        return dict(dim=dim, layer_scale=scale, mlp_ratio=ratio, **common)
    if name == 'SepViT':
        heads = tuple(draw(pick(1, 2, 3, 4)) for _ in stages)
        sizes = log_uniform(1, 16)
        return dict(
            dims=tuple(n * draw(st.integers(-(-NARROWEST // n), 32 // n)) for n in heads),
            depths=depths,
            num_heads=heads,
            window_sizes=tuple(tuple(draw(sizes) for _ in range(depth)) for depth in depths),
            mlp_ratio=draw(pick(1, 2, 4)),
            drop_path_rate=rate,
        )
    dims = tuple(draw(st.integers(2, 32)) for _ in stages[1:])
    if name == 'CASViT':
        dims = (2 * draw(st.integers(1, 16)), *dims)
        return dict(dims=dims, depths=depths, mlp_ratio=draw(pick(1, 2, 4)), drop_path_rate=rate)
    assert name == 'SHViT'
    dims = (8 * draw(st.integers(1, 4)), *dims)
    return dict(
        dims=dims,
        depths=depths,
        partial_dims=tuple(draw(st.integers(2, dim)) for dim in dims),  # a GroupNorm needs two
        attention=tuple(draw(st.booleans()) for _ in stages),
        drop_path_rate=rate,
    )


def divisors(number: int, most: int) -> list[int]:
    return [d for d in range(1, most + 1) if number % d == 0]


@st.composite
def drawn_options(draw: Callable[..., Any], name: str) -> dict[str, Any]:
    """Options that are right."""
    count = len(BACKBONES[name].strides)
    outputs = [c for n in range(1, count + 1) for c in itertools.combinations(range(count), n)]
    options: dict[str, Any] = dict(
        arch=draw(drawn_arch(name)),
        in_channels=draw(pick(3, 3, 3, 1, 2, 5)),
        out_indices=draw(pick(*outputs)),
        frozen_stages=draw(st.integers(-1, count)),
        norm_eval=draw(st.booleans()),
        with_cp=draw(st.booleans()),
        drop_path_rate=draw(pick(None, 0, 0.0, 0.3, 0.9)),
    )
    if name == 'SepViT':
        options['window_token'] = draw(pick('zero', 'learnable'))
    if name in ('GCViT', 'SepViT'):
        options['mask_padding'] = draw(st.booleans())
    if name == 'GCViT':
        options['window_size'] = tuple(draw(log_uniform(1, 24)) for _ in range(count))
    if name == 'SuperViT':
        depth, outs = options['arch']['depth'], len(options['out_indices'])
        length = draw(pick(None, 1, outs))
        if length is not None:
            options['taps'] = tuple(draw(st.integers(0, depth - 1)) for _ in range(length))
        options['operating_point'] = dict(
            keep_rate=draw(pick(1, 1.0, 0.9, 0.7, 0.5, 0.3)),
            scale=draw(pick(1, 1.0, 1.0, 0.857, 0.714, 0.571, 0.3)),
        )
    return options


NOT_NUMBERS = ('1', None, 1.5, math.nan)


def flawed_options(name: str, right: dict[str, Any]) -> list[Flaw]:
    """Every way to get one option wrong, and how it must be named."""
    count = len(BACKBONES[name].strides)
    flaws = [
        Flaw(option, value, option)
        for option, values in dict(
            out_indices=((), (1, 0), (0, 0), (count,), (-1,), (0.0,), ('0',), 2, 0.5),
            frozen_stages=(-2, count + 1, 1.0, *NOT_NUMBERS),
            in_channels=(0, -3, 3.0, *NOT_NUMBERS),
            drop_path_rate=(1, 1.5, -0.1, math.nan, math.inf, '0.1', (0.1,)),
            init_cfg=('file.pth', 3, {}, {'type': 'Kaiming'}),
        ).items()
        for value in values
    ]
    flaws += [Flaw('arch', value, 'arch') for value in ('huge', '', None, 3, ('tiny',))]
    if name == 'SepViT':
        flaws += [Flaw('window_token', value, 'window_token') for value in ('one', None, 0)]
    if name == 'GCViT':
        wrong = (7, (7, 7, 7), (7,) * 5, (0, 7, 7, 7), (7, 7, 7.0, 7), (7, '7', 7, 7), None)
        flaws += [Flaw('window_size', value, 'window_size') for value in wrong]
    if name == 'SuperViT':
        depth = right['arch']['depth']
        for value in (0, (), (depth,), (-1,), (0.0,), ('0',), (0,) * 5):
            flaws.append(Flaw('taps', value, 'taps'))
        for field, value in itertools.product(
            ('keep_rate', 'scale'), (0, -0.5, 1.5, True, '1', None, math.nan, math.inf)
        ):
            point = {**right['operating_point'], field: value}
            flaws.append(Flaw(f'{field}={value!r}', point, 'operating_point'))
        for value in (3, (1, 1), {'rate': 1}):
            flaws.append(Flaw('operating_point', value, 'operating_point'))
    for culprit, arch in flawed_archs(name, right['arch']):
        flaws.append(Flaw(culprit, arch, 'arch'))
    return flaws


def flawed_archs(name: str, right: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    whole = {'dim', 'depth', 'dims', 'depths', 'num_heads', 'partial_dims', 'mlp_ratio', 'stem_dim'}
    for field, value in right.items():
        if field == 'window_sizes':
            wrong = [((n, *value[0][1:]), *value[1:]) for n in (0, -1, *NOT_NUMBERS)]
            wrong += [(7, *value[1:]), ((7, 7, 7), *value[1:]), ((), *value[1:]), ('7', *value[1:])]
        elif field in whole:
            wrong = [0, -1, *NOT_NUMBERS]
            if isinstance(value, tuple):
                wrong = [(*value[:-1], n) for n in wrong]
            elif field == 'stem_dim':
                wrong.remove(None)
        elif field in ('norm_eps', 'residual_scale'):
            wrong = [math.nan, math.inf, '1', None]
        elif field == 'layer_scale':
            wrong = [math.nan, math.inf, '1']
        else:
            continue
        if isinstance(value, tuple):
            wrong += [value[:-1], (*value, value[-1]), 8, None, '8']
        for other in wrong:
            yield field, {**right, field: other}
    yield "unknown: ['colour']", {**right, 'colour': 'red'}
    yield 'missing', {}
    if name == 'CASViT':
        yield 'dims', {**right, 'dims': (right['dims'][0] - 1, *right['dims'][1:])}
    if name == 'SHViT':
        yield 'dims', {**right, 'dims': (right['dims'][0] + 4, *right['dims'][1:])}
        too_many = (*right['partial_dims'][:-1], right['dims'][-1] + 1)
        yield 'partial_dims', {**right, 'partial_dims': too_many}
    if name == 'SuperViT':
        yield 'num_heads', {**right, 'num_heads': right['dim'] + 1}
    if name in ('GCViT', 'SepViT'):
        heads = right['num_heads']
        width = right['dim'] << 3 if name == 'GCViT' else right['dims'][3]
        yield 'num_heads', {**right, 'num_heads': (*heads[:3], width + 1)}


@st.composite
def wrong_shapes(
    draw: Callable[..., Any], shape: tuple[int, ...], smallest: int
) -> tuple[tuple[int, ...], str]:
    batch, channels, height, width = shape
    small, other = draw(log_uniform(1, smallest - 1)), draw(pick(1, 2, 3, 4))
    other += other >= channels
    return draw(
        pick(
            (shape[1:], 'shape'),
            ((1, *shape), 'shape'),
            ((batch, other, height, width), 'shape'),
            ((batch, channels, small, width), 'sides'),
            ((batch, channels, height, small), 'sides'),
            ((batch, channels, small, 1), 'sides'),
        )
    )


@st.composite
def cases(draw: Callable[..., Any], name: str) -> Case:
    options = draw(drawn_options(name))
    kind = draw(pick(*['right'] * 8, 'option', 'image'))
    smallest = max(BACKBONES[name].strides[i] for i in options['out_indices'])
    dtype = draw(st.sampled_from([torch.float32, *DTYPES, torch.float32]))
    batch = draw(st.integers(1, 3))
    height = draw(log_uniform(smallest, LARGEST_SIDE))
    most = min(LARGEST_SIDE, draw(pick(*PIXELS)) // (height * batch))
    width = draw(log_uniform(smallest, max(most, smallest)))
    if draw(st.booleans()):
        height, width = width, height
    shape: tuple[int, ...] = (batch, options['in_channels'], height, width)
    flaw = None
    if kind == 'option':
        flaw = draw(st.sampled_from(flawed_options(name, options)))
        options = {**options, flaw.option: flaw.value}
    elif kind == 'image':
        shape, culprit = draw(wrong_shapes(shape, smallest))
        flaw = Flaw(culprit, shape)
    return Case(
        name=name,
        options=options,
        shape=shape,
        dtype=dtype,
        layout=draw(st.sampled_from(LAYOUTS)),
        way=draw(st.sampled_from(WAYS)),
        training=draw(pick(False, False, True)),
        seed=draw(st.integers(0, 2**32 - 1)),
        flaw=flaw,
    )


# ----------------------------------------------------------------------------- what must hold


@torch.no_grad()
def enliven(net: Backbone, seed: int) -> None:
    """Weights with which every branch matters and no map grows."""
    generator = torch.Generator().manual_seed(seed)
    # CAS-ViT multiplies maps with one another, and has no norms that follow the map.
    gain = 0.5 if type(net).__name__ == 'CASViT' else 1.0
    for name, value in [*net.named_parameters(), *net.named_buffers()]:
        if name.endswith('running_var'):
            value.uniform_(0.5, 2.0, generator=generator)
        elif not value.is_floating_point():
            pass  # a counter
        elif value.ndim == 1:
            value.normal_(0, 0.2, generator=generator)
            if name.endswith(('weight', 'gamma1', 'gamma2')):
                value.add_(1)
        else:
            table = name.startswith(('pos_embed', 'cls_token')) or name.endswith('bias_table')
            fan_in = value[0].numel()
            value.normal_(0, 1 if table else gain * fan_in**-0.5, generator=generator)


def lay_out(x: Tensor, layout: str) -> Tensor:
    """The same values in other memory."""
    b, c, h, w = x.shape
    if layout == 'channels last':
        return x.contiguous(memory_format=torch.channels_last)
    if layout == 'sliced':
        y = x.new_full((b, c, 2 * h, w + 3), torch.nan)[:, :, 1::2, 2:-1]
    elif layout == 'transposed':
        y = x.new_empty(c, w, h, b).permute(3, 0, 2, 1)
    else:
        return x
    return y.copy_(x)


def compute(net: Backbone, x: Tensor, way: str) -> tuple[Tensor, ...]:
    if way == 'hooks':
        handles = [m.register_forward_hook(lambda *_: None) for m in net.modules()]
        try:
            return compute(net, x, 'no_grad')
        finally:
            for handle in handles:
                handle.remove()
    with getattr(torch, 'enable_grad' if way == 'grad' else way)():
        return tuple(y.detach() for y in net(x))


@contextlib.contextmanager
def watch_choices() -> Iterator[list[float]]:
    """By how much, relatively, the worst token that is kept is better than the best that is not."""
    margins: list[float] = []
    select = supervit.select_tokens

    def watched(scores: Tensor, keep_rate: float) -> Tensor:
        kept = select(scores, keep_rate)
        k = kept.shape[1] - 1
        ranked = scores.sort(descending=True).values
        if k < ranked.shape[1]:
            margins.append((1 - ranked[:, k] / ranked[:, k - 1]).min().item())
        return kept

    supervit.select_tokens = watched
    try:
        yield margins
    finally:
        supervit.select_tokens = select


def distance(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other.double()).norm() / other.double().norm().clamp(min=1e-3))


def has_too_few_tokens(case: Case) -> bool:
    point = case.options.get('operating_point')
    if point is None or point['keep_rate'] == 1:
        return False
    scale = point['scale']
    sides = [
        max(1, round(scale * side / 16)) if scale < 1 else math.ceil(side / 16)
        for side in case.shape[2:]
    ]
    return point['keep_rate'] * (1 + math.prod(sides)) < 1


def check(case: Case, tally: collections.Counter[str]) -> None:
    tally['examples'] += 1
    if case.flaw is not None or has_too_few_tokens(case):
        check_refused(case)
        tally['refused'] += 1
        tally[f'refused: {case.flaw.option or "image" if case.flaw else "too few tokens"}'] += 1
        return
    tally['valid'] += 1
    for key in (str(case.dtype), case.layout, 'train' if case.training else f'eval, {case.way}'):
        tally[key] += 1
    tally[f'batch {case.shape[0]}'] += 1
    for side in case.shape[2:]:
        tally[f'sides 2**{int(math.log2(side))}'] += 1
    # In bfloat16 oneDNN's convolutions of few channels or of narrow maps are wrong on some CPUs.
    half = case.dtype == torch.bfloat16
    with torch.backends.mkldnn.flags(enabled=False) if half else contextlib.nullcontext():
        (check_training if case.training else check_evaluation)(case, tally)


def check_refused(case: Case) -> None:
    flaw = case.flaw
    if flaw is None or flaw.option is None:
        net = case.build().eval().to(case.dtype)
        message = refusal(net, case.image())
    else:
        message = refusal(case.build)
    if flaw is None:
        assert 'keep_rate' in message
        return
    assert flaw.culprit in message
    value = flaw.value
    if flaw.option == 'arch' and isinstance(value, dict):
        if flaw.culprit not in value:
            return
        value = value[flaw.culprit]
    if not isinstance(value, dict):
        assert repr(value) in message or str(value) in message


def refusal(call: Callable[..., Any], *args: Any) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the caller reads what it says
        call(*args)
    return str(caught.value)


def check_maps(case: Case, net: Backbone, maps: tuple[Tensor, ...]) -> None:
    assert isinstance(maps, tuple)
    assert net.out_strides == tuple(case.out_strides)
    for y, channels, stride in zip(maps, net.out_channels, case.out_strides, strict=True):
        rows, columns = (math.ceil(side / stride) for side in case.shape[2:])
        assert y.shape == (case.shape[0], channels, rows, columns)
        assert y.dtype == case.dtype
        assert y.is_contiguous()
        assert torch.isfinite(y).all()


def check_evaluation(case: Case, tally: collections.Counter[str]) -> None:
    net = case.build_lively().to(case.dtype).eval()
    image, tolerance = case.image(), TOLERANCE[case.dtype]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x = image.clone()
    maps = compute(net, x, 'no_grad')
    check_maps(case, net, maps)
    if case.seed % 4 == 0:
        for one, other in zip(compute(net, x, 'no_grad'), maps, strict=True):
            assert torch.equal(one, other), 'another result the second time'
    assert torch.equal(x, image), 'the input was changed'
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), f'{name} was changed'

    if case.seed % 4 == 1:
        twin = case.build().double().eval()
        twin.load_state_dict(before)
    else:
        twin = copy.deepcopy(net).double()
    with watch_choices() as margins:
        plain = compute(twin, image.double(), 'grad')
    clear = not margins or min(margins) > CLEAR.get(case.dtype, math.inf)
    tally['not compared: tokens too alike'] += not clear
    wide = case.dtype.itemsize > 2 or narrowest(case) >= NARROWEST_IN_HALF
    tally['not compared: too narrow'] += not wide
    if clear and wide:
        tally['compared'] += 1
        tally['compared, tokens dropped'] += bool(margins)
        for one, other in zip(maps, plain, strict=True):
            assert distance(one, other) < tolerance, 'not what the plain way gives'
        for one, other in zip(
            compute(net, lay_out(image, case.layout), case.way), maps, strict=True
        ):
            assert distance(one, other) < tolerance, f'another result: {case.layout}, {case.way}'
        if case.shape[0] > 1:
            tally['compared alone'] += 1
            for one, other in zip(compute(net, image[1:2], 'no_grad'), maps, strict=True):
                assert distance(one, other[1:2]) < tolerance, 'another result alone'


def narrowest(case: Case) -> int:
    arch = case.options['arch']
    return min(arch['dims']) if 'dims' in arch else arch['dim']


def check_training(case: Case, tally: collections.Counter[str]) -> None:
    net = case.build_lively().to(case.dtype).train()
    image = case.image()
    x = lay_out(image, case.layout).requires_grad_()
    torch.manual_seed(case.seed)
    try:
        maps = net(x)
    except ValueError as error:
        if case.shape[0] > 1 or 'more than 1 value per channel' not in str(error):
            raise
        tally['trained on too little for BatchNorm'] += 1
        return
    assert torch.equal(x, image), 'the input was changed'
    check_maps(case, net, maps)
    sum(y.square().mean() for y in maps).backward()
    tally['trained'] += 1
    frozen = {p for part in stage_modules(net)[: net.frozen_stages + 1] for p in parameters(part)}
    if net.frozen_stages >= 0:
        frozen.add(getattr(net, 'cls_token', None))
    for name, p in net.named_parameters():
        assert (p.grad is None) == (p in frozen), name
        assert p.grad is None or torch.isfinite(p.grad).all(), name
    assert torch.isfinite(x.grad).all()


def parameters(modules: list[nn.Module]) -> Iterator[nn.Parameter]:
    return itertools.chain(*(module.parameters() for module in modules))


@every_backbone
@CI
@given(data=st.data())
def test_what_is_drawn_works_and_agrees_or_is_refused(name: str, data: st.DataObject) -> None:
    check(data.draw(cases(name)), collections.Counter())


@pytest.mark.endurance
@every_backbone
def test_thousands_of_draws_work_and_agree_or_are_refused(name: str) -> None:
    tally: collections.Counter[str] = collections.Counter()
    start = time.process_time()

    @RECORDED
    @given(case=cases(name))
    def fuzz(case: Case) -> None:
        check(case, tally)

    try:
        fuzz()
    finally:
        tally['seconds'] = round(time.process_time() - start)
        print(name, json.dumps(dict(sorted(tally.items())), indent=1))
    assert tally['compared'] > tally['examples'] / 4
