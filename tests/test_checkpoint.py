"""Reading, recognising and loading weight files."""

from __future__ import annotations

import argparse
import functools
import hashlib
import http.server
import inspect
import os
import pickle
import re
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.hooks import EMAHook
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel, BaseModule
from mmengine.runner import Runner
from torch import Tensor, nn

import vitbackbones
from tests.checkpoint_files import (
    COUNTS,
    FAMILIES,
    OUTSIDE,
    Published,
    State,
    detector,
    published,
    resized_table,
    save,
    to_timm,
    wrap,
)
from tests.small import SMALL, stem_weight
from vitbackbones import load_pretrained
from vitbackbones.backbones.base import Backbone
from vitbackbones.checkpoint import (
    CheckpointError,
    LoadReport,
    read_checkpoint,
    register_safe_globals,
)
from vitbackbones.checkpoint import report as reporting
from vitbackbones.checkpoint.names import LOADING_OPTIONS
from vitbackbones.cli import convert
from vitbackbones.errors import UserError
from vitbackbones.launch.training import starting_point

LARGE = 60e6  # parameters
SMALLEST = {
    'casvit': 'xs',
    'gcvit': 'xxtiny',
    'sepvit': 'lite',
    'shvit': 's1',
    'supervit': 'deit_s',
}
every_family = pytest.mark.parametrize('family', sorted(FAMILIES))


def by_size(case: Published) -> Any:
    marks = [pytest.mark.large] if case.manifest['params'] > LARGE else []
    return pytest.param(case, id=str(case), marks=marks)


def small(family: str, **options: Any) -> Backbone:
    cls = FAMILIES[family]
    return cls(SMALL[cls.__name__], **options)


def snapshot(network: nn.Module) -> State:
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(network: nn.Module, state: State) -> bool:
    now = network.state_dict()
    return now.keys() == state.keys() and all(torch.equal(now[name], state[name]) for name in now)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(
        reporting, 'print_log', lambda line, logger: lines.append(f'{logger}: {line}')
    )
    return lines


# ----------------------------------------------------------------------------- published files


def test_all_manifests_are_covered() -> None:
    assert len(published()) == 53
    assert {str(case) for case in published()} == set(COUNTS)
    assert set(SMALLEST) == set(FAMILIES)


def on_meta(case: Published, checkpoint: str) -> Backbone:
    init_cfg = {'type': 'Pretrained', 'checkpoint': checkpoint}
    with torch.device('meta'):
        return case.cls(case.arch, **case.options, init_cfg=init_cfg)


@pytest.mark.filterwarnings('ignore:.* copying from a non-meta parameter')
@pytest.mark.parametrize('case', published(), ids=str)
def test_every_tensor_of_a_published_file_is_accounted_for(
    case: Published, tmp_path: Path, reports: list[LoadReport]
) -> None:
    """Names and shapes alone: neither the file nor the network has values."""
    state = case.zeros()
    net = on_meta(case, save(wrap(case, state), tmp_path / 'published.pth.tar'))
    net.init_weights()
    (report,) = reports
    counts = [report.loaded, report.dropped, report.initialised, report.adapted]
    assert tuple(map(len, counts)) == COUNTS[str(case)]

    ours = set(net.state_dict())
    dropped = set(report.dropped) - set(OUTSIDE)
    assert report.total == len(report.loaded)
    assert set(report.loaded) == ours - set(report.initialised) == set(state) - dropped
    head = r'(norm|(dist_|aux_)?head)\.|.*\.(relative_position_index|win_tokens)$'
    assert all(re.match(head, name) for name in dropped)
    if case.kind == 'det':
        assert report.initialised == ()
    elif case.compat:
        assert set(report.initialised) == set(case.compat['missing'])
        assert dropped >= set(case.compat['unexpected']) & set(state)
        # The published dense SepViT holds a norm and a head as well, and never uses them.
        unused = dropped - {*case.compat['unexpected'], *case.compat['mismatched']}
        assert len(report.loaded) + len(unused) == case.compat['common']
    elif case.family == 'supervit':
        assert {name.partition('.')[0] for name in report.initialised} == {'pyramid'}
    else:  # SepViT lite, whose dense variant has the depths of tiny
        tiny = Published('sepvit', 'tiny', 'cls').compat
        assert set(report.initialised) == set(tiny['missing'])


@pytest.mark.parametrize('case', map(by_size, published()))
def test_the_values_of_a_published_file_arrive_and_no_others_change(
    case: Published, tmp_path: Path, reports: list[LoadReport]
) -> None:
    state = case.zeros() | case.filled()
    net = on_meta(case, save(wrap(case, state), tmp_path / 'published.pth.tar'))
    net.to_empty(device='cpu')
    for value in net.state_dict().values():
        value.fill_(-7)
    net.init_weights()
    (report,) = reports
    for name, value in net.state_dict().items():
        if name in report.initialised:
            assert value.eq(-7).all(), name
        elif name in report.adapted:
            window_size = net.window_size[int(name.split('.')[1])]
            torch.testing.assert_close(value, resized_table(state[name], window_size))
        else:
            assert torch.equal(value, state[name].reshape(value.shape)), name


