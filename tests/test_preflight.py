"""What is said before and just after the first step of a training run, and what is not."""

from __future__ import annotations

import copy
import itertools
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor, nn

from tests.models import (
    adamw,
    backbone,
    build,
    cascade_rcnn,
    channel_mapper,
    condinst,
    fcos,
    mask_rcnn,
    problems,
    retinanet,
    semantic_fpn,
    several_heads,
    shvit_retinanet,
    two_necks,
    unchanged,
    upernet,
)
from vitbackbones import load_pretrained
from vitbackbones.backbones.base import Backbone
from vitbackbones.checkpoint import CheckpointError
from vitbackbones.cli.main import main
from vitbackbones.engine.preflight import PreflightError, PreflightHook
from vitbackbones.launch import training
from vitbackbones.metafiles import published_weights

ROOT = Path(__file__).parents[1]


# ----------------------------------------------------------------------------- the wiring


@pytest.mark.parametrize(
    'model',
    [
        retinanet,
        mask_rcnn,
        cascade_rcnn,
        fcos,
        shvit_retinanet,
        two_necks,
        channel_mapper,
        condinst,
        upernet,
        semantic_fpn,
        several_heads,
    ],
)
def test_what_fits_passes(model: Any) -> None:
    assert problems(build(model())) == ()


SEPVIT = re.escape('model.backbone (SepViT)')
FPN = re.escape('model.neck (FPN)')


