"""A loss in which all classes of label maps count alike."""

from __future__ import annotations

from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, nn

from vitbackbones.registry import MODELS, register


@register(MODELS)
class GuardedLovaszLoss(nn.Module):
    """mmseg's Lovasz softmax loss (Berman et al. 2018, section 3), 0 where nothing is learnt.

    In batches all of whose pixels are ignored mmseg's is nan, and in those with a single pixel that
    is not it raises IndexError: crops and validation, image by image, do make such batches.

    Args:
        loss_weight: factor of the loss.
        loss_name: its name in logs; what begins with ``loss_`` is learnt from.
    """

    def __init__(self, loss_weight: float = 1.0, loss_name: str = 'loss_lovasz') -> None:
        super().__init__()
        self.loss_name = loss_name
        self.criterion = ROOT_MODELS.build(
            dict(type='mmseg.LovaszLoss', reduction='none', loss_weight=loss_weight)
        )

    def forward(
        self,
        cls_score: Tensor,
        label: Tensor,
        weight: Tensor | None = None,
        ignore_index: int = 255,
    ) -> Tensor:
        """The loss, a scalar.

        Args:
            cls_score: (B, C, H, W) logits.
            label: (B, H, W) indices of classes.
            weight: not used: mmseg's loss takes none for pixels.
            ignore_index: the label of pixels that are not learnt.
        """
        if int((label != ignore_index).sum()) < 2:
            return cls_score.sum() * 0
        return self.criterion(cls_score, label, ignore_index=ignore_index)
