"""Stop before a training whose data cannot be learnt from, and say what it will not learn."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from itertools import chain

from mmengine.config import Config

from vitbackbones.errors import UserError, say

from .findings import KINDS
from .sources import sources
from .survey import judge, look_at_label_maps

#: Label maps of a split that are read: all of a small one, a fair sample of a large one in seconds.
LABEL_MAPS = 1000


def check_annotations(cfg: Config, splits: Sequence[str]) -> None:
    """Stop at annotations and label maps that cannot be trained on; say which are left out.

    Raises:
        UserError: there are some that cannot, or nothing is left to learn.
    """
    first = os.environ.get('RANK', '0') == '0'
    jobs = min(8, os.cpu_count() or 1)
    for split in splits:
        group = list(sources(cfg, split, aloud=False))
        for source in group:
            if first and not any(finding.error for finding in source.findings):
                look_at_label_maps(source, LABEL_MAPS, jobs=jobs)  # other ranks wait for this one
        whole = judge(cfg, split, group)
        errors = [f for f in chain(*(source.findings for source in group), whole) if f.error]
        if errors:
            more = f', and {len(errors) - 1} more problems' if len(errors) > 1 else ''
            raise UserError(
                f'{errors[0]} ({errors[0].kind}){more}: `vitbackbones check-data CONFIG` lists '
                'what is wrong with the data'
            )
        for source in group:
            for kind, count in Counter(finding.kind for finding in source.findings).items():
                if not KINDS[kind].whole:
                    say(f'{source.name}: {kind}: {count} times, {KINDS[kind].training}')
            whole += [finding for finding in source.findings if KINDS[finding.kind].whole]
        for finding in whole:
            say(f'{finding}: {KINDS[finding.kind].training}')
