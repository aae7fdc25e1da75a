"""Rates, objects, pixels and options that would train wrongly, named before the first step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop
from torch import nn
from torch.utils.data import DataLoader

from tests.models import build, checked, mask_rcnn, retinanet, upernet
from vitbackbones.engine.anchors import best_overlap


@pytest.fixture(scope='module')
def model() -> nn.Module:
    return build(upernet())


# ------------------------------------------------------------------------------- rates


def scheduled(model: nn.Module, *configs: dict[str, Any], lr: float = 6e-5) -> dict[str, Any]:
    """Optimizer and schedules of a Runner, as mmengine builds them."""
    wrapper = OptimWrapper(torch.optim.AdamW(model.parameters(), lr=lr))
    built = [PARAM_SCHEDULERS.build({**cfg, 'optimizer': wrapper}) for cfg in configs]
    return dict(optim_wrapper=wrapper, param_schedulers=built)


WARM_UP = dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500)


@pytest.mark.parametrize(
    ('schedule', 'said'),
    [
        # What 31 of mmseg's 53 method folders have, made for SGD at 0.01.
        (
            dict(type='PolyLR', eta_min=1e-4, power=0.9, begin=0, end=80000, by_epoch=False),
            'PolyLR has eta_min=0.0001, which is not below optim_wrapper.optimizer.lr=6e-05: the '
            'rate would rise; set eta_min=0',
        ),
        (dict(type='CosineAnnealingLR', eta_min=6e-5, T_max=9), 'the rate would never fall'),
        (dict(type='CosineAnnealingLR', eta_min_ratio=1.5, T_max=9), 'eta_min_ratio=1.5'),
        (
            dict(type='CosineRestartLR', eta_min=1e-3, periods=[3, 3], restart_weights=[1, 1]),
            'CosineRestartLR has eta_min=0.001',
        ),
    ],
)
def test_a_floor_at_or_above_the_rate_is_named(
    model: nn.Module, schedule: dict[str, Any], said: str
) -> None:
    (problem,), _ = checked(model, **scheduled(model, WARM_UP, schedule))
    assert problem.startswith('param_scheduler: ')
    assert said in problem


def test_a_floor_below_the_rate_passes(model: nn.Module) -> None:
    schedules = [
        dict(type='PolyLR', eta_min=1e-6, end=9),
        dict(type='PolyLR', end=9),
        dict(type='CosineAnnealingLR', eta_min_ratio=0.05, T_max=9),
        dict(type='CosineAnnealingMomentum', eta_min=0.8, T_max=9),  # of another quantity
    ]
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9))
    built = [PARAM_SCHEDULERS.build({**cfg, 'optimizer': wrapper}) for cfg in schedules]
    found, _ = checked(model, optim_wrapper=wrapper, param_schedulers=built)
    assert found == ()


RISE = dict(type='CosineAnnealingLR', eta_min=1e-3, begin=0, end=50, T_max=50)


@pytest.mark.parametrize('floor', [1e-6, 1e-4])
def test_a_rate_may_rise_before_it_falls(model: nn.Module, floor: float) -> None:
    fall = dict(type='CosineAnnealingLR', eta_min=floor, begin=50, end=90, T_max=40)
    assert checked(model, **scheduled(model, RISE, fall))[0] == ()


@pytest.mark.parametrize(
    'other',
    [
        dict(type='CosineAnnealingLR', eta_min=1e-2, begin=50, T_max=40),  # rises on
        dict(type='PolyLR', end=50),  # at the same time
        dict(type='CosineAnnealingMomentum', eta_min=0.8, begin=50, T_max=40),
    ],
)
def test_a_rate_that_only_rises_is_named(model: nn.Module, other: dict[str, Any]) -> None:
    (problem,), _ = checked(model, **scheduled(model, RISE, other))
    assert 'the rate would rise' in problem


def test_the_floor_of_each_of_several_optimizers_counts(model: nn.Module) -> None:
    right = scheduled(model, dict(type='PolyLR', end=9))
    wrong = scheduled(model, dict(type='PolyLR', eta_min=1e-4, end=9))
    both = dict(a=right['param_schedulers'], b=wrong['param_schedulers'])
    (problem,), _ = checked(model, param_schedulers=both)
    assert 'eta_min=0.0001' in problem


def test_the_floor_is_compared_with_the_highest_rate_that_learns(model: nn.Module) -> None:
    """Layer-wise decay gives the first layers rates below any floor: that is meant."""
    groups = [
        dict(params=list(model.backbone.parameters()), lr=1e-7),
        dict(params=list(model.decode_head.parameters()), lr=6e-5),
    ]
    wrapper = OptimWrapper(torch.optim.AdamW(groups, lr=6e-5))
    schedule = dict(type='PolyLR', eta_min=1e-6, end=9, optimizer=wrapper)
    schedules = [PARAM_SCHEDULERS.build(schedule)]
    assert checked(model, optim_wrapper=wrapper, param_schedulers=schedules)[0] == ()


def looped(model: nn.Module, by_epoch: bool, *schedules: dict[str, Any]) -> dict[str, Any]:
    """What :func:`scheduled` gives, and a loop of two epochs of three steps, or of six steps."""
    data = DataLoader([0, 1, 2])  # type: ignore[arg-type, var-annotated]
    runner: Any = SimpleNamespace()
    if by_epoch:
        loop: BaseLoop = EpochBasedTrainLoop(runner, data, max_epochs=2)
    else:
        loop = IterBasedTrainLoop(runner, data, max_iters=6)
    return dict(scheduled(model, *schedules), train_loop=loop)


@pytest.mark.parametrize(
    'schedule', [dict(type='PolyLR', end=6), dict(type='MultiStepLR', milestones=[4])]
)
def test_epochs_are_not_counted_where_training_counts_iterations(
    model: nn.Module, schedule: dict[str, Any]
) -> None:
    (problem,), _ = checked(model, **looped(model, False, schedule))
    assert problem.startswith(f'param_scheduler: {schedule["type"]} counts epochs')
    assert checked(model, **looped(model, True, schedule))[0] == ()
    assert checked(model, **looped(model, False, dict(schedule, by_epoch=False)))[0] == ()


def test_a_schedule_that_follows_validation_may_count_its_epochs(model: nn.Module) -> None:
    plateau = dict(type='ReduceOnPlateauLR', monitor='loss')
    assert checked(model, **looped(model, False, plateau)) == ((), [])


@pytest.mark.parametrize(
    ('by_epoch', 'end', 'said'),
    [
        (True, 3, 'LinearLR warms up until 3 epochs, and training has 2'),
        (False, 7, 'LinearLR warms up until 7 iterations, and training has 6'),
        (True, 2, None),
        (False, 6, None),
    ],
)
def test_a_warm_up_that_outlasts_training_is_warned_of(
    model: nn.Module, by_epoch: bool, end: int, said: str | None
) -> None:
    schedule = dict(type='LinearLR', start_factor=0.1, by_epoch=by_epoch, end=end)
    found, lines = checked(model, **looped(model, True, schedule))
    assert found == ()
    assert len(lines) == (said is not None)
    assert not said or said in lines[0]


def test_sgd_at_a_low_rate_is_warned_of(model: nn.Module) -> None:
    sgd = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-3))
    found, (line,) = checked(model, optim_wrapper=sgd)
    assert found == ()
    assert line.startswith('optim_wrapper.optimizer is SGD with lr=0.001; model.backbone (SepViT)')
    assert "type='AdamW'" in line
    assert checked(model) == ((), [])


# ------------------------------------------------------------------------ objects and anchors


class Objects(torch.utils.data.Dataset):
    """Images of 256 x 256 with square objects of one side, after a pipeline that draws."""

    def __init__(self, side: float, count: int = 30, small: float = 1.0) -> None:
        self.side, self.small = side, small
        self.count = count
        self.pipeline: list[str] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        from mmdet.structures import DetDataSample
        from mmengine.structures import InstanceData

        self.pipeline.append('used')
        sample = DetDataSample(metainfo=dict(img_shape=(256, 256), pad_shape=(256, 256)))
        corner = torch.from_numpy(np.random.uniform(0, 150, (10, 2))).float() + torch.rand(1)
        side = torch.full((10, 1), 60.0)
        side[: round(10 * self.small)] = self.side
        boxes = torch.cat([corner, corner + side], dim=1)
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.zeros(10))
        return dict(inputs=torch.zeros(3, 256, 256, dtype=torch.uint8), data_samples=sample)


def rpn(scale: int = 8, **assigner: Any) -> nn.Module:
    """Mask R-CNN with the anchors and the RPN assigner of mmdet's configs."""
    cfg = mask_rcnn()
    cfg['rpn_head']['anchor_generator']['scales'] = [scale]
    cfg['train_cfg']['rpn'] = dict(
        assigner=dict(
            type='MaxIoUAssigner',
            **{
                **dict(pos_iou_thr=0.7, neg_iou_thr=0.3, min_pos_iou=0.3, match_low_quality=True),
                **assigner,
            },
        ),
        sampler=dict(type='RandomSampler', num=8, pos_fraction=0.5),
        allowed_border=-1,
        pos_weight=-1,
    )
    return build(cfg)


