"""Detectors and segmentors as SHViT's and CAS-ViT's authors published them, through the commands.

No such file is at hand. Each is made here as MMDetection 2 or MMSegmentation 0 saves it (an mmcv
checkpoint: ``meta``, ``state_dict``, ``optimizer``): the names of the backbone's tensors are those
of its manifest, which comes from the authors' own dense network; the names and shapes of neck and
heads are spelled out below as those versions have them, which are the ones that mmdet 3.3 and
mmseg 1.2 still use. All values come from refdata's formula, by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch import Tensor, nn

from tests.checkpoint_files import Published, State, save, to_timm
from tests.reference import refdata
from tests.small import SMALL
from vitbackbones.checkpoint import CheckpointError
from vitbackbones.cli.main import main
from vitbackbones.data import demo as demo_data
from vitbackbones.launch.loading import load_config
from vitbackbones.pretrained import load_model

CONFIGS = Path(__file__).parents[1] / 'configs'
Shapes = dict[str, tuple[int, ...]]

# ---------------------------------------------------- names of MMDetection 2, MMSegmentation 0


def layer(name: str, *shape: int) -> Shapes:
    """A convolution or linear layer with bias."""
    return {f'{name}.weight': shape, f'{name}.bias': shape[:1]}


def transposed(name: str, dim: int) -> Shapes:
    return {f'{name}.weight': (dim, dim, 2, 2), f'{name}.bias': (dim,)}


def fpn(channels: tuple[int, ...], extra: int = 0) -> Shapes:
    """``extra`` levels are convolved from the input, as RetinaNet's."""
    shapes: Shapes = {}
    for i, dim in enumerate(channels):
        shapes |= layer(f'neck.lateral_convs.{i}.conv', 256, dim, 1, 1)
    dims = [256] * len(channels) + [channels[-1], *[256] * extra][:extra]
    for i, dim in enumerate(dims):
        shapes |= layer(f'neck.fpn_convs.{i}.conv', 256, dim, 3, 3)
    return shapes


def transposed_fpn(channels: tuple[int, ...], finer: int) -> Shapes:
    shapes = fpn(channels)
    for i in range(finer):
        shapes |= transposed(f'neck.extra_trans_convs.{i}', 256)
        shapes |= layer(f'neck.extra_fpn_convs.{i}.conv', 256, 256, 3, 3)
    return shapes


def retina_head() -> Shapes:
    shapes: Shapes = {}
    for i in range(4):
        for branch in ('cls', 'reg'):
            shapes |= layer(f'bbox_head.{branch}_convs.{i}.conv', 256, 256, 3, 3)
    shapes |= layer('bbox_head.retina_cls', 9 * 80, 256, 3, 3)
    return shapes | layer('bbox_head.retina_reg', 9 * 4, 256, 3, 3)


def mask_rcnn_heads() -> Shapes:
    shapes = layer('rpn_head.rpn_conv', 256, 256, 3, 3)
    shapes |= layer('rpn_head.rpn_cls', 3, 256, 1, 1)
    shapes |= layer('rpn_head.rpn_reg', 3 * 4, 256, 1, 1)
    shapes |= layer('roi_head.bbox_head.shared_fcs.0', 1024, 256 * 7 * 7)
    shapes |= layer('roi_head.bbox_head.shared_fcs.1', 1024, 1024)
    shapes |= layer('roi_head.bbox_head.fc_cls', 81, 1024)
    shapes |= layer('roi_head.bbox_head.fc_reg', 80 * 4, 1024)
    for i in range(4):
        shapes |= layer(f'roi_head.mask_head.convs.{i}.conv', 256, 256, 3, 3)
    shapes |= transposed('roi_head.mask_head.upsample', 256)
    return shapes | layer('roi_head.mask_head.conv_logits', 80, 256, 1, 1)


def fpn_head() -> Shapes:
    shapes = layer('decode_head.conv_seg', 150, 128, 1, 1)
    for i, convs in enumerate((1, 1, 2, 3)):
        for j in range(convs):  # every second entry resizes
            name = f'decode_head.scale_heads.{i}.{2 * j}'
            shapes[f'{name}.conv.weight'] = (128, 128 if j else 256, 3, 3)
            for leaf in ('weight', 'bias', 'running_mean', 'running_var'):
                shapes[f'{name}.bn.{leaf}'] = (128,)
            shapes[f'{name}.bn.num_batches_tracked'] = ()
    return shapes


