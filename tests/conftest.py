"""What several test modules share."""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]

# Two cores serve several workers at once; more threads each would only wait for one another.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def process_group() -> Iterator[None]:
    """A group of this process alone."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group('gloo', store=store, rank=0, world_size=1)
    yield
    # A model in DistributedDataParallel that outlives the group ends gloo's threads itself, holding
    # the interpreter's lock that they wait for.
    gc.collect()
    torch.distributed.destroy_process_group()


@pytest.fixture(scope='session')
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of this checkout: building leaves its own files in the tree."""
    folder = tmp_path_factory.mktemp('wheel')
    source = folder / 'source'
    for name in ('configs', 'tools', 'vitbackbones'):
        shutil.copytree(ROOT / name, source / name, symlinks=True)
    for name in ('LICENSE', 'README.md', 'model-index.yml', 'pyproject.toml', 'setup.py'):
        shutil.copy(ROOT / name, source)
    options = ['--no-deps', '--no-build-isolation', '--wheel-dir', str(folder)]
    command = [sys.executable, '-m', 'pip', 'wheel', *options, str(source)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    (wheel,) = folder.glob('*.whl')
    return wheel
