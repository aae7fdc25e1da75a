"""Exported networks: ONNX Runtime computes the same, at any size, or there is no file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from tests.small import SMALL
from vitbackbones.benchmark.livened import vary_norms
from vitbackbones.cli.main import main
from vitbackbones.deploy import onnx as onnx_export
from vitbackbones.deploy.onnx import TRACED, ExportError, difference, write_onnx

# The default windows of GC ViT, of 24, would hold little but padding here.
OPTIONS: dict[str, dict[str, Any]] = {'GCViT': {'window_size': (4, 3, 5, 2)}}

# Exporting takes its time for every block. Four of GC ViT's: two have a global query.
SHALLOW: dict[str, dict[str, Any]] = {
    'CASViT': {'depths': (1, 1, 1, 1)},
    'GCViT': {'depths': (2, 1, 1, 1)},
    'SHViT': {'depths': (1, 1, 1)},
    'SepViT': {'depths': (1, 1, 1, 1), 'window_sizes': ((3,), (4,), (3,), (3,))},
    'SuperViT': {'depth': 1},
}


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Path]:
    """Write a config of a small detector; keywords go to its backbone."""

    def write(name: str, neck: dict[str, Any] | None = None, **options: Any) -> Path:
        if name in SMALL:
            options['arch'] = {**SMALL[name], **SHALLOW[name], **options.pop('arch', {})}
        head = {
            'type': 'RetinaHead',
            'num_classes': 2,
            'in_channels': 8,
            'anchor_generator': {
                'type': 'AnchorGenerator',
                'ratios': [1.0],
                'scales': [8],
                'strides': [8, 16, 32],
            },
        }
        backbone = {'type': name, **OPTIONS.get(name, {}), **options}
        model = {'type': 'RetinaNet', 'backbone': backbone, 'neck': neck, 'bbox_head': head}
        path = tmp_path / 'small.py'
        path.write_text(f'model = {model!r}\n')
        return path

    return write


def export(*words: Any) -> int:
    return main(['export', *map(str, words)])


@torch.no_grad()
def assert_runs_alike(path: Path, net: nn.Module, *shapes: tuple[int, ...]) -> None:
    session = onnxruntime.InferenceSession(path)
    for shape in shapes:
        x = torch.randn(shape)
        found = session.run(None, {'image': x.numpy()})
        for got, want in zip(map(torch.from_numpy, found), net(x), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def build_and_save(source: Path, path: Path) -> Any:
    """The model of a config, with weights of its own, which go to ``path``."""
    init_default_scope('mmdet')
    model = vary_norms(ROOT_MODELS.build(Config.fromfile(source).model))
    torch.save({'state_dict': model.state_dict()}, path)
    return model


# ------------------------------------------------------------------------------- any size


# SuperViT drops tokens in its fourth block. Half of them: every precision counts alike.
ANY_SIZE: dict[str, dict[str, Any]] = {
    'SepViT': {'window_token': 'learnable'},
    'SuperViT': {'arch': {'depth': 4}, 'operating_point': {'keep_rate': 0.5}},
}


@pytest.mark.parametrize('name', SMALL)
def test_a_file_for_any_size_computes_the_same_at_others(
    name: str, config: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, weights = tmp_path / 'net.onnx', tmp_path / 'weights.pth'
    source = config(name, **ANY_SIZE.get(name, {}))
    model = build_and_save(source, weights)
    assert export(source, weights, '--dynamic', '--size', 96, 160, '--out', out) == 0
    assert 'backbone for any batch and size' in capsys.readouterr().out
    shapes = (1, 3, 64, 64), (3, 3, 175, 131), (1, 3, 70, 333), (2, 3, 256, 96)
    assert_runs_alike(out, model.backbone, *shapes)
    assert {path.name for path in tmp_path.iterdir()} == {'small.py', 'weights.pth', 'net.onnx'}


@pytest.mark.parametrize(
    'neck',
    [
        {'type': 'FPN', 'num_outs': 5, 'norm_cfg': {'type': 'BN'}},
        {'type': 'TransposedConvFPN', 'num_outs': 5, 'num_trans_convs': 1},
    ],
    ids=['FPN', 'TransposedConvFPN'],
)
def test_the_neck_can_be_exported_too(
    neck: dict[str, Any], config: Callable[..., Path], tmp_path: Path
) -> None:
    out, weights = tmp_path / 'net.onnx', tmp_path / 'weights.pth'
    neck = {**neck, 'in_channels': list(SMALL['SHViT']['dims']), 'out_channels': 8}
    source = config('SHViT', neck)
    model = build_and_save(source, weights)
    words = ('--part', 'backbone+neck', '--dynamic', '--size', 96, 160, '--out', out)
    assert export(source, weights, *words) == 0
    net = nn.Sequential(model.backbone, model.neck)
    assert_runs_alike(out, net, (3, 3, 130, 97), (1, 3, 64, 331), (2, 3, 288, 65))


# ------------------------------------------------------------------------------- one size


@pytest.mark.parametrize(
    ('name', 'options'),
    [
        ('GCViT', {'mask_padding': True}),
        ('SepViT', {'mask_padding': True}),
        ('SuperViT', {'operating_point': {'scale': 0.8}}),
    ],
    ids=['GCViT', 'SepViT', 'SuperViT'],
)
def test_what_follows_the_size_can_be_exported_for_one(
    name: str,
    options: dict[str, Any],
    config: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, out = config(name, **options, out_indices=[0, 1]), tmp_path / 'net.onnx'
    option = next(iter(options))
    assert export(source, '--dynamic', '--out', out) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f'{name} with {option}' in error
    assert 'cannot be exported with --dynamic; without it, one --size can be' in error
    assert not out.exists()
    assert export(source, '--size', 64, 96, '--out', out) == 0
    assert onnxruntime.InferenceSession(out).get_inputs()[0].shape == [1, 3, 64, 96]


def test_a_keep_rate_that_single_precision_counts_otherwise_is_refused(
    config: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = config('SuperViT', operating_point={'keep_rate': 0.6})
    assert export(source, '--dynamic', '--out', tmp_path / 'net.onnx') == 2
    assert 'keep_rate=0.6, of which single precision keeps another' in capsys.readouterr().err
    assert not (tmp_path / 'net.onnx').exists()


# ---------------------------------------------------------------------------- no wrong file


class Branching(nn.Module):
    """Computes something else from large images."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sin() if x.shape[2] < 600 else x.cos()


