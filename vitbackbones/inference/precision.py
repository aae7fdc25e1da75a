"""Models whose layers compute in half precision, and what comes after them in single."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vitbackbones.deploy.onnx_file import is_onnx
from vitbackbones.errors import UserError

#: The names of --dtype.
PRECISIONS = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}


def check_precision(name: str, source: str) -> None:
    """That a model from ``source`` can compute in the precision of this name.

    Raises:
        UserError: there is no such precision, or a file has its own.
    """
    if name not in PRECISIONS:
        raise UserError(f'--dtype {name}: unknown, choose from {", ".join(PRECISIONS)}')
    if name != 'fp32' and is_onnx(source):
        raise UserError(
            f'--dtype {name}: {source} computes in the precision that it was exported in; '
            '`vitbackbones export --half` writes another'
        )


def compute_in(model: nn.Module, name: str) -> None:
    """Let backbone, neck and heads compute in a precision, by autocast; they return float32.

    So boxes are decoded, suppressed and pooled, and label maps resized, as ever: coordinates of
    half precision would be pixels apart, and not all of mmcv's operators take them.

    Args:
        model: a detector, segmentor or classifier, or what wraps one.
        name: a key of :data:`PRECISIONS`.
    """
    dtype = PRECISIONS[name]
    if dtype is torch.float32:
        return
    for path, module in model.named_modules():
        if _is_network(path):
            module.forward = partial(_in_half, module.forward, dtype)


def _is_network(path: str) -> bool:
    """Whether a backbone, a neck or a head stands at a dotted path, not something inside one."""
    names = [part for part in path.split('.') if not part.isdigit()]
    marks = [part in ('backbone', 'neck', 'head') or part.endswith('_head') for part in names]
    if 'roi_head' in names:  # heads, and what pools for them
        marks[names.index('roi_head')] = False
    return bool(marks) and marks[-1] and sum(marks) == 1


def _in_half(forward: Callable[..., Any], dtype: torch.dtype, *args: Any, **options: Any) -> Any:
    device = next((x.device.type for x in _tensors([*args, options])), 'cpu')
    with torch.autocast(device, dtype):
        return _single(forward(*args, **options))


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    return [x for each in value for x in _tensors(each)] if isinstance(value, (list, tuple)) else []


def _single(value: Any) -> Any:
    """``value`` with tensors of half precision in single."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
    if isinstance(value, Mapping):
        return {key: _single(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)) and not hasattr(value, '_fields'):
        return type(value)(_single(each) for each in value)
    return value
