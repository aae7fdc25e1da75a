"""The figures of a report, from plain arrays."""

from __future__ import annotations

import copy
import io
import re
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmseg.evaluation import IoUMetric
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vitbackbones.inference.drawing import marked
from vitbackbones.reporting.confusion import confusion
from vitbackbones.reporting.detection import measure
from vitbackbones.reporting.kinds import IGNORED, KINDS, RIGHT, errors_of, gains, put_right
from vitbackbones.reporting.matching import match
from vitbackbones.reporting.missed import by_crowding, by_size
from vitbackbones.reporting.objects import Objects, objects, pairs_of
from vitbackbones.reporting.pictures import Picture, contact_sheet
from vitbackbones.reporting.plots import detection_plots, segmentation_plots
from vitbackbones.reporting.sections import detection_sections, segmentation_sections
from vitbackbones.reporting.segmentation import NEAR, Segmentation, near_borders
from vitbackbones.reporting.thresholds import exact, sweep

SIZE = 500
Rows = list[dict[str, Any]]


def scene(classes: int = 4, images: int = 40, *, masks: bool = False) -> tuple[Rows, Rows]:
    """Annotations and results of COCO: many near one another, equal scores, crowds, areas."""
    draw = np.random.default_rng(5)
    truths, found = [], []
    for image in range(images):
        count = int(draw.integers(0, 9))
        boxes = np.c_[draw.uniform(0, 300, (count, 2)), draw.lognormal(3.8, 0.8, (count, 2))]
        boxes[:, 2:] = boxes[:, 2:].clip(2, 150)
        labels = draw.integers(0, classes, count)
        for box, label in zip(boxes.round(1).tolist(), labels, strict=True):
            row = dict(image_id=image, category_id=int(label), bbox=box, id=len(truths) + 1)
            row.update(iscrowd=int(draw.random() < 0.08))
            row.update(area=float(box[2] * box[3] * draw.uniform(0.5, 1)))
            truths.append(row)
        for _ in range(int(draw.integers(0, 30))):
            box, label = [*draw.uniform(0, 300, 2), *draw.lognormal(3.8, 0.8, 2)], None
            if count and draw.random() < 0.7:
                near = int(draw.integers(count))
                box, label = boxes[near] + draw.normal(0, 6, 4), int(labels[near])
            if label is None or draw.random() < 0.3:
                label = int(draw.integers(classes))
            x, y, w, h = (float(v) for v in np.round(box, 1))
            row = dict(
                image_id=image, category_id=label, bbox=[x, y, max(w, 2), min(max(h, 2), 150)]
            )
            found.append({**row, 'score': round(float(draw.random()), 2)})
    if masks:
        for row in (*truths, *found):
            x, y, w, h = row['bbox']
            shape = [x, y, x + w, y, x + w / 2, y + h]
            row['segmentation'] = coco_mask.merge(coco_mask.frPyObjects([shape], SIZE, SIZE))
    return truths, found


