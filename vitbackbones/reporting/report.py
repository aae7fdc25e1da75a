"""From a config and its predictions to the folder of a report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.registry import init_default_scope

from vitbackbones.data.before_training import check_annotations
from vitbackbones.errors import UserError, notice
from vitbackbones.inference.drawing import colours_of
from vitbackbones.inference.predict import build_tester
from vitbackbones.launch.checks import check_config

from . import page
from .against import FORMAT, check_comparable, compare, read_report
from .coco_results import read_predictions
from .coco_source import CocoTest, have_masks, read_test_set, truths_of
from .detection import measure
from .label_map_source import LabelMapTest, load_prediction, read_label_map_test, read_pairs
from .pictures import (
    NotShownError,
    Picture,
    contact_sheet,
    picture_of_detection,
    picture_of_labels,
    worst,
)
from .plots import detection_plots, segmentation_plots
from .predicting import RESULTS, check_place, kind_of, predict, take_classes, take_order
from .sections import (
    against_sections,
    detection_sections,
    segmentation_sections,
    worst_sections,
)
from .segmentation import Segmentation
from .writing import WORST, without_nan, write_page, write_tables

#: Images that got better, and that got worse, on the page.
DIFFERENT = 10
MODEL = {'detection': 'detector', 'segmentation': 'segmentor'}


class Report(NamedTuple):
    """What was written.

    Attributes:
        figures: what report.json holds, nan in the place of None.
        not_shown: those of the worst images that cannot be shown, and why.
    """

    figures: dict[str, Any]
    not_shown: dict[str, str]


class _Measured(NamedTuple):
    """The figures of a test set, and how the image at a position is drawn.

    Attributes:
        faults: the column of per_image by which images are the worst.
    """

    figures: dict[str, Any]
    faults: str
    draw: Callable[[int], Picture]


def report(
    cfg: Config,
    out: Path,
    *,
    source: str | None = None,
    predictions: Path | None = None,
    against: Path | None = None,
    images: int = 12,
    facts: dict[str, str] | None = None,
) -> Report:
    """Write what a model gets right and wrong on its test set into a folder.

    Tables come first: whatever happens to plots, pictures and a comparison, the figures are there,
    and nothing of an earlier report is beside them.

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
    check_place(out, predictions)
    earlier = None if against is None else read_report(against)
    tester = None if source is None else build_tester(cfg, source)
    if tester is not None:
        take_classes(cfg, tester)
    else:
        assert predictions is not None
        check_config(cfg, ('test',))
        if task == 'segmentation':
            take_order(cfg, predictions)
        check_annotations(cfg, ('test',), label_maps=0)
    test = read_test_set(cfg) if task == 'detection' else read_label_map_test(cfg)
    if earlier is not None:
        assert against is not None
        check_comparable(earlier, against, task, test.classes, test.names)
    if tester is not None:
        predictions = predict(tester, out / RESULTS[kind])
    elif isinstance(test, CocoTest) and test.mended:  # else it was said where they are made
        notice(f'{test.file}: {"; ".join(test.mended)}: put right before it is compared')
    assert predictions is not None
    measured = (
        _of_detector(test, predictions)
        if isinstance(test, CocoTest)
        else _of_segmentor(test, predictions)
    )
    figures = {'format': FORMAT, **measured.figures}
    write_tables(out, figures)
    if earlier is not None:
        assert against is not None
        figures['against'] = compare(without_nan(figures), earlier, against, DIFFERENT)
        write_tables(out, figures)
    detects = task == 'detection'
    plots = (detection_plots if detects else segmentation_plots)(figures)
    shown, not_shown = _drawn(measured, images)
    if shown:
        plots[WORST] = contact_sheet(shown, test.classes)
    parts = [page.facts({**(facts or {}), 'images': str(figures['images'])})]
    parts += (detection_sections if detects else segmentation_sections)(figures, plots)
    if earlier is not None:
        parts += against_sections(figures['against'])
    parts += worst_sections(figures, shown, not_shown)
    write_page(out, page.page(f'What the {MODEL[task]} gets right and wrong', parts), plots)
    return Report(figures, not_shown)


def _drawn(measured: _Measured, most: int) -> tuple[list[Picture], dict[str, str]]:
    """Pictures of the worst images, and why there are none of others."""
    rows = measured.figures['per_image']
    shown: list[Picture] = []
    not_shown: dict[str, str] = {}
    for i in worst(rows, measured.faults, most):
        try:
            shown.append(measured.draw(i))
        except NotShownError as error:
            not_shown[rows[i]['image']] = str(error)
    return shown, not_shown


def _of_detector(test: CocoTest, predictions: Path) -> _Measured:
    found = read_predictions(predictions, test)
    masks = found.mask is not None and have_masks(test)
    result = measure(truths_of(test, masks=masks), found, test.classes, test.names)

    def draw(i: int) -> Picture:
        size = test.images[i]['width'], test.images[i]['height']
        return picture_of_detection(test.names[i], result, i, test.path(i), size, test.classes)

    return _Measured(result.figures, 'faults', draw)


def _of_segmentor(test: LabelMapTest, predictions: Path) -> _Measured:
    result = Segmentation(test.classes, test.ignore, test.absent)
    for row, truth, found in read_pairs(test, predictions):
        result.add(row.name, truth, found)
    figures = result.figures()
    palette = colours_of({'palette': test.palette, 'classes': test.classes})
    figures['colours'] = {
        name: '#{:02x}{:02x}{:02x}'.format(*colour)
        for name, colour in zip(test.classes, palette, strict=False)
    }

    def draw(i: int) -> Picture:
        row, said = test.rows[i], result.per_image[i]
        found, _ = load_prediction(predictions / row.prediction)
        why = (
            f'{said["wrong_pixels"] / max(said["pixels"], 1):.1%} of the pixels are wrong, '
            f'{said["wrong_near_borders"] / said["wrong_pixels"]:.0%} of them near borders; most '
            f'of them {said["most"]}'
        )
        truth = test.truth(row)
        return picture_of_labels(row.name, row.image, truth, found, palette, test.ignore, why)

    return _Measured(figures, 'wrong_pixels', draw)