def loader(dataset: Any) -> dict[str, Any]:
    return dict(train_dataloader=SimpleNamespace(dataset=dataset))


def test_objects_that_no_anchor_matches_are_said_with_their_share() -> None:
    found, (line,) = checked(rpn(), **loader(Objects(side=12)))
    assert found == ()
    assert line.startswith(
        'model.rpn_head: 100% of 200 objects in 20 training images, as augmented, match no anchor '
        '(overlap below 0.3) and are not learned from: their boxes have sides of 12 pixels '
        '(median), the anchors of 32 to 512'
    )
    assert 'anchor_generator.scales' in line


def test_the_share_is_that_of_the_small_objects() -> None:
    _, (line,) = checked(rpn(), **loader(Objects(side=12, small=0.4)))
    assert 'model.rpn_head: 40% of 200 objects' in line


@pytest.mark.parametrize(
    ('model', 'dataset'),
    [
        (lambda: rpn(), Objects(side=40)),
        (lambda: rpn(scale=3), Objects(side=12)),
        (lambda: rpn(min_pos_iou=0.1), Objects(side=12)),  # the best anchor is taken
        (lambda: rpn(), Objects(side=12, small=0.1)),
        (lambda: build(retinanet()), Objects(side=12)),
        (lambda: rpn(), [dict(inputs=torch.zeros(3, 64, 64))]),
    ],
    ids=['large', 'small anchors', 'low bar', 'few', 'RetinaNet', 'no boxes'],
)
def test_where_objects_are_matched_nothing_is_said(
    model: Callable[[], nn.Module], dataset: Any
) -> None:
    _, lines = checked(model(), **loader(dataset))
    assert not [line for line in lines if 'no anchor' in line]