# --------------------------------------------------------------------------------------- files

CASVIT = {
    'xs': (48, 56, 112, 220),
    's': (48, 64, 128, 256),
    'm': (64, 96, 192, 384),
    't': (96, 128, 256, 512),
}
SHVIT = {'s4': (224, 336, 448)}


@dataclass(frozen=True)
class Whole:
    """A published detector or segmentor."""

    family: str
    arch: str
    method: str  # retinanet, mask-rcnn, semantic-fpn

    def __str__(self) -> str:
        return f'{self.family}-{self.arch}_{self.method}'

    @property
    def backbone(self) -> Published:
        return Published(self.family, self.arch, 'det')

    @property
    def config(self) -> Path:
        if self.method == 'semantic-fpn':
            return CONFIGS / f'segmentation/casvit/{self}_40k.py'
        if self.arch in ('s4', 't'):
            return CONFIGS / f'detection/{self.family}_{self.method.replace("-", "_")}.py'
        return CONFIGS / f'detection/casvit/{self}_1x.py'

    def outside(self) -> Shapes:
        channels = (SHVIT if self.family == 'shvit' else CASVIT)[self.arch]
        if self.method == 'semantic-fpn':
            return fpn(channels) | fpn_head()
        heads = retina_head() if self.method == 'retinanet' else mask_rcnn_heads()
        if self.family == 'shvit':
            return transposed_fpn(channels, 1 if self.method == 'retinanet' else 2) | heads
        return (fpn(channels[1:], extra=2) if self.method == 'retinanet' else fpn(channels)) | heads

    def filled(self) -> State:
        inside = {f'backbone.{name}': value for name, value in self.backbone.filled().items()}
        outside = {
            name: torch.from_numpy(refdata.fill_tensor(name, shape))
            for name, shape in self.outside().items()
        }
        return inside | outside

    def zeros(self) -> State:
        """Hardly any bytes: for counting."""
        inside = {f'backbone.{name}': value for name, value in self.backbone.zeros().items()}
        return inside | {name: torch.zeros(()).expand(s) for name, s in self.outside().items()}


def wrap(state: State) -> dict[str, Any]:
    """The content of a file as mmcv 1 saves it in the middle of AdamW's training."""
    moments = {'step': 87960, 'exp_avg': torch.ones(3), 'exp_avg_sq': torch.ones(3)}
    group = {'lr': 1e-6, 'betas': (0.9, 0.999), 'weight_decay': 0.05, 'params': [0]}
    return {
        'meta': {
            'mmdet_version': '2.25.0+',
            'config': "model = dict(type='RetinaNet')\n",
            'env_info': 'sys.platform: linux',
            'CLASSES': ('person', 'bicycle'),
            'seed': 0,
            'epoch': 12,
            'iter': 87960,
            'hook_msgs': {},
        },
        'state_dict': state,
        'optimizer': {'state': {0: moments}, 'param_groups': [group]},
    }


FILES = [
    *(Whole('shvit', 's4', method) for method in ('retinanet', 'mask-rcnn')),
    *(
        Whole('casvit', arch, method)
        for arch in CASVIT
        for method in ('retinanet', 'mask-rcnn', 'semantic-fpn')
    ),
]
EACH_METHOD = [case for case in FILES if case.arch in ('s4', 'xs')]


def build(config: Path) -> nn.Module:
    cfg = load_config(str(config))
    init_default_scope(cfg.default_scope)
    return ROOT_MODELS.build(cfg.model)


# ------------------------------------------------------------------------------- whole models


@pytest.mark.parametrize('case', FILES, ids=str)
def test_every_tensor_of_a_published_file_has_its_place(case: Whole) -> None:
    state = case.zeros()
    model = build(case.config)
    report = load_model(model, wrap(state), 'model.pth')
    # RetinaNet reads strides 8 to 32: the norm of CAS-ViT's first output has no use there.
    unread = {'backbone.norm0.' if str(case).startswith('casvit') else ''}
    unread = unread if case.method == 'retinanet' else set()
    assert {*report.dropped} == {k for k in state if any(u and k.startswith(u) for u in unread)}
    assert {*report.loaded} == {*model.state_dict()} == {*state} - {*report.dropped}
    assert all(not value.any() for value in model.state_dict().values())