@pytest.mark.parametrize(
    ('model', 'change', 'message'),
    [
        (
            retinanet,
            ('neck.in_channels', [256, 512, 1024, 2048]),
            rf'model.neck.in_channels=\[256, 512, 1024, 2048\] must be \[8, 16, 24, 32\], '
            rf'the channels of {SEPVIT}',
        ),
        (
            retinanet,
            ('neck.in_channels', [16, 24, 32]),
            r'model.neck.in_channels=\[16, 24, 32\] must be \[8, 16, 24, 32\]',
        ),
        (
            retinanet,
            ('backbone.out_indices', (1, 2, 3)),
            r'model.neck.in_channels=\[8, 16, 24, 32\] must be \[16, 24, 32\]',
        ),
        (
            two_necks,
            ('neck.0.in_channels', [4, 4, 4, 4]),
            r'model.neck.in_channels=\[4, 4, 4, 4\] must be \[8, 16, 24, 32\]',
        ),
        (
            channel_mapper,
            ('neck.in_channels', [16, 24, 48]),
            r'model.neck \(ChannelMapper\) does not take maps of \[16, 24, 32\] channels, the '
            rf'output of {SEPVIT}: RuntimeError: .*48',
        ),
        (
            retinanet,
            ('bbox_head.anchor_generator.strides', [4, 8, 16, 32, 64]),
            r'model.bbox_head.anchor_generator.strides=\[4, 8, 16, 32, 64\] must be '
            rf'\[8, 16, 32, 64, 128\], the strides of {FPN}',
        ),
        (
            retinanet,
            ('neck.start_level', 0),
            r'strides=\[8, 16, 32, 64, 128\] must be \[4, 8, 16, 32, 64\]',
        ),
        (
            retinanet,
            ('neck.num_outs', 4),
            r'strides=\[8, 16, 32, 64, 128\] must be \[8, 16, 32, 64\]',
        ),
        (
            shvit_retinanet,
            ('neck.num_trans_convs', 2),
            r'strides=\[8, 16, 32, 64, 128\] must be \[4, 8, 16, 32, 64\], the strides of '
            r'model.neck \(TransposedConvFPN\)',
        ),
        (
            fcos,
            ('bbox_head.strides', [4, 8, 16, 32, 64]),
            r'model.bbox_head.strides=\[4, 8, 16, 32, 64\] must be \[8, 16, 32, 64, 128\]',
        ),
        (
            retinanet,
            ('bbox_head.in_channels', 16),
            rf'model.bbox_head.in_channels=16 must be 8, the channels of {FPN}',
        ),
        (
            mask_rcnn,
            ('rpn_head.anchor_generator.strides', [8, 16, 32, 64, 128]),
            r'model.rpn_head.anchor_generator.strides=\[8, .* must be \[4, 8, 16, 32, 64\]',
        ),
        (mask_rcnn, ('rpn_head.in_channels', 4), r'model.rpn_head.in_channels=4 must be 8'),
        (
            mask_rcnn,
            ('roi_head.bbox_roi_extractor.featmap_strides', [8, 16, 32, 64]),
            r'model.roi_head.bbox_roi_extractor.featmap_strides=\[8, 16, 32, 64\] must be '
            rf'\[4, 8, 16, 32\], the strides of {FPN}',
        ),
        (
            mask_rcnn,
            ('roi_head.mask_roi_extractor.featmap_strides', [8, 16]),
            r'model.roi_head.mask_roi_extractor.featmap_strides=\[8, 16\] must be \[4, 8\]',
        ),
        (
            mask_rcnn,
            ('roi_head.mask_roi_extractor.out_channels', 16),
            r'model.roi_head.mask_roi_extractor.out_channels=16 must be 8',
        ),
        (
            cascade_rcnn,
            ('roi_head.bbox_roi_extractor.featmap_strides', [16, 32, 64]),
            r'model.roi_head.bbox_roi_extractor.featmap_strides=\[16, 32, 64\] must be '
            r'\[4, 8, 16\]',
        ),
        (
            upernet,
            ('decode_head.in_channels', [96, 192, 384, 768]),
            r'model.decode_head.in_channels=\[96, 192, 384, 768\] must be \[8, 16, 24, 32\], '
            rf'the channels of {SEPVIT}',
        ),
        (
            upernet,
            ('auxiliary_head.in_channels', 32),
            rf'model.auxiliary_head.in_channels=32 must be 24, the channels of {SEPVIT}',
        ),
        (upernet, ('auxiliary_head.in_index', 1), r'auxiliary_head.in_channels=24 must be 16'),
        (
            upernet,
            ('backbone.out_indices', (0, 1, 2)),
            r'model.decode_head.in_index=\[0, 1, 2, 3\] must name maps of .*SepViT\), which has 3',
        ),
        (
            semantic_fpn,
            ('decode_head.feature_strides', [8, 16, 32, 64]),
            r'model.decode_head.feature_strides=\[8, 16, 32, 64\] must be \[4, 8, 16, 32\]',
        ),
        (
            semantic_fpn,
            ('decode_head.in_channels', [8, 8, 8, 16]),
            r'model.decode_head.in_channels=\[8, 8, 8, 16\] must be \[8, 8, 8, 8\]',
        ),
        (
            several_heads,
            ('auxiliary_head.0.in_channels', 16),
            r'model.auxiliary_head\[0\].in_channels=16 must be 8',
        ),
        (
            several_heads,
            ('auxiliary_head.1.in_channels', [8, 8, 8, 4]),
            r'model.auxiliary_head\[1\].in_channels=28 must be \[8, 8, 8, 8\]',
        ),
        (
            several_heads,
            ('decode_head.1.in_channels', [16]),
            r'model.decode_head\[1\].in_channels=\[16\] must be \[8\]',
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else getattr(value, '__name__', ''),
)
def test_what_does_not_fit_is_named(model: Any, change: tuple[str, Any], message: str) -> None:
    found = problems(build(model(), change))
    assert any(re.search(message, problem) for problem in found), found


def test_everything_wrong_is_in_one_list() -> None:
    model = build(
        mask_rcnn(),
        ('neck.in_channels', [4, 4, 4, 4]),
        ('rpn_head.in_channels', 4),
        ('rpn_head.anchor_generator.strides', [8, 16, 32, 64, 128]),
        ('roi_head.bbox_roi_extractor.featmap_strides', [8, 16, 32, 64]),
        ('roi_head.mask_roi_extractor.featmap_strides', [8, 16, 32, 64]),
    )
    sgd = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.02))
    starts = [problem.partition('=')[0] for problem in problems(model, sgd)]
    assert starts == [
        'model.neck.in_channels',
        'model.rpn_head.in_channels',
        'model.rpn_head.anchor_generator.strides',
        'model.roi_head.bbox_roi_extractor.featmap_strides',
        'model.roi_head.mask_roi_extractor.featmap_strides',
        'optim_wrapper.optimizer is SGD with lr',
    ]


