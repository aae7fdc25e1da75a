"""Results drawn on images, and the contact sheet of the demo."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.visualization import Visualizer
from PIL import Image, ImageDraw

from vitbackbones.data.values import colour_of, is_list_of_colours
from vitbackbones.errors import UserError
from vitbackbones.plotting import drawable_names, font_for_images
from vitbackbones.tasks import Task, task_of_sample

from .classes import classes_on
from .coco import decoded

SCORE = 0.3  # results below are not drawn, unless asked for
ZOOM = 2  # of the images on a contact sheet
MASK_PIXELS = 1 << 28  # of masks that are drawn at a time, a byte each


class DrawHook(Hook):
    """Draw ground truth and result of every tested image into a folder.

    One hook for all tasks: those of their packages write to different places.
    """

    def __init__(self, folder: Path, score: float = SCORE) -> None:
        self.folder = folder
        self.score = score
        self.names: set[str] = set()

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        for sample in outputs:
            name = self._name(Path(sample.img_path))
            target = self.folder / name
            if target.exists() and target.samefile(sample.img_path):
                raise UserError(f'--show-dir {self.folder} holds the images themselves')
            draw(runner.visualizer, sample, target, truth=True, score=self.score)

    def _name(self, path: Path) -> str:
        """The file's own name; images of the same name in other folders get a number."""
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


