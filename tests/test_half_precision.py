"""``--dtype``: layers in half precision, boxes and label maps as ever."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests import whole_models
from vitbackbones.errors import UserError
from vitbackbones.inference.precision import check_precision, compute_in
from vitbackbones.launch.noise import noise_batch

MODELS: dict[str, Callable[[str], dict[str, Any]]] = {
    'RetinaNet': whole_models.one_stage,
    'Cascade Mask R-CNN': whole_models.cascade_mask_rcnn,
    'UPerHead': lambda name: whole_models.segmentor('UPerHead', name),
}


def built(kind: str, folder: Path) -> tuple[Any, dict[str, Any]]:
    """A model, and a batch as a data loader makes it."""
    config = MODELS[kind]('SHViT')
    model = whole_models.build(whole_models.write_config(config, folder / 'model.py')).eval()
    return model, noise_batch(config, 1, 96, training=False)


@contextmanager
def dtypes_of(model: nn.Module) -> Iterator[dict[str, set[torch.dtype]]]:
    """What layers with weights return, by the first two parts of their names."""
    seen: dict[str, set[torch.dtype]] = {}
    handles = []
    for path, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            part = '.'.join(path.split('.')[: 1 + path.startswith('roi_head')])

            def record(_: Any, __: Any, y: Tensor, part: str = part) -> None:
                seen.setdefault(part, set()).add(y.dtype)

            handles.append(module.register_forward_hook(record))
    yield seen
    for handle in handles:
        handle.remove()


def floats_in(value: Any) -> list[Tensor]:
    """All tensors of numbers in a data sample."""
    found = []
    for _, each in value.all_items() if hasattr(value, 'all_items') else value.items():
        if hasattr(each, 'items'):
            found += floats_in(each)
        elif isinstance(each, Tensor) and each.is_floating_point():
            found.append(each)
    return found


@pytest.mark.parametrize('name', ['bf16', 'fp32'])
@pytest.mark.parametrize('kind', MODELS)
def test_layers_compute_in_half_precision_and_results_are_single(
    kind: str, name: str, tmp_path: Path
) -> None:
    model, batch = built(kind, tmp_path)
    compute_in(model, name)
    with torch.no_grad(), dtypes_of(model) as seen:
        (sample,) = model.test_step(batch)
    parts = {'backbone', 'neck', 'bbox_head', 'decode_head', 'roi_head.bbox_head', 'rpn_head'}
    assert len(parts & {*seen}) >= 2
    wanted = torch.bfloat16 if name == 'bf16' else torch.float32
    assert all(dtypes == {wanted} for dtypes in seen.values()), seen
    assert {x.dtype for x in floats_in(sample)} <= {torch.float32}


def test_label_maps_are_near_those_of_single_precision(tmp_path: Path) -> None:
    model, batch = built('UPerHead', tmp_path)
    with torch.no_grad():
        (single,) = model.test_step(batch)
        compute_in(model, 'bf16')
        (half,) = model.test_step(batch)
    want, got = single.seg_logits.data, half.seg_logits.data
    assert 0 < (got - want).abs().max() <= 3e-2 * want.abs().max()


def test_precisions_that_cannot_be_are_named() -> None:
    with pytest.raises(UserError, match='--dtype fp8: unknown, choose from fp32, bf16, fp16'):
        check_precision('fp8', 'a.pth')
    with pytest.raises(UserError, match=r'--dtype bf16: a\.onnx computes in the precision'):
        check_precision('bf16', 'a.onnx')
    check_precision('fp32', 'a.onnx')
