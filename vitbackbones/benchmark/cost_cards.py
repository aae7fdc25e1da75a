"""Cost cards: what testing and training a config takes, each measured in a process of its own.

The process may use the memory that is free when it starts: a model that needs more fails alone, and
is named.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from mmengine.optim import build_optim_wrapper

import vitbackbones
from vitbackbones import files, tables
from vitbackbones.errors import UserError, notice
from vitbackbones.launch.loading import config_path, load_config
from vitbackbones.progress import progress_bar

from .contest import MIB, by
from .flops import count_flops
from .livened import enliven
from .machine import describe_machine, in_words
from .memory import peak_memory, weight_memory
from .models import SIDE, build_model, noise, spare_single_values, usual_size
from .runtimes import RUNTIMES, check_runtimes, in_runtimes
from .timing import in_turn, ratio, spread

CONFIGS = Path(vitbackbones.__file__).parent / '.mim' / 'configs'
IN_TURN = (
    ' Other runtimes predicted in turn with PyTorch, from the same images to the same data '
    'samples; last layers were scaled and shifted until a detector found something.'
)
CHILD = 'from vitbackbones.benchmark.cost_cards import child; child()'


def shipped() -> list[str]:
    """Names of all configs that train a model."""
    paths = sorted(p.relative_to(CONFIGS) for p in CONFIGS.glob('*/**/*.py'))
    return [f'vitbackbones::{p.as_posix()}' for p in paths if '_base_' not in p.parts]


def cost_card(
    config: str,
    size: tuple[int, int] | None = None,
    count: int = 1,
    device: str = 'cpu',
    rounds: int = 10,
    runtimes: Sequence[str] = (),
) -> dict[str, Any]:
    """Parameters, operations, seconds and bytes of predicting and of one training step.

    A step has its gradients and the state of the config's optimiser. GPUs train as configs say,
    CPUs without mixed precision unless a config has it.

    Args:
        size: height and width of images; None for :func:`~.models.usual_size`.
        count: images in a batch.
        rounds: how often predicting is timed.
        runtimes: of :data:`RUNTIMES`, which predict in turn with PyTorch. The model is then one
            that finds something: with boxes of random weights half of a detector has no work.

    Returns:
        ``size, parameters, flops`` (of one image), ``seconds`` (one per round), ``test_memory`` and
        ``train_memory`` (bytes at the peak); with runtimes ``found``, boxes in an image,
        ``others``, seconds by name, and ``not_run``, why by name.

    Raises:
        UserError: the config cannot be read or built.
    """
    cfg = load_config(config)
    size = size or usual_size(cfg)
    model = build_model(cfg).to(device)
    data = noise(cfg, model, *size, count)
    weights = weight_memory(model)

    def predict() -> None:
        with torch.no_grad():
            model.test_step(data)

    model.eval()
    predict()
    flops = count_flops(predict).total
    test = peak_memory(predict, device)
    card: dict[str, Any] = dict(size=size, flops=flops / count, test_memory=weights + test)
    with TemporaryDirectory() as folder:
        others: dict[str, Callable[[], Any]] = {}
        if runtimes:
            card['found'] = enliven(model, data['inputs'][0].flip(0)[None])
            others, card['not_run'] = in_runtimes(cfg, model, data, runtimes, Path(folder))
        seconds: dict[str, list[float]] = {name: [] for name in ('', *others)}
        for name, value in in_turn({'': predict, **others}, rounds, device=device):
            if value is not None:
                seconds[name].append(value)
    card['seconds'] = seconds.pop('')
    if runtimes:
        card['others'] = seconds
    del others
    spare_single_values(model)
    model.train()
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    train = peak_memory(lambda: model.train_step(data, wrapper), device)
    card['train_memory'] = weights + train
    return dict(card, parameters=sum(p.numel() for p in model.parameters()))


class CostCards:
    """Cost cards of configs, and the file in ``folder`` that keeps them.

    Args:
        configs: their names, ``'all'`` for every shipped one.
        folder: an existing one, for cards.json and cards.md.
        size: height and width of images; None for what each is measured with.

    Raises:
        UserError: there is no such config, or the folder holds cards of something else.
    """

    def __init__(
        self,
        configs: Sequence[str],
        folder: Path,
        *,
        size: tuple[int, int] | None = None,
        batch: int = 1,
        device: str = 'cpu',
        rounds: int = 10,
        runtimes: Sequence[str] = (),
    ) -> None:
        check_runtimes(runtimes, device)
        self.configs = shipped() if 'all' in configs else list(dict.fromkeys(configs))
        for config in self.configs:
            config_path(config)  # or it is the user's to fix
        self.folder = folder
        self.options: dict[str, Any] = dict(
            size=size and list(size),
            count=batch,
            device=device,
            rounds=rounds,
            threads=torch.get_num_threads(),
            **(dict(runtimes=list(runtimes)) if runtimes else {}),  # as cards of before have it
        )
        self.content: dict[str, Any] = dict(
            machine=describe_machine(device), options=self.options, cards={}
        )
        self._restore()

    @property
    def file(self) -> Path:
        return self.folder / 'cards.json'

    def _restore(self) -> None:
        """Take over what an earlier run measured with the same options on the same versions."""
        try:
            content = json.loads(self.file.read_text())
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            raise UserError(f'{self.file} cannot be gone on with: {error}; remove it') from error
        if not isinstance(content, dict) or not {'machine', 'options', 'cards'} <= content.keys():
            raise UserError(f'{self.file} holds no cost cards; remove it')
        machine = {**content['machine'], 'date': self.content['machine']['date']}
        if machine != self.content['machine'] or content['options'] != self.options:
            raise UserError(
                f'{self.file} holds cards of other options, another machine or another version: '
                'choose another --out-dir, or remove it'
            )
        found = {name: card for name, card in content['cards'].items() if 'failed' not in card}
        self.content['cards'] = found
        known = sum(config in found for config in self.configs)
        if known:
            notice(f'{known} of {len(self.configs)} cards were measured before: reusing them')

    def measure(self) -> None:
        """Measure each config that has no card yet; what is finished is kept at once."""
        cards = self.content['cards']
        with progress_bar() as progress:
            for config in progress.track(self.configs, description='cost cards'):
                if config not in cards:
                    cards[config] = _in_a_process({'config': config, **self.options})
                    self._save()

    def _save(self) -> None:
        files.write(self.file, json.dumps(self.content, indent=1) + '\n')

    def report(self) -> str:
        """What there is, as Markdown; it is written to the folder, too."""
        self._save()
        known = {c: self.content['cards'][c] for c in self.configs if c in self.content['cards']}
        head = ['config', 'images', 'parameters (M)', 'multiply-adds (G)', 'latency (ms)', 'spread']
        head += ['memory of testing (MiB)', 'of training (MiB)']
        runtimes = self.options.get('runtimes', ())
        head += [f'{RUNTIMES[name][0]} (ms, times PyTorch)' for name in runtimes]
        head += ['boxes found'] * bool(runtimes)
        rows = [
            [
                _short(config),
                by(card.get('size', (SIDE, SIDE))),
                f'{card["parameters"] / 1e6:.1f}',
                f'{card["flops"] / 2e9:.1f}',
                f'{1000 * statistics.median(card["seconds"]):.0f}',
                tables.percent(spread(card['seconds'])),
                f'{card["test_memory"] / MIB:.0f}',
                f'{card["train_memory"] / MIB:.0f}',
                *(_beside(card, name) for name in runtimes),
                *([str(card['found'])] if runtimes else []),
            ]
            for config, card in known.items()
            if 'failed' not in card
        ]
        failed = [
            f'- {_short(config)}: {card["failed"]}\n'
            for config, card in known.items()
            if 'failed' in card
        ]
        options = self.options
        text = (
            f'Batch {options["count"]}, {options["device"]}, '
            f'{options["threads"]} thread(s), random weights.\n\n{tables.markdown(head, rows)}\n'
            + (f'Not measured on this machine:\n\n{"".join(failed)}\n' if failed else '')
            + _not_run(known)
            + 'Multiply-adds of one image, attention counted. Latency: prediction, median of '
            f'{options["rounds"]} rounds; spread: quartile distance over median. Memory: weights '
            "and tensors at the peak, in training with gradients and the optimiser's state."
            f'{IN_TURN if runtimes else ""}\n\n'
            f'Measured on {in_words(self.content["machine"])}.\n'
        )
        files.write(self.folder / 'cards.md', text)
        return text


def _beside(card: Mapping[str, Any], name: str) -> str:
    seconds = card['others'].get(name)
    if not seconds:
        return '-'
    return f'{1000 * statistics.median(seconds):.0f}, {ratio(seconds, card["seconds"]):.2f}'


def _not_run(cards: Mapping[str, Mapping[str, Any]]) -> str:
    """Of configs that other runtimes cannot compute, why."""
    lines = [
        f'- {_short(config)}: {reason}\n'
        for config, card in cards.items()
        for reason in dict.fromkeys(card.get('not_run', {}).values())
    ]
    return f'Not in other runtimes:\n\n{"".join(lines)}\n' if lines else ''


def _short(config: str) -> str:
    return config.rpartition('::')[2].removesuffix('.py')


def _in_a_process(options: Mapping[str, Any]) -> dict[str, Any]:
    """What :func:`cost_card` returns, or ``failed``: why there is nothing."""
    root = str(Path(vitbackbones.__file__).parents[1])
    path = os.pathsep.join(filter(None, (root, os.environ.get('PYTHONPATH'))))
    command = [sys.executable, '-W', 'ignore', '-c', CHILD, json.dumps(options)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, 'PYTHONPATH': path}
    )
    lines = done.stdout.splitlines()
    if done.returncode == 0 and lines:
        return json.loads(lines[-1])
    if done.returncode < 0:
        return dict(failed=f'stopped by signal {-done.returncode}, as for want of memory')
    reason = (done.stderr.splitlines() or ['it said nothing'])[-1]
    return dict(failed=reason)


def child() -> None:
    """The process of one config: prints what was measured as its last line."""
    options = json.loads(sys.argv[1])
    torch.set_num_threads(options.pop('threads'))
    limit = _limit_memory() if options['device'] == 'cpu' else None
    try:
        result = cost_card(**{**options, 'size': options['size'] and tuple(options['size'])})
    except UserError as error:
        result = dict(failed=str(error))
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or _is_want_of_memory(error)):
            raise
        there = '' if limit is None else f' than the {limit / 2**30:.1f} GiB that were free'
        result = dict(failed=f'needs more memory{there}')
    print()
    print(json.dumps(result))


def _limit_memory() -> int | None:
    """Keep this process within the memory that is free now; that in bytes, None if unknown."""
    try:
        import resource

        lines = Path('/proc/meminfo').read_text().splitlines()
    except (ImportError, OSError):  # no Linux
        return None
    free = next(int(line.split()[1]) for line in lines if line.startswith('MemAvailable')) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (free, free))
    return free


def _is_want_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.cuda.OutOfMemoryError) or "can't allocate memory" in str(error)
