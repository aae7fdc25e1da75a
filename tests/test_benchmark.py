"""The benchmark: who takes part, what is reported and kept, and what is refused."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from PIL import Image
from torch import Tensor, nn

import vitbackbones
from tests.small import SMALL
from vitbackbones.backbones import SHViT
from vitbackbones.benchmark import (
    Contest,
    Setting,
    candidates,
    contest,
    cost_card,
    cost_cards,
    models,
    runtimes,
)
from vitbackbones.benchmark.livened import FEW, MANY
from vitbackbones.cli.main import main

ROOT = Path(__file__).parents[1]
SMALL_CONFIG = f"""
_base_ = '{ROOT}/configs/detection/shvit_retinanet.py'
model = dict(
    backbone=dict(arch=dict(_delete_=True, **{SMALL['SHViT']})),
    neck=dict(in_channels=[16, 24, 32], out_channels=16),
    bbox_head=dict(in_channels=16, feat_channels=16, stacked_convs=1),
)
"""
HERE = 'tests.test_benchmark'

Run = Callable[..., int]


def small() -> nn.Module:
    """A peer, by ``module:callable``."""
    return SHViT(SMALL['SHViT'])


def conv() -> nn.Module:
    return nn.Conv2d(3, 8, 3, bias=False)


def choosy() -> nn.Module:
    """A peer that takes images of one size only."""

    class Choosy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert x.shape[-1] == 224, 'the input must be 224 wide'
            return x

    return Choosy()


def no_network() -> int:
    return 1


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run the command into ``tmp_path/out``; its exit status."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Config, 'pretty_text', '')  # takes seconds to make, for the log alone

    def command(*words: str) -> int:
        return main(['benchmark', '--out-dir', 'out', '--rounds', '2', *words])

    threads = torch.get_num_threads()
    yield command
    torch.set_num_threads(threads)


def results(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / 'out/benchmark.json').read_text())['results']


# --------------------------------------------------------------------------- candidates


def test_networks_and_peers_are_measured_at_every_size(run: Run, tmp_path: Path) -> None:
    words = ('--archs', 'shvit:s1', '--peers', f'{HERE}:conv', 'mmdet:resnet-50')
    assert run(*words, '--sizes', '64', '96x80', '--batch', '2') == 0
    found = results(tmp_path)
    names = [f'{HERE}:conv', 'mmdet:resnet-50', 'shvit:s1']
    assert [(r['name'], r['size']) for r in found] == [
        (name, size) for size in ([64, 64], [96, 80]) for name in names
    ]
    assert all(len(r['seconds']) == 2 for r in found)
    first, *_, last = found
    assert first['parameters'] == 3 * 3 * 3 * 8
    assert first['flops'] == 2 * 62 * 62 * first['parameters']  # of one image of the two
    assert first['peak_memory'] >= 4 * (first['parameters'] + 2 * 8 * 62 * 62)
    net = vitbackbones.create('shvit_s1')
    assert last['parameters'] == sum(p.numel() for p in net.parameters())
    text = (tmp_path / 'out/benchmark.md').read_text()
    assert text.count(f'| {HERE}:conv |') == 2
    assert f'torch {torch.__version__}' in text
    assert Image.open(tmp_path / 'out/benchmark.png').width > 500


@pytest.mark.parametrize('dtype', ['fp32', 'bf16'])
def test_training_runs_backward_too(run: Run, tmp_path: Path, dtype: str) -> None:
    words = ('--peers', f'{HERE}:small', '--sizes', '128', '--dtype', dtype)
    assert run(*words) == 0
    (evaluated,) = results(tmp_path)
    assert run(*words, '--mode', 'train') == 0
    (trained,) = results(tmp_path)
    assert trained['flops'] == evaluated['flops']
    # Gradients, and what is saved for backward.
    assert trained['peak_memory'] > evaluated['peak_memory'] + 4 * trained['parameters']


@pytest.mark.parametrize('mode', ['eval', 'train'])
def test_a_whole_detector_takes_part(run: Run, tmp_path: Path, mode: str) -> None:
    (tmp_path / 'own.py').write_text(SMALL_CONFIG)
    assert run('--configs', 'own.py', '--sizes', '64', '--mode', mode) == 0
    (found,) = results(tmp_path)
    assert found['name'] == 'own'
    assert len(found['seconds']) == 2


def test_deploy_fuses_what_is_ours_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = candidates.Setting(torch.device('cpu'), deploy=True)
    ours = candidates.backbone('shvit:s1', {}, setting).model
    peer = candidates.peer(f'{HERE}:small', setting).model

    def norms(model: nn.Module) -> int:
        return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())

    assert norms(ours) == 0
    assert norms(peer) > 0


def test_options_reach_dtype_layout_and_backbone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    at = candidates._of_network

    def spy(name: str, net: nn.Module, setting: Any) -> Any:
        made.append(net)
        return at(name, net, setting)

    monkeypatch.setattr(candidates, '_of_network', spy)
    words = ('--dtype', 'bf16', '--channels-last', '--arch-options', 'out_indices=[1]')
    assert run('--archs', 'shvit:s1', '--sizes', '64', *words) == 0
    (net,) = made
    weights = [p for p in net.parameters() if p.dim() == 4 and p.shape[-1] == 3]
    assert {p.dtype for p in net.parameters()} == {torch.bfloat16}
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
    assert net.out_indices == (1,)


def test_every_backbone_is_compiled_after_it_was_counted(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []
    monkeypatch.setattr(nn.Module, 'compile', lambda self: compiled.append(type(self).__name__))
    assert run('--peers', f'{HERE}:conv', f'{HERE}:small', '--sizes', '64', '--compile') == 0
    assert compiled == ['Conv2d', 'SHViT']


def test_one_network_may_compete_with_itself(run: Run, tmp_path: Path) -> None:
    assert run('--archs', 'shvit:s1', 'shvit:s1+deploy+channels-last', '--sizes', '64') == 0
    plain, fused = results(tmp_path)
    assert (plain['name'], fused['name']) == ('shvit:s1', 'shvit:s1+deploy+channels-last')
    assert fused['parameters'] < plain['parameters']


class Signed(nn.Module):
    """A peer that leaves a file for every process it runs in, named after its number."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        Path(f'{os.getpid()}.{torch.get_num_threads()}.pid').touch()
        return self.conv(x)


