"""What `doctor` finds and advises, also where next to nothing can be imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vitbackbones.installation import gpu
from vitbackbones.installation.breakages import BREAKAGES, breakages
from vitbackbones.installation.command import is_our_command, needs_no_networks
from vitbackbones.installation.found import Found, import_failures

ROOT = Path(__file__).parents[1]
GOOD = {
    'torch': '2.13.0',
    'numpy': '2.2.0',
    'setuptools': '81.0.0',
    'mmengine': '0.10.7',
    'mmcv': '2.1.0',
    'mmdet': '3.3.0',
    'mmsegmentation': '1.2.2',
    'pycocotools': '2.0.11',
    'opencv-python-headless': '4.10.0.84',
}


def run(*words: str, place: Path, status: int, **environment: str) -> Any:
    """The command in a process of its own, in which the modules of ``place`` come first.

    A torchvision is among them: here mmpretrain is installed without.
    """
    stand_in(place, 'torchvision.py', '')
    (place / 'torchvision-0.28.0.dist-info').mkdir(exist_ok=True)
    metadata = 'Metadata-Version: 2.1\nName: torchvision\nVersion: 0.28.0\n'
    stand_in(place, 'torchvision-0.28.0.dist-info/METADATA', metadata)
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-m', 'vitbackbones', *words],
        cwd=place,
        env={**os.environ, 'PYTHONPATH': f'{place}:{ROOT}', **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert 'Traceback' not in done.stdout + done.stderr
    return done


def stand_in(folder: Path, name: str, text: str) -> None:
    """An installed module of that name, or a program."""
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


# ----------------------------------------------------------------------- as a user runs it


def test_doctor_finds_nothing_to_mend_here(tmp_path: Path) -> None:
    stand_in(
        tmp_path,
        'nvidia-smi',
        '#!/bin/sh\necho "NVIDIA H200, 143771 MiB, 550.90.07, GPU-12ab-34"\n',
    )
    stand_in(
        tmp_path, 'nvcc', '#!/bin/sh\necho "Cuda compilation tools, release 12.4, V12.4.131"\n'
    )
    path = f'{tmp_path}:{os.environ["PATH"]}'
    out = run('doctor', place=tmp_path, status=0, PATH=path, CUDA_HOME='').stdout
    assert 'nothing to fix' in out
    assert 'mmcv ' in out
    assert f'12.4 ({tmp_path}/nvcc)' in out
    assert 'NVIDIA H200' in out


def test_doctor_and_info_run_where_mmcv_and_opencv_do_not(tmp_path: Path) -> None:
    for name in ('mmcv', 'cv2'):
        stand_in(tmp_path, f'{name}.py', "raise ImportError('broken')")
    run('info', 'SepViT', place=tmp_path, status=0)
    out = run('doctor', place=tmp_path, status=1).stdout
    assert 'import cv2 fails' in out
    assert 'without its operators' in out
    assert 'mmengine cannot be imported' not in out


@pytest.mark.parametrize(
    ('module', 'error', 'reason'),
    [
        (
            'mmengine',
            "KeyError('Adafactor is already registered')",
            "KeyError: 'Adafactor is already registered'",
        ),
        (
            'torch',
            "OSError('libcudart.so.12: no such file')",
            'OSError: libcudart.so.12: no such file',
        ),
    ],
)
def test_doctor_names_what_the_package_cannot_be_imported_for(
    tmp_path: Path, module: str, error: str, reason: str
) -> None:
    stand_in(tmp_path, f'{module}.py', f'raise {error}')
    out = run('doctor', place=tmp_path, status=1).stdout
    assert f'broken: {module} cannot be imported ({reason})' in out
    assert f' --no-cache-dir {module}==' in out
    assert out.count('broken: ') == 1  # not what needs it
    assert run('info', place=tmp_path, status=2).stderr == (
        f'vitbackbones info: what it needs cannot be imported ({reason}); `vitbackbones doctor` '
        'says what is broken and how to fix it\n'
    )


def test_doctor_names_what_of_the_package_itself_is_broken(tmp_path: Path) -> None:
    broken = 'raise AttributeError("module mmengine.dist has no attribute barrier")'
    stand_in(tmp_path, 'sitecustomize.py', PATCH.format(module='vitbackbones.registry', do=broken))
    out = run('doctor', place=tmp_path, status=1).stdout
    assert (
        'broken: vitbackbones cannot be imported (AttributeError: module mmengine.dist has no '
        'attribute barrier)\n'
    ) in out


# What an interpreter does first: one module of ours runs into something when it is imported.
PATCH = """
import sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == '{module}':
            {do}

sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize(
    ('words', 'ours', 'alone'),
    [
        (['/usr/bin/vitbackbones'], True, True),
        (['/usr/bin/vitbackbones', '--help'], True, True),
        (['/usr/bin/vitbackbones', 'doctor'], True, True),
        (['/usr/bin/vitbackbones', 'train', '--help'], True, False),
        ([str(ROOT / 'tools' / 'model_zoo.py')], True, False),
        ([str(ROOT / 'tools' / 'train.py'), '--help'], True, False),
        (['train.py', '--help'], False, False),
        (['-c', '--help'], False, False),
        ([''], False, False),
    ],
)
def test_only_our_command_does_without_the_networks(
    words: list[str],
    ours: bool,
    alone: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, 'argv', words)
    for folder in (tmp_path, ROOT / 'tools') if '.py' not in words[0] else (tmp_path,):
        monkeypatch.chdir(folder)
        assert (is_our_command(), needs_no_networks()) == (ours, alone)


def test_importing_a_package_that_is_broken_is_an_error_as_ever(tmp_path: Path) -> None:
    stand_in(tmp_path, 'torch.py', "raise ImportError('broken')")
    done = subprocess.run(
        [sys.executable, '-c', 'import vitbackbones'],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': f'{tmp_path}:{ROOT}'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.endswith('ImportError: broken\n')


def test_a_module_that_ends_the_process_hides_none_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, 'crashes.py', 'import os\nos.abort()')
    stand_in(tmp_path, 'fails.py', "raise ValueError('numpy.dtype size\\n changed')")
    stand_in(tmp_path, 'works.py', "print('hello')")
    monkeypatch.setattr(sys, 'path', [str(tmp_path), *sys.path])
    assert import_failures(['works', 'crashes', 'fails', 'json']) == {
        'crashes': 'importing it ends the process (status -6)',
        'fails': 'ValueError: numpy.dtype size changed',
    }


# ------------------------------------------------------------------------- known breakages


def test_doctor_knows_what_breaks_and_how_to_mend_it() -> None:
    assert breakages(Found(GOOD)) == []
    for change, fix in (
        ({'setuptools': '84.0.0'}, 'setuptools<82'),
        ({'mmcv': '2.2.0'}, 'mmcv==2.1.0'),
        ({'mmengine': '0.10.4'}, 'mmengine==0.10.7'),
        ({'torch': '2.1.0'}, 'numpy<2'),
        ({'onedl-mmcv': '2.3.6'}, 'uninstall -y mmcv && '),
        ({'onedl-mmengine': '0.10.12'}, '--no-deps onedl-mmengine'),
    ):
        assert any(fix in b.fix for b in breakages(Found({**GOOD, **change}))), change


def test_a_release_candidate_comes_before_its_release() -> None:
    for number, known in (('0.10.7', True), ('0.11.0.dev1', True), ('0.11.0rc3', False)):
        found = Found({**GOOD, 'mmengine': number, 'setuptools': '84.0.0'})
        assert any('pkg_resources' in b.symptom for b in breakages(found)) is known


def test_doctor_says_that_pycocotools_does_not_fit_numpy() -> None:
    reason = 'ValueError: numpy.dtype size changed, may indicate binary incompatibility'
    found = Found(GOOD, {'pycocotools.mask': reason})
    (broken,) = breakages(found)
    assert reason in broken.told(found)
    assert "--no-cache-dir 'pycocotools>=2.0.8'" in broken.told(found)


def test_every_line_that_fixes_something_can_be_told() -> None:
    names = [*GOOD, 'onedl-mmengine', 'onedl-mmcv']
    found = Found(dict.fromkeys(names, '1.0'))
    for breakage in BREAKAGES:
        assert '{' not in breakage.told(found)


def test_doctor_says_what_classifiers_need() -> None:
    (missing,) = breakages(Found({**GOOD, 'mmpretrain': '1.2.0'}))
    assert missing.symptom.startswith("mmpretrain imports 'torchvision'")
    failures = {'torchvision': 'RuntimeError: operator torchvision::nms does not exist'}
    both = {'mmpretrain': '1.2.0', 'torchvision': '0.20.0'}
    (other,) = breakages(Found({**GOOD, **both}, failures))
    assert 'built for another torch' in other.symptom
    assert breakages(Found({**GOOD, **both})) == []
    assert breakages(Found(GOOD, {'torchvision': 'ModuleNotFoundError'})) == []  # not asked for


@pytest.mark.parametrize(
    ('mmengine', 'mmcv'), [('mmengine', 'mmcv==2.1.0'), ('onedl-mmengine', 'onedl-mmcv==2.3.6')]
)
def test_doctor_mends_mmcv_with_the_family_that_is_installed(mmengine: str, mmcv: str) -> None:
    name, number = mmcv.split('==')
    for installed in ({mmengine: '0.10.12'}, {mmengine: '0.10.12', name: number}):
        found = Found({'torch': '2.13.0', **installed}, {'mmcv._ext': 'ImportError: symbol'})
        (broken,) = breakages(found)
        assert f' {mmcv} ' in broken.fix


# --------------------------------------------------------------------------------- the GPU


