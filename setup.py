"""The distribution; everything static is in pyproject.toml. Building it needs neither torch nor
mmengine: the version is read from the source, not imported."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def version() -> str:
    source = (ROOT / 'vitbackbones' / '__init__.py').read_text(encoding='utf-8')
    found = re.search(r"^__version__ = '([^']+)'$", source, flags=re.MULTILINE)
    if found is None:
        raise RuntimeError('vitbackbones/__init__.py has no line __version__ = ...')
    return found[1]


def requirements(name: str) -> list[str]:
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text(encoding='utf-8').splitlines()
    return [line for line in lines if line and not line.startswith('#')]


# Without mmcv: pip, left to itself, compiles it in an isolated environment, where it leaves its
# operators out without a word. README and `vitbackbones doctor` give the line that works.
DETECTION = ['mmdet>=3.3,<4']
SEGMENTATION = ['mmsegmentation>=1.2,<2', 'ftfy', 'regex']
EXPORT = ['onnx', 'onnxruntime', 'onnxscript']
SAFETENSORS = ['safetensors']

setup(
    name='vitbackbones',
    version=version(),
    description='Dense-prediction backbones for OpenMMLab: '
    'SepViT, CAS-ViT, SuperViT, GC ViT and SHViT',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author='The vitbackbones authors',
    license='Apache-2.0',
    classifiers=[
        'Intended Audience :: Science/Research',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    packages=find_packages(include=['vitbackbones', 'vitbackbones.*']),
    # vitbackbones/.mim holds symlinks into the checkout; a wheel gets the files behind them, where
    # mmengine looks for `_base_ = 'vitbackbones::...'` and OpenMIM for tools and models.
    package_data={
        'vitbackbones': [
            '.mim/model-index.yml',
            '.mim/configs/**/*.py',
            '.mim/configs/**/*.yml',
            '.mim/tools/*.py',
            '.mim/tools/*.sh',
        ]
    },
    python_requires='>=3.10',
    install_requires=[
        'torch>=2.4',
        'mmengine>=0.10.6',
        'setuptools<82',  # mmengine 0.10.7 imports pkg_resources
        'numpy',
        'pillow',
    ],
    extras_require={
        'det': DETECTION,
        'seg': SEGMENTATION,
        'export': EXPORT,
        'safetensors': SAFETENSORS,
        'test': requirements('test') + requirements('lint'),
        'all': sorted({*DETECTION, *SEGMENTATION, *EXPORT, *SAFETENSORS}),
    },
    entry_points={'console_scripts': ['vitbackbones = vitbackbones.cli.main:main']},
    zip_safe=False,
)
