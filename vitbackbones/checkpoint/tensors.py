"""Which kinds of tensors can be copied into a network, and in which type."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .errors import CheckpointError
from .reading import preview


def check_dense(state: dict[str, Tensor], source: str) -> None:
    """Copying from any other kind of tensor fails, halfway through the network."""
    kinds = {
        'sparse': lambda value: value.layout is not torch.strided,
        'nested': lambda value: value.is_nested,
        'quantized': lambda value: value.is_quantized,
        'without values (meta)': lambda value: value.is_meta,
    }
    for kind, applies in kinds.items():
        names = [name for name, value in state.items() if applies(value)]
        if names:
            raise CheckpointError(
                f'{source} holds tensors that are {kind}: {len(names)} ({preview(names)}); save '
                'them as plain arrays. No weight was changed.'
            )


def converted(
    tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str
) -> dict[str, Tensor]:
    """``tensors`` in the types of a network's ``own``, so that nothing is left that could fail."""
    result = {}
    for name, value in tensors.items():
        try:
            result[name] = value.to(own[name].dtype)
        except (NotImplementedError, RuntimeError) as error:
            raise CheckpointError(
                f'{source} holds {name} as {value.dtype}, which torch does not convert to '
                f'{own[name].dtype}; save it as that. No weight was changed.'
            ) from error
    return result
