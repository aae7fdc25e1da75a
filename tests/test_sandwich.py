"""Training one set of weights for many operating points: gradients, steps, resuming, processes."""

from __future__ import annotations

import copy
import itertools
import json
import random
import socket
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.hub import get_config
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import LOOPS as ROOT_LOOPS
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn import functional as F
from torch.utils.data import Dataset, default_collate

from tests.small import SMALL
from vitbackbones.backbones import SHViT, SuperViT
from vitbackbones.backbones.supervit import SuperViTClassifier
from vitbackbones.engine import CPUAmpOptimWrapper
from vitbackbones.engine.sandwich import (
    KEEP_RATES,
    SCALES,
    Pass,
    sandwich_passes,
    sandwich_step,
)

# Without BatchNorm a batch gives the same in one process as spread over two; with eight blocks
# tokens are dropped twice.
ARCH = {**SMALL['SuperViT'], 'stem_dim': None, 'depth': 8}
PASSES = [
    Pass('full', 1.0, 1.0),
    Pass('full_pruned', 1.0, 0.5, student=True),
    Pass('small', 0.5, 1.0),
    Pass('small_pruned', 0.5, 0.6, student=True),
]
SIDE = 96

DENSE_LOSSES = ('task', 'distill', 'both')
every_student_loss = pytest.mark.parametrize('student_loss', DENSE_LOSSES)
every_loop = pytest.mark.parametrize('kind', ['EpochBased', 'IterBased'])


# ---------------------------------------------------------------- a small model and its data


def liven(backbone: nn.Module) -> nn.Module:
    """Let tokens differ: initial weights are so small that hardly anything is lost with some."""
    for value in backbone.parameters():
        if value.ndim > 1:
            nn.init.normal_(value, std=0.3)
    return backbone


class Dense(BaseModel):
    """Fits a number at every place of every map; ``points`` are those of its forward passes."""

    def __init__(self, cls: type[nn.Module] = SuperViT, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        arch = ARCH if cls is SuperViT else SMALL[cls.__name__]
        self.backbone = liven(cls(arch, drop_path_rate=0.0, **options))
        self.heads = nn.ModuleList(nn.Conv2d(c, 1, 1) for c in self.backbone.out_channels)
        self.points: list[tuple[float, float]] = []

    def forward(self, inputs: Tensor, data_samples: Tensor, mode: str = 'loss') -> Any:
        point = getattr(self.backbone, 'operating_point', None)
        self.points.append(point and (point.scale, point.keep_rate))
        maps = self.backbone(inputs)
        errors = [
            (head(x) - data_samples[:, None, None, None]).square().mean()
            for head, x in zip(self.heads, maps, strict=True)
        ]
        return {'loss_fine': errors[0], 'loss_coarse': errors[1:], 'acc': errors[0].detach()}


class Numbers(Dataset):
    def __init__(self, length: int = 10) -> None:
        draw = torch.Generator().manual_seed(1)
        self.inputs = torch.randn(length, 3, SIDE, SIDE, generator=draw)
        self.numbers = torch.randn(length, generator=draw)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {'inputs': self.inputs[i], 'data_samples': self.numbers[i]}


def batch(start: int = 0, stop: int = 2) -> dict[str, Tensor]:
    return default_collate([Numbers()[i] for i in range(start, stop)])


def sgd(model: nn.Module, cls: type[OptimWrapper] = OptimWrapper, **options: Any) -> OptimWrapper:
    return cls(optimizer=torch.optim.SGD(model.parameters(), lr=0.01), **options)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def keep_gradients(optim_wrapper: OptimWrapper) -> OptimWrapper:
    optim_wrapper.zero_grad = lambda **kwargs: None
    return optim_wrapper


def make_runner(work_dir: Path, train_cfg: dict[str, Any], **options: Any) -> Runner:
    infinite = 'max_iters' in train_cfg
    sampler = 'InfiniteSampler' if infinite else 'DefaultSampler'
    defaults: dict[str, Any] = dict(
        model=Dense(),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=Numbers(),
            batch_size=2,
            sampler=dict(type=sampler, shuffle=True),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=train_cfg,
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3)),
        param_scheduler=dict(type='LinearLR', start_factor=0.1, begin=0, end=8, by_epoch=False),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=3),
            logger=dict(type='LoggerHook', interval=1),
        ),
        custom_hooks=[dict(type='vitbackbones.DurableHook')],  # resumes within an epoch
        randomness=dict(seed=7),
        log_level='ERROR',
        experiment_name=f'{work_dir.parent.name}-{work_dir.name}',
        default_scope='mmengine',
    )
    return Runner(**{**defaults, **options})


