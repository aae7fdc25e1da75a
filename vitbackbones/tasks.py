"""What a model is for: the one place where tasks are told apart."""

from __future__ import annotations

from collections.abc import Container, Mapping
from enum import Enum
from typing import Any


class Task(Enum):
    """What a model is for; the values are the folders of our configs."""

    DETECTION = 'detection'
    SEGMENTATION = 'segmentation'
    CLASSIFICATION = 'classification'

    @property
    def scope(self) -> str:
        """The package of OpenMMLab that has its heads, datasets and metrics."""
        return _SCOPES[self]


_SCOPES = {
    Task.DETECTION: 'mmdet',
    Task.SEGMENTATION: 'mmseg',
    Task.CLASSIFICATION: 'mmpretrain',
}
_PREPROCESSORS = {
    'SegDataPreProcessor': Task.SEGMENTATION,
    'ClsDataPreprocessor': Task.CLASSIFICATION,
}
#: The first that a model has decides.
_PARTS = {
    'decode_head': Task.SEGMENTATION,
    **dict.fromkeys(('bbox_head', 'rpn_head', 'roi_head', 'mask_head', 'decoder'), Task.DETECTION),
    'head': Task.CLASSIFICATION,
}
_MODELS = {
    'BaseSegmentor': Task.SEGMENTATION,
    'OnnxSegmentor': Task.SEGMENTATION,
    'BaseDetector': Task.DETECTION,
    'OnnxDetector': Task.DETECTION,
    'BaseClassifier': Task.CLASSIFICATION,
}


def task_of(model: Any) -> Task:
    """The task of a model's config; of what is none, detection, whose checks say so."""
    if not isinstance(model, Mapping):
        return Task.DETECTION
    kind = (model.get('data_preprocessor') or {}).get('type')
    name = str(getattr(kind, '__name__', kind)).rpartition('.')[2]
    return _PREPROCESSORS.get(name) or task_of_parts(model) or Task.DETECTION


def task_of_parts(names: Container[str]) -> Task | None:
    """The task of a model that has parts of these names; None if they are no head."""
    return next((task for part, task in _PARTS.items() if part in names), None)


def task_of_built(model: Any) -> Task | None:
    """The task of a model, be it wrapped for distributed training; None if it is of no package."""
    for base in type(model).__mro__:
        if base.__name__ in _MODELS:
            return _MODELS[base.__name__]
    # Of DistributedDataParallel, or of test time augmentation.
    inner = getattr(model, 'module', None)
    return None if inner is None else task_of_built(inner)


def task_of_sample(sample: Any) -> Task:
    """The task of the model that has predicted a data sample."""
    if 'pred_sem_seg' in sample:
        return Task.SEGMENTATION
    return Task.CLASSIFICATION if 'pred_score' in sample else Task.DETECTION