@pytest.mark.parametrize('family', ['gcvit', 'shvit'])
def test_timm_weights_equal_the_official_ones(family: str, tmp_path: Path) -> None:
    case = Published(family, SMALLEST[family], 'cls')
    state = case.filled()
    nets = [case.cls(case.arch) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    load_pretrained(nets[0], save(wrap(case, state), tmp_path / 'official.pth'))
    report = load_pretrained(nets[1], save(to_timm(family, state), tmp_path / 'timm.pth'))
    assert same(nets[1], nets[0].state_dict())
    assert report.description == f'timm {case.cls.family} {case.arch} classifier'
    assert {name.partition('.')[0] for name in report.dropped} <= {'head', 'stages'}


def test_the_log_says_in_one_line_what_was_done(tmp_path: Path, log: list[str]) -> None:
    case = Published('gcvit', 'xxtiny', 'cls')
    path = save(wrap(case, case.zeros()), tmp_path / 'gcvit.pth.tar')
    load_pretrained(case.cls('xxtiny'), path)
    assert log[0] == (
        'current: loaded 222/222 tensors (official GC ViT xxtiny classifier); dropped 16 '
        '(relative_position_index, norm, head); initialised 8 (norm0, norm1, norm2, norm3); '
        f'adapted 12 (relative_position_bias_table); from {path}'
    )


def test_a_non_commercial_licence_is_said_once(tmp_path: Path, log: list[str]) -> None:
    reporting.log_licence.cache_clear()
    for family in ('gcvit', 'gcvit', 'shvit'):
        net = small(family)
        load_pretrained(net, save(net.state_dict(), tmp_path / 'own.pth'))
    licences = [line for line in log if 'licensed' in line]
    assert len(licences) == 1
    assert 'GC ViT' in licences[0]
    assert 'CC BY-NC-SA 4.0' in licences[0]


# --------------------------------------------------------------------------- dialects and wraps


@every_family
def test_backbones_declare_what_loading_needs(family: str) -> None:
    net = small(family, in_channels=5)
    assert net.family
    assert net.state_dict()[stem_weight(net)].shape[1] == 5


def test_init_cfg_takes_the_options_of_load_pretrained() -> None:
    parameters = inspect.signature(load_pretrained).parameters.values()
    named = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    assert named == list(LOADING_OPTIONS)
    options = dict.fromkeys(named, None)
    net = small('shvit', init_cfg={'type': 'Pretrained', 'checkpoint': 'x.pth', **options})
    assert net.init_cfg.keys() == {'type', 'checkpoint', *named}


@every_family
def test_weights_of_our_own_come_back(family: str, tmp_path: Path) -> None:
    net, other = small(family), small(family)
    report = load_pretrained(other, save(net.state_dict(), tmp_path / 'own.pth'))
    assert same(other, net.state_dict())
    assert (report.dropped, report.initialised) == ({}, ())
    assert report.description == f'{net.family} (custom arch) backbone'


def test_a_head_tells_a_classifier_that_lacks_nothing_from_a_backbone(tmp_path: Path) -> None:
    net = small('supervit', out_indices=(3,))
    state = net.state_dict()
    for extra, kind in (({}, 'backbone'), ({'head.weight': torch.ones(5, 16)}, 'classifier')):
        report = load_pretrained(net, save({**state, **extra}, tmp_path / 'file.pth'))
        assert report.initialised == ()
        assert report.description.endswith(kind)


@every_family
def test_the_backbone_of_a_detector_is_found(family: str, tmp_path: Path) -> None:
    net, other = small(family), small(family)
    report = load_pretrained(other, save(detector(net.state_dict()), tmp_path / 'detector.pth'))
    assert same(other, net.state_dict())
    assert set(report.dropped.values()) == {'neck', 'bbox_head'}
    assert 'in a detector or segmentor' in str(report)


@every_family
def test_later_stages_and_unused_outputs_are_dropped(family: str, tmp_path: Path) -> None:
    net, part = small(family), small(family, out_indices=(1,))
    report = load_pretrained(part, save(net.state_dict(), tmp_path / 'own.pth'))
    want = net.state_dict()
    assert same(part, {name: want[name] for name in part.state_dict()})
    assert report.initialised == ()
    assert len(report.dropped) == len(want) - len(part.state_dict())


@pytest.mark.parametrize('outputs', [(1,), (0, 2)])
@every_family
def test_files_with_some_of_the_outputs_serve_backbones_with_fewer(
    family: str, outputs: tuple[int, ...], tmp_path: Path
) -> None:
    net, part = (small(family, out_indices=chosen) for chosen in ((0, 1, 2), outputs))
    load_pretrained(part, save(net.state_dict(), tmp_path / 'own.pth'))
    want = net.state_dict()
    assert same(part, {name: want[name] for name in part.state_dict()})


def test_plain_vit_blocks_after_the_last_tap_are_dropped(tmp_path: Path) -> None:
    net = small('supervit')
    part = small('supervit', out_indices=(1, 2), taps=(0, 2))
    report = load_pretrained(part, save(net.state_dict(), tmp_path / 'own.pth'))
    want = net.state_dict()
    assert same(part, {name: want[name] for name in part.state_dict()})
    assert {name.rpartition('.')[0] for name in report.dropped} > {'pyramid.0.0', 'blocks.3.norm1'}
    assert set(report.dropped.values()) == {'stages and outputs not built'}


def test_a_detector_may_lack_nothing(tmp_path: Path) -> None:
    net = small('gcvit')
    state = {k: v for k, v in net.state_dict().items() if not k.startswith('norm')}
    load_pretrained(net, save(state, tmp_path / 'classifier.pth'))
    with pytest.raises(CheckpointError, match=r'Missing in the file: 8 \(norm0.weight'):
        load_pretrained(net, save(detector(state), tmp_path / 'detector.pth'))


def test_a_larger_model_may_lack_nothing_wherever_the_backbone_is(tmp_path: Path) -> None:
    net = small('gcvit')
    state = {k: v for k, v in net.state_dict().items() if not k.startswith('norm')}
    state = {f'student.backbone.{key}': value for key, value in state.items()}
    path = save(state, tmp_path / 'student.pth')
    with pytest.raises(CheckpointError, match=r'Missing in the file: 8 \(norm0.weight'):
        load_pretrained(net, path, prefix='student.backbone')


def test_output_norms_are_missing_together_or_not_at_all(tmp_path: Path) -> None:
    net = small('gcvit')
    state = {k: v for k, v in net.state_dict().items() if not k.startswith('norm0')}
    with pytest.raises(CheckpointError, match=r'Missing in the file: 2 \(norm0.weight, norm0.bias'):
        load_pretrained(net, save(state, tmp_path / 'partial.pth'))


def test_prefix_says_where_the_backbone_is(tmp_path: Path, reports: list[LoadReport]) -> None:
    net, other = small('shvit'), small('shvit')
    state = {f'encoder.body.{name}': value for name, value in net.state_dict().items()}
    path = save({'state_dict': {**state, **OUTSIDE}}, tmp_path / 'model.pth')
    for prefix in ('encoder.body', 'encoder.body.'):
        # As mmengine's own Pretrained initialiser is configured.
        other.init_cfg = dict(type='Pretrained', checkpoint=path, prefix=prefix, map_location='cpu')
        other.init_weights()
        assert same(other, net.state_dict())
    assert len(reports) == 2
    with pytest.raises(CheckpointError, match=r"nothing under 'wrong\.', only encoder, neck"):
        load_pretrained(other, path, prefix='wrong')


@pytest.mark.parametrize('prefix', ['', 'module.'])
@pytest.mark.parametrize('holder', [None, 'state_dict', 'model', 'model_ema', 'state_dict_ema'])
def test_every_wrapping_is_recognised(holder: str | None, prefix: str, tmp_path: Path) -> None:
    net, other = small('shvit'), small('shvit')
    state = {prefix + name: value for name, value in net.state_dict().items()}
    content = {holder: state, 'epoch': 3} if holder else state
    load_pretrained(other, save(content, tmp_path / 'file.pth'))
    assert same(other, net.state_dict())


def test_names_that_only_partly_begin_with_module_stay(tmp_path: Path) -> None:
    net = small('shvit')
    first, *_ = state = net.state_dict()
    state[f'module.{first}'] = state[first] + 1
    message = misfit(net, state, tmp_path)
    assert f'Only in the file: 1 (module.{first}).' in message


@pytest.mark.parametrize(
    ('keys', 'weights', 'taken'),
    [
        (('model', 'model_ema'), 'auto', 'model'),
        (('model', 'model_ema'), 'plain', 'model'),
        (('model', 'model_ema'), 'ema', 'model_ema'),
        (('state_dict', 'state_dict_ema'), 'auto', 'state_dict'),
        (('state_dict', 'state_dict_ema'), 'ema', 'state_dict_ema'),
        (('state_dict', 'state_dict_ema'), 'measured', 'state_dict_ema'),
        (('model', 'model_ema'), 'measured', 'model'),
        (('state_dict', 'ema_state_dict'), 'measured', 'state_dict'),
        # mmengine's EMAHook swaps the two when it saves.
        (('state_dict', 'ema_state_dict'), 'auto', 'state_dict'),
        (('state_dict', 'ema_state_dict'), 'ema', 'state_dict'),
        (('state_dict', 'ema_state_dict'), 'plain', 'ema_state_dict'),
    ],
)
def test_plain_and_averaged_weights_are_told_apart(
    keys: tuple[str, str], weights: str, taken: str, tmp_path: Path
) -> None:
    nets = {key: small('shvit') for key in keys}
    other = small('shvit')
    path = save({key: nets[key].state_dict() for key in keys}, tmp_path / 'file.pth')
    report = load_pretrained(other, path, weights=weights)
    assert same(other, nets[taken].state_dict())
    (left,) = set(keys) - {taken}
    assert f'took {taken!r}, not {left!r}' in str(report)


def test_averaged_weights_that_are_not_there_are_an_error(tmp_path: Path) -> None:
    net = small('shvit')
    path = save({'model': net.state_dict(), 'epoch': 1}, tmp_path / 'file.pth')
    with pytest.raises(CheckpointError, match=r'no averaged weights .* only model, epoch'):
        load_pretrained(net, path, weights='ema')
    with pytest.raises(ValueError, match="'auto', 'plain', 'ema' or 'measured'"):
        load_pretrained(net, path, weights='best')


def test_safetensors_files_load(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    net, other = small('sepvit'), small('sepvit')
    save_file(net.state_dict(), tmp_path / 'own.safetensors')
    load_pretrained(other, tmp_path / 'own.safetensors')
    assert same(other, net.state_dict())


@pytest.mark.parametrize('location', ['meta', torch.device('meta'), {'cpu': 'meta'}])
def test_safetensors_files_go_where_map_location_says(location: Any, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({'a': torch.ones(1)}, tmp_path / 'own.safetensors')
    assert read_checkpoint(tmp_path / 'own.safetensors', map_location=location)['a'].is_meta
    save({'a': torch.ones(1)}, tmp_path / 'own.pth')
    assert read_checkpoint(tmp_path / 'own.pth', map_location=location)['a'].is_meta


@pytest.mark.parametrize('location', [None, {'cuda:0': 'meta'}])
def test_safetensors_files_are_read_into_memory_otherwise(location: Any, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({'a': torch.ones(1)}, tmp_path / 'own.safetensors')
    content = read_checkpoint(tmp_path / 'own.safetensors', map_location=location)
    assert content['a'].device.type == 'cpu'


def test_safetensors_without_the_package_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import save_file

    save_file({'a': torch.ones(1)}, tmp_path / 'own.safetensors')
    monkeypatch.setitem(sys.modules, 'safetensors', None)
    with pytest.raises(CheckpointError, match='pip install safetensors'):
        read_checkpoint(tmp_path / 'own.safetensors')


# --------------------------------------------------------------------------------- adaptations


@pytest.mark.parametrize('channels', [1, 2, 4, 6, 7])
@every_family
def test_rgb_stems_answer_a_constant_image_alike(
    family: str, channels: int, tmp_path: Path
) -> None:
    rgb, other = small(family), small(family, in_channels=channels)
    report = load_pretrained(other, save(rgb.state_dict(), tmp_path / 'rgb.pth'))
    weight, adapted = (net.state_dict()[stem_weight(net)] for net in (rgb, other))
    torch.testing.assert_close(adapted.sum(1), weight.sum(1))
    if channels == 6:
        torch.testing.assert_close(adapted, weight.repeat(1, 2, 1, 1) / 2)
    assert f'adapted 1 ({stem_weight(rgb)} from RGB to {channels} channels)' in str(report)


def test_other_stems_are_not_adapted(tmp_path: Path) -> None:
    net = small('shvit')
    path = save(small('shvit', in_channels=4).state_dict(), tmp_path / 'four.pth')
    before = snapshot(net)
    with pytest.raises(CheckpointError, match='another number of in_channels'):
        load_pretrained(net, path)
    assert same(net, before)
    assert 'adapted' not in str(load_pretrained(small('shvit', in_channels=4), path))


def test_linear_weights_become_convolutions_of_size_one(tmp_path: Path) -> None:
    net, other = small('shvit'), small('shvit')
    state = {k: v.squeeze() if v.shape[2:] == (1, 1) else v for k, v in net.state_dict().items()}
    load_pretrained(other, save(state, tmp_path / 'linear.pth'))
    assert same(other, net.state_dict())


def test_window_tokens_of_the_classifier_become_their_mean(tmp_path: Path) -> None:
    case = Published('sepvit', 'lite', 'cls')
    state = case.filled()
    path = save(wrap(case, state), tmp_path / 'lite.pth')
    net = case.cls('lite', window_token='learnable')
    report = load_pretrained(net, path)
    token = net.state_dict()['blocks.1.0.win_token']
    torch.testing.assert_close(token, state['blocks.1.0.win_tokens'].mean((0, 1, 2)))
    assert not any('win_token' in name for name in report.dropped)
    single = [name for name in report.initialised if name.endswith('win_token')]
    assert single == [f'blocks.{b}.win_token' for b in ('2.1', '2.3', '2.5', '3.0', '3.1')]


def test_files_of_old_torch_versions_have_no_batch_counters(tmp_path: Path) -> None:
    net = small('casvit')
    state = {k: v for k, v in net.state_dict().items() if not k.endswith('num_batches_tracked')}
    report = load_pretrained(net, save(state, tmp_path / 'old.pth'))
    assert len(report.loaded) == len(state) < report.total


def test_batch_counters_are_loaded_and_half_precision_is_widened(tmp_path: Path) -> None:
    net, other = small('casvit'), small('casvit')
    state = {k: v.half() if v.is_floating_point() else v + 7 for k, v in net.state_dict().items()}
    load_pretrained(other, save(state, tmp_path / 'half.pth'))
    assert same(other, {k: v.float() if v.is_floating_point() else v for k, v in state.items()})


# --------------------------------------------------------------------------- what does not fit


def misfit(net: Backbone, state: Any, tmp_path: Path) -> str:
    """The message; and nothing may have changed."""
    before = snapshot(net)
    with pytest.raises(CheckpointError) as error:
        load_pretrained(net, save(state, tmp_path / 'misfit.pth'))
    assert same(net, before)
    return str(error.value)


@pytest.mark.parametrize(
    ('given', 'wanted'),
    [
        (Published('shvit', 's2', 'cls'), 's1'),
        (Published('casvit', 's', 'det'), 'xs'),
        (Published('gcvit', 'xtiny', 'cls'), 'xxtiny'),
        (Published('sepvit', 'small', 'cls'), 'tiny'),  # holds all that tiny needs, and more
        (Published('supervit', 'lvvit_s', 'cls'), 'deit_s'),
    ],
    ids=lambda value: str(value),
)
def test_another_variant_is_refused_by_name(given: Published, wanted: str, tmp_path: Path) -> None:
    message = misfit(given.cls(wanted), wrap(given, given.zeros()), tmp_path)
    assert f'does not fit {given.cls.family} {wanted}' in message
    assert f'The file fits arch={given.arch!r}: set that' in message
    assert re.search(r'Only in the file: \d+ \(.*\)|Of another shape: \d+ \(.* for .*\)', message)


@pytest.mark.parametrize(
    ('given', 'wanted', 'out_indices'),
    [
        (Published('shvit', 's2', 'cls'), 's1', (0,)),
        (Published('shvit', 's2', 'det'), 's1', (0,)),
        (Published('sepvit', 'tiny', 'det'), 'small', (0, 1)),
        (Published('gcvit', 'tiny2', 'cls'), 'tiny', (1,)),
    ],
    ids=lambda value: str(value),
)
def test_another_variant_is_refused_where_the_stages_that_are_built_are_equal(
    given: Published, wanted: str, out_indices: tuple[int, ...], tmp_path: Path
) -> None:
    net = given.cls(wanted, out_indices=out_indices)
    message = misfit(net, wrap(given, given.zeros()), tmp_path)
    assert f'does not fit {given.cls.family} {wanted}' in message
    assert f'The file fits arch={given.arch!r}: set that' in message


@every_family
def test_another_family_is_refused_by_name(family: str, tmp_path: Path) -> None:
    given = Published('casvit' if family == 'shvit' else 'shvit', '', '')
    given = Published(given.family, SMALLEST[given.family], 'cls')
    message = misfit(small(family), wrap(given, given.zeros()), tmp_path)
    assert 'Missing in the file: ' in message
    assert 'Only in the file: ' in message
    assert f'The file fits type={given.cls.__name__!r}, arch={given.arch!r}' in message


def test_a_missing_a_foreign_and_a_wrongly_shaped_tensor_are_named(tmp_path: Path) -> None:
    net = small('sepvit')
    state = dict(net.state_dict())
    del state['blocks.1.0.attn.proj.weight']
    state['blocks.1.0.attn.relative.weight'] = torch.ones(3)
    state['norm_list.0.bias'] = torch.ones(5)
    message = misfit(net, state, tmp_path)
    assert 'Missing in the file: 1 (blocks.1.0.attn.proj.weight).' in message
    assert 'Only in the file: 1 (blocks.1.0.attn.relative.weight).' in message
    assert 'Of another shape: 1 (norm_list.0.bias (5,) for (8,)).' in message
    assert 'fits no variant of any registered backbone' in message


@pytest.mark.parametrize('shape', [(), (5,), (0, 1), (10, 1), (25, 2), (25, 1, 1)])
def test_a_position_table_that_cannot_be_resized_is_refused(shape: Any, tmp_path: Path) -> None:
    net = small('gcvit')
    name = 'levels.0.blocks.0.attn.relative_position_bias_table'
    message = misfit(net, {**net.state_dict(), name: torch.ones(shape)}, tmp_path)
    assert f'Of another shape: 1 ({name} {shape} for (2209, 1))' in message


def unusual(value: Tensor, kind: str) -> Tensor:
    if kind == 'quantized':
        return torch.quantize_per_tensor(value, 0.1, 0, torch.qint8)
    return {'sparse': value.to_sparse(), 'without values': value.to('meta')}[kind]


@pytest.mark.filterwarnings('ignore:torch.quantize_per', 'ignore:TypedStorage')
@pytest.mark.parametrize('kind', ['sparse', 'without values', 'quantized'])
def test_tensors_that_are_no_plain_arrays_are_refused(kind: str, tmp_path: Path) -> None:
    net = small('shvit')
    state = {name: value + 1 for name, value in net.state_dict().items()}
    name = [name for name in state if name.endswith('c.weight')][-1]
    state[name] = unusual(state[name], kind)
    message = misfit(net, state, tmp_path)
    assert re.search(rf'tensors that are {kind}.*: 1 \({name}\); save them as plain arr', message)


def test_tensors_that_cannot_be_converted_are_refused(tmp_path: Path) -> None:
    net = small('shvit')
    state = {name: value + 1 for name, value in net.state_dict().items()}
    name = [name for name in state if name.endswith('c.weight')][-1]
    packed = torch.zeros(state[name].shape, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    assert name in misfit(net, {**state, name: packed}, tmp_path)


def test_a_model_around_the_backbone_initialises_it(tmp_path: Path) -> None:
    class Detector(BaseModule):
        def __init__(self, backbone: Backbone) -> None:
            super().__init__()
            self.backbone = backbone

    net = small('gcvit')
    path = save(net.state_dict(), tmp_path / 'own.pth')
    model = Detector(small('gcvit', init_cfg=dict(type='Pretrained', checkpoint=path)))
    model.init_weights()
    assert same(model.backbone, net.state_dict())


def test_a_failure_says_so_through_init_cfg(tmp_path: Path) -> None:
    net = small('shvit', init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'none.pth')))
    before = snapshot(net)
    with pytest.raises(CheckpointError, match=r'none.pth cannot be opened \(No such file'):
        net.init_weights()
    assert same(net, before)


@pytest.mark.parametrize(
    'init_cfg',
    [
        {},
        dict(type='Kaiming'),
        dict(checkpoint='w.pth'),
        dict(type='Pretrained'),
        dict(type='Pretrained', checkpoint=None),
        dict(type='Pretrained', checkpoint=''),
        dict(type='Pretrained', checkpoint='w.pth', strict=True),
        [dict(type='Pretrained', checkpoint='w.pth')],
        'w.pth',
    ],
    ids=str,
)
def test_slips_in_init_cfg_are_answered_with_its_form(init_cfg: Any) -> None:
    pattern = (
        r"SHViT: init_cfg must be None or dict\(type='Pretrained', checkpoint=PATH_OR_URL\).*"
        rf'prefix.*got {re.escape(str(init_cfg))}'
    )
    with pytest.raises(ValueError, match=pattern):
        small('shvit', init_cfg=init_cfg)
    net = small('shvit')
    net.init_cfg = init_cfg
    with pytest.raises(ValueError, match=pattern):
        net.init_weights()


# ----------------------------------------------------------------------------- unreadable files


class RunsCode:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f'touch {self.marker}',)


def bad_file(kind: str, folder: Path) -> tuple[Path, str]:
    """A path and a pattern of what is said about it."""
    path = folder / f'{kind}.pth'
    save({'model': {'a': torch.ones(64, 64)}}, folder / 'whole.pth')
    whole = (folder / 'whole.pth').read_bytes()
    if kind == 'missing':
        return path, 'cannot be opened .*; give the path'
    if kind == 'directory':
        path.mkdir()
        return path, 'cannot be opened .*; give the path'
    if kind == 'config':
        path = folder / 'model.py'
        path.write_text('model = {}\n')
        return path, 'is a config file: the weights .* are wanted'
    if kind == 'script':
        torch.jit.script(nn.Linear(2, 2)).save(path)
        return path, r'is a TorchScript archive: save its state_dict\(\)'
    if kind in ('tar', 'tar as pickle', 'tar as zip'):  # the name of a member begins the file
        start = {'tar': 'sys_info', 'tar as pickle': '\udc80', 'tar as zip': 'PK\x03\x04'}[kind]
        with tarfile.open(path, 'w', format=tarfile.GNU_FORMAT) as archive:
            archive.addfile(tarfile.TarInfo(start))
        return path, 'is a tar archive, .*save the state_dict'
    if kind == 'safetensors':
        path = folder / 'cut.safetensors'
        path.write_bytes((100).to_bytes(8, 'little') + b'{"a":')
        return path, 'truncated or damaged: copy or download it again'
    contents: dict[str, tuple[bytes, str]] = {
        'empty': (b'', 'is empty; copy or download'),
        'truncated': (whole[: len(whole) // 2], 'truncated, damaged .* download it again'),
        'page': (b'\n<!DOCTYPE html>\n<title>Sign in</title>', 'web page .* save the file'),
        'pointer': (b'version https://git-lfs.github.com/spec/v1\n', 'git lfs pull'),
        'noise': (bytes(range(1, 200)), 'neither a torch file nor a safetensors file'),
        'pickle': (pickle.dumps({'a': np.ones(3)}), 'cannot be read safely'),
    }
    if kind in contents:
        path.write_bytes(contents[kind][0])
        return path, contents[kind][1]
    objects: dict[str, tuple[Any, str]] = {
        'nothing': ({}, 'no weights, only an empty dict; it has to be'),
        'numbers': ({'model': {'a': 1.0}, 'epoch': 3}, 'no weights, only model, epoch; it has to'),
        'list': ([torch.ones(2)], 'holds a list instead of a dict .*save the state_dict'),
        'module': (nn.Linear(2, 2), r'would call torch.nn.modules.linear.Linear, .*allow_pickle'),
        'code': (
            {'model': {'a': torch.ones(2)}, 'x': RunsCode(folder / 'marker')},
            r'would call (posix|nt).system, .*allow_pickle',
        ),
    }
    save(objects[kind][0], path)
    return path, objects[kind][1]


BAD = (
    *('missing', 'directory', 'config', 'safetensors', 'empty', 'truncated', 'page', 'pointer'),
    *('noise', 'pickle', 'nothing', 'numbers', 'list', 'module', 'code'),
    *('script', 'tar', 'tar as pickle', 'tar as zip'),
)


@pytest.mark.filterwarnings('ignore:Detected pickle protocol')
@pytest.mark.parametrize('kind', BAD)
def test_unreadable_files_say_what_they_are_and_what_to_do(kind: str, tmp_path: Path) -> None:
    path, pattern = bad_file(kind, tmp_path)
    net = small('shvit')
    before = snapshot(net)
    with pytest.raises(CheckpointError, match=f'^{re.escape(str(path))} .*{pattern}'):
        load_pretrained(net, path)
    assert same(net, before)
    assert not (tmp_path / 'marker').exists()


@pytest.mark.parametrize('kind', ['script', 'tar as pickle', 'tar as zip'])
def test_trust_does_not_make_an_archive_a_checkpoint(kind: str, tmp_path: Path) -> None:
    path, pattern = bad_file(kind, tmp_path)
    with pytest.raises(CheckpointError, match=pattern):
        read_checkpoint(path, allow_pickle=True)


@pytest.mark.parametrize('path', ['a\0b.pth', '~no_such_user/w.pth'])
def test_paths_that_cannot_be_are_refused(path: str) -> None:
    with pytest.raises(CheckpointError, match=r'cannot be opened .*; give the path'):
        read_checkpoint(path)


def test_a_lack_of_memory_is_not_blamed_on_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*args: Any, **options: Any) -> Any:
        raise MemoryError

    path = save({'a': torch.ones(1)}, tmp_path / 'plain.pth')
    monkeypatch.setattr(torch, 'load', exhausted)
    with pytest.raises(MemoryError):
        read_checkpoint(path)


def test_code_runs_only_when_that_is_asked_for(tmp_path: Path) -> None:
    path, _ = bad_file('code', tmp_path)
    content = read_checkpoint(path, allow_pickle=True)
    assert torch.equal(content['model']['a'], torch.ones(2))
    assert (tmp_path / 'marker').exists()


def test_a_known_digest_is_verified(tmp_path: Path) -> None:
    path = Path(save({'a': torch.ones(1)}, tmp_path / 'plain.pth'))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for known in (digest, digest.upper(), digest[:8]):
        assert read_checkpoint(path, sha256=known)
    with pytest.raises(CheckpointError, match=f'SHA-256 {digest} instead of {"0" * 64}'):
        read_checkpoint(path, sha256='0' * 64)


@pytest.mark.parametrize(
    ('suffix', 'known'), [('d1d8600a', True), ('20240131', False), ('deadbeefs', False)]
)
def test_digits_in_the_name_are_a_digest_unless_they_may_be_a_date(
    suffix: str, known: bool, tmp_path: Path
) -> None:
    path = Path(save({'a': torch.ones(1)}, tmp_path / f'gcvit-{suffix}.pth'))
    if known:
        with pytest.raises(CheckpointError, match=f'instead of {suffix}'):
            read_checkpoint(path)
    else:
        assert read_checkpoint(path)


# ------------------------------------------------------------------------------------ addresses


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server of ``tmp_path / 'www'``; the cache is in ``tmp_path``, too."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    (tmp_path / 'www').mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None: ...

    handler = functools.partial(Quiet, directory=str(tmp_path / 'www'))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        yield f'http://127.0.0.1:{httpd.server_port}'
        httpd.shutdown()
        thread.join()


def test_an_address_is_downloaded_once(server: str, tmp_path: Path) -> None:
    net, other = small('shvit'), small('shvit')
    path = Path(save(net.state_dict(), tmp_path / 'www' / 'own.pth'))
    load_pretrained(other, f'{server}/own.pth')
    assert same(other, net.state_dict())
    path.unlink()
    load_pretrained(other, f'{server}/own.pth')


def test_training_starts_from_the_very_file_that_was_read(server: str, tmp_path: Path) -> None:
    path = Path(save({'state_dict': {'a': torch.ones(1)}}, tmp_path / 'www' / 'start.pth'))
    cfg = Config(dict(load_from=f'{server}/start.pth'))
    assert starting_point(cfg, None)['state_dict']['a'] == 1
    save({'state_dict': {'a': torch.zeros(1)}}, path)
    assert torch.load(cfg.load_from, weights_only=True)['state_dict']['a'] == 1


def test_addresses_that_differ_in_the_query_are_different_files(
    server: str, tmp_path: Path
) -> None:
    for value in (1.0, 2.0):
        save({'a': torch.tensor(value)}, tmp_path / 'www' / 'uc')
        assert read_checkpoint(f'{server}/uc?id={value}')['a'] == value


def test_files_of_the_same_name_at_different_addresses_are_different_files(
    server: str, tmp_path: Path
) -> None:
    for folder, value in (('a', 1.0), ('b', 2.0), ('a', 1.0)):
        (tmp_path / 'www' / folder).mkdir(exist_ok=True)
        save({'a': torch.tensor(value)}, tmp_path / 'www' / folder / 'model.pth')
        assert read_checkpoint(f'{server}/{folder}/model.pth')['a'] == value


def test_a_download_with_another_digest_is_not_kept(server: str, tmp_path: Path) -> None:
    save({'a': torch.ones(1)}, tmp_path / 'www' / 'gcvit-d1d8600a.pth')
    with pytest.raises(
        CheckpointError, match=r'SHA-256 is .* instead of d1d8600a.*give the local path'
    ):
        read_checkpoint(f'{server}/gcvit-d1d8600a.pth')
    assert not any((tmp_path / 'home').rglob('*.pth'))


def test_a_page_behind_an_address_says_where_it_is_kept(server: str, tmp_path: Path) -> None:
    (tmp_path / 'www' / 'view').write_text('<html>')
    with pytest.raises(CheckpointError, match=r'kept as .*view; delete that .* web page'):
        read_checkpoint(f'{server}/view')


def test_an_unreachable_address_says_how_to_go_on(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    net = small('shvit', init_cfg=dict(type='Pretrained', checkpoint='http://127.0.0.1:9/w.pth'))
    before = snapshot(net)
    with pytest.raises(
        CheckpointError, match=r'127.0.0.1:9/w.pth .*local path .*from scratch with init_cfg=None'
    ):
        net.init_weights()
    assert same(net, before)


@pytest.mark.parametrize(
    ('url', 'said'),
    [
        ('http://[x', 'is no address'),
        ('http://a..b/w.pth', 'cannot be downloaded'),
        ('http://127.0.0.1:9/ü.pth', 'cannot be downloaded'),
    ],
)
def test_malformed_addresses_are_refused(url: str, said: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    net = small('shvit')
    before = snapshot(net)
    with pytest.raises(CheckpointError, match=rf'{re.escape(url)}\S* {said}'):
        load_pretrained(net, url)
    assert same(net, before)


# -------------------------------------------------------------------------- what files may hold


def test_everything_on_the_list_comes_back(tmp_path: Path) -> None:
    buffer = HistoryBuffer([1.0, 3.0], [1, 1])
    content = {
        'a': torch.ones(1),
        'args': argparse.Namespace(lr=0.1, sizes=[1, 2]),
        'scalars': [np.float64(2.5), np.float32(1.5), np.int64(3), np.bool_(True)],
        'arrays': [
            np.arange(3),
            np.eye(2, dtype=np.float16),
            np.ones(2, dtype=bool),
            np.arange(3, dtype='>f4'),
            np.eye(3, 2, dtype=complex).T,
            np.empty(0),
        ],
        'cfg': ConfigDict(model=dict(type='SepViT', depths=(1, 2))),
        'buffer': buffer,
    }
    path = Path(save(content, tmp_path / 'new.pth', _use_new_zipfile_serialization=False))
    old = tmp_path / 'old.pth'
    # Arrays pickled by the other major version of numpy name its functions differently.
    names = [b'numpy._core', b'numpy.core']
    if names[0] not in path.read_bytes():
        names.reverse()
    old.write_bytes(path.read_bytes().replace(*names))
    assert old.read_bytes() != path.read_bytes()
    for file in (path, old):
        read = read_checkpoint(file)
        assert read['args'] == content['args']
        assert read['scalars'] == content['scalars']
        assert isinstance(read['scalars'][0], np.float64)
        for one, other in zip(read['arrays'], content['arrays'], strict=True):
            assert isinstance(one, np.ndarray)
            assert one.dtype == other.dtype.newbyteorder('=')
            np.testing.assert_array_equal(one, other)
        assert read['cfg'] == content['cfg']
        assert isinstance(read['cfg'].model, ConfigDict)
        assert read['buffer'].statistics('mean') == 2


def test_arrays_that_were_read_are_saved_as_any_other(tmp_path: Path) -> None:
    arrays = [np.arange(3), np.arange(4, dtype='>f4')[::2], np.array(1j)]
    path = save({'a': torch.ones(1), 'arrays': arrays}, tmp_path / 'arrays.pth')
    for protocol in (2, 5):
        read = pickle.loads(pickle.dumps(read_checkpoint(path)['arrays'], protocol))
        for one, other in zip(read, arrays, strict=True):
            assert type(one) is np.ndarray
            assert one.dtype == other.dtype.newbyteorder('=')
            np.testing.assert_array_equal(one, other)


class Call:
    """Pickled as a call of ``function``, and ``state`` given to its result."""

    def __init__(self, function: Any, *args: Any, state: Any = None) -> None:
        self.call = (function, args, state)

    def __reduce__(self) -> Any:
        return self.call


RECONSTRUCT, SCALAR = np.ones(1).__reduce__()[0], np.float64(1).__reduce__()[0]
FORGED_STATE = (3, '<', None, ('f',), {'f': (np.dtype('i4'), 1 << 40)}, -1, -1, 1)
FORGED = Call(np.dtype, 'f8', False, True, state=FORGED_STATE)


MEMORY = np.ones(1)
# What numpy takes for an array, wherever in memory it says it is.
ADDRESS = argparse.Namespace(__array_interface__=MEMORY.__array_interface__)


@pytest.mark.parametrize(
    'value',
    [
        Call(np.ndarray, (1,), Call(np.dtype, 'O'), bytes(8)),
        Call(np.ndarray, (1,)),
        Call(HistoryBuffer, [ADDRESS], [1]),
        Call(np.dtype, 'O'),
        Call(np.dtype, 'V8'),
        Call(np.dtype, 'f8,O'),
        Call(np.dtype, [('f', 'O')]),
        Call(np.dtype, 'M8[s]'),
        Call(RECONSTRUCT, argparse.Namespace, (0,), b'b'),
        Call(SCALAR, Call(np.dtype, 'O'), bytes(8)),
        Call(SCALAR, argparse.Namespace(str='O'), bytes(8)),
        Call(SCALAR, argparse.Namespace(str=FORGED), bytes(8)),
        Call(RECONSTRUCT, np.ndarray, (0,), b'b', state=(1, (1,), 'O', False, bytes(8))),
        Call(RECONSTRUCT, np.ndarray, (0,), b'b', state=(1, (9,), np.dtype('f8'), False, b'')),
        np.array([{}], dtype=object),
        np.zeros(1, dtype=[('f', 'O')]),
    ],
)
def test_no_array_but_one_of_numbers_is_made(value: object, tmp_path: Path) -> None:
    path = save({'a': torch.ones(1), 'x': value}, tmp_path / 'forged.pth')
    with pytest.raises(CheckpointError):
        read_checkpoint(path)


@pytest.mark.parametrize('dtype', [b'f', b'O'])
def test_arrays_are_made_without_elements(dtype: bytes, tmp_path: Path) -> None:
    array = Call(RECONSTRUCT, np.ndarray, (9,), dtype)
    content = read_checkpoint(save({'a': torch.ones(1), 'x': array}, tmp_path / 'forged.pth'))
    assert content['x'].size == 0


def test_a_forged_type_does_not_reach_an_array_or_scalar(tmp_path: Path) -> None:
    array = Call(RECONSTRUCT, np.ndarray, (0,), b'b', state=(1, (1,), FORGED, False, bytes(8)))
    content = {'a': torch.ones(1), 'x': [array, Call(SCALAR, FORGED, bytes(8))]}
    for value in read_checkpoint(save(content, tmp_path / 'forged.pth'))['x']:
        assert value == 0
        assert value.dtype.names is None
        assert not value.dtype.hasobject


def crafted(body: bytes, path: Path) -> Path:
    """A file in the format of torch < 1.6 around the opcodes of one pickle."""
    head = (torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION)
    parts = [pickle.dumps(value, 2) for value in (*head, {'little_endian': True})]
    content = b'}(' + part('a') + part(1) + part('x') + body + b'u'
    path.write_bytes(b''.join([*parts, b'\x80\x02', content, b'.', pickle.dumps([], 2)]))
    return path


def part(value: object) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def test_the_type_of_an_array_cannot_be_changed_afterwards(tmp_path: Path) -> None:
    state = b'(' + part(1) + part((1,)) + part(Call(np.dtype, 'f8', False, True)) + b'q\xc8'
    array = part(Call(RECONSTRUCT, np.ndarray, (0,), b'b')) + state + part(False)
    later = b'h\xc8' + part(FORGED_STATE) + b'b'
    body = b'(' + array + part(bytes(8)) + b'tb' + later + b't'
    content = torch.load(crafted(body, tmp_path / 'forged.pth'), weights_only=True)
    array, dtype = content['x']
    assert dtype.names == ('f',)
    assert array.dtype.names is None


NEW, BUILD = b'\x81', b'b'
STATE = {'_log_history': np.ones(1), '_count_history': np.ones(1), 'max_length': 9}


@pytest.mark.parametrize(
    ('body', 'pattern'),
    [
        (part(np.ndarray) + part((1,)) + NEW, 'GLOBAL numpy.ndarray was not allowed'),
        (part(HistoryBuffer) + b')' + NEW + part({**STATE, '_log_history': [1]}) + BUILD, 'arrays'),
    ],
)
def test_no_object_is_made_past_its_constructor(body: bytes, pattern: str, tmp_path: Path) -> None:
    with pytest.raises(pickle.UnpicklingError, match=pattern):
        torch.load(crafted(body, tmp_path / 'forged.pth'), weights_only=True)


def test_a_buffer_that_is_read_changes_no_other(tmp_path: Path) -> None:
    forged = {**STATE, 'statistics_methods': {'mean': HistoryBuffer.max}}
    body = part(HistoryBuffer) + b')' + NEW + part(forged) + BUILD
    buffer = torch.load(crafted(body, tmp_path / 'forged.pth'), weights_only=True)['x']
    assert type(buffer) is HistoryBuffer
    assert HistoryBuffer([1.0, 3.0], [1, 1]).statistics('mean') == 2


def test_the_memory_of_an_array_cannot_be_replaced_under_a_tensor(tmp_path: Path) -> None:
    body = part(np.ones(9)) + part((1, (0,), np.dtype('f8'), False, b'')) + b'b'
    path = crafted(body, tmp_path / 'forged.pth')
    with pytest.raises(pickle.UnpicklingError, match='a second time'):
        torch.load(path, weights_only=True)


@pytest.mark.parametrize(('owner', 'name'), [(np.ndarray, 'tofile'), (HistoryBuffer, '__init__')])
def test_getattr_reaches_nothing_but_the_statistics_of_a_buffer(
    owner: type, name: str, tmp_path: Path
) -> None:
    class Reach:
        def __reduce__(self) -> Any:
            return getattr, (owner, name)

    path = save({'a': torch.ones(1), 'x': Reach()}, tmp_path / 'reach.pth')
    with pytest.raises(CheckpointError, match='would call getattr'):
        read_checkpoint(path)


class Toy(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, inputs: Any, mode: str = 'tensor') -> Any:
        y = self.layer(torch.stack(inputs))
        return {'loss': (y**2).mean()} if mode == 'loss' else y


def toy_runner(folder: Path, iterations: int, **options: Any) -> Runner:
    return Runner(
        Toy(),
        str(folder),
        train_dataloader=dict(
            dataset=[{'inputs': torch.ones(2)}] * 4,
            batch_size=2,
            sampler=dict(type='DefaultSampler', shuffle=False),
        ),
        train_cfg=dict(by_epoch=False, max_iters=iterations),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.1)),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=1),
            dict(type='MultiStepLR', milestones=[2], by_epoch=False, begin=1),
        ],
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1),
            checkpoint=dict(type='CheckpointHook', interval=2, by_epoch=False),
        ),
        custom_hooks=[EMAHook()],
        experiment_name=f'{folder.name}-{iterations}',
        cfg=dict(note='toy'),
        **options,
    )


