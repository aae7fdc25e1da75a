"""That a pixel's label stands for the same class in every split, checkpoint and drawing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from mmseg.datasets import BaseSegDataset
from PIL import Image

from vitbackbones.cli.main import main
from vitbackbones.data.loading import order_problem
from vitbackbones.errors import UserError
from vitbackbones.launch.checks import check_config
from vitbackbones.launch.classes import use_one_order

NAMES = ('sky', 'sea', 'land')
COLOURS = {'sky': [0, 0, 255], 'sea': [0, 255, 255], 'land': [0, 255, 0]}
OTHER = ('land', 'sky', 'sea')


@DATASETS.register_module()
class Coasts(BaseSegDataset):
    """The pixels of its label maps are numbered as NAMES."""

    METAINFO: ClassVar = dict(classes=NAMES, palette=[COLOURS[name] for name in NAMES])


class Maps:
    """Images and label maps, in which the label of a row of pixels is its number modulo 3."""

    def __init__(self, root: Path) -> None:
        self.root = root
        rows = np.arange(48)[:, None] % 3 + np.zeros((1, 64))
        for folder in ('images', 'labels'):
            (root / folder).mkdir()
        for stem in 'ab':
            Image.new('RGB', (64, 48)).save(root / f'images/{stem}.jpg')
            Image.fromarray(rows.astype(np.uint8)).save(root / f'labels/{stem}.png')

    def dataset(self, kind: str = 'Coasts', **options: Any) -> dict[str, Any]:
        steps = ('LoadImageFromFile', 'LoadAnnotations', 'PackSegInputs')
        return dict(
            type=kind,
            data_root=str(self.root),
            data_prefix=dict(img_path='images', seg_map_path='labels'),
            pipeline=[dict(type=step) for step in steps],
            **options,
        )

    def config(self, train: dict[str, Any], val: dict[str, Any]) -> Config:
        return Config(
            dict(
                model=dict(type='Model'),
                train_dataloader=dict(dataset=train),
                val_dataloader=dict(dataset=val),
                train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=1),
                optim_wrapper=dict(optimizer=dict(type='AdamW')),
                default_scope='mmseg',
            )
        )


@pytest.fixture
def maps(tmp_path: Path) -> Maps:
    return Maps(tmp_path)


def labels(dataset: dict[str, Any]) -> tuple[list[str], list[Any]]:
    """The classes of the first three rows of pixels, and their colours."""
    built = DATASETS.build(dataset)
    rows = built[0]['data_samples'].gt_sem_seg.data[0, :3, 0].tolist()
    meta = built.metainfo
    assert meta['classes'] == tuple(meta['classes'])
    return [meta['classes'][i] for i in rows], [list(meta['palette'][i]) for i in rows]


AS_THEY_ARE = (list(NAMES), [COLOURS[name] for name in NAMES])


@pytest.mark.parametrize('trained', [None, OTHER], ids=['training', 'checkpoint'])
def test_labels_colours_and_names_follow_what_was_trained(trained: Any, maps: Maps) -> None:
    cfg = maps.config(maps.dataset(metainfo=dict(classes=OTHER)), maps.dataset())
    init_default_scope('mmseg')
    use_one_order(cfg, ('train', 'val') if trained is None else ('val',), trained)
    val = cfg.val_dataloader.dataset
    assert tuple(val.metainfo.classes) == OTHER
    assert labels(val) == AS_THEY_ARE


def test_classes_in_another_order_keep_their_colours(maps: Maps) -> None:
    cfg = maps.config(maps.dataset(metainfo=dict(classes=OTHER)), maps.dataset())
    init_default_scope('mmseg')
    use_one_order(cfg, ('train',))
    assert labels(cfg.train_dataloader.dataset) == AS_THEY_ARE


def test_label_maps_whose_numbers_have_no_names_cannot_be_reordered(maps: Maps) -> None:
    palette = [COLOURS[name] for name in NAMES]
    own = maps.dataset('BaseSegDataset', metainfo=dict(classes=NAMES, palette=palette))
    other = maps.dataset('BaseSegDataset', metainfo=dict(classes=OTHER, palette=palette))
    init_default_scope('mmseg')
    with pytest.raises(UserError) as raised:
        use_one_order(maps.config(own, other), ('train', 'val'))
    said = str(raised.value)
    assert '(land, sky, sea)' in said
    assert '(sky, sea, land)' in said


def test_classes_of_ones_own_need_a_dataset_of_any_classes(maps: Maps) -> None:
    cfg = maps.config(maps.dataset(metainfo=dict(classes=('sky', 'wood'))), maps.dataset())
    with pytest.raises(UserError, match=r"Coasts has no class wood, .* set type='BaseSegDataset'"):
        check_config(cfg, ('train',))


def test_one_option_of_dataset_and_loading_has_one_value(maps: Maps) -> None:
    data = maps.dataset(reduce_zero_label=True)
    check_config(maps.config(data, data), ('train',))
    data['pipeline'][1]['reduce_zero_label'] = False
    message = 'LoadAnnotations has reduce_zero_label=False, its Coasts True: set both to'
    with pytest.raises(UserError, match=message):
        check_config(maps.config(data, data), ('train',))


def test_other_names_of_the_same_labels_are_said(
    maps: Maps, capsys: pytest.CaptureFixture[str]
) -> None:
    renamed = maps.dataset('BaseSegDataset', metainfo=dict(classes=('sky', 'ocean', 'land')))
    use_one_order(maps.config(maps.dataset(), renamed), ('train', 'val'))
    assert 'taken for other names of the same' in capsys.readouterr().err


@pytest.mark.parametrize('classes', [('Land', 'sky', 'sea'), ('the_land', 'SEA', 'sky-')])
def test_other_spellings_in_another_order_are_refused(
    classes: tuple[str, ...], maps: Maps, capsys: pytest.CaptureFixture[str]
) -> None:
    own = maps.dataset(metainfo=dict(classes=('sky', 'sea', classes[0].lower().replace('_', ' '))))
    own['type'] = 'BaseSegDataset'
    other = maps.dataset('BaseSegDataset', metainfo=dict(classes=classes))
    with pytest.raises(UserError, match='the same in another order, but not written alike'):
        use_one_order(maps.config(own, other), ('train', 'val'))
    (said,) = order_problem(classes, own['metainfo']['classes'], whose='the checkpoint')
    assert 'in another order' in said
    upper = maps.dataset('BaseSegDataset', metainfo=dict(classes=('SKY', 'Sea', 'land')))
    use_one_order(maps.config(maps.dataset(), upper), ('train', 'val'))
    assert 'taken for other names of the same' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('options', 'parts'),
    [
        (dict(img_suffix='.jpeg'), ("'.jpeg', its img_suffix", 'a.jpg')),
        (dict(seg_map_suffix='_labels.png'), ('a_labels.png', 'seg_map_suffix', 'it has a.png')),
    ],
    ids=['images', 'label maps'],
)
def test_a_wrong_suffix_is_named_with_what_the_folder_has(
    options: dict[str, Any], parts: tuple[str, ...], maps: Maps, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = maps.config(maps.dataset('BaseSegDataset', metainfo=dict(classes=NAMES), **options), {})
    cfg.val_dataloader = None
    config = maps.root / 'config.py'
    config.write_text(cfg.pretty_text)
    assert main(['check-data', str(config)]) == 1
    found = capsys.readouterr().out
    assert main(['train', str(config), '--work-dir', str(maps.root / 'work')]) == 2
    said = capsys.readouterr().err
    assert said.count('\n') == 1
    assert all(part in found and part in said for part in parts)
