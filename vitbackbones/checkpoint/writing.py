"""Weights as files that hold nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vitbackbones.files import replacing

from .errors import CheckpointError


def write_weights(
    weights: Mapping[str, Tensor], meta: Mapping[str, str], path: Path, kind: str
) -> None:
    """Write weights as ``'safetensors'`` or ``'pth'``: all of it or nothing.

    Raises:
        CheckpointError: safetensors is not installed.
        OSError, RuntimeError: the file cannot be written; torch reports a full disk as the latter.
    """
    # A copy of each: safetensors refuses tensors that share memory, torch would save all of it.
    copies = {name: value.detach().clone().contiguous() for name, value in weights.items()}
    with replacing(path) as part, part.open('wb') as file:
        if kind == 'pth':
            torch.save({'state_dict': copies, 'meta': dict(meta)}, file)
        else:
            file.write(_safetensors(copies, meta))


def _safetensors(weights: dict[str, Tensor], meta: Mapping[str, str]) -> bytes:
    try:
        from safetensors.torch import save
    except ImportError:
        raise CheckpointError('safetensors is not installed: pip install safetensors') from None
    return save(weights, dict(meta))
