"""Speed and memory of backbones and of whole models, in turn with each other and with peers.

Contestants are backbones of ours (--archs), of other packages (--peers) and whole detectors and
segmentors (--configs), all with random weights. They run in turn within this process; the first,
of --peers before --archs before --configs, is the unit of the ratios. A backbone or peer may take
part several times: shvit:s4 shvit:s4+compile shvit:s4+deploy shvit:s4+channels-last. With --isolate
each has a process of its own, where no other's freed memory serves it, and they still run in turn.
--cards measures what testing and training each config takes instead, one process after the other.
The results are benchmark.md, .json and .png, or cards.md and .json, in the output folder; an
interruption keeps what there is, and cards go on where they stopped.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch._inductor.config as inductor
from rich.progress import Progress

from vitbackbones import files, tables
from vitbackbones.benchmark.flops import count_flops
from vitbackbones.benchmark.machine import describe_machine, in_words
from vitbackbones.benchmark.plots import Bar, bar_plot
from vitbackbones.benchmark.timing import in_turn, quartiles, ratio, spread
from vitbackbones.errors import UserError, notice
from vitbackbones.inference.predict import usable_device
from vitbackbones.launch.loading import config_path
from vitbackbones.progress import progress_bar

from .arguments import KeyValue
from .contestants import DTYPES, MMDET, Contestant, Setting, arch_names, backbone, peer, whole
from .cost_cards import cards, shipped
from .runners import Elsewhere, Here

MIB = 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--archs', nargs='+', default=[], help="sepvit:tiny gcvit:tiny ..., or 'all' of them"
    )
    parser.add_argument(
        '--arch-options',
        nargs='+',
        action=KeyValue,
        default={},
        metavar='KEY=VALUE',
        help='of all --archs: out_indices=[2] with_cp=True',
    )
    parser.add_argument(
        '--peers',
        nargs='+',
        default=[],
        help=f'timm:NAME, mmdet:NAME ({", ".join(MMDET)}) or module:callable making a network',
    )
    parser.add_argument(
        '--configs', nargs='+', default=[], help='detectors and segmentors, as for training'
    )
    parser.add_argument(
        '--cards', nargs='+', default=[], metavar='CONFIG', help="or 'all' that are shipped"
    )
    parser.add_argument(
        '--sizes', nargs='+', default=['512x512'], help='of pictures, HEIGHTxWIDTH (512x512)'
    )
    parser.add_argument('--batch', type=int, default=1, help='pictures at a time (%(default)s)')
    parser.add_argument('--device', default='cpu', help='cpu or cuda (%(default)s)')
    parser.add_argument(
        '--dtype', default='fp32', help=f'{", ".join(DTYPES)}; autocast in training, (%(default)s)'
    )
    parser.add_argument(
        '--mode', default='eval', help='eval, or train: forward and backward (%(default)s)'
    )
    parser.add_argument(
        '--compile',
        action='store_true',
        help='torch.compile every backbone; for eval freezing its weights',
    )
    parser.add_argument('--channels-last', action='store_true', help='NHWC in memory')
    parser.add_argument('--deploy', action='store_true', help='fuse what is ours')
    parser.add_argument(
        '--isolate', action='store_true', help='each contestant in a process of its own'
    )
    parser.add_argument('--threads', type=int, help="of torch on a CPU (torch's own choice)")
    parser.add_argument('--rounds', type=int, default=10, help='of all in turn (%(default)s)')
    parser.add_argument('--out-dir', default='work_dirs/benchmark', help='(%(default)s)')


def run(args: argparse.Namespace) -> int:
    """Measure as ``args`` say; 130 if that was interrupted, else 0.

    Raises:
        UserError: an option is not right, or a contestant cannot be built or run.
    """
    setting, sizes = _setting(args), [read_size(word) for word in args.sizes]
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    folder = Path(args.out_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'--out-dir {folder}: {error.strerror}') from error
    study: Contest | Cards
    if args.cards:
        study = Cards(args, sizes, setting, folder)
    else:
        study = Contest(args, sizes, setting, folder)
    try:
        with progress_bar() as progress:
            study.measure(progress)
    except KeyboardInterrupt:
        notice('interrupted; what was measured is kept')
        return 130
    finally:
        study.report()
    return 0


def _setting(args: argparse.Namespace) -> Setting:
    for option, choices in (('dtype', [*DTYPES]), ('mode', ['eval', 'train'])):
        if getattr(args, option) not in choices:
            raise UserError(
                f'--{option} {getattr(args, option)}: unknown, choose from {", ".join(choices)}'
            )
    for option in ('batch', 'threads', 'rounds'):
        value = getattr(args, option)
        if value is not None and value < 1:
            raise UserError(f'--{option} {value} must be at least 1')
    if args.deploy and args.mode == 'train':
        raise UserError('--deploy is for inference alone: it goes with --mode eval')
    if not (args.archs or args.peers or args.configs or args.cards):
        raise UserError(
            'name contestants with --archs, --peers or --configs, or configs of --cards'
        )
    if args.cards:
        others = ('archs', 'peers', 'configs', 'compile', 'channels_last', 'deploy', 'isolate')
        given = [name for name in others if getattr(args, name)]
        given += [
            name
            for name, usual in (('dtype', 'fp32'), ('mode', 'eval'))
            if getattr(args, name) != usual
        ]
        if given or len(args.sizes) > 1:
            raise UserError(
                '--cards goes with one of --sizes, --batch, --device, --threads and --rounds, not '
                f'with {", ".join("--" + name.replace("_", "-") for name in given) or "several"}'
            )
    return Setting(
        device=usable_device(args.device),
        dtype=DTYPES[args.dtype],
        batch=args.batch,
        train=args.mode == 'train',
        compile=args.compile,
        channels_last=args.channels_last,
        deploy=args.deploy,
    )


def read_size(word: str) -> tuple[int, int]:
    """Height and width of ``512x800`` or ``512``.

    Raises:
        UserError: it is neither.
    """
    try:
        sides = [int(side) for side in word.split('x')]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise UserError(f'--sizes {word}: expected HEIGHTxWIDTH in pixels, as in 800x1216')
    return sides[0], sides[-1]


class Contest:
    """Contestants at several sizes, and what was measured of them so far."""

    def __init__(
        self,
        args: argparse.Namespace,
        sizes: Sequence[tuple[int, int]],
        setting: Setting,
        folder: Path,
    ) -> None:
        self.setting = setting
        self.sizes = sizes
        self.rounds = args.rounds
        self.folder = folder
        archs = arch_names() if 'all' in args.archs else args.archs
        torch.manual_seed(0)
        makers = [
            *(partial(peer, word, setting) for word in dict.fromkeys(args.peers)),
            *(partial(backbone, word, args.arch_options, setting) for word in dict.fromkeys(archs)),
            *(partial(whole, word, None, setting) for word in dict.fromkeys(args.configs)),
        ]
        self.isolate = args.isolate
        self.contestants = [(make, make()) for make in makers]
        names = [
            'batch',
            'device',
            'dtype',
            'mode',
            'compile',
            'channels_last',
            'deploy',
            'isolate',
        ]
        names += ['rounds', 'arch_options']
        self.content: dict[str, Any] = dict(
            machine=describe_machine(setting.device),
            setting={name: getattr(args, name) for name in names},
            results=[],
        )

    def measure(self, progress: Progress) -> None:
        task = progress.add_task('counting', total=len(self.sizes) * len(self.contestants))
        for size in self.sizes:
            for _, contestant in self.contestants:
                progress.update(task, description=f'counting {contestant.name}')
                self.content['results'].append(self.count(contestant, size))
                progress.advance(task)
        runners: dict[str, Here | Elsewhere] = {}
        with ExitStack() as stack:
            while self.contestants:
                make, contestant = self.contestants.pop(0)
                if self.isolate:
                    elsewhere = closing(Elsewhere(make, self.setting))
                    runners[contestant.name] = stack.enter_context(elsewhere)
                else:
                    runners[contestant.name] = Here(contestant, self.setting)
            del contestant  # with its weights, if it runs elsewhere
            torch.cuda.empty_cache()
            # What serves inference alone may have its weights laid out as the machine likes them.
            with inductor.patch(freezing=not self.setting.train):
                for size in self.sizes:
                    self.time(progress, size, runners)

    def count(self, contestant: Contestant, size: tuple[int, int]) -> dict[str, Any]:
        """What does not depend on the load of the machine."""
        forward, _ = contestant.at(*size)
        with _blaming(contestant.name, size):
            flops = count_flops(forward).total / self.setting.batch
        return dict(
            name=contestant.name,
            size=list(size),
            parameters=sum(p.numel() for p in contestant.model.parameters()),
            flops=flops,
            peak_memory=None,
            seconds=[],
        )

    def time(
        self, progress: Progress, size: tuple[int, int], runners: Mapping[str, Here | Elsewhere]
    ) -> None:
        results = {r['name']: r for r in self.content['results'] if r['size'] == list(size)}
        device = self.setting.device
        torch.compiler.reset()  # what was compiled for one size is not to slow down another
        total = (2 + self.rounds) * len(runners)
        task = progress.add_task(f'{_by(size)}: memory', total=total)
        for name, runner in runners.items():
            with _blaming(name, size):
                results[name]['peak_memory'] = runner.prepare(size)
            progress.advance(task)
        runs = {name: _blaming(name, size)(runner.run) for name, runner in runners.items()}
        progress.update(task, description=f'{_by(size)}: timing')
        for name, seconds in in_turn(runs, self.rounds, device=device):
            if seconds is not None:
                results[name]['seconds'].append(seconds)
            progress.advance(task)
        files.write(self.folder / 'benchmark.json', json.dumps(self.content, indent=1) + '\n')

    def report(self) -> None:
        """Write and print what there is."""
        files.write(self.folder / 'benchmark.json', json.dumps(self.content, indent=1) + '\n')
        page, panels = [f'{self.title()}\n'], {}
        for size in self.sizes:
            results = [r for r in self.content['results'] if r['size'] == list(size)]
            if results:
                page.append(f'### {_by(size)}\n\n{self.table(results)}')
            timed = [r for r in results if r['seconds']]
            if timed:
                panels[_by(size)] = [self.bar(r, timed[0]) for r in timed]
        page.append(
            'Multiply-adds and GFLOPs (two per multiply-add) of one picture, forward, attention '
            'counted. Spread: quartile distance over median. Ratio: to the time of the first, '
            'median over the rounds. Memory: weights and tensors at the peak.\n\n'
            f'Measured on {in_words(self.content["machine"])}.\n'
        )
        text = '\n'.join(page)
        files.write(self.folder / 'benchmark.md', text)
        print(text, end='')
        if panels:
            plot = bar_plot(panels, title=self.title(), x_label='time, in units of the first')
            files.write(self.folder / 'benchmark.png', plot)
        print(f'results are in {self.folder}')

    def title(self) -> str:
        s = self.content['setting']
        words = [str(s['device']), s['dtype'], s['mode'], f'batch {s["batch"]}']
        flags = ('compile', 'channels_last', 'deploy', 'isolate')
        words += [key.replace('_', '-') for key in flags if s[key]]
        words += [f'{key}={value}' for key, value in s['arch_options'].items()]
        if s['device'] == 'cpu':
            words.append(f'{self.content["machine"]["threads"]} thread(s)')
        return ', '.join(words)

    def table(self, results: Sequence[Mapping[str, Any]]) -> str:
        head = ['', 'parameters (M)', 'multiply-adds (G)', 'GFLOPs', 'median (ms)', 'spread']
        head += ['ratio', 'pictures/s', 'peak memory (MiB)']
        reference, rows = results[0]['seconds'], []
        for r in results:
            seconds, memory = r['seconds'], r['peak_memory']
            row = [r['name'], f'{r["parameters"] / 1e6:.2f}']
            row += [f'{r["flops"] / 2e9:.2f}', f'{r["flops"] / 1e9:.2f}']
            if seconds and reference:
                median = statistics.median(seconds)
                row += [f'{1000 * median:.1f}', tables.percent(spread(seconds))]
                row += [f'{ratio(seconds, reference):.2f}', f'{self.setting.batch / median:.2f}']
            else:
                row += ['-'] * 4
            rows.append([*row, '-' if memory is None else f'{memory / MIB:.0f}'])
        return tables.markdown(head, rows)

    def bar(self, result: Mapping[str, Any], first: Mapping[str, Any]) -> Bar:
        ratios = [a / b for a, b in zip(result['seconds'], first['seconds'], strict=False)]
        low, middle, high = quartiles(ratios)
        milliseconds = 1000 * statistics.median(result['seconds'])
        return Bar(result['name'], middle, low, high, f'{middle:.2f}   ({milliseconds:.1f} ms)')


class Cards:
    """Cost cards of configs, and the file that keeps them."""

    def __init__(
        self,
        args: argparse.Namespace,
        sizes: Sequence[tuple[int, int]],
        setting: Setting,
        folder: Path,
    ) -> None:
        self.configs = shipped() if 'all' in args.cards else list(dict.fromkeys(args.cards))
        for config in self.configs:
            config_path(config)  # or it is the user's to fix
        self.folder = folder
        self.options = dict(
            size=list(sizes[0]),
            count=args.batch,
            device=str(setting.device),
            rounds=args.rounds,
            threads=torch.get_num_threads(),
        )
        self.content = dict(
            machine=describe_machine(setting.device), options=self.options, cards={}
        )
        self.restore()

    @property
    def file(self) -> Path:
        return self.folder / 'cards.json'

    def restore(self) -> None:
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

    def measure(self, progress: Progress) -> None:
        done = cards(self.configs, self.content['cards'], self.options)
        for _ in progress.track(done, len(self.configs), description='cost cards'):
            self.save()

    def save(self) -> None:
        files.write(self.file, json.dumps(self.content, indent=1) + '\n')

    def report(self) -> None:
        """Write and print what there is."""
        self.save()
        known = {c: self.content['cards'][c] for c in self.configs if c in self.content['cards']}
        head = ['config', 'parameters (M)', 'multiply-adds (G)', 'latency (ms)', 'spread']
        head += ['memory of testing (MiB)', 'of training (MiB)']
        rows = [
            [
                _short(config),
                f'{card["parameters"] / 1e6:.1f}',
                f'{card["flops"] / 2e9:.1f}',
                f'{1000 * statistics.median(card["seconds"]):.0f}',
                tables.percent(spread(card['seconds'])),
                f'{card["test_memory"] / MIB:.0f}',
                f'{card["train_memory"] / MIB:.0f}',
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
            f'Batch {options["count"]}, {_by(options["size"])}, {options["device"]}, '
            f'{options["threads"]} thread(s), random weights.\n\n{tables.markdown(head, rows)}\n'
            + (f'Not measured on this machine:\n\n{"".join(failed)}\n' if failed else '')
            + 'Multiply-adds of one picture, attention counted. Latency: prediction, median of '
            f'{options["rounds"]} rounds; spread: quartile distance over median. Memory: weights '
            "and tensors at the peak, in training with gradients and the optimiser's state.\n\n"
            f'Measured on {in_words(self.content["machine"])}.\n'
        )
        files.write(self.folder / 'cards.md', text)
        print(text, end='')
        print(f'results are in {self.folder}')


@contextmanager
def _blaming(name: str, size: tuple[int, int]) -> Iterator[None]:
    """Name who could not run: somebody's network may raise anything at a size or type."""
    try:
        yield
    except Exception as error:
        what = f'{type(error).__name__}: {error}'
        raise UserError(f'{name} cannot run at {_by(size)}: {what}') from error


def _by(size: Sequence[int]) -> str:
    return f'{size[0]} x {size[1]}'


def _short(config: str) -> str:
    return config.rpartition('::')[2].removesuffix('.py')