def test_mmengine_reads_the_checkpoints_of_its_own_runner(tmp_path: Path) -> None:
    runner = toy_runner(tmp_path, 2)
    runner.message_hub.update_info('best_score', np.float64(0.5))
    runner.message_hub.update_info('settings', ConfigDict(model=dict(type='Toy')))
    runner.train()
    path = tmp_path / 'iter_2.pth'
    torch.serialization.clear_safe_globals()
    with pytest.raises(pickle.UnpicklingError, match='GLOBAL'):
        torch.load(path, weights_only=True)
    register_safe_globals()
    content = torch.load(path, weights_only=True)
    losses = content['message_hub']['log_scalars']['train/loss']
    assert isinstance(losses, HistoryBuffer)
    assert len(losses.data[0]) == 2
    assert len(content['param_schedulers']) == 2
    assert content['message_hub']['runtime_info']['best_score'] == 0.5
    assert content['message_hub']['runtime_info']['settings'].model.type == 'Toy'

    runner = toy_runner(tmp_path, 4, load_from=str(path), resume=True)
    runner.train()
    assert runner.iter == 4
    assert read_checkpoint(tmp_path / 'iter_4.pth')['meta']['iter'] == 4


def test_importing_the_package_registers_the_list() -> None:
    names = {stand_in.__qualname__ for stand_in in torch.serialization.get_safe_globals()}
    assert names >= {'HistoryBuffer', 'ConfigDict', 'ndarray'}


