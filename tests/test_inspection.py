"""What `vitbackbones inspect` says of weight files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import vitbackbones
from tests.checkpoint_files import (
    COUNTS,
    FAMILIES,
    Published,
    detector,
    published,
    save,
    to_timm,
    wrap,
)
from tests.hub_server import hub_server
from tests.small import SMALL as ARCHS
from tests.test_checkpoint import RunsCode
from vitbackbones.checkpoint import CheckpointError
from vitbackbones.classifiers import build_classifier
from vitbackbones.cli.main import main
from vitbackbones.inspection import inspect

CASES = {str(case): case for case in published()}
SMALL = [
    *('casvit-xs-cls', 'casvit-xs-cls-nodist', 'casvit-xs-det', 'gcvit-xxtiny-cls'),
    *('gcvit-xxtiny-det', 'gcvit-xxtiny-det-w7', 'sepvit-lite-cls', 'sepvit-tiny-det'),
    *('shvit-s1-cls', 'shvit-s1-det', 'shvit-s2-cls', 'supervit-deit_s-cls'),
]


def file_of(case: Published, folder: Path) -> str:
    return save(wrap(case, case.zeros()), folder / f'{case}.pth')


@pytest.mark.parametrize('name', SMALL)
def test_published_files_are_recognised_as_loading_recognises_them(
    name: str, tmp_path: Path
) -> None:
    case = CASES[name]
    found = inspect(file_of(case, tmp_path))
    assert found.fit is not None
    assert found.fit.name == f'{case.family}_{case.arch}'
    assert found.fit.options == {}
    in_detector = case.kind == 'det' and case.family in ('casvit', 'shvit')
    dense = 'detector' if in_detector else 'dense backbone'
    assert found.kind == ('classifier' if case.kind == 'cls' else dense)
    assert found.num_classes == (1000 if case.kind == 'cls' else 1 if in_detector else None)
    assert found.fit.classifier == (case.kind == 'cls')
    report = found.fit.report
    counts = (report.loaded, report.dropped, report.initialised, report.adapted)
    if not case.suffix:
        assert tuple(map(len, counts)) == COUNTS[name]
    assert str(report).startswith(f'loaded {len(report.loaded)}/{report.total} tensors (')


def test_the_classifier_that_a_file_fits_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(['inspect', file_of(CASES['shvit-s1-cls'], tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "vitbackbones.create('shvit_s1', num_classes=1000, pretrained=FILE)" in said
    assert 'vitbackbones test vitbackbones::classification/shvit-s1_in1k.py FILE' in said
    own = save(vitbackbones.create('shvit_s1', num_classes=3).state_dict(), tmp_path / 'own.pth')
    assert main(['inspect', own]) == 0
    said = capsys.readouterr().out
    assert "vitbackbones.create('shvit_s1', num_classes=3, pretrained=FILE)" in said
    assert 'vitbackbones test CONFIG FILE, with the config of it' in said
    assert 'ImageNet' not in said
    assert 'loaded 464/464 tensors (SHViT s1 classifier); dropped 7 (head)' in said


def test_the_page_shows_what_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = CASES['shvit-s1-cls'].zeros()
    save({'model': state, 'model_ema': state, 'epoch': 299}, tmp_path / 'shvit_s1.pth')
    monkeypatch.chdir(tmp_path)
    assert main(['inspect', 'shvit_s1.pth']) == 0
    page = Path(__file__).parents[1].joinpath('docs/weights.md').read_text(encoding='utf-8')
    shown = page.partition('$ vitbackbones inspect shvit_s1.pth\n')[2].partition('```')[0]
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize('family', ['gcvit', 'shvit'])
def test_the_dialect_is_told(family: str, tmp_path: Path) -> None:
    case = CASES[{'gcvit': 'gcvit-xxtiny-cls', 'shvit': 'shvit-s1-cls'}[family]]
    found = inspect(save(to_timm(family, case.zeros()), tmp_path / 'timm.pth'))
    assert found.fit is not None
    assert found.fit.match.dialect == 'timm'
    assert (found.kind, found.num_classes, found.holder) == ('classifier', 1000, '')
    own = inspect(save(vitbackbones.create('shvit_s1').state_dict(), tmp_path / 'own.pth'))
    assert own.fit is not None
    assert (own.fit.match.dialect, own.kind) == ('', 'dense backbone')


@pytest.mark.parametrize(
    ('name', 'options'),
    [
        ('gcvit_xxtiny', dict(in_channels=4, out_indices=(1, 2, 3))),
        ('casvit_xs', dict(out_indices=(3,))),
        ('shvit_s1', dict(in_channels=1)),
    ],
)
def test_options_that_a_file_needs_are_named(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    path = save(vitbackbones.create(name, **options).state_dict(), tmp_path / 'own.pth')
    found = inspect(path)
    assert found.fit is not None
    assert (found.fit.name, found.fit.options) == (name, options)
    vitbackbones.create(name, pretrained=path, **found.fit.options)


# ----------------------------------------------------------------- classifiers trained here

OWN = [
    ('casvit_xs', {}),
    ('casvit_xs', {'dist_head': True}),
    ('gcvit_xxtiny', {}),
    ('sepvit_lite', {}),
    ('shvit_s1', {}),
    ('supervit_deit_s', {}),
    ('supervit_lvvit_s', {}),
]


@pytest.mark.parametrize('averaged', [False, True])
@pytest.mark.parametrize(('name', 'options'), OWN)
def test_classifiers_trained_here_are_told_with_all_that_takes_them(
    name: str,
    options: dict[str, Any],
    averaged: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As a runner saves them, with a moving average and without; names and shapes alone."""
    with torch.device('meta'):
        net = vitbackbones.create(name, num_classes=3, **options)
    state = {
        key: torch.zeros((), dtype=value.dtype).expand(value.shape)
        for key, value in net.state_dict().items()
    }
    content = {'state_dict': state, 'message_hub': {}, 'meta': {'epoch': 4, 'iter': 8}}
    content['meta']['dataset_meta'] = {'classes': ('a', 'b', 'c')}
    if averaged:
        under = {f'module.{key}': value for key, value in state.items()}
        content['ema_state_dict'] = {'steps': torch.tensor(8), **under}
    path = save(content, tmp_path / 'epoch_4.pth')
    assert main(['inspect', path]) == 0
    out, variant = capsys.readouterr().out, name.partition('_')[2]
    family = net.backbone.family
    count = f'{len(state)} tensors under our names'
    assert f'  what       {family} {variant} classifier, {count}\n' in out
    assert '  classes    3: a, b, c\n' in out
    words = 'averaged (EMA)' if averaged else 'plain'
    assert f'  weights    state_dict: {words}\n' in out
    assert ('  ema_state_dict: plain\n' in out) == averaged
    assert '  licence    the file does not say; ' in out
    # without options, for a detector's backbone has all outputs
    assert f"  loads into vitbackbones.create('{name}', pretrained=FILE)\n" in out
    assert f"vitbackbones.create('{name}', num_classes=3, pretrained=FILE)\n" in out
    assert f"dict(type='vitbackbones.{net.dense.__name__}', arch='{variant}', init_cfg=" in out
    assert '  as a whole ' not in out
    said = next(line for line in out.splitlines() if line.startswith('  it logs'))
    with torch.device('meta'):
        report = vitbackbones.load_pretrained(vitbackbones.create(name), path)
    assert said == f'  it logs    {report}'


