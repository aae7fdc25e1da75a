"""Images of a dataset as they are annotated, next to what its pipeline makes of them."""

from __future__ import annotations

import copy
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from mmengine.structures import InstanceData
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vitbackbones.data.loading import CheckedPipeline, iter_built_datasets
from vitbackbones.engine import random_states
from vitbackbones.errors import UserError
from vitbackbones.launch.built import as_built
from vitbackbones.plotting import drawable, drawable_names, font_for_images

from .drawing import colours_of, enlarged, labels_on, objects_on

WIDTH = 360  # of every image on the sheet, in pixels
MOST_NAMES = 20  # objects whose names are written at their boxes; more would cover the image
#: A class of more of the pixels is what everything else lies in.
MOST_COLOURED = 0.6
STRENGTH = 0.45  # of the colours of label maps: the image shows through
#: Images that are looked at for the classes in them: label maps have to be read for that.
LOOKED_AT = {'objects': 2000, 'labels': 60}


class Picture(NamedTuple):
    """An image with what is to be learnt from it.

    Attributes:
        image: RGB.
        objects: boxes in its pixels, labels and masks; None of label maps.
        labels: (H, W); None of objects.
    """

    image: Image.Image
    objects: InstanceData | None
    labels: NDArray[Any] | None


def check_sheet(out: Path, *, force: bool, data: Path | None = None) -> None:
    """Whether a sheet can be written to a path, before there is one.

    Args:
        force: write over a file that is there.
        data: the user's folder, of whose images the sheet would be one.

    Raises:
        UserError: it cannot.
    """
    if out.suffix.lower() not in ('.png', '.jpg', '.jpeg'):
        raise UserError(f'--preview {out}: its name must end in .png or .jpg')
    if not out.parent.is_dir():
        raise UserError(f'--preview {out}: there is no folder {out.parent}')
    if data is not None and out.resolve().is_relative_to(data.resolve()):
        raise UserError(f'--preview {out} is in the data, {data}: name a file elsewhere')
    if out.exists() and not force:
        raise UserError(f'--preview {out} is there already; --force writes over it')


def preview(cfg: Config, out: Path, split: str = 'train', count: int = 6, draws: int = 2) -> None:
    """Draw a sheet with images as annotated, each next to ``draws`` results of its pipeline.

    Which images is drawn from a seed, so that all classes are shown if ``count`` allows it.

    Args:
        cfg: whose types are known: mmdet or mmseg is imported.
        out: an image file.
        split: 'train', 'val' or 'test'.

    Raises:
        UserError: there is no such data, a file of it is wrong, or the sheet cannot be written.
    """
    check_sheet(out, force=True)
    if not cfg.get(f'{split}_dataloader'):
        raise UserError(f'--preview: the config has no {split}_dataloader')
    init_default_scope(cfg.default_scope)
    with tempfile.TemporaryDirectory(prefix='vitbackbones-') as folder:
        own = copy.deepcopy(cfg)
        own.work_dir = folder  # of copies of annotation files that are put right
        dataset = DATASETS.build(as_built(own, (split,))[f'{split}_dataloader'].dataset)
    if not len(dataset):
        raise UserError(f'--preview: the {split} dataset has no image')
    meta = _meta(dataset)
    rows = []
    states = random_states.take()
    try:
        for i in _chosen(dataset, count):
            shown = [('as annotated', _annotated(dataset, i))]
            for k in range(draws):
                random_states.seed(0, i, k)
                shown.append((f'as the pipeline makes it, {k + 1}', _made(dataset, dataset[i])))
            rows.append((Path(dataset.get_data_info(i)['img_path']).name, shown))
    finally:
        random_states.restore(states)
    try:
        _sheet(rows, meta, f'{split}: {len(rows)} of {len(dataset)} images').save(out)
    except OSError as error:
        raise UserError(f'--preview {out} cannot be written: {error.strerror or error}') from error


# -------------------------------------------------------------------------------- the images


def _chosen(dataset: Any, count: int) -> list[int]:
    """Images in a seeded order, those first that show a class that the ones before do not."""
    order = random.Random(0).sample(range(len(dataset)), len(dataset))
    kind = 'labels' if 'seg_map_path' in dataset.get_data_info(0) else 'objects'
    classes = {i: _classes_in(dataset, i) for i in order[: LOOKED_AT[kind]]}
    chosen: list[int] = []
    shown: set[int] = set()
    while classes and len(chosen) < count:
        best = max(classes, key=lambda i: len(classes[i] - shown))  # of equal ones the first
        shown |= classes.pop(best)
        chosen.append(best)
    return chosen


