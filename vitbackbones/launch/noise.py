"""Images of noise with all that models of mmdet and mmseg learn from, for want of data.

Objects and labels are the same for every image; only the pixels differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from mmengine.structures import InstanceData, PixelData
from torch import Tensor

from vitbackbones.data.configs import as_list
from vitbackbones.data.nodes import type_name
from vitbackbones.tasks import Task, task_of

SIDE = 256  # pixels
#: Necks that make no maps of smaller images.
SIDES = {'SSDNeck': 320}
#: Corners of the objects, as shares of the side.
BOXES = ((0.06, 0.06, 0.31, 0.44), (0.39, 0.16, 0.77, 0.78), (0.23, 0.59, 0.35, 0.70))
#: Options that say how many classes there are.
CLASSES = ('num_classes', 'num_things_classes')


def noise_batch(
    model: Mapping[str, Any], number: int = 2, side: int | None = None, *, training: bool = True
) -> Any:
    """A batch as a data loader makes it, for ``model.train_step`` and ``model.val_step``.

    Args:
        model: its config.
        number: of images; a tracker gets one video of two frames.
        side: of the square images in pixels; None for 256, or more if the model needs it.
        training: or predicting; there are trackers of which only the detector is trained.

    Returns:
        ``inputs``, a list of (C, side, side), uint8, and ``data_samples`` with boxes, masks,
        a semantic label map, captions, and proposals if nothing makes them, or with what a
        segmentor learns.
    """
    side = side or _side(model)
    preprocessor = model.get('data_preprocessor') or {}
    classes = min(_numbers(model), default=1)
    if task_of(model) is Task.SEGMENTATION:
        channels = len(preprocessor.get('mean') or 'rgb')
        made = [_labelled_image(i, side, channels, classes) for i in range(number)]
    elif type_name(preprocessor) == 'TrackDataPreprocessor' and not (
        training and preprocessor.get('use_det_processor')
    ):
        made = [_video(side, classes)]
    else:
        # Where there is a head that makes proposals, others would take the place of its own.
        given = 'roi_head' in model and not model.get('rpn_head')
        made = [_image_with_objects(i, side, classes, given) for i in range(number)]
    samples = [sample for _, sample in made]
    if 'mask' not in str(model).lower():  # RTMDet takes masks for those of its other variant
        for sample in samples:
            for name in ('gt_instances', 'ignored_instances'):
                if 'masks' in sample.get(name, ()):
                    sample.get(name).pop('masks')
    return dict(inputs=[image for image, _ in made], data_samples=samples)


def fit_to_noise(model: dict[str, Any], side: int | None = None) -> None:
    """Let a model's config pad batches to the images of noise, not to those that it is made for."""
    preprocessor = model.get('data_preprocessor') or {}
    for key in ('batch_augments', 'test_cfg'):
        preprocessor.pop(key, None)
    if task_of(model) is Task.SEGMENTATION:
        preprocessor.pop('size_divisor', None)
        preprocessor['size'] = (side or _side(model),) * 2


def _side(model: Mapping[str, Any]) -> int:
    necks = [neck for neck in as_list(model.get('neck')) if isinstance(neck, Mapping)]
    return max([SIDE, *(SIDES.get(type_name(neck), 0) for neck in necks)])


def _numbers(node: Any) -> Iterator[int]:
    """Every number of classes below ``node``."""
    pairs = node.items() if isinstance(node, Mapping) else enumerate(node)
    for key, value in pairs:
        if key in CLASSES and isinstance(value, int):
            yield value
        elif isinstance(value, (Mapping, list, tuple)):
            yield from _numbers(value)


def _noise(i: int, channels: int, side: int) -> Tensor:
    generator = torch.Generator().manual_seed(i)
    return torch.randint(0, 256, (channels, side, side), generator=generator, dtype=torch.uint8)


def _meta(i: int, side: int) -> dict[str, Any]:
    size = (side, side)
    return dict(
        img_id=i,
        img_path=f'{i}.png',
        img_shape=size,
        ori_shape=size,
        pad_shape=size,
        scale_factor=(1.0, 1.0),
        flip=False,
        flip_direction=None,
        border=np.array([0, side, 0, side], dtype=np.float32),  # of CenterNet's crop
        text='one. two.',  # of detectors that read what to look for
        custom_entities=False,
    )


def _labelled_image(i: int, side: int, channels: int, classes: int) -> tuple[Tensor, Any]:
    from mmseg.structures import SegDataSample

    sample = SegDataSample(metainfo=_meta(i, side))
    labels = (torch.arange(side) * 4 // side % max(classes, 2)).repeat(side, 1)[None]
    labels[:, : side // 32] = 255
    sample.gt_sem_seg = PixelData(data=labels)
    sample.gt_edge_map = PixelData(data=(labels == 1).long())  # PIDNet's
    sample.gt_depth_map = PixelData(data=torch.linspace(1, 2, side).repeat(side, 1)[None])  # VPD's
    return _noise(i, channels, side), sample


def _image_with_objects(
    i: int, side: int, classes: int, proposals: bool = False
) -> tuple[Tensor, Any]:
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    boxes = (torch.tensor(BOXES) * side).round()
    labels = torch.arange(len(boxes)) % classes
    masks = np.zeros((len(boxes), side, side), dtype=np.uint8)
    kinds = torch.full((1, side, side), 255)
    for mask, label, box in zip(masks, labels, boxes.int().tolist(), strict=True):
        left, top, right, bottom = box
        mask[top:bottom, left:right] = 1
        kinds[0, top:bottom, left:right] = label
    sample = DetDataSample(metainfo=_meta(i, side))
    sample.gt_instances = InstanceData(
        bboxes=boxes, labels=labels, masks=BitmapMasks(masks, side, side)
    )
    sample.ignored_instances = InstanceData(
        bboxes=boxes[:0], labels=labels[:0], masks=BitmapMasks(masks[:0], side, side)
    )
    if proposals:  # as Fast R-CNN's
        regions = torch.cat([boxes, boxes + side // 32])
        sample.proposals = InstanceData(bboxes=regions, scores=torch.ones(len(regions)))
    sample.gt_sem_seg = PixelData(sem_seg=kinds)
    return _noise(i, 3, side), sample


def _video(side: int, classes: int) -> tuple[Tensor, Any]:
    """Two frames, of which the first is the key."""
    from mmdet.structures import TrackDataSample

    frames = [_image_with_objects(i, side, classes) for i in range(2)]
    for i, (_, sample) in enumerate(frames):
        sample.set_metainfo(dict(frame_id=i, video_id=0, video_length=2))
        sample.gt_instances.instances_ids = torch.arange(len(BOXES))
    whole = TrackDataSample(metainfo=dict(key_frames_inds=[0], ref_frames_inds=[1], video_id=0))
    whole.video_data_samples = [sample for _, sample in frames]
    return torch.stack([image for image, _ in frames]), whole
