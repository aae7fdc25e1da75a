"""Whole detectors and segmentors as a module from pixels to results, and what is said of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

import vitbackbones
from vitbackbones.data.configs import iter_datasets
from vitbackbones.data.nodes import type_name
from vitbackbones.data.values import colour_of, is_list_of_colours
from vitbackbones.errors import UserError, notice
from vitbackbones.launch.trained import build_trained

from .card import Card, weights_hash
from .dense_heads import OneStage
from .fuse import fuse
from .parts import require_ours
from .pixels import Input, Normalising, Pixels
from .segmentors import Segmentor
from .two_stage import TwoStage

#: What of mmcv has no counterpart in ONNX, by the name of its module.
FOREIGN = (
    *('MultiScaleDeformableAttention', 'DeformConv2d', 'DeformConv2dPack', 'CARAFE', 'CARAFEPack'),
    *('ModulatedDeformConv2d', 'ModulatedDeformConv2dPack', 'CornerPool', 'SAConv2d'),
    *('MaskedConv2d', 'CrissCrossAttention', 'PSAMask', 'RoIPool'),
)

Module = OneStage | TwoStage | Segmentor


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a file is to take and to give.

    Attributes:
        given: how images come in.
        masks: of instances: of their boxes, or pasted into the image.
        probabilities: of a segmentor, in place of labels.
        size: height and width to trace with.
        dynamic: whether other sizes are taken too.
    """

    given: Input = field(default_factory=Input)
    masks: Literal['raw', 'pasted'] | None = None
    probabilities: bool = False
    size: tuple[int, int] = (512, 512)
    dynamic: bool = True


@dataclass(frozen=True)
class Whole:
    """A model and what is exported of it.

    Attributes:
        model: as the config builds it, with its weights: what the file is held against.
        module: from pixels to results, fused.
        card: what the file says of itself.
    """

    model: nn.Module
    module: Module
    card: Card


def build_whole(cfg: Config, checkpoint: str | None, wanted: Wanted, name: str) -> Whole:
    """The whole model of a config, ready to be traced.

    Args:
        checkpoint: weights; without, they are random.
        name: of the config.

    Raises:
        UserError: the model, or a part of it, has no counterpart, and is named; or an option does
            not go with it.
        CheckpointError: the checkpoint cannot be read or belongs to another model.
    """
    init_default_scope(cfg.default_scope)
    require_three_colours(cfg)
    model, meta = build_trained(cfg, checkpoint)
    whole = whole_of(cfg, model, meta, wanted, name)
    if checkpoint is None:
        return whole
    return replace(whole, card=replace(whole.card, weights=weights_hash(model)))


def require_three_colours(cfg: Config) -> None:
    """Raises UserError: the backbone is none of ours, or takes images of other channels."""
    backbone = require_ours(cfg)
    if backbone.in_channels != 3:
        raise UserError(
            f'model.backbone.in_channels={backbone.in_channels}: --part model takes images of '
            'three colours'
        )


def whole_of(
    cfg: Config, model: nn.Module, meta: Mapping[str, Any], wanted: Wanted, name: str
) -> Whole:
    """What is exported of a model that its config built, in evaluation.

    Args:
        meta: ``classes`` and perhaps ``palette``.
        name: of the config.

    Raises:
        UserError: as :func:`build_whole`.
    """
    pixels = Pixels(wanted.given, Normalising.of(cfg))
    for path, part in model.named_modules():
        if type(part).__name__ in FOREIGN:
            raise UserError(
                f'{type(model).__name__} cannot be exported with --part model: model.{path} is '
                f"mmcv's operator {type(part).__name__}, which ONNX does not have"
            )
    module = _module(fuse(model), pixels, wanted)
    module.eval().requires_grad_(False)
    return Whole(model, module, _card(cfg, meta, module, wanted, name))


