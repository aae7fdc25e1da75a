"""The plots of a report, each the content of a PNG file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vitbackbones.plotting import COLOURS, as_png, drawable_names, new_figure

from .thresholds import exact

#: Inches: small ones, so that words stay readable where a telephone shows them smaller.
WIDTH, HEIGHT = 5.2, 3.7
#: With more classes than that, single ones are no longer told apart by colours.
FEW = len(COLOURS)
#: Classes in one plot: of more, those that are worst.
MOST = 40
#: Of so many classes a matrix has numbers in its cells.
NUMBERED = 12
GREY = '#BBBBBB'


def detection_plots(figures: Mapping[str, Any]) -> dict[str, bytes]:
    """Plots of a detector by name."""
    curves, measured = figures['curves'], figures['measured']
    by_overlap = figures['average_precision'][measured]['by_overlap']
    best, classes = figures['threshold']['best'], _named(figures['classes'])
    names = [row['name'] for row in classes]
    return dict(
        ap_by_class=_bars_of_classes(classes, {'AP': 'ap'}, 'average precision'),
        ap_by_overlap=_lines(
            [float(at) for at in by_overlap],
            {'AP': list(by_overlap.values())},
            'overlap (IoU) that is asked for',
            'average precision',
        ),
        precision_recall=_lines(
            curves['recall'],
            dict(zip(names, curves['precision'].values(), strict=True)),
            'recall',
            'precision at IoU 0.5',
        ),
        threshold=_lines(
            curves['score'],
            {key: curves['all'][key] for key in ('precision', 'recall', 'f1')},
            'score from which on detections are kept',
            'all classes together, at IoU 0.5',
            mark=best,
        ),
        f1_by_class=_lines(
            curves['score'],
            {row['name']: row['curves']['f1'] for row in classes},
            'score from which on detections are kept',
            'F1 at IoU 0.5',
            mark=best,
        ),
        confusion=_matrix(figures['confusion'], names, 'predicted', 'there'),
        errors=_bars(
            figures['errors']['kinds'],
            {'gain': [figures['errors']['gains'][kind] for kind in figures['errors']['kinds']]},
            'gain in AP at IoU 0.5, all of a kind put right',
            most=None,
        ),
        missed=_missed(figures['missed']),
    )


def segmentation_plots(figures: Mapping[str, Any]) -> dict[str, bytes]:
    """Plots of a segmentor by name."""
    columns = {'all': 'iou', 'near borders': 'iou_near_borders', 'inside': 'iou_inside'}
    classes = _named(figures['classes'])
    names = [row['name'] for row in classes]
    return dict(
        iou_by_class=_bars_of_classes(classes, columns, 'intersection over union'),
        confusion=_matrix(figures['confusion'], names, 'predicted', 'there'),
    )


def _named(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of classes with names that can be drawn."""
    names = drawable_names([row['name'] for row in rows])
    return [{**row, 'name': name} for row, name in zip(rows, names, strict=True)]


def _bars_of_classes(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], label: str
) -> bytes:
    """Bars of all classes, or of :data:`MOST` that have the lowest values, the lowest first.

    Args:
        columns: what stands above each series, and its name in a row; chosen by the first.
    """
    first = next(iter(columns.values()))
    if len(rows) > MOST:
        known = [row for row in rows if _is_known(row[first])]
        label = f'{label}, the {min(MOST, len(known))} lowest of {len(rows)} classes'
        rows = sorted(known, key=lambda row: row[first])[:MOST]
    series = {name: [row[key] for row in rows] for name, key in columns.items()}
    return _bars([row['name'] for row in rows], series, label)


def _is_known(value: float | None) -> bool:
    return value is not None and not np.isnan(value)


