"""Say what is installed, GPU and CUDA too, whether it works, and how to fix what is broken.

Ends with status 1 when something has to be fixed. Runs where torch or mmengine do not.
"""

from __future__ import annotations

import argparse
import platform
import sys
from typing import Any

from vitbackbones.installation import gpu
from vitbackbones.installation.breakages import breakages
from vitbackbones.installation.found import installed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    del parser  # no arguments


def run(args: argparse.Namespace) -> int:
    """Print what is installed and what to fix; 1 if there is something, else 0."""
    del args
    found = installed()
    torch = _torch() if 'torch' not in found.failures else None
    usable = torch is not None and torch.cuda.is_available()
    mmcv = gpu.cuda_of_mmcv() if usable and 'mmcv._ext' not in found.failures else ''
    drivers, toolkit = gpu.drivers(), gpu.toolkit()
    machine = f'{platform.system()} {platform.machine()}'
    print(f'Python {platform.python_version()} on {machine} ({sys.executable})')
    for name, number in found.versions.items():
        print(f'{name:24} {number}')
    for line in gpu.lines(torch, drivers, toolkit):
        print(line)
    if found.has('mmcv', 'onedl-mmcv') and 'mmcv._ext' not in found.failures:
        print('mmcv has its operators')
    for note in gpu.notes(torch, drivers, toolkit):
        print(f'\nnote: {note}')
    broken = [breakage.told(found) for breakage in breakages(found)]
    for symptom, fix in gpu.problems(torch, drivers, mmcv):
        broken.append(f'broken: {symptom}\n   fix: {fix}')
    reason = found.failures.get('vitbackbones')
    if reason and not broken:
        broken.append(f'broken: vitbackbones cannot be imported ({reason})')
    for text in broken:
        print(f'\n{text}')
    if not broken:
        print('\nnothing to fix')
    return 1 if broken else 0


def _torch() -> Any:
    try:
        import torch
    except Exception:  # whatever a broken torch raises, if only in this process
        return None
    return torch
