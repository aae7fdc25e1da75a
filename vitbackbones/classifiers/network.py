"""A network with its last output alone, and the head that it was published with."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn

from vitbackbones.backbones.arch import is_whole
from vitbackbones.backbones.base import Backbone, load_init_cfg
from vitbackbones.backbones.options import checked_init_cfg
from vitbackbones.checkpoint.reading import find_weights, read_checkpoint
from vitbackbones.layers.initialisation import init_transformer
from vitbackbones.published import source_of
from vitbackbones.targets import variant_of

from .heads import CLASSIFIERS, Published


class Classifier(BaseModule):
    """An image classifier: (B, in_channels, H, W) -> logits (B, num_classes).

    The way through its backbone is that of the backbone, and as fast. Every parameter gets a
    gradient in every step.

    Args:
        backbone: with its last output alone.
        head: from that output to the logits.
        dense: class of the dense network that it is the classifier of.
        init_cfg: as a backbone's.

    Attributes:
        backbone, head: may be used on their own.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: nn.Module,
        dense: type[Backbone],
        init_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg=checked_init_cfg(type(self).__name__, init_cfg))
        self.backbone = backbone
        self.head = head
        self.dense = dense

    @property
    def published(self) -> Published:
        """What its published files are read by."""
        return CLASSIFIERS[self.dense.__name__]

    def forward(self, x: Tensor) -> Tensor:
        (y,) = self.backbone(x)
        return self.head(y)

    @property
    def num_classes(self) -> int:
        return next(iter(self.last_layers().values())).out_features

    def last_layers(self) -> dict[str, nn.Linear]:
        """The layers with a row for each class, by name: what other classes need anew."""
        found = {name: m for name, m in self.named_modules() if isinstance(m, nn.Linear)}
        return {name: found[name] for name in self.published.last_layers if name in found}

    def init_weights(self) -> None:
        """Load ``init_cfg``'s file; without one the weights stay as the constructor drew them.

        Raises:
            CheckpointError: the file cannot be read or does not fit; no weight was changed then.
        """
        load_init_cfg(self)


def build_classifier(
    cls: type[Backbone],
    arch: str | Mapping[str, Any],
    *,
    num_classes: int,
    pretrained: str | os.PathLike[str] | None = None,
    init_cfg: Mapping[str, Any] | None = None,
    **options: Any,
) -> Classifier:
    """The published classifier of a network.

    Args:
        cls, arch: the network and its variant.
        num_classes: length of the logits.
        pretrained: a file that is to be loaded afterwards; here it is looked into at most.
        init_cfg: as a backbone's.
        options: of ``cls``, but for ``out_indices``. Where the published files may have a second
            head there is one more, of its name (CAS-ViT's ``dist_head``): with it the logits are
            the mean of both; None stands for what the file has that is ``pretrained`` or in
            ``init_cfg``, without a file for False.

    Raises:
        ValueError: ``num_classes`` is no positive number, there are ``out_indices``, or an option
            outside its choices.
        CheckpointError: the file has to be looked into and cannot be read.
    """
    name = cls.__name__
    if not is_whole(num_classes) or isinstance(num_classes, bool) or num_classes < 1:
        raise ValueError(f'{name}: num_classes={num_classes!r} must be at least 1, and whole')
    if options.get('out_indices') is not None:
        raise ValueError(
            f'{name}: num_classes={num_classes} makes a classifier, which has the last output '
            f'alone; leave out out_indices={options["out_indices"]}, or num_classes for maps'
        )
    if name not in CLASSIFIERS:
        raise ValueError(f'{name} has no classifier, choose from {", ".join(CLASSIFIERS)}')
    published = CLASSIFIERS[name]
    if published.head is None:
        assert published.network is not None
        network = published.network(arch, num_classes=num_classes, **options)
        return Classifier(network, nn.Identity(), cls, init_cfg)
    second = options.pop(published.second, None)
    options = {**cls.checkpoint_names.classifier_options, **options}
    backbone = cls(arch, **{**options, 'out_indices': (len(cls.strides) - 1,)})
    kinds = {}
    if published.second:
        file = init_cfg if pretrained is None else {'checkpoint': pretrained}
        if second is None:
            second = file is not None and published.has_second(_names_in(file, backbone))
        kinds[published.second] = second
    head = published.head(*backbone.out_channels, num_classes, **kinds)
    head.apply(init_transformer)
    return Classifier(backbone, head, cls, init_cfg)


def _names_in(init_cfg: Mapping[str, Any], backbone: Backbone) -> Iterable[str]:
    """The names of the tensors in the file that ``init_cfg`` has for a classifier."""
    name = type(backbone).__name__
    options = checked_init_cfg(name, {'type': 'Pretrained', **init_cfg}) or {}
    del options['type']
    options.pop('prefix', None)
    given, weights = os.fspath(options.pop('checkpoint')), options.pop('weights', 'auto')
    source, known = source_of(given, functools.partial(variant_of, backbone), classifier=True)
    options.setdefault('sha256', known)
    state, _ = find_weights(read_checkpoint(source, **options), weights, source=source)
    return state
