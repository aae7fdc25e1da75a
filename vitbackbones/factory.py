"""Backbones by name, for code that uses them without OpenMMLab's configs."""

from __future__ import annotations

import difflib
import os
from typing import Any

from .backbones.base import Backbone
from .checkpoint import load_pretrained


def _variants() -> dict[str, tuple[type[Backbone], str]]:
    return {
        f'{cls.__name__.lower()}_{arch}': (cls, arch)
        for cls in Backbone.registered().values()
        for arch in cls.archs
    }


def list_backbones() -> list[str]:
    """The names that :func:`create` knows: ``'gcvit_tiny'``, ``'sepvit_lite'``, ..."""
    return sorted(_variants())


def create(name: str, pretrained: str | os.PathLike[str] | None = None, **options: Any) -> Backbone:
    """Build a published variant: ``create('gcvit_tiny', out_indices=(1, 2, 3))``.

    Args:
        name: lower-case class name, underscore, name of the variant; see :func:`list_backbones`.
        pretrained: path or URL of weights to load.
        options: arguments of the class.

    Raises:
        ValueError: unknown name, or an option outside its choices.
        CheckpointError: ``pretrained`` cannot be read or is not of this variant.
    """
    variants = _variants()
    if name not in variants:
        close = difflib.get_close_matches(name.lower(), variants, n=3)
        choices = ', '.join(close or variants)
        raise ValueError(f'unknown backbone {name!r}, choose from {choices}')
    cls, arch = variants[name]
    backbone = cls(arch, **options)
    if pretrained is not None:
        load_pretrained(backbone, pretrained)
    return backbone