def torch_with(
    *gpus: tuple[str, int, int],
    cuda: str | None = '12.6',
    hip: str | None = None,
    archs: str = 'sm_75 sm_80 sm_90',
) -> Any:
    """What of torch is asked; the GPUs by name and compute capability."""
    properties = [
        SimpleNamespace(
            name=name,
            total_memory=139 * 2**30,
            major=major,
            minor=minor,
            gcnArchName='gfx90a:xnack-',
        )
        for name, major, minor in gpus
    ]

    def init() -> None:
        raise RuntimeError('The NVIDIA driver on your system is too old\n(found version 11040).')

    return SimpleNamespace(
        __version__='2.13.0+cu126',
        version=SimpleNamespace(cuda=cuda, hip=hip),
        cuda=SimpleNamespace(
            is_available=lambda: bool(gpus),
            device_count=lambda: len(gpus),
            get_device_properties=properties.__getitem__,
            get_arch_list=lambda: archs.split() if gpus else [],
            init=init,
        ),
    )


DRIVER = [gpu.Driver('NVIDIA H200', '143771 MiB', '550.90.07', 'GPU-12ab-34')]


def test_the_gpu_is_told_with_its_memory_driver_and_architecture() -> None:
    torch = torch_with(('NVIDIA H200', 9, 0))
    out = '\n'.join(gpu.lines(torch, DRIVER, gpu.Toolkit('12.4', '/usr/local/cuda/bin/nvcc')))
    assert 'NVIDIA H200, 139 GiB, sm_90, driver 550.90.07' in out
    assert '12.6, for sm_75 sm_80 sm_90' in out
    assert '12.4 (/usr/local/cuda/bin/nvcc)' in out
    assert list(gpu.problems(torch, DRIVER)) == []
    assert list(gpu.notes(torch, DRIVER, gpu.Toolkit('12.4', 'nvcc'))) == []


@pytest.mark.parametrize(
    ('capability', 'archs', 'runs'),
    [
        ((8, 9), 'sm_80 sm_90', True),
        ((12, 0), 'sm_80 sm_90', False),
        ((12, 0), 'sm_80 sm_90 compute_90', True),
        ((7, 0), 'sm_75 sm_80', False),
        ((9, 0), 'sm_80 sm_90a', True),
        ((10, 0), 'sm_90a sm_100', True),
        ((10, 3), 'sm_90 sm_100a', False),
    ],
)
def test_an_architecture_that_torch_has_no_kernels_for_is_a_fault(
    capability: tuple[int, int], archs: str, runs: bool
) -> None:
    torch = torch_with(('GPU', *capability), archs=archs)
    found = list(gpu.problems(torch, DRIVER))
    assert (not found) is runs
    if not runs:
        assert f'is an sm_{capability[0]}{capability[1]}, and this torch has' in found[0][0]
        assert 'torch==2.13.0 --index-url' in found[0][1]


def test_a_driver_that_is_too_old_is_a_fault_and_a_build_for_cpus_is_noted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    ((symptom, fix),) = gpu.problems(torch_with(), DRIVER)
    assert 'cannot use the GPU: The NVIDIA driver on your system is too old (found' in symptom
    assert 'newer driver than 550.90.07' in fix
    plain = torch_with(cuda=None)
    assert list(gpu.problems(plain, DRIVER)) == []
    assert list(gpu.notes(plain, DRIVER, None)) == [
        'this torch is a build for CPUs: the GPU stays idle'
    ]
    assert list(gpu.problems(torch_with(), [])) == []  # no GPU, nothing to fix


@pytest.mark.parametrize(
    ('value', 'hides'),
    [('', True), ('-1', True), ('1', True), ('GPU-9', True), ('0,7', False), ('GPU-12ab', False)],
)
def test_gpus_that_are_hidden_are_noted_and_no_fault(
    value: str, hides: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', value)
    torch = torch_with()
    assert (list(gpu.problems(torch, DRIVER)) == []) is hides
    notes = list(gpu.notes(torch, DRIVER, None))
    if not hides:
        assert notes == []
        return
    (note,) = notes
    assert f'CUDA_VISIBLE_DEVICES={value!r} hides' in note
    assert list(gpu.notes(torch, [], None)) == []  # there is none to hide


def test_a_build_for_rocm_is_told_from_one_for_cpus() -> None:
    torch = torch_with(('AMD MI210', 9, 0), cuda=None, hip='6.2.4', archs='gfx90a')
    out = '\n'.join(gpu.lines(torch, [], None))
    assert 'AMD MI210, 139 GiB, gfx90a' in out
    assert 'none, a build for ROCm 6.2.4, for gfx90a' in out
    assert list(gpu.problems(torch, [], '')) == []
    assert list(gpu.notes(torch, [], None)) == []


def test_operators_of_mmcv_without_cuda_are_a_fault_where_there_is_a_gpu() -> None:
    torch = torch_with(('NVIDIA H200', 9, 0))
    ((symptom, fix),) = gpu.problems(torch, DRIVER, 'none')
    assert 'compiled without CUDA' in symptom
    assert 'FORCE_CUDA=1' in fix
    assert list(gpu.problems(torch, DRIVER, '12.6')) == []


def test_a_toolkit_of_another_cuda_is_noted() -> None:
    (note,) = gpu.notes(torch_with(('GPU', 9, 0)), DRIVER, gpu.Toolkit('11.8', 'nvcc'))
    assert 'nvcc is CUDA 11.8, torch was built for 12.6' in note
