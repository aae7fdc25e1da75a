"""What mmdet and mmseg find in images, by the way that their tests take."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .pairing import Found


def detections(model: Any, images: Tensor) -> Found:
    """What a detector finds in one image (1, 3, H, W), uint8 in R, G, B, that nobody resized."""
    from mmdet.structures import DetDataSample

    (sample,) = _tested(model, images, DetDataSample)
    found = sample.pred_instances
    masks = found.masks if 'masks' in found else None
    return Found(found.bboxes, found.scores, found.labels, masks)


def label_maps(model: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Labels (B, H, W) and the head's scores (B, C, H, W) of images (B, 3, H, W), uint8 R, G, B.

    With one channel the scores are sigmoids, else they are what softmax would be taken of.
    """
    from mmseg.structures import SegDataSample

    samples = _tested(model, images, SegDataSample)
    labels = torch.stack([sample.pred_sem_seg.data[0] for sample in samples])
    return labels.to(torch.int64), torch.stack([sample.seg_logits.data for sample in samples])


@torch.no_grad()
def _tested(model: Any, images: Tensor, sample: Any) -> list[Any]:
    """Through the data preprocessor too, which takes images as mmcv loads them: in B, G, R."""
    shape = tuple(images.shape[2:])
    meta = dict(ori_shape=shape, img_shape=shape, scale_factor=(1.0, 1.0), img_id=0, img_path='')
    samples = [sample(metainfo=dict(meta)) for _ in images]
    return model.test_step(dict(inputs=list(images.flip(1)), data_samples=samples))