def _bars(
    names: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    label: str,
    *,
    most: float | None = 1.0,
) -> bytes:
    """Horizontal bars, the first name at the top; one for each series."""
    thick = 0.8 / len(series)
    figure = new_figure(WIDTH, 1.1 + len(names) * (0.2 + 0.13 * len(series)))
    axes = figure.add_subplot()
    places = np.arange(len(names))
    for i, (name, values) in enumerate(series.items()):
        lengths = [value if value is not None and _is_known(value) else 0.0 for value in values]
        heights = places + (i - (len(series) - 1) / 2) * thick
        bars = axes.barh(heights, lengths, thick * 0.92, color=COLOURS[i], label=name)
        words = [f'{value:.3f}' if _is_known(value) else '-' for value in values]
        axes.bar_label(bars, words, padding=3, fontsize=8)
    axes.set_yticks(places, [_short(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    if most is not None:
        axes.set_xlim(0, most * 1.13)
    else:
        axes.margins(x=0.16)
        axes.axvline(0, color='#666666', linewidth=0.8)
    axes.set_xlabel(label)
    if len(series) > 1:
        figure.legend(loc='outside upper left', ncols=len(series), fontsize=9, frameon=False)
    return _finished(figure, axes)


def _lines(
    x: Sequence[float],
    series: Mapping[str, Sequence[float]],
    x_label: str,
    y_label: str,
    *,
    mark: float | None = None,
) -> bytes:
    """Curves from 0 to 1; of many only their mean stands out.

    Those of which nothing is known, as of classes that are nowhere, are left out.
    """
    series = {name: y for name, y in series.items() if not np.isnan(np.array(y, float)).all()}
    figure = new_figure(WIDTH, HEIGHT)
    axes = figure.add_subplot()
    if len(series) <= FEW:
        for i, (name, y) in enumerate(series.items()):
            axes.plot(x, y, color=COLOURS[i], linewidth=1.8, label=_short(name))
    else:
        for y in series.values():
            axes.plot(x, y, color=GREY, linewidth=0.5)
        mean = np.nanmean(np.array(list(series.values()), float), 0)
        axes.plot(x, mean, color=COLOURS[0], linewidth=2, label=f'mean of {len(series)} classes')
    if mark is not None:
        axes.axvline(mark, color='#666666', linewidth=1, linestyle='--')
        axes.annotate(
            exact(mark), (mark, 1), xytext=(3, -10), textcoords='offset points', fontsize=9
        )
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_ylim(0, 1.03)
    axes.grid(color='#DDDDDD', linewidth=0.6)
    axes.set_axisbelow(True)
    if len(series) > 1:
        axes.legend(fontsize=9, frameon=False)
    return _finished(figure, axes)


def _matrix(
    confusion: Mapping[str, Any], classes: Sequence[str], x_label: str, y_label: str
) -> bytes:
    """Shares of each row as shades, with numbers where there is room for them.

    Where there is no room for them, classes that are neither there nor predicted are left out; of
    more than :data:`MOST` those are drawn that are mistaken most. They keep their order.

    Args:
        classes: the first names as they are drawn.
    """
    names = [_short(name) for name in (*classes, *confusion['names'][len(classes) :])]
    matrix = np.array(confusion['matrix'])
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    of, chosen = len(names), np.flatnonzero(matrix.sum(0) + matrix.sum(1))
    if of <= NUMBERED or len(chosen) in (0, of):
        chosen = np.arange(of)
    else:
        x_label = f'{x_label}, the {len(chosen)} of {of} that are there or predicted'
    if len(chosen) > MOST:
        wrong = matrix.sum(0) + matrix.sum(1) - 2 * np.diag(matrix)
        chosen = np.sort(np.argsort(-wrong, kind='stable')[:MOST])
        x_label = f'{x_label.partition(",")[0]}, the {MOST} of {of} that are mistaken most'
    names, matrix = [names[i] for i in chosen], matrix[np.ix_(chosen, chosen)]
    shares = shares[np.ix_(chosen, chosen)]
    side = max(WIDTH, 1.6 + 0.17 * len(names))
    figure = new_figure(side, side * 0.9)
    axes = figure.add_subplot()
    axes.imshow(shares, cmap='Blues', vmin=0, vmax=1)
    small = 9 if len(names) <= NUMBERED else 5.5
    axes.set_xticks(range(len(names)), names, rotation=45, ha='right', fontsize=small)
    axes.set_yticks(range(len(names)), names, fontsize=small)
    if len(names) <= NUMBERED:
        for (i, j), value in np.ndenumerate(matrix):
            text = f'{shares[i, j]:.0%}\n{_number(int(value))}' if value else '0'
            colour = 'white' if shares[i, j] > 0.55 else '#333333'
            axes.text(j, i, text, ha='center', va='center', color=colour, fontsize=7.5)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    return _finished(figure, axes)


def _missed(missed: Mapping[str, Sequence[Mapping[str, Any]]]) -> bytes:
    """Share that is missed by size, and by crowding."""
    figure = new_figure(WIDTH, 3.4)
    upper, lower = figure.subplots(2, height_ratios=[3, 4], sharex=True)
    for axes, rows in ((upper, missed['by_size']), (lower, missed['by_crowding'])):
        names = [row['name'] for row in rows]
        bars = axes.barh(names, [row['share'] or 0.0 for row in rows], 0.7, color=COLOURS[1])
        words = [f'{row["missed"]} of {row["objects"]}' for row in rows]
        axes.bar_label(bars, words, padding=3, fontsize=8)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.25)
        axes.spines[['top', 'right']].set_visible(False)
        axes.tick_params(axis='y', length=0)
    lower.set_xlabel('share of the objects that is not found')
    return as_png(figure)


def _finished(figure: Any, axes: Any) -> bytes:
    axes.spines[['top', 'right']].set_visible(False)
    return as_png(figure)


def _short(name: str) -> str:
    """A name as matplotlib takes it: not too long, no formula, in legends too."""
    name = name if len(name) <= 22 else f'{name[:20]}...'
    hidden = name.startswith('_')  # from legends
    return ' ' * hidden + name.replace('$', r'\$')


def _number(value: int) -> str:
    """A count in few characters."""
    for unit, word in ((10**9, 'G'), (10**6, 'M'), (10**4, 'k')):
        if value >= unit:
            return f'{value / (1000 if word == "k" else unit):.3g}{word}'
    return str(value)
