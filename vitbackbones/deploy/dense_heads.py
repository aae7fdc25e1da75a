"""Anchor heads of mmdet: RetinaNet's and those that predict as it does, and the RPN.

Shapes: H x W image, N candidates, K results.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .candidates import Candidates, best, check_coder, decode, read_rule
from .doubt import Doubt, Possible, fates
from .pixels import Pixels
from .refusing import refuse, require_methods

#: Better than no score, for the RPN has no threshold.
ANY_SCORE = -1.0


class AnchorBoxes:
    """From the maps of a neck to boxes, with the weights of a head of mmdet's.

    Attributes:
        rule: which of the boxes stay.
        classes: how many the head tells apart.
    """

    def __init__(self, head: Any, path: str, cfg_path: str) -> None:
        """Take a head over.

        Args:
            path: of the head in the model's config, for messages.
            cfg_path: of what it is tested with.

        Raises:
            UserError: it predicts in a way of its own.
        """
        from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
        from mmdet.models.dense_heads.rpn_head import RPNHead

        self.is_rpn = isinstance(head, RPNHead)
        kind, ways = BaseDenseHead, ('_predict_by_feat_single', '_bbox_post_process')
        require_methods(head, path, kind, 'predict', 'predict_by_feat')
        require_methods(head, path, RPNHead if self.is_rpn else kind, *ways)
        self.head = head
        check_coder(getattr(head, 'bbox_coder', None), path)
        generator: Any = getattr(head, 'prior_generator', None)
        if not hasattr(generator, 'base_anchors') or generator.use_box_type:
            raise refuse(f'{path}.anchor_generator', type(generator).__name__, 'AnchorGenerator')
        if getattr(self.head.loss_cls, 'custom_cls_channels', False):
            raise refuse(
                f'{path}.loss_cls',
                f'{type(self.head.loss_cls).__name__}, with an activation of its own',
                'sigmoid and softmax',
            )
        if (number := self._outputs()) != 2:
            raise refuse(
                path,
                f'{type(head).__name__}, which predicts {number} maps for each of its input',
                'heads that predict classes and boxes',
            )
        cfg = self.head.test_cfg or {}
        score = ANY_SCORE if self.is_rpn else cfg.get('score_thr', 0)
        self.rule, self.agnostic = read_rule(cfg, cfg_path, score=score)
        self.nms_pre = int(cfg.get('nms_pre', -1))
        if self.nms_pre < 1 and not self.is_rpn:
            raise refuse(f'{cfg_path}.nms_pre', self.nms_pre, 'a positive number')
        # Of a head with softmax the last channel stands for the background.
        self.channels = int(self.head.cls_out_channels)
        self.classes = self.channels if self.head.use_sigmoid_cls else self.channels - 1

    @torch.no_grad()
    def _outputs(self) -> int:
        """How many maps the head makes of one, which its class does not say."""
        levels, channels = self.head.prior_generator.num_levels, self.head.in_channels
        dims = [channels] * levels if isinstance(channels, int) else channels
        return len(self.head([torch.zeros(1, dim, 4, 4) for dim in dims]))

    @property
    def largest_stride(self) -> int:
        return max(max(stride) for stride in self.head.prior_generator.strides)

    def __call__(
        self, maps: Sequence[Tensor], height: int, width: int, margin: float | None = None
    ) -> Candidates:
        """The best of each map, by class, or by map for the RPN.

        Args:
            maps: (1, C, H', W') of the neck.
            height: of the image in pixels, as ``width``: boxes are cut off there.
            margin: see :func:`~.candidates.best`.
        """
        outputs = self.head(maps)
        parts = []
        for i, (logits, deltas) in enumerate(zip(*outputs, strict=True)):
            priors = self.head.prior_generator.single_level_grid_priors(
                logits.shape[-2:], level_idx=i, dtype=logits.dtype, device=logits.device
            )
            logits = logits[0].permute(1, 2, 0).reshape(-1, self.channels)
            sigmoid = self.head.use_sigmoid_cls
            scores = logits.sigmoid() if sigmoid else logits.softmax(-1)[:, :-1]
            deltas = deltas[0].permute(1, 2, 0).reshape(-1, 4)
            chosen = best(scores.reshape(-1), self.nms_pre, margin)
            prior, label = chosen.places // self.classes, chosen.places % self.classes
            boxes = decode(self.head.bbox_coder, priors[prior], deltas[prior], height, width)
            group = torch.full_like(label, i) if self.is_rpn else label
            parts.append(Candidates(boxes, chosen.scores, group, chosen.sure))
        boxes, scores, groups = (
            torch.cat(each) for each in zip(*(p[:3] for p in parts), strict=True)
        )
        sure = None if margin is None else torch.cat([p.sure for p in parts if p.sure is not None])
        return Candidates(boxes, scores, groups, sure)


class OneStage(nn.Module):
    """A detector with an anchor head: an image -> boxes (K, 4), scores (K,), labels (K,)."""

    outputs = ('boxes', 'scores', 'labels')

    def __init__(self, model: Any, pixels: Pixels) -> None:
        """Take a detector of mmdet's over.

        Raises:
            UserError: it, or a part of it, predicts in a way of its own.
        """
        from mmdet.models.detectors.single_stage import SingleStageDetector

        super().__init__()
        require_methods(model, 'model', SingleStageDetector, 'predict', 'extract_feat')
        if type(model.bbox_head).__name__ == 'RPNHead':
            raise refuse('model.bbox_head', 'RPNHead, which proposes', 'heads that classify')
        self.model = model
        self.pixels = pixels
        self.dense = AnchorBoxes(model.bbox_head, 'model.bbox_head', 'model.test_cfg')

    @property
    def largest_stride(self) -> int:
        return self.dense.largest_stride

    def candidates(self, image: Tensor, margin: float | None = None) -> Candidates:
        height, width = self.pixels.size(image)
        maps = self.model.extract_feat(self.pixels(image))
        return self.dense(maps, height, width, margin)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        boxes, scores, labels, _ = self.candidates(image)
        groups = torch.zeros_like(labels) if self.dense.agnostic else labels
        kept = self.dense.rule.keep(boxes, scores, groups)
        return boxes[kept], scores[kept], labels[kept]

    def possible(self, image: Tensor, doubt: Doubt) -> Possible:
        """All boxes that may be found, as numbers may be rounded."""
        boxes, scores, labels, sure = self.candidates(image, doubt.score)
        groups = torch.zeros_like(labels) if self.dense.agnostic else labels
        fate = fates(Candidates(boxes, scores, groups, sure), self.dense.rule, doubt)
        return Possible(boxes, scores, labels, *fate)
