"""Trainings in processes of their own, which end themselves at chosen moments."""

from __future__ import annotations

import itertools
import os
import signal
import stat
import threading
import time
from collections.abc import Callable
from multiprocessing import get_context
from typing import Any


def run(train: Callable[[], Any], arm: Callable[[], None] = lambda: None) -> int:
    """Exit status of a process that arms and trains; that of a killed one is minus the signal."""

    def body() -> None:
        os.setsid()  # it may signal its whole group
        arm()
        train()

    process = get_context('fork').Process(target=body)
    process.start()
    process.join()
    return process.exitcode


def at_write(number: int) -> Callable[[], None]:
    """Kill at a step of saving: with half of a file written, or before renaming or deleting one."""
    count = itertools.count(1)

    def patch(name: str) -> None:
        call = getattr(os, name)

        def step(first: Any, *rest: Any) -> Any:
            if next(count) == number:
                if name == 'fsync' and stat.S_ISREG(os.fstat(first).st_mode):
                    os.ftruncate(first, os.fstat(first).st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            return call(first, *rest)

        setattr(os, name, step)

    def arm() -> None:
        for name in ('fsync', 'replace', 'remove'):
            patch(name)

    return arm


def after(seconds: float) -> Callable[[], None]:
    """Kill after that much of the process's own time, whatever else the machine is doing."""

    def watch() -> None:
        while time.process_time() < seconds:
            threading.Event().wait(0.005)
        os.kill(os.getpid(), signal.SIGKILL)

    return lambda: threading.Thread(target=watch, daemon=True).start()