def _classes_in(dataset: Any, i: int) -> set[int]:
    info = dataset.get_data_info(i)
    if 'instances' in info:
        return {each['bbox_label'] for each in info['instances'] if not each.get('ignore_flag')}
    labels = _annotated(dataset, i).labels
    return set() if labels is None else set(np.unique(labels).tolist()) - {255}


def _annotated(dataset: Any, i: int) -> Picture:
    """The image with its annotations as they are in the files."""
    steps = list(_loading(next(iter_built_datasets(dataset)).pipeline))
    results = CheckedPipeline(steps)(copy.deepcopy(dataset.get_data_info(i)))
    image = Image.fromarray(_rgb(results['img'], _is_bgr(steps)))
    if 'gt_seg_map' in results and 'gt_bboxes' not in results:
        return Picture(image, None, np.asarray(results['gt_seg_map']))
    kept = ~np.asarray(results.get('gt_ignore_flags', np.zeros(len(results['gt_bboxes']), bool)))
    found = InstanceData(bboxes=results['gt_bboxes'].numpy()[kept])
    found.labels = np.asarray(results['gt_bboxes_labels'])[kept]
    if 'gt_masks' in results:
        found.masks = _bitmaps(results['gt_masks'])[kept]
    return Picture(image, found, None)


def _loading(pipeline: Any) -> Iterator[Any]:
    """The steps of a pipeline that read files, in their order, those inside others too."""
    inner = getattr(pipeline, 'transforms', None) or getattr(pipeline, 'steps', None)
    if isinstance(inner, (list, tuple)):
        for step in inner:
            yield from _loading(step)
    elif type(pipeline).__name__.startswith('Load'):
        yield pipeline


def _made(dataset: Any, packed: Any) -> Picture:
    """What the pipeline hands to the model, in colours that can be looked at."""
    steps = [step for part in iter_built_datasets(dataset) for step in _all(part.pipeline)]
    steps += _all(getattr(dataset, 'pipeline', None))  # of several images, as Mosaic
    pixels = packed['inputs'].permute(1, 2, 0).numpy()  # (H, W, 3)
    normalising = next((step for step in steps if type(step).__name__ == 'Normalize'), None)
    bgr = _is_bgr(steps)
    if normalising is not None:
        pixels = pixels * normalising.std + normalising.mean
        bgr = bgr and not normalising.to_rgb
    sample = packed['data_samples']
    image = Image.fromarray(_rgb(pixels, bgr))
    if 'bboxes' not in sample.get('gt_instances', ()) and 'gt_sem_seg' in sample:
        return Picture(image, None, np.asarray(sample.gt_sem_seg.values()[0][0]))
    objects = sample.gt_instances
    boxes = getattr(objects.bboxes, 'tensor', objects.bboxes)
    found = InstanceData(bboxes=boxes.numpy(), labels=objects.labels.numpy())
    if 'masks' in objects:
        found.masks = _bitmaps(objects.masks)
    return Picture(image, found, None)


def _all(pipeline: Any) -> Iterator[Any]:
    inner = getattr(pipeline, 'transforms', None) or getattr(pipeline, 'steps', None)
    for step in inner if isinstance(inner, (list, tuple)) else ():
        yield step
        yield from _all(step)


def _is_bgr(steps: Sequence[Any]) -> bool:
    """Whether images are loaded in OpenCV's order of colours."""
    loading = next((step for step in steps if type(step).__name__ == 'LoadImageFromFile'), None)
    return getattr(loading, 'color_type', 'color') == 'color'


def _rgb(pixels: NDArray[Any], bgr: bool) -> NDArray[np.uint8]:
    """(H, W, 3) bytes of an image of 0 to 255, of any number of channels."""
    if pixels.ndim == 2 or pixels.shape[2] != 3:
        pixels = np.repeat(pixels.reshape(*pixels.shape[:2], -1)[..., :1], 3, axis=2)
    pixels = pixels[..., ::-1] if bgr else pixels
    return np.ascontiguousarray(pixels.round().clip(0, 255).astype(np.uint8))