def signed() -> nn.Module:
    return Signed()


def test_isolated_candidates_have_a_process_each(run: Run, tmp_path: Path) -> None:
    words = ('--peers', f'{HERE}:Signed', f'{HERE}:signed', '--sizes', '64', '96', '--threads', '1')
    assert run(*words, '--isolate') == 0
    assert [len(r['seconds']) for r in results(tmp_path)] == [2] * 4
    assert all(r['peak_memory'] > 0 for r in results(tmp_path))
    assert 'isolate' in (tmp_path / 'out/benchmark.md').read_text().splitlines()[0]
    assert sorted(path.name.endswith('.1.pid') for path in tmp_path.glob('*.pid')) == [True] * 3
    assert (tmp_path / f'{os.getpid()}.1.pid').exists()  # where operations are counted
    assert not multiprocessing.active_children()


def test_all_are_all_published_variants() -> None:
    assert 'gcvit:tiny' in candidates.arch_names()
    assert len(candidates.arch_names()) == len(vitbackbones.list_backbones())


def test_networks_are_measured_without_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    contest = Contest(
        peers=[f'{HERE}:conv'], archs=['shvit:s1'], sizes=[(64, 96)], rounds=3, setting=Setting()
    )
    contest.measure()
    assert [(r['name'], len(r['seconds'])) for r in contest.results] == [
        (f'{HERE}:conv', 3),
        ('shvit:s1', 3),
    ]
    assert '### 64 x 96' in contest.report()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / 'own.py').write_text(SMALL_CONFIG)
    card = cost_card('own.py', (64, 96), rounds=2)
    assert card['train_memory'] > card['test_memory']


