"""The metrics of a config's test that are reported: their columns, and which there are."""

from __future__ import annotations

from mmengine.config import Config

from vitbackbones.data.configs import as_list, metrics_of, number_of_datasets
from vitbackbones.data.nodes import type_name
from vitbackbones.errors import UserError

# What is reported, by the name of a metric at the end of its key: column, factor to percent.
# IoUMetric has percents already.
METRICS = {
    'bbox_mAP': ('box AP', 100),
    'segm_mAP': ('mask AP', 100),
    'mIoU': ('mIoU', 1),
}


def expected_metrics(cfg: Config) -> list[str]:
    """Those of :data:`METRICS` that the config's evaluators report.

    mmdet leaves them out where there is not one detection, so the results cannot tell.

    Raises:
        UserError: none of them.
    """
    found = []
    for metric, measured in metrics_of(cfg, 'test'):
        if len(measured) < number_of_datasets(cfg, 'test'):
            continue  # one of several numbers of the same name
        kind = type_name(metric)
        if kind == 'CocoMetric':
            found += [f'{name}_mAP' for name in as_list(metric.get('metric', 'bbox'))]
        elif kind == 'IoUMetric':
            found += as_list(metric.get('iou_metrics', 'mIoU'))
    known = [name for name in METRICS if name in found]
    if not known:
        raise UserError(
            'test_evaluator must be a CocoMetric of boxes or masks, or an IoUMetric of mIoU; it is '
            f'{cfg.get("test_evaluator")}'
        )
    return known
