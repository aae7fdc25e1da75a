"""What is written of predictions: COCO's JSON, tables, label maps, classes."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from vitbackbones.errors import UserError
from vitbackbones.files import replacing
from vitbackbones.tasks import Task, task_of_sample

from .classes import best_classes
from .coco import AnnotationIds, Predictions
from .label_maps import write_label_map
from .request import Kept
from .rows import Rows

_TITLES = {
    Task.DETECTION: ('file_name', 'class', 'score', 'x', 'y', 'width', 'height'),
    Task.SEGMENTATION: ('file_name', 'class', 'pixels', 'share'),
    Task.CLASSIFICATION: ('file_name', 'class', 'score'),
}
JSON, CSV, IMAGES = 'predictions.json', 'predictions.csv', 'images'


class Result(NamedTuple):
    """What was found in one image.

    Attributes:
        path: of the image.
        name: of it, and of what is written, below the folder of results.
        number: the id of the image.
        sample: the model's data sample, on the CPU.
    """

    path: Path
    name: PurePosixPath
    number: Any
    sample: Any

    def target(self, out: Path, end: str) -> Path:
        """A file that is named after the image; its folder is made."""
        path = out / self.name.with_name(self.name.stem + end)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


class Results(ABC):
    """Results in one format.

    Args:
        out: the folder that they go to.
        kept: which of the model's classes there are.
    """

    def __init__(self, out: Path, kept: Kept) -> None:
        self.out = out
        self.kept = kept

    def check(self) -> None:  # noqa: B027 (most need none)
        """UserError if something is in the way; nothing is written."""

    @abstractmethod
    def add(self, result: Result) -> None:
        """Take one in, or write it."""

    def close(self) -> None:  # noqa: B027 (most need none)
        """Write what is about all images; UserError if that cannot be."""


class _OneFile(Results):
    """Results of all images in a file, which is written at the end."""

    file: str
    is_open = False

    def check(self) -> None:
        if (self.out / self.file).is_dir():
            raise UserError(
                f'--out-dir {self.out}: {self.file} is a folder there, the results go into a file'
            )

    def add(self, result: Result) -> None:
        if not self.is_open:  # by now there is a folder
            self.open()
            self.is_open = True
        self.take(result)

    @abstractmethod
    def open(self) -> None: ...

    @abstractmethod
    def take(self, result: Result) -> None: ...

    @abstractmethod
    def write(self, path: Path) -> None: ...

    def close(self) -> None:
        if not self.is_open:
            return
        target = self.out / self.file
        try:
            with replacing(target) as part:
                self.write(part)
        except OSError as error:
            raise UserError(f'{target} cannot be written: {error.strerror}') from error


class CocoFile(_OneFile):
    """Objects as in an annotation file of COCO, each with its score."""

    file = JSON

    def __init__(self, out: Path, kept: Kept, ids: AnnotationIds) -> None:
        super().__init__(out, kept)
        self.numbers = ids.of_classes(kept.classes)

    def open(self) -> None:
        kept = self.kept
        self.found = Predictions(self.out, self.numbers, kept.classes, kept.labels, kept.threshold)

    def take(self, result: Result) -> None:
        self.found.add(str(result.name), result.number, result.sample)

    def write(self, path: Path) -> None:
        self.found.write(path)


class ClassesFile(_OneFile):
    """The best classes of each image."""

    file = JSON

    def open(self) -> None:
        self.rows = Rows(self.out, b',\n')

    def take(self, result: Result) -> None:
        best = best_classes(result.sample, self.kept.classes)
        row = dict(file_name=str(result.name), classes=best)
        text = textwrap.indent(json.dumps(row, indent=1, ensure_ascii=False), ' ')
        self.rows.add(text.encode('utf-8', 'surrogateescape'))

    def write(self, path: Path) -> None:
        with path.open('wb') as file:
            file.write(b'[\n')
            self.rows.copy_to(file)
            file.write(b'\n]\n')


class Table(_OneFile):
    """A row for each object, each of the best classes, or each class of a label map.

    Args:
        score: the least of an object.
    """

    file = CSV

    def __init__(self, out: Path, kept: Kept, task: Task, score: float) -> None:
        super().__init__(out, kept)
        self.score = score
        self.task = task

    def open(self) -> None:
        self.rows = Rows(self.out, b'')
        self.rows.add(_lines([_TITLES[self.task]]))

    def take(self, result: Result) -> None:
        rows = {
            Task.DETECTION: self._objects,
            Task.SEGMENTATION: self._shares,
            Task.CLASSIFICATION: self._classes,
        }[task_of_sample(result.sample)](result.sample)
        self.rows.add(_lines([result.name, *row] for row in rows))

    def write(self, path: Path) -> None:
        with path.open('wb') as file:
            self.rows.copy_to(file)

    def _objects(self, sample: Any) -> Iterator[tuple[Any, ...]]:
        found = sample.pred_instances
        for j in np.flatnonzero(found.scores.numpy() >= self.score).tolist():
            x1, y1, x2, y2 = found.bboxes[j].tolist()
            sides = (f'{value:.3f}' for value in (x1, y1, x2 - x1, y2 - y1))
            name = self.kept.classes[int(found.labels[j])]
            yield (name, f'{float(found.scores[j]):.6f}', *sides)

    def _shares(self, sample: Any) -> Iterator[tuple[Any, ...]]:
        labels, counts = np.unique(sample.pred_sem_seg.data[0].numpy(), return_counts=True)
        for label, count in zip(labels.tolist(), counts.tolist(), strict=True):
            if label in self.kept.labels:
                yield self.kept.classes[label], count, f'{count / counts.sum():.6f}'

    def _classes(self, sample: Any) -> Iterator[tuple[Any, ...]]:
        for row in best_classes(sample, self.kept.classes):
            yield row['name'], f'{row["score"]:.6f}'


def _lines(rows: Iterable[Sequence[Any]]) -> bytes:
    """Lines of a table."""
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows(rows)
    return text.getvalue().encode('utf-8', 'surrogateescape')


class LabelMaps(Results):
    """NAME_labels.png: in each pixel the index of its class."""

    def add(self, result: Result) -> None:
        labels = result.sample.pred_sem_seg.data[0].numpy()
        write_label_map(result.target(self.out, '_labels.png'), labels, self.kept.classes)