# ------------------------------------------------------------------------- interruptions


def test_an_interrupted_benchmark_keeps_what_was_measured(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_turn = contest.in_turn

    def interrupted(*args: Any, **options: Any) -> Any:
        for i, result in enumerate(in_turn(*args, **options)):
            if i == 5:  # a warm-up of two, a round of two, a call
                raise KeyboardInterrupt
            yield result

    monkeypatch.setattr(contest, 'in_turn', interrupted)
    words = ('--peers', f'{HERE}:conv', f'{HERE}:small', '--sizes', '64', '96')
    assert run(*words) == 130
    found = results(tmp_path)
    assert sorted(len(r['seconds']) for r in found) == [0, 0, 1, 2]
    assert (tmp_path / 'out/benchmark.png').exists()
    assert '| - |' in (tmp_path / 'out/benchmark.md').read_text()


# ----------------------------------------------------------------------------- cost cards


def test_a_card_has_the_cost_of_testing_and_of_training(run: Run, tmp_path: Path) -> None:
    (tmp_path / 'own.py').write_text(SMALL_CONFIG)
    assert run('--cards', 'own.py', '--sizes', '64') == 0
    card = json.loads((tmp_path / 'out/cards.json').read_text())['cards']['own.py']
    assert card['flops'] > 0
    assert len(card['seconds']) == 2
    assert card['test_memory'] > 4 * card['parameters']
    assert card['train_memory'] > 4 * 4 * card['parameters']  # gradients and AdamW's two moments
    assert '| own |' in (tmp_path / 'out/cards.md').read_text()


def test_other_runtimes_predict_in_turn_with_pytorch(run: Run, tmp_path: Path) -> None:
    (tmp_path / 'own.py').write_text(SMALL_CONFIG)
    names = [*runtimes.RUNTIMES]
    assert run('--cards', 'own.py', '--sizes', '160', '--runtimes', *names) == 0
    card = json.loads((tmp_path / 'out/cards.json').read_text())['cards']['own.py']
    assert {name: len(seconds) for name, seconds in card['others'].items()} == dict.fromkeys(
        names, 2
    )
    assert FEW <= card['found'] <= MANY
    assert card['not_run'] == {}
    text = (tmp_path / 'out/cards.md').read_text()
    assert '| ONNX Runtime (ms, times PyTorch) |' in text
    assert 'until a detector found something' in text
    assert run('--cards', 'own.py', '--sizes', '160') == 2  # other cards


def test_a_model_without_counterpart_is_named_and_fused(run: Run, tmp_path: Path) -> None:
    (tmp_path / 'own.py').write_text(SMALL_CONFIG)  # its heads read maps of stride 128
    assert run('--cards', 'own.py', '--sizes', '128', '--runtimes', 'fused', 'onnxruntime') == 0
    card = json.loads((tmp_path / 'out/cards.json').read_text())['cards']['own.py']
    assert [*card['others']] == ['fused']
    text = (tmp_path / 'out/cards.md').read_text()
    assert 'Not in other runtimes:\n\n- own: --size 128 128: both sides must be more than' in text


def test_a_whole_model_is_as_fast_as_in_use_until_it_trains(tmp_path: Path) -> None:
    (tmp_path / 'own.py').write_text(SMALL_CONFIG)
    model = models.build_model(Config.fromfile(tmp_path / 'own.py'))
    assert model.backbone.is_as_built()
    models.spare_single_values(model)
    assert not model.backbone.is_as_built()


def test_cards_go_on_after_an_interruption_and_name_what_failed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    card = dict(parameters=1, flops=1, seconds=[1.0, 2.0], test_memory=1, train_memory=1)
    asked = []

    def measure(options: dict[str, Any]) -> dict[str, Any]:
        asked.append(options['config'])
        if len(asked) == 2:
            raise KeyboardInterrupt
        return dict(failed='needs more memory') if options['config'] == 'c.py' else card

    monkeypatch.setattr(cost_cards, '_in_a_process', measure)
    for name in 'abc':
        (tmp_path / f'{name}.py').write_text(SMALL_CONFIG)
    words = ('--cards', 'a.py', 'b.py', 'c.py')
    assert run(*words) == 130
    assert run(*words) == 0
    assert asked == ['a.py', 'b.py', 'b.py', 'c.py']
    assert '1 of 3 cards were measured before' in capsys.readouterr().err
    text = (tmp_path / 'out/cards.md').read_text()
    assert text.index('| b |') < text.index('Not measured') < text.index('- c: needs more memory')
    assert run(*words, '--batch', '2') == 2  # other options, other cards
    assert 'cards.json holds cards of other options' in capsys.readouterr().err
    assert len(asked) == 4
    (tmp_path / 'out/cards.json').write_text('{"x": 1}')
    assert run(*words) == 2
    assert 'cards.json holds no cost cards' in capsys.readouterr().err


class Failing(nn.Module):
    """A peer that runs so often, or once, when its work is counted, and never again."""

    def __init__(self, calls: int = 1) -> None:
        super().__init__()
        self.calls = calls

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls -= 1
        if self.calls < 0:
            raise RuntimeError('no more')
        return x


def failing_in_rounds() -> nn.Module:
    return Failing(6)  # counted at two sizes; two runs to prepare, one to warm up, one round


class FailingLater(nn.Conv2d):
    """A peer that runs out of luck in a process of its own: it raises, or takes that down."""

    def __init__(self, calls: int = 0, dies: bool = False) -> None:
        super().__init__(3, 8, 3)
        self.calls, self.dies = calls, dies

    def forward(self, x: Tensor) -> Tensor:
        if multiprocessing.parent_process() is not None:
            self.calls -= 1
            if self.calls < 0 and self.dies:
                os._exit(1)
            assert self.calls >= 0, 'no more'
        return super().forward(x)


def failing_in_time() -> nn.Module:
    return FailingLater(calls=3)  # two runs to prepare, one to warm up


def dying() -> nn.Module:
    return FailingLater(dies=True)


@pytest.mark.parametrize(
    ('peer', 'reason'),
    [
        ('FailingLater', 'AssertionError: no more'),
        ('failing_in_time', 'AssertionError: no more'),
        ('dying', 'its process has ended'),
    ],
)
def test_an_isolated_peer_that_fails_is_named(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], peer: str, reason: str
) -> None:
    assert run('--peers', f'{HERE}:{peer}', '--sizes', '64', '--isolate') == 2
    assert f'{HERE}:{peer} cannot run at 64 x 64: RuntimeError: {reason}' in capsys.readouterr().err
    assert results(tmp_path)[0]['flops'] > 0
    assert not multiprocessing.active_children()


