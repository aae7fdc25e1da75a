"""Classifiers as mmpretrain builds them, around a network of ours."""

from __future__ import annotations

from torch import nn

from vitbackbones.backbones.base import Backbone
from vitbackbones.tasks import Task, task_of_built

from .heads import CLASSIFIERS
from .network import Classifier


def classifier_in(model: nn.Module) -> Classifier | None:
    """The layers of an ``ImageClassifier`` as our own classifier, None if they make none.

    Around a network of ours may be any head, and around any head another network: these are models
    like detectors, with a backbone that is recognised, and the rest as it is.

    Both have the same tensors under the same names: what is loaded into one is in the other.
    """
    backbone = getattr(model, 'backbone', None)
    if task_of_built(model) is not Task.CLASSIFICATION or not isinstance(backbone, Backbone):
        return None
    families = {cls.family: cls for cls in Backbone.registered().values()}
    dense = families.get(backbone.family)
    if dense is None or dense.__name__ not in CLASSIFIERS:
        return None
    head = getattr(model, 'head', None)
    classifier = Classifier(backbone, head or nn.Identity(), dense)
    return classifier if classifier.last_layers() else None
