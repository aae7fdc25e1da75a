"""Training samples as the data pipeline makes them, looked at without a trace in what follows."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

from vitbackbones.engine import random_states


def training_samples(dataset: Any, most: int) -> Iterator[dict[str, Any]]:
    """Up to ``most`` samples of ``dataset``, drawn from all of it and augmented.

    The order and the augmentations of the training stay what they were: random states are restored
    after every sample, and what a pipeline remembers is remembered by a copy. Where a sample cannot
    be had they end: training stops there itself, and says why.
    """
    try:
        count = len(dataset)
        twin = _twin(dataset)
    except Exception:  # datasets are anyone's: one that cannot be counted or copied is left alone
        return
    states = random_states.take()
    for i in random.Random(0).sample(range(count), min(count, most)):
        try:
            random_states.seed(0, i)
            sample = twin[i]
        except Exception:  # datasets are anyone's, and may fail with anything
            return
        finally:
            random_states.restore(states)
        if isinstance(sample, dict):
            yield sample


def _twin(dataset: Any) -> Any:
    """``dataset``, wrapped in others or not, with a pipeline of its own; annotations are shared."""
    twin = copy.copy(dataset)
    for name in ('pipeline', 'dataset', 'datasets'):
        part = getattr(twin, name, None)
        if name == 'datasets' and isinstance(part, (list, tuple)):
            twin.datasets = [_twin(one) for one in part]
        elif name == 'dataset' and part is not None:
            twin.dataset = _twin(part)
        elif name == 'pipeline' and part is not None:
            twin.pipeline = copy.deepcopy(part)
    return twin
