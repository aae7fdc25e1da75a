"""What a checkpoint says of the data that its model was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def dataset_meta(checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    """Classes and palette of the training data, under names in small letters; None if not said.

    Args:
        checkpoint: of mmengine, or of mmcv before it.
    """
    meta = checkpoint.get('meta')
    if not isinstance(meta, Mapping):
        return None
    found = meta.get('dataset_meta')
    if found is None and 'CLASSES' in meta:  # of mmdet 2 and mmseg 0
        found = {'classes': meta['CLASSES'], 'palette': meta.get('PALETTE')}
    if not isinstance(found, Mapping):
        return None
    return {str(key).lower(): value for key, value in found.items()}


def trained_classes(checkpoint: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The classes of a checkpoint in the order of their labels, None where it does not say."""
    classes = (dataset_meta(checkpoint) or {}).get('classes')
    return tuple(classes) if isinstance(classes, (list, tuple)) else None
