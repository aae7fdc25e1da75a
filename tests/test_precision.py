"""Whole models in half precision and in eight bits."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from mmengine.config import Config
from PIL import Image

from tests.onnx_files import write_layers
from vitbackbones.benchmark.precisions import export_in_precision
from vitbackbones.cli.main import main
from vitbackbones.deploy.card import Card
from vitbackbones.deploy.flow import Flow, fold_weights
from vitbackbones.deploy.onnx_file import OnnxFile
from vitbackbones.deploy.precision import calibration_images, write_half, write_int8
from vitbackbones.errors import UserError

ROOT = Path(__file__).parents[1]
FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


@pytest.fixture(scope='module')
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a small detector, and six images."""
    folder = tmp_path_factory.mktemp('precision')
    write_layers(folder / 'net.onnx')
    (folder / 'images/more').mkdir(parents=True)
    draw = np.random.default_rng(0)
    for i in range(6):
        small = Image.fromarray(draw.integers(0, 255, (4, 4, 3), dtype=np.uint8))
        name = f'more/{i}.png' if i % 2 else f'{i}.jpg'
        small.resize((64, 64), Image.Resampling.BICUBIC).save(folder / 'images' / name)
    (folder / 'images/notes.txt').write_text('no image')
    (folder / 'empty').mkdir()
    return folder


def nodes_of(path: Path) -> dict[str, Any]:
    return {node.name: node for node in onnx.load(path).graph.node}