def broken() -> nn.Module:
    raise KeyError('depth')


def test_what_was_measured_is_kept_when_a_peer_fails(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ('--peers', f'{HERE}:Failing', f'{HERE}:conv', f'{HERE}:failing_in_rounds')
    assert run(*words, '--sizes', '64', '32', '--rounds', '2') == 1
    said, page = capsys.readouterr().err, (tmp_path / 'out/benchmark.md').read_text()
    for size in ('64 x 64', '32 x 32'):
        for peer in ('Failing', 'failing_in_rounds'):
            line = f'{HERE}:{peer} cannot run at {size}: RuntimeError: no more'
            assert line in said
            assert f'{line}.' in page
    found = results(tmp_path)
    assert [len(result['seconds']) for result in found] == [0, 2, 0] * 2
    assert [result['failed'] is None for result in found] == [False, True, False] * 2
    (row, _) = (line for line in page.splitlines() if line.startswith(f'| {HERE}:conv'))
    assert ' 1.00 ' in row  # the unit is the first that can run
    assert (tmp_path / 'out/benchmark.png').exists()


def test_a_peer_that_cannot_be_made_is_named(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run('--peers', f'{HERE}:broken') == 2
    assert f"--peers {HERE}:broken: KeyError: 'depth'" in capsys.readouterr().err


def test_all_cards_are_those_of_the_shipped_configs() -> None:
    names = cost_cards.shipped()
    assert 'vitbackbones::detection/sepvit_retinanet.py' in names
    assert not any('_base_' in name for name in names)
    assert len(names) > 40


def test_want_of_memory_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**50)
    assert cost_cards._is_want_of_memory(error.value)
    assert not cost_cards._is_want_of_memory(RuntimeError('shapes differ'))


# ------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        ((), 'name candidates with --archs, --peers or --configs'),
        (('--archs', 'sepvit:tny'), '--archs sepvit:tny: unknown, choose from sepvit:tiny'),
        (
            ('--archs', 'shvit:s1', '--arch-options', 'x=1'),
            "SHViT has no option 'x', choose from arch",
        ),
        (('--peers', 'swin'), 'expected timm:NAME, mmdet:NAME or module:callable'),
        (('--peers', 'mmdet:swin'), 'unknown, choose from swin-t, swin-s, resnet-50'),
        (('--peers', 'no_such_module:f'), 'no_such_module cannot be imported: No module named'),
        (('--peers', f'{HERE}:nothing'), "has no attribute 'nothing'"),
        (('--peers', f'{HERE}:no_network'), 'makes a int, not a torch module'),
        (
            ('--peers', f'{HERE}:choosy'),
            'cannot run at 512 x 512: AssertionError: the input must be',
        ),
        (('--configs', 'none.py'), 'there is no config file none.py'),
        (('--cards', 'none.py'), 'there is no config file none.py'),
        (
            ('--cards', 'own.py', '--runtimes', 'ncnn'),
            '--runtimes ncnn: unknown, choose from fused',
        ),
        (('--archs', 'shvit:s1', '--runtimes', 'fused'), '--runtimes goes with --cards'),
        (('--archs', 'shvit:s1', '--device', 'abacus'), "--device 'abacus' cannot be used"),
        (('--archs', 'shvit:s1', '--dtype', 'fp8'), '--dtype fp8: unknown, choose from fp32'),
        (('--archs', 'shvit:s1', '--mode', 'test'), '--mode test: unknown, choose from eval'),
        (('--archs', 'shvit:s1', '--sizes', '0x8'), 'expected HEIGHTxWIDTH in pixels'),
        (('--archs', 'shvit:s1', '--sizes', 'big'), 'expected HEIGHTxWIDTH in pixels'),
        (('--archs', 'shvit:s1', '--batch', '0'), '--batch 0 must be at least 1'),
        (
            ('--archs', 'shvit:s1', '--deploy', '--mode', 'train'),
            '(--deploy, +deploy) is for inference alone: it goes with --mode eval',
        ),
        (
            ('--archs', 'shvit:s1+deploy', '--mode', 'train'),
            '(--deploy, +deploy) is for inference alone: it goes with --mode eval',
        ),
        (('--archs', 'shvit:s1+fast'), "'fast' is unknown, choose from compile, channels-last, d"),
        (('--peers', f'{HERE}:small+deploy'), "'deploy' is unknown, choose from compile, channels"),
        (('--cards', 'all', '--compile'), 'not with --compile'),
        (('--cards', 'all', '--isolate'), 'not with --isolate'),
    ],
)
def test_bad_input_is_one_sentence(
    run: Run, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert 'Traceback' not in error


def test_timm_without_torchvision_is_one_sentence(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'timm', None)
    assert run('--peers', 'timm:resnet50') == 2
    assert '--peers timm:resnet50: timm cannot be imported' in capsys.readouterr().err
