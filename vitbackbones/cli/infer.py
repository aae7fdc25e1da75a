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

from vitbackbones.checkpoint import load_whole, read_checkpoint

from .config import (
    adapt_to_device,
    add_config_arguments,
    build_backbone,
    dataset_class,
    load_config,
    require,
)
from .errors import UserError
from .pictures import draw


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument(
        'checkpoint', help='a checkpoint of `vitbackbones train`, or a published one'
    )
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
    device = usable_device(args.device)
    cfg = load_config(args.config, args.cfg_options, demo=args.demo)
    require(cfg, 'test_dataloader', 'visualizer')
    cfg.pop('optim_wrapper', None)  # of no concern here
    adapt_to_device(cfg)
    init_default_scope(cfg.default_scope)
    build_backbone(cfg)
    model, meta = _load_model(cfg, args.checkpoint, device)
    pipeline = _pipeline(cfg)
    visualizer = VISUALIZERS.build({**cfg.visualizer, 'vis_backends': []})
    visualizer.dataset_meta = meta

    out = Path(args.out_dir)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'--out-dir {out}: {error.strerror}') from error
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i, path in enumerate(paths):
        packed = pipeline({'img_path': str(path), 'img_id': i})
        with torch.no_grad():
            sample = model.test_step({key: [value] for key, value in packed.items()})[0].cpu()
        draw(visualizer, sample, out / f'{path.stem}_prediction.jpg', truth=False)
        if 'pred_sem_seg' in sample:
            labels = sample.pred_sem_seg.data[0].numpy()
            depth = np.uint8 if labels.max() < 256 else np.uint16
            cv2.imwrite(str(out / f'{path.stem}_labels.png'), labels.astype(depth))
        if 'pred_instances' in sample:
            height, width = sample.ori_shape
            images.append(dict(id=i, file_name=str(path), width=width, height=height))
            annotations += _annotations(sample.pred_instances, i, len(annotations))
        print(f'{i + 1}/{len(paths)} {path}')
    if images:
        categories = [dict(id=k, name=name) for k, name in enumerate(meta['classes'])]
        found = dict(images=images, categories=categories, annotations=annotations)
        (out / 'predictions.json').write_text(json.dumps(found))
    print(f'results are in {out}')


def usable_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        UserError: there is none, or it cannot be used.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:
        reason = str(error).partition(chr(10))[0]
        raise UserError(f'--device {name!r} cannot be used: {reason}') from error
    return device


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


def _load_model(cfg: Config, source: str, device: torch.device) -> tuple[Any, Mapping[str, Any]]:
    """The model with the checkpoint's weights, and the data set's classes and palette."""
    checkpoint = read_checkpoint(source)
    model = revert_sync_batchnorm(ROOT_MODELS.build(cfg.model))
    load_whole(model, checkpoint, source)
    meta = checkpoint.get('meta', {}).get('dataset_meta')
    if meta is None:
        dataset = cfg.test_dataloader.dataset
        meta = {**dataset_class(cfg, dataset).METAINFO, **dataset.get('metainfo', {})}
    return model.to(device).eval(), meta


def _pipeline(cfg: Config) -> Compose:
    """The config's test pipeline without its annotations."""
    steps = cfg.test_dataloader.dataset.pipeline
    return Compose([step for step in steps if not step['type'].endswith('LoadAnnotations')])


def _annotations(found: Any, image_id: int, first_id: int) -> list[dict[str, Any]]:
    """Detections as annotations of COCO, boxes as (x, y, width, height) in pixels."""
    rows = []
    for j in range(len(found)):
        x1, y1, x2, y2 = found.bboxes[j].tolist()
        row = dict(
            id=first_id + j,
            image_id=image_id,
            category_id=int(found.labels[j]),
            bbox=[x1, y1, x2 - x1, y2 - y1],
            score=float(found.scores[j]),
        )
        if 'masks' in found:
            row['segmentation'] = _rle(found.masks[j].numpy())
        rows.append(row)
    return rows


def _rle(mask: np.ndarray) -> dict[str, Any]:
    from pycocotools import mask as coco_mask  # comes with mmdet, which made the mask

    code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return dict(size=code['size'], counts=code['counts'].decode())
