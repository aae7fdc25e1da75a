"""A training tried for a few steps: whether it runs, how long it will take and what it needs.

It is tried in a process of its own (:mod:`vitbackbones.launch.tryout_process`), whose memory and
state are nobody else's, and which writes into a folder that is deleted afterwards.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import vitbackbones
from vitbackbones.errors import UserError

PROCESS = 'vitbackbones.launch.tryout_process'
LONG = 12 * 3600  # seconds of a training, beyond which it is said how to shorten it
NAMES = 5  # of parameters, at most, that are said


@dataclass(frozen=True)
class Tryout:
    """What was found.

    Attributes:
        device: 'cpu', or the name of the GPU.
        noise: whether the config's data were not there, and images of noise took their place.
        loss: of the first step.
        predicted: what was, in words.
        iteration: seconds of one, with loading.
        validation: seconds of one whole validation; 0 where nothing is validated.
        iterations: of the whole training, if nothing stops it early; 0 on noise.
        validations: likewise.
        memory: bytes at the peak: allocated on a GPU, resident of the process on a CPU.
        idle: names of the parameters that got no gradient.
        said: what training would say before its first step, one line each.
    """

    device: str
    noise: bool
    loss: float
    predicted: str
    iteration: float
    validation: float
    iterations: int
    validations: int
    memory: int
    idle: tuple[str, ...]
    said: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Of the whole training, with its validations."""
        return self.iterations * self.iteration + self.validations * self.validation

    def lines(self) -> Iterator[str]:
        """The same in words, a few lines."""
        yield from self.said
        if self.idle:
            more = ', ...' if len(self.idle) > NAMES else ''
            names = ', '.join(self.idle[:NAMES])
            yield f'{len(self.idle)} parameters got no gradient: {names}{more}'
        kind = 'resident memory' if self.device == 'cpu' else 'GPU memory'
        needs = f'{self.memory / 2**30:.1f} GiB of {kind} ({self.device})'
        tried = f'one training step (loss {self.loss:.4g}) and one prediction ({self.predicted})'
        if self.noise:
            yield f'tried on small images of noise, for its data are not there: {tried}, {needs}'
            return
        yield f'tried: {tried}, {needs}'
        yield (
            f'{self.iteration:.2f} s per iteration, as busy as the machine is now: '
            f'{self.iterations} iterations and {self.validations} validations take at most about '
            f'{duration(self.seconds)}'
        )
        if self.seconds > LONG:
            yield 'shorter: `new --max-scale` and `--epochs`, a smaller backbone, or `train --amp`'


def try_out(config: str | Path) -> Tryout:
    """Train a config for a few steps and predict, with all checks of ``vitbackbones train``.

    Where the data of the config are not there it gets small images of noise. Nothing of the user's
    is changed.

    Raises:
        UserError: what training would stop at, or what failed, in one sentence.
    """
    with tempfile.TemporaryDirectory(prefix='vitbackbones-') as folder:
        result = Path(folder, 'result.json')
        # However this process has found the package.
        paths = [str(Path(vitbackbones.__file__).parents[1]), os.environ.get('PYTHONPATH', '')]
        env = {**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, paths))}
        done = subprocess.run(
            [sys.executable, '-m', PROCESS, str(config), folder, str(result)],
            capture_output=True,
            text=True,
            errors='replace',
            env=env,
        )
        if not result.exists():
            raise UserError(_why_it_ended(done.returncode, done.stderr))
        found = json.loads(result.read_text())
    if 'error' in found:
        raise UserError(found['error'])
    start = 'vitbackbones: '  # of notices
    lines = [x.removeprefix(start) for x in done.stderr.splitlines() if x.startswith(start)]
    found['said'] = tuple(line for line in [*lines, *found['said']] if folder not in line)
    return Tryout(**{**found, 'idle': tuple(found['idle'])})


def duration(seconds: float) -> str:
    """A time in words, as exact as an estimate is."""
    minutes = seconds / 60
    if minutes < 1.5:
        return f'{seconds:.0f} s'
    return f'{minutes:.0f} min' if minutes < 90 else f'{minutes / 60:.{minutes < 600:d}f} h'


def _why_it_ended(status: int, stderr: str) -> str:
    if status == -signal.SIGKILL:
        return (
            'the training was killed in its first steps, as happens when memory runs out: smaller '
            'batches (train_dataloader.batch_size) or images need less'
        )
    last = (stderr.strip() or 'nothing was said').splitlines()[-1]
    return f'the training ended in its first steps, with status {status}: {last}'
