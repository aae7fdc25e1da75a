"""Measuring: operations are all counted, memory is exact, statistics are what they are called."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import flop_registry

from vitbackbones import files, tables
from vitbackbones.benchmark.flops import UNCOUNTED, count_flops
from vitbackbones.benchmark.machine import describe_machine, in_words
from vitbackbones.benchmark.memory import peak_memory, weight_memory
from vitbackbones.benchmark.plots import Series, pareto_front, tradeoff_plot
from vitbackbones.benchmark.timing import PartClock, in_turn, ratio, spread

MIB = 2**20

# ----------------------------------------------------------------------------- operations


def explicit(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
    return (scores if mask is None else scores + mask).softmax(dim=-1) @ v


@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('backend', [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH])
def test_fused_attention_counts_as_much_as_its_two_products(
    backend: SDPBackend, masked: bool
) -> None:
    q, k = torch.randn(2, 3, 10, 8), torch.randn(2, 3, 7, 8)
    v = torch.randn(2, 3, 7, 8)
    mask = torch.randn(10, 7) if masked else None
    with sdpa_kernel(backend):
        fused = count_flops(lambda: F.scaled_dot_product_attention(q, k, v, mask)).total
    assert fused == count_flops(lambda: explicit(q, k, v, mask)).total
    assert fused == 2 * (2 * 3 * 10 * 7) * (8 + 8)


def test_multi_head_attention_counts_the_same_with_and_without_its_fast_path() -> None:
    attention = nn.MultiheadAttention(16, 2, batch_first=True).eval()
    x = torch.randn(2, 5, 16)
    with torch.no_grad():
        count = count_flops(lambda: attention(x, x, x)).total
    projections, products = 2 * 2 * 5 * 16 * (4 * 16), 4 * 2 * 5 * 5 * 16
    assert count == projections + products
    assert torch.backends.mha.get_fastpath_enabled()


def test_all_kernels_of_attention_that_torch_has_are_counted() -> None:
    kernels = {
        schema.name.removeprefix('aten::')
        for schema in torch._C._jit_get_all_schemas()
        if schema.name.startswith('aten::_scaled_dot_product')
    }
    forward = {name for name in kernels if not name.endswith('_backward')}
    known = {str(op).removeprefix('aten.') for op in flop_registry} | {*UNCOUNTED}
    # The first is made of operators that are counted, the second is for Apple's GPUs.
    others = {'_scaled_dot_product_attention_math', '_scaled_dot_product_attention_math_for_mps'}
    assert forward - known == others


class Detector(nn.Module):
    """As mmdet's two-stage detectors: its head is a container that is not called."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.ModuleDict({'box': nn.Linear(8, 4), 'mask': nn.Linear(8, 2)})

    def forward(self, x: Tensor) -> Tensor:
        x = self.backbone(x).mean((2, 3))
        return torch.cat([self.head['box'](x), self.head['mask'](x)], dim=1)


def test_operations_are_two_per_multiply_add_and_split_by_part() -> None:
    model = Detector()
    flops = count_flops(lambda: model(torch.randn(1, 3, 16, 16)), model)
    assert flops.parts == {'backbone': 2 * 16 * 16 * 9 * 3 * 8, 'head': 2 * 8 * (4 + 2)}
    assert flops.total == sum(flops.parts.values())


# --------------------------------------------------------------------------------- memory


