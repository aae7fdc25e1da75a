"""What several test modules share."""

from __future__ import annotations

import gc
import importlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests import torchvision_stub
from tests.hub_server import Hub, hub_server
from vitbackbones import pretrained
from vitbackbones.checkpoint import LoadReport

ROOT = Path(__file__).parents[1]

# Modules whose tests are fast, some for every room of the package, and parts of the names of those
# in them that are not: they start processes, or build more than small networks. All together they
# may take a minute on two cores; what is to come in is measured first, with --durations=0.
FAST: dict[str, tuple[str, ...]] = {
    'test_architecture': (),
    'test_authoring': (),
    'test_attention': (),
    'test_check_data': (),
    'test_classifiers': (
        *('published', 'two_processes', 'missing', 'variant', 'no_classifier', 'starts_from'),
        *('dropped', 'come_back', 'other_classes', 'without_a_file', 'detector', 'does_not_fit'),
    ),
    'test_contract': ('ViT-', 'process'),
    'test_conv': (),
    'test_deploy': ('ViT-', 'whole_model'),
    'test_door': ('_is_done_to_', 'any_hook', '_files_', 'trace', 'graph', 'counts', 'elsewhere'),
    'test_doctor': ('_finds_', '_run_where_', '_names_what_', '_importing_', '_ends_the_process_'),
    'test_explaining': (
        *(
            'being_explained',
            'drawn',
            'detection',
            'each_class',
            'side_by_side',
            'refused',
            'named',
        ),
        'GCViT-size',
    ),
    'test_formats': ('label_maps', 'indices', 'two_suffixes', 'ignored'),
    'test_hostile_files': ('memory', 'many.pth'),
    'test_label_order': (),
    'test_layer_decay': (),
    'test_layers': ('process',),
    'test_measuring': (),
    'test_necks': (),
    'test_options': (),
    'test_predictions': ('dump', 'refused'),
    'test_preflight': ('fresh_process',),
    'test_report_figures': ('putting', 'masks', 'best_threshold'),
    'test_shvit': ('s2', 's3', 's4'),
    'test_zero_losses': (),
}

# Two cores serve several workers at once; more threads each would only wait for one another.
torch.set_num_threads(1)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Spare ``-m fast`` the import of modules that have nothing for it."""
    other = collection_path.suffix == '.py' and collection_path.stem not in FAST
    return True if other and config.option.markexpr == 'fast' else None


@pytest.hookimpl(tryfirst=True)  # before pytest chooses by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is fast."""
    for item in items:
        slow = FAST.get(item.path.stem)
        if slow is None or any(map(item.get_closest_marker, ('large', 'e2e', 'endurance'))):
            continue
        if not any(part in item.name for part in slow):
            item.add_marker('fast')


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope='session')
def mmpretrain() -> ModuleType:
    """The package with all parts that a registry would import, with or without torchvision."""
    with torchvision_stub.installed():
        for part in ('datasets', 'engine', 'evaluation', 'models', 'structures', 'visualization'):
            importlib.import_module(f'mmpretrain.{part}')
    return sys.modules['mmpretrain']


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[LoadReport]:
    """What ``create`` and ``init_weights`` load from now on."""
    made: list[LoadReport] = []
    original = pretrained.load_pretrained
    monkeypatch.setattr(
        pretrained, 'load_pretrained', lambda *args, **kw: made.append(original(*args, **kw))
    )
    return made


@pytest.fixture(scope='module')
def loopback_hub() -> Iterator[Hub]:
    """A hub without any file; who puts some there, or changes how it answers, begins with that."""
    with hub_server() as hub:
        yield hub


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
