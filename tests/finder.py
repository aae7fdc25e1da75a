"""A detector that finds rectangles by their colours, exactly, and a place with images of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmdet.models.detectors import BaseDetector
from mmengine.registry import MODELS
from mmengine.structures import InstanceData
from PIL import Image

CLASSES = ('red cell', 'green cell', 'blue cell')
COLOURS = np.array([[250, 0, 0], [0, 250, 0], [0, 0, 250]])  # R, G, B
SCORES = (0.9, 0.6, 0.2)
#: An object: its class, and x1, y1, x2, y2 in pixels.
Thing = tuple[int, tuple[int, int, int, int]]


@MODELS.register_module()
class Finder(BaseDetector):
    """Finds each patch of a colour as an object, with a score for each class.

    Args:
        masks: with masks, if the pipeline does not resize the image.
    """

    def __init__(self, masks: bool = False) -> None:
        super().__init__(data_preprocessor=dict(type='mmdet.DetDataPreprocessor'))
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.masks = masks

    def predict(self, inputs: Any, samples: Any, rescale: bool = True) -> Any:
        for image, sample in zip(inputs, samples, strict=True):
            pixels = image.permute(1, 2, 0).numpy()[..., ::-1]
            boxes: list[Any] = []
            labels: list[int] = []
            masks: list[Any] = []
            for label, colour in enumerate(COLOURS):
                near = (np.abs(pixels - colour).max(2) < 60).astype(np.uint8)
                count, patches, stats, _ = cv2.connectedComponentsWithStats(near, connectivity=4)
                for i in range(1, count):
                    x, y, w, h = stats[i, :4].tolist()
                    boxes.append([x, y, x + w, y + h])
                    labels.append(label)
                    masks.append(patches == i)
            factor = torch.tensor([*sample.get('scale_factor', (1.0, 1.0))] * 2)
            found = InstanceData(
                bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4) / factor,
                labels=torch.tensor(labels, dtype=torch.int64),
                scores=torch.tensor([SCORES[label] for label in labels]),
            )
            if self.masks:
                found.masks = torch.from_numpy(np.array(masks, bool).reshape(-1, *pixels.shape[:2]))
            sample.pred_instances = found
        return samples

    def loss(self, *args: Any) -> Any:
        raise NotImplementedError

    _forward = extract_feat = loss


CONFIG = f"""
default_scope = 'mmdet'
model = dict(type='Finder', masks={{masks}})
test_dataloader = dict(
    dataset=dict(
        type='CocoDataset',
        metainfo=dict(classes={CLASSES}),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape')),
        ],
    ),
)
visualizer = dict(type='DetLocalVisualizer')
"""


def write_finder(folder: Path, *, masks: bool = False) -> list[str]:
    """Config and checkpoint, as words of a command."""
    name = 'masks' if masks else 'boxes'
    config, checkpoint = folder / f'{name}.py', folder / f'{name}.pth'
    config.write_text(CONFIG.format(masks=masks))
    torch.save(dict(state_dict=Finder(masks).state_dict(), meta={}), checkpoint)
    return [str(config), str(checkpoint)]


def paint(things: Sequence[Thing], size: tuple[int, int] = (96, 64)) -> np.ndarray:
    """(H, W, 3) of R, G, B: rectangles on grey; ``size`` is width and height."""
    pixels = np.full((size[1], size[0], 3), 90, np.uint8)
    for label, (x1, y1, x2, y2) in things:
        pixels[y1:y2, x1:x2] = COLOURS[label]
    return pixels


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path
