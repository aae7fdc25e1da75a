"""Our configs in the hands of others: inherited, in stock tools and inferencers, from a wheel."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import mmdet
import mmseg
import pytest
from mmengine.config import Config

from tests.config_types import lost_types
from vitbackbones.data import demo as demo_data

ROOT = Path(__file__).parents[1]
LEAVES = sorted(
    path.relative_to(ROOT / 'configs').as_posix()
    for kind in ('detection', 'segmentation')
    for path in (ROOT / 'configs' / kind).glob('**/*.py')
    if '_base_' not in path.parts
)
DEFAULTS = [leaf for leaf in LEAVES if leaf.count('/') == 1]


class Place(NamedTuple):
    """An interpreter that has this package, and where it has it."""

    python: Path
    package: Path
    environment: dict[str, str]

    def config(self, leaf: str) -> Path:
        return self.package / '.mim/configs' / leaf

    def run(self, *words: object, cwd: Path) -> str:
        """What a process prints, after checking that it ends well."""
        done = subprocess.run(
            [self.python, '-W', 'ignore', *map(str, words)],
            cwd=cwd,
            env={**self.environment, 'OMP_NUM_THREADS': '2'},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout


@pytest.fixture(scope='module')
def checkout() -> Place:
    """This interpreter, which finds the checkout by PYTHONPATH alone."""
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    return Place(Path(sys.executable), ROOT / 'vitbackbones', environment)


@pytest.fixture(scope='module')
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A fresh environment with the wheel; only what it depends on comes from this one."""
    folder = tmp_path_factory.mktemp('installed')
    venv.create(folder, symlinks=True)
    python = folder / 'bin/python'
    pip = [sys.executable, '-m', 'pip', '--python', python, 'install', '--no-deps', '--no-index']
    done = subprocess.run([*pip, wheel], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    packages = folder / Path(sysconfig.get_path('purelib')).relative_to(sys.prefix)
    # A path in a .pth file brings the packages of a folder, but not what its own .pth files name:
    # an editable installation of the checkout stays behind.
    (packages / 'dependencies.pth').write_text(sysconfig.get_path('purelib'))
    environment = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    return Place(python, packages / 'vitbackbones', environment)


@pytest.fixture(params=['checkout', 'wheel'])
def place(request: pytest.FixtureRequest) -> Place:
    name = {'checkout': 'checkout', 'wheel': 'installed'}[request.param]
    return request.getfixturevalue(name)


@pytest.fixture(scope='module')
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo set of a few images."""
    folder = tmp_path_factory.mktemp('images')
    demo_data.generate(folder, train=4, val=2, seed=0)
    return folder


# ----------------------------------------------------------------------------- inheritance


def test_another_package_inherits_by_name_after_importing_ours(
    place: Place, tmp_path: Path
) -> None:
    package = tmp_path / 'theirs'
    (package / 'configs').mkdir(parents=True)
    (package / '__init__.py').write_text('import vitbackbones\n')
    (package / 'configs/own.py').write_text(
        "_base_ = 'vitbackbones::detection/sepvit_retinanet.py'\n"
        "model = dict(backbone=dict(arch='lite'), neck=dict(in_channels=[64, 128, 256]))\n"
        "custom_hooks = [*_base_.custom_hooks, dict(type='EMAHook')]\n"
    )
    code = (
        'import theirs, vitbackbones\n'
        'from mmengine.config import Config\n'
        'from mmdet.registry import MODELS\n'
        'cfg = Config.fromfile("theirs/configs/own.py")\n'
        'net = MODELS.build(cfg.model).backbone\n'
        'print(vitbackbones.__file__, net.arch.dims[-1], *(h.type for h in cfg.custom_hooks))'
    )
    file, dim, *hooks = place.run('-c', code, cwd=tmp_path).split()[-7:]
    assert Path(file).parent == place.package
    names = ('Preflight', 'Durable', 'NonFinite', 'ZeroLoss')
    ours = [f'vitbackbones.{name}Hook' for name in names]
    assert (dim, hooks) == ('256', [*ours, 'EMAHook'])


@pytest.mark.parametrize(
    'leaf',
    [
        'detection/sepvit_retinanet.py',
        'detection/gcvit/gcvit-large_dino-4scale_36e.py',
        'segmentation/casvit/casvit-xs_semantic-fpn_40k.py',
    ],
)
def test_inherited_by_relative_path_a_config_is_what_it_was(tmp_path: Path, leaf: str) -> None:
    path = ROOT / 'configs' / leaf
    (tmp_path / 'own.py').write_text(f'_base_ = {os.path.relpath(path, tmp_path)!r}\n')
    assert Config.fromfile(tmp_path / 'own.py').to_dict() == Config.fromfile(path).to_dict()


@pytest.mark.parametrize('leaf', LEAVES)
def test_inherited_by_name_every_type_of_a_config_is_found(tmp_path: Path, leaf: str) -> None:
    """What a recipe of ours names gets our scope then, where mmdet's and mmseg's names are not."""
    (tmp_path / 'own.py').write_text(f"_base_ = 'vitbackbones::{leaf}'\n")
    assert lost_types(Config.fromfile(tmp_path / 'own.py')) == []


# ----------------------------------------------------------------------------- inferencers

DETECT = """
import sys, torch
from mmdet.apis import DetInferencer

def predict(weights):
    inferencer = DetInferencer(sys.argv[1], weights, device='cpu', show_progress=False)
    inferencer.model.bbox_head.test_cfg.score_thr = 0.0
    for step in inferencer.pipeline.transforms:
        step.scale = (160, 128)
    return inferencer.model, inferencer(sys.argv[2])['predictions'][0]

model, first = predict(None)
torch.save({'state_dict': model.state_dict()}, 'weights.pth')
assert predict('weights.pth')[1] == first
assert {*first} == {'bboxes', 'labels', 'scores'}
print(type(model.backbone).__name__, len(first['bboxes']))
"""

SEGMENT = """
import sys, torch
from mmseg.apis import MMSegInferencer

def predict(weights):
    inferencer = MMSegInferencer(sys.argv[1], weights, device='cpu')
    for step in inferencer.pipeline.transforms:
        step.scale = (160, 128)
    return inferencer.model, inferencer(sys.argv[2])['predictions']

model, first = predict(None)
torch.save({'state_dict': model.state_dict()}, 'weights.pth')
assert (predict('weights.pth')[1] == first).all()
print(type(model.backbone).__name__, first.size)
"""


@pytest.mark.parametrize(
    ('leaf', 'code', 'folder'),
    [
        ('detection/sepvit_retinanet.py', DETECT, 'coco/val2017'),
        ('segmentation/sepvit_upernet.py', SEGMENT, 'ade20k/images/validation'),
    ],
    ids=['DetInferencer', 'MMSegInferencer'],
)
def test_inferencers_take_configs_and_checkpoints_of_a_wheel(
    installed: Place, images: Path, tmp_path: Path, leaf: str, code: str, folder: str
) -> None:
    image = min((images / folder).glob('*.jpg'))
    out = installed.run('-c', code, installed.config(leaf), image, cwd=tmp_path)
    backbone, size = out.split()[-2:]
    assert backbone == 'SepViT'
    assert int(size) > 0


# ----------------------------------------------------------------------------- stock tools

# A narrow network: what is tested is that the tool runs the config.
SMALL = {
    'detection/sepvit_retinanet.py': [
        'model.backbone.arch=lite',
        'model.neck.in_channels=[64,128,256]',
        'model.bbox_head.stacked_convs=1',
    ],
    'segmentation/sepvit_upernet.py': [
        'model.backbone.arch=lite',
        'model.decode_head.in_channels=[32,64,128,256]',
        'model.decode_head.channels=16',
        'model.auxiliary_head.in_channels=128',
        'model.auxiliary_head.channels=16',
    ],
}


def on_few_small_images(cfg: Config, images: Path) -> list[str]:
    """Options that let a config train for a few iterations on the demo set, without downloads."""
    small = {'scale': '(160,128)', 'crop_size': '(96,96)', 'scales': '[(160,128)]'}
    detection = cfg.default_scope == 'mmdet'
    data = images / ('coco' if detection else 'ade20k')
    options = ['model.backbone.init_cfg=None', 'train_dataloader.batch_size=2']
    options += ['train_cfg.max_epochs=1'] if detection else ['train_cfg.max_iters=2']
    if detection:
        options.append(f'val_evaluator.ann_file={data}/annotations/instances_val2017.json')
    else:
        options.append('model.data_preprocessor.size=(96,96)')
        options.append('train_cfg.val_interval=2')
    if cfg.optim_wrapper.type == 'AmpOptimWrapper':  # mmengine's needs a GPU
        options.append('optim_wrapper.type=OptimWrapper')
    for split in ('train', 'val'):
        loader = f'{split}_dataloader'
        options += [
            f'{loader}.num_workers=0',
            f'{loader}.persistent_workers=False',
            f'{loader}.dataset.data_root={data}/',
        ]
        pipeline = cfg[loader].dataset.pipeline
        for path, node in _dicts(pipeline, f'{loader}.dataset.pipeline'):
            options += [f'{path}.{key}={small[key]}' for key in node if key in small]
    return options


def _dicts(node: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, dict):
        yield path, node
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        if isinstance(value, (dict, list, tuple)):
            yield from _dicts(value, f'{path}.{key}')


def train(place: Place, leaf: str, images: Path, cwd: Path, *options: str) -> None:
    """Run mmdet's or mmseg's own tool on one of our configs by its path."""
    path = place.config(leaf)
    package = mmdet if leaf.startswith('detection') else mmseg
    tool = Path(package.__file__).parent / '.mim/tools/train.py'
    options = (*on_few_small_images(Config.fromfile(path), images), *options)
    place.run(tool, path, '--work-dir', 'run', '--cfg-options', *options, cwd=cwd)
    last = (cwd / 'run/last_checkpoint').read_text()
    assert Path(last).is_file()


def test_the_stock_tool_of_mmseg_trains_our_config_by_path(
    checkout: Place, images: Path, tmp_path: Path
) -> None:
    leaf = 'segmentation/sepvit_upernet.py'
    train(checkout, leaf, images, tmp_path, *SMALL[leaf])


@pytest.mark.e2e
@pytest.mark.parametrize('leaf', SMALL)
def test_stock_tools_train_configs_of_a_wheel(
    installed: Place, images: Path, tmp_path: Path, leaf: str
) -> None:
    train(installed, leaf, images, tmp_path, *SMALL[leaf])


@pytest.mark.e2e
@pytest.mark.parametrize('leaf', DEFAULTS)
def test_stock_tools_train_every_default_by_path(
    checkout: Place, images: Path, tmp_path: Path, leaf: str
) -> None:
    train(checkout, leaf, images, tmp_path)
