"""Combinations known to fail, by what one sees and the line that fixes each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .found import Found


@dataclass(frozen=True)
class Breakage:
    """A combination known to fail.

    Attributes:
        holds: whether it is there.
        symptom: what one sees.
        fix: the line that fixes it; a distribution in braces stands for its version.
        module: the one whose import fails then; the reason is told.
    """

    holds: Callable[[Found], bool]
    symptom: str
    fix: str
    module: str = ''

    def told(self, found: Found) -> str:
        """Symptom, reason and fix."""
        reason = found.failures.get(self.module)
        symptom = f'{self.symptom} ({reason})' if reason else self.symptom
        return f'broken: {symptom}\n   fix: {self.fix.format_map(found.versions)}'


def breakages(found: Found) -> list[Breakage]:
    """What is broken."""
    return [breakage for breakage in BREAKAGES if breakage.holds(found)]


def _torch_works(found: Found) -> bool:
    return found.has('torch') and 'torch' not in found.failures


def _its_needs_work(found: Found) -> bool:
    """Whether mmengine finds what it imports."""
    return _torch_works(found) and 'cv2' not in found.failures


def _mmengine_works(found: Found) -> bool:
    """Whether mmengine is not to blame for what fails after it."""
    return _torch_works(found) and not (
        'mmengine.runner' in found.failures and _its_needs_work(found)
    )


def _missing(name: str, line: str, *forks: str) -> Breakage:
    return Breakage(lambda f: not f.has(name, *forks), f'{name} is not installed', line)


def _unusable(name: str, module: str, needed: Callable[[Found], bool]) -> Breakage:
    """A distribution whose module cannot be imported, though what it needs can."""
    return Breakage(
        lambda f: f.has(name) and module in f.failures and needed(f),
        f'{name} cannot be imported',
        f'pip install --force-reinstall --no-deps --no-cache-dir {name}=={{{name}}}',
        module,
    )


def _mmcv(name: str, number: str, mmengine: str) -> tuple[Breakage, Breakage]:
    """What breaks mmcv, of OpenMMLab or the fork: each is fixed by its own family."""
    build = 'MMCV_WITH_OPS=1 pip install --no-build-isolation'
    return (
        Breakage(
            lambda f: f.has(name) and 'mmcv._ext' in f.failures and _mmengine_works(f),
            "mmcv was built without its operators (No module named 'mmcv._ext', or of another "
            'torch)',
            f'{build} --force-reinstall --no-deps --no-cache-dir --no-binary {name} '
            f'{name}=={number}   # compiles for minutes',
            'mmcv._ext',
        ),
        Breakage(
            lambda f: f.has(mmengine) and not f.has('mmcv', 'onedl-mmcv'),
            'mmcv is not installed: no detector or segmentor can be built',
            f'{build} {name}=={number}   # after torch; compiles',
        ),
    )


def _twice(name: str, fork: str) -> Breakage:
    """Both installed: whichever came last owns the files, and uninstalling either breaks both."""
    return Breakage(
        lambda f: f.has(name) and f.has(fork),
        f'{name} and {fork} install the same modules, one over the other',
        f'pip uninstall -y {name} && pip install --force-reinstall --no-deps {fork}'
        '   # or the other way round',
    )


BREAKAGES = (
    _missing('torch', 'pip install torch==2.13.0'),
    _missing('mmengine', 'pip install mmengine==0.10.7', 'onedl-mmengine'),
    _unusable('numpy', 'numpy', lambda f: True),
    _unusable('torch', 'torch', lambda f: 'numpy' not in f.failures),
    _unusable('mmengine', 'mmengine.runner', _its_needs_work),
    _unusable('onedl-mmengine', 'mmengine.runner', _its_needs_work),
    Breakage(
        lambda f: f.newer('setuptools', '82') and f.older('mmengine', '0.11.0rc0'),
        "No module named 'pkg_resources' on any config that inherits from mmdet:: or mmseg::",
        "pip install 'setuptools<82'",
    ),
    Breakage(
        lambda f: any(n.startswith('opencv') for n in f.versions) and 'cv2' in f.failures,
        'import cv2 fails, as it does without libGL on a bare container',
        'pip uninstall -y opencv-python && pip install --force-reinstall opencv-python-headless',
        'cv2',
    ),
    *_mmcv('mmcv', '2.1.0', 'mmengine'),
    *_mmcv('onedl-mmcv', '2.3.6', 'onedl-mmengine'),
    Breakage(
        lambda f: f.newer('mmcv', '2.2.0') and f.has('mmdet', 'mmsegmentation'),
        'mmdet 3.3 and mmsegmentation 1.2 assert mmcv < 2.2.0',
        'MMCV_WITH_OPS=1 pip install --no-build-isolation mmcv==2.1.0',
    ),
    Breakage(
        lambda f: f.has('mmsegmentation') and bool({'ftfy', 'regex'} & {*f.failures}),
        "mmsegmentation imports 'ftfy' and 'regex' without declaring them",
        'pip install ftfy regex',
    ),
    Breakage(
        lambda f: f.has('mmpretrain') and not f.has('torchvision'),
        "mmpretrain imports 'torchvision' without declaring it: no classifier can be built",
        'pip install torchvision --index-url ...   # from where your torch came, for its version',
    ),
    Breakage(
        lambda f: f.has('torchvision') and 'torchvision' in f.failures and _torch_works(f),
        'torchvision was built for another torch than the one installed: mmpretrain cannot build a '
        'classifier',
        'pip install --force-reinstall --no-deps torchvision --index-url ...   # from where your '
        'torch came, for its version',
        'torchvision',
    ),
    Breakage(
        lambda f: (
            f.has('pycocotools') and 'pycocotools.mask' in f.failures and 'numpy' not in f.failures
        ),
        'pycocotools was built for another numpy than the one installed',
        "pip install --force-reinstall --no-deps --no-cache-dir 'pycocotools>=2.0.8'",
        'pycocotools.mask',
    ),
    Breakage(
        lambda f: f.older('mmengine', '0.10.6') and f.newer('torch', '2.5'),
        "mmengine: 'Adafactor is already registered'",
        'pip install mmengine==0.10.7',
    ),
    Breakage(
        lambda f: f.newer('numpy', '2') and f.older('torch', '2.3'),
        'this torch was built for numpy 1: "A module that was compiled using NumPy 1.x"',
        "pip install 'numpy<2'",
    ),
    _twice('mmengine', 'onedl-mmengine'),
    _twice('mmcv', 'onedl-mmcv'),
    _twice('mmdet', 'onedl-mmdetection'),
    _twice('mmsegmentation', 'onedl-mmsegmentation'),
)
