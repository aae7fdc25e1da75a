"""The shipped classification configs: what they say, what they build, that they learn."""

from __future__ import annotations

import copy
import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import TRANSFORMS, init_default_scope
from mmengine.runner import Runner
from PIL import Image

from tests import parity
from tests.checkpoint_files import Published, published, wrap
from tests.reference import refdata
from tests.small import SMALL
from vitbackbones import create
from vitbackbones.engine.networks import networks_of
from vitbackbones.engine.wiring import try_wiring
from vitbackbones.launch.device import adapt_to_device

ROOT = Path(__file__).parents[1] / 'configs/classification'
LEAVES = {path.stem: path for path in sorted(ROOT.glob('*.py'))}
PUBLISHED = [leaf for leaf in LEAVES if leaf.endswith('_in1k')]
# The cheapest of each family, for every run.
SMALLEST = {
    *('shvit-s1_in1k', 'casvit-xs_in1k', 'sepvit-lite_in1k', 'gcvit-xxtiny_in1k'),
    'supervit-deit-s_in1k',
}

pytestmark = pytest.mark.usefixtures('mmpretrain')
each_leaf = pytest.mark.parametrize('leaf', LEAVES)
each_published = pytest.mark.parametrize('leaf', PUBLISHED)


def sampled(leaf: str, *values: Any) -> Any:
    marks = [] if leaf in SMALLEST else [pytest.mark.large]
    return pytest.param(leaf, *values, marks=marks)


@cache
def _read(leaf: str) -> Config:
    return Config.fromfile(LEAVES[leaf])


def load(leaf: str) -> Config:
    """A config to be changed at will, without weights from afar."""
    cfg = copy.deepcopy(_read(leaf))
    cfg.model.backbone.init_cfg = None
    init_default_scope(cfg.default_scope)
    return cfg


def build(cfg: Config, device: str = 'cpu') -> Any:
    with torch.device(device):
        return ROOT_MODELS.build(cfg.model)


def variant(leaf: str) -> str:
    family, _, arch = leaf.removesuffix('_in1k').partition('-')
    return f'{family}_{arch.replace("-", "_")}'


# ------------------------------------------------------------------------- what they say


class Recipe(NamedTuple):
    """As published: rate, images in a step, epochs and those of warm-up, least rate, and so on."""

    lr: float
    images: int
    epochs: int
    warm_up: tuple[int, float]
    eta_min: float
    mixed: bool = True  # precision
    clip: float | None = None  # norm of all gradients
    averaging: float | None = None  # EMA's decay
    augments: tuple[str, ...] = ('Mixup', 'CutMix')
    erases: bool = True
    repeats: bool = False


RECIPES = {
    'sepvit': Recipe(1e-3, 1024, 300, (5, 1e-6), 1e-5, clip=5.0),
    'casvit': Recipe(
        6e-3, 2048, 300, (20, 6e-9), 1e-6, averaging=0.9995, augments=(), erases=False
    ),
    'supervit-deit-s': Recipe(1e-3, 1024, 300, (5, 1e-6), 1e-5, repeats=True),
    'supervit-lvvit-s': Recipe(
        1.6e-3, 1024, 310, (5, 1e-6), 1e-5, averaging=0.99992, augments=('CutMix',)
    ),
    'gcvit': Recipe(5e-3, 4096, 320, (20, 1e-6), 5e-6, clip=5.0, averaging=0.9998),
    'shvit': Recipe(1e-3, 2048, 300, (5, 1e-6), 1e-5, mixed=False, repeats=True),
}

# Weight decay and drop path; side of images in training, shorter side and crop in tests.
VARIANTS = {
    'sepvit-lite': (0.05, 0.1, (224, 256, 224)),
    'sepvit-tiny': (0.05, 0.2, (224, 256, 224)),
    'sepvit-small': (0.05, 0.3, (224, 256, 224)),
    'sepvit-base': (0.05, 0.5, (224, 256, 224)),
    'casvit-xs': (0.05, 0.1, (None, 256, 224)),
    'casvit-s': (0.05, 0.1, (None, 256, 224)),
    'casvit-m': (0.05, 0.1, (None, 256, 224)),
    'casvit-t': (0.05, 0.1, (None, 256, 224)),
    'supervit-deit-s': (0.05, 0.1, (224, 256, 224)),
    'supervit-lvvit-s': (0.05, 0.1, (224, 248, 224)),
    'gcvit-xxtiny': (0.05, 0.2, (224, 224, 224)),
    'gcvit-xtiny': (0.05, 0.2, (224, 256, 224)),
    'gcvit-tiny': (0.05, 0.2, (224, 224, 224)),
    'gcvit-tiny2': (0.05, 0.25, (224, 256, 224)),
    'gcvit-small': (0.05, 0.3, (224, 256, 224)),
    'gcvit-small2': (0.05, 0.35, (224, 256, 224)),
    'gcvit-base': (0.05, 0.5, (224, 224, 224)),
    'gcvit-large': (0.05, 0.5, (224, 224, 224)),
    'shvit-s1': (0.025, 0.0, (224, 256, 224)),
    'shvit-s2': (0.032, 0.0, (224, 256, 224)),
    'shvit-s3': (0.035, 0.0, (224, 256, 224)),
    'shvit-s4': (0.03, 0.0, (256, 292, 256)),
}


