"""A whole model in other runtimes than PyTorch, on a CPU: who may take part, and why others not."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from vitbackbones.deploy import fuse
from vitbackbones.deploy.exporting import OPTIONS, write_whole
from vitbackbones.deploy.onnx import PACKAGES, ExportError, open_file
from vitbackbones.deploy.onnx_file import OnnxFile, by_openvino
from vitbackbones.deploy.parts import example_shapes, require_ours
from vitbackbones.deploy.verify import verify
from vitbackbones.deploy.whole import Wanted, whole_of
from vitbackbones.errors import UserError
from vitbackbones.inference.onnx_model import onnx_model
from vitbackbones.launch.trained import config_meta

#: Beside PyTorch: what they are called in a table, and the packages that they need.
RUNTIMES = {
    'fused': ('fused', ()),
    'onnxruntime': ('ONNX Runtime', PACKAGES),
    'openvino': ('OpenVINO', (*PACKAGES, 'openvino')),
}

Predict = Callable[[], Any]


def check_runtimes(names: Sequence[str], device: str) -> None:
    """That all can be measured.

    Raises:
        UserError: there is no such runtime, it is not for that device, or a package that it needs
            is missing.
    """
    if names and device != 'cpu':
        raise UserError(f'--runtimes are measured on a CPU, not on {device}')
    for name in names:
        if name not in RUNTIMES:
            raise UserError(f'--runtimes {name}: unknown, choose from {", ".join(RUNTIMES)}')
        for package in RUNTIMES[name][1]:
            try:
                importlib.import_module(package)
            except ImportError:
                raise UserError(f'{package} is missing: pip install {package}') from None


def in_runtimes(
    cfg: Config, model: Any, data: Mapping[str, Any], names: Sequence[str], folder: Path
) -> tuple[dict[str, Predict], dict[str, str]]:
    """What predicts, from the images as they are loaded to the framework's data samples.

    Args:
        model: in evaluation, as ``cfg`` builds it.
        data: a batch; a file is traced with images of its size and takes others as well.
        names: of :data:`RUNTIMES`.
        folder: for a file.

    Returns:
        By name who predicts, and why others do not.
    """
    predict: dict[str, Predict] = {}
    failed: dict[str, str] = {}
    if 'fused' in names:
        fused = fuse(model).eval()
        predict['fused'] = partial(_test, fused, data)
    path, others = folder / 'model.onnx', [name for name in names if name != 'fused']
    try:
        if others:
            _write(cfg, model, data, path)
    except (UserError, ExportError) as error:
        return predict, dict.fromkeys(others, str(error))
    for name in others:
        try:
            compute = by_openvino(path, torch.get_num_threads()) if name == 'openvino' else None
        except UserError as error:
            failed[name] = str(error)
            continue
        predict[name] = partial(onnx_model(OnnxFile(path, compute)).test_step, data)
    return predict, failed


@torch.no_grad()
def _test(model: Any, data: Mapping[str, Any]) -> Any:
    return model.test_step(data)


def _write(cfg: Config, model: Any, data: Mapping[str, Any], path: Path) -> None:
    images = torch.stack(list(data['inputs'])).flip(1)  # B, G, R as they are loaded
    size = (images.shape[2], images.shape[3])
    wanted = Wanted(size=size)
    whole = whole_of(cfg, model, config_meta(cfg), wanted, path.stem)
    traced, *_ = example_shapes(
        require_ours(cfg), *size, dynamic=True, stride=whole.module.largest_stride, options=OPTIONS
    )
    batch = traced[0] if whole.card.task == 'labels' else 1
    write_whole(whole, wanted, images[:1].repeat(batch, 1, 1, 1), path)
    verify(whole, open_file(path), [images[:1]])  # what computes something else has no time
