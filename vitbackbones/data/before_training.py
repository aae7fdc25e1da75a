"""Stop before a training whose data cannot be learnt from, and say what it will not learn."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from itertools import chain

from mmengine.config import Config

from vitbackbones.errors import UserError, notice

from .findings import COPY, KINDS
from .sources import sources
from .survey import judge, look_at_label_maps

#: Label maps of a split that are read: all of a small one, a fair sample of a large one in seconds.
LABEL_MAPS = 1000


def check_annotations(cfg: Config, splits: Sequence[str], *, label_maps: int | None = None) -> None:
    """Stop at annotations and label maps that cannot be trained on; say which are left out.

    Args:
        label_maps: how many of a split are read at most; None for :data:`LABEL_MAPS`.

    Raises:
        UserError: there are some that cannot, or nothing is left to learn.
    """
    first = os.environ.get('RANK', '0') == '0'
    most = LABEL_MAPS if label_maps is None else label_maps
    jobs = min(8, os.cpu_count() or 1)
    for split in splits:
        group = list(sources(cfg, split, aloud=False))
        fine = [s for s in group if first and not any(finding.error for finding in s.findings)]
        if most:
            look_at_label_maps(fine, most, jobs=jobs)  # other ranks wait for this one
        whole = judge(cfg, split, group)
        errors = [f for f in chain(*(source.findings for source in group), whole) if f.error]
        if errors:
            more = f', and {len(errors) - 1} more problems' if len(errors) > 1 else ''
            raise UserError(
                f'{errors[0]} ({errors[0].kind}){more}: `vitbackbones check-data CONFIG` lists '
                'what is wrong with the data'
            )
        for source in group:
            # What is put right is said where the copy is written.
            for kind, count in Counter(finding.kind for finding in source.findings).items():
                if not KINDS[kind].whole and KINDS[kind].training != COPY:
                    notice(f'{source.name}: {kind}: {count} times, {KINDS[kind].training}')
            whole += [finding for finding in source.findings if KINDS[finding.kind].whole]
        for finding in whole:
            notice(f'{finding}: {KINDS[finding.kind].training}')
