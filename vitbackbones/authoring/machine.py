"""What fits on a machine: images in a batch, and processes that load them."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import torch

from vitbackbones.errors import UserError

#: Bytes of training for each pixel of an image, and besides: the model, its optimizer, the rest.
BYTES_PER_PIXEL = 5000
BYTES_BESIDES = 2e9

#: Larger batches gain nothing there.
MOST = {'cpu': 4, 'cuda': 16}


@dataclass(frozen=True)
class Machine:
    """Where is trained.

    Attributes:
        device: 'cpu' or 'cuda'.
        memory: in GB, of the device.
        cores: of the processor.
    """

    device: str
    memory: float
    cores: int


def this_machine(device: str | None = None, memory: float | None = None) -> Machine:
    """The machine at hand, or the one that is described.

    Raises:
        UserError: a device that is neither, or whose memory cannot be told here.
    """
    device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
    if device not in MOST:
        raise UserError(f'--device {device}: unknown, choose from {", ".join(MOST)}')
    if memory is not None and not 0 < memory < math.inf:
        raise UserError(f'--memory {memory:g}: must be a positive number of GB')
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    )
    if memory is None and device == 'cpu':
        memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9
    elif memory is None and torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 1e9
    elif memory is None:
        raise UserError('--device cuda: there is no GPU here, so say its memory, as --memory 16')
    return Machine(device, memory, cores)


def batch_for(machine: Machine, pixels: int, images: int) -> int:
    """Images in a batch: as many as fit, a power of two."""
    room = (0.8 * machine.memory * 1e9 - BYTES_BESIDES) / (BYTES_PER_PIXEL * pixels)
    most = min(MOST[machine.device], max(1, images))
    batch = 1
    while batch * 2 <= min(room, most):
        batch *= 2
    return batch


def workers_for(machine: Machine, batch: int) -> int:
    """Processes that load images; the network computes on a processor's other cores."""
    return max(1, min(batch, machine.cores // 2, 8))