def draw(
    visualizer: Visualizer, sample: Any, out_file: Path, *, truth: bool, score: float = SCORE
) -> None:
    """Write ``sample`` (what a model has predicted) drawn on its image.

    With ``truth`` the image stands twice: with the ground truth at the left; the classes of a
    classifier stand below it. Detections below ``score`` are left out.
    """
    meta = visualizer.dataset_meta or {}
    task = task_of_sample(sample)
    image = read_image(sample.img_path)
    if task is Task.CLASSIFICATION:
        out_file.parent.mkdir(parents=True, exist_ok=True)
        classes_on(image, sample, meta['classes'], truth=truth).save(out_file)
        return
    parts: Iterable[Any] = [sample]
    pixels = np.array(image)
    if task is Task.DETECTION:
        parts = _with_bitmaps(sample, score, None if truth else MASK_PIXELS // pixels[..., 0].size)
    visualizer.dataset_meta = _drawable(meta, task)
    try:
        with warnings.catch_warnings():  # a box at the border is nothing to be told of
            warnings.filterwarnings('ignore', r'Warning: The (bbox|polygon) is out of bounds')
            for part in parts:
                visualizer.add_datasample(
                    out_file.stem,
                    pixels,
                    data_sample=part,
                    draw_gt=truth,
                    **({'pred_score_thr': score} if task is Task.DETECTION else {}),
                    out_file=str(out_file),
                )
                pixels = visualizer.get_image()  # the next ones are drawn on it
    finally:
        visualizer.dataset_meta = meta


def _drawable(meta: Mapping[str, Any], task: Task) -> dict[str, Any]:
    """``meta`` with colours and names of classes as the frameworks' visualizers can draw them."""
    drawn = dict(meta)
    if is_list_of_colours(meta.get('palette')):  # mmdet takes tuples, configs and JSON have lists
        drawn['palette'] = [tuple(colour) for colour in meta['palette']]
    if meta.get('classes') and task is Task.SEGMENTATION:  # by OpenCV, whose letters are ASCII's
        drawn['classes'] = [
            name if name.isascii() else f'class {label}'
            for label, name in enumerate(meta['classes'])
        ]
    elif meta.get('classes'):
        drawn['classes'] = drawable_names(meta['classes'])
    return drawn


def _with_bitmaps(sample: Any, score: float, most: int | None) -> Iterator[Any]:
    """The sample with masks that are run lengths drawn up, of what has the score alone.

    Args:
        most: objects in one sample, if several may come in its place; each has a mask as large as
            the image.
    """
    found = sample.get('pred_instances')
    if found is None or not isinstance(found.get('masks'), list):
        yield sample
        return
    shown = found[found.scores >= score]
    step = max(1, len(shown) if most is None else most)
    for start in range(0, max(1, len(shown)), step):
        some = shown[start : start + step]
        masks = [decoded(mask) for mask in some.masks]
        some.masks = np.array(masks, bool).reshape(-1, *sample.ori_shape[:2])
        drawn = sample.new()
        drawn.pred_instances = some
        yield drawn


def read_image(path: str | Path) -> Image.Image:
    """An image in RGB as models get it: turned upright, as its EXIF data say.

    Raises:
        OSError: it is not there, or cannot be read as an image.
    """
    import cv2
    import mmcv

    try:
        return Image.fromarray(mmcv.imread(str(path), channel_order='rgb'))
    except cv2.error as error:  # of nothing at all, of more than 2^30 pixels
        raise OSError(f'{path} cannot be read as an image') from error


def contact_sheet(samples: Sequence[Any], meta: Mapping[str, Any], out_file: Path) -> None:
    """Truth and result of several images, side by side on one sheet.

    Args:
        samples: data samples of mmdet (truth and detections, with masks if there are any), of
            mmseg (truth and prediction, the plain image before them), in the coordinates of the
            original image, or of mmpretrain (truth and predicted classes below the image).
        meta: of the dataset: its ``classes``, and for segmentation its ``palette``.
    """
    groups = [_panels(sample, meta) for sample in samples]
    columns = 6 // len(groups[0])
    images = [image for group in groups for image in group.values()]
    width, height = max(i.width for i in images), max(i.height for i in images)
    labelled = [s for s in samples if task_of_sample(s) is Task.SEGMENTATION]
    key = _key(labelled, meta)
    gap, header, line = 8, 24, 20
    cell = (len(groups[0]) * (width + gap) + gap, height + gap)
    per_line = columns * cell[0] // 160
    size = (
        columns * cell[0] + gap,
        header + -(-len(groups) // columns) * cell[1] + -(-len(key) // per_line) * line + gap,
    )
    sheet = Image.new('RGB', size, 'white')
    pen = ImageDraw.Draw(sheet)
    font = font_for_images(12)
    for i, group in enumerate(groups):
        left, top = gap + i % columns * cell[0], header + i // columns * cell[1]
        for j, (title, image) in enumerate(group.items()):
            x = left + j * (width + gap)
            sheet.paste(image, (x, top))
            if i < columns:
                pen.text((x, 4), title, fill='black', font=font)
    bottom = size[1] - gap - -(-len(key) // per_line) * line
    for i, (name, colour) in enumerate(key.items()):
        x, y = gap + i % per_line * 160, bottom + i // per_line * line
        pen.rectangle((x, y + 3, x + 14, y + 17), fill=colour)
        pen.text((x + 20, y + 1), name, fill='black', font=font)
    out_file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out_file)


def _panels(sample: Any, meta: Mapping[str, Any]) -> dict[str, Image.Image]:
    """The images of one sample by title."""
    image = read_image(sample.img_path)
    task = task_of_sample(sample)
    if task is Task.CLASSIFICATION:
        drawn = classes_on(enlarged(image, ZOOM), sample, meta['classes'], truth=True)
        return {'truth and prediction': drawn}
    if task is Task.SEGMENTATION:
        truth, found = sample.gt_sem_seg.data[0], sample.pred_sem_seg.data[0]
        return {
            'image': enlarged(image, ZOOM),
            'ground truth': enlarged(labels_on(image, truth, meta['palette']), ZOOM),
            'prediction': enlarged(labels_on(image, found, meta['palette']), ZOOM),
        }
    truth, found = sample.gt_instances, sample.pred_instances
    found = found[found.scores >= SCORE]
    return {
        'ground truth': objects_on(image, truth, meta, ZOOM),
        'detections': objects_on(image, found, meta, ZOOM),
    }


def enlarged(image: Image.Image, zoom: float) -> Image.Image:
    """The image with ``zoom`` times as many pixels a side."""
    size = (max(1, round(zoom * image.width)), max(1, round(zoom * image.height)))
    return image.resize(size, Image.Resampling.BICUBIC)


def labels_on(
    image: Image.Image, labels: Any, palette: Sequence[Sequence[int]], strength: float = 0.7
) -> Image.Image:
    """The image under the colours of its classes; what has none, as 255, stays as it is."""
    pixels, labels = np.array(image), np.asarray(labels)
    known = labels < len(palette)
    colours = np.array(palette)[labels[known]]
    pixels[known] = (1 - strength) * pixels[known] + strength * colours
    return Image.fromarray(pixels)


def _key(samples: Sequence[Any], meta: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Colours of all classes that appear in truth or prediction, by name."""
    maps = [np.asarray(m.data) for s in samples for m in (s.gt_sem_seg, s.pred_sem_seg)]
    seen = sorted({int(label) for m in maps for label in np.unique(m)})
    names = drawable_names(meta['classes'])
    return {names[i]: tuple(meta['palette'][i]) for i in seen if i < len(names)}


def colours_of(meta: Mapping[str, Any]) -> list[tuple[int, ...]]:
    """Those of ``palette``, or ours where there are not as many as ``classes``."""
    classes, palette = meta.get('classes') or (), meta.get('palette')
    if not is_list_of_colours(palette) or len(palette) < len(classes):
        return [colour_of(i) for i in range(len(classes))]
    return [tuple(colour) for colour in palette]


def objects_on(
    image: Image.Image, found: Any, meta: Mapping[str, Any], zoom: float, *, names: bool = True
) -> Image.Image:
    """The image, enlarged, with boxes (x1, y1, x2, y2 in its own pixels), masks and names.

    Args:
        meta: ``classes`` and perhaps ``palette``, which has a colour for each.
    """
    classes, palette = drawable_names(meta['classes']), colours_of(meta)
    colours = [palette[int(label)] for label in found.labels]
    words = [classes[int(label)] if names else '' for label in found.labels]
    if names and 'scores' in found:
        words = [f'{word} {score:.2f}' for word, score in zip(words, found.scores, strict=True)]
    return marked(image, np.asarray(found.bboxes), colours, words, _masks(found), zoom)


def marked(
    image: Image.Image,
    boxes: np.ndarray,
    colours: Sequence[tuple[int, ...]],
    words: Sequence[str],
    masks: Iterable[np.ndarray],
    zoom: float,
) -> Image.Image:
    """The image, enlarged, with boxes (N, 4) of x1, y1, x2, y2 in its own pixels.

    Args:
        words: at the boxes; nothing is written for those that are empty.
        masks: (H, W) of bool; under the colours of the boxes, as many as there are.
    """
    pixels = np.array(image)
    for mask, colour in zip(masks, colours, strict=False):
        pixels[mask] = 0.5 * pixels[mask] + 0.5 * np.array(colour)
    image = enlarged(Image.fromarray(pixels), zoom)
    pen = ImageDraw.Draw(image)
    font = font_for_images(10)
    for box, colour, text in zip(boxes, colours, words, strict=True):
        x1, y1, x2, y2 = (float(v) * zoom for v in box)
        pen.rectangle((x1, y1, x2, y2), outline=colour, width=2)
        if not text:
            continue
        left = max(x1, 0) + 2
        area = pen.textbbox((left, max(y1, 0)), text, font=font)
        if min(x2 - x1, (y2 - y1) / 2) < area[3] - area[1]:  # it would hide the object
            area = pen.textbbox((left, max(y1 - (area[3] - area[1]) - 4, 0)), text, font=font)
        pen.rectangle((area[0] - 2, area[1] - 1, area[2] + 2, area[3] + 1), fill=colour)
        pen.text(area[:2], text, fill='white', font=font, anchor='lt')
    return image


def _masks(found: Any) -> np.ndarray:
    """(N, H, W) bool of truth (mmdet's bitmaps) or detections; none if there are no masks."""
    masks = found.get('masks', ())
    return np.asarray(getattr(masks, 'masks', masks), dtype=bool)
