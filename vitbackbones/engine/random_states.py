"""The states of all random generators that training draws from."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

State = dict[str, Any]


def take() -> State:
    """The states of python, numpy, torch and the current GPU, as numbers and tensors alone."""
    _, keys, *rest = np.random.get_state(legacy=True)
    state: State = dict(
        python=random.getstate(),
        numpy=(torch.from_numpy(np.asarray(keys, np.int64)), *rest),
        torch=torch.get_rng_state(),
    )
    if torch.cuda.is_initialized():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def restore(state: State) -> None:
    """Set what :func:`take` returned; a checkpoint may have been read to a GPU."""
    random.setstate(state['python'])
    keys, *rest = state['numpy']
    np.random.set_state(('MT19937', keys.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state['torch'].cpu())
    if 'cuda' in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())


def seed(*numbers: int) -> None:
    """Seed the generators that data pipelines draw from; near numbers give unrelated draws."""
    python, numpy, torch_ = np.random.SeedSequence(numbers).generate_state(3)
    random.seed(int(python))
    np.random.seed(numpy)
    # Not torch.manual_seed, which in a worker process queues the same for a GPU it never uses.
    torch.default_generator.manual_seed(int(torch_))


class Randomness:
    """The states that training goes on with, whatever draws between two of its iterations.

    Validation, say, or the start of data workers: after resuming they draw at other times.
    """

    def __init__(self) -> None:
        self._held: State | None = None

    def hold(self, state: State | None = None) -> None:
        """Keep ``state`` for the next iteration, or else, unless one is kept, the present one."""
        self._held = state or self._held or take()

    def release(self) -> None:
        """Go on with what was kept."""
        if self._held is not None:
            restore(self._held)
            self._held = None

    def current(self) -> State:
        """What the next iteration starts with."""
        return self._held or take()
