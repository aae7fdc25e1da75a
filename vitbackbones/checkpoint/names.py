"""What a network declares of its weight files, for whoever loads them."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any

#: Name in a file -> ours, as (pattern, replacement) tried in order; None drops a tensor that a
#: network has no use for. Names that match nothing are already ours.
KeyTable = tuple[tuple[str, str | None], ...]

#: The options of :func:`~vitbackbones.load_pretrained`, which ``init_cfg`` takes too.
LOADING_OPTIONS = ('weights', 'prefix', 'sha256', 'allow_pickle', 'map_location')


@dataclass(frozen=True, kw_only=True)
class CheckpointNames:
    """How the tensors of a network are called in published files, and what is special about them.

    Attributes:
        official: table of the names that the network's authors gave.
        timm: table of those that timm gave, where timm has the network.
        absent_from_classifier: patterns of our names that a published classifier lacks; these
            tensors keep their initial values.
        classifier_options: of the network, with which it is what published classifiers build on.
        stem: our names for the weight of the first convolution, which adapts to ``in_channels``;
            of several, which variants may have, the first that a network has.
        licence: of the published weights, where it forbids commercial use.
    """

    official: KeyTable = ()
    timm: KeyTable = ()
    absent_from_classifier: tuple[str, ...] = ()
    classifier_options: Mapping[str, Any] = field(default_factory=dict)
    stem: tuple[str, ...] = ()
    licence: str | None = None

    def stem_weight(self, names: Container[str]) -> str | None:
        """Which of a network's ``names`` is that of its first convolution's weight."""
        return next((name for name in self.stem if name in names), None)
