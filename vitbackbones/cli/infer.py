"""Run a trained model on images: pictures, and COCO-style JSON or label maps.

Writes NAME_prediction.jpg for every image NAME; detectors also write predictions.json (images,
categories and annotations as in COCO, each annotation with a score; masks as RLE), segmentors
NAME_labels.png, whose pixels are class indices in the order of the data set.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.registry import VISUALIZERS, init_default_scope

from vitbackbones.errors import UserError
from vitbackbones.inference.coco import annotations_of
from vitbackbones.inference.drawing import draw
from vitbackbones.inference.predict import check_images, load_model, test_pipeline, usable_device
from vitbackbones.launch.checks import build_backbone, require
from vitbackbones.launch.device import adapt_to_device
from vitbackbones.launch.loading import load_config

from .arguments import add_config_arguments


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
    check_images(paths)
    device = usable_device(args.device)
    cfg = load_config(args.config, args.cfg_options, demo=args.demo)
    require(cfg, 'test_dataloader', 'visualizer')
    cfg.pop('optim_wrapper', None)  # of no concern here
    adapt_to_device(cfg)
    init_default_scope(cfg.default_scope)
    build_backbone(cfg)
    model, meta = load_model(cfg, args.checkpoint, device)
    pipeline = test_pipeline(cfg)
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
            annotations += annotations_of(sample.pred_instances, i, len(annotations))
        print(f'{i + 1}/{len(paths)} {path}')
    if images:
        categories = [dict(id=k, name=name) for k, name in enumerate(meta['classes'])]
        found = dict(images=images, categories=categories, annotations=annotations)
        (out / 'predictions.json').write_text(json.dumps(found))
    print(f'results are in {out}')
