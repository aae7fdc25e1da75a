"""On what, and with what, something was measured."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import vitbackbones

PACKAGES = ('torch', 'mmengine', 'mmcv', 'mmdet', 'mmsegmentation', 'timm', 'numpy')


def describe_machine(device: torch.device | str = 'cpu') -> dict[str, Any]:
    """Processor, threads, versions, date and, in a checkout, the commit (dirty: with changes)."""
    found = dict(
        date=time.strftime('%Y-%m-%d', time.gmtime()),
        cpu=_cpu(),
        cores=_cores(),
        threads=torch.get_num_threads(),
        python=platform.python_version(),
        vitbackbones=vitbackbones.__version__,
    )
    if torch.device(device).type == 'cuda':
        found['gpu'] = torch.cuda.get_device_name(device)
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    commit = _commit()
    return {**found, 'commit': commit} if commit else found


def in_words(machine: dict[str, Any]) -> str:
    """One line: the device first, then the rest."""
    words = [str(machine['gpu'])] if 'gpu' in machine else []
    words += [f'{machine["cpu"]}, {machine["cores"]} cores, {machine["threads"]} thread(s)']
    words += [
        f'{name} {machine[name]}' for name in ('torch', 'vitbackbones', 'commit') if name in machine
    ]
    return f'{", ".join(words)}; {machine["date"]}'


def _cpu() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:  # no Linux
        lines = []
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()


def _cores() -> int:
    """Those that this process may use; in a container often fewer than there are."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    try:
        quota, period = Path('/sys/fs/cgroup/cpu.max').read_text().split()
        return min(cores or 1, max(1, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or 'max'
        return cores or 1


def _commit() -> str | None:
    root = Path(vitbackbones.__file__).parents[1]
    if not (root / '.git').exists():
        return None
    command = ['git', '-C', str(root), 'describe', '--always', '--dirty', '--exclude=*']
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # no git, or a checkout that is not ours
        return None
    return done.stdout.strip()