def measured_by_pycocotools(truths: Rows, found: Rows, classes: int, kind: str) -> np.ndarray:
    """Precision (T, R, K, A) of 100 predictions in each image, nan where there is no truth."""
    annotated, images = COCO(), {row['image_id'] for row in (*truths, *found)}
    annotated.dataset = dict(
        images=[dict(id=i, width=SIZE, height=SIZE) for i in sorted(images)],
        categories=[dict(id=label, name=str(label)) for label in range(classes)],
        annotations=copy.deepcopy(truths),
    )
    annotated.createIndex()
    rows = [{k: v for k, v in row.items() if kind == 'bbox' or k != 'bbox'} for row in found]
    evaluation = COCOeval(annotated, annotated.loadRes(rows), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval['precision'][..., -1]
    return np.where(precision < 0, np.nan, precision)


def as_objects(rows: Rows, *, masks: bool = False, kind: str = 'truth') -> Objects:
    columns = {key: [row[key] for row in rows] for key in ('image_id', 'category_id', 'bbox')}
    more: dict[str, Any] = {}
    if kind == 'truth':
        more = dict(area=[row['area'] for row in rows], crowd=[row['iscrowd'] for row in rows])
    else:
        more = dict(score=[row['score'] for row in rows])
    if masks:
        more['mask'] = [row['segmentation'] for row in rows]
        more.setdefault('area', [coco_mask.decode(mask).sum() for mask in more['mask']])
    return objects(*columns.values(), **more)


@pytest.mark.parametrize('masks', [False, True], ids=['boxes', 'masks'])
def test_average_precision_is_that_of_pycocotools(masks: bool) -> None:
    classes = 5  # of the last there is no truth
    truths, found = scene(classes - 1, masks=masks)
    found.append({**found[0], 'category_id': classes - 1})
    result = measure(
        as_objects(truths, masks=masks),
        as_objects(found, masks=masks, kind='found'),
        [str(i) for i in range(classes)],
        [str(i) for i in range(40)],
    ).figures
    for kind, name in (('bbox', 'boxes'), *([('segm', 'masks')] if masks else [])):
        want = measured_by_pycocotools(truths, found, classes, kind).mean(1)  # (T, K, A)
        ours = result['average_precision'][name]
        assert 0.02 < ours['ap'] < ours['ap50'] < 0.9
        for value, expected in (
            (ours['ap'], want[..., 0]),
            (ours['ap50'], want[0, :, 0]),
            (ours['ap75'], want[5, :, 0]),
            *(
                (ours[size], want[..., i + 1])
                for i, size in enumerate(('small', 'medium', 'large'))
            ),
        ):
            assert value == pytest.approx(np.nanmean(expected), abs=1e-6)
        assert [*ours['by_overlap'].values()] == pytest.approx(
            np.nanmean(want[..., 0], 1), abs=1e-6
        )
        if name != result['measured']:
            continue
        for label, row in enumerate(result['classes'][:-1]):
            assert row['by_overlap'] == pytest.approx(want[:, label, 0], abs=1e-6)
            for i, size in enumerate(('small', 'medium', 'large')):
                assert row[size] == pytest.approx(
                    want[:, label, i + 1].mean(), abs=1e-6, nan_ok=True
                )
    assert np.isnan(result['classes'][-1]['ap'])


def test_only_a_hundred_predictions_of_a_class_count_in_one_image() -> None:
    box = [10.0, 10, 40, 40]
    truths = [dict(image_id=0, category_id=0, bbox=box, id=1, iscrowd=0, area=1600.0)]
    found = [
        dict(image_id=0, category_id=0, bbox=[200.0, 200, 9, 9], score=0.5 + i / 1000)
        for i in range(150)
    ]
    found.append(dict(image_id=0, category_id=0, bbox=box, score=0.1))
    result = measure(as_objects(truths), as_objects(found, kind='found'), ['a'], ['0']).figures
    assert result['average_precision']['boxes']['ap'] == 0
    assert result['predictions'] == 100


# ------------------------------------------------------------------------- kinds of error

#: A box of 10 x 10 pixels, moved by so many of them, overlaps what it was by (10 - n) / (10 + n).
HERE, OTHER = (0, 0), (50, 50)
CASES: dict[str, tuple[list[Any], list[Any], list[str], list[int]]] = {
    # truths (place, class), predictions (place, class, score), their kinds, truths that are missed
    'right': ([(HERE, 0)], [(HERE, 0, 0.9)], ['right'], []),
    'class': ([(HERE, 0)], [(HERE, 1, 0.9)], ['class'], []),
    'place': ([(HERE, 0)], [((4, 0), 0, 0.9)], ['place'], []),  # 0.43
    'both': ([(HERE, 0)], [((4, 0), 1, 0.9)], ['both'], [0]),
    'duplicate': ([(HERE, 0)], [(HERE, 0, 0.9), ((1, 0), 0, 0.8)], ['right', 'duplicate'], []),
    'background': ([(HERE, 0)], [(OTHER, 0, 0.9)], ['background'], [0]),
    'missed': ([(HERE, 0), (OTHER, 1)], [(OTHER, 1, 0.9)], ['right'], [0]),
    'it only touches': ([(HERE, 0)], [((9, 0), 0, 0.9)], ['background'], [0]),  # 0.05
    'class before duplicate': (
        [(HERE, 0), (HERE, 1)],
        [(HERE, 0, 0.9), (HERE, 0, 0.8)],
        ['right', 'class'],
        [],
    ),
    'place before both': (
        [(HERE, 0), ((8, 0), 1)],
        [((4, 0), 0, 0.9)],
        ['place'],
        [1],
    ),
    'class before place': (
        [(HERE, 0), ((5, 0), 1)],  # 0.43 and 0.82
        [((4, 0), 0, 0.9)],
        ['class'],
        [0],
    ),
    'the higher score is right, not the better place': (
        [(HERE, 0)],
        [(HERE, 0, 0.6), ((3, 0), 0, 0.9)],
        ['duplicate', 'right'],
        [],
    ),
    'place, of what another has found': (
        [(HERE, 0)],
        [(HERE, 0, 0.9), ((4, 0), 0, 0.8)],
        ['right', 'place'],
        [],
    ),
    'on a crowd': ([(HERE, 0), ('crowd', 1)], [((20, 20), 1, 0.9)], ['ignored'], [0]),
    'on a crowd of another class': ([('crowd', 1)], [((20, 20), 0, 0.9)], ['background'], []),
}


def of_case(name: str) -> tuple[Objects, Objects]:
    there, predicted, *_ = CASES[name]
    boxes = [[0, 0, 100, 100] if at == 'crowd' else [*at, 10, 10] for at, _ in there]
    crowd = [at == 'crowd' for at, _ in there]
    truths = objects([0] * len(there), [label for _, label in there], boxes, crowd=crowd)
    found = objects(
        [0] * len(predicted),
        [label for _, label, _ in predicted],
        [[*at, 10, 10] for at, _, _ in predicted],
        score=[score for *_, score in predicted],
    )
    return truths, found


@pytest.mark.parametrize('name', CASES)
def test_kinds_of_error_of_cases_worked_by_hand(name: str) -> None:
    truths, found = of_case(name)
    errors = errors_of(truths, found, pairs_of(truths, found))
    words = {RIGHT: 'right', IGNORED: 'ignored', **dict(enumerate(KINDS))}
    *_, kinds, missed = CASES[name]
    assert [words[kind] for kind in errors.kind] == kinds
    assert np.flatnonzero(errors.missed).tolist() == missed


@pytest.mark.parametrize(
    ('name', 'kind', 'gain'),
    [
        ('class', 'class', 1.0),
        ('class', 'missed', 0.0),
        ('place', 'place', 1.0),
        ('both', 'both', 0.0),
        ('both', 'missed', 1.0),
        ('duplicate', 'duplicate', 0.0),  # a lower score than all that is right costs nothing
        ('the higher score is right, not the better place', 'duplicate', 0.0),
        ('background', 'background', 0.0),
        ('background', 'missed', 1.0),
        ('missed', 'missed', 0.5),  # of the mean of two classes
        ('class before place', 'class', 0.5),
        ('place before both', 'place', 0.5),
    ],
)
def test_gains_of_cases_worked_by_hand(name: str, kind: str, gain: float) -> None:
    truths, found = of_case(name)
    errors = errors_of(truths, found, pairs_of(truths, found))
    assert gains(truths, found, errors, 2)[kind] == pytest.approx(gain)


def test_a_higher_score_on_background_costs_half() -> None:
    truths = objects([0], [0], [[0, 0, 10, 10]])
    found = objects([0, 0], [0, 0], [[0, 0, 10, 10], [50, 50, 10, 10]], score=[0.5, 0.9])
    errors = errors_of(truths, found, pairs_of(truths, found))
    assert gains(truths, found, errors, 1)['background'] == pytest.approx(0.5)


@pytest.mark.parametrize('kind', KINDS)
def test_putting_a_kind_right_in_the_predictions_brings_what_was_said(kind: str) -> None:
    truths, rows = scene()
    there, found = as_objects(truths), as_objects(rows, kind='found')
    errors = errors_of(there, found, pairs_of(there, found))
    assert errors.count()[kind] > 10
    said = gains(there, found, errors, 4)[kind]

    # The same once more, in rows of COCO. Both are in the order of their images.
    ranks = sorted(range(len(rows)), key=lambda i: -rows[i]['score'])
    taken = {int(a) for a, k in zip(errors.about, errors.kind, strict=True) if k == RIGHT}
    fixed = [rows[i] for i in range(len(rows)) if errors.kind[i] != KINDS.index(kind)]
    for i in ranks if kind in ('class', 'place') else []:
        about = int(errors.about[i])
        if errors.kind[i] == KINDS.index(kind) and about not in taken:
            taken.add(about)
            field = 'category_id' if kind == 'class' else 'bbox'
            fixed.append({**rows[i], field: truths[about][field]})
    if kind == 'missed':
        fixed += [{**truths[i], 'score': 1.0} for i in np.flatnonzero(errors.missed)]
    before, after = (
        np.nanmean(measured_by_pycocotools(truths, found, 4, 'bbox')[0, ..., 0])
        for found in (rows, fixed)
    )
    assert after - before == pytest.approx(said, abs=1e-3)
    assert kind == 'duplicate' or said > 0.005


@pytest.mark.parametrize('threshold', [0.0, 0.3, 0.71, 2.0])
def test_errors_from_a_score_on_are_those_of_what_is_left(threshold: float) -> None:
    truths, rows = scene()
    there, found = as_objects(truths), as_objects(rows, kind='found')
    pairs = pairs_of(there, found)
    chosen = found.score >= threshold
    kept, near = found.take(chosen), pairs.take(chosen)
    matches = match(there, found, pairs).first().take(chosen)
    derived = errors_of(there, kept, near, matches)
    anew = errors_of(there, kept, pairs_of(there, kept))
    for name in ('kind', 'about', 'missed', 'unfound'):
        assert (getattr(derived, name) == getattr(anew, name)).all()
    for name in ('truth', 'ignored', 'left_out'):
        assert (getattr(derived.matches, name) == getattr(anew.matches, name)).all()


def test_masks_are_put_right_too() -> None:
    truths, rows = scene(masks=True)
    there, found = as_objects(truths, masks=True), as_objects(rows, masks=True, kind='found')
    errors = errors_of(there, found, pairs_of(there, found))
    fixed = put_right(there, found, errors, 'place')
    again = errors_of(there, fixed, pairs_of(there, fixed))
    assert (again.kind == RIGHT).sum() > (errors.kind == RIGHT).sum()
    more = put_right(there, found, errors, 'missed')
    assert not errors_of(there, more, pairs_of(there, more)).missed.any()


# ------------------------------------------------------------------------- other figures


def test_the_confusion_matrix_counts_every_truth_and_every_prediction_once() -> None:
    truths, rows = scene()
    there, found = as_objects(truths), as_objects(rows, kind='found')
    pairs = pairs_of(there, found)
    errors = errors_of(there, found, pairs)
    matrix = confusion(there, found, pairs, errors, 4)
    counted = found.label[errors.kind != IGNORED]
    assert matrix[:4].sum(1).tolist() == np.bincount(there.label[~there.crowd]).tolist()
    assert matrix[:, :4].sum(0).tolist() == np.bincount(counted).tolist()
    assert np.diag(matrix)[:4].sum() == (errors.kind == RIGHT).sum()


def test_the_confusion_matrix_of_a_case_worked_by_hand() -> None:
    boxes = [[0, 0, 10, 10], [50, 50, 10, 10], [90, 0, 10, 10]]
    truths = objects([0, 0, 0], [0, 1, 1], boxes)
    predicted = [*boxes[:2], [50, 51, 10, 10], [200, 200, 9, 9]]
    found = objects([0] * 4, [0, 0, 2, 1], predicted, score=[0.9, 0.3, 0.8, 0.7])
    pairs = pairs_of(truths, found)
    matrix = confusion(truths, found, pairs, errors_of(truths, found, pairs), 3)
    assert matrix.tolist() == [
        [1, 0, 0, 0],
        [1, 0, 0, 1],  # the one that overlaps most counts, not the one with the higher score
        [0, 0, 0, 0],
        [0, 1, 1, 0],
    ]


def test_thresholds_keep_equal_scores_together() -> None:
    one = sweep(np.array([0.9, 0.5, 0.5, 0.2]), np.array([True, False, True, True]), 4)
    assert one.score.tolist() == [0.9, 0.5, 0.2]
    assert one.precision.tolist() == pytest.approx([1, 2 / 3, 3 / 4])
    assert one.recall.tolist() == [0.25, 0.5, 0.75]
    assert one.best() == 0.2
    assert one.at(0.5) == pytest.approx(dict(precision=2 / 3, recall=0.5, f1=4 / 7))
    assert one.at(0.95) == pytest.approx(dict(precision=np.nan, recall=0, f1=0), nan_ok=True)
    nothing = sweep(np.zeros(0), np.zeros(0, bool), 4)
    assert nothing.best() is None
    assert nothing.at(0.0)['f1'] == 0


def test_the_best_threshold_of_a_report_has_the_best_f1() -> None:
    truths, rows = scene()
    there, found = as_objects(truths), as_objects(rows, kind='found')
    figures = measure(there, found, list('abcd'), [str(i) for i in range(40)]).figures
    best = figures['threshold']['best']
    # With all below it left out, matches are the same: F1 out of the rows of images.
    for threshold in [*sorted({row['score'] for row in rows})[::12], best]:
        kept = measure(
            there, found.take(found.score >= threshold), list('abcd'), ['x'] * 40
        ).figures
        assert kept['curves']['all']['f1'][0] <= figures['threshold']['f1'] + 1e-12
        if threshold == best:
            assert kept['curves']['all']['f1'][0] == pytest.approx(figures['threshold']['f1'])
    per_image = figures['per_image']
    right = sum(row['right'] for row in per_image)
    assert figures['threshold']['recall'] == pytest.approx(right / figures['objects'])
    for kind, count in figures['errors']['counts'].items():
        assert sum(row[kind] for row in per_image) == count


def test_a_threshold_as_it_is_printed_keeps_what_is_said() -> None:
    draw = np.random.default_rng(3)
    for count in (1, 5, 40, 3000):
        score = draw.beta(2, 2, count).astype(np.float32).astype(float)
        right = draw.random(count) < score
        right[0] = True
        one = sweep(score, right, count)
        best = one.best()
        assert best is not None
        printed = exact(best)
        said, kept = one.at(best), score >= float(printed)
        assert said['precision'] == pytest.approx(right[kept].sum() / kept.sum())
        assert said['recall'] == pytest.approx(right[kept].sum() / count)
        assert said['f1'] == one.f1.max()
        assert len(printed) < 9
    assert exact(sweep(np.array([0.8999, 0.2]), np.array([True, False]), 1).best() or 0) == '0.89'
    close = sweep(np.array([0.7312, 0.7311]), np.array([True, False]), 1)
    assert exact(close.best() or 0) == '0.7312'


def test_a_class_that_is_nowhere_is_in_no_mean() -> None:
    truths, rows = scene()
    there, found = as_objects(truths), as_objects(rows, kind='found')
    few, more = (
        measure(there, found, names, [str(i) for i in range(40)]).figures
        for names in ('abcd', 'abcdefghi')
    )
    absent = more['classes'][-1]
    assert all(np.isnan(absent[key]) for key in ('ap', 'precision', 'recall', 'f1'))
    assert np.isnan(absent['curves']['f1']).all()
    assert np.isnan(more['curves']['precision']['i']).all()
    # Nine classes, of which four are somewhere, are drawn as these four.
    one, other = detection_plots(few), detection_plots(more)
    for name in ('f1_by_class', 'precision_recall', 'threshold'):
        assert one[name] == other[name]
    assert one['ap_by_class'] != other['ap_by_class']


def test_objects_with_masks_are_crowded_by_their_boxes() -> None:
    boxes = [[0, 0, 40, 40], [0, 0, 40, 40], [100, 100, 20, 20]]
    lower, upper = [0, 0, 40, 40, 0, 40], [0, 0, 40, 0, 40, 40]  # two halves of one square
    shapes = [[lower], [upper], [[100, 100, 120, 100, 120, 120]]]
    masks = [coco_mask.merge(coco_mask.frPyObjects(shape, SIZE, SIZE)) for shape in shapes]
    truths = objects([0] * 3, [0] * 3, boxes, mask=masks)
    rows = {row['name']: row['objects'] for row in by_crowding(truths, np.zeros(3, bool))}
    assert (rows['alone'], rows['overlaps by 0.5']) == (1, 2)


def test_plots_of_many_classes_stay_small() -> None:
    draw = np.random.default_rng(0)
    names = [f'class number {i}' for i in range(365)]
    one = Segmentation(names, ignore=999)
    one.add('a', *(draw.integers(0, 365, (200, 200)).astype(np.uint16) for _ in range(2)))
    figures = one.figures()
    assert len(figures['classes']) == len(figures['confusion']['matrix']) == 365
    for plot in segmentation_plots(figures).values():
        assert max(Image.open(io.BytesIO(plot)).size) < 4000


def test_classes_that_images_have_nothing_of_stand_behind_the_others() -> None:
    names = [f'class{i}' for i in range(80)]
    maps = Segmentation(names)
    maps.add('a', *(np.full((8, 8), n, np.uint8) for n in (70, 3)))
    figures = maps.figures()
    page = ''.join(segmentation_sections(figures, plots := segmentation_plots(figures)))
    rows = re.findall(r'<td>(class\d+)</td>', page[: page.index('What for what')])
    assert rows == ['class70', *(name for name in names if name != 'class70')]
    few = Segmentation(['class3', 'class70'])
    few.add('a', *(np.full((8, 8), n, np.uint8) for n in (1, 0)))
    sizes = [
        Image.open(io.BytesIO(each['confusion'])).size
        for each in (plots, segmentation_plots(few.figures()))
    ]
    assert sizes[0][0] == sizes[1][0]  # two of 80 take no more room than two


@pytest.mark.parametrize('name', ['\u7ec6\u80de', '$a_1', '$x^$', '_', '_background_', '\u0444'])
def test_any_name_of_a_class_is_drawn(name: str, recwarn: pytest.WarningsRecorder) -> None:
    truths, rows = scene()
    there, found = as_objects(truths), as_objects(rows, kind='found')
    images = [str(i) for i in range(40)]
    plots, usual, digits = (
        detection_plots(measure(there, found, names, images).figures)
        for names in ([name, 'b', 'c', 'd'], 'abcd', ['class 0', 'b', 'c', 'd'])
    )
    maps = Segmentation([name, 'b'])
    maps.add('a.png', *(np.arange(64, dtype=np.uint8).reshape(8, 8) % n for n in (2, 1)))
    assert segmentation_plots(maps.figures())
    assert [str(each.message) for each in recwarn if 'lyph' in str(each.message)] == []
    assert [str(each.message) for each in recwarn if 'legend' in str(each.message)] == []
    for key in ('f1_by_class', 'ap_by_class', 'confusion'):
        assert plots[key] != usual[key]
        assert (plots[key] == digits[key]) == (name == '\u7ec6\u80de')
    page = ''.join(detection_sections(measure(there, found, [name, *'bcd'], images).figures, plots))
    assert ('<dt>class 0</dt><dd>\u7ec6\u80de</dd>' in page) == (name == '\u7ec6\u80de')


def test_names_in_other_scripts_are_drawn_on_pictures() -> None:
    box = np.array([[4.0, 20, 60, 60]])
    drawn = [
        np.asarray(marked(Image.new('RGB', (90, 70)), box, [(255, 0, 0)], [word], [], 1))
        for word in ('\u0434\u0430', '\u043d\u0443', '  ')
    ]
    assert (drawn[0] != drawn[1]).any()  # not the same box for a sign that is missing
    one = Picture('\u7ec6.jpg', [Image.new('RGB', (300, 40))], '2 missed (2 \u7ec6\u80de)')
    other = replace(one, name='?.jpg', why='2 missed (2 class 1)')
    classes = ['\u7ec6', '\u7ec6\u80de']  # one is a part of the other
    assert contact_sheet([one], classes) == contact_sheet([other], classes)


def test_what_is_missed_is_told_by_size_and_crowding() -> None:
    boxes = [[0, 0, 20, 20], [100, 0, 40, 40], [110, 0, 40, 40], [300, 0, 100, 100]]
    truths = objects([0] * 4, [0] * 4, boxes)
    unfound = np.array([True, True, False, False])
    assert [(r['objects'], r['missed']) for r in by_size(truths, unfound)] == [
        (1, 1),
        (2, 1),
        (1, 0),
    ]
    rows = {row['name']: (row['objects'], row['missed']) for row in by_crowding(truths, unfound)}
    assert rows['alone'] == (2, 1)
    assert rows['overlaps by 0.5'] == (2, 1)  # 0.6
    crowd = replace(truths, crowd=np.array([False, False, True, False]))
    rows = {row['name']: (row['objects'], row['missed']) for row in by_crowding(crowd, unfound)}
    assert rows['alone'] == (3, 2)


def test_figures_of_nothing() -> None:
    truths, rows = scene()
    there, nothing = as_objects(truths), objects([], [], [], score=[])
    figures = measure(there, nothing, list('abcd'), [str(i) for i in range(40)]).figures
    assert figures['average_precision']['boxes']['ap'] == 0
    assert figures['threshold']['best'] is None
    assert figures['errors']['counts']['missed'] == figures['objects']
    found = as_objects(rows, kind='found')
    empty = measure(objects([], [], []), found, list('abcd'), [str(i) for i in range(40)]).figures
    assert np.isnan(empty['average_precision']['boxes']['ap'])
    assert empty['errors']['counts_of_all']['background'] == len(found)


# --------------------------------------------------------------------------- segmentation


def test_figures_of_label_maps_worked_by_hand() -> None:
    truth = np.zeros((40, 40), np.uint8)
    truth[:, 20:] = 1
    truth[:5] = 255
    found = truth.copy()
    found[:5] = 0  # does not count
    found[5:25, 20] = 0  # 20 pixels, all near the border
    one = Segmentation(['left', 'right', 'none'])
    one.add('a.png', truth, found)
    figures = one.figures()
    left, right, none = figures['classes']
    assert (left['iou'], left['accuracy']) == pytest.approx((700 / 720, 1))
    assert (right['iou'], right['accuracy']) == pytest.approx((680 / 700, 680 / 700))
    assert none['iou'] is None
    assert figures['accuracy'] == pytest.approx(1380 / 1400)
    assert figures['confusion']['matrix'] == [[700, 0, 0], [20, 680, 0], [0, 0, 0]]
    assert right['iou_inside'] == 1
    assert right['iou_near_borders'] < right['iou']
    (row,) = figures['per_image']
    assert (row['wrong_pixels'], row['wrong_near_borders']) == (20, 20)
    assert (row['most'], row['most_pixels']) == ('right taken for left', 20)


def test_what_the_metric_ignores_and_what_has_no_class_count_as_in_mmseg() -> None:
    draw = np.random.default_rng(2)
    truth = draw.choice(np.array([0, 1, 2, 255], np.uint8), (40, 40))
    found = draw.integers(0, 3, (40, 40)).astype(np.uint8)  # of the class 3 there is nothing
    for ignore, absent in ((255, None), (0, None), (2, 0), (7, None)):
        one = Segmentation(list('abcd'), ignore, absent)
        one.add('a.png', truth, found)
        figures = one.figures()
        metric = IoUMetric(ignore_index=ignore, nan_to_num=absent)
        metric.dataset_meta = dict(classes=list('abcd'))
        sample = dict(pred_sem_seg=dict(data=found), gt_sem_seg=dict(data=truth))
        metric.process({}, [{k: dict(data=torch.tensor(v['data'])) for k, v in sample.items()}])
        want = metric.compute_metrics(metric.results)
        for name, value in (('mIoU', 'iou'), ('aAcc', 'accuracy'), ('mAcc', 'class_accuracy')):
            assert figures[value] * 100 == pytest.approx(want[name], abs=0.006), (ignore, name)
        confusion = figures['confusion']
        assert ('no class' in confusion['names']) == (ignore != 255)
        counted = int((truth != ignore).sum())
        assert np.sum(confusion['matrix']) == figures['pixels'] == counted
        assert np.shape(confusion['matrix']) == (len(confusion['names']),) * 2
        assert sum(row['wrong_pixels'] for row in figures['per_image']) == counted - np.trace(
            confusion['matrix']
        )
        assert segmentation_plots(figures)


def test_borders_are_where_another_class_is_near() -> None:
    labels = np.zeros((60, 80), np.uint8)  # a diagonal of 100: 1 pixel
    labels[:, 40:] = 1
    known = np.ones(labels.shape, bool)
    assert np.flatnonzero(near_borders(labels, known).any(0)).tolist() == [39, 40]
    labels[:, 20:30] = 255
    assert np.flatnonzero(near_borders(labels, labels < 255).any(0)).tolist() == [39, 40]
    labels[:, 40:45] = 255
    assert not near_borders(labels, labels < 255).any()


@pytest.mark.parametrize('shape', [(1, 1), (1, 90), (90, 1), (7, 240), (150, 210), (300, 61)])
@pytest.mark.parametrize('classes', [1, 2, 300])
@pytest.mark.parametrize('ignored', [False, True])
def test_nearby_is_opencvs_ellipse(shape: tuple[int, int], classes: int, ignored: bool) -> None:
    draw = np.random.default_rng(classes)
    coarse = draw.integers(0, classes, (shape[0] // 29 + 1, shape[1] // 29 + 1))
    labels = coarse.repeat(29, 0).repeat(29, 1)[: shape[0], : shape[1]].copy()
    labels[draw.random(shape) < 0.002] = classes - 1  # single pixels
    known = draw.random(shape) > 0.9 * ignored
    labels[~known] = 70_000
    reach = max(1, round(NEAR * np.hypot(*shape)))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    around = np.pad(labels, reach, constant_values=70_000)
    want = np.zeros(shape, bool)
    for down, right in np.argwhere(kernel):
        other = around[down : down + shape[0], right : right + shape[1]]
        want |= known & (other != 70_000) & (other != labels)
    assert (near_borders(labels, known) == want).all()
    assert want.any() or ignored or classes == 1 or max(shape) == 1
