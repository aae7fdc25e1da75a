"""Speed and memory of candidates, measured in turn at several sizes."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.progress import Progress

from vitbackbones import files, tables
from vitbackbones.errors import UserError, notice
from vitbackbones.progress import progress_bar

from .candidates import DTYPES, Candidate, Setting, arch_names, backbone, peer, whole_model
from .flops import count_flops
from .machine import describe_machine, in_words
from .plots import Bar, bar_plot
from .processes import InProcess, Subprocess
from .timing import in_turn, quartiles, ratio, spread

MIB = 2**20

T = TypeVar('T')


class Contest:
    """Candidates at several sizes, and what was measured of them so far.

    They run in turn; the first, of ``peers`` before ``archs`` before ``configs``, is the unit of
    the ratios. All have random weights. Who cannot run at a size is named, and the others go on.

    Args:
        peers: networks of other packages, see :func:`.candidates.peer`.
        archs: backbones of ours, see :func:`.candidates.backbone`; ``'all'`` for every one.
        configs: whole detectors and segmentors.
        arch_options: constructor arguments of all ``archs``.
        sizes: (height, width) in pixels.
        rounds: how often all are timed at each size.
        isolate: each candidate in a process of its own.
        folder: where the results are kept as benchmark.json, .md and .png; nowhere if None.

    Raises:
        UserError: a candidate is unknown or cannot be built.
    """

    def __init__(
        self,
        *,
        peers: Sequence[str] = (),
        archs: Sequence[str] = (),
        configs: Sequence[str] = (),
        arch_options: Mapping[str, Any] | None = None,
        setting: Setting | None = None,
        sizes: Sequence[tuple[int, int]] = ((512, 512),),
        rounds: int = 10,
        isolate: bool = False,
        folder: Path | None = None,
    ) -> None:
        self.setting = setting = setting or Setting()
        self.sizes = sizes
        self.rounds = rounds
        self.isolate = isolate
        self.folder = folder
        options = dict(arch_options or {})
        names = arch_names() if 'all' in archs else archs
        torch.manual_seed(0)
        makers = [
            *(partial(peer, word, setting) for word in dict.fromkeys(peers)),
            *(partial(backbone, word, options, setting) for word in dict.fromkeys(names)),
            *(partial(whole_model, word, None, setting) for word in dict.fromkeys(configs)),
        ]
        self.candidates = [(make, make()) for make in makers]
        dtypes = {dtype: word for word, dtype in DTYPES.items()}
        self.content: dict[str, Any] = dict(
            machine=describe_machine(setting.device),
            setting=dict(
                batch=setting.batch,
                device=str(setting.device),
                dtype=dtypes[setting.dtype],
                mode='train' if setting.train else 'eval',
                compile=setting.compile,
                channels_last=setting.channels_last,
                deploy=setting.deploy,
                isolate=isolate,
                rounds=rounds,
                arch_options=options,
            ),
            results=[],
        )

    @property
    def results(self) -> list[dict[str, Any]]:
        """One of each candidate at each size.

        ``name, size, parameters, flops`` (of one image), ``peak_memory`` (bytes, weights included),
        ``seconds``, one value per round, and ``failed``, why it cannot run. Those that were not
        measured, and the last of who can, are None.
        """
        return self.content['results']

    @property
    def failures(self) -> list[str]:
        """Who cannot run at which size, and why: a sentence for each."""
        return [_failure(r) for r in self.results if r['failed'] is not None]

    def measure(self) -> None:
        """Measure all; what is finished before an interruption is kept.

        Raises:
            UserError: no candidate can run.
        """
        import torch._inductor.config as inductor  # the compiler: most uses of this room spare it

        with progress_bar() as progress:
            self._count_all(progress)
            runners: dict[str, InProcess | Subprocess] = {}
            with ExitStack() as stack:
                while self.candidates:
                    make, candidate = self.candidates.pop(0)
                    if self.isolate:
                        process = closing(Subprocess(make, self.setting))
                        runners[candidate.name] = stack.enter_context(process)
                    else:
                        runners[candidate.name] = InProcess(candidate, self.setting)
                    del candidate  # with its weights, if it runs in another process
                torch.cuda.empty_cache()
                # What serves inference alone may have its weights laid out as the machine likes.
                with inductor.patch(freezing=not self.setting.train):
                    for size in self.sizes:
                        self._time(progress, size, runners)
        if self.failures and not any(r['seconds'] for r in self.results):
            raise UserError(self.failures[0])
        for failure in self.failures:
            notice(failure)

    def _count_all(self, progress: Progress) -> None:
        task = progress.add_task('counting', total=len(self.sizes) * len(self.candidates))
        for size in self.sizes:
            for _, candidate in self.candidates:
                progress.update(task, description=f'counting {candidate.name}')
                self.results.append(self._count(candidate, size))
                progress.advance(task)

    def _count(self, candidate: Candidate, size: tuple[int, int]) -> dict[str, Any]:
        """What does not depend on the load of the machine."""
        result: dict[str, Any] = dict(
            name=candidate.name,
            size=list(size),
            parameters=sum(p.numel() for p in candidate.model.parameters()),
            flops=None,
            peak_memory=None,
            seconds=[],
            failed=None,
        )
        forward, _ = candidate.at(*size)
        flops = _attempt(result, lambda: count_flops(forward).total)
        if flops is not None:
            result['flops'] = flops / self.setting.batch
        return result

    def _time(
        self,
        progress: Progress,
        size: tuple[int, int],
        runners: Mapping[str, InProcess | Subprocess],
    ) -> None:
        results = {r['name']: r for r in self.results if r['size'] == list(size)}
        torch.compiler.reset()  # what was compiled for one size is not to slow down another
        task = progress.add_task(f'{by(size)}: memory', total=len(runners))
        for name, runner in runners.items():
            result = results[name]
            result['peak_memory'] = _attempt(result, partial(runner.prepare, size))
            progress.advance(task)
        runs = {
            name: partial(_attempt, results[name], runner.run)
            for name, runner in runners.items()
            if results[name]['failed'] is None
        }
        total = len(runners) + (1 + self.rounds) * len(runs)
        progress.update(task, description=f'{by(size)}: timing', total=total)
        for name, seconds in in_turn(runs, self.rounds, device=self.setting.device):
            if seconds is not None and results[name]['failed'] is None:
                results[name]['seconds'].append(seconds)
            progress.advance(task)
        self._keep('benchmark.json', json.dumps(self.content, indent=1) + '\n')

    def report(self) -> str:
        """What there is, as Markdown; it is written to the folder, too, with figures and plot."""
        self._keep('benchmark.json', json.dumps(self.content, indent=1) + '\n')
        page, panels = [f'{self._title()}\n'], {}
        for size in self.sizes:
            results = [r for r in self.results if r['size'] == list(size)]
            if results:
                page.append(f'### {by(size)}\n\n{self._table(results)}')
            page += [f'{_failure(r)}.\n' for r in results if r['failed'] is not None]
            timed = [r for r in results if r['seconds']]
            if timed:
                panels[by(size)] = [_bar(r, timed[0]) for r in timed]
        page.append(
            'Multiply-adds and GFLOPs (two per multiply-add) of one image, forward, attention '
            'counted. Spread: quartile distance over median. Ratio: to the time of the first, '
            'median over the rounds. Memory: weights and tensors at the peak.\n\n'
            f'Measured on {in_words(self.content["machine"])}.\n'
        )
        text = '\n'.join(page)
        self._keep('benchmark.md', text)
        if panels and self.folder is not None:
            plot = bar_plot(panels, title=self._title(), x_label='time, in units of the first')
            self._keep('benchmark.png', plot)
        return text

    def _keep(self, name: str, content: str | bytes) -> None:
        if self.folder is not None:
            files.write(self.folder / name, content)

    def _title(self) -> str:
        s = self.content['setting']
        words = [str(s['device']), s['dtype'], s['mode'], f'batch {s["batch"]}']
        flags = ('compile', 'channels_last', 'deploy', 'isolate')
        words += [key.replace('_', '-') for key in flags if s[key]]
        words += [f'{key}={value}' for key, value in s['arch_options'].items()]
        if s['device'] == 'cpu':
            words.append(f'{self.content["machine"]["threads"]} thread(s)')
        return ', '.join(words)

    def _table(self, results: Sequence[Mapping[str, Any]]) -> str:
        head = ['', 'parameters (M)', 'multiply-adds (G)', 'GFLOPs', 'median (ms)', 'spread']
        head += ['ratio', 'images/s', 'peak memory (MiB)']
        reference: list[float] = next((r['seconds'] for r in results if r['seconds']), [])
        rows = []
        for r in results:
            seconds, memory, flops = r['seconds'], r['peak_memory'], r['flops']
            row = [r['name'], f'{r["parameters"] / 1e6:.2f}']
            row += ['-'] * 2 if flops is None else [f'{flops / 2e9:.2f}', f'{flops / 1e9:.2f}']
            if seconds and reference:
                median = statistics.median(seconds)
                row += [f'{1000 * median:.1f}', tables.percent(spread(seconds))]
                row += [f'{ratio(seconds, reference):.2f}', f'{self.setting.batch / median:.2f}']
            else:
                row += ['-'] * 4
            rows.append([*row, '-' if memory is None else f'{memory / MIB:.0f}'])
        return tables.markdown(head, rows)


def _bar(result: Mapping[str, Any], first: Mapping[str, Any]) -> Bar:
    ratios = [a / b for a, b in zip(result['seconds'], first['seconds'], strict=False)]
    low, middle, high = quartiles(ratios)
    milliseconds = 1000 * statistics.median(result['seconds'])
    return Bar(result['name'], middle, low, high, f'{middle:.2f}   ({milliseconds:.1f} ms)')


def _attempt(result: dict[str, Any], work: Callable[[], T]) -> T | None:
    """What a candidate is to do for its ``result``; once it cannot, that says why, and alone.

    Somebody's network may raise anything at a size or type.
    """
    if result['failed'] is not None:
        return None
    try:
        return work()
    except Exception as error:
        result.update(failed=f'{type(error).__name__}: {error}', seconds=[])
        return None


def _failure(result: Mapping[str, Any]) -> str:
    return f'{result["name"]} cannot run at {by(result["size"])}: {result["failed"]}'


def by(size: Sequence[int]) -> str:
    """``512 x 800``, height first."""
    return f'{size[0]} x {size[1]}'
