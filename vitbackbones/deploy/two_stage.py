"""Faster, Mask and Cascade R-CNN of mmdet: proposals, then what is in them.

Shapes: H x W image, P proposals, N candidates, K results, C classes, h x w mask of a box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .candidates import Candidates, check_coder, decode, read_rule
from .dense_heads import AnchorBoxes
from .doubt import Doubt, Possible, fates
from .masks import paste
from .operators import roi_align
from .pixels import Pixels
from .refusing import refuse, require_methods


class Extractor:
    """What a RoI extractor of mmdet's reads of maps."""

    def __init__(self, extractor: Any, path: str) -> None:
        """Take its options over.

        Raises:
            UserError: it reads in another way.
        """
        kind = type(extractor).__name__
        if kind != 'SingleRoIExtractor':
            raise refuse(path, kind, 'SingleRoIExtractor')
        layer = extractor.roi_layers[0]
        kind = type(layer).__name__
        if kind != 'RoIAlign' or layer.pool_mode != 'avg' or not layer.aligned:
            raise refuse(
                f'{path}.roi_layer',
                f'{kind} with {layer}',
                "RoIAlign with pool_mode='avg' and aligned=True",
            )
        self.strides = [float(stride) for stride in extractor.featmap_strides]
        self.finest = float(extractor.finest_scale)
        self.height, self.width = layer.output_size
        self.samples = layer.sampling_ratio

    def __call__(self, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """Boxes (P, 4) on maps (1, C, H', W') -> (P, C, h, w)."""
        read = list(maps[: len(self.strides)])
        sizes = (self.finest, self.height, self.width, self.samples)
        return roi_align(read, boxes, self.strides, *sizes)


def _check_box_head(head: Any, path: str) -> None:
    from mmdet.models.roi_heads.bbox_heads import BBoxHead

    ways = ('predict_by_feat', '_predict_by_feat_single', 'regress_by_class')
    require_methods(head, path, BBoxHead, *ways)
    check_coder(head.bbox_coder, path)
    if not (head.with_cls and head.with_reg):
        raise refuse(path, 'without classes or boxes of its own', 'heads with both')
    if head.custom_cls_channels or head.custom_activation:
        kind = type(head.loss_cls).__name__
        raise refuse(f'{path}.loss_cls', f'{kind}, with an activation of its own', 'softmax')


class TwoStage(nn.Module):
    """A detector with proposals: an image -> boxes (K, 4), scores (K,), labels (K,)[, masks].

    Masks are (K, h, w) float, of the box's class, or (K, H, W) bool, pasted.
    """

    def __init__(self, model: Any, pixels: Pixels, masks: Literal['raw', 'pasted'] | None) -> None:
        """Take a detector of mmdet's over.

        Raises:
            UserError: it, or a part of it, predicts in a way of its own.
        """
        from mmdet.models.detectors.two_stage import TwoStageDetector
        from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead

        super().__init__()
        require_methods(model, 'model', TwoStageDetector, 'predict', 'extract_feat')
        roi: Any = model.roi_head
        self.cascade = isinstance(roi, CascadeRoIHead)
        path = 'model.roi_head'
        ways = ('predict', 'predict_bbox', 'predict_mask', '_bbox_forward', '_mask_forward')
        require_methods(roi, path, CascadeRoIHead if self.cascade else StandardRoIHead, *ways)
        if self.cascade:
            require_methods(roi, path, CascadeRoIHead, '_refine_roi')
        if roi.with_shared_head:
            raise refuse(f'{path}.shared_head', type(roi.shared_head).__name__, 'heads without')
        self.model = model
        self.pixels = pixels
        self.rpn = AnchorBoxes(model.rpn_head, 'model.rpn_head', 'model.test_cfg.rpn')
        cfg = model.test_cfg.rcnn
        rule, self.agnostic = read_rule(cfg, 'model.test_cfg.rcnn', score=cfg.get('score_thr', 0))
        self.rule = replace(rule, least=None)  # mmdet reads min_bbox_size before this stage alone
        heads = roi.bbox_head if self.cascade else [roi.bbox_head]
        readers = roi.bbox_roi_extractor if self.cascade else [roi.bbox_roi_extractor]
        for head in heads:
            _check_box_head(head, f'{path}.bbox_head')
        self.heads = tuple(heads)
        self.readers = [Extractor(reader, f'{path}.bbox_roi_extractor') for reader in readers]
        self.masks = masks
        self.outputs = ('boxes', 'scores', 'labels', *(('masks',) if masks else ()))
        if masks:
            self._take_masks(roi, path)

    def _take_masks(self, roi: Any, path: str) -> None:
        from mmdet.models.roi_heads.mask_heads import FCNMaskHead

        heads = roi.mask_head if self.cascade else [roi.mask_head]
        readers = roi.mask_roi_extractor if self.cascade else [roi.mask_roi_extractor]
        for head in heads:
            ways = ('forward', 'predict_by_feat', '_predict_by_feat_single')
            require_methods(head, f'{path}.mask_head', FCNMaskHead, *ways)
            if head.upsample_method == 'carafe':
                raise refuse(f'{path}.mask_head.upsample_cfg', 'CARAFE', 'deconv and interpolation')
        self.mask_heads = tuple(heads)
        self.mask_readers = [Extractor(r, f'{path}.mask_roi_extractor') for r in readers]
        self.threshold = float(self.model.test_cfg.rcnn.mask_thr_binary)
        if self.masks == 'pasted' and self.threshold < 0:
            raise refuse(
                'model.test_cfg.rcnn.mask_thr_binary', self.threshold, '0 and more for pasted masks'
            )

    @property
    def largest_stride(self) -> int:
        return self.rpn.largest_stride

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        height, width = self.pixels.size(image)
        maps = self.model.extract_feat(self.pixels(image))
        found = self.rpn(maps, height, width)
        proposals = found.boxes[self.rpn.rule.keep(*self._grouped(found, self.rpn.agnostic)[:3])]
        boxes, scores, labels, _ = self.classified(maps, proposals, height, width)
        candidates = self._grouped(Candidates(boxes, scores, labels), self.agnostic)
        kept = self.rule.keep(*candidates[:3])
        boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
        if self.masks is None:
            return boxes, scores, labels
        masks = self.of_boxes(maps, boxes, labels)
        if self.masks == 'pasted':
            return boxes, scores, labels, paste(masks, boxes, height, width) >= self.threshold
        return boxes, scores, labels, masks

    @staticmethod
    def _grouped(found: Candidates, agnostic: bool) -> Candidates:
        return found._replace(groups=torch.zeros_like(found.groups)) if agnostic else found

    def classified(
        self, maps: Sequence[Tensor], proposals: Tensor, height: int, width: int
    ) -> Candidates:
        """Every class of every proposal: P * C candidates, the classes of the first one first."""
        each_logits = []
        last = len(self.heads) - 1
        for i, (head, reader) in enumerate(zip(self.heads, self.readers, strict=True)):
            logits, deltas = head(reader(maps, proposals))
            each_logits.append(logits)
            if i < last:
                if not head.reg_class_agnostic:
                    chosen = logits[:, :-1].argmax(dim=1)[:, None, None].expand(-1, 1, 4)
                    deltas = deltas.reshape(-1, head.num_classes, 4).gather(1, chosen)[:, 0]
                proposals = decode(head.bbox_coder, proposals, deltas, height, width)
        number = head.num_classes
        scores = (sum(each_logits) / float(len(self.heads))).softmax(-1)[:, :number]
        if head.reg_class_agnostic:
            boxes = decode(head.bbox_coder, proposals, deltas, height, width)
            boxes = boxes[:, None].expand(-1, number, 4).reshape(-1, 4)
        else:
            each = proposals[:, None].expand(-1, number, 4).reshape(-1, 4)
            boxes = decode(head.bbox_coder, each, deltas.reshape(-1, 4), height, width)
        labels = torch.arange(number, device=scores.device).expand_as(scores)
        return Candidates(boxes, scores.reshape(-1), labels.reshape(-1))

    def of_boxes(self, maps: Sequence[Tensor], boxes: Tensor, labels: Tensor) -> Tensor:
        """Probabilities of the masks of boxes (K, 4), each of its class: (K, h, w)."""
        pairs = zip(self.mask_heads, self.mask_readers, strict=True)
        mean = sum(head(reader(maps, boxes)).sigmoid() for head, reader in pairs)
        mean = mean / float(len(self.mask_heads))
        if self.mask_heads[-1].class_agnostic:
            return mean[:, 0]
        height, width = mean.shape[-2:]
        return mean.gather(1, labels[:, None, None, None].expand(-1, 1, height, width))[:, 0]

    def possible(self, image: Tensor, doubt: Doubt) -> Possible:
        """All boxes that may be found, as numbers may be rounded."""
        height, width = self.pixels.size(image)
        maps = self.model.extract_feat(self.pixels(image))
        found = self._grouped(self.rpn(maps, height, width, doubt.score), self.rpn.agnostic)
        fate = fates(found, self.rpn.rule, doubt)
        proposals = found.boxes[fate.possible]
        boxes, scores, labels, _ = self.classified(maps, proposals, height, width)
        sure = fate.sure[fate.possible].repeat_interleave(len(boxes) // max(1, len(proposals)))
        near = scores > self.rule.score - doubt.score
        boxes, scores, labels, sure = boxes[near], scores[near], labels[near], sure[near]
        candidates = self._grouped(Candidates(boxes, scores, labels, sure), self.agnostic)
        return Possible(boxes, scores, labels, *fates(candidates, self.rule, doubt))

    def pasted(self, image: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
        """Probabilities (K, H, W) of the masks of boxes, in the image."""
        height, width = self.pixels.size(image)
        maps = self.model.extract_feat(self.pixels(image))
        return paste(self.of_boxes(maps, boxes, labels), boxes, height, width)
