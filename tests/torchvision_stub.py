"""A stand-in for torchvision: timm and mmpretrain can be imported where it is not installed.

They import torchvision for datasets and transforms; what tests use of them needs nothing of it.
``with torchvision_stub.installed(): import timm`` puts hollow modules in place for the import
alone: whoever asks for torchvision later still learns that it is missing. Where the real package
is installed it is used, even one that was built for another torch.
"""

from __future__ import annotations

import contextlib
import enum
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch


class InterpolationMode(enum.Enum):
    """The one name whose members timm reads at import."""

    NEAREST = 'nearest'
    NEAREST_EXACT = 'nearest-exact'
    BILINEAR = 'bilinear'
    BICUBIC = 'bicubic'
    BOX = 'box'
    HAMMING = 'hamming'
    LANCZOS = 'lanczos'


class _HollowModule(ModuleType):
    """A module in which every public name is an empty class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__'):
            raise AttributeError(name)
        value = InterpolationMode if name == 'InterpolationMode' else type(name, (), {})
        setattr(self, name, value)
        return value


class _Finder(MetaPathFinder, Loader):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        ours = name.partition('.')[0] == 'torchvision'
        return ModuleSpec(name, self, is_package=True) if ours else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _HollowModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run."""


def _declare_operators() -> None:
    """Name those that torchvision asks for while it is imported, if its own cannot be loaded."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:  # operator torchvision::nms does not exist
        for name in ('nms', 'qnms'):
            _operators.define(f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')


_operators = torch.library.Library('torchvision', 'FRAGMENT')


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """Let ``import torchvision...`` succeed inside the block, and leave no trace after it."""
    if importlib.util.find_spec('torchvision'):
        _declare_operators()
        yield
        return
    finder = _Finder()
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [n for n in sys.modules if n.partition('.')[0] == 'torchvision']:
            del sys.modules[name]