def points_loop(kind: str, **options: Any) -> dict[str, Any]:
    """Ten iterations: two epochs of five."""
    length = {'max_epochs': 2} if kind == 'EpochBased' else {'max_iters': 10}
    return dict(type=f'vitbackbones.{kind}PointsLoop', **length, **options)


# ------------------------------------------------------------------------------ the points


def test_the_four_published_points_are_trained() -> None:
    drawn = [sandwich_passes(random.Random(i), SCALES, KEEP_RATES) for i in range(100)]
    for full, full_pruned, small, small_pruned in drawn:
        assert (full.scale, full.keep_rate) == (1, 1)
        assert (full_pruned.scale, small.keep_rate) == (1, 1)
        assert small_pruned.scale == small.scale
        assert [p.student for p in (full, full_pruned, small, small_pruned)] == [False, True] * 2
    assert {p[2].scale for p in drawn} == set(SCALES) - {1}
    assert {(p[1].keep_rate, p[3].keep_rate) for p in drawn} == {
        *itertools.product((0.5, 0.7), repeat=2)
    }


@pytest.mark.parametrize(
    ('scales', 'keep_rates', 'names'),
    [
        ((1.0,), (0.5, 1.0), ['full', 'full_pruned']),
        ((1.0, 0.5), (1.0,), ['full', 'small']),
        ((1.0,), (1.0,), ['full']),
    ],
)
def test_what_is_not_reduced_needs_no_pass(
    scales: tuple[float, ...], keep_rates: tuple[float, ...], names: list[str]
) -> None:
    assert [p.name for p in sandwich_passes(random.Random(0), scales, keep_rates)] == names


@pytest.mark.parametrize('train_points', ['random', 'sandwich'])
def test_draws_depend_on_seed_and_iteration_alone(train_points: str, tmp_path: Path) -> None:
    def points(name: str, seed: int) -> list[tuple[float, float]]:
        loop = points_loop('IterBased', train_points=train_points, student_loss='task')
        runner = make_runner(tmp_path / name, loop, randomness=dict(seed=seed))
        random.seed(name)
        runner.train()
        return runner.model.points

    first = points('a', 1)
    assert len(first) == 10 * (4 if train_points == 'sandwich' else 1)
    assert set(first) <= set(itertools.product(SCALES, KEEP_RATES))
    assert len(set(first)) > 4
    assert points('b', 1) == first
    assert points('c', 2) != first


# -------------------------------------------------------------------------------- gradients


def error_of_maps(student: tuple[Tensor, ...], teacher: tuple[Tensor, ...]) -> Tensor:
    """The distillation loss, written a second time."""
    terms = []
    for x, y in zip(student, teacher, strict=True):
        for i in range(len(x)):  # every image
            terms.append(((x[i] - y[i]) ** 2).mean() / y[i].var())
    return sum(terms) / len(terms)


def summed_gradients(
    model: BaseModel, data: dict[str, Any], passes: list[Pass], student_loss: str
) -> dict[str, Tensor]:
    """Of one step per point, each by itself."""
    data = model.data_preprocessor(copy.deepcopy(data), True)
    total: dict[str, Tensor] = {}
    for p in passes:
        model.zero_grad()
        model.backbone.operating_point = dict(scale=p.scale, keep_rate=p.keep_rate)
        if not p.student or student_loss != 'distill':
            losses = model(**copy.deepcopy(data), mode='loss')
            (p.weight * model.parse_losses(losses)[0]).backward()
        if p.student and student_loss != 'task':
            maps = model.backbone(data['inputs'])
            model.backbone.operating_point = dict(scale=p.scale, keep_rate=1.0)
            with torch.no_grad():
                teacher = model.backbone(data['inputs'])
            (p.weight * 2.0 * error_of_maps(maps, teacher)).backward()
        for name, value in gradients(model).items():
            total[name] = total.get(name, 0) + value
    model.backbone.operating_point = None
    model.zero_grad()
    return total