class Counting(nn.Module):
    """Counts in a way that torch.export takes for a constant: a length is a plain number."""

    def forward(self, x: Tensor) -> Tensor:
        return x * len(x.flatten())


class Rounding(nn.Module):
    """Rounds a negative quotient, which ONNX does in another way than Python."""

    def forward(self, x: Tensor) -> Tensor:
        return x * -(-x.shape[2] // 4)


@pytest.mark.parametrize('net', [Counting(), Rounding()], ids=['Counting', 'Rounding'])
def test_what_is_wrong_at_other_sizes_is_noticed(net: nn.Module, tmp_path: Path) -> None:
    path, traced = tmp_path / 'net.onnx', torch.randn(2, 3, TRACED, TRACED)
    write_onnx(net, traced, path, dynamic=True)
    assert difference(net, path, traced) < 1e-5
    assert difference(net, path, traced, torch.randn(3, 3, 33, 50)) > 0.1


def test_a_program_for_some_sizes_alone_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'net.onnx'
    with pytest.raises(ExportError, match='serve lengths up to 599 alone'):
        write_onnx(Branching(), torch.randn(2, 3, 64, 64), path, dynamic=True)
    assert not path.exists()


def test_a_file_that_computes_something_else_is_not_kept(
    config: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, before = config('SHViT'), tmp_path / 'net.onnx'
    before.write_text('of another day')
    monkeypatch.setattr(onnx_export, 'fuse', lambda part: vary_norms(deepcopy(part)))
    words = ('--size', 64, 64, '--out', before, '--force')
    assert export(source, *words) == 2
    assert 'ONNX Runtime computes something else' in capsys.readouterr().err
    assert before.read_text() == 'of another day'
    assert {path.name for path in tmp_path.iterdir()} == {'small.py', 'net.onnx'}


# ------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--part', 'head'], '--part head: unknown, choose from model, backbone, backbone+neck'),
        (['--part', 'backbone+neck'], 'this model has no neck, take --part backbone'),
        (['--size', 63, 96], '--size 63 96: both sides must be at least 64'),
        (['--size', 64, 96, '--dynamic'], '--size 64 96: both sides must be more than 64 with'),
        (['--out', 'exists.onnx'], 'exists.onnx exists; overwrite it with --force'),
        (
            ['--out', 'nowhere/net.onnx'],
            'nowhere/net.onnx cannot be written: there is no folder nowhere',
        ),
        (['--out', 'folder', '--size', 64, 64, '--force'], 'folder cannot be written'),
    ],
    ids=['part', 'neck', 'size', 'example', 'exists', 'nowhere', 'folder'],
)
def test_what_cannot_be_exported_is_said_in_one_sentence(
    words: list[Any],
    message: str,
    config: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = config('SHViT')
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'exists.onnx').touch()
    (tmp_path / 'folder').mkdir()
    before = set(tmp_path.iterdir())
    assert export(source, *words) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert set(tmp_path.iterdir()) == before


def test_a_foreign_backbone_is_refused(
    config: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(config('ResNet', depth=18), '--out', tmp_path / 'net.onnx') == 2
    assert 'model.backbone is ResNet, not one of ours: CASViT, GCViT' in capsys.readouterr().err


@pytest.mark.parametrize('package', onnx_export.PACKAGES)
def test_a_missing_package_is_named(
    package: str,
    config: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert export(config('SHViT'), '--out', tmp_path / 'net.onnx') == 2
    message = f'{package} is missing: pip install onnx onnxscript onnxruntime\n'
    assert capsys.readouterr().err.endswith(message)