def test_every_variant_has_a_config() -> None:
    assert {leaf.removesuffix('_in1k') for leaf in PUBLISHED} == {*VARIANTS}
    assert {case.family + '_' + case.arch for case in published() if case.kind == 'cls'} == {
        variant(leaf) for leaf in PUBLISHED
    }


@each_published
def test_the_header_states_figure_and_source(leaf: str) -> None:
    header = re.match(r'(#.*\n)+', LEAVES[leaf].read_text())
    assert header is not None
    text = header.group().replace('\n# ', ' ')
    assert re.search(r'top-1 accuracy \d\d\.\d+ .*\((https://github.com|arXiv )', text)


@each_published
def test_the_recipe_is_the_published_one(leaf: str) -> None:
    cfg, name = load(leaf), leaf.removesuffix('_in1k')
    want = RECIPES.get(name) or RECIPES[name.partition('-')[0]]
    weight_decay, drop_path, (size, resized, cropped) = VARIANTS[name]
    wrapper = cfg.optim_wrapper
    optimizer = wrapper.optimizer
    assert (optimizer.type, optimizer.betas, optimizer.eps) == ('AdamW', (0.9, 0.999), 1e-8)
    assert (optimizer.lr, optimizer.weight_decay) == (want.lr, weight_decay)
    assert (wrapper.type == 'AmpOptimWrapper') is want.mixed
    assert (wrapper.get('clip_grad') or {}).get('max_norm') == want.clip
    images = 1024 if name in ('gcvit-small', 'gcvit-small2', 'gcvit-base', 'gcvit-large') else None
    accumulated = wrapper.get('accumulative_counts', 1)
    assert cfg.auto_scale_lr.base_batch_size * accumulated == (images or want.images)
    assert cfg.auto_scale_lr.enable is False
    assert cfg.model.backbone.drop_path_rate == drop_path

    warm_up, cosine = cfg.param_scheduler
    epochs, first = want.warm_up
    assert warm_up.end == cosine.begin == epochs
    assert warm_up.start_factor * want.lr == pytest.approx(first)
    assert cosine.eta_min == want.eta_min
    assert cfg.train_cfg.max_epochs == want.epochs
    assert cosine.end == {310: 300, 320: 310}.get(want.epochs, want.epochs)

    averaging = [hook for hook in cfg.custom_hooks if 'EMAHook' in hook.type]
    assert [1 - hook.momentum for hook in averaging] == (
        [pytest.approx(want.averaging)] if want.averaging else []
    )
    assert any('AdaptiveClip' in hook.type for hook in cfg.custom_hooks) is ('shvit' in leaf)
    augments = (cfg.model.train_cfg or {}).get('augments', ())
    assert tuple(each.type.removeprefix('mmpretrain.') for each in augments) == want.augments
    assert ('RepeatAug' in cfg.train_dataloader.sampler.type) is want.repeats

    steps = {step.type: step for step in iter_steps(cfg.train_dataloader.dataset.pipeline)}
    assert ('RandomErasing' in steps) is want.erases
    if size is not None:
        assert steps['RandomResizedCrop'].scale == size
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        steps = {step.type: step for step in loader.dataset.pipeline}
        assert steps['ResizeEdge'].scale == resized
        assert steps['CenterCrop'].crop_size == cropped
        assert steps['ResizeEdge'].interpolation == 'bicubic'
    pixels = cfg.model.data_preprocessor
    assert [round(value / 255, 3) for value in pixels.mean] == [0.485, 0.456, 0.406]
    assert [round(value / 255, 3) for value in pixels.std] == [0.229, 0.224, 0.225]


def iter_steps(steps: Any) -> Any:
    for step in steps:
        yield step
        for inner in step.get('transforms', ()):
            yield from iter_steps(inner)