def test_a_cascade_says_a_thing_once() -> None:
    model = build(cascade_rcnn(), ('roi_head.bbox_roi_extractor.featmap_strides', [8, 16]))
    assert len(problems(model)) == 1


def test_the_list_is_readable() -> None:
    error = PreflightError(['a is wrong', 'b is wrong'])
    assert str(error) == 'training cannot start:\n  - a is wrong\n  - b is wrong'


def test_trying_the_neck_changes_nothing() -> None:
    model = build(channel_mapper())
    model.neck.convs[1].eval()  # a mode of its own must stay, too
    with unchanged(model):
        assert problems(model) == ()


def test_a_neck_of_another_type_of_numbers_is_tried_in_it() -> None:
    assert problems(build(retinanet()).to(torch.bfloat16)) == ()


class Dictionary(nn.Module):
    """A neck of which nothing can be told."""

    def forward(self, maps: list[Tensor]) -> dict[str, Tensor]:
        return {'fused': maps[0]}


def test_a_neck_that_gives_no_list_of_maps_is_left_alone() -> None:
    model = build(retinanet())
    model.neck = Dictionary()
    assert problems(model) == ()


def test_backbones_of_others_are_left_alone() -> None:
    resnet = dict(type='mmdet.ResNet', depth=18)
    model = build(retinanet(), ('backbone', resnet))
    assert problems(model, OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.02))) == ()


class SemiSupervised(nn.Module):
    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        self.student = student
        self.teacher = teacher.requires_grad_(False)


def test_the_student_is_checked_and_the_frozen_teacher_is_not() -> None:
    change = ('bbox_head.in_channels', 4)
    wrong, right = build(retinanet(), change), build(retinanet())
    (problem,) = problems(SemiSupervised(wrong, build(retinanet(), change)))
    assert problem.startswith('model.student.bbox_head.in_channels=4 must be 8')
    assert problems(SemiSupervised(right, wrong)) == ()


# ------------------------------------------------------------------------------- the rate


def sgd(model: nn.Module, lr: float, **options: Any) -> OptimWrapper:
    return OptimWrapper(torch.optim.SGD(model.parameters(), lr=lr, **options))


@pytest.mark.parametrize('lr', [0.01, 0.02])
def test_sgd_at_a_rate_for_resnets_is_named(lr: float) -> None:
    model = build(retinanet())
    (problem,) = problems(model, sgd(model, lr))
    assert problem.startswith(f'optim_wrapper.optimizer is SGD with lr={lr}, a rate for ResNets')
    assert 'model.backbone (SepViT)' in problem
    assert "type='AdamW'" in problem


def test_sgd_at_a_low_rate_passes() -> None:
    model = build(retinanet())
    assert problems(model, sgd(model, 0.009)) == ()


def test_the_rate_of_the_backbone_counts() -> None:
    model = build(retinanet())
    rest = [*model.neck.parameters(), *model.bbox_head.parameters()]
    groups = [dict(params=list(model.backbone.parameters()), lr=1e-3), dict(params=rest)]
    assert problems(model, OptimWrapper(torch.optim.SGD(groups, lr=0.02))) == ()
    groups[0]['lr'] = 0.02
    assert problems(model, OptimWrapper(torch.optim.SGD(groups, lr=1e-3)))


def test_a_frozen_backbone_may_be_trained_at_any_rate() -> None:
    model = build(retinanet())
    model.backbone.requires_grad_(False)
    assert problems(model, sgd(model, 0.02)) == ()


# -------------------------------------------------------------------------- whole runs


