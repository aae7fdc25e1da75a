"""A network that is added is everywhere by being registered: no list anywhere names it."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOY = ROOT / 'tests' / 'toy_network.py'


def run(*argv: str, cwd: Path = ROOT) -> str:
    """What a fresh interpreter prints, so that no other test meets the network."""
    command = [sys.executable, '-W', 'ignore', *argv]
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def vitbackbones(*argv: str) -> str:
    code = (
        'import sys, tests.toy_network\n'
        'from vitbackbones.cli.main import main\n'
        f'sys.exit(main({argv!r}))'
    )
    return run('-c', code)


def test_it_is_written_in_thirty_lines() -> None:
    _, _, definition = TOY.read_text(encoding='utf-8').partition('@register(MODELS)\n')
    lines = inspect.getblock(definition.splitlines(keepends=True))
    assert len([line for line in lines if line.strip()]) <= 30


def test_the_contract_covers_it() -> None:
    """All of it but what is trained in processes that start without the network."""
    options = ('-p', 'no:cacheprovider', '-p', 'tests.toy_network', '-k', 'ToyNet and not two_proc')
    out = run('-m', 'pytest', 'tests/test_contract.py', *options)
    passed, *others = re.findall(r'(\d+) (passed|failed|error|skipped)', out)
    assert int(passed[0]) > 80
    assert others == []


def test_info_lists_it() -> None:
    lines = [line.split() for line in vitbackbones('info').splitlines()]
    assert {line[0] for line in lines} > {'toynet_t', 'sepvit_lite'}
    (tiny,) = [line for line in lines if line[:3] == ['toynet_t', 'ToyNet', 't']]
    assert tiny[-6:] == ['8', '12', '16', '8', '16', '32']
    assert len(vitbackbones('info', 'toynet_s').splitlines()) == 2


def test_it_is_created_by_name_and_loads_what_it_saved(tmp_path: Path) -> None:
    code = (
        'import torch, vitbackbones, tests.toy_network\n'
        'assert "toynet_t" in vitbackbones.list_backbones()\n'
        'net = vitbackbones.create("toynet_t")\n'
        f'path = {str(tmp_path / "toy.pth")!r}\n'
        'torch.save({**net.state_dict(), "head.weight": torch.ones(1)}, path)\n'
        'part = vitbackbones.create("toynet_t", path, in_channels=1, out_indices=(1,))\n'
        'assert torch.equal(part.downs[0].weight, net.downs[0].weight)\n'
        'try:\n'
        '    vitbackbones.create("shvit_s1", path)\n'
        'except vitbackbones.CheckpointError as error:\n'
        '    print(error)\n'
    )
    assert "The file fits type='ToyNet', arch='t'" in run('-c', code)


def test_the_benchmark_measures_it(tmp_path: Path) -> None:
    argv = ('--archs', 'toynet:t', 'shvit:s1', '--sizes', '64x64', '--rounds', '1')
    vitbackbones('benchmark', *argv, '--out-dir', str(tmp_path))
    assert 'toynet' in (tmp_path / 'benchmark.json').read_text().lower()