@pytest.mark.parametrize('leaf', sorted(SMALLEST | {'supervit-lvvit-s_in1k'}))
def test_what_has_one_dimension_does_not_decay(leaf: str) -> None:
    from mmengine.optim import build_optim_wrapper

    cfg = load(leaf)
    cfg.optim_wrapper.type = 'OptimWrapper'  # mixed precision needs a GPU
    model = build(cfg, 'meta')
    names = {id(param): name for name, param in model.named_parameters()}
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    undecayed = {names[id(p)] for g in groups if g['weight_decay'] == 0 for p in g['params']}
    want = {name for name, p in model.named_parameters() if p.ndim <= 1}
    assert undecayed == want | {name for name in names.values() if name.endswith('cls_token')}
    assert not any('bias_table' in name or 'pos_embed' in name for name in undecayed)


def test_posterize_with_no_bits_left_is_a_black_image_and_no_error() -> None:
    step = TRANSFORMS.build(dict(type='mmpretrain.Posterize', bits=0, prob=1.0))
    image = np.full((4, 4, 3), 200, np.uint8)
    assert not step(dict(img=image))['img'].any()


# ------------------------------------------------------------------------ what they build


@each_published
def test_the_model_has_the_tensors_of_the_classifier_that_create_builds(leaf: str) -> None:
    model = build(load(leaf), 'meta')
    with torch.device('meta'):
        net = create(variant(leaf), num_classes=1000)
    shapes = {name: value.shape for name, value in net.state_dict().items()}
    assert {name: value.shape for name, value in model.state_dict().items()} == shapes


@pytest.mark.parametrize('leaf', sorted(SMALLEST))
def test_a_config_inherited_by_name_builds_the_same(leaf: str, tmp_path: Path) -> None:
    path = tmp_path / 'own.py'
    path.write_text(f"_base_ = 'vitbackbones::classification/{leaf}.py'\n")
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    assert [*build(cfg, 'meta').state_dict()] == [*build(load(leaf), 'meta').state_dict()]
    for step in cfg.train_dataloader.dataset.pipeline:
        TRANSFORMS.build(step)


def test_a_config_is_found_by_name() -> None:
    assert get_config('vitbackbones::classification/shvit-s1_in1k.py').default_scope == 'mmpretrain'


GOLDEN = [
    sampled(leaf, case, path)
    for leaf in PUBLISHED
    for case in published()
    if case.kind == 'cls' and f'{case.family}_{case.arch}' == variant(leaf)
    for path in parity.goldens(
        case.family,
        f'{case.arch}_cls_*.json'
        if case.family == 'supervit'
        else f'{case.arch}_cls_*_b1{"_" * bool(case.suffix)}{case.suffix}.json',
    )
]


def test_the_golden_files_are_all_those_of_classifiers() -> None:
    paths = {param.values[2] for param in GOLDEN}
    assert len(paths) == len(GOLDEN) == 25 + 46


