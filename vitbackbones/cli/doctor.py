"""Say which versions are installed, whether mmcv has its operators, and how to mend what is broken.

Ends with status 1 when something has to be mended.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from mmengine.utils import digit_version

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
    'opencv-python',
    'opencv-python-headless',
    'onedl-mmengine',
    'onedl-mmcv',
    'onedl-mmdetection',
    'onedl-mmsegmentation',
)


@dataclass(frozen=True)
class Breakage:
    """A combination known to fail: when it holds, what one sees, and the line that mends it."""

    holds: Callable[[dict[str, str]], bool]
    symptom: str
    fix: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    del parser  # no arguments


def run(args: argparse.Namespace) -> int:
    """Print what is installed and what to mend; 1 if there is something, else 0."""
    del args
    installed = installed_versions()
    print(f'Python {platform.python_version()} ({sys.executable})')
    for name, number in installed.items():
        print(f'{name:24} {number}')
    if ('mmcv' in installed or 'onedl-mmcv' in installed) and not _fails('mmcv._ext'):
        print('mmcv has its operators')
    broken = [b for b in BREAKAGES if b.holds(installed)]
    for breakage in broken:
        print(f'\nbroken: {breakage.symptom}\n   fix: {breakage.fix}')
    if not broken:
        print('\nnothing to mend')
    return 1 if broken else 0


def installed_versions() -> dict[str, str]:
    """Version by distribution name, of those that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _older(name: str, limit: str) -> Callable[[dict[str, str]], bool]:
    return lambda v: name in v and digit_version(v[name]) < digit_version(limit)


def _newer(name: str, limit: str) -> Callable[[dict[str, str]], bool]:
    """At least ``limit``."""
    return lambda v: name in v and digit_version(v[name]) >= digit_version(limit)


def _all(*tests: Callable[[dict[str, str]], bool]) -> Callable[[dict[str, str]], bool]:
    return lambda v: all(test(v) for test in tests)


def _has(name: str) -> Callable[[dict[str, str]], bool]:
    return lambda v: name in v


def _fails(module: str) -> bool:
    """Whether a module cannot be imported; the error itself is what the symptom describes."""
    try:
        import_module(module)
    except Exception:  # whatever a broken installation raises
        return True
    return False


def _mmcv(name: str, number: str, mmengine: str) -> tuple[Breakage, Breakage]:
    """What breaks mmcv, of OpenMMLab or the fork: each is mended by its own family."""
    build = 'MMCV_WITH_OPS=1 pip install --no-build-isolation'
    return (
        Breakage(
            lambda v: name in v and _fails('mmcv._ext'),
            "mmcv was built without its operators (No module named 'mmcv._ext', or of another "
            'torch)',
            f'{build} --force-reinstall --no-deps --no-cache-dir --no-binary {name} '
            f'{name}=={number}   # compiles for minutes',
        ),
        Breakage(
            lambda v: mmengine in v and not ('mmcv' in v or 'onedl-mmcv' in v),
            'mmcv is not installed: no detector or segmentor can be built',
            f'{build} {name}=={number}   # after torch; compiles',
        ),
    )


def _twice(name: str, fork: str) -> Breakage:
    """Both installed: whichever came last owns the files, and uninstalling either breaks both."""
    return Breakage(
        _all(_has(name), _has(fork)),
        f'{name} and {fork} install the same modules, one over the other',
        f'pip uninstall -y {name} && pip install --force-reinstall --no-deps {fork}'
        '   # or the other way round',
    )


BREAKAGES = (
    Breakage(
        _all(_newer('setuptools', '82'), _has('mmengine'), _older('mmengine', '0.11.0rc0')),
        "No module named 'pkg_resources' on any config that inherits from mmdet:: or mmseg::",
        "pip install 'setuptools<82'",
    ),
    Breakage(
        lambda v: any(n.startswith('opencv') for n in v) and _fails('cv2'),
        'import cv2 fails, as it does without libGL on a bare container',
        'pip uninstall -y opencv-python && pip install --force-reinstall opencv-python-headless',
    ),
    *_mmcv('mmcv', '2.1.0', 'mmengine'),
    *_mmcv('onedl-mmcv', '2.3.6', 'onedl-mmengine'),
    Breakage(
        _all(_newer('mmcv', '2.2.0'), lambda v: 'mmdet' in v or 'mmsegmentation' in v),
        'mmdet 3.3 and mmsegmentation 1.2 assert mmcv < 2.2.0',
        'MMCV_WITH_OPS=1 pip install --no-build-isolation mmcv==2.1.0',
    ),
    Breakage(
        _all(_has('mmsegmentation'), lambda v: _fails('ftfy') or _fails('regex')),
        "mmsegmentation imports 'ftfy' and 'regex' without declaring them",
        'pip install ftfy regex',
    ),
    Breakage(
        _all(_older('mmengine', '0.10.6'), _newer('torch', '2.5')),
        "mmengine: 'Adafactor is already registered'",
        'pip install mmengine==0.10.7',
    ),
    Breakage(
        _all(_newer('numpy', '2'), _older('torch', '2.3')),
        'this torch was built for numpy 1: "A module that was compiled using NumPy 1.x"',
        "pip install 'numpy<2'",
    ),
    _twice('mmengine', 'onedl-mmengine'),
    _twice('mmcv', 'onedl-mmcv'),
    _twice('mmdet', 'onedl-mmdetection'),
    _twice('mmsegmentation', 'onedl-mmsegmentation'),
)
