"""From a config and its predictions to the folder of a report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope

from vitbackbones.data.before_training import check_annotations
from vitbackbones.errors import UserError, notice
from vitbackbones.inference.drawing import colours_of
from vitbackbones.launch.checks import check_config

from . import page
from .against import check_comparable, compare, read_report
from .coco_source import CocoTest, have_masks, read_predictions, read_test_set, truths_of
from .detection import measure
from .label_map_source import (
    LabelMapTest,
    load_prediction,
    load_truth,
    read_label_map_test,
    read_pairs,
)
from .pictures import (
    Picture,
    contact_sheet,
    picture_of_detection,
    picture_of_labels,
    worst,
)
from .plots import detection_plots, segmentation_plots
from .predicting import check_order, kind_of, predict
from .sections import (
    against_sections,
    detection_sections,
    segmentation_sections,
    worst_sections,
)
from .segmentation import Segmentation
from .writing import without_nan, write_report

#: Images that got better, and that got worse, on the page.
DIFFERENT = 10
MODEL = {'detection': 'detector', 'segmentation': 'segmentor'}


def report(
    cfg: Config,
    out: Path,
    *,
    source: str | None = None,
    predictions: Path | None = None,
    against: Path | None = None,
    images: int = 12,
    facts: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Write what a model gets right and wrong on its test set into a folder; the figures.

    Args:
        cfg: with a ``work_dir``, for the log of the test.
        source: a checkpoint or an ONNX file, whose predictions are kept in ``out``.
        predictions: what `test --dump` has written, in place of ``source``.
        against: an earlier report of the same test set.
        images: how many of the worst images are shown.
        facts: what the page says at its top.

    Raises:
        UserError: config, data, predictions or the earlier report are not right, or the folder
            cannot be written; predictions that were made stay there.
        CheckpointError: the checkpoint cannot be read or belongs to another model.
    """
    if (source is None) == (predictions is None):
        raise UserError('a report is of a CHECKPOINT or of --predictions, give one of them')
    init_default_scope(cfg.default_scope)
    kind = kind_of(cfg)
    task = 'detection' if kind == 'coco' else 'segmentation'
    if predictions is not None and not predictions.exists():
        raise UserError(f'there is no --predictions {predictions}')
    earlier = None if against is None else read_report(against)
    check_config(cfg, ('test',))
    if predictions is not None:  # else it is done where they are made
        check_annotations(cfg, ('test',), label_maps=0)
    test = read_test_set(cfg) if task == 'detection' else read_label_map_test(cfg)
    if earlier is not None:
        assert against is not None
        check_comparable(earlier, against, task, test.classes)
    if predictions is None:
        assert source is not None
        if task == 'segmentation':
            check_order(test.classes, source)
        predictions = predict(cfg, source, out)
    if isinstance(test, CocoTest):
        figures, pictures = _of_detector(test, predictions, images)
        plots, sections = detection_plots(figures), detection_sections
    else:
        figures, pictures = _of_segmentor(test, predictions, images)
        plots, sections = segmentation_plots(figures), segmentation_sections
    if pictures:
        plots['worst_images'] = contact_sheet(pictures)
    parts = [page.facts({**(facts or {}), 'images': str(figures['images'])})]
    parts += sections(figures, plots)
    if earlier is not None:
        assert against is not None
        figures['against'] = compare(without_nan(figures), earlier, against, DIFFERENT)
        parts += against_sections(figures['against'])
    parts += worst_sections(figures, pictures)
    title = f'What the {MODEL[task]} gets right and wrong'
    write_report(out, page.page(title, parts), figures, plots)
    return figures


def _of_detector(
    test: CocoTest, predictions: Path, images: int
) -> tuple[dict[str, Any], list[Picture]]:
    found = read_predictions(predictions, test)
    masks = found.mask is not None and have_masks(test)
    truths = truths_of(test, masks=masks)
    result = measure(truths, found, test.classes, test.names)
    chosen = worst(result.figures['per_image'], 'faults', images)

    def draw(i: int) -> Picture:
        return picture_of_detection(test.names[i], result, i, test.path(i), test.classes)

    return result.figures, list(_drawn(chosen, draw))


def _of_segmentor(
    test: LabelMapTest, predictions: Path, images: int
) -> tuple[dict[str, Any], list[Picture]]:
    result = Segmentation(test.classes, test.ignore)
    for image, truth, found in read_pairs(test, predictions):
        result.add(image, truth, found)
    figures = result.figures()
    palette = colours_of({'palette': test.palette, 'classes': test.classes})
    figures['colours'] = {
        name: '#{:02x}{:02x}{:02x}'.format(*colour)
        for name, colour in zip(test.classes, palette, strict=False)
    }

    def draw(i: int) -> Picture:
        row, name = test.rows[i]
        found = load_prediction(predictions / name)
        said = result.per_image[i]
        why = (
            f'{said["wrong_pixels"] / max(said["pixels"], 1):.1%} of the pixels are wrong, '
            f'{said["wrong_near_borders"] / said["wrong_pixels"]:.0%} of them near borders; most '
            f'of them {said["most"]}'
        )
        path = Path(row['img_path'])
        return picture_of_labels(
            said['image'], path, load_truth(row), found, palette, test.ignore, why
        )

    return figures, list(_drawn(worst(figures['per_image'], 'wrong_pixels', images), draw))


def _drawn(chosen: Sequence[int], draw: Callable[[int], Picture]) -> Iterator[Picture]:
    """The pictures of images that can be read; a report needs none of them."""
    unreadable: list[OSError] = []
    for i in chosen:
        try:
            yield draw(i)
        except OSError as error:
            unreadable.append(error)
    if unreadable:
        notice(f'{len(unreadable)} of the worst images cannot be shown, such as {unreadable[0]}')
