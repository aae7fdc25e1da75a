"""A detector that is right from the start: it tells a red rectangle from a green one.

Its labels are numbers, as those of any network; what they stand for is ``knows``, the classes in
the order that it was trained with. It trains only on truth that agrees with that.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.structures import InstanceData
from PIL import Image
from torch import Tensor, nn

SIZE = 64
BOX = (8, 16, 24, 20)  # x, y, width, height
_NUMBERS = count()
#: Index of a colour's channel in an image as OpenCV reads it.
CHANNELS = {'red': 2, 'green': 1}


@MODELS.register_module('ColourDetector')
class ColourDetector(BaseModel):
    def __init__(self, knows: Any, bbox_head: Any = None, **options: Any) -> None:
        super().__init__(**options)
        self.knows = knows
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, inputs: Tensor, data_samples: Any, mode: str = 'tensor') -> Any:
        found = [self._find(image) for image in inputs]  # of (3, H, W)
        if mode == 'loss':
            for (box, label, _), sample in zip(found, data_samples, strict=True):
                truth = sample.gt_instances
                assert truth.labels.tolist() == [label], (truth.labels, label)
                assert truth.bboxes.tolist() == [box.tolist()]
            return dict(loss_cls=self.weight.square())
        for (box, label, mask), sample in zip(found, data_samples, strict=True):
            sample.pred_instances = InstanceData(
                bboxes=box[None],
                scores=torch.ones(1),
                labels=torch.tensor([label]),
                masks=mask[None],
            )
        return data_samples

    def _find(self, image: Tensor) -> tuple[Tensor, int, Tensor]:
        name = max(self.knows, key=lambda name: image[CHANNELS[name]].sum().item())
        mask = image[CHANNELS[name]] > 128  # (H, W)
        y, x = mask.nonzero().T
        box = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]).float()
        return box, self.knows.index(name), mask


assert DetDataSample is not None  # mmdet's classes are registered by its import


class Scenes:
    """One red and one green scene for training, and as many for validation.

    Attributes:
        content: of each split's annotation file, to be changed before :meth:`save`.
        files: their places.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(exist_ok=True)
        self.files = {split: root / f'{split}.json' for split in ('train', 'val')}
        x, y, w, h = BOX
        images, annotations = [], []
        for i, (name, channel) in enumerate((('red', 0), ('green', 1))):
            pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
            pixels[y : y + h, x : x + w, channel] = 255
            Image.fromarray(pixels).save(root / f'{name}.png')
            images.append(dict(id=i + 1, file_name=f'{name}.png', width=SIZE, height=SIZE))
            corners = [x, y, x + w, y, x + w, y + h, x, y + h]
            annotations.append(
                dict(
                    id=i + 11,
                    image_id=i + 1,
                    category_id=i + 3,
                    bbox=list(BOX),
                    area=w * h,
                    iscrowd=0,
                    segmentation=[corners],
                )
            )
        categories = [dict(id=3, name='red'), dict(id=4, name='green')]
        content = dict(images=images, annotations=annotations, categories=categories)
        self.content = {split: json.loads(json.dumps(content)) for split in self.files}

    def save(self, encoding: str = 'utf-8') -> dict[str, bytes]:
        """Write the annotation files; what is in them by split."""
        for split, path in self.files.items():
            path.write_bytes(json.dumps(self.content[split]).encode(encoding))
        return {split: path.read_bytes() for split, path in self.files.items()}

    def config(
        self,
        name: str = 'config',
        classes: Any = ('red', 'green'),
        val_classes: Any = None,
        knows: Any = ('red', 'green'),
        masks: bool = True,
        evaluate: Callable[[dict[str, Any]], Any] = lambda metric: metric,
        imports: Mapping[str, str] | None = None,
        **more: Any,
    ) -> str:
        """Write a config that trains for one epoch and validates; its path.

        Args:
            evaluate: makes an evaluator of the metric.
            imports: modules of the types by name that the config is to have as classes.
        """
        unique = f'colours{next(_NUMBERS)}'  # mmengine keeps loggers and visualizers by their names
        train = [
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=masks),
            dict(type='PackDetInputs'),
        ]
        meta = ('img_id', 'img_path', 'ori_shape', 'img_shape')
        test = [dict(type='LoadImageFromFile'), dict(type='PackDetInputs', meta_keys=meta)]

        def loader(split: str, pipeline: Any, names: Any, **options: Any) -> dict[str, Any]:
            dataset = dict(
                type='CocoDataset',
                data_root=str(self.root),
                ann_file=self.files[split].name,
                data_prefix=dict(img=''),
                metainfo=dict(classes=names),
                pipeline=pipeline,
                **options,
            )
            sampler = dict(type='DefaultSampler', shuffle=False)
            return dict(batch_size=1, num_workers=0, sampler=sampler, dataset=dataset)

        evaluator = dict(
            type='CocoMetric',
            ann_file=str(self.files['val']),
            metric=['bbox', 'segm'] if masks else 'bbox',
            classwise=True,
        )
        val = loader('val', test, val_classes or classes, test_mode=True)
        values = dict(
            model=dict(
                type='ColourDetector',
                knows=knows,
                bbox_head=dict(num_classes=2),
                data_preprocessor=dict(type='DetDataPreprocessor'),
            ),
            train_dataloader=loader('train', train, classes),
            val_dataloader=val,
            test_dataloader=val,
            train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=1),
            val_cfg=dict(type='ValLoop'),
            test_cfg=dict(type='TestLoop'),
            val_evaluator=evaluate(evaluator),
            test_evaluator=evaluate(evaluator),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.0)),
            visualizer=dict(
                type='DetLocalVisualizer',
                name=unique,
                vis_backends=[dict(type='LocalVisBackend')],
            ),
            experiment_name=unique,
            default_scope='mmdet',
            **more,
        )
        path = self.root / f'{name}.py'
        text = ''.join(f'{key} = {value!r}\n' for key, value in values.items())
        for kind, module in (imports or {}).items():
            text = f'from {module} import {kind}\n' + text.replace(
                f"'type': '{kind}'", f"'type': {kind}"
            )
        path.write_text(text)
        return str(path)