def test_reading_goes_on_after_others_have_struck_types_off_the_list(tmp_path: Path) -> None:
    """As the fork of mmengine does each time that it has read a file."""
    content = {'state_dict': {'w': torch.ones(1)}, 'loss': HistoryBuffer([2.0], [1])}
    path = save(content, tmp_path / 'buffer.pth')
    torch.serialization.clear_safe_globals()
    assert read_checkpoint(path)['loss'].data[0].tolist() == [2.0]


# ----------------------------------------------------------------------------------- converting


def run_convert(*argv: object) -> None:
    parser = argparse.ArgumentParser()
    convert.add_arguments(parser)
    convert.run(parser.parse_args([str(arg) for arg in argv]))


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    net = small('sepvit')
    average = {name: value + 1 for name, value in net.state_dict().items()}
    content = {
        'model': {f'module.{name}': value for name, value in net.state_dict().items()},
        'model_ema': average,
        'optimizer': {'state': {0: torch.ones(1000)}},
        'args': argparse.Namespace(lr=1.0),
    }
    return Path(save(content, tmp_path / 'trained.pth'))


@pytest.mark.parametrize('name', ['out.safetensors', 'out.pth', 'out.weights'])
def test_converted_files_hold_the_weights_alone(name: str, trained: Path) -> None:
    out = trained.with_name(name)
    run_convert(trained, out, *(['--to', 'pth'] if name == 'out.weights' else []))
    content = read_checkpoint(out)
    state = content if name.endswith('safetensors') else content.pop('state_dict')
    want = read_checkpoint(trained)['model']
    assert state.keys() == {key.removeprefix('module.') for key in want}
    assert all(torch.equal(value, want[f'module.{key}']) for key, value in state.items())
    if not name.endswith('safetensors'):
        assert set(content) == {'meta'}
        assert all(isinstance(value, str) for value in content['meta'].values())
    load_pretrained(small('sepvit'), out)


