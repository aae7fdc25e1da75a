"""The metafiles: what OpenMIM reads, and docs/model_zoo.md, which is made of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mmengine.config import Config

from vitbackbones.backbones.base import Backbone
from vitbackbones.launch.loading import load_config
from vitbackbones.metafiles import (
    classifier_of,
    published_weights,
    read_index,
    start_of,
    task_of,
    weights_of,
)
from vitbackbones.model_zoo import HOSTS, METRICS, page
from vitbackbones.pretrained import list_backbones

ROOT = Path(__file__).parents[1]
COLLECTIONS, ENTRIES = read_index(ROOT / 'model-index.yml')
BACKBONES = [entry for entry in ENTRIES if task_of(entry) == '_base_']
WHOLE_MODELS = [entry for entry in ENTRIES if task_of(entry) != '_base_']
# One entry for each config; others are of other weights for the same.
CONFIGS = {Path(entry['Config']).stem: entry for entry in reversed(WHOLE_MODELS)}
WEIGHTS = ('Weights', 'Weights Page')
RESULTS = {
    'box AP': ('Object Detection', 'COCO'),
    'mask AP': ('Instance Segmentation', 'COCO'),
    'mIoU': ('Semantic Segmentation', 'ADE20K'),
    'Top 1 Accuracy': ('Image Classification', 'ImageNet-1K'),
}
entries = pytest.mark.parametrize('entry', ENTRIES, ids=lambda entry: entry['Name'])
configs = pytest.mark.parametrize('entry', CONFIGS.values(), ids=CONFIGS)


def shipped(pattern: str) -> set[str]:
    paths = (path.relative_to(ROOT) for path in ROOT.glob(pattern))
    return {path.as_posix() for path in paths if '_base_' not in path.parts[2:-1]}


def test_the_page_is_what_the_metafiles_say() -> None:
    text = (ROOT / 'docs/model_zoo.md').read_text(encoding='utf-8')
    assert text == page(COLLECTIONS, ENTRIES), 'python tools/model_zoo.py > docs/model_zoo.md'


def test_the_page_says_which_row_pretrained_takes() -> None:
    text = page(COLLECTIONS, ENTRIES).partition('## Weights from ImageNet')[2]
    rows = [line.split(' | ') for line in text.partition('## Licences')[0].splitlines()]
    said = {row[0].strip('| ').partition('[')[0]: row[5] for row in rows if len(row) > 5}
    for variant in list_backbones():
        for word, row in (('without', start_of(variant)), ('with', classifier_of(variant))):
            if row is not None:
                assert said[row.name] in ('yes', f'{word} `num_classes`')
    taken = {row.name for v in list_backbones() for row in (start_of(v), classifier_of(v)) if row}
    assert {name for name, word in said.items() if word[0] in 'yw'} == taken


def test_every_whole_model_is_listed_and_exists() -> None:
    folders = ('detection/**/*', 'segmentation/**/*', 'classification/*_in1k')
    leaves = [shipped(f'configs/{pattern}.py') for pattern in folders]
    assert {entry['Config'] for entry in WHOLE_MODELS} == set().union(*leaves)


def test_every_backbone_is_listed_and_exists() -> None:
    assert {entry['Config'] for entry in BACKBONES} == shipped('configs/_base_/backbones/*.py')
    names = {Path(entry['Config']).stem.replace('-', '_', 1) for entry in BACKBONES}
    assert names == {*list_backbones()}


def test_names_are_unique_and_as_openmim_spells_them() -> None:
    names = [entry['Name'] for entry in ENTRIES]
    assert len({*names}) == len(names)
    assert [name for name in names if name != name.lower() or ' ' in name] == []


@entries
def test_names_begin_with_that_of_the_config(entry) -> None:
    assert entry['Name'].startswith(Path(entry['Config']).stem)


@entries
def test_entries_have_the_fields_that_are_read(entry) -> None:
    required = {'Name', 'In Collection', 'Config', 'Metadata'}
    optional = {'Results', 'Measured', 'Weights', 'SHA-256', 'Weights Page', 'Source', 'Note'}
    assert required <= entry.keys() <= required | optional
    assert entry['In Collection'] in {family['Name'] for family in COLLECTIONS}


@entries
def test_published_figures_have_a_source_and_are_of_a_known_kind(entry) -> None:
    assert ('Results' in entry) == ('Source' in entry)
    for result in entry.get('Results', ()):
        ((metric, value),) = result['Metrics'].items()
        assert (result['Task'], result['Dataset']) == RESULTS[metric]
        assert 0 < value < 100


@entries
def test_weights_that_programs_can_fetch_are_apart_from_pages(entry) -> None:
    assert 'drive.google.com' not in entry.get('Weights', '')
    for key in WEIGHTS:
        assert key not in entry or entry[key].split('/')[2] in HOSTS


@configs
@pytest.mark.usefixtures('mmpretrain')
def test_backbone_and_schedule_are_those_of_the_config(entry) -> None:
    cfg = load_config(str(ROOT / entry['Config']))
    known, train = entry['Metadata'], cfg.train_cfg
    cls = cfg.model.backbone.type.removeprefix('vitbackbones.').removesuffix('Classifier').lower()
    assert known['Backbone'] == f'{cls}-{cfg.model.backbone.arch}'
    length = {key: known[key] for key in ('Epochs', 'Iterations') if key in known}
    assert length == (
        {'Epochs': train.max_epochs} if 'max_epochs' in train else {'Iterations': train.max_iters}
    )
    accumulated = cfg.optim_wrapper.get('accumulative_counts', 1)
    assert known['Batch Size'] == cfg.auto_scale_lr.base_batch_size * accumulated


@configs
def test_the_config_states_the_same_figures(entry) -> None:
    lines = (ROOT / entry['Config']).read_text(encoding='utf-8').splitlines()
    comment = ' '.join(line[2:] for line in lines if line.startswith('# '))
    for result in entry.get('Results', ()):
        ((metric, value),) = result['Metrics'].items()
        words = comment.lower().replace('mean iou', 'miou').replace('top-1', 'top 1')
        assert f'{metric} {value}'.lower() in words
    assert ('Results' in entry) != ('No published figure' in comment)


@pytest.mark.parametrize('entry', BACKBONES, ids=lambda entry: entry['Name'])
def test_backbones_start_from_weights_that_are_listed(entry) -> None:
    init_cfg = Config.fromfile(ROOT / entry['Config']).backbone.get('init_cfg')
    same = [other for other in BACKBONES if other['Config'] == entry['Config']]
    address = next((other['Weights'] for other in same if 'Weights' in other), None)
    assert init_cfg == (dict(type='Pretrained', checkpoint='published') if address else None)
    start = start_of(Path(entry['Config']).stem.replace('-', '_', 1))
    assert address == (start.address if start else None)


def test_all_weights_of_a_variant_are_listed_in_the_order_of_the_page() -> None:
    names = [weights.name for weights in weights_of('gcvit_large')]
    assert names == [
        f'gcvit-large{kind}' for kind in ('_in21k-384', '', '_in21k-224', '_in21k-512')
    ]
    first, second, third, _ = weights_of('gcvit_large')
    assert first.licence == 'CC BY-NC-SA 4.0'
    assert first.purpose.startswith('classifier, trained on ImageNet-21K, then ImageNet-1K, ')
    assert second.purpose == 'classifier, trained on ImageNet-1K, images of 224 x 224'
    assert third.address is None
    assert third.page is not None
    assert weights_of('sepvit_tiny') == weights_of('resnet_50') == ()


@pytest.mark.parametrize('entry', BACKBONES, ids=lambda entry: entry['Name'])
def test_digests_are_whole_ones_of_files_with_an_address(entry) -> None:
    if 'SHA-256' in entry:
        assert re.fullmatch('[0-9a-f]{64}', entry['SHA-256'])
        assert 'Weights' in entry


def test_addresses_that_messages_give_are_listed() -> None:
    listed = {entry.get(key, '').removesuffix('/view') for entry in BACKBONES for key in WEIGHTS}
    for name in Backbone.registered():
        assert {*(published_weights(name) or {}).values()} <= listed


@pytest.mark.parametrize('family', COLLECTIONS, ids=lambda family: family['Name'])
def test_licences_are_those_the_classes_warn_of(family) -> None:
    (cls,) = [cls for cls in Backbone.registered().values() if cls.family == family['Name']]
    licence = family['Metadata']['Weights License']
    assert ('NC' in licence) == (cls.checkpoint_names.licence is not None)
    assert cls.checkpoint_names.licence is None or cls.checkpoint_names.licence.startswith(licence)


def test_figures_measured_here_stand_apart_from_published_ones() -> None:
    entry = {
        **CONFIGS['shvit_mask_rcnn'],
        'Measured': [
            {'Metrics': {'box AP': 38.7}},
            {'Metrics': {'mask AP': 35.8}},
        ],
    }
    text = page(COLLECTIONS, [entry])
    assert '| 38.7 / 35.8 |' in text
    for metric in METRICS['detection']:
        value = next(r['Metrics'][metric] for r in entry['Results'] if metric in r['Metrics'])
        assert f'| [{value}]({entry["Source"]}) |' in text
