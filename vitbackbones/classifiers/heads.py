"""What the published classifiers have after the network: (B, C, H, W) -> logits (B, num_classes).

Each head has the names, and computes the logits, of one of mmpretrain's behind a global average
pooling, which has no tensors.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from vitbackbones.backbones.base import Backbone
from vitbackbones.backbones.supervit import SuperViTClassifier
from vitbackbones.checkpoint.names import KeyTable


class LinearHead(nn.Module):
    """Mean and linear layer, as ``LinearClsHead``."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean((2, 3)))


class NormedHead(nn.Module):
    """Mean, BatchNorm and linear layer, as ``LeViTClsHead`` with ``distillation=False``."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        layers = {'bn': nn.BatchNorm1d(dim), 'linear': nn.Linear(dim, num_classes)}
        self.head = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.mean((2, 3)))


class DistilledHead(nn.Module):
    """Mean and linear layer, or the mean of two, as ``EfficientFormerClsHead``."""

    def __init__(self, dim: int, num_classes: int, dist_head: bool = False) -> None:
        super().__init__()
        self.head = nn.Linear(dim, num_classes)
        self.dist_head = nn.Linear(dim, num_classes) if dist_head else None

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean((2, 3))
        logits = self.head(x)
        return logits if self.dist_head is None else (logits + self.dist_head(x)) / 2


@dataclass(frozen=True, kw_only=True)
class Published:
    """What makes a network the published classifier.

    Attributes:
        head: makes the head, of the channels of the network's last output and of classes; None
            where the network itself has it.
        network: the class of a network that has its head itself; None where the dense one does.
        second: the argument of ``head`` that makes a second one, which files may lack, and the
            name of its layer there; '' where there is one head.
        names: of what a published file has beside the dense network -> our names.
        last_layers: our names of the layers with a row for each class, as far as a classifier has
            them.
    """

    head: Callable[..., nn.Module] | None
    names: KeyTable
    last_layers: tuple[str, ...]
    network: type[Backbone] | None = None
    second: str = ''

    def has_second(self, names: Iterable[str]) -> bool:
        """Whether a second head is among the tensors of these names."""
        return bool(self.second) and any(self.second in name.split('.') for name in names)


#: By the names of the networks' classes. The published names are the authors' and timm's.
CLASSIFIERS = {
    'CASViT': Published(
        head=DistilledHead,
        names=(
            (r'norm\.', 'backbone.norm6.'),
            (r'head\.', 'head.head.'),
            (r'dist_head\.', 'head.dist_head.'),
        ),
        last_layers=('head.head', 'head.dist_head'),
        second='dist_head',
    ),
    'GCViT': Published(
        head=LinearHead,
        names=(
            (r'norm\.', 'backbone.norm3.'),
            (r'stages\.3\.norm\.', 'backbone.norm3.'),
            (r'head\.(fc\.)?', 'head.fc.'),
        ),
        last_layers=('head.fc',),
    ),
    'SHViT': Published(
        head=NormedHead,
        names=((r'head\.bn\.', 'head.head.bn.'), (r'head\.l\.', 'head.head.linear.')),
        last_layers=('head.head.linear',),
    ),
    'SepViT': Published(
        head=LinearHead,
        names=((r'head\.', 'head.fc.'),),
        last_layers=('head.fc',),
    ),
    'SuperViT': Published(
        head=None,
        names=(),
        last_layers=('backbone.head', 'backbone.aux_head'),
        network=SuperViTClassifier,
    ),
}