@pytest.fixture(scope='module')
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a demo set of two test images."""
    folder = tmp_path_factory.mktemp('published')
    demo_data.generate(folder / 'data/demo', train=4, val=2, seed=0)
    return folder


@pytest.fixture
def tested(monkeypatch: pytest.MonkeyPatch, place: Path) -> list[nn.Module]:
    """The models that commands test from now on, in the directory with the demo set."""
    models: list[nn.Module] = []
    original = Runner.test

    def test(runner: Runner) -> Any:
        models.append(runner.model)
        return original(runner)

    monkeypatch.setattr(Runner, 'test', test)
    monkeypatch.chdir(place)
    return models


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    """Where to write a file of some 100 MB, which pytest would keep for three runs."""
    path = tmp_path / 'published.pth'
    yield path
    path.unlink(missing_ok=True)


@pytest.mark.parametrize('case', EACH_METHOD, ids=str)
def test_the_test_command_measures_a_published_file(
    case: Whole, tested: list[nn.Module], file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    state = case.filled()
    save(wrap(state), file)
    assert main(['test', str(case.config), str(file), '--demo', '--work-dir', 'run']) == 0
    for name, value in tested[0].state_dict().items():
        assert torch.equal(value, state[name]), name
    out = ''.join(capfd.readouterr())
    total = len(tested[0].state_dict())
    assert f'loaded {total}/{total} tensors ({type(tested[0]).__name__} with' in out
    assert ('mIoU' if case.method == 'semantic-fpn' else 'bbox_mAP_50') in out


# ----------------------------------------------------------------- a small detector, by dialect


@pytest.fixture
def config(tmp_path: Path) -> Path:
    arch = {'_delete_': True, **SMALL['SHViT']}
    path = tmp_path / 'small.py'
    path.write_text(
        f"_base_ = '{CONFIGS}/detection/shvit_retinanet.py'\n"
        'model = dict(\n'
        f'    backbone=dict(arch={arch}, init_cfg=None),\n'
        '    neck=dict(in_channels=[16, 24, 32], out_channels=8),\n'
        '    bbox_head=dict(in_channels=8, feat_channels=8, stacked_convs=1),\n'
        ')\n'
    )
    return path


@pytest.fixture
def small(config: Path) -> tuple[nn.Module, State]:
    """A detector, and other weights for it."""
    model, other = (build(config) for _ in range(2))
    other.init_weights()
    return model, {name: value.clone() for name, value in other.state_dict().items()}


def same(model: nn.Module, state: State) -> bool:
    return all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def backbone_alone(state: State) -> State:
    return {k.removeprefix('backbone.'): v for k, v in state.items() if k.startswith('backbone.')}


def with_timm_names(state: State) -> State:
    inside = to_timm('shvit', backbone_alone(state))
    outside = {k: v for k, v in state.items() if not k.startswith('backbone.')}
    return outside | {f'backbone.{name}': value for name, value in inside.items()}


def test_the_backbone_may_have_the_names_of_another_dialect(small: tuple[nn.Module, State]) -> None:
    model, state = small
    report = load_model(model, wrap(with_timm_names(state)), 'timm.pth')
    assert same(model, state)
    assert report.description.startswith('RetinaNet with timm SHViT')


@pytest.mark.parametrize('layer', ['conv', '0', 'deconv'])
def test_transposed_convolutions_may_stand_in_a_layer(
    small: tuple[nn.Module, State], layer: str
) -> None:
    model, state = small
    old, new = 'neck.extra_trans_convs.0.', f'neck.extra_trans_convs.0.{layer}.'
    renamed = {name.replace(old, new): value for name, value in state.items()}
    assert renamed.keys() != state.keys()
    load_model(model, wrap(renamed), 'renamed.pth')
    assert same(model, state)


def test_parallel_training_and_missing_batch_counters_change_nothing(
    small: tuple[nn.Module, State],
) -> None:
    model, state = small
    renamed = {
        f'module.{name}': value for name, value in state.items() if value.is_floating_point()
    }
    load_model(model, wrap(renamed), 'parallel.pth')
    assert same(model, state)


def without(name: str) -> Callable[[State], State]:
    return lambda state: {key: value for key, value in state.items() if key != name}


def plus(name: str, value: Tensor) -> Callable[[State], State]:
    return lambda state: {**state, name: value}


MISFITS = {
    'no neck bias': (
        without('neck.extra_trans_convs.0.bias'),
        r'1 tensors missing, 0 .* 0 too many \(neck.extra_trans_convs.0.bias\)',
    ),
    'no head bias': (
        without('bbox_head.retina_cls.bias'),
        r'1 tensors missing, 0 .* 0 too many \(bbox_head.retina_cls.bias\)',
    ),
    'other classes': (
        plus('bbox_head.retina_cls.bias', torch.ones(9)),
        r'0 tensors missing, 1 .* \(bbox_head.retina_cls.bias \(9,\) for \(720,\)\)',
    ),
    'another head': (plus('mask_head.x', torch.ones(1)), r'1 too many \(mask_head.x\)'),
    'no stem': (
        without('backbone.patch_embed.0.c.weight'),
        r'its backbone does not fit SHViT .*\nMissing in the file: 1 \(patch_embed.0.c.weight\)',
    ),
    'an output norm': (
        plus('backbone.norm0.weight', torch.ones(1)),
        r'its backbone does not fit SHViT .*\nOnly in the file: 1 \(norm0.weight\)',
    ),
    'a backbone alone': (
        backbone_alone,
        r"nothing under 'backbone\.', .* backbone alone are for model\.backbone\.init_cfg",
    ),
    'a sparse tensor': (plus('neck.x', torch.ones(1).to_sparse()), 'tensors that are sparse'),
}


@pytest.mark.parametrize('case', MISFITS)
def test_what_does_not_fit_changes_no_weight(small: tuple[nn.Module, State], case: str) -> None:
    (model, state), (change, message) = small, MISFITS[case]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=f'^file.pth .*{message}'):
        load_model(model, wrap(change(state)), 'file.pth')
    assert same(model, before)


def test_a_file_of_another_variant_is_named() -> None:
    model = build(Whole('casvit', 't', 'retinanet').config)
    with pytest.raises(CheckpointError, match=r"its backbone .*(?s:.*)The file fits arch='m'"):
        load_model(model, wrap(Whole('casvit', 'm', 'retinanet').zeros()), 'm.pth')


# -------------------------------------------------------------------------------- fine-tuning


def train(config: Path, start: str, *options: str) -> int:
    """One iteration without any change of weights."""
    still = ('train_cfg.max_iters=1', 'optim_wrapper.optimizer.lr=0.0')
    # The demo, which starts from random weights, would let BatchNorm learn.
    fixed = ('model.backbone.norm_eval=True', f'load_from={start}')
    no_validation = ('val_cfg=None', 'val_dataloader=None', 'val_evaluator=None')
    words = [*still, *fixed, *no_validation, 'train_dataloader.num_workers=0', *options]
    words += ['train_dataloader.persistent_workers=False', 'train_dataloader.batch_size=1']
    return main(['train', str(config), '--demo', '--work-dir', 'tuned', '--cfg-options', *words])


def test_training_starts_from_the_whole_backbone_of_a_published_file(
    small: tuple[nn.Module, State], config: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other classes, so another head; and names that mmengine alone would leave out in silence."""
    monkeypatch.chdir(place)
    state = with_timm_names(small[1])
    state['bbox_head.retina_cls.weight'] = torch.ones(9, 8, 3, 3)
    path = save(wrap(state), config.with_name('published.pth'))
    assert train(config, path) == 0
    trained = torch.load('tuned/iter_1.pth', weights_only=True)['state_dict']
    for name, value in small[1].items():
        assert torch.equal(trained[name], value) == (name != 'bbox_head.retina_cls.weight'), name


@pytest.mark.parametrize('wrapped', [True, False])
def test_training_refuses_to_start_without_a_backbone(
    small: tuple[nn.Module, State],
    config: Path,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    wrapped: bool,
) -> None:
    monkeypatch.chdir(place)
    inside = backbone_alone(small[1])
    path = save({'model': inside} if wrapped else inside, config.with_name('classifier.pth'))
    assert train(config, path) == 2
    assert 'weights of a backbone alone are for model.backbone.init_cfg' in capsys.readouterr().err


def test_training_says_how_to_start_from_safetensors(
    small: tuple[nn.Module, State],
    config: Path,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from safetensors.torch import save_file

    monkeypatch.chdir(place)
    path = str(config.with_name('weights.safetensors'))
    save_file(small[1], path)
    assert train(config, path) == 2
    assert f'`vitbackbones convert {path} start.pth` makes one' in capsys.readouterr().err