@pytest.fixture(scope='module')
def filled(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """By leaf and published file: the config's model with its weights, the last one kept."""
    kept: dict[Any, Any] = {}

    def make(leaf: str, case: Published) -> Any:
        if (leaf, case) not in kept:
            kept.clear()
            path = tmp_path_factory.mktemp('published') / 'file.pth'
            torch.save(wrap(case, case.zeros() | case.filled()), path)
            net = create(variant(leaf), path, num_classes=1000)
            path.unlink()
            cfg = load(leaf)
            if getattr(net.head, 'dist_head', None) is not None:
                cfg.model.head.distillation = True
            model = build(cfg).eval()
            model.load_state_dict(net.state_dict())
            kept[leaf, case] = model
        return kept[leaf, case]

    return make


@pytest.mark.parametrize(
    ('leaf', 'case', 'path'), GOLDEN, ids=lambda v: v.stem if isinstance(v, Path) else str(v)
)
def test_logits_equal_the_published_ones(
    leaf: str, case: Published, path: Path, filled: Any
) -> None:
    golden = refdata.load_json(path)
    model = filled(leaf, case)
    if case.family == 'supervit':
        size, keep_rate = golden['call']['img_size'], golden['call']['keep_ratio']
        model.backbone.operating_point = dict(scale=size / 224, keep_rate=keep_rate)
    with torch.no_grad():
        logits = model(refdata.input_tensor(**golden['input']), mode='tensor')
    parity.assert_equal([logits], golden['outputs'][:1])


# ---------------------------------------------------------------------- that they learn


@pytest.fixture(scope='module')
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images in the places of ImageNet; the lists spare its thousand folders."""
    root = tmp_path_factory.mktemp('imagenet')
    rng = np.random.default_rng(0)
    (root / 'meta').mkdir()
    for split in ('train', 'val'):
        lines = []
        for number in range(4):
            file = root / split / f'n{number}' / f'{number}.jpg'
            file.parent.mkdir(parents=True)
            pixels = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(file)
            lines.append(f'n{number}/{number}.jpg {100 * number}\n')
        (root / 'meta' / f'{split}.txt').write_text(''.join(lines))
    return root


@pytest.mark.parametrize('leaf', [sampled(leaf) for leaf in PUBLISHED])
def test_a_config_trains_all_of_its_network_and_predicts(
    leaf: str, imagenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    metrics = train_and_test(load(leaf), imagenet, tmp_path)
    assert 0 <= metrics['accuracy/top1'] <= metrics['accuracy/top5'] <= 100


def train_and_test(cfg: Config, data: Path, folder: Path) -> dict[str, float]:
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.batch_size, loader.num_workers = 2, 0
        loader.dataset.data_root = str(data)
    cfg.train_cfg.max_epochs = 1
    cfg.default_hooks.checkpoint.update(interval=9, save_last=False, save_best=None)
    cfg.work_dir = str(folder)
    cfg.optim_wrapper.accumulative_counts = 1
    adapt_to_device(cfg)
    runner = Runner.from_cfg(cfg)
    model = runner.train()
    assert runner.iter == 2
    trained = runner.optim_wrapper.optimizer.state  # of what had a gradient
    assert [name for name, param in model.named_parameters() if param not in trained] == []
    assert all(torch.isfinite(param).all() for param in model.parameters())
    return runner.test()


def test_folders_of_one_s_own_are_fine_tuned_on(
    imagenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    published_start = dict(type='Pretrained', checkpoint='published')
    assert _read('finetune_folders').model.backbone.init_cfg == published_start
    cfg = load('finetune_folders')
    assert cfg.optim_wrapper.optimizer.lr < _read('shvit-s1_in1k').optim_wrapper.optimizer.lr
    cfg.model.head.num_classes = 4
    metrics = train_and_test(cfg, imagenet, tmp_path)
    assert [*metrics] == ['accuracy/top1']


@pytest.mark.parametrize(
    'leaf',
    [
        *('shvit-s1_in1k', 'casvit-xs_in1k', 'sepvit-lite_in1k', 'gcvit-xxtiny_in1k'),
        *('supervit-deit-s_in1k', 'supervit-lvvit-s_in1k'),
    ],
)
def test_a_copy_for_folders_that_names_another_config_trains_its_network(
    leaf: str, imagenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    text = LEAVES['finetune_folders'].read_text()
    assert text.count("'shvit-s1_in1k.py'") == 1
    path = tmp_path / 'own.py'
    path.write_text(text.replace("'shvit-s1_in1k.py'", f"'vitbackbones::classification/{leaf}.py'"))
    cfg = Config.fromfile(path)
    assert cfg.train_cfg.max_epochs == 30
    assert cfg.optim_wrapper.optimizer.lr == 1e-4
    assert not any('EMAHook' in hook.type for hook in cfg.custom_hooks)
    cls = ROOT_MODELS.get(cfg.model.backbone.type)
    name = {'SuperViTClassifier': 'SuperViT'}.get(cls.__name__, cls.__name__)
    cfg.model.backbone.update(arch=SMALL[name], init_cfg=None)
    counts = cfg.model.backbone if name == 'SuperViT' else cfg.model.head
    assert counts.num_classes == 2
    counts.num_classes = 4
    if name != 'SuperViT':
        with torch.device('meta'):
            net = cls(SMALL[name], out_indices=cfg.model.backbone.out_indices)
        cfg.model.head.in_channels = net.out_channels[-1]
    init_default_scope(cfg.default_scope)
    assert [*train_and_test(cfg, imagenet, tmp_path / 'run')] == ['accuracy/top1']


@pytest.mark.parametrize('name', sorted(SMALL))
def test_outputs_that_a_classifier_does_not_read_are_said_with_their_parameters(name: str) -> None:
    """Several processes would wait for their gradients: there it is an error."""
    init_default_scope('mmpretrain')
    options = dict(type=f'vitbackbones.{name}', arch=SMALL[name])
    channels = ROOT_MODELS.build(options).out_channels
    head = dict(type='LinearClsHead', num_classes=3, in_channels=channels[-1])
    neck = dict(type='GlobalAveragePooling')
    last = len(channels) - 1
    for indices in (tuple(range(len(channels))), (last,)):
        backbone = dict(options, out_indices=indices)
        model = ROOT_MODELS.build(
            dict(type='ImageClassifier', backbone=backbone, neck=neck, head=head)
        )
        (network,) = networks_of(model)
        wiring = try_wiring(network, lambda: (64, 64))
        model.head(model.extract_feat(torch.randn(2, 3, 64, 64))).sum().backward()
        idle = [key for key, param in model.named_parameters() if param.grad is None]
        assert wiring.misfits == []
        found = [(unread.indices, unread.idle) for unread in wiring.unread]
        assert found == ([(indices[:-1], len(idle))] if len(indices) > 1 else [])
    assert idle == []