def test_memory_on_a_cpu_is_the_highest_sum_of_what_is_held_at_a_time() -> None:
    before = torch.zeros(MIB // 4)

    def run() -> Tensor:
        a = before + 1  # 1 MiB
        b = torch.cat([a, a])  # 2 more
        del a
        c = b + b  # 2 again, with b 4 at a time
        del b
        return c[:1].clone()

    assert peak_memory(run) == 4 * MIB
    assert [peak_memory(run) for _ in range(2)] == [4 * MIB] * 2


def test_memory_of_training_holds_activations_gradients_and_optimiser() -> None:
    model = nn.Linear(512, 512, bias=False)  # 1 MiB
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
    x = torch.randn(1, 512)

    def step() -> None:
        model(x).sum().backward()
        optimizer.step()

    first = peak_memory(step)
    assert 3 * MIB <= first < 6 * MIB  # gradient and two moments, and temporaries of the update
    assert peak_memory(lambda: model(x)) < 0.1 * MIB


def test_the_profiler_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    peak_memory(lambda: torch.zeros(10))
    assert capfd.readouterr() == ('', '')


def test_weights_are_parameters_and_buffers() -> None:
    assert weight_memory(nn.BatchNorm2d(10)) == 4 * 4 * 10 + 8  # and the counter of batches


# --------------------------------------------------------------------------------- timing


def test_candidates_run_in_turn_after_a_warm_up() -> None:
    calls: list[str] = []
    candidates = {name: lambda name=name: calls.append(name) for name in 'abc'}
    results = list(in_turn(candidates, 20, warm_up=2))
    assert calls == [name for name, _ in results]
    turns = [calls[i : i + 3] for i in range(0, len(calls), 3)]
    assert len(turns) == 22
    assert all(sorted(turn) == ['a', 'b', 'c'] for turn in turns)
    assert {turn[0] for turn in turns} == {'a', 'b', 'c'}  # nobody is always first
    assert [seconds is None for _, seconds in results] == [True] * 6 + [False] * 60


def test_what_was_measured_before_an_interruption_is_there() -> None:
    def interrupted() -> None:
        if len(seen) == 5:
            raise KeyboardInterrupt

    seen: list[str] = []
    turns = in_turn({'a': interrupted, 'b': interrupted}, 9, warm_up=0)
    with pytest.raises(KeyboardInterrupt):
        seen.extend(name for name, _ in turns)
    assert len(seen) == 5


def test_ratio_sees_through_a_machine_that_slows_down() -> None:
    load = [1, 1, 1, 1, 3, 3, 3]
    reference = [10.0 * x for x in load]
    assert ratio([8.0 * x for x in load], reference) == pytest.approx(0.8)
    assert ratio([8.0 * x for x in load[:3]], reference) == pytest.approx(0.8)


def test_spread_is_the_distance_of_quartiles_over_the_median() -> None:
    assert spread([1.0, 2, 3, 4, 5]) == pytest.approx(2 / 3)
    assert spread([2.0]) != spread([2.0])  # nan: nobody knows


def test_a_part_is_timed_within_the_whole() -> None:
    model = Detector()
    with PartClock(model.backbone) as clock:
        assert clock.read() == 0
        model(torch.randn(1, 3, 64, 64))
        assert clock.read() > 0
        assert clock.read() == 0
    model(torch.randn(1, 3, 64, 64))
    assert clock.read() == 0


# ------------------------------------------------------------------------ tables and plots


@pytest.mark.parametrize(
    ('points', 'front'),
    [
        ([(3, 50), (1, 30), (2, 40)], [1, 2, 0]),
        ([(3, 50), (2, 50), (1, 30)], [2, 1]),  # the same gain for less
        ([(2, 50), (2, 40)], [0]),  # more for the same
        ([(2, 50), (2, 50)], [0, 1]),
        ([(1, None), (2, 10), (None, 90)], [1]),
        ([], []),
    ],
)
def test_the_front_is_what_nothing_else_beats(
    points: list[tuple[float | None, float | None]], front: list[int]
) -> None:
    assert pareto_front(points) == front


def test_a_plot_is_a_picture() -> None:
    series = [Series('a', [(1, 2, 'x'), (3, 4, 'y')]), Series('b', [(1, 2, 'x')])]
    file = tradeoff_plot(series, x_label='ms', y_label='AP', title='t')
    image = Image.open(io.BytesIO(file))
    assert min(image.size) > 500
    assert len(image.convert('RGB').getcolors(2**24) or ()) > 50


def test_a_table_is_there_completely_or_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / 'table.md'
    files.write(path, tables.markdown(['name', 'x'], [['a', '1']]))
    assert path.read_text() == '| name | x |\n| --- | ---: |\n| a | 1 |\n'

    def full(*_: object) -> None:
        raise OSError('no space left on device')

    monkeypatch.setattr('os.fsync', full)
    with pytest.raises(OSError, match='no space'):
        files.write(path, 'other')
    assert path.read_text().startswith('| name')
    assert list(tmp_path.iterdir()) == [path]


def test_the_machine_is_described_in_words() -> None:
    machine = describe_machine()
    assert machine['torch'] == torch.__version__
    assert machine['cores'] >= 1
    assert machine['cpu'] in in_words(machine)
