"""Single values of a config that the command line changes, and what a config may leave out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.optim import OptimWrapper
from mmengine.registry import DATASETS
from mmseg.models.losses import CrossEntropyLoss

from vitbackbones.data.nodes import type_name
from vitbackbones.data.verdicts import of_heads
from vitbackbones.engine.durable import DurableHook
from vitbackbones.errors import UserError
from vitbackbones.launch.checks import check_config, require
from vitbackbones.launch.loading import load_config
from vitbackbones.launch.training import add_hooks, use_amp

DETECTOR = 'vitbackbones::detection/sepvit_mask_rcnn.py'
SEGMENTOR = 'vitbackbones::segmentation/casvit_upernet.py'


@pytest.mark.parametrize(
    ('config', 'option', 'places'),
    [
        (DETECTOR, 'backbone.drop_path_rate', ['model.backbone.drop_path_rate']),
        (DETECTOR, 'train_pipeline.2.scale', ['train_dataloader.dataset.pipeline.2.scale']),
        (
            SEGMENTOR,
            'test_pipeline.1.scale',
            [f'{split}_dataloader.dataset.pipeline.1.scale' for split in ('val', 'test')],
        ),
        (
            DETECTOR,
            'data_root',
            [f'{split}_dataloader.dataset.data_root' for split in ('train', 'val', 'test')],
        ),
    ],
)
@pytest.mark.parametrize('demo', [False, True])
def test_a_variable_of_the_file_points_to_what_is_read(
    config: str,
    option: str,
    places: list[str],
    demo: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr('vitbackbones.launch.demo.ensure', lambda _: None)
    with pytest.raises(UserError) as raised:
        load_config(config, {option: 0.5}, demo=demo)
    assert str(raised.value) == (
        f'--cfg-options {option}: nothing reads {option.split(".")[0]!r}; it is a variable of the '
        f'config file; its value is at {", ".join(places)}'
    )


@pytest.mark.parametrize(
    ('value', 'places'),
    [
        (False, 'model.3.flag'),
        (None, 'model.3.flag'),
        (1, 'model.3.flag'),
        ('text', 'model.0.other, model.1.other, model.2.other'),
    ],
)
def test_the_places_that_are_named_are_few_and_have_to_do_with_it(
    value: Any, places: str, tmp_path: Path
) -> None:
    own = f'flag = {value!r}\nmodel = [dict(other=flag)] * 3 + [dict(flag=flag)]\n'
    (tmp_path / 'own.py').write_text(own)
    with pytest.raises(UserError) as raised:
        load_config(str(tmp_path / 'own.py'), {'flag': 4})
    assert str(raised.value).endswith(f'its value is at {places}')


@pytest.mark.parametrize('width', ['2 * half', 'half'])
def test_a_variable_that_stands_nowhere_is_said_to(width: str, tmp_path: Path) -> None:
    (tmp_path / 'own.py').write_text(f'half = 3\nmodel = dict(width={width})\n')
    with pytest.raises(UserError, match=r"'half'; .* its value is nowhere under that name"):
        load_config(str(tmp_path / 'own.py'), {'half': 4})


@pytest.mark.parametrize(
    ('old', 'new', 'expected'),
    [
        ((8, 8), [4, 6], (4, 6)),
        ([(8, 8), (9, 9)], [[4, 6]], [(4, 6)]),
        ([(8, 8)], [(4, 6), [5, 5]], [(4, 6), (5, 5)]),
        (((1, 2),), [[3, 4]], ((3, 4),)),
        ([8, 8], [4, 6], [4, 6]),
        (8, [4, 6], [4, 6]),
        ((8, 8), 4, 4),
    ],
)
def test_a_list_in_the_place_of_a_tuple_becomes_one(
    old: Any, new: Any, expected: Any, tmp_path: Path
) -> None:
    (tmp_path / 'own.py').write_text(f'model = dict(steps=[dict(size={old!r})])\n')
    cfg = load_config(str(tmp_path / 'own.py'), {'model.steps.0.size': new})
    found = cfg.model.steps[0].size
    assert (type(found), found) == (type(expected), expected)


def test_a_crop_size_is_written_as_a_list(tmp_path: Path) -> None:
    key = 'train_dataloader.dataset.pipeline.3.crop_size'
    cfg = load_config(SEGMENTOR, {key: [64, 64]})
    assert cfg.train_dataloader.dataset.pipeline[3].crop_size == (64, 64)  # mmseg asserts a tuple


# ------------------------------------------------------------------------ what mmpretrain's have


def test_an_empty_test_cfg_is_there() -> None:
    require(Config(dict(test_cfg=dict())), 'test_cfg')
    with pytest.raises(UserError, match=r'the config has no test_cfg'):
        require(Config(dict(test_cfg=None)), 'test_cfg')


@pytest.fixture
def folder_dataset() -> Any:
    """A dataset, as mmpretrain's, that takes one folder for all of its files."""

    @DATASETS.register_module('FolderDataset')
    class FolderDataset(BaseDataset):
        pass

    yield FolderDataset
    DATASETS.module_dict.pop('FolderDataset')


