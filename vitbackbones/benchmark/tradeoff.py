"""Accuracy and cost of one checkpoint at many operating points.

At every point the checkpoint is tested on the config's test set; GFLOPs, peak memory and latency
are of predicting single test images with the whole model, latencies in turn.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.progress import Progress

from vitbackbones import files
from vitbackbones.backbones.operating_point import OperatingPoint
from vitbackbones.data.configs import metrics_of
from vitbackbones.errors import UserError, notice
from vitbackbones.inference.predict import build_tester
from vitbackbones.launch.checks import build_backbone
from vitbackbones.progress import progress_bar

from .flops import count_flops
from .machine import describe_machine
from .memory import peak_memory, weight_memory
from .metrics import METRICS, expected_metrics
from .points import point_name
from .timing import PartClock, in_turn
from .tradeoff_report import Findings

NAME = 'tradeoff'


class Tradeoff:
    """Measurements of one checkpoint at ``points``, and the file in ``folder`` that keeps them.

    What is there of the same checkpoint, config and data is not measured again.

    Raises:
        UserError: the backbone has no operating points, or the config, an evaluator or the data are
            not right.
        CheckpointError: the checkpoint cannot be read or belongs to another model.
    """

    def __init__(
        self, cfg: Config, checkpoint: str, points: Sequence[OperatingPoint], folder: Path
    ) -> None:
        if not hasattr(build_backbone(cfg), 'operating_point'):
            raise UserError(
                'only a backbone with operating points can be measured at several, which SuperViT '
                f'is; the config has {(cfg.model.get("backbone") or {}).get("type")}'
            )
        self.metrics = expected_metrics(cfg)
        cfg.work_dir = str(folder)
        cfg.log_level = 'WARNING'
        with redirect_stdout(io.StringIO()):  # pycocotools speaks of every file that it reads
            self.runner = build_tester(cfg, checkpoint)
        self.cfg = cfg
        self.checkpoint = checkpoint
        self.model: Any = self.runner.model
        self.points = points
        self.folder = folder
        self.device = next(self.model.parameters()).device
        self.dataset: Any = self.runner.test_loop.dataloader.dataset
        self.stored: dict[str, Any] = {}
        self.content: dict[str, Any] = {}
        self.cost: dict[str, Any] | None = None

    # What is stored, by the hash of what was measured: its parts, `accuracy` by point, and `cost`
    # by point with what those of one run have in common.

    @property
    def file(self) -> Path:
        return self.folder / f'{NAME}.json'

    def _restore(self, subject: Mapping[str, str]) -> None:
        """Take over what earlier runs finished on the same ``subject``."""
        name = hashlib.sha256(json.dumps(subject, sort_keys=True).encode()).hexdigest()[:16]
        new = dict(subject=dict(subject), accuracy={}, cost=None)
        try:
            self.stored = json.loads(self.file.read_text())
            if name not in self.stored:
                others = [content['subject'] for content in self.stored.values()]
                changed = [key for key in subject if all(o[key] != subject[key] for o in others)]
                what = ' and '.join(changed) or 'combination of these'
                notice(f'{self.file} is of another {what}: measuring everything afresh')
            self.content = self.stored.setdefault(name, new)
            tested = sum(point_name(point) in self.content['accuracy'] for point in self.points)
        except FileNotFoundError:
            self.stored = {name: new}
            self.content = new
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f'{self.file} cannot be gone on with: {error}; remove it') from error
        if tested:
            notice(
                f'{tested} of {len(self.points)} points were tested before: reusing their accuracy'
            )

    def _save(self) -> None:
        files.write(self.file, json.dumps(self.stored, indent=1) + '\n')

    # ------------------------------------------------------------------------ measuring

    def measure(self, images: int = 5, rounds: int = 10) -> None:
        """Measure what is not stored; what an interruption leaves unfinished is kept in part.

        Args:
            images: of the test set, to measure costs on.
            rounds: how often the latencies at all points are taken in turn.
        """
        with progress_bar() as progress:
            self._restore(self._subject(progress))
            batches = self._batches(images)
            same = dict(
                machine=describe_machine(self.device),
                # The key is that of files of earlier versions.
                pictures=[list(batch['inputs'][0].shape[1:]) for batch in batches],
                rounds=rounds,
            )
            self.cost = self._known_cost(same)
            if self.cost is None:
                self.cost = dict(**same, points={}, complete=False)
                self._count(progress, batches)
            self._test(progress)
            if not self.cost['complete']:
                self._time(progress, batches, rounds)

    def _subject(self, progress: Progress) -> dict[str, str]:
        """Hashes of all that accuracy depends on: the weights, the config, the data."""
        checkpoint = hashlib.sha256()
        for name, value in self.model.state_dict().items():
            checkpoint.update(f'{name} {value.dtype} {tuple(value.shape)}'.encode())
            checkpoint.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        keys = ('model', 'test_dataloader', 'test_evaluator', 'test_cfg')
        parts = json.loads(json.dumps({key: self.cfg[key] for key in keys}, default=str))
        parts['model']['backbone'].pop('operating_point', None)
        data = hashlib.sha256()
        for metric, _ in metrics_of(self.cfg, 'test'):
            data.update(content_of(metric.get('ann_file')))
        for i in progress.track(range(len(self.dataset)), description='reading data'):
            for key, value in sorted(self.dataset.get_data_info(i).items()):
                data.update(key.encode() + content_of(value))
        return dict(
            checkpoint=checkpoint.hexdigest(),
            config=hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest(),
            data=data.hexdigest(),
        )

    def _batches(self, count: int) -> list[dict[str, Any]]:
        """Batches of one image each, spread over the test set."""
        total = len(self.dataset)
        indices = sorted({i * total // count for i in range(count)})
        return [{key: [value] for key, value in self.dataset[i].items()} for i in indices]

    def _known_cost(self, same: Mapping[str, Any]) -> dict[str, Any] | None:
        """What an earlier run measured, if it took all latencies in turn as this one would."""
        cost = self.content['cost']
        if not cost or not cost['complete']:
            return None
        for key, value in same.items():
            if key == 'machine':
                value, known = (
                    {k: v for k, v in m.items() if k not in ('date', 'commit')}
                    for m in (value, cost[key])
                )
            else:
                known = cost[key]
            if value != known:
                return None
        if any(point_name(point) not in cost['points'] for point in self.points):
            return None
        notice('the costs of all points were measured before: reusing them')
        return cost

    def _predict(self, point: OperatingPoint, batches: Iterator[dict[str, Any]]) -> None:
        self.model.backbone.operating_point = point
        with torch.no_grad():
            self.model.test_step(next(batches))

    def _count(self, progress: Progress, batches: Sequence[dict[str, Any]]) -> None:
        """Operations, the average over the images, and memory, of the most demanding one."""
        assert self.cost is not None
        self.model.eval()
        weights = weight_memory(self.model)
        for point in progress.track(self.points, description='counting operations and memory'):
            with too_few_tokens_at(point):
                counts = [
                    count_flops(partial(self._predict, point, iter([batch])), self.model)
                    for batch in batches
                ]
            peaks = [
                peak_memory(partial(self._predict, point, iter([batch])), self.device)
                for batch in batches
            ]
            self.cost['points'][point_name(point)] = dict(
                flops=statistics.mean(c.total for c in counts),
                backbone_flops=statistics.mean(c.parts['backbone'] for c in counts),
                peak_memory=weights + max(peaks),
                seconds=[],
                backbone_seconds=[],
            )

    def _test(self, progress: Progress) -> None:
        """Accuracy; every point is stored as soon as it is finished."""
        missing = [p for p in self.points if point_name(p) not in self.content['accuracy']]
        batches = len(self.runner.test_loop.dataloader)
        task = progress.add_task('testing', total=batches * len(missing), visible=bool(missing))
        self.runner.register_hook(AdvanceHook(progress, task))
        self._save()
        for i, point in enumerate(missing):
            progress.update(
                task, description=f'testing at {point_name(point)}', completed=batches * i
            )
            with too_few_tokens_at(point):  # the smallest image may not be among those counted
                found = evaluate(self.runner, point)
            row = {}
            for metric in self.metrics:
                # mmdet reports nothing at all if there is not one detection.
                value = next((v for k, v in found.items() if k.split('/')[-1] == metric), 0.0)
                row[metric] = float(value) * METRICS[metric][1]
            self.content['accuracy'][point_name(point)] = row
            self._save()

    def _time(self, progress: Progress, batches: Sequence[dict[str, Any]], rounds: int) -> None:
        """Latencies: within a round every image is predicted at all points in turn."""
        assert self.cost is not None
        cost, n = self.cost, len(batches)
        candidates = {p: partial(self._predict, p, itertools.cycle(batches)) for p in self.points}
        turns = in_turn(candidates, rounds * n, warm_up=n, device=self.device)
        seconds: dict[OperatingPoint, list[tuple[float, float]]] = {p: [] for p in self.points}
        total = (1 + rounds) * n * len(self.points)
        try:
            with PartClock(self.model.backbone, self.device) as clock:
                for point, value in progress.track(turns, total, description='timing'):
                    inside = clock.read()
                    if value is not None:
                        seconds[point].append((value, inside))
            cost['complete'] = True
        finally:
            whole = n * (min(map(len, seconds.values())) // n)
            for point, pairs in seconds.items():
                means = np.reshape(pairs[:whole], (-1, n, 2)).mean(1)  # (rounds, 2)
                cost['points'][point_name(point)].update(
                    seconds=means[:, 0].tolist(), backbone_seconds=means[:, 1].tolist()
                )
            known = self.content['cost']
            if cost['complete'] or not (known and known['complete']):
                self.content['cost'] = cost
            self._save()

    def report(self, config: str) -> str:
        """The table of what there is; it is written to the folder, too, with plot and figures.

        Args:
            config: its name, for the page.
        """
        if self.cost is None:
            return ''
        found = Findings(self.points, self.metrics, self.content['accuracy'], self.cost)
        title = f'`{self.checkpoint}` of `{config}`'
        files.write(self.folder / f'{NAME}.md', f'{title}\n\n{found.page()}')
        files.write(self.folder / f'{NAME}.csv', found.csv())
        plot = found.plot()
        if plot is not None:
            files.write(self.folder / f'{NAME}.png', plot)
        return found.table()


@contextmanager
def too_few_tokens_at(point: OperatingPoint) -> Iterator[None]:
    """Name the point whose tokens an image does not suffice for.

    Raises:
        UserError: in place of that ValueError.
    """
    try:
        yield
    except ValueError as error:
        if 'less than one' not in str(error):
            raise
        raise UserError(f'--points {point_name(point)}: {error}') from error


def evaluate(runner: Runner, point: OperatingPoint) -> dict[str, float]:
    """The metrics of the test set at one point, as mmengine names them."""
    model: Any = runner.model
    model.backbone.operating_point = point
    with redirect_stdout(io.StringIO()):
        return runner.test()


def content_of(value: Any) -> bytes:
    """What is in a file if ``value`` is the path of one, else ``value`` in words."""
    if isinstance(value, str) and '://' not in value and Path(value).is_file():
        return Path(value).read_bytes()
    return repr(value).encode()


class AdvanceHook(Hook):
    """Move a progress bar on with every batch that was tested."""

    def __init__(self, progress: Progress, task: Any) -> None:
        self.progress = progress
        self.task = task

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self.progress.advance(self.task)