def retinanet() -> tuple[BaseModel, dict[str, Any]]:
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    cfg = get_config('mmdet::_base_/models/retinanet_r50_fpn.py').model
    cfg.backbone = dict(type='SuperViT', arch=ARCH, out_indices=(1, 2, 3), drop_path_rate=0.0)
    cfg.neck.update(start_level=0, in_channels=[16] * 3, out_channels=8)
    cfg.bbox_head.update(in_channels=8, feat_channels=8, stacked_convs=1, num_classes=3)
    sample = DetDataSample(metainfo=dict(img_shape=(SIDE, SIDE), pad_shape=(SIDE, SIDE)))
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[4.0, 8, 40, 60], [20, 5, 60, 25]]), labels=torch.tensor([0, 2])
    )
    image = torch.randint(0, 256, (3, SIDE, SIDE), dtype=torch.uint8)
    with ROOT_MODELS.switch_scope_and_registry('mmdet') as registry:
        return registry.build(cfg), {'inputs': [image], 'data_samples': [sample]}


def upernet() -> tuple[BaseModel, dict[str, Any]]:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    cfg = get_config('mmseg::_base_/models/upernet_r50.py').model
    cfg.pretrained = None
    cfg.data_preprocessor.size = (SIDE, SIDE)
    cfg.backbone = dict(type='SuperViT', arch=ARCH, drop_path_rate=0.0)
    heads = dict(channels=8, num_classes=3, dropout_ratio=0.0, norm_cfg=dict(type='BN'))
    cfg.decode_head.update(in_channels=[16] * 4, **heads)
    cfg.auxiliary_head.update(in_channels=16, **heads)
    data = {'inputs': [], 'data_samples': []}
    for _ in range(2):  # BatchNorm after pooling to one pixel needs more than one image
        sample = SegDataSample(metainfo=dict(img_shape=(SIDE, SIDE)))
        sample.gt_sem_seg = PixelData(data=torch.randint(0, 3, (1, SIDE, SIDE)))
        data['inputs'].append(torch.randint(0, 256, (3, SIDE, SIDE), dtype=torch.uint8))
        data['data_samples'].append(sample)
    with ROOT_MODELS.switch_scope_and_registry('mmseg') as registry:
        return registry.build(cfg), data


@every_student_loss
@pytest.mark.parametrize('build', [retinanet, upernet])
def test_a_sandwich_has_the_summed_gradients_of_its_single_steps(
    build: Any, student_loss: str
) -> None:
    model, data = build()
    liven(model.backbone)
    want = summed_gradients(model, data, PASSES, student_loss)
    sandwich_step(model, data, keep_gradients(sgd(model)), PASSES, student_loss, 2.0)
    assert want.keys() == gradients(model).keys()
    for name, value in gradients(model).items():
        torch.testing.assert_close(value, want[name], rtol=1e-3, atol=1e-5, msg=name)


@every_student_loss
def test_a_pass_has_the_weight_that_it_is_given(student_loss: str) -> None:
    model = Dense()
    passes = sandwich_passes(random.Random(0), (0.5, 1.0), (0.5, 1.0), small_weight=0.25)
    assert [p.weight for p in passes] == [1, 1, 0.25, 0.25]
    want = summed_gradients(model, batch(), passes, student_loss)
    log = sandwich_step(model, batch(), keep_gradients(sgd(model)), passes, student_loss, 2.0)
    for name, value in gradients(model).items():
        torch.testing.assert_close(value, want[name], rtol=1e-3, atol=1e-6, msg=name)
    total = sum(p.weight * log[f'{p.name}.loss'] for p in passes)
    torch.testing.assert_close(log['loss'], total)


# -------------------------------------------------------------------------- whole classifiers

SMALLER = 8 / 14  # of 224 pixels
CLASS_PASSES = [
    Pass('full', 1.0, 1.0),
    Pass('full_pruned', 1.0, 0.5, student=True),
    Pass('small', SMALLER, 1.0),
    Pass('small_pruned', SMALLER, 0.7, student=True),
]


