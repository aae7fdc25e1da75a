"""Versions of what is installed, and which modules cannot be imported."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

# Distribution names; the maintained forks install the same modules under names of their own.
PACKAGES = (
    'vitbackbones',
    'torch',
    'numpy',
    'setuptools',
    'mmengine',
    'mmcv',
    'mmdet',
    'mmsegmentation',
    'mmpretrain',
    'torchvision',
    'pycocotools',
    'opencv-python',
    'opencv-python-headless',
    'onedl-mmengine',
    'onedl-mmcv',
    'onedl-mmdetection',
    'onedl-mmsegmentation',
)
# In the order in which they need each other. mmengine.runner imports all that matters of mmengine.
MODULES = (
    *('numpy', 'torch', 'cv2', 'mmengine.runner', 'pycocotools.mask', 'ftfy', 'regex'),
    *('mmcv._ext', 'torchvision', 'vitbackbones'),
)

_IMPORT = """
import importlib, json, sys, warnings
warnings.simplefilter('ignore')
sys.path = json.loads(sys.argv[1])
for name in sys.argv[2:]:
    print(json.dumps([name, 'started']), flush=True)
    try:
        importlib.import_module(name)
        print(json.dumps([name, 'imported']), flush=True)
    except BaseException as error:
        text = ' '.join(str(error).split())
        print(json.dumps([name, f'{type(error).__name__}: {text}'[:500]]), flush=True)
"""


@dataclass(frozen=True)
class Found:
    """What is installed.

    Attributes:
        versions: by distribution name.
        failures: why a module cannot be imported, by its name.
    """

    versions: Mapping[str, str]
    failures: Mapping[str, str] = field(default_factory=dict)

    def has(self, *names: str) -> bool:
        """Whether any of these distributions is installed."""
        return any(name in self.versions for name in names)

    def older(self, name: str, limit: str) -> bool:
        return self.has(name) and _key(self.versions[name]) < _key(limit)

    def newer(self, name: str, limit: str) -> bool:
        """At least ``limit``."""
        return self.has(name) and _key(self.versions[name]) >= _key(limit)


def installed() -> Found:
    """What is installed in this environment."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return Found(versions, import_failures(MODULES))


def import_failures(modules: Sequence[str]) -> dict[str, str]:
    """Why modules cannot be imported, by name, of those that cannot.

    They are imported in another process: what does not fit together may crash it.
    """
    failures: dict[str, str] = {}
    left = list(modules)
    while left:
        command = [sys.executable, '-c', _IMPORT, json.dumps(sys.path), *left]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('["')]
        for name, outcome in lines:
            if outcome not in ('started', 'imported'):
                failures[name] = outcome
        if not lines or lines[-1][1] != 'started':
            break
        crashed = lines[-1][0]
        failures[crashed] = f'importing it ends the process (status {done.returncode})'
        left = left[left.index(crashed) + 1 :]
    return failures


def _key(text: str) -> tuple[int, ...]:
    """What sorts versions: 0.11.0rc3 before 0.11.0, local parts as +cpu left out."""
    match = re.match(r'(\d+(?:\.\d+)*)\.?(?:(a|b|rc|dev|post)(\d*))?', text)
    if match is None:
        return ()
    numbers = [int(part) for part in match[1].split('.')]
    stage = {'dev': -4, 'a': -3, 'b': -2, 'rc': -1, None: 0, 'post': 1}[match[2]]
    return (*numbers, *[0] * (4 - len(numbers)), stage, int(match[3] or 0))
