"""Timing on machines that are never quiet: candidates run in turn, and turns are compared.

What disturbs a machine for a second disturbs everyone in that turn alike. So a ratio is the median
of the ratios within each turn, which is steadier than a ratio of medians.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

T = TypeVar('T')


def in_turn(
    candidates: Mapping[T, Callable[[], Any]],
    rounds: int,
    *,
    warm_up: int = 1,
    device: torch.device | str = 'cpu',
) -> Iterator[tuple[T, float | None]]:
    """Call every candidate once per round; yields who ran and its seconds, None in the warm-up.

    The order is another one in every round (the same in every run), so that nobody always follows
    the same one. What was yielded before an interruption remains with the caller.
    """
    names = list(candidates)
    order = random.Random(0)
    for turn in range(-warm_up, rounds):
        order.shuffle(names)
        for name in names:
            synchronize(device)
            start = time.perf_counter()
            candidates[name]()
            synchronize(device)
            seconds = time.perf_counter() - start
            yield name, seconds if turn >= 0 else None


class PartClock:
    """The seconds that a module takes within something larger, while the context is open."""

    def __init__(self, module: nn.Module, device: torch.device | str = 'cpu') -> None:
        self.module = module
        self.device = device
        self.seconds = 0.0

    def __enter__(self) -> PartClock:
        def start(*_: Any) -> None:
            synchronize(self.device)
            self.seconds -= time.perf_counter()

        def stop(*_: Any) -> None:
            synchronize(self.device)
            self.seconds += time.perf_counter()

        self.hooks = (
            self.module.register_forward_pre_hook(start),
            self.module.register_forward_hook(stop),
        )
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def read(self) -> float:
        """The seconds since it was last read."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds


def synchronize(device: torch.device | str) -> None:
    """Wait until the device has done what it was given."""
    if torch.device(device).type == 'cuda':
        torch.cuda.synchronize(device)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The first, the median and the third; of a single value that, three times."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    first, median, third = statistics.quantiles(values, n=4, method='inclusive')
    return first, median, third


def spread(seconds: Sequence[float]) -> float:
    """The distance between the quartiles, as a share of the median; nan of fewer than two."""
    first, median, third = quartiles(seconds)
    return (third - first) / median if len(seconds) > 1 else float('nan')


def ratio(seconds: Sequence[float], reference: Sequence[float]) -> float:
    """The median over the rounds of the time in units of that of ``reference``.

    An interrupted round, which only one of the two has, does not count.
    """
    return statistics.median(a / b for a, b in zip(seconds, reference, strict=False))