class Classes(BaseModel):
    """Tells five classes apart, by a backbone that is a whole classifier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = liven(SuperViTClassifier(ARCH, num_classes=5, drop_path_rate=0.0))

    def forward(self, inputs: Tensor, data_samples: Tensor, mode: str = 'loss') -> Any:
        (logits,) = self.backbone(inputs)
        return {'loss': F.cross_entropy(logits, data_samples)}


@pytest.mark.parametrize(('teacher', 'taught_by'), [('same_scale', [0, 2]), ('full', [0, 0])])
def test_a_student_learns_its_teacher_s_class_probabilities(
    teacher: str, taught_by: list[int]
) -> None:
    model = Classes()
    data = dict(inputs=torch.randn(3, 3, 64, 64), data_samples=torch.tensor([0, 4, 1]))
    net = copy.deepcopy(model.backbone)
    logits = []
    for p in CLASS_PASSES:
        net.size, net.keep_rate = round(p.scale * 224), p.keep_rate
        logits.append(net(data['inputs'])[0])
    labels = data['data_samples']
    tasks = [-(logits[i].log_softmax(1)[range(3), labels]).mean() for i in (0, 2)]
    divergences = []
    for student, place in zip((1, 3), taught_by, strict=True):
        want, got = (logits[i].softmax(1) for i in (place, student))
        want = want.detach()
        divergences.append((want * (want / got).log()).sum() / 3)
    sum([*tasks, *divergences]).backward()

    wrapper = keep_gradients(sgd(model))
    log = sandwich_step(model, data, wrapper, CLASS_PASSES, 'logits', teacher=teacher)
    want = gradients(net)
    assert want.keys() == gradients(model.backbone).keys()
    for name, value in gradients(model.backbone).items():
        torch.testing.assert_close(value, want[name], rtol=1e-3, atol=1e-6, msg=name)
    assert [*log] == [
        'loss',
        'full.loss',
        'full_pruned.loss_distill',
        'full_pruned.loss',
        'small.loss',
        'small_pruned.loss_distill',
        'small_pruned.loss',
    ]
    for name, value in zip(('full_pruned', 'small_pruned'), divergences, strict=True):
        torch.testing.assert_close(log[f'{name}.loss'], value.detach())
    assert all(value > 1e-3 for value in divergences)  # the teachers say something else
    assert (model.backbone.size, model.backbone.keep_rate) == (224, 1.0)


@pytest.mark.parametrize(
    ('model', 'options', 'message'),
    [
        (Dense, {}, "student_loss='logits' needs a backbone that is a whole classifier"),
        (Classes, {'teacher': 'x'}, r"teacher='x' must be one of \('same_scale', 'full'\)"),
        (Classes, {'scales': [0.5, 1.0]}, 'scale=0.5 must be one of 128/224, 160/224, 192/224'),
    ],
)
def test_students_of_class_probabilities_need_a_classifier_and_its_sizes(
    model: Any, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    loop = points_loop('IterBased', student_loss='logits', **options)
    with pytest.raises(ValueError, match=message):
        make_runner(tmp_path / 'run', loop, model=model()).train()


# ------------------------------------------------------------------------ one step, its log


@every_loop
def test_an_iteration_is_one_step_for_optimiser_schedule_and_log(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, 'step', lambda *a, **k: steps.append(1) or step(*a, **k))
    runner = make_runner(tmp_path / 'run', points_loop(kind))
    runner.train()
    assert len(steps) == runner.iter == runner.optim_wrapper.inner_count == 10
    (file,) = tmp_path.glob('run/*/vis_data/scalars.json')
    log = [json.loads(line) for line in file.read_text().splitlines()]
    assert [entry['step'] for entry in log] == list(range(1, 11))
    factors = [0.1 + 0.9 * min(i, 7) / 7 for i in range(10)]
    assert [entry['lr'] for entry in log] == pytest.approx([1e-3 * f for f in factors])


@every_student_loss
def test_the_log_tells_the_passes_apart_and_sums_them(student_loss: str) -> None:
    model = Dense()
    log = sandwich_step(model, batch(), sgd(model), PASSES, student_loss)
    task = ['loss', 'loss_fine', 'loss_coarse', 'acc']
    student = {'distill': ['loss', 'loss_distill'], 'task': task, 'both': [*task, 'loss_distill']}
    names = {
        f'{p.name}.{n}' for p in PASSES for n in (student[student_loss] if p.student else task)
    }
    assert set(log) == {'loss', *names}
    assert not any(value.requires_grad for value in log.values())
    for p in PASSES:
        parts = [v for k, v in log.items() if k.startswith(f'{p.name}.loss_')]
        torch.testing.assert_close(log[f'{p.name}.loss'], sum(parts))
    torch.testing.assert_close(log['loss'], sum(log[f'{p.name}.loss'] for p in PASSES))


def test_gradients_are_clipped_once_and_as_a_sum() -> None:
    model = Dense()
    total = summed_gradients(model, batch(), PASSES, 'distill')
    norm = torch.cat([value.flatten() for value in total.values()]).norm()
    wrapper = keep_gradients(sgd(model, clip_grad=dict(max_norm=float(norm) / 2)))
    sandwich_step(model, batch(), wrapper, PASSES, 'distill', 2.0)
    for name, value in gradients(model).items():
        torch.testing.assert_close(value, total[name] / 2, rtol=1e-3, atol=1e-6)


def test_iterations_can_be_accumulated() -> None:
    """mmengine's rule: the gradients of two iterations are averaged, and make one step."""
    model = Dense()
    batches = [batch(0, 2), batch(2, 4)]
    want = [summed_gradients(model, data, PASSES, 'task') for data in batches]
    wrapper = keep_gradients(sgd(model, accumulative_counts=2))
    wrapper.initialize_count_status(model, 0, 2)
    before = copy.deepcopy(model.state_dict())
    sandwich_step(model, batches[0], wrapper, PASSES, 'task')
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    sandwich_step(model, batches[1], wrapper, PASSES, 'task')
    assert not torch.equal(before['heads.0.weight'], model.heads[0].weight)
    for name, value in gradients(model).items():
        mean = (want[0][name] + want[1][name]) / 2
        torch.testing.assert_close(value, mean, rtol=1e-4, atol=1e-7)


