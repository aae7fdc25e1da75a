"""The plots of measurements, each the content of a PNG file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from vitbackbones.plotting import COLOURS, as_png, new_figure

MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X')


@dataclass(frozen=True)
class Bar:
    """A value with its quartiles; ``label`` is written behind the bar."""

    name: str
    value: float
    low: float
    high: float
    label: str


@dataclass(frozen=True)
class Series:
    """Points of one name; each is (x, y, label)."""

    name: str
    points: Sequence[tuple[float, float, str]]


def pareto_front(points: Sequence[tuple[float | None, float | None]]) -> list[int]:
    """Of (cost, gain) pairs the positions of those that no other beats, by rising cost.

    One is beaten by another that is no worse in both and better in one. Pairs with None are not
    in it.
    """
    known = [
        (cost, -gain, i)
        for i, (cost, gain) in enumerate(points)
        if cost is not None and gain is not None
    ]
    front: list[tuple[float, float, int]] = []
    for entry in sorted(known):
        # All before it cost no more; equal pairs stay side by side.
        if not front or entry[1] < front[-1][1] or entry[:2] == front[-1][:2]:
            front.append(entry)
    return [i for _, _, i in front]


def tradeoff_plot(
    series: Sequence[Series], *, x_label: str, y_label: str, title: str, note: str = ''
) -> bytes:
    """Gain (up) against cost (to the right), with the Pareto front of all series as a line."""
    figure = new_figure(8, 5.2)
    axes = figure.add_subplot()
    everything = [(x, y) for s in series for x, y, _ in s.points]
    front = [everything[i] for i in pareto_front(everything)]
    # From one point of the front to the next, what can be had is the better of the two.
    axes.plot(
        *zip(*front, strict=True),
        color='#999999',
        linewidth=5,
        alpha=0.35,
        zorder=1,
        solid_capstyle='round',
        label='Pareto front',
    )
    for i, s in enumerate(series):
        x, y, _ = zip(*s.points, strict=True)
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        axes.plot(x, y, color=colour, linewidth=0.8, alpha=0.6, zorder=2)
        axes.scatter(
            x,
            y,
            color=colour,
            marker=marker,
            s=46,
            edgecolor='white',
            linewidth=0.8,
            zorder=3,
            label=s.name,
        )
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_title(title, loc='left', fontweight='bold')
    axes.grid(color='#DDDDDD', linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[['top', 'right']].set_visible(False)
    axes.margins(0.08)
    axes.set_xlim(left=0)  # so that a small difference looks small
    legend = axes.legend(
        loc='best', title=note or None, fontsize=9, title_fontsize=9, alignment='left'
    )
    labels = [
        (x, y, label, COLOURS[i % len(COLOURS)])
        for i, s in enumerate(series)
        for x, y, label in s.points
    ]
    _place_labels(figure, axes, labels, [legend])
    return as_png(figure)


def bar_plot(panels: Mapping[str, Sequence[Bar]], *, title: str, x_label: str) -> bytes:
    """Horizontal bars with their quartiles, one panel below the other; shorter is better.

    A dashed line marks 1; the first bar of a panel, the one that others are compared with, is grey.
    """
    rows = [len(bars) for bars in panels.values()]
    figure = new_figure(8, 1.1 + 0.5 * len(panels) + 0.36 * sum(rows))
    every = figure.subplots(len(panels), squeeze=False, height_ratios=rows, sharex=True)[:, 0]
    for axes, (name, bars) in zip(every, panels.items(), strict=True):
        names = [bar.name for bar in bars]
        axes.barh(
            names,
            [bar.value for bar in bars],
            color=['#999999', *[COLOURS[0]] * (len(bars) - 1)],
            xerr=[[b.value - b.low for b in bars], [b.high - b.value for b in bars]],
            error_kw=dict(ecolor='#333333', elinewidth=1, capsize=2.5),
            height=0.7,
        )
        for bar in bars:
            axes.annotate(
                bar.label,
                (bar.high, bar.name),
                xytext=(6, 0),
                textcoords='offset points',
                va='center',
                fontsize=8.5,
                bbox=dict(facecolor='white', edgecolor='none', pad=1.5),
            )
        axes.invert_yaxis()
        axes.axvline(1, color='#666666', linewidth=0.8, linestyle='--', zorder=0)
        axes.set_xlim(0, 1.28 * max(bar.high for bars in panels.values() for bar in bars))
        axes.set_title(name, loc='left', fontsize=10)
        axes.tick_params(axis='y', length=0)
        axes.spines[['top', 'right']].set_visible(False)
    every[-1].set_xlabel(x_label)
    figure.suptitle(title, x=0.01, ha='left', fontweight='bold')
    return as_png(figure)


def _place_labels(
    figure: Any, axes: Any, labels: Sequence[tuple[float, float, str, str]], taken: Sequence[Any]
) -> None:
    """Put each label next to its marker where it covers the least of what is already there."""
    figure.canvas.draw()  # until then nothing has a place
    figure.set_layout_engine('none')
    renderer = figure.canvas.get_renderer()
    scale = figure.dpi / 72
    boxes = [tuple(artist.get_window_extent(renderer).extents) for artist in taken]
    spots = axes.transData.transform([(x, y) for x, y, *_ in labels])
    markers = [(x - 5 * scale, y - 5 * scale, x + 5 * scale, y + 5 * scale) for x, y in spots]
    frame = axes.get_window_extent(renderer).extents
    lines = [_between(axes.transData.transform(line.get_xydata())) for line in axes.get_lines()]
    for (x, y, label, colour), own in zip(labels, spots, strict=True):
        text = axes.annotate(
            label,
            (x, y),
            xytext=(0, 0),
            textcoords='offset points',
            fontsize=8.5,
            color=colour,
            ha='center',
            va='center',
            zorder=4,
        )
        width, height = text.get_window_extent(renderer).size
        best: tuple[float, tuple[float, float], Any] | None = None
        for distance, angle in _directions():
            dx = math.cos(angle) * (distance * scale + width / 2)
            dy = math.sin(angle) * (distance * scale + height / 2)
            cx, cy = own[0] + dx, own[1] + dy
            box = (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
            cost = 40 * sum(_overlap(box, other) for other in (*boxes, *markers))
            cost += 40 * (width * height - _overlap(box, frame))
            cost += (
                2
                * height
                * sum(
                    box[0] <= px <= box[2] and box[1] <= py <= box[3]
                    for line in lines
                    for px, py in line
                )
            )
            cost += distance  # near is better
            if best is None or cost < best[0]:
                best = cost, (dx / scale, dy / scale), box
        assert best is not None
        text.set_position(best[1])
        boxes.append(best[2])


def _directions() -> Iterator[tuple[float, float]]:
    """Distances in points and angles to try for a label: near ones first, above before below."""
    for distance in (7, 11, 16):
        for eighth in (2, 1, 3, 0, 4, 6, 7, 5):
            yield distance, eighth * math.pi / 4


def _between(corners: Any) -> list[tuple[float, float]]:
    """Points close together on a line through ``corners``, in pixels."""
    points = []
    for (x1, y1), (x2, y2) in pairwise(corners):
        steps = max(1, int(math.hypot(x2 - x1, y2 - y1) // 3))
        points += [
            (x1 + (x2 - x1) * i / steps, y1 + (y2 - y1) * i / steps) for i in range(steps + 1)
        ]
    return points


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """The area that two boxes (x1, y1, x2, y2) share."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)
