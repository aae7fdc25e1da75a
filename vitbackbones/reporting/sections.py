"""What stands on the page of a report, from its figures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from vitbackbones.plotting import drawable_names

from . import page
from .kinds import KINDS
from .pictures import BAD, GOOD, NEARLY, Picture
from .thresholds import exact

#: Pairs of classes in the list of what is mistaken for what.
MISTAKEN = 15
#: Columns of the table of classes: what stands above each, and its name among the figures.
_OF_CLASS = {
    'class': 'name',
    'objects': 'objects',
    'AP': 'ap',
    'AP50': 'ap50',
    'AP75': 'ap75',
    'small': 'small',
    'medium': 'medium',
    'large': 'large',
    'best threshold': 'threshold',
    'precision': 'precision',
    'recall': 'recall',
    'F1': 'f1',
}
_OF_LABEL = {
    'class': 'name',
    'pixels': 'pixels',
    'IoU': 'iou',
    'accuracy': 'accuracy',
    'precision': 'precision',
    'IoU near borders': 'iou_near_borders',
    'IoU inside': 'iou_inside',
}


def detection_sections(figures: Mapping[str, Any], plots: Mapping[str, bytes]) -> Iterator[str]:
    """The page of a detector, from its figures and plots."""
    measured, threshold = figures['measured'], figures['threshold']
    if not figures['predictions']:
        yield page.paragraph(
            f'The model has predicted nothing in {figures["images"]} images: all figures are of '
            'that.',
            note=True,
        )
    elif threshold['best'] is None:
        yield page.paragraph(
            f'None of {figures["predictions"]} predictions is right: there is no best threshold, '
            f'and errors are counted from a score of {exact(threshold["used"])} on.',
            note=True,
        )
    for kind, values in figures['average_precision'].items():
        if len(figures['average_precision']) > 1:
            yield page.paragraph(f'By {kind}:')
        yield page.tiles(
            {
                'AP (IoU 0.50 to 0.95)': values['ap'],
                'AP at IoU 0.50': values['ap50'],
                'AP at IoU 0.75': values['ap75'],
                'AP small': values['small'],
                'AP medium': values['medium'],
                'AP large': values['large'],
                'recall': values['recall'],
            }
        )
    if len(figures['average_precision']) > 1:
        yield page.paragraph(f'All that follows is measured by {measured}.')
    yield page.heading('At which threshold')
    best = threshold['best']
    yield page.paragraph(
        f'Keep detections from a score of {exact(best)} on for the best F1 of all classes '
        f'together: precision {threshold["precision"]:.3f}, recall {threshold["recall"]:.3f}, '
        f'F1 {threshold["f1"]:.3f}. Each class has a best threshold of its own in the table below.'
        if best is not None
        else 'No threshold is better than another.'
    )
    yield page.plots(
        [
            _plot(plots, 'threshold', 'Precision, recall and F1 from each score on.'),
            _plot(plots, 'f1_by_class', 'F1 of each class from each score on.'),
        ]
    )
    yield page.heading('Which class')
    yield page.table(
        list(_OF_CLASS),
        (_of_class(row) for row in _present_first(figures['classes'], 'objects')),
    )
    yield from _not_drawn(figures)
    yield page.plots(
        [
            _plot(plots, 'ap_by_class', 'Average precision of each class.'),
            _plot(plots, 'precision_recall', 'Precision at each recall.'),
            _plot(plots, 'ap_by_overlap', 'Average precision by the overlap that is asked for.'),
        ]
    )
    yield page.heading('What for what')
    yield page.paragraph(
        f'What was predicted (columns) for what is there (rows), from a score of '
        f'{exact(threshold["used"])} on, at IoU {threshold["overlap"]}. Background: an object '
        'that was not found, or a prediction for which there is none, or none that another has not.'
    )
    yield _confusion(figures, plots)
    yield page.heading('Kinds of error')
    yield from _errors(figures, plots)
    yield page.heading('What is not found')
    yield page.paragraph(
        'Objects that nothing has found, by their size (small: below 32 x 32 pixels, large: from '
        '96 x 96 on), and by the largest overlap of their boxes with that of another object.'
    )
    yield page.plots([_plot(plots, 'missed', 'Share of the objects that is not found.')])


def _of_class(row: Mapping[str, Any]) -> list[Any]:
    """A row of the table; a threshold as text, since it must not be rounded."""
    text = None if row['threshold'] is None else exact(row['threshold'])
    return [text if key == 'threshold' else row[key] for key in _OF_CLASS.values()]


def _present_first(rows: Iterable[Mapping[str, Any]], count: str) -> list[Mapping[str, Any]]:
    """Classes in their order, but at the end those that the images have nothing of."""
    return sorted(rows, key=lambda row: not row[count])


def segmentation_sections(figures: Mapping[str, Any], plots: Mapping[str, bytes]) -> Iterator[str]:
    """The page of a segmentor."""
    border = figures['border']
    yield page.tiles(
        {
            'mean IoU': figures['iou'],
            'accuracy of pixels': figures['accuracy'],
            'mean accuracy': figures['class_accuracy'],
            'mean IoU near borders': border['iou_near'],
            'mean IoU inside': border['iou_inside'],
        }
    )
    yield page.heading('Which class')
    yield page.paragraph(
        f'Near borders: pixels that have another class within {border["share_of_diagonal"]:.0%} '
        "of the image's diagonal. As in the test, pixels with the label "
        f'{figures["ignored_label"]} do not count, and classes that are neither there nor '
        f'predicted {_absent(figures["absent_classes_count_as"])}.'
    )
    yield page.table(
        list(_OF_LABEL),
        (
            [row[key] for key in _OF_LABEL.values()]
            for row in _present_first(figures['classes'], 'pixels')
        ),
    )
    yield from _not_drawn(figures)
    yield page.plots([_plot(plots, 'iou_by_class', 'Intersection over union of each class.')])
    yield page.heading('What for what')
    yield page.paragraph('Pixels that were predicted (columns) for what is there (rows).')
    yield _confusion(figures, plots)


def _absent(value: float | None) -> str:
    return 'are in no mean' if value is None else f'count as {value:g} in means'


def _not_drawn(figures: Mapping[str, Any]) -> Iterator[str]:
    """What stands for names that plots cannot show."""
    names = [row['name'] for row in figures['classes']]
    pairs = zip(drawable_names(names), names, strict=True)
    others = {sign: name for sign, name in pairs if sign != name}
    if others:
        yield page.paragraph('Plots and pictures have no signs for some names, and say:')
        yield page.facts(others)


def against_sections(against: Mapping[str, Any]) -> Iterator[str]:
    """What differs from an earlier report."""
    by = {'ap': 'AP', 'iou': 'IoU', 'f1': 'F1'}
    images, whole = against['images'], against['all']
    yield page.heading('Against an earlier report')
    yield page.paragraph(
        f'{against["report"]}: {by[against["by_class"]]} of all classes was '
        f'{page.number(whole["before"])} and is {page.number(whole["now"])} '
        f'({page.signed(whole["difference"])}). Of {images["compared"]} images '
        f'{images["better"]} got better and {images["worse"]} worse.'
    )
    if against['threshold'] is not None:
        now, before = (against['threshold'][when] for when in ('now', 'before'))
        yield page.paragraph(
            'The F1 of an image is of what each model finds from its own best threshold on: '
            f'{"not said" if before is None else exact(before)} before, {exact(now)} now.'
        )
    yield _differences('class', by[against['by_class']], against['classes'], 'name')
    for name in ('most_worse', 'most_better'):
        if images[name]:
            yield page.paragraph(f'Images that got {name.removeprefix("most_")}, the most first:')
            yield _differences('image', by[against['by_image']], images[name], 'image')


def worst_sections(
    figures: Mapping[str, Any], pictures: Sequence[Picture], not_shown: Mapping[str, str]
) -> Iterator[str]:
    """The worst images and why they are.

    Args:
        not_shown: those that cannot be, and why.
    """
    if not pictures and not not_shown:
        return
    yield page.heading('The worst images')
    for name, reason in not_shown.items():
        yield page.paragraph(f'{name} is one of them and cannot be shown: {reason}', note=True)
    if figures['task'] == 'detection':
        yield page.paragraph('Those with the most errors: truth first, then the prediction.')
        colours = {'right': GOOD, **dict(zip(KINDS, BAD, strict=True))}
        yield page.key({**colours, 'not found, but nearly (class, place)': NEARLY})
    else:
        yield page.paragraph(
            'Those with the most wrong pixels: image, truth, prediction, and in red what is wrong.'
        )
        yield page.key(figures['colours'])
    for one in pictures:
        yield page.picture(one.files(), 'jpeg', one.why, name=one.name)


def _differences(what: str, by: str, rows: Sequence[Mapping[str, Any]], name: str) -> str:
    return page.table(
        (what, f'{by} before', f'{by} now', 'difference'),
        ((r[name], r['before'], r['now'], page.signed(r['difference'])) for r in rows),
    )


def _confusion(figures: Mapping[str, Any], plots: Mapping[str, bytes]) -> str:
    names, matrix = figures['confusion']['names'], figures['confusion']['matrix']
    mistaken = sorted(
        (
            (names[i], names[j], count, count / sum(row))
            for i, row in enumerate(matrix)
            for j, count in enumerate(row)
            if count and i != j
        ),
        key=lambda entry: -entry[2],
    )
    rows = page.table(
        ('there', 'predicted', 'how often', 'share of what is there'), mistaken[:MISTAKEN]
    )
    return page.plots([_plot(plots, 'confusion', 'Shares of each row.'), f'<div>{rows}</div>'])


def _errors(figures: Mapping[str, Any], plots: Mapping[str, bytes]) -> Iterator[str]:
    errors, words = figures['errors'], dict(zip(KINDS, _WORDS, strict=True))
    used = exact(figures['threshold']['used'])
    yield page.paragraph(
        'A box with two faults gets the first in this order. The gain is what AP at IoU 0.5, now '
        f'{page.number(errors["ap50"])}, would have more if all errors of the kind, at any score, '
        'were put right; gains do not add up.'
    )
    yield page.facts(words)
    yield page.table(
        ('kind', f'from {used} on', 'at any score', 'gain in AP50'),
        (
            (
                *(kind, errors['counts'][kind], errors['counts_of_all'][kind]),
                page.signed(errors['gains'][kind]),
            )
            for kind in KINDS
        ),
    )
    yield page.plots(
        [_plot(plots, 'errors', 'What putting all errors of a kind right would bring.')]
    )


_WORDS = (
    'on an object of another class',
    'overlaps an object of its class, too little (0.1 to 0.5)',
    'overlaps one of another class only, and too little',
    'on an object that a higher score has found',
    'where no object is',
    'an object that nothing is on or near',
)


def _plot(plots: Mapping[str, bytes], name: str, words: str) -> str:
    return page.picture([plots[name]], 'png', words)
