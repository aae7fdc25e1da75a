"""A config fitted to somebody's data."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from vitbackbones.data.nodes import type_name
from vitbackbones.formats.own_data import OwnData, Task

from . import pipelines
from .anchors import fit_anchors
from .balance import balance
from .capacity import enough_found, fewer_proposals, narrower_heads, norms_of_small_batches
from .classes import set_classes
from .datasets import METRICS, SPLITS, pipeline_of, put_datasets
from .draft import Draft, counted
from .heads import task_of
from .machine import Machine, batch_for, workers_for
from .scale import THICKNESS, Scale, choose_scale, resized, sides_of
from .schedule import BATCH, epochs_for, set_schedule
from .thickness import thickness
from .writing import plain

#: What has sizes of images in it: multiplied together, or crops would not fit.
PLACES_OF_SIZES = (
    'train_dataloader.dataset',
    'val_dataloader.dataset',
    'test_dataloader.dataset',
    'model.data_preprocessor',
    'model.test_cfg',
    'custom_hooks',
)


def fit(
    draft: Draft,
    data: OwnData,
    machine: Machine,
    *,
    ours: bool,
    pretrained: bool,
    name: str,
    max_scale: tuple[int, int] | None = None,
    batch_size: int | None = None,
    epochs: int | None = None,
) -> None:
    """Fit everything in a config to data: classes, datasets, sizes, anchors, schedule, batch.

    Args:
        draft: a config with its backbone in place; changed.
        ours: whether it is one of our heads, whose pipelines we write; else they are kept, and only
            the sizes in them change.
        pretrained: whether the backbone starts from weights that are given.
        name: of the config, for messages.
        max_scale: width and height that images must not exceed.
        batch_size: images in a batch; None for what fits.
        epochs: the length of the training; None to choose.

    Raises:
        UserError: the config learns from something that no folder teaches.
    """
    task = task_of(draft.config, name)
    draft.beside = data.written
    images = data.splits['train'].number
    scale = _scale(data, task, max_scale)
    if ours:
        seen = epochs or epochs_for(images, pretrained)
        colours = pipelines.colours_vary(images, seen, pretrained=pretrained)
        steps = _ours(draft, data, task, scale, pretrained, colours)
    else:
        steps = _theirs(draft, data, task, scale, max_scale)
    set_classes(draft, len(data.classes))
    put_datasets(draft, data, task, steps, ours=ours)
    if task == 'labels' and ours:
        balance(draft, data.pixels)
    if task != 'labels':
        objects = resized(data.image_sizes, data.objects, scale)
        enough_found(draft, data.objects)
        if ours:
            fewer_proposals(draft, scale, data.objects)
        if not pipelines.has_one_size(draft):
            long, short = scale.size
            factors = np.minimum(long / data.image_sizes.max(1), short / data.image_sizes.min(1))
            sizes = data.image_sizes * factors[:, None]
            fit_anchors(draft, objects, sizes[data.objects[:, 2].astype(int)])
    batch = _set_batch(draft, machine, _pixels(draft, scale), images, batch_size)
    set_schedule(
        draft,
        images=images,
        validated=data.splits['val'].number,
        pretrained=pretrained,
        epochs=epochs,
        batch=batch if epochs or batch_size else BATCH,
        in_file=batch,
        metric=METRICS[task],
        ours=ours,
    )


def _scale(data: OwnData, task: Task, max_scale: tuple[int, int] | None) -> Scale:
    if task != 'labels':
        return choose_scale(data.image_sizes, sides_of(data.objects), largest=max_scale)
    found = thickness(_label_maps(data), data.pixels > 0)
    thinnest = found[~np.isnan(found)]
    return choose_scale(
        data.image_sizes,
        thinnest.min(keepdims=True) if len(thinnest) else thinnest,
        wanted=THICKNESS,
        what=f'its regions of {data.classes[int(np.nanargmin(found))]}' if len(thinnest) else '',
        largest=max_scale,
    )


def _ours(
    draft: Draft, data: OwnData, task: Task, scale: Scale, pretrained: bool, colours: bool
) -> dict[str, list[pipelines.Step]]:
    """The steps of each split's dataset for a head of ours; sizes outside of them are set."""
    images = data.splits['train'].number
    if task == 'labels':
        train, test, crop = pipelines.segmentation(scale, colours=colours)
        draft.set('model.data_preprocessor.size', crop, 'Crops are padded to it.')
        if draft.get('model.test_cfg.crop_size'):  # of a sliding window
            stride = tuple(side * 2 // 3 for side in crop)
            draft.set('model.test_cfg.crop_size', crop)
            draft.set('model.test_cfg.stride', stride)
        narrower_heads(draft, images)
        norms_of_small_batches(draft)
    else:
        train, test = pipelines.detection(scale, masks=task == 'masks', colours=colours)
    draft.said.append(f'scale: {scale.size[0]} x {scale.size[1]}. {scale.sentence}')
    place = 'train_dataloader.dataset.pipeline'
    draft.explain(place, scale.sentence)
    pipelines.explain(draft, place, train, images, pretrained=pretrained)
    return dict(train=train, val=test, test=test)


def _theirs(
    draft: Draft,
    data: OwnData,
    task: Task,
    scale: Scale,
    max_scale: tuple[int, int] | None,
) -> dict[str, list[pipelines.Step]]:
    """The config's own steps with all sizes multiplied by one factor."""
    theirs = pipelines.test_scale(pipeline_of(draft, 'val') or pipeline_of(draft, 'test'))
    fixed = pipelines.has_one_size(draft)
    if theirs is None or fixed:
        why = fixed or 'the pipeline names none'
        draft.said.append(f'scale: sizes stay, since {why}')
        if max_scale is not None:
            draft.said.append(f'warning: --max-scale has no say, since {why}')
    else:
        long, short = np.median(data.image_sizes.max(1)), np.median(data.image_sizes.min(1))
        factor = scale.factor / min(theirs[0] / long, theirs[1] / short)
        why = scale.why
        frame = factor * max(pipelines.largest_frame(draft.get(p)) for p in PLACES_OF_SIZES)
        if max_scale is not None and frame > max(max_scale):
            factor *= max(max_scale) / frame
            why += f'; crops and mosaics of its training are larger, and become {max(max_scale)}'
        why = f'Sizes of the original times {factor:.2g}: {why}.'
        for place in PLACES_OF_SIZES:
            old = plain(draft.get(place))
            new = pipelines.rescale(old, factor, max_scale)
            if new != old:
                draft.set(place, new)
        draft.explain('train_dataloader.dataset', why)
        draft.said.append(f'scale: {why}')
    steps = {split: pipeline_of(draft, split) for split in SPLITS}
    for step in (step for each in steps.values() for step in each):
        if task == 'labels' and type_name(step) == 'LoadAnnotations':
            step['reduce_zero_label'] = False
    return steps


def _label_maps(data: OwnData) -> list[Path]:
    """The files of the training's label maps."""
    train = data.splits['train']
    if train.names is None:
        return sorted(train.annotations.rglob(f'*{data.label_suffix}'))
    names = train.names.read_text(encoding='utf-8').split('\n')
    return [train.annotations / f'{name}{data.label_suffix}' for name in names if name]


def _pixels(draft: Draft, scale: Scale) -> int:
    """Those of an image in training: of a crop, where there are crops."""
    crop = draft.get('model.data_preprocessor.size')
    return math.prod(crop if isinstance(crop, (list, tuple)) else scale.size)


def _set_batch(
    draft: Draft, machine: Machine, pixels: int, images: int, batch_size: int | None
) -> int:
    """Set what depends on the machine, and nothing else does; how many images are in a batch."""
    batch = batch_size or batch_for(machine, pixels, images)
    workers = workers_for(machine, batch)
    why = f'For a {machine.device.upper()} with {machine.memory:.0f} GB and {machine.cores} cores'
    why += ', and as was asked for.' if batch_size else '.'
    draft.set('train_dataloader.batch_size', batch, why)
    draft.said.append(f'batch: {counted(batch, "image")}. {why}')
    draft.show('train_dataloader.batch_size')
    if draft.get('auto_scale_lr'):  # the rates that follow are for it
        draft.set('auto_scale_lr.base_batch_size', batch)
    for split in SPLITS:
        draft.set(f'{split}_dataloader.num_workers', workers)
        draft.set(f'{split}_dataloader.persistent_workers', True)
    return batch
