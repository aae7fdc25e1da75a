"""What exported whole models say of themselves, and files that are not ours."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from vitbackbones.deploy.card import KEY, Card, weights_hash
from vitbackbones.errors import UserError

from .onnx_files import CARD as FIELDS

CARD = Card(
    **{
        **{key: value for key, value in FIELDS.items() if key != 'format'},
        **dict(
            version='0.1.0', task='masks', masks='raw', mask_threshold=0.5, classes=['cat', 'dög']
        ),
        'palette': [[1, 2, 3], [4, 5, 6]],
    }
)


def write(path: Path, **properties: str) -> Path:
    import onnx

    value = onnx.helper.make_tensor_value_info('x', onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node('Identity', ['x'], ['y'])
    graph = onnx.helper.make_graph(
        [node], 'g', [value], [onnx.helper.make_tensor_value_info('y', onnx.TensorProto.FLOAT, [1])]
    )
    model = onnx.helper.make_model(graph)
    onnx.helper.set_model_props(model, properties)
    onnx.save(model, path)
    return path


def test_a_card_comes_back_from_a_file(tmp_path: Path) -> None:
    path = write(tmp_path / 'net.onnx', vitbackbones=CARD.to_json(), other='x')
    assert Card.of_file(path) == CARD


def changed(**values: Any) -> str:
    return json.dumps({**dataclasses.asdict(CARD), **values})


@pytest.mark.parametrize(
    ('properties', 'message'),
    [
        ({}, "net.onnx has no metadata 'vitbackbones'; files that are run here are written by"),
        ({KEY: '['}, 'net.onnx: its metadata .* cannot be read; files'),
        ({KEY: '[1]'}, 'net.onnx: its metadata .* cannot be read; files'),
        ({KEY: changed(format=2)}, 'net.onnx is of format 2, written by version 0.1.0; this'),
        ({KEY: '{"format": 1, "task": "boxes"}'}, 'net.onnx: its metadata .* lack channels, cl'),
    ],
    ids=['foreign', 'text', 'list', 'later', 'half'],
)
def test_a_file_of_somebody_else_is_refused(
    properties: dict[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        Card.of_file(write(tmp_path / 'net.onnx', **properties))


def test_what_is_no_onnx_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'net.onnx'
    with pytest.raises(UserError, match=r'net.onnx cannot be read: No such file'):
        Card.of_file(path)
    path.write_bytes(b'\xff\xd8\xff\xe0 a photograph')
    with pytest.raises(UserError, match=r'net.onnx is no file in ONNX'):
        Card.of_file(path)


def test_fields_of_a_later_version_are_left_out(tmp_path: Path) -> None:
    assert Card.of_properties({KEY: changed(new=1)}, 'net.onnx') == CARD


def test_weights_are_told_apart_by_value_and_by_name() -> None:
    torch.manual_seed(0)
    net = nn.Linear(2, 3)
    same = nn.Linear(2, 3)
    same.load_state_dict(net.state_dict())
    assert weights_hash(net) == weights_hash(same)
    with torch.no_grad():
        same.bias[1] += 1e-3
    assert len({weights_hash(net), weights_hash(same), weights_hash(nn.Sequential(net))}) == 3
