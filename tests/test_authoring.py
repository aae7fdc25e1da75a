"""Configs that are written: a draft says what is different, and reads as it was meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from vitbackbones.authoring.draft import Draft
from vitbackbones.authoring.writing import plain, write_draft
from vitbackbones.errors import UserError

BASE = """
width = 64
model = dict(type='A', backbone=dict(type='B', depth=3, stages=(1, 2)), heads=[dict(type='H', n=8)])
lr = {1: 'a', 'lambda': 2}
load_from = 'there.pth'
steps = [8, 11]
"""


@pytest.fixture
def draft(tmp_path: Path) -> Draft:
    base = tmp_path / 'bases' / 'base.py'
    base.parent.mkdir()
    base.write_text(BASE)
    return Draft([str(base)])


def written(draft: Draft, path: Path, header: str = '') -> tuple[str, Config]:
    write_draft(draft, path, header)
    assert [p.name for p in path.parent.glob('*.py')] == [path.name]
    return path.read_text(), Config.fromfile(path)


def lines_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.lstrip().startswith('#')]


def test_only_what_is_different_is_written(draft: Draft, tmp_path: Path) -> None:
    draft.set('model.backbone.depth', 4)
    text, _ = written(draft, tmp_path / 'new.py')
    assert lines_of(text) == ["_base_ = 'bases/base.py'", 'model = dict(backbone=dict(depth=4))']


@pytest.mark.parametrize(
    ('place', 'value'),
    [
        ('model.backbone', dict(type='C')),  # keys are gone
        ('model.backbone', None),
        ('model.backbone.depth', dict(least=1)),  # a dict where there was none
        ('model.backbone.stages', [1, 2]),  # a list where there was a tuple
        ('model.backbone.stages', (3,)),
        ('model.heads.0.n', 9),  # lists are written whole
        ('model.neck.levels.first', 1e-5),  # nothing was there
        ('steps', []),
        ('lr', {1: 'b', 'lambda': 2}),
        ('lr', {2: 'a'}),
        ('added', {'a-b': (True, None, float('inf'))} | {str(i): 'x' * 30 for i in range(9)}),
        ('width', 'quo\'te "and" \\ newline\n'),
    ],
)
def test_it_reads_as_it_was_meant(draft: Draft, tmp_path: Path, place: str, value: Any) -> None:
    draft.set(place, value, 'Since it is so.')
    if isinstance(value, dict) and 'a-b' in value:  # read without a definition of inf
        value = draft.config.added['a-b'] = (True, None)
    text, read = written(draft, tmp_path / 'new.py')
    for key in draft.config:
        assert plain(read[key]) == plain(draft.config[key])
    assert '# Since it is so.' in text
    assert all(len(line) <= 100 for line in text.splitlines())


def test_a_list_that_became_longer_is_written_as_the_base_and_the_rest(
    draft: Draft, tmp_path: Path
) -> None:
    draft.set('steps', [8, 11, 14])
    text, _ = written(draft, tmp_path / 'new.py')
    assert lines_of(text)[1:] == ['steps = [*_base_.steps, 14]']


def test_what_is_dropped_at_the_top_is_none(draft: Draft, tmp_path: Path) -> None:
    draft.drop('load_from', 'It fits no more.')
    text, read = written(draft, tmp_path / 'new.py')
    assert read.load_from is None
    assert '# It fits no more.\nload_from = None' in text


def test_comments_stand_above_what_they_speak_of(draft: Draft, tmp_path: Path) -> None:
    draft.set('model.backbone.depth', 4, 'Deep, because ' + 'long words go on ' * 12)
    draft.set('model.heads.0.n', 9, 'Nine classes.')
    text, _ = written(draft, tmp_path / 'new.py', 'What this is.')
    lines = [line.strip() for line in text.splitlines()]
    assert lines[0] == '# What this is.'
    assert lines[lines.index('depth=4),') - 1].startswith('# ')
    (nine,) = (i for i, line in enumerate(lines) if line.startswith('n=9'))
    assert lines[nine - 1] == '# Nine classes.'


def test_lines_are_filled_and_brackets_close_behind_the_last_part(
    draft: Draft, tmp_path: Path
) -> None:
    draft.set('model.heads', [dict(type='H', **{f'k{i}': 'v' * 9 for i in range(9)}), {}])
    draft.set('steps', tuple(range(1000, 1030)), 'Many.')
    draft.set('model.backbone.depth', 5, 'Deep.')
    text, _ = written(draft, tmp_path / 'new.py')
    model, steps = (part.splitlines() for part in text.split('\n\n')[1:])
    assert model[:5] == [
        'model = dict(',
        '    backbone=dict(',
        '        # Deep.',
        '        depth=5),',
        '    heads=[',
    ]
    assert model[5].startswith("        dict(type='H', k0=")
    assert model[6].startswith("             k4='vvvvvvvvv',")
    assert model[-1] == '        dict()])'
    assert steps[1].startswith('steps = (1000, 1001, ')
    assert steps[2].startswith('         10')
    assert len(steps) == 3


def test_a_base_of_another_package_keeps_its_scope(tmp_path: Path) -> None:
    draft = Draft(['mmdet::_base_/models/retinanet_r50_fpn.py'])
    assert draft.config.model['_scope_'] == 'mmdet'
    draft.set('model.bbox_head.num_classes', 3)
    _, read = written(draft, tmp_path / 'new.py')
    assert read.model.bbox_head.num_classes == 3
    assert read.model['_scope_'] == 'mmdet'


@pytest.mark.parametrize(
    ('base', 'message'),
    [
        ('mmdet::none.py', r'there is no config file .*none\.py'),
        ('mmdet::retinanet/retinanet_r50_fpn_1x.py', 'did you mean retinanet/retinanet_'),
        ('none.py', r'there is no config file none\.py'),
        ('nobody::none.py', "there is no installed package 'nobody'"),
    ],
)
def test_a_base_that_is_not_there_is_one_sentence(base: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Draft([base])


@pytest.mark.parametrize(
    ('name', 'hint'),
    [
        ('a_detector_of_my_own', 'no other has its name'),
        ('solo_r50_fpn_1x_coco', r'inherit mmdet::solo/solo_r50_fpn_1x_coco\.py'),
        (
            'faster_rcnn_r50_fpn_1x_coco',
            r'inherit mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco\.py',
        ),
    ],
)
def test_a_base_that_imports_its_bases_is_refused_and_its_twin_named(
    tmp_path: Path, name: str, hint: str
) -> None:
    file = tmp_path / f'{name}.py'
    file.write_text('from mmengine.config import read_base\n\nwith read_base():\n    pass\n')
    with pytest.raises(UserError, match=f'with read_base.*cannot inherit; {hint}'):
        Draft([str(file)])


def test_a_folder_that_is_not_there_is_one_sentence(draft: Draft, tmp_path: Path) -> None:
    with pytest.raises(UserError, match='cannot be written'):
        write_draft(draft, tmp_path / 'none' / 'new.py')