class Model(BaseModel):
    """A backbone, something that learns from its maps, and what may never be reached."""

    def __init__(self, cfg: dict[str, Any], idle: bool = False) -> None:
        super().__init__()
        cls = Backbone.registered()[cfg['type'].rpartition('.')[2]]
        self.backbone = cls(**{key: value for key, value in cfg.items() if key != 'type'})
        self.idle = nn.Linear(2, 2) if idle else None

    def init_weights(self) -> None:
        self.backbone.init_weights()

    def forward(self, inputs: Tensor, mode: str = 'loss') -> dict[str, Tensor]:
        return {'loss': sum(x.square().mean() for x in self.backbone(inputs))}


class Images(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {'inputs': torch.randn(3, 64, 64)}


class Heard(logging.Handler):
    """The warnings of the hook."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if 'random weights' in record.getMessage() or 'no gradient' in record.getMessage():
            self.lines.append(record.getMessage())


COUNTER = itertools.count()


def prepare(place: Path, model: nn.Module, **options: Any) -> Runner:
    """A run of two iterations; ``runner.heard`` lists what the hook will have said."""
    options.setdefault('optim_wrapper', dict(optimizer=dict(type='AdamW', lr=1e-4)))
    options.setdefault('train_cfg', dict(type='IterBasedTrainLoop', max_iters=2))
    runner = Runner(
        model=model,
        work_dir=str(place),
        train_dataloader=dict(
            batch_size=2,
            dataset=Images(),
            sampler=dict(type='DefaultSampler'),
            collate_fn=dict(type='default_collate'),
        ),
        custom_hooks=[dict(type='vitbackbones.PreflightHook')],
        experiment_name=f'preflight{next(COUNTER)}',
        **options,
    )
    heard = Heard()
    runner.logger.addHandler(heard)
    runner.heard = heard.lines
    return runner


def run(place: Path, model: nn.Module, **options: Any) -> Runner:
    runner = prepare(place, model, **options)
    runner.train()
    return runner


def test_a_run_is_stopped_before_its_first_iteration(tmp_path: Path) -> None:
    model = Model(backbone('SHViT'))
    before = copy.deepcopy(model.state_dict())
    cfg = dict(optimizer=dict(type='SGD', lr=0.02))
    with pytest.raises(PreflightError, match=r'^training cannot start:\n  - optim_wrapper'):
        run(tmp_path, model, optim_wrapper=cfg)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_rate_is_that_after_warming_up(tmp_path: Path) -> None:
    options = dict(
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.02)),
        param_scheduler=[dict(type='LinearLR', start_factor=0.001, by_epoch=False, end=500)],
    )
    with pytest.raises(PreflightError, match=r'SGD with lr=0.02'):
        run(tmp_path, Model(backbone('SHViT')), **options)


def test_an_epoch_based_run_is_checked_as_well(tmp_path: Path) -> None:
    options = dict(
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.02)),
        train_cfg=dict(by_epoch=True, max_epochs=1),
    )
    with pytest.raises(PreflightError):
        run(tmp_path, Model(backbone('SHViT')), **options)


def test_the_command_ends_with_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop() -> None:
        raise PreflightError(['a is wrong'])

    monkeypatch.setattr(training, 'check_config', lambda *_: None)  # there are no data
    monkeypatch.setattr(training, 'check_annotations', lambda *_: None)
    monkeypatch.setattr(training, 'build_runner', lambda *_, **__: SimpleNamespace(train=stop))
    config = str(ROOT / 'configs/detection/sepvit_retinanet.py')
    assert main(['train', config, '--work-dir', str(tmp_path)]) == 2
    assert 'vitbackbones train: training cannot start:\n  - a is wrong\n' in capsys.readouterr().err


def test_the_hook_is_found_by_its_prefixed_name_in_a_fresh_process(tmp_path: Path) -> None:
    code = (
        'from mmengine.registry import HOOKS\n'
        'print(HOOKS.build(dict(type="vitbackbones.PreflightHook")))'
    )
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    command = [sys.executable, '-W', 'ignore', '-c', code]
    assert 'PreflightHook' in subprocess.check_output(command, env=environment, text=True)


def test_only_training_is_checked_and_before_a_test_what_labels_stand_for() -> None:
    training = {'before_train', 'after_train_iter'}
    labels = {'after_load_checkpoint', 'before_test'}
    assert set(PreflightHook().get_triggered_stages()) == training | labels


def test_a_detector_of_mmdet_trains_in_silence(tmp_path: Path) -> None:
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    class Annotated(Images):
        def __getitem__(self, index: int) -> dict[str, Any]:
            sample = DetDataSample(metainfo=dict(img_shape=(64, 64), pad_shape=(64, 64)))
            box, label = torch.tensor([[8.0, 8.0, 40.0, 40.0]]), torch.tensor([1])
            sample.gt_instances = InstanceData(bboxes=box, labels=label)
            return {**super().__getitem__(index), 'data_samples': sample}

    preprocessor = dict(type='mmdet.DetDataPreprocessor', pad_size_divisor=32)
    model = build(retinanet(), ('data_preprocessor', preprocessor))
    model.backbone.has_loaded = True
    loader = dict(batch_size=1, dataset=Annotated(), sampler=dict(type='DefaultSampler'))
    loader['collate_fn'] = dict(type='pseudo_collate')
    runner = prepare(tmp_path, model)
    runner._train_dataloader = loader
    runner.train()
    assert runner.heard == []
    assert runner.iter == 2


# ------------------------------------------------------------------------- random weights


@pytest.mark.parametrize(
    ('name', 'where'),
    [
        ('SepViT', 'none were ever published'),
        ('CASViT', 'there are published ones for arch xs, s, m, t'),
        ('SHViT', 'there are published ones for arch s1, s2, s3, s4'),
    ],
)
def test_random_weights_are_said_once_and_in_one_line(
    name: str, where: str, tmp_path: Path
) -> None:
    runner = run(tmp_path, Model(backbone(name)))
    family = Backbone.registered()[name].family
    assert runner.heard == [
        f'model.backbone: {family} of a custom arch starts from random weights; {where}. To start '
        "from a file, set init_cfg=dict(type='Pretrained', checkpoint=FILE)"
    ]


@pytest.mark.parametrize(
    ('name', 'arch', 'where'),
    [
        ('SepViT', 'lite', 'none were ever published'),
        ('CASViT', 't', 'https://drive.google.com/file/d/1NqoIUPbwBC91RTjTUvubAbOfGqo1VYT0'),
        ('SuperViT', 'deit_s', 'https://drive.google.com/file/d/1y2-zU5UvHqGCmWEB41VLbnf7B27BatBL'),
        ('GCViT', 'tiny', 'https://huggingface.co/nvidia/GCViT/resolve/main/gcvit_1k_tiny.pth.tar'),
        ('SHViT', 's4', 'https://github.com/ysj9909/SHViT/releases/download/v1.0/shvit_s4.pth'),
    ],
)
def test_the_line_says_where_weights_of_the_variant_are(name: str, arch: str, where: str) -> None:
    with torch.device('meta'):
        model = Model(dict(type=name, arch=arch))
    logger, heard = logging.getLogger(f'preflight.{name}'), Heard()
    logger.addHandler(heard)
    PreflightHook().before_train(
        SimpleNamespace(model=model, optim_wrapper=adamw(model), logger=logger)
    )
    (line,) = heard.lines
    assert f'{arch} starts from random weights; ' in line
    assert f'{where}. To start' in line
    assert '\n' not in line


@pytest.mark.parametrize(
    ('name', 'norm_eval', 'said'),
    [('CASViT', True, True), ('CASViT', False, False), ('SepViT', True, False)],
)
def test_fixed_statistics_of_random_weights_are_said(
    name: str, norm_eval: bool, said: bool, tmp_path: Path
) -> None:
    runner = run(tmp_path, Model(dict(backbone(name), norm_eval=norm_eval)))
    assert ('norm_eval=False lets BatchNorm learn' in runner.heard[0]) is said


def test_every_published_variant_is_one_of_ours() -> None:
    for name, cls in Backbone.registered().items():
        variants = published_weights(name)
        assert variants is not None
        assert variants.keys() == (cls.archs.keys() if name != 'SepViT' else set())
    assert published_weights('ResNet') is None


def test_shipped_configs_start_from_what_is_told() -> None:
    started = 0
    for path in sorted((ROOT / 'configs/_base_/backbones').glob('*.py')):
        cfg = Config.fromfile(path).backbone
        variants = published_weights(cfg.type.rpartition('.')[2])
        if cfg.get('init_cfg'):
            assert cfg.init_cfg.checkpoint == 'published', path
            assert variants[cfg.arch].startswith('https://'), path
            started += 1
        elif variants:  # the config names it for whoever opens it
            assert variants[cfg.arch] in path.read_text(), path
    assert started


def saved(place: Path, **content: Any) -> str:
    torch.save(content, place / 'weights.pth')
    return str(place / 'weights.pth')


def test_a_pretrained_backbone_is_no_random_one(tmp_path: Path) -> None:
    weights = Model(backbone('SHViT')).backbone.state_dict()
    init_cfg = dict(type='Pretrained', checkpoint=saved(tmp_path, model=weights))
    assert run(tmp_path, Model(backbone('SHViT', init_cfg=init_cfg))).heard == []


def test_weights_that_were_loaded_by_hand_count(tmp_path: Path) -> None:
    weights = Model(backbone('SHViT')).backbone.state_dict()
    for load in (
        lambda net: net.load_state_dict(weights),
        lambda net: load_pretrained(net, saved(tmp_path, model=weights)),
    ):
        model = Model(backbone('SHViT'))
        load(model.backbone)
        assert run(tmp_path, model).heard == []


def test_a_checkpoint_to_start_or_resume_from_counts(tmp_path: Path) -> None:
    path = saved(tmp_path, state_dict=Model(backbone('SHViT')).state_dict())
    assert run(tmp_path, Model(backbone('SHViT')), load_from=path).heard == []
    first = run(tmp_path / 'run', Model(backbone('SHViT')))
    assert len(first.heard) == 1
    longer = dict(type='IterBasedTrainLoop', max_iters=3)
    options = dict(resume=True, train_cfg=longer)
    first.save_checkpoint(str(tmp_path / 'run'), 'iter_2.pth', by_epoch=False)
    (tmp_path / 'run' / 'last_checkpoint').write_text(str(tmp_path / 'run' / 'iter_2.pth'))
    second = run(tmp_path / 'run', Model(backbone('SHViT')), **options)
    assert second.iter == 3
    assert second.heard == []


def test_a_checkpoint_without_anything_of_the_backbone_does_not_count(tmp_path: Path) -> None:
    """mmengine loads what fits by name and shape, and goes on where nothing does."""
    weights = Model(backbone('SHViT')).backbone.state_dict()  # without the prefix `backbone.`
    path = saved(tmp_path, state_dict=weights)
    assert len(run(tmp_path, Model(backbone('SHViT')), load_from=path).heard) == 1
    wider = {key: x.expand(2, *x.shape) for key, x in Model(backbone('SHViT')).state_dict().items()}
    path = saved(tmp_path, state_dict=wider)
    assert len(run(tmp_path, Model(backbone('SHViT')), load_from=path).heard) == 1


def test_an_unreachable_address_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    init_cfg = dict(type='Pretrained', checkpoint='http://127.0.0.1:9/shvit.pth')
    with pytest.raises(
        CheckpointError,
        match=r'--cfg-options model.backbone.init_cfg.checkpoint=FILE.*'
        r'--cfg-options model.backbone.init_cfg=None',
    ):
        run(tmp_path, Model(backbone('SHViT', init_cfg=init_cfg)))


# ----------------------------------------------------------------------------- gradients

IDLE = [
    '2 of {} parameters got no gradient in the first step: idle.weight, idle.bias. '
    'They do not learn: no loss depends on them'
]


def idle_model() -> Model:
    model = Model(backbone('SHViT'), idle=True)
    model.backbone.has_loaded = True
    return model


def expected(model: nn.Module) -> list[str]:
    return [line.format(len(list(model.parameters()))) for line in IDLE]


def test_parameters_without_gradient_are_named_once(tmp_path: Path) -> None:
    model = idle_model()
    runner = run(tmp_path, model, train_cfg=dict(type='IterBasedTrainLoop', max_iters=3))
    assert runner.heard == expected(model)


def test_after_the_first_step_nothing_is_left_behind(tmp_path: Path) -> None:
    runner = prepare(tmp_path, idle_model())
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    watches = runner.optim_wrapper.optimizer._optimizer_step_pre_hooks
    seen = []
    (hook,) = [hook for hook in runner.hooks if isinstance(hook, PreflightHook)]
    plain = hook.after_train_iter

    def after_train_iter(*args: Any, **kwargs: Any) -> None:
        seen.append(len(watches))
        plain(*args, **kwargs)
        seen.append(len(watches))

    hook.after_train_iter = after_train_iter
    runner.train()
    assert seen == [1, 0, 0, 0]


def test_frozen_parameters_are_not_named(tmp_path: Path) -> None:
    model = idle_model()
    model.idle.requires_grad_(False)
    assert run(tmp_path, model).heard == []


def test_a_backbone_of_others_is_watched_too(tmp_path: Path) -> None:
    model = idle_model()
    model.backbone = nn.Sequential(nn.Conv2d(3, 4, 16))
    model.init_weights = lambda: None
    assert run(tmp_path, model).heard == expected(model)


def test_gradients_may_accumulate_and_be_of_mixed_precision(tmp_path: Path) -> None:
    model = idle_model()
    wrapper = dict(
        type='vitbackbones.CPUAmpOptimWrapper',
        accumulative_counts=2,
        optimizer=dict(type='AdamW', lr=1e-4),
    )
    runner = prepare(tmp_path, model, optim_wrapper=wrapper)
    heard = []
    (hook,) = [hook for hook in runner.hooks if isinstance(hook, PreflightHook)]
    plain = hook.after_train_iter

    def after_train_iter(*args: Any, **kwargs: Any) -> None:
        heard.append(len(runner.heard))
        plain(*args, **kwargs)

    hook.after_train_iter = after_train_iter
    runner.train()
    assert heard == [0, 1]
    assert runner.heard == expected(model)


def test_several_steps_in_one_iteration_are_one_first_step(tmp_path: Path) -> None:
    class Twice(Model):
        def train_step(self, data: Any, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
            super().train_step(data, optim_wrapper)
            return super().train_step(data, optim_wrapper)

    model = Twice(backbone('SHViT'), idle=True)
    model.backbone.has_loaded = True
    assert run(tmp_path, model).heard == expected(model)


def test_of_several_optimizers_each_names_its_own(tmp_path: Path) -> None:
    class Two(Model):
        def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
            loss = self(self.data_preprocessor(data)['inputs'])['loss']
            optim_wrapper['backbone'].update_params(loss)
            return {'loss': loss}

    model = Two(backbone('SHViT'), idle=True)
    model.backbone.has_loaded = True
    wrappers = OptimWrapperDict(
        backbone=OptimWrapper(torch.optim.AdamW(model.backbone.parameters())),
        rest=OptimWrapper(torch.optim.AdamW(model.idle.parameters())),
    )
    assert run(tmp_path, model, optim_wrapper=wrappers).heard == []  # the second never stepped


@pytest.mark.parametrize('find_unused_parameters', [False, True])
@pytest.mark.usefixtures('process_group')
def test_a_distributed_model_is_checked_inside_its_wrapper(
    find_unused_parameters: bool, tmp_path: Path
) -> None:
    model = idle_model()
    parallel = MMDistributedDataParallel(
        model, find_unused_parameters=find_unused_parameters, broadcast_buffers=False
    )
    once = dict(type='IterBasedTrainLoop', max_iters=1)
    assert run(tmp_path, parallel, train_cfg=once).heard == expected(model)
    model.backbone.has_loaded = False
    with pytest.raises(PreflightError, match=r'model.backbone \(SHViT\)'):
        run(tmp_path, parallel, optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.02)))