def test_heads_that_learn_nothing_are_not_run() -> None:
    model = Dense()
    sandwich_step(model, batch(), sgd(model), PASSES, 'distill')
    assert model.points == [(1.0, 1.0), (0.5, 1.0)]


def test_data_are_preprocessed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Dense()
    calls = []
    monkeypatch.setattr(model.data_preprocessor, 'forward', lambda *a: calls.append(a) or a[0])
    sandwich_step(model, batch(), sgd(model), PASSES)
    assert len(calls) == 1
    assert calls[0][1] is True  # as for training


@every_student_loss
def test_no_graph_outlives_its_pass(student_loss: str) -> None:
    model = Dense()
    graphs: list[weakref.ref] = []
    alive = []

    @model.backbone.register_forward_pre_hook
    def before(module: nn.Module, args: Any) -> None:
        alive.append(sum(ref() is not None for ref in graphs))

    @model.backbone.register_forward_hook
    def after(module: nn.Module, args: Any, output: tuple[Tensor, ...]) -> None:
        graphs.extend(weakref.ref(x) for x in output)

    sandwich_step(model, batch(), sgd(model), PASSES, student_loss)
    assert alive == [0, 0, 0, 0]


def test_the_backbone_is_back_at_its_own_point_whatever_happens() -> None:
    model = Dense()
    own = dict(scale=0.75, keep_rate=0.6)
    model.backbone.operating_point = own
    sandwich_step(model, batch(), sgd(model), PASSES)
    assert vars(model.backbone.operating_point) == own
    with pytest.raises(ValueError, match='leaves less than one'):
        sandwich_step(model, batch(), sgd(model), [Pass('full', 1.0, 0.001)])
    assert vars(model.backbone.operating_point) == own
    assert not model.backbone._forward_hooks


def test_checkpointed_blocks_are_recomputed_at_the_pass_s_point() -> None:
    want, model = Dense(), Dense(with_cp=True)
    for net in (want, model):
        sandwich_step(net, batch(), keep_gradients(sgd(net)), PASSES)
    for name, value in gradients(model).items():
        torch.testing.assert_close(value, gradients(want)[name], rtol=1e-4, atol=1e-7)


# --------------------------------------------------------------------------- mixed precision


