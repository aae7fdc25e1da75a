"""Pictures for people: results drawn on images, and the contact sheet of the demo."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.visualization import Visualizer
from PIL import Image, ImageDraw, ImageFont

from .errors import UserError

SCORE = 0.3  # results below are not drawn
TITLES = ('ground truth', 'detections')


class DrawHook(Hook):
    """Draw ground truth and result of every tested picture into a folder.

    One hook for detectors and segmentors: their own hooks write to different places.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: set[str] = set()

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        for sample in outputs:
            name = self._name(Path(sample.img_path))
            target = self.folder / name
            if target.exists() and target.samefile(sample.img_path):
                raise UserError(f'--show-dir {self.folder} holds the pictures themselves')
            draw(runner.visualizer, sample, target, truth=True)

    def _name(self, path: Path) -> str:
        """The file's own name; pictures of the same name in other folders get a number."""
        name, number = path.name, 1
        while name in self.names:
            number += 1
            name = f'{path.stem}_{number}{path.suffix}'
        self.names.add(name)
        return name


class CollectHook(Hook):
    """Keep the first results of a test run."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.samples: list[Any] = []

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self.samples += list(outputs)[: self.count - len(self.samples)]


def draw(visualizer: Visualizer, sample: Any, out_file: Path, *, truth: bool) -> None:
    """Write ``sample`` (a detection or segmentation result) drawn on its image.

    With ``truth`` the image stands twice: with the ground truth at the left.
    """
    visualizer.add_datasample(
        out_file.stem,
        mmcv.imread(sample.img_path, channel_order='rgb'),
        data_sample=sample,
        draw_gt=truth,
        **({'pred_score_thr': SCORE} if 'pred_instances' in sample else {}),
        out_file=str(out_file),
    )


def contact_sheet(
    samples: Sequence[Any], classes: Sequence[str], out_file: Path, *, columns: int = 3
) -> None:
    """Ground truth beside detections of several pictures, on one sheet.

    Args:
        samples: mmdet data samples with ``gt_instances`` and ``pred_instances`` in the
            coordinates of the original picture.
        classes: names by label.
        columns: pairs of pictures in a row.
    """
    pairs = []
    for sample in samples:
        truth, found = sample.gt_instances, sample.pred_instances
        found = found[found.scores >= SCORE]
        pairs.append(
            (
                _boxes(sample.img_path, truth.bboxes, truth.labels, None, classes),
                _boxes(sample.img_path, found.bboxes, found.labels, found.scores, classes),
            )
        )
    width = max(image.width for pair in pairs for image in pair)
    height = max(image.height for pair in pairs for image in pair)
    gap, header = 8, 24
    cell = (2 * width + 3 * gap, height + 2 * gap)
    rows = -(-len(pairs) // columns)
    sheet = Image.new('RGB', (columns * cell[0] + gap, rows * cell[1] + header + gap), 'white')
    pen = ImageDraw.Draw(sheet)
    for i, pair in enumerate(pairs):
        left, top = gap + i % columns * cell[0], header + gap + i // columns * cell[1]
        for j, image in enumerate(pair):
            x = left + j * (width + gap)
            sheet.paste(image, (x, top))
            if i < columns:
                pen.text((x, 6), TITLES[j], fill='black', font=ImageFont.load_default(14))
    out_file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out_file)


def _boxes(
    path: str, boxes: Any, labels: Any, scores: Any, classes: Sequence[str], zoom: int = 2
) -> Image.Image:
    """The picture at ``path``, enlarged, with its boxes (x1, y1, x2, y2 in its own pixels)."""
    image = Image.open(path).convert('RGB')
    image = image.resize((image.width * zoom, image.height * zoom), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(11)
    for i, (box, label) in enumerate(zip(np.asarray(boxes), np.asarray(labels), strict=True)):
        colour = _colour(int(label))
        x1, y1, x2, y2 = (float(v) * zoom for v in box)
        pen.rectangle((x1, y1, x2, y2), outline=colour, width=2)
        text = classes[int(label)] + (f' {float(scores[i]):.2f}' if scores is not None else '')
        area = pen.textbbox((max(x1, 0) + 2, max(y1, 0)), text, font=font)
        pen.rectangle((area[0] - 2, area[1], area[2] + 2, area[3] + 1), fill=colour)
        pen.text((area[0], max(y1, 0)), text, fill='white', font=font)
    return image


def _colour(label: int) -> tuple[int, int, int]:
    """A colour of its own for each label, dark enough for white text."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.38 % 1, 0.85, 0.67)
    return round(red * 255), round(green * 255), round(blue * 255)