def types_of(path: Path) -> dict[str, int]:
    """The type of every tensor, by name."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    values = [*graph.value_info, *graph.output, *graph.input]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def found(path: Path, images: Path) -> list[dict[str, Any]]:
    file = OnnxFile(path)
    arrays = [np.asarray(Image.open(name))[..., ::-1] for name in calibration_images(images)]
    return [file.run(array) for array in arrays]


def assert_near(path: Path, place: Path, pixels: float, score: float) -> None:
    """What a file finds is near to what the one in single precision finds, but not the same."""
    apart = []
    pairs = (found(name, place / 'images') for name in (path, place / 'net.onnx'))
    for ours, theirs in zip(*pairs, strict=True):
        assert {name: x.dtype for name, x in ours.items()} == {
            name: x.dtype for name, x in theirs.items()
        }
        np.testing.assert_allclose(ours['boxes'], theirs['boxes'], rtol=0, atol=pixels)
        np.testing.assert_allclose(ours['scores'], theirs['scores'], rtol=0, atol=score)
        apart.append(abs(ours['boxes'] - theirs['boxes']).max())
    assert max(apart) > 0


def test_layers_are_told_from_what_computes_boxes(place: Path) -> None:
    model = onnx.load(place / 'net.onnx')
    assert 'early' not in Flow(model).layers  # its weights are made by a node
    fold_weights(model)
    onnx.checker.check_model(model)
    flow = Flow(model)
    assert flow.layers == ['early', 'propose', 'refine', 'classify']
    assert flow.last == ['propose', 'classify']
    assert {'early', 'norm', 'propose', 'read', 'refine', 'classify'} <= flow.between
    boxes = {
        name for name in nodes_of(place / 'net.onnx') if name.startswith(('Mul', 'Add', 'Top'))
    }
    assert len(boxes) == 3
    assert not boxes & flow.between


def test_half_precision_leaves_norms_softmax_and_boxes_alone(place: Path, tmp_path: Path) -> None:
    path = tmp_path / 'half.onnx'
    write_half(place / 'net.onnx', path)
    onnx.checker.check_model(path)
    nodes, types = nodes_of(path), types_of(path)
    for name in ('early', 'propose', 'refine', 'classify'):
        assert {types[value] for value in nodes[name].input} == {HALF}, name
    for name in ('norm', 'softmax'):
        assert {types[value] for value in nodes[name].input} == {FLOAT}, name
    assert [types[value] for value in nodes['read'].input[:2]] == [FLOAT, FLOAT]
    assert path.stat().st_size < 0.6 * (place / 'net.onnx').stat().st_size
    assert Card.of_file(path).precision == 'half'
    assert_near(path, place, pixels=0.05, score=1e-3)


def test_eight_bits_leave_the_last_layers_alone(place: Path, tmp_path: Path) -> None:
    path = tmp_path / 'int8.onnx'
    write_int8(place / 'net.onnx', path, calibration_images(place / 'images'))
    onnx.checker.check_model(path)
    nodes = nodes_of(path)
    makers = {output: node for node in nodes.values() for output in node.output}
    for name in ('early', 'refine'):
        weights = makers[nodes[name].input[1]]
        assert weights.op_type == 'DequantizeLinear'
        scale = next(t for t in onnx.load(path).graph.initializer if t.name == weights.input[1])
        assert list(scale.dims) == [64]  # per channel
    for name in ('propose', 'classify'):
        kinds = {makers[value].op_type for value in nodes[name].input if value in makers}
        assert not kinds & {'DequantizeLinear', 'QuantizeLinear'}, name
    assert Card.of_file(path).precision == 'int8'
    assert_near(path, place, pixels=1.0, score=0.02)
    assert path.stat().st_size < 0.5 * (place / 'net.onnx').stat().st_size


def test_calibration_images_are_evenly_chosen(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [path.name for path in calibration_images(place / 'images')]
    assert names == ['0.jpg', '2.jpg', '4.jpg', '1.png', '3.png', '5.png']
    monkeypatch.setattr('vitbackbones.deploy.precision.CALIBRATED', 3)
    names = [path.name for path in calibration_images(place / 'images')]
    assert names == ['0.jpg', '4.jpg', '3.png']


@pytest.mark.parametrize(
    ('folder', 'message'),
    [
        ('nowhere', '--int8 nowhere: there is no such folder of images'),
        ('empty', '--int8 empty: there is no image in this folder'),
        ('net.onnx', '--int8 net.onnx: there is no such folder of images'),
    ],
)
def test_calibration_images_that_are_none_are_refused(
    folder: str, message: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    with pytest.raises(UserError) as caught:
        calibration_images(Path(folder))
    assert str(caught.value) == message


# ---------------------------------------------------------------------------- the command


@pytest.mark.parametrize('precision', ['half', 'int8'])
def test_a_file_in_fewer_bits_stands_beside_that_in_single_precision(
    precision: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, images = tmp_path / 'out.onnx', place / 'images' if precision == 'int8' else None

    def export(path: Path) -> str:
        shutil.copy(place / 'net.onnx', path)
        return 'it was checked'

    half = precision == 'half'
    said = export_in_precision(Config(), out, export, half=half, int8=images)
    assert said.startswith('in single precision it was checked\n')
    rows = [line.split(' | ') for line in said.splitlines() if line.startswith('| ')]
    assert [row[0] for row in rows] == ['| precision', '| ---', '| float32', f'| {precision}']
    assert [row[1] for row in rows[:2]] == ['MB', '---:']
    single, reduced = (float(row[1]) for row in rows[2:])
    assert reduced < single
    assert 'the test set of the config is not there: accuracies are not' in capsys.readouterr().err
    assert Card.of_file(out).precision == precision
    assert [*tmp_path.iterdir()] == [out]


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        ('--int8 nowhere', '--int8 nowhere: there is no such folder of images'),
        ('--int8 images --half', '--half and --int8 are two precisions: one file has one of them'),
        ('--half --part backbone', '--half goes with --part model alone, not with backbone'),
    ],
)
def test_precisions_that_cannot_be_are_said_in_one_sentence(
    words: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    config = str(ROOT / 'configs/detection/shvit_retinanet.py')
    assert main(['export', config, '--part', 'model', '--out', 'out.onnx', *words.split()]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f'vitbackbones export: {message}'
    assert [*tmp_path.iterdir()] == []
