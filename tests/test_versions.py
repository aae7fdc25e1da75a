"""The sets of versions that tools/test_versions.sh tests, and what other versions need."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
VERSIONS = ROOT / 'requirements' / 'versions'
SCRIPT = (ROOT / 'tools' / 'test_versions.sh').read_text()


def pinned(name: str, package: str) -> str:
    """The version of ``package`` in a file of the oldest set."""
    text = (VERSIONS / 'oldest' / f'{name}.txt').read_text()
    return re.search(rf'^{package}==(\S+)$', text, flags=re.MULTILINE)[1]


@pytest.mark.parametrize(
    'path', sorted(VERSIONS.glob('*/*')), ids=lambda p: f'{p.parent.name}-{p.stem}'
)
def test_a_file_of_a_set_stands_for_one_of_ours(path: Path) -> None:
    """Another name would be read by nobody, and the set be tested on our own versions."""
    assert path.name == 'python.txt' or (ROOT / 'requirements' / path.name).is_file()


def test_the_least_versions_declared_are_those_of_the_oldest_set() -> None:
    declared = (ROOT / 'pyproject.toml').read_text()
    assert f'"torch>={pinned("torch", "torch").removesuffix(".0")}"' in declared
    assert f'"mmengine>={pinned("openmmlab", "mmengine")}"' in declared
    python = (VERSIONS / 'oldest' / 'python.txt').read_text().strip()
    assert f'requires-python = ">={python}"' in declared


@pytest.mark.parametrize('test', re.findall(r'^    (tests/\S+)$', SCRIPT, flags=re.MULTILINE))
def test_what_the_script_runs_exists(test: str) -> None:
    path, _, name = test.partition('::')
    assert f'def {name}' in (ROOT / path).read_text()


@pytest.mark.parametrize('name', sorted(p.name for p in VERSIONS.iterdir()))
def test_every_set_is_documented(name: str) -> None:
    assert f'| `{name}` |' in (ROOT / 'docs' / 'compatibility.md').read_text()


def test_every_set_is_tested_on_its_python_by_github() -> None:
    workflow = yaml.safe_load((ROOT / '.github/workflows/tests.yml').read_text())
    matrix = workflow['jobs']['versions']['strategy']['matrix']['include']
    own = {p.parent.name: p.read_text().strip() for p in VERSIONS.glob('*/python.txt')}
    assert {job['set']: job['python'] for job in matrix} == {
        folder.name: own.get(folder.name, '3.11') for folder in VERSIONS.iterdir()
    }


@pytest.mark.parametrize(
    'path', sorted((ROOT / '.github/workflows').glob('*.yml')), ids=lambda p: p.stem
)
def test_what_the_workflows_run_exists(path: Path) -> None:
    jobs = yaml.safe_load(path.read_text())['jobs'].values()
    lines = '\n'.join(step.get('run', '') for job in jobs for step in job['steps'])
    targets = re.findall(r'^([a-z]+):', (ROOT / 'Makefile').read_text(), flags=re.MULTILINE)
    asked = {
        *re.findall(r'\bmake ([a-z]+)', lines),
        *re.findall(r'\b(tools/\S+)', lines),
    }
    assert asked
    assert [a for a in asked if a not in targets and not (ROOT / a).is_file()] == []


@pytest.mark.parametrize(
    ('distribution', 'found'),
    [('onedl-mmsegmentation', 'mmseg'), ('onedl-mmdetection', 'mmsegmentation')],
)
def test_bases_of_mmseg_are_looked_for_where_its_fork_is(
    tmp_path: Path, distribution: str, found: str
) -> None:
    info = tmp_path / f'{distribution.replace("-", "_")}-1.4.2.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.4.2\n')
    code = (
        'import vitbackbones\n'
        'from mmengine.config.utils import MODULE2PACKAGE\n'
        "print(MODULE2PACKAGE['mmseg'])"
    )
    out = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code],
        env={**os.environ, 'PYTHONPATH': f'{tmp_path}:{ROOT}'},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert out.stdout.split()[-1] == found
