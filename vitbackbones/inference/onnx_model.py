"""A whole model in an ONNX file, which stands where a detector or segmentor of PyTorch stands."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.structures import InstanceData, PixelData
from torch import Tensor, nn
from torch.nn import functional as F

from vitbackbones.deploy.onnx_file import OnnxFile
from vitbackbones.errors import notice


def read_onnx_model(path: str | os.PathLike[str]) -> OnnxModel:
    """The model in a file.

    Raises:
        UserError: there is no such file, it is somebody else's, or ONNX Runtime cannot read it.
    """
    return onnx_model(OnnxFile(path))


def onnx_model(file: OnnxFile) -> OnnxModel:
    """The model in a file that was opened."""
    return OnnxSegmentor(file) if file.card.task == 'labels' else OnnxDetector(file)


class OnnxModel(nn.Module):
    """What a loop of mmengine, and ours over images, need of a model: ``test_step``."""

    #: What a file may have decided before the size of the image, and the option that does not.
    decided: ClassVar[str]
    undecided: ClassVar[str]

    def __init__(self, file: OnnxFile) -> None:
        super().__init__()
        self.file = file
        self.card = file.card
        self._told = False

    @property
    def meta(self) -> dict[str, Any]:
        """Classes and palette, as a dataset has them."""
        return dict(classes=tuple(self.card.classes), palette=[*map(tuple, self.card.palette)])

    def test_step(self, data: Mapping[str, Any]) -> list[Any]:
        """A batch's data samples of mmdet or mmseg, with what was found in each, on the CPU.

        Args:
            data: ``inputs``, images (3, H, W) of B, G, R, and ``data_samples``.

        Raises:
            UserError: the file does not take images of that size.
        """
        pairs = zip(data['inputs'], data['data_samples'], strict=True)
        return [self._predict(image, sample.cpu()) for image, sample in pairs]

    def _predict(self, image: Tensor, sample: Any) -> Any:
        if image.is_floating_point():
            image = image.round().clamp(0, 255).to(torch.uint8)
        pixels = image.permute(1, 2, 0).cpu().numpy()
        outputs = {name: torch.from_numpy(x) for name, x in self.file.run(pixels).items()}
        self._take(outputs, sample, tuple(pixels.shape[:2]))
        return sample

    def _take(self, outputs: dict[str, Tensor], sample: Any, size: tuple[int, int]) -> None:
        """Put a file's outputs into a sample; ``size`` is the image's, H and W, when it went in."""
        raise NotImplementedError

    def _resized(self, maps: Tensor, shape: Sequence[int]) -> Tensor:
        """Maps (N, h, w) of what was decided at a size (H, W), each pixel from the nearest one."""
        if maps.shape[1:] != (*shape,) and not self._told:
            self._told = True
            notice(
                f'{self.file.path}: {self.decided} are resized as they are; some pixels at edges '
                f'differ from what a checkpoint gives; export with {self.undecided} for the same'
            )
        height, width = shape
        resized = [
            cv2.resize(map_, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
            for map_ in maps.numpy().astype(np.uint16)
        ]
        return torch.from_numpy(np.array(resized, np.int32).reshape(-1, height, width))


class OnnxDetector(OnnxModel):
    """Boxes, perhaps with masks."""

    decided, undecided = 'pasted masks', '--masks raw'

    def __init__(self, file: OnnxFile) -> None:
        super().__init__(file)
        from mmdet.models.roi_heads.mask_heads import FCNMaskHead

        # It has mmdet's own way of bringing masks of boxes into an image, and computes nothing.
        self._head = FCNMaskHead(
            num_convs=0,
            in_channels=1,
            num_classes=1,
            upsample_cfg=dict(type=None),
            loss_mask=dict(type='mmdet.CrossEntropyLoss', use_mask=True),  # in any default scope
        )
        self._head.class_agnostic = True

    def _take(self, outputs: dict[str, Tensor], sample: Any, size: tuple[int, int]) -> None:
        from mmdet.models.utils import samplelist_boxtype2tensor

        boxes, meta = outputs['boxes'], {'scale_factor': (1.0, 1.0), **sample.metainfo}
        found = InstanceData(bboxes=boxes, scores=outputs['scores'], labels=outputs['labels'])
        if self.card.masks == 'raw':
            (found,) = self._head.predict_by_feat(
                [outputs['masks'][:, None].numpy()],  # mmdet copies a tensor with a warning
                [found],
                [meta],
                rcnn_test_cfg=Config(dict(mask_thr_binary=self.card.mask_threshold)),
                rescale=True,
                activate_map=True,  # they are probabilities
            )
        else:
            found.bboxes = boxes / boxes.new_tensor(meta['scale_factor']).repeat(2)
        if self.card.masks == 'pasted':
            inside = outputs['masks'][:, : size[0], : size[1]]
            found.masks = self._resized(inside, sample.ori_shape[:2]).bool()
        if not self.card.dynamic:  # masks are of boxes as they were
            end = boxes.new_tensor(size[::-1]) / boxes.new_tensor(meta['scale_factor'])
            found.bboxes = torch.minimum(found.bboxes, end.repeat(2))
        sample.pred_instances = found
        samplelist_boxtype2tensor([sample])  # of the truth, which metrics and drawings read


class OnnxSegmentor(OnnxModel):
    """Label maps."""

    decided, undecided = 'labels', '--probabilities'

    def _take(self, outputs: dict[str, Tensor], sample: Any, size: tuple[int, int]) -> None:
        shape = tuple(sample.ori_shape[:2])
        (scores,) = (x[:, ..., : size[0], : size[1]] for x in outputs.values())
        if self.card.probabilities:
            # Their logarithms differ from logits by one value for all classes of a pixel: resized,
            # they have the same greatest one as the logits that mmseg resizes.
            if scores.shape[1] == 1:
                one, threshold = scores.clamp(1e-7, 1 - 1e-7), self.card.mask_threshold
                assert threshold is not None  # with one channel
                scores = torch.cat([(1 - one) * threshold, one * (1 - threshold)], 1)
            logs = scores.clamp_min(1e-38).log()
            labels = F.interpolate(logs, shape, mode='bilinear').argmax(1)
        else:
            labels = self._resized(scores, shape).long()
        sample.set_data({'pred_sem_seg': PixelData(data=labels)})


class Resized:
    """The step of a pipeline that resizes an image as a file wants it."""

    def __init__(self, file: OnnxFile) -> None:
        self.file = file

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        height, width = results['img'].shape[:2]
        w, h = self.file.size_for(width, height)
        results['img'] = cv2.resize(results['img'], (w, h))
        results['img_shape'] = (h, w)
        results['scale_factor'] = (w / width, h / height)
        return results


def config_of(model: OnnxModel) -> Config:
    """What a config says of images and drawings, for a file that has come without one."""
    segmentor = model.card.task == 'labels'
    steps: list[Any] = [
        dict(type='LoadImageFromFile'),
        Resized(model.file),
        dict(type='PackSegInputs' if segmentor else 'PackDetInputs'),
    ]
    kind = 'BaseSegDataset' if segmentor else 'CocoDataset'
    visualizer = 'SegLocalVisualizer' if segmentor else 'DetLocalVisualizer'
    return Config(
        dict(
            default_scope='mmseg' if segmentor else 'mmdet',
            test_dataloader=dict(dataset=dict(type=kind, metainfo=model.meta, pipeline=steps)),
            visualizer=dict(type=visualizer, name='visualizer'),
        )
    )
