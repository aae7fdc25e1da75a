"""Classifiers as mmpretrain builds them, around a network of ours."""

from __future__ import annotations

from torch import nn

from vitbackbones.backbones.base import Backbone
from vitbackbones.tasks import Task, task_of_built

from .network import Classifier


def classifier_in(model: nn.Module) -> Classifier | None:
    """The layers of an ``ImageClassifier`` as our own classifier, None if it is none of ours.

    Both have the same tensors under the same names: what is loaded into one is in the other.
    """
    backbone = getattr(model, 'backbone', None)
    if task_of_built(model) is not Task.CLASSIFICATION or not isinstance(backbone, Backbone):
        return None
    families = {cls.family: cls for cls in Backbone.registered().values()}
    head = getattr(model, 'head', None)
    return Classifier(backbone, head or nn.Identity(), families[backbone.family])
