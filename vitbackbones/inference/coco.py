"""Predictions in COCO's format."""

from __future__ import annotations

from typing import Any

import numpy as np


def annotations_of(found: Any, image_id: int, first_id: int) -> list[dict[str, Any]]:
    """Detections as annotations of COCO, boxes as (x, y, width, height) in pixels."""
    rows = []
    for j in range(len(found)):
        x1, y1, x2, y2 = found.bboxes[j].tolist()
        row = dict(
            id=first_id + j,
            image_id=image_id,
            category_id=int(found.labels[j]),
            bbox=[x1, y1, x2 - x1, y2 - y1],
            score=float(found.scores[j]),
        )
        if 'masks' in found:
            row['segmentation'] = _rle(found.masks[j].numpy())
        rows.append(row)
    return rows


def _rle(mask: np.ndarray) -> dict[str, Any]:
    from pycocotools import mask as coco_mask  # comes with mmdet, which made the mask

    code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return dict(size=code['size'], counts=code['counts'].decode())