def test_averaged_weights_can_be_extracted(trained: Path) -> None:
    out = trained.with_name('ema.safetensors')
    run_convert(trained, out, '--weights', 'ema')
    want = read_checkpoint(trained)['model_ema']
    assert all(torch.equal(value, want[key]) for key, value in read_checkpoint(out).items())


def test_tensors_that_share_memory_are_separated(tmp_path: Path) -> None:
    base = torch.arange(6.0)
    path = save({'a': base[:3], 'b': base[:3], 'c': base.view(2, 3).T}, tmp_path / 'shared.pth')
    run_convert(path, tmp_path / 'out.safetensors')
    assert torch.equal(read_checkpoint(tmp_path / 'out.safetensors')['c'], base.view(2, 3).T)


def test_an_existing_file_is_overwritten_only_by_force(trained: Path) -> None:
    out = trained.with_name('out.pth')
    out.write_text('precious')
    with pytest.raises(UserError, match=r'out.pth exists; overwrite it with --force'):
        run_convert(trained, out)
    assert out.read_text() == 'precious'
    run_convert(trained, out, '--force')
    assert read_checkpoint(out)
    run_convert(trained, trained, '--force')
    assert 'optimizer' not in read_checkpoint(trained)


@pytest.mark.parametrize(
    ('name', 'options', 'pattern'),
    [
        ('out.weights', (), 'say --to safetensors or --to pth'),
        ('out.pth', ('--to', 'safetensors'), 'contradicts the suffix'),
        ('gcvit-d1d8600a.pth', (), 'name another SHA-256'),
        ('nowhere/out.pth', (), 'cannot be written'),
        ('nowhere/out.safetensors', (), 'cannot be written'),
    ],
)
def test_outputs_that_cannot_be_are_the_users_errors(
    name: str, options: tuple[str, ...], pattern: str, trained: Path
) -> None:
    with pytest.raises(UserError, match=pattern):
        run_convert(trained, trained.with_name('x').parent / name, *options)
    assert [path.name for path in trained.parent.iterdir()] == ['trained.pth']


