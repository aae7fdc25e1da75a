"""Classifiers: from their weights to detectors, and the published ones from their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoint_files import FAMILIES, OUTSIDE, State, save
from tests.small import SMALL
from vitbackbones import CheckpointError, load_pretrained
from vitbackbones.backbones.base import Backbone

every_family = pytest.mark.parametrize('family', sorted(FAMILIES))


def small(family: str, **options: Any) -> Backbone:
    cls = FAMILIES[family]
    return cls(SMALL[cls.__name__], **options)


def with_last_output(family: str) -> Backbone:
    return small(family, out_indices=(len(FAMILIES[family].strides) - 1,))


def under(prefix: str, state: State) -> State:
    return {f'{prefix}.{name}': value for name, value in state.items()}


# --------------------------------------------------------------- from classifier to detector

# What a network has beside what it has with its last output alone.
FURTHER = {
    'casvit': {f'norm{i}' for i in (0, 2, 4)},
    'gcvit': {f'norm{i}' for i in (0, 1, 2)},
    'sepvit': set(),
    'shvit': set(),
    'supervit': {'pyramid'},
}
HEAD = {'head.fc.weight': torch.ones(3, 8), 'head.fc.bias': torch.ones(3)}


@every_family
def test_every_parameter_of_a_network_with_its_last_output_gets_a_gradient(family: str) -> None:
    net = with_last_output(family)
    net(torch.randn(2, 3, 64, 96))[-1].square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize('prefix', ['', 'backbone', 'student.backbone'])
@every_family
def test_a_network_with_all_outputs_starts_from_one_with_its_last(
    family: str, prefix: str, tmp_path: Path
) -> None:
    trained, net = with_last_output(family), small(family)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = trained.state_dict()
    if prefix:
        parent = prefix.rpartition('backbone')[0]
        state = under(prefix, state) | {f'{parent}{name}': value for name, value in HEAD.items()}
    path = save({'state_dict': state}, tmp_path / 'classifier.pth')
    report = load_pretrained(net, path, prefix=prefix or None)

    now, want = net.state_dict(), trained.state_dict()
    assert {*report.loaded} == {*want}
    assert {*report.loaded, *report.initialised} == {*now}
    for name, value in now.items():
        assert torch.equal(value, want[name] if name in want else before[name]), name
    assert {name.partition('.')[0] for name in report.initialised} == FURTHER[family]
    assert all(name in str(report) for name in FURTHER[family] - {'pyramid'})
    assert len(report.dropped) == (len(HEAD) if prefix else 0)
    assert 'detector' not in report.description
    assert report.description.endswith('classifier') == bool(prefix or FURTHER[family])


@every_family
def test_stages_that_are_not_built_are_dropped_from_a_classifier(
    family: str, tmp_path: Path
) -> None:
    trained, net = with_last_output(family), small(family, out_indices=(0, 1))
    path = save(under('backbone', trained.state_dict()) | HEAD, tmp_path / 'classifier.pth')
    report = load_pretrained(net, path)
    want = trained.state_dict()
    for name, value in net.state_dict().items():
        assert name in report.initialised or torch.equal(value, want[name]), name
    assert {*report.loaded} == {*want} & {*net.state_dict()}
    assert {name.partition('.')[0] for name in report.initialised} <= FURTHER[family]


def refused(net: Backbone, state: State, path: Path, **options: Any) -> str:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        load_pretrained(net, save(state, path), **options)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    return str(error.value)


def test_a_detector_with_one_output_may_lack_nothing(tmp_path: Path) -> None:
    state = under('backbone', with_last_output('casvit').state_dict()) | OUTSIDE
    message = refused(small('casvit'), state, tmp_path / 'detector.pth')
    assert 'Missing in the file: 12 (norm0.weight' in message


@pytest.mark.parametrize(
    ('family', 'lost', 'said'),
    [
        ('casvit', 'norm6.bias', 'Missing in the file: 13 '),
        ('gcvit', 'levels.3.blocks.0.mlp.fc2.', 'Missing in the file: 8 (levels.3.'),
    ],
)
def test_of_the_network_with_its_last_output_nothing_may_be_missing(
    family: str, lost: str, said: str, tmp_path: Path
) -> None:
    state = under('backbone', with_last_output(family).state_dict())
    left = {key: value for key, value in state.items() if not key.startswith(f'backbone.{lost}')}
    assert len(left) < len(state)
    assert said in refused(small(family), left | HEAD, tmp_path / 'cut.pth')


def test_a_classifier_of_another_variant_is_refused_by_name(tmp_path: Path) -> None:
    cls = FAMILIES['gcvit']
    with torch.device('meta'):
        shapes = cls('xtiny', out_indices=(3,)).state_dict()
    state = {name: torch.zeros((), dtype=v.dtype).expand(v.shape) for name, v in shapes.items()}
    message = refused(cls('xxtiny'), under('backbone', state) | HEAD, tmp_path / 'other.pth')
    assert "The file fits arch='xtiny': set that" in message
