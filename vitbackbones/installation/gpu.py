"""The GPUs of this machine, and whether torch can compute on them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GIB = 2**30


@dataclass(frozen=True)
class Driver:
    """What NVIDIA's driver says of one GPU, whatever torch does."""

    name: str
    memory: str
    version: str
    uuid: str = ''


@dataclass(frozen=True)
class Toolkit:
    """CUDA's compiler."""

    version: str
    path: str


def drivers() -> list[Driver]:
    """The GPUs that `nvidia-smi` lists; none where it is not there, or fails."""
    fields = '--query-gpu=name,memory.total,driver_version,uuid'
    lines = _output('nvidia-smi', fields, '--format=csv,noheader').splitlines()
    rows = [[part.strip() for part in line.split(',')] for line in lines]
    return [Driver(*row) for row in rows if len(row) == 4]


def toolkit() -> Toolkit | None:
    """The `nvcc` under CUDA_HOME, else the one in PATH."""
    home = os.environ.get('CUDA_HOME') or os.environ.get('CUDA_PATH')
    own = Path(home, 'bin', 'nvcc') if home else None
    path = str(own) if own is not None and own.is_file() else shutil.which('nvcc')
    if path is None:
        return None
    match = re.search(r'release (\d+\.\d+)', _output(path, '--version'))
    return Toolkit(match[1] if match else 'of an unknown version', path)


def cuda_of_mmcv() -> str:
    """The CUDA that mmcv's operators were compiled for; empty where there are none to ask."""
    code = 'import torch, mmcv._ext; print(mmcv._ext.get_compiling_cuda_version())'
    said = _output(sys.executable, '-W', 'ignore', '-c', code).strip()
    return 'none' if said == 'not available' else said


def lines(torch: Any, found: Sequence[Driver], nvcc: Toolkit | None) -> Iterator[str]:
    """What there is, a line each.

    Args:
        torch: the module; None if it cannot be imported.
    """
    seen = _visible(torch)
    for i, (name, memory, architecture) in enumerate(seen):
        version = f', driver {found[0].version}' if found else ''
        yield f'{f"GPU {i}":24} {name}, {memory}, {architecture}{version}'
    if not seen:
        for i, driver in enumerate(found):
            yield f'{f"GPU {i}":24} {driver.name}, {driver.memory}, driver {driver.version}'
        if not found:
            yield f'{"GPU":24} none'
    if torch is not None:
        archs = f', for {" ".join(torch.cuda.get_arch_list())}' if seen else ''
        built = torch.version.cuda or f'none, a build for {_platform(torch)}'
        yield f'{"CUDA of torch":24} {built}{archs}'
    there = f'{nvcc.version} ({nvcc.path})' if nvcc else 'none, there is no nvcc'
    yield f'{"CUDA toolkit":24} {there}'


def problems(torch: Any, found: Sequence[Driver], mmcv: str = '') -> Iterator[tuple[str, str]]:
    """Symptom and fix of what keeps torch, built for CUDA, and mmcv from computing on the GPUs.

    Args:
        mmcv: of :func:`cuda_of_mmcv`.
    """
    if torch is None or not torch.version.cuda:
        return
    another = (
        f'pip install --force-reinstall torch=={torch.__version__.partition("+")[0]} --index-url '
        'https://download.pytorch.org/whl/cuXYZ'
    )
    if not torch.cuda.is_available():
        if found and not _hidden(found):
            yield (
                f'torch, built for CUDA {torch.version.cuda}, cannot use the GPU: {_reason(torch)}',
                f'{another}   # XYZ: at most the CUDA version that nvidia-smi shows, as 126; or a '
                f'newer driver than {found[0].version}',
            )
        return
    known = torch.cuda.get_arch_list()
    for i, (name, _, architecture) in enumerate(_visible(torch)):
        if not _runs_on(architecture, known):
            yield (
                f'GPU {i}, {name}, is an {architecture}, and this torch has kernels for '
                f'{" ".join(known)} only: no kernel image is available',
                f'{another}   # XYZ: a CUDA version that knows {architecture}',
            )
    if mmcv == 'none':
        yield (
            "mmcv's operators were compiled without CUDA: no implementation for cuda:0",
            'FORCE_CUDA=1 MMCV_WITH_OPS=1 pip install --no-build-isolation --force-reinstall '
            '--no-deps --no-cache-dir --no-binary mmcv mmcv==2.1.0   # needs nvcc, compiles',
        )


def notes(torch: Any, found: Sequence[Driver], nvcc: Toolkit | None) -> Iterator[str]:
    """What is no fault, but may surprise."""
    if torch is None:
        return
    if found and not torch.version.cuda:
        yield f'this torch is a build for {_platform(torch)}: the GPU stays idle'
    if found and torch.version.cuda and not torch.cuda.is_available() and _hidden(found):
        yield (
            f'CUDA_VISIBLE_DEVICES={os.environ["CUDA_VISIBLE_DEVICES"]!r} hides every GPU from '
            'torch: unset it to use them'
        )
    if nvcc and torch.version.cuda and _major(nvcc.version) != _major(torch.version.cuda):
        yield (
            f"mmcv's operators cannot be compiled for the GPU here: nvcc is CUDA {nvcc.version}, "
            f'torch was built for {torch.version.cuda}'
        )


def _visible(torch: Any) -> list[tuple[str, str, str]]:
    """Name, memory and architecture of the GPUs that torch can use."""
    if torch is None or not torch.cuda.is_available():
        return []
    seen = []
    for i in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(i)
        memory = f'{gpu.total_memory / GIB:.0f} GiB'
        architecture = f'sm_{gpu.major}{gpu.minor}' if torch.version.cuda else gpu.gcnArchName
        seen.append((gpu.name, memory, architecture))
    return seen


def _platform(torch: Any) -> str:
    """What a torch without CUDA computes on."""
    return f'ROCm {torch.version.hip}' if torch.version.hip else 'CPUs'


def _hidden(found: Sequence[Driver]) -> bool:
    """Whether CUDA_VISIBLE_DEVICES leaves no GPU; what follows a wrong entry does not count."""
    value = os.environ.get('CUDA_VISIBLE_DEVICES')
    if value is None:
        return False
    first = value.partition(',')[0].strip()
    if first.startswith(('GPU-', 'MIG-')):  # a beginning will do
        return first.startswith('GPU-') and not any(gpu.uuid.startswith(first) for gpu in found)
    return not (first.isdecimal() and int(first) < len(found))


def _runs_on(architecture: str, known: Sequence[str]) -> bool:
    """Whether kernels run there: of its major version and no later minor one, or compiled late.

    Those with a letter, as sm_90a, run on that architecture alone; compute_90 is compiled by the
    driver for whatever comes later.
    """
    major, minor = _split(architecture)
    for name in known:
        there, letter = _split(name), name[-1].isalpha()
        if name.startswith('compute_') and there <= (major, minor) and not letter:
            return True
        if letter and there == (major, minor):
            return True
        if not letter and there[0] == major and there[1] <= minor:
            return True
    return False


def _split(architecture: str) -> tuple[int, int]:
    digits = re.sub(r'\D', '', architecture)
    return int(digits[:-1] or 0), int(digits[-1:] or 0)


def _major(text: str) -> str:
    return text.partition('.')[0]


def _reason(torch: Any) -> str:
    try:
        torch.cuda.init()
    except (AssertionError, RuntimeError) as error:
        return ' '.join(str(error).split())[:200]
    return 'it finds none'


def _output(*command: str) -> str:
    """What a program prints, nothing where it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ''
    return done.stdout if done.returncode == 0 else ''