def test_refused_inputs_leave_no_output(tmp_path: Path) -> None:
    path, pattern = bad_file('code', tmp_path)
    with pytest.raises(CheckpointError, match=pattern):
        run_convert(path, tmp_path / 'out.pth')
    assert not (tmp_path / 'out.pth').exists()
    run_convert(path, tmp_path / 'out.pth', '--allow-pickle')
    assert set(read_checkpoint(tmp_path / 'out.pth')['state_dict']) == {'a'}


# -------------------------------------------------------------------------------------- by name


def test_the_package_itself_offers_what_its_guide_names(tmp_path: Path) -> None:
    net, other = small('shvit'), small('shvit')
    vitbackbones.load_pretrained(other, save(net.state_dict(), tmp_path / 'own.pth'))
    assert same(other, net.state_dict())
    with pytest.raises(vitbackbones.CheckpointError, match='cannot be opened'):
        vitbackbones.load_pretrained(other, tmp_path / 'none.pth')
    assert {'load_pretrained', 'CheckpointError'} <= set(vitbackbones.__all__)


def test_every_variant_has_a_name() -> None:
    names = vitbackbones.list_backbones()
    assert names == sorted(names)
    for family, cls in FAMILIES.items():
        assert {f'{family}_{arch}' for arch in cls.archs} <= set(names)
    assert len(names) == sum(len(cls.archs) for cls in FAMILIES.values())


def test_create_builds_the_named_variant_with_weights(tmp_path: Path) -> None:
    net = vitbackbones.create('shvit_s1', out_indices=(1, 2), in_channels=4)
    assert type(net) is FAMILIES['shvit']
    assert net.arch == net.archs['s1']
    assert net.out_strides == (32, 64)
    path = save(net.state_dict(), tmp_path / 'own.pth')
    other = vitbackbones.create('shvit_s1', path, out_indices=(1, 2), in_channels=4)
    assert same(other, net.state_dict())


@pytest.mark.parametrize(
    ('name', 'close'),
    [('gcvit_tyni', 'gcvit_tiny'), ('SHViT_S4', 'shvit_s4'), ('x', 'sepvit_lite')],
)
def test_unknown_names_are_answered_with_close_ones(name: str, close: str) -> None:
    with pytest.raises(ValueError, match=f'unknown backbone {name!r}, choose from .*{close}'):
        vitbackbones.create(name)
