"""Images that a whole model is checked with: of the config's test set, else drawn ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor

from vitbackbones.data.configs import image_folder, iter_datasets
from vitbackbones.data.demo_scenes import make_scene

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp')

#: Drawn scenes have no room for objects below this side.
SMALLEST_SCENE = 96

#: The value of an image with nothing on it.
GREY = 114


def pictures(cfg: Config, shapes: Sequence[tuple[int, int, int]]) -> list[Tensor]:
    """For each (B, H, W) a batch of images (B, 3, H, W), uint8 in R, G, B; the last is plain grey.

    What a model was trained for shows most of what it does, so images of the test set are taken
    where they are on the disk.
    """
    found = iter(_files(cfg, sum(batch for batch, _, _ in shapes)))
    rng = np.random.default_rng(0)
    batches = []
    for i, (batch, height, width) in enumerate(shapes):
        if i == len(shapes) - 1:
            batches.append(torch.full((batch, 3, height, width), GREY, dtype=torch.uint8))
            continue
        images = [_image(next(found, None), height, width, rng) for _ in range(batch)]
        batches.append(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous())
    return batches


def _files(cfg: Config, number: int) -> list[Path]:
    """The first images of the test set, of which there may be none."""
    whole = (cfg.get('test_dataloader') or {}).get('dataset')
    if not whole:
        return []
    dataset = next(iter_datasets(whole))
    folders = [Path(image_folder(dataset, key)) for key in ('img', 'img_path')]
    for folder in folders:
        if folder.is_dir() and folder != Path():
            names = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
            if names:
                return names[:number]
    return []


def _image(path: Path | None, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) in R, G, B, of a file if it can be read."""
    image = None if path is None else cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is not None:
        return cv2.resize(image[..., ::-1], (width, height), interpolation=cv2.INTER_AREA)
    scene = make_scene(rng, max(height, SMALLEST_SCENE), max(width, SMALLEST_SCENE))
    return scene.image[:height, :width]