def _bitmaps(masks: Any) -> NDArray[np.bool_]:
    """mmdet's masks or polygons as (N, H, W)."""
    return np.asarray(masks.to_ndarray(), dtype=bool).reshape(len(masks), masks.height, masks.width)


# --------------------------------------------------------------------------------- the sheet


def _meta(dataset: Any) -> dict[str, Any]:
    """Names and colours of the classes."""
    meta: Mapping[str, Any] = getattr(dataset, 'metainfo', None) or {}
    classes = list(meta.get('classes') or ())
    return dict(classes=classes, palette=colours_of(meta), uncoloured=())


def _drawn(picture: Picture, meta: Mapping[str, Any]) -> Image.Image:
    zoom = WIDTH / picture.image.width
    if picture.objects is None:
        labels = np.array(picture.labels)
        labels[np.isin(labels, meta['uncoloured'])] = 255
        return enlarged(labels_on(picture.image, labels, meta['palette'], STRENGTH), zoom)
    names = len(meta['classes']) > 1 and len(picture.objects) <= MOST_NAMES
    return objects_on(picture.image, picture.objects, meta, zoom, names=names)


def _uncoloured(pictures: Sequence[Picture], classes: Sequence[str]) -> tuple[int, ...]:
    """Labels that stay as the image is: a background, by its name or since most is it."""
    counts = np.zeros(256, np.int64)
    for picture in pictures:
        if picture.labels is not None:
            counts += np.bincount(np.asarray(picture.labels).ravel(), minlength=256)
    known = counts[: len(classes)]
    return tuple(
        i
        for i, name in enumerate(classes)
        if name.lower() == 'background' or known[i] > MOST_COLOURED * counts.sum()
    )


def _labels_in(picture: Picture) -> set[int]:
    found = picture.labels if picture.objects is None else picture.objects.labels
    return set(np.unique(np.asarray(found)).tolist())


def _sheet(
    rows: Sequence[tuple[str, Sequence[tuple[str, Picture]]]], meta: Mapping[str, Any], title: str
) -> Image.Image:
    """A row for each image, its captions above it, and the colours of all classes at the end."""
    gap, line = 10, 22
    font = font_for_images(12)
    pictures = [picture for _, shown in rows for _, picture in shown]
    uncoloured = _uncoloured(pictures, meta['classes'])
    meta = dict(meta, uncoloured=uncoloured, classes=drawable_names(meta['classes']))
    drawn = [(name, [(what, _drawn(each, meta)) for what, each in shown]) for name, shown in rows]
    heights = [max(image.height for _, image in shown) for _, shown in drawn]
    seen = {label for picture in pictures for label in _labels_in(picture)}
    plain = meta['uncoloured']
    key = [
        (f'{meta["classes"][i]} (no colour)' if i in plain else meta['classes'][i], i)
        for i in sorted(seen)
        if i < len(meta['classes'])
    ]
    width = gap + max(len(shown) for _, shown in drawn) * (WIDTH + gap)
    columns = max(1, (width - gap) // 180)
    bottom = line + gap + sum(height + line + gap for height in heights)
    sheet = Image.new('RGB', (width, bottom + -(-len(key) // columns) * line + gap), 'white')
    pen = ImageDraw.Draw(sheet)
    pen.text((gap, gap // 2), drawable(title), fill='black', font=font)
    top = line + gap
    for (name, shown), height in zip(drawn, heights, strict=True):
        for i, (what, image) in enumerate(shown):
            left = gap + i * (WIDTH + gap)
            caption = f'{name}, {what}' if i == 0 else what
            pen.text((left, top), _shortened(drawable(caption), pen, font), fill='black', font=font)
            sheet.paste(image, (left, top + line))
        top += height + line + gap
    for i, (name, label) in enumerate(key):
        x, y = gap + i % columns * 180, bottom + i // columns * line
        fill = 'white' if label in plain else tuple(meta['palette'][label])
        pen.rectangle((x, y + 3, x + 14, y + 17), fill=fill, outline='black')
        pen.text((x + 20, y + 1), name, fill='black', font=font)
    return sheet


def _shortened(text: str, pen: ImageDraw.ImageDraw, font: Any) -> str:
    """Without what is in the middle, where it is too long for a column."""
    while pen.textlength(text, font=font) > WIDTH:
        middle = len(text) // 3
        text = f'{text[: middle - 1]}...{text[middle + 4 :]}'
    return text