@pytest.mark.parametrize('family', sorted(FAMILIES))
def test_of_an_arch_of_one_s_own_the_family_is_told(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cls = FAMILIES[family]
    net = build_classifier(cls, ARCHS[cls.__name__], num_classes=3)
    path = save({'state_dict': net.state_dict()}, tmp_path / 'own.pth')
    found = inspect(path)
    assert (found.fit, found.family) == (None, cls.family)
    assert (found.kind, found.num_classes) == ('classifier', 3)
    assert main(['inspect', path]) == 0
    out = capsys.readouterr().out
    assert f'  what       classifier with {cls.family} of no variant: ' in out
    assert '  as a whole vitbackbones test CONFIG FILE' in out
    assert 'loads into' not in out
    save({'state_dict': net.backbone.state_dict()}, Path(path))
    assert main(['inspect', path]) == 0
    out = capsys.readouterr().out
    assert f'{cls.family} of no variant: ' in out
    assert ('  as a whole ' in out) == (family == 'supervit')  # whose classifier is its network


# ---------------------------------------------------------------------------- whole models


def whole(beside: dict[str, tuple[int, ...]], **content: Any) -> dict[str, Any]:
    state = {f'backbone.{k}': v for k, v in vitbackbones.create('shvit_s1').state_dict().items()}
    heads = {name: torch.zeros(shape) for name, shape in beside.items()}
    return {'state_dict': {**state, **heads}, **content}


@pytest.mark.parametrize(
    ('beside', 'kind', 'classes'),
    [
        ({'neck.a.weight': (2, 2), 'bbox_head.retina_cls.weight': (9, 4, 3, 3)}, 'detector', None),
        ({'roi_head.bbox_head.fc_cls.weight': (81, 4)}, 'detector', 80),
        ({'roi_head.bbox_head.2.fc_cls.weight': (4, 4)}, 'detector', 3),
        ({'decode_head.conv_seg.weight': (150, 4, 1, 1)}, 'segmentor', 150),
        ({'head.fc.weight': (7, 320), 'head.fc.bias': (7,)}, 'classifier', 7),
        ({'projector.weight': (7, 320)}, 'model', None),
    ],
)
def test_kinds_of_models_and_their_classes(
    beside: dict[str, tuple[int, ...]], kind: str, classes: int | None, tmp_path: Path
) -> None:
    found = inspect(save(whole(beside), tmp_path / 'w.pth'))
    assert (found.kind, found.num_classes, found.classes) == (kind, classes, None)
    assert found.fit is not None
    assert found.fit.name == 'shvit_s1'


def test_names_of_classes_and_length_of_training_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    meta = {'dataset_meta': {'CLASSES': ('cat', 'dog')}, 'epoch': 12, 'iter': 1200}
    path = save(whole({'bbox_head.a.weight': (1, 1)}, meta=meta), tmp_path / 'w.pth')
    assert main(['inspect', path]) == 0
    out = capsys.readouterr().out
    assert '  what       detector with SHViT s1, 465 tensors under our names\n' in out
    assert '  classes    2: cat, dog\n' in out
    assert '  trained    epoch 12, iter 1200\n' in out
    assert '  as a whole vitbackbones test CONFIG FILE' in out


@pytest.mark.parametrize(
    ('keys', 'holder', 'averaged', 'others'),
    [
        (('model',), 'model', None, {}),
        (('model', 'model_ema'), 'model', False, {'model_ema': True}),
        (('state_dict', 'state_dict_ema'), 'state_dict', False, {'state_dict_ema': True}),
        # mmengine's: what is averaged is saved as the model
        (('state_dict', 'ema_state_dict'), 'state_dict', True, {'ema_state_dict': False}),
        (('model_ema',), 'model_ema', True, {}),
    ],
)
def test_averaged_weights_are_told(
    keys: tuple[str, ...], holder: str, averaged: bool, others: dict[str, bool], tmp_path: Path
) -> None:
    state = vitbackbones.create('shvit_s1').state_dict()
    found = inspect(save(dict.fromkeys(keys, state), tmp_path / 'w.pth'))
    assert (found.holder, found.averaged, found.others) == (holder, averaged, others)


# ------------------------------------------------------------------------------- by name


def test_names_of_variants_and_of_the_hub_are_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    case = CASES['gcvit-xxtiny-cls']
    content = Path(file_of(case, tmp_path)).read_bytes()
    with hub_server() as hub:
        monkeypatch.setenv('HF_ENDPOINT', hub.address)
        hub.files['nvidia/GCViT', 'gcvit_1k_xxtiny.pth.tar'] = content
        assert main(['inspect', 'gcvit_xxtiny']) == 0
        out = capsys.readouterr().out
        assert out.startswith('https://huggingface.co/nvidia/GCViT/resolve/main/gcvit_1k_xxtiny')
        assert 'licence    CC BY-NC-SA 4.0; in the model zoo as gcvit-xxtiny\n' in out
        assert main(['inspect', 'hf://nvidia/GCViT/gcvit_1k_xxtiny.pth.tar']) == 0
        assert 'what       GC ViT xxtiny classifier, 238 tensors' in capsys.readouterr().out
        assert main(['inspect', 'hf-hub:nvidia/none']) == 2
        assert 'has no nvidia/none' in capsys.readouterr().err


# --------------------------------------------------------------------------- what is not ours


def test_other_networks_end_with_status_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save({'state_dict': {'conv1.weight': torch.zeros(64, 3, 7, 7)}}, tmp_path / 'w.pth')
    assert main(['inspect', path]) == 1
    out = capsys.readouterr().out
    assert 'none of our networks: 1 tensors (' in out
    assert 'loads into' not in out


def test_nothing_in_a_file_is_run_or_reaches_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(RunsCode(tmp_path / 'ran'), tmp_path / 'w.pth')
    with pytest.raises(CheckpointError, match='can run code'):
        inspect(path)
    assert main(['inspect', path]) == 2
    assert not (tmp_path / 'ran').exists()
    meta = {'CLASSES': ('\x1b[2Jcat', 'a\nlicence    MIT')}
    save({**detector(vitbackbones.create('shvit_s1').state_dict()), 'meta': meta}, Path(path))
    capsys.readouterr()
    assert main(['inspect', path]) == 0
    out = capsys.readouterr().out
    assert '\x1b' not in out
    assert '\nlicence' not in out


@pytest.mark.parametrize('name', ['casvit_xs', 'gcvit_xxtiny', 'sepvit_lite', 'supervit_deit_s'])
@pytest.mark.parametrize('in_channels', [3, 4])
def test_classifiers_that_were_trained_here_are_recognised(
    name: str, in_channels: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = vitbackbones.create(name, num_classes=5, in_channels=in_channels)
    path = save({'state_dict': net.state_dict(), 'meta': {'epoch': 3}}, tmp_path / 'own.pth')
    found = inspect(path)
    assert found.fit is not None
    assert (found.kind, found.num_classes, found.fit.classifier) == ('classifier', 5, True)
    assert found.fit.name == name
    vitbackbones.create(name, pretrained=path, **found.fit.options)
    assert main(['inspect', path]) == 0
    assert f"create('{name}', num_classes=5" in capsys.readouterr().out
