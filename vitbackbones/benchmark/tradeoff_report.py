"""What was measured of a checkpoint at many operating points, as rows, a page and a plot."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vitbackbones import tables
from vitbackbones.backbones.operating_point import OperatingPoint

from .machine import in_words
from .metrics import METRICS
from .plots import Series, pareto_front, tradeoff_plot
from .points import point_name, scale_name
from .timing import ratio, spread


@dataclass(frozen=True)
class Findings:
    """Measurements in part or in whole, by the names of ``points``.

    Attributes:
        points: as they are reported; ratios are to the first.
        metrics: those of :data:`METRICS` that were asked for.
        accuracy: by point and metric.
        cost: what all points have in common, and of each operations, bytes and seconds.
    """

    points: Sequence[OperatingPoint]
    metrics: Sequence[str]
    accuracy: Mapping[str, Mapping[str, float]]
    cost: Mapping[str, Any]

    def rows(self) -> list[dict[str, Any]]:
        """What is known of every point; what is not is None."""
        accuracy, cost = self.accuracy, self.cost
        known = {point: cost['points'].get(point_name(point), {}) for point in self.points}
        reference = known[self.points[0]].get('seconds')
        rows = []
        for point, c in known.items():
            seconds = c.get('seconds')
            row: dict[str, Any] = dict(scale=point.scale, keep_rate=point.keep_rate)
            for metric in self.metrics:
                row[metric] = accuracy.get(point_name(point), {}).get(metric)
            row['gflops'] = c['flops'] / 1e9 if c else None
            row['backbone_gflops'] = c['backbone_flops'] / 1e9 if c else None
            row['latency_ms'] = 1000 * statistics.median(seconds) if seconds else None
            row['backbone_latency_ms'] = (
                1000 * statistics.median(c['backbone_seconds']) if seconds else None
            )
            row['latency_spread'] = spread(seconds) if seconds and len(seconds) > 1 else None
            row['latency_ratio'] = ratio(seconds, reference) if seconds else None
            row['peak_memory_mib'] = c['peak_memory'] / 2**20 if c else None
            rows.append(row)
        best = pareto_front([(r['latency_ms'], r[self.metrics[0]]) for r in rows])
        return [{**row, 'pareto': i in best} for i, row in enumerate(rows)]

    def csv(self) -> str:
        rows = self.rows()
        return tables.comma_separated(list(rows[0]), ([*row.values()] for row in rows))

    def table(self) -> str:
        """In Markdown, a line for each point."""
        head = [
            'scale, keep rate',
            *(METRICS[metric][0] for metric in self.metrics),
            *('GFLOPs', 'of the backbone', 'latency (ms)', 'of the backbone', 'spread', 'ratio'),
            'peak memory (MiB)',
        ]
        formats = dict(
            **dict.fromkeys(self.metrics, '{:.1f}'),
            gflops='{:.2f}',
            backbone_gflops='{:.2f}',
            latency_ms='{:.1f}',
            backbone_latency_ms='{:.1f}',
            latency_spread='{:.0%}',
            latency_ratio='{:.2f}',
            peak_memory_mib='{:.0f}',
        )

        def line(point: OperatingPoint, row: Mapping[str, Any]) -> list[str]:
            name = f'**{point_name(point)}**' if row['pareto'] else point_name(point)
            values = ((pattern, row[key]) for key, pattern in formats.items())
            return [name, *('-' if v is None else pattern.format(v) for pattern, v in values)]

        return tables.markdown(head, map(line, self.points, self.rows()))

    def page(self) -> str:
        """The table, what its columns mean, and where it was measured."""
        cost = self.cost
        sizes = ', '.join(dict.fromkeys(f'{w} x {h}' for h, w in cost['pictures']))
        done = max((len(c['seconds']) for c in cost['points'].values()), default=0)
        return (
            f'{self.table()}\n'
            'Scale: factor of the sides of an image in the backbone. Keep rate: share of the '
            'tokens that go on at each of three blocks. Bold: no other point is faster and as '
            'accurate, or more accurate and as fast. GFLOPs: two per multiply-add, attention '
            'counted (papers give multiply-adds: half of it). Latency: predicting one image with '
            f'the whole model, average of {len(cost["pictures"])} test image(s) ({sizes} '
            f'pixels), median of {done} rounds in turn; spread: quartile distance over median; '
            f'ratio: to the time at {point_name(self.points[0])}. Peak memory: weights and '
            'tensors.\n\n'
            f'Measured on {in_words(cost["machine"])}.\n'
        )

    def plot(self) -> bytes | None:
        """Accuracy over latency as PNG, where a point has both."""
        first = self.metrics[0]
        rows = [r for r in self.rows() if r['latency_ms'] and r[first] is not None]
        if not rows:
            return None
        series = [
            Series(
                f'scale {scale_name(scale)}',
                [
                    (r['latency_ms'], r[first], f'{r["keep_rate"]:g}')
                    for r in rows
                    if r['scale'] == scale
                ],
            )
            for scale in dict.fromkeys(row['scale'] for row in rows)
        ]
        return tradeoff_plot(
            series,
            x_label='latency per image (ms)',
            y_label=METRICS[first][0] + ' (%)',
            title='One checkpoint at many operating points',
            note='numbers: share of tokens kept\nat each of three blocks',
        )
