"""The published classifiers: a network with its last output alone, and a head.

Their tensors have the names of mmpretrain's ``ImageClassifier`` around the same backbone,
``GlobalAveragePooling`` and the head that :mod:`.heads` names: the weights of one fit the other.
"""

from .network import Classifier, build_classifier

__all__ = ['Classifier', 'build_classifier']