def _module(model: Any, pixels: Pixels, wanted: Wanted) -> Module:
    if hasattr(model, 'decode_head'):
        if wanted.masks is not None:
            raise UserError(f'--masks {wanted.masks}: {type(model).__name__} has no masks')
        return Segmentor(model, pixels, probabilities=wanted.probabilities)
    if wanted.probabilities:
        raise UserError(f'--probabilities: {type(model).__name__} is no segmentor')
    if hasattr(model, 'roi_head') and hasattr(model, 'rpn_head'):
        has_masks = bool(model.roi_head.with_mask)
        if wanted.masks is not None and not has_masks:
            raise UserError(f'--masks {wanted.masks}: this {type(model).__name__} has no masks')
        return TwoStage(model, pixels, (wanted.masks or 'raw') if has_masks else None)
    if wanted.masks is not None:
        raise UserError(f'--masks {wanted.masks}: {type(model).__name__} has no masks')
    return OneStage(model, pixels)


def _card(cfg: Config, meta: Mapping[str, Any], module: Module, wanted: Wanted, name: str) -> Card:
    classes, palette = list(meta['classes']), meta.get('palette')
    if not is_list_of_colours(palette) or len(palette) < len(classes):
        palette = [colour_of(i) for i in range(len(classes))]
    masks = module.masks if isinstance(module, TwoStage) else None
    threshold: float | None = None
    if isinstance(module, Segmentor) or (isinstance(module, TwoStage) and masks):
        threshold = module.threshold
    task = 'labels' if isinstance(module, Segmentor) else 'masks' if masks else 'boxes'
    scale, keep_ratio = _scale(cfg)
    normalising = module.pixels.wanted
    return Card(
        version=vitbackbones.__version__,
        config=Path(name.rpartition('::')[2]).stem,
        task=cast(Any, task),
        classes=classes,
        palette=[[int(value) for value in colour] for colour in palette[: len(classes)]],
        scale=scale,
        keep_ratio=keep_ratio,
        layout=wanted.given.layout,
        channels=wanted.given.channels,
        dtype=wanted.given.dtype,
        mean=list(normalising.mean),
        std=list(normalising.std),
        divisor=normalising.divisor,
        smallest=smallest_side(max(require_ours(cfg).out_strides), normalising.divisor),
        size=list(wanted.size),
        dynamic=wanted.dynamic,
        masks=masks,
        mask_threshold=threshold,
        probabilities=wanted.probabilities,
    )


def smallest_side(least: int, divisor: int) -> int:
    """The least number of pixels that padding to multiples of ``divisor`` makes ``least`` of."""
    return (-(-least // divisor) - 1) * divisor + 1


#: Options of steps of test pipelines, and the one value that whoever runs a file goes by.
USUAL: dict[str, dict[str, str]] = {
    'LoadImageFromFile': dict(color_type='color', imdecode_backend='cv2'),
    'LoadImageFromNDArray': dict(color_type='color', imdecode_backend='cv2'),
    'Resize': dict(interpolation='bilinear', backend='cv2'),
}


def _scale(cfg: Config) -> tuple[list[int] | None, bool | None]:
    """Width and height that the test pipeline resizes to, and whether it keeps the ratio."""
    whole = (cfg.get('test_dataloader') or {}).get('dataset')
    steps = next(iter_datasets(whole)).get('pipeline') or [] if whole else []
    scale: list[int] | None = None
    keep_ratio: bool | None = None
    for step in steps:
        kind = type_name(step)
        if kind == 'Resize' and step.get('scale') is not None and scale is None:
            side = step['scale']
            scale = [side, side] if isinstance(side, int) else [int(value) for value in side]
            keep_ratio = bool(step.get('keep_ratio', False))
        elif not _leaves_pixels(kind):
            notice(
                f'the test pipeline has a {kind}, which the file does not say: whoever runs it '
                'knows scale and keep_ratio of one Resize'
            )
        for option, usual in USUAL.get(kind, {}).items():
            if step.get(option, usual) != usual:
                notice(
                    f'the test pipeline has a {kind} with {option}={step[option]!r}, which the '
                    f'file does not say: whoever runs it goes by {usual!r}'
                )
    return scale, keep_ratio


def _leaves_pixels(kind: str) -> bool:
    """Whether a step of a test pipeline loads one image, loads annotations, or packs."""
    loads_annotations = kind.startswith('Load') and kind.endswith('Annotations')
    loads_image = kind in ('LoadImageFromFile', 'LoadImageFromNDArray')
    return loads_image or loads_annotations or kind.startswith(('Pack', 'CheckedPipeline'))