def test_looking_at_samples_changes_neither_order_nor_augmentation() -> None:
    model, dataset = rpn(), Objects(side=12)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    _, (line,) = checked(model, **loader(torch.utils.data.ConcatDataset([dataset, dataset])))
    assert 'no anchor' in line
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert dataset.pipeline == []  # what a pipeline remembers is remembered by a copy


def test_a_dataset_that_fails_is_left_to_the_training() -> None:
    class Broken(Objects):
        def __getitem__(self, index: int) -> dict[str, Any]:
            raise OSError('gone')

    assert checked(rpn(), **loader(Broken(side=12))) == ((), [])


def test_the_best_overlap_is_that_over_all_anchors() -> None:
    from mmdet.models.task_modules.prior_generators import AnchorGenerator
    from mmdet.structures.bbox import bbox_overlaps

    random = np.random.RandomState(0)
    corners = random.uniform(-5, 90, (60, 2))
    boxes = torch.tensor(np.hstack([corners, corners + random.uniform(1, 60, (60, 2))])).float()
    for options in (
        dict(strides=[4, 8], ratios=[0.5, 1.0, 2.0], scales=[2, 5]),
        dict(strides=[(8, 4)], ratios=[1.0], scales=[3], center_offset=0.5),
    ):
        generator = AnchorGenerator(**options)
        sizes = [(-(-96 // y), -(-100 // x)) for x, y in generator.strides]
        anchors = torch.cat(generator.grid_priors(sizes, device='cpu'))
        expected = bbox_overlaps(boxes, anchors).amax(dim=1)
        image = torch.tensor([[100.0, 96.0]]).expand(60, 2)
        assert torch.allclose(best_overlap(boxes, image, generator), expected, atol=1e-5)


# ------------------------------------------------------------------------------- pixels

IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
BGR = {key: values[::-1] for key, values in IMAGENET.items()}
RIGHT = dict(type='mmdet.DetDataPreprocessor', **IMAGENET, bgr_to_rgb=True, pad_size_divisor=32)
SEGMENTATION = dict(type='mmseg.SegDataPreProcessor', **IMAGENET, size=(64, 64))


@pytest.fixture(scope='module')
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp('weights') / 'sepvit.pth'
    torch.save({'model': build(retinanet()).backbone.state_dict()}, path)
    return dict(type='Pretrained', checkpoint=str(path))


def told(kind: dict[str, Any], preprocessor: dict[str, Any], init: Any, **runner: Any) -> list[str]:
    model = build(kind, ('data_preprocessor', preprocessor), ('backbone.init_cfg', init))
    model.backbone.init_weights()
    return [line for line in checked(model, **runner)[1] if 'pixels' in line]


@pytest.mark.parametrize(
    ('kind', 'preprocessor', 'arrives'),
    [
        # RTMDet
        (
            retinanet,
            dict(
                RIGHT, mean=[103.53, 116.28, 123.675], std=[57.375, 57.12, 58.395], bgr_to_rgb=False
            ),
            '(-1.63, -0.99, -0.23)',
        ),
        # YOLOX
        (
            retinanet,
            dict(type='mmdet.DetDataPreprocessor', pad_size_divisor=32),
            '(10.00, 60.00, 110.00)',
        ),
        # FCOS with a backbone of caffe's
        (
            retinanet,
            dict(RIGHT, mean=[102.9801, 115.9465, 122.7717], std=[1.0] * 3, bgr_to_rgb=False),
            '(-92.98, -55.95, -12.77)',
        ),
        (upernet, dict(SEGMENTATION), '(-1.95, -0.99, 0.11)'),
    ],
    ids=['RTMDet', 'YOLOX', 'FCOS-caffe', 'segmentor'],
)
def test_pixels_that_the_weights_do_not_know_are_said(
    kind: Any, preprocessor: dict[str, Any], arrives: str, weights: dict[str, Any]
) -> None:
    (line,) = told(kind(), preprocessor, weights)
    assert 'model.data_preprocessor' in line
    assert f'(B, G, R) = (10, 60, 110) arrives as {arrives}, not as (-0.23, -0.99, -1.63)' in line
    assert 'mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True' in line


def test_right_pixels_and_those_of_other_weights_are_not(weights: dict[str, Any]) -> None:
    assert told(retinanet(), RIGHT, weights) == []
    assert told(upernet(), dict(SEGMENTATION, bgr_to_rgb=True), weights) == []
    other = dict(type='mmdet.DetDataPreprocessor')
    assert told(retinanet(), other, None) == []  # random weights know no pixels
    normalised = SimpleNamespace(dataset=[dict(inputs=torch.zeros(3, 64, 64))])
    assert told(retinanet(), other, weights, train_dataloader=normalised) == []
    # A whole detector was trained on the pixels of its own config.
    assert told(retinanet(), other, weights, cfg=Config(dict(load_from='detector.pth'))) == []


# ------------------------------------------------------------------------------- options

CONFIG = """
data_root = 'data/'
train_pipeline = [dict(type='Load'), dict(type='Resize', scale=(64, 64))]
optimizer = dict(type='AdamW', lr=1e-4)
backbone = dict(type='vitbackbones.SepViT', drop_path_rate=0.1)
model = dict(backbone=dict(**backbone, arch='lite'), rpn_head=dict(type='RPNHead'))
optim_wrapper = dict(type='OptimWrapper', optimizer=optimizer)
train_dataloader = dict(dataset=dict(data_root=data_root, pipeline=train_pipeline))
work_dir = 'here'
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    path = tmp_path / 'config.py'
    path.write_text(CONFIG)
    return Config.fromfile(path)


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        ({'backbone.drop_path_rate': 0.5}, 'did you mean model.backbone?'),
        ({'train_pipeline.1.scale': (32, 32)}, 'at train_dataloader.dataset.pipeline'),
        ({'optimizer.lr': 1e-3}, 'at optim_wrapper.optimizer'),
        ({'rpn_head.in_channels': 9}, "nothing reads 'rpn_head'; did you mean model.rpn_head?"),
        ({'lr_config.policy': 'step'}, "nothing reads 'lr_config'; did you mean param_scheduler?"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else '',
)
def test_options_that_nothing_reads_are_refused(
    model: nn.Module, config: Config, options: dict[str, Any], said: str
) -> None:
    config.merge_from_dict(options)
    (problem,), _ = checked(model, cfg=config)
    assert problem.startswith(next(iter(options)).partition('.')[0])
    assert said in problem


def test_options_that_are_read_and_variables_that_were_used_pass(
    model: nn.Module, config: Config
) -> None:
    assert checked(model, cfg=config) == ((), [])
    read = {
        'model.backbone.drop_path_rate': 0.5,
        'optim_wrapper.optimizer.lr': 1e-3,
        'train_dataloader.dataset.data_root': 'other/',
        'launcher': 'none',
        'resume': False,
    }
    config.merge_from_dict(read)
    assert checked(model, cfg=config) == ((), [])
    config.data_root = 'other/'  # by a program that changed what came of it, too
    config.note = 'a key of a program'
    assert checked(model, cfg=config) == ((), [])


def test_a_program_may_set_keys_that_it_uses_itself(model: nn.Module, config: Config) -> None:
    config.rpn_head = dict(type='SyncBN')  # named as a part of the model, as mmseg's norm_cfg is
    config.model.head = dict(norm_cfg=config.rpn_head)
    config.backbone = dict(type='vitbackbones.SHViT')
    config.model.backbone = dict(**config.backbone, arch='s1')
    assert checked(model, cfg=config) == ((), [])


@pytest.mark.parametrize(
    ('key', 'value', 'meant'),
    [
        ('experiment', 'a', 'experiment_name'),
        ('visualize', True, 'visualizer'),
        ('test_loader', dict(batch=2), 'test_dataloader'),
        ('optim_wraper', dict(optimizer=dict(lr=1e-3)), 'optim_wrapper'),
        ('rpn_head', 'mine', 'model.rpn_head'),
    ],
)
def test_a_key_that_may_be_a_programs_own_is_only_warned_of(
    model: nn.Module, config: Config, key: str, value: Any, meant: str
) -> None:
    config[key] = value
    found, (line,) = checked(model, cfg=config)
    assert found == ()
    assert line.startswith(f'{key}={value}: nothing reads {key!r}; did you mean {meant}?')


def test_a_single_variable_is_only_warned_of(model: nn.Module, config: Config) -> None:
    """A config may take it from the clock, and be another when it is read once more."""
    config.merge_from_dict({'data_root': 'other/'})
    found, (line,) = checked(model, cfg=config)
    assert found == ()
    assert line.startswith('data_root was changed from what ')
    assert line.endswith('what came of it is at train_dataloader.dataset.data_root')


def test_a_file_that_was_edited_since_is_not_compared(model: nn.Module, config: Config) -> None:
    path = Path(config.filename)
    path.write_text(path.read_text().replace('0.1', '0.3'))  # for the next run
    assert checked(model, cfg=config) == ((), [])


def test_a_config_without_a_file_cannot_be_compared(model: nn.Module) -> None:
    assert checked(model, cfg=Config(dict(data_root='x', backbone=dict(a=1)))) == ((), [])


def test_what_only_mmcv_1_read_is_said(model: nn.Module) -> None:
    cfg = Config(dict(lr_config=dict(policy='step'), data=dict(samples_per_gpu=2), runner='mine'))
    found, lines = checked(model, cfg=cfg)
    assert found == ()
    assert lines == [
        'the config has data, which nothing reads since mmengine: use train_dataloader, '
        'val_dataloader and test_dataloader',
        'the config has lr_config, which nothing reads since mmengine: use param_scheduler',
    ]