def test_bfloat16_reaches_every_pass_and_changes_gradients_little() -> None:
    want, model = Dense(), Dense()
    dtypes = []
    model.backbone.blocks[0].register_forward_hook(lambda m, a, out: dtypes.append(a[0].dtype))
    model.backbone.blocks[0].mlp.fc1.register_forward_hook(
        lambda m, a, out: dtypes.append(out.dtype)
    )
    sandwich_step(want, batch(), keep_gradients(sgd(want)), PASSES, 'both')
    sandwich_step(model, batch(), keep_gradients(sgd(model, CPUAmpOptimWrapper)), PASSES, 'both')
    assert dtypes.count(torch.bfloat16) >= len(PASSES)
    exact, rough = (
        torch.cat([g.flatten() for g in gradients(net).values()]) for net in (want, model)
    )
    assert rough.dtype == torch.float32
    assert (exact - rough).norm() < 0.05 * exact.norm()


class ScaledOnCPU(AmpOptimWrapper):
    """mmengine's steps with a gradient scaler, which only its constructor reserves to GPUs."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        OptimWrapper.__init__(self, optimizer)
        self.loss_scaler = torch.amp.GradScaler('cpu', init_scale=1024.0, growth_interval=3)
        self._scale_update_param = None
        self.cast_dtype = torch.bfloat16


def test_the_scaler_is_updated_once_per_iteration_and_leaves_gradients_unscaled() -> None:
    want, model = Dense(), Dense()
    wrapper = sgd(model, ScaledOnCPU)
    for _ in range(2):
        sandwich_step(want, batch(), sgd(want, CPUAmpOptimWrapper), PASSES)
        sandwich_step(model, batch(), wrapper, PASSES)
    assert wrapper.loss_scaler.get_scale() == 1024
    assert wrapper.loss_scaler._get_growth_tracker() == 2
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, want.state_dict()[name], rtol=1e-3, atol=1e-5)


def test_a_step_of_infinite_gradients_is_skipped_and_the_next_one_is_not() -> None:
    model = Dense()
    wrapper = sgd(model, ScaledOnCPU)
    wrapper.loss_scaler = torch.amp.GradScaler('cpu', init_scale=3e38)
    before = copy.deepcopy(model.state_dict())
    sandwich_step(model, batch(), wrapper, PASSES)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert wrapper.loss_scaler.get_scale() == pytest.approx(1.5e38)
    wrapper.loss_scaler.update(1024.0)
    sandwich_step(model, batch(), wrapper, PASSES)
    assert not torch.equal(before['heads.0.weight'], model.heads[0].weight)
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


# -------------------------------------------------------------------------------- the loops


@every_loop
@pytest.mark.parametrize('train_points', ['random', 'sandwich'])
# During the first epoch, at its end, with the first batch of the second one, and at the very end.
@pytest.mark.parametrize('interrupted_at', [3, 5, 6, 10])
def test_resuming_changes_nothing(
    kind: str, train_points: str, interrupted_at: int, tmp_path: Path
) -> None:
    loop = points_loop(kind, train_points=train_points)
    hooks = dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1))
    undisturbed = make_runner(tmp_path / 'undisturbed', loop, default_hooks=hooks)
    undisturbed.train()
    checkpoint = tmp_path / 'undisturbed' / f'iter_{interrupted_at}.pth'
    resumed = make_runner(tmp_path / 'resumed', loop, resume=True, load_from=str(checkpoint))
    resumed.train()
    assert resumed.iter == undisturbed.iter == 10
    assert resumed.epoch == undisturbed.epoch
    passes = len(undisturbed.model.points) // 10
    assert resumed.model.points == undisturbed.model.points[interrupted_at * passes :]
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, undisturbed.model.state_dict()[name]), name


@every_loop
@pytest.mark.parametrize('backbone', [SuperViT, SHViT])
def test_fixed_is_what_mmengine_s_loop_does(
    kind: str, backbone: type[nn.Module], tmp_path: Path
) -> None:
    def train(kind_of_loop: str, **options: Any) -> dict[str, Tensor]:
        loop = {**points_loop(kind), 'type': kind_of_loop, **options}
        runner = make_runner(tmp_path / kind_of_loop, loop, model=Dense(backbone))
        return runner.train().state_dict()

    ours = train(f'vitbackbones.{kind}PointsLoop', train_points='fixed')
    for name, value in train(f'{kind}TrainLoop').items():
        assert torch.equal(value, ours[name])


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
@every_loop
def test_a_config_of_another_package_names_the_loop(scope: str, kind: str) -> None:
    with ROOT_LOOPS.switch_scope_and_registry(scope) as registry:
        assert registry.get(f'vitbackbones.{kind}PointsLoop').__name__ == f'{kind}PointsLoop'


# -------------------------------------------------------------------------------- processes


def _count_and_average(averaged, bucket):  # torch refuses annotations other than its own
    averaged.append(bucket.index())
    return allreduce_hook(None, bucket)


def _train_in_process(rank: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    address = f'tcp://127.0.0.1:{port}'
    torch.distributed.init_process_group('gloo', init_method=address, rank=rank, world_size=2)
    for student_loss in DENSE_LOSSES:
        alone, model = Dense(), MMDistributedDataParallel(module=Dense(), broadcast_buffers=False)
        averaged = []
        model.register_comm_hook(averaged, _count_and_average)
        optimizers = [sgd(net) for net in (alone, model)]
        for i in range(2):
            sandwich_step(alone, batch(4 * i, 4 * i + 4), optimizers[0], PASSES, student_loss)
            mine = batch(4 * i + 2 * rank, 4 * i + 2 * rank + 2)
            sandwich_step(model, mine, optimizers[1], PASSES, student_loss)
            assert len(averaged) == i + 1  # the network is small enough for one bucket
        for name, value in model.module.state_dict().items():
            torch.testing.assert_close(value, alone.state_dict()[name], rtol=1e-5, atol=1e-7)
    _loops_draw_alike(folder / str(rank))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _loops_draw_alike(work_dir: Path) -> None:
    """Without a seed in the config: mmengine draws one for all processes."""
    model = MMDistributedDataParallel(module=Dense(), broadcast_buffers=False)
    loop = {**points_loop('IterBased'), 'max_iters': 2}
    make_runner(work_dir, loop, model=model, randomness=dict(seed=None)).train()
    results = [None, None]
    mine = (model.module.points, *(p.tolist() for p in model.parameters()))
    torch.distributed.all_gather_object(results, mine)
    assert results[0] == results[1]


def test_two_processes_average_once_and_train_as_one_does_on_both_batches(
    tmp_path: Path,
) -> None:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    context = torch.multiprocessing.spawn(_train_in_process, (port, tmp_path), nprocs=2, join=False)
    try:
        # Each call returns when one more process has ended.
        assert context.join(timeout=240) or context.join(timeout=60), 'a process did not end'
    finally:
        for process in context.processes:
            process.kill()


# ---------------------------------------------------------------------------- bad input


@every_loop
@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'train_points': 'all'}, r"train_points='all' must be one of \('fixed', 'random', 'sandw"),
        ({'student_loss': 'kl'}, r"student_loss='kl' must be one of \('task', 'distill', 'both'"),
        ({'distill_weight': 0}, 'distill_weight=0 must be positive'),
        ({'small_weight': -1}, 'small_weight=-1 must be positive'),
        ({'train_point': 'sandwich'}, "no option 'train_point', choose from train_points, .*max_"),
        ({'scales': []}, r'scales=\[\] must list values in \(0, 1\]'),
        ({'keep_rates': 0.5}, r'keep_rates=0.5 must list values in \(0, 1\]'),
        ({'scales': [0.5, 1.5]}, r'scale=1.5 must be in \(0, 1\]'),
        ({'keep_rates': [0, 1]}, r'keep_rate=0 must be in \(0, 1\]'),
    ],
)
def test_wrong_options_are_refused_before_training(
    kind: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    runner = make_runner(tmp_path / 'run', points_loop(kind, **options))
    with pytest.raises(ValueError, match=f'{kind}PointsLoop.* .*{message}'):
        runner.train()
    assert runner.model.points == []


def test_a_frozen_backbone_cannot_learn_from_maps(tmp_path: Path) -> None:
    loop = points_loop('IterBased', student_loss='distill')
    model = Dense()
    model.backbone.requires_grad_(False)
    runner = make_runner(tmp_path / 'run', loop, model=model)
    with pytest.raises(ValueError, match=r"student_loss='distill' .* frozen; use 'task'"):
        runner.train()


@pytest.mark.parametrize('train_points', ['random', 'sandwich'])
def test_a_backbone_without_operating_points_is_refused(train_points: str, tmp_path: Path) -> None:
    loop = points_loop('IterBased', train_points=train_points)
    runner = make_runner(tmp_path / 'run', loop, model=Dense(SHViT))
    with pytest.raises(ValueError, match=f"'{train_points}' needs a backbone .* SuperViT .* SHViT"):
        runner.train()
