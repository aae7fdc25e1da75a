"""What checkpoints tell of a run, as numbers, words and tensors alone.

torch reads nothing else in a process that has not been told of mmengine's classes, and there the
inferencers of mmdet and mmseg find the config that makes them import this package.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

_FIELDS = ('log_history', 'count_history', 'max_length')


def to_plain(value: Any) -> Any:
    """``value`` with mmengine's and numpy's types inside it replaced; others stay what they are."""
    if isinstance(value, HistoryBuffer):
        histories = [torch.from_numpy(np.asarray(part, np.float64)) for part in value.data]
        return dict(zip(_FIELDS, [*histories, value.max_length], strict=True))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {to_plain(key): to_plain(each) for key, each in value.items()}
    if type(value) in (list, tuple):  # a named one cannot be made of a list
        return type(value)(to_plain(each) for each in value)
    return value


def log_from_plain(scalars: Mapping[str, Any]) -> dict[str, Any]:
    """mmengine's curves, of which :func:`to_plain` has made dicts; others stay what they are."""
    return {name: _buffer(value) for name, value in scalars.items()}


def _buffer(value: Any) -> Any:
    if not isinstance(value, Mapping) or value.keys() != set(_FIELDS):
        return value
    values, counts, length = (value[field] for field in _FIELDS)
    return HistoryBuffer(values.cpu().numpy(), counts.cpu().numpy(), length)
