"""Run a trained model on images: pictures, and COCO-style JSON or label maps.

Writes NAME_prediction.jpg for every image NAME; detectors also write predictions.json (images,
categories and annotations as in COCO, each annotation with a score; masks as RLE), segmentors
NAME_labels.png, whose pixels are class indices in the order of the data set.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import VISUALIZERS, init_default_scope

from vitbackbones.checkpoint import find_weights, read_checkpoint

from .config import (
    adapt_to_device,
    add_config_arguments,
    build_backbone,
    dataset_class,
    load_config,
)
from .errors import UserError
from .pictures import draw
from .test import check_fits

HELP = 'run a trained model on images'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='a checkpoint of `vitbackbones train`')
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='image files')
    parser.add_argument('--out-dir', required=True, help='where results are written')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')


def run(args: argparse.Namespace) -> None:
    """Infer as ``args`` say.

    Raises:
        UserError: the config, an option or an image is not right; nothing was written then.
        CheckpointError: the checkpoint cannot be read or belongs to another model.
    """
    paths = [Path(name) for name in args.images]
    _check_images(paths)
    cfg = load_config(args.config, args.cfg_options, demo=args.demo)
    adapt_to_device(cfg)
    init_default_scope(cfg.default_scope)
    build_backbone(cfg)
    model, meta = _load_model(cfg, args.checkpoint, args.device)
    pipeline = _pipeline(cfg)
    visualizer = VISUALIZERS.build({**cfg.visualizer, 'vis_backends': []})
    visualizer.dataset_meta = meta

    out = Path(args.out_dir)
    out.mkdir(parents=True, exist_ok=True)
    results = []
    for i, path in enumerate(paths):
        packed = pipeline(dict(img_path=str(path), img_id=i))
        batch = {key: [value] for key, value in packed.items()}
        with torch.no_grad():
            sample = model.test_step(batch)[0].cpu()
        results.append(sample)
        draw(visualizer, sample, out / f'{path.stem}_prediction.jpg', truth=False)
        if 'pred_sem_seg' in sample:
            labels = sample.pred_sem_seg.data[0].numpy()
            depth = np.uint8 if labels.max() < 256 else np.uint16
            cv2.imwrite(str(out / f'{path.stem}_labels.png'), labels.astype(depth))
        print(f'{i + 1}/{len(paths)} {path}')
    if 'pred_instances' in results[0]:
        text = json.dumps(_coco(paths, results, meta['classes']))
        (out / 'predictions.json').write_text(text)
    print(f'results are in {out}')


def _check_images(paths: Sequence[Path]) -> None:
    stems: dict[str, Path] = {}
    for path in paths:
        if not path.is_file():
            raise UserError(f'there is no image {path}')
        if cv2.imread(str(path), cv2.IMREAD_COLOR) is None:
            raise UserError(f'{path} cannot be read as an image')
        if path.stem in stems:
            raise UserError(
                f'{stems[path.stem]} and {path} would write to the same result; '
                'run them into different folders'
            )
        stems[path.stem] = path


def _load_model(cfg: Config, source: str, device: str) -> tuple[Any, Mapping[str, Any]]:
    """The model with the checkpoint's weights, and the data set's classes and palette."""
    checkpoint = read_checkpoint(source)
    model = revert_sync_batchnorm(ROOT_MODELS.build(cfg.model))
    check_fits(model, checkpoint, source)
    model.load_state_dict(find_weights(checkpoint)[0], strict=False)
    meta = checkpoint.get('meta', {}).get('dataset_meta')
    if meta is None:
        dataset = cfg.test_dataloader.dataset
        meta = {**dataset_class(cfg, dataset).METAINFO, **dataset.get('metainfo', {})}
    return model.to(device).eval(), meta


def _pipeline(cfg: Config) -> Compose:
    """The config's test pipeline without its annotations."""
    steps = cfg.test_dataloader.dataset.pipeline
    return Compose([step for step in steps if not step['type'].endswith('LoadAnnotations')])


def _coco(paths: Sequence[Path], samples: Sequence[Any], classes: Sequence[str]) -> dict[str, Any]:
    """Detections as a COCO annotation file, boxes as (x, y, width, height) in pixels."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i, (path, sample) in enumerate(zip(paths, samples, strict=True)):
        height, width = sample.ori_shape
        images.append(dict(id=i, file_name=str(path), width=width, height=height))
        found = sample.pred_instances
        for j in range(len(found)):
            x1, y1, x2, y2 = found.bboxes[j].tolist()
            row = dict(
                id=len(annotations),
                image_id=i,
                category_id=int(found.labels[j]),
                bbox=[x1, y1, x2 - x1, y2 - y1],
                score=float(found.scores[j]),
            )
            if 'masks' in found:
                row['segmentation'] = _rle(found.masks[j].numpy())
            annotations.append(row)
    categories = [dict(id=k, name=name) for k, name in enumerate(classes)]
    return dict(images=images, categories=categories, annotations=annotations)


def _rle(mask: np.ndarray) -> dict[str, Any]:
    from pycocotools import mask as coco_mask  # comes with mmdet, which made the mask

    code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return dict(size=code['size'], counts=code['counts'].decode())
