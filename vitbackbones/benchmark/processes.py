"""Candidates of a benchmark made to run: in this process, or each in one of its own.

In a process of its own a network has the memory that itself has freed, as elsewhere; in one
process with others it also has theirs.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection

import torch

from .candidates import Candidate, Setting
from .memory import peak_memory, weight_memory
from .timing import synchronize


class InProcess:
    """A candidate in this process."""

    def __init__(self, candidate: Candidate, setting: Setting) -> None:
        self.candidate = candidate
        self.device = setting.device
        if candidate.compiled is not None:
            candidate.compiled.compile()

    def prepare(self, size: tuple[int, int]) -> int:
        """Get ready for images of ``size``; returns the bytes at the peak, weights included."""
        self.run = self.candidate.at(*size)[1]
        self.run()  # compiles; caches what is kept between calls
        return weight_memory(self.candidate.model) + peak_memory(self.run, self.device)


class Subprocess:
    """A candidate in a process of its own, with the methods of :class:`InProcess`.

    What it raises there is a RuntimeError here, with the same words.
    """

    def __init__(self, make: Callable[[], Candidate], setting: Setting) -> None:
        context = multiprocessing.get_context('spawn')
        self.pipe, theirs = context.Pipe()
        args = (theirs, make, setting, torch.get_num_threads())
        self.process = context.Process(target=_serve, args=args, daemon=True)
        self.process.start()
        theirs.close()

    def prepare(self, size: tuple[int, int]) -> int:
        return self._ask(size)

    def run(self) -> None:
        self._ask(None)

    def close(self) -> None:
        self.process.terminate()
        self.process.join()

    def _ask(self, size: tuple[int, int] | None) -> int:
        try:
            self.pipe.send(size)
            answer = self.pipe.recv()
        except (EOFError, OSError) as error:
            raise RuntimeError('its process has ended') from error
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return answer


def _serve(pipe: Connection, make: Callable[[], Candidate], setting: Setting, threads: int) -> None:
    """Prepare for every size that comes, run for every None, and answer with the bytes or 0."""
    import torch._inductor.config as inductor  # the compiler: most uses of this room spare it

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interruption is the parent's to answer
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    runner = None
    with inductor.patch(freezing=not setting.train):
        while True:
            size = pipe.recv()
            answer: int | str = 0
            try:
                runner = runner or InProcess(make(), setting)
                if size is None:
                    runner.run()
                    synchronize(setting.device)
                else:
                    torch.compiler.reset()
                    answer = runner.prepare(size)
            except Exception as error:  # whatever somebody's network raises
                answer = f'{type(error).__name__}: {error}'
            pipe.send(answer)
