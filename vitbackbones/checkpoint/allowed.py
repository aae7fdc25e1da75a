"""What a file may contain besides tensors and plain containers, and be read without running it."""

from __future__ import annotations

import argparse
import codecs
import functools
import pickle
from typing import Any

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer


def _named(path: str, stand_in: Any) -> Any:
    """``stand_in`` under the dotted name by which files call what it stands for."""
    stand_in.__module__, _, stand_in.__name__ = path.rpartition('.')
    stand_in.__qualname__ = stand_in.__name__
    return stand_in


class _Buffer(HistoryBuffer):
    """A HistoryBuffer while it is read, of arrays alone.

    What its constructor is given becomes an array, be it an address in memory under the name of
    ``__array_interface__``; its ``__setstate__`` changes the statistics of every buffer there is.
    """

    def __init__(self, *args: Any) -> None:
        raise pickle.UnpicklingError('GLOBAL HistoryBuffer was not allowed to be called')

    def __setstate__(self, state: Any) -> None:
        histories = state['_log_history'], state['_count_history']
        if not all(isinstance(history, np.ndarray) for history in histories):
            raise pickle.UnpicklingError('a HistoryBuffer without arrays was not allowed')
        super().__init__(*histories, int(state['max_length']))
        self.__class__ = HistoryBuffer


def _statistic(owner: object, name: str) -> Any:
    """All that is left of ``getattr``, through which a HistoryBuffer names its own four methods."""
    if owner in (_Buffer, HistoryBuffer) and name in ('min', 'max', 'mean', 'current'):
        return getattr(HistoryBuffer, name)
    raise pickle.UnpicklingError(f'GLOBAL getattr was not allowed for {owner}, {name!r}')


# numpy believes what a pickle says: an array of objects takes raw bytes for pointers, and the state
# of a dtype may add fields and flags of objects to plain numbers. So a file reaches numpy through
# these stand-ins alone, and every array and scalar gets a dtype that the file has no hold of.

_SCALAR: Any = np.float64(0).__reduce__()[0]  # where it is differs by version


def _of_numbers(dtype: Any) -> np.dtype[Any]:
    """The numbers that ``dtype`` speaks of, without whatever else a file has set in it."""
    name = dtype.str if isinstance(dtype, np.dtype) else dtype
    own = np.dtype(name) if isinstance(name, str) else None
    if own is None or own.kind not in 'biufc':
        raise pickle.UnpicklingError(f'GLOBAL numpy.dtype was not allowed for {name!r}')
    return own


def _dtype(name: str, align: bool = False, copy: bool = False) -> np.dtype[Any]:
    return np.dtype(_of_numbers(name), align, copy)


def _scalar(dtype: Any, value: bytes) -> Any:
    return _SCALAR(_of_numbers(dtype), value)


class _Array(np.ndarray):
    """An array of numbers; files can make an empty one and fill it once."""

    def __new__(cls, *args: Any) -> _Array:
        raise pickle.UnpicklingError('GLOBAL numpy.ndarray was not allowed to be called')

    def __setstate__(self, state: Any) -> None:
        if self.size:  # a tensor may share its memory, which would be freed
            raise pickle.UnpicklingError('an array was to be filled a second time')
        version, shape, dtype, fortran, content = state
        super().__setstate__((version, shape, _of_numbers(dtype), fortran, content))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return np.asarray(self).__reduce_ex__(protocol)  # saved as what it stands for


def _no_bytes() -> bytes:
    return b''  # what an empty array holds, which is pickled as a call


def _reconstruct(kind: type, shape: Any, dtype: Any) -> np.ndarray:
    if kind not in (_Array, np.ndarray):  # the latter where another package put it on the list
        raise pickle.UnpicklingError(f'an array of type {kind} was not allowed')
    return np.ndarray.__new__(kind, 0, np.int8)  # all else is in the state that follows


# Besides tensors and plain containers: arguments of training scripts, arrays and scalars of numpy
# (without object and structured types), and what mmengine's Runner saves. Constructing these runs
# no code of the file.
_SAFE_GLOBALS = (
    argparse.Namespace,
    ConfigDict,
    codecs.encode,  # bytes are pickled as a call of it, which torch 2.4 does not allow by itself
    _named(f'{HistoryBuffer.__module__}.HistoryBuffer', _Buffer),
    _named('builtins.getattr', _statistic),
    _named('builtins.bytes', _no_bytes),
    _named('numpy.ndarray', _Array),
    _named('numpy.dtype', _dtype),
    *{type(np.dtype(c)) for c in '?' + np.typecodes['AllInteger'] + np.typecodes['AllFloat']},
    *(
        _named(f'numpy.{core}.multiarray.{name}', functools.partial(function))  # one per name
        for core in ('core', '_core')  # numpy 1 and numpy 2
        for name, function in (('_reconstruct', _reconstruct), ('scalar', _scalar))
    ),
)


def register_safe_globals() -> None:
    """Let ``torch.load(..., weights_only=True)`` read the checkpoints of mmengine's Runner.

    mmengine 0.10.7 calls ``torch.load`` without further arguments, which torch >= 2.6 takes to
    mean ``weights_only=True``.
    """
    torch.serialization.add_safe_globals(list(_SAFE_GLOBALS))