def with_data(root: Path) -> Config:
    dataset = dict(type='FolderDataset', data_root=str(root), data_prefix='images')
    loader = dict(dataset=dataset)
    return Config(dict(model=dict(type='M'), train_dataloader=loader, default_scope='mmengine'))


def test_one_folder_for_everything_is_looked_for(folder_dataset: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'the train dataset is not there: .*/images missing'):
        check_config(with_data(tmp_path), ('train',))
    (tmp_path / 'images').mkdir()
    check_config(with_data(tmp_path), ('train',))


def test_hooks_and_wrappers_given_as_classes_are_recognised() -> None:
    hooks = [dict(type=DurableHook), dict(type='vitbackbones.engine.preflight.PreflightHook')]
    model = dict(backbone=dict(type='SepViT'))
    cfg = Config(dict(model=model, custom_hooks=hooks, optim_wrapper=dict(type=OptimWrapper)))
    add_hooks(cfg)
    assert [type_name(hook) for hook in cfg.custom_hooks] == [
        'DurableHook',
        'PreflightHook',
        'NonFiniteHook',
        'ZeroLossHook',
    ]
    use_amp(cfg)
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'


def test_a_loss_given_as_a_class_is_recognised() -> None:
    head = dict(num_classes=1, loss_decode=dict(type=CrossEntropyLoss))
    assert [found.kind for found in of_heads(dict(decode_head=head), '')] == [
        'softmax over one class'
    ]


@pytest.mark.parametrize('demo', [False, True])
@pytest.mark.parametrize('config', [DETECTOR, 'vitbackbones::detection/shvit_retinanet.py'])
def test_a_file_with_weights_may_be_named_where_there_is_none(
    config: str, demo: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cfg = load_config(config, {'model.backbone.init_cfg.checkpoint': 'my.pth'}, demo=demo)
    assert cfg.model.backbone.init_cfg == dict(type='Pretrained', checkpoint='my.pth')


@pytest.mark.parametrize(
    ('config', 'options', 'said'),
    [
        (SEGMENTOR, {'max_epochs': 3}, 'max_epochs=3: this training counts iterations, set '),
        (
            DETECTOR,
            {'max_iters': 9},
            'max_iters=9: this training counts epochs, set train_cfg.max_e',
        ),
        (DETECTOR, {'type': 'IterBasedTrainLoop', 'max_iters': 9}, None),
        (SEGMENTOR, {'type': 'EpochBasedTrainLoop', 'max_epochs': 3}, None),
    ],
)
def test_the_length_of_training_is_given_in_what_it_counts(
    config: str, options: dict[str, Any], said: str | None
) -> None:
    given = {f'train_cfg.{key}': value for key, value in options.items()}
    if said is None:
        train_cfg = load_config(config, given).train_cfg
        assert {key: train_cfg[key] for key in options} == options
        return
    with pytest.raises(UserError) as caught:
        load_config(config, given)
    assert said in str(caught.value)


def test_the_demo_counts_iterations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r'counts iterations, set train_cfg\.max_iters'):
        load_config(DETECTOR, {'train_cfg.max_epochs': 2}, demo=True)
