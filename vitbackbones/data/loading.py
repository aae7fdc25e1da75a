"""Loading of training data that names the file it stops at."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.registry import TRANSFORMS as ROOT_TRANSFORMS

from vitbackbones.errors import UserError
from vitbackbones.registry import TRANSFORMS, register

from . import verdicts
from .annotations import read_coco
from .counts import ObjectCounts, count_objects
from .findings import Finding
from .images import check_file, check_label_map, wrong_labels
from .steps import is_foreign, last_foreign
from .values import in_another_order

#: How many problems of one file are said at once.
SHOWN = 5

# They are CocoDatasets whose files have another format.
_OTHER_FORMATS = {'CocoPanopticDataset', 'LVISV05Dataset'}

# Kinds that are right in a copy of the file, and silently wrong where the file itself is read: in
# training, and by metrics, which match results with it.
_TRAINED = {
    'categories in another order',
    'category without use',
    'name that is no text',
    'ids of other types',
}
_EVALUATED = {'optional field left out', 'annotation ids as text'}


class DataError(UserError, ValueError):
    """One sentence about data that cannot be trained on; it starts with the file.

    A worker process hands its error on as the text of a traceback; of that, this keeps the
    sentence.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition(f'{type(self).__name__}: ')[2].strip())


@register(TRANSFORMS)
class CheckedPipeline:
    """The steps of a dataset's pipeline, with checks of what they load.

    Args:
        steps: configs of the transforms.
        classes: how many the label maps of a semantic segmentation have; None for other data.
        ignore: the label that stands for no class.

    Raises:
        DataError: a file is missing, damaged or of another size than its annotations say, a label
            map has labels beyond the classes, or a step fails.
    """

    def __init__(self, steps: Sequence[Any], classes: int | None = None, ignore: int = 255) -> None:
        self.steps = [ROOT_TRANSFORMS.build(s) if isinstance(s, dict) else s for s in steps]
        self.classes = classes
        self.ignore = ignore
        self._converts = last_foreign(self.steps)

    @property
    def with_mask(self) -> bool:
        """Whether masks are loaded, as mmdet's LoadAnnotations says of itself."""
        return any(getattr(step, 'with_mask', False) for step in self.steps)

    def __call__(self, results: Any) -> Any:
        for place, step in enumerate(self.steps):
            before = set(results)
            labels = 'img' in results and 'Annotations' in type(step).__name__
            own = results.get('seg_map_path') if labels else None
            file = own or results.get('img_path')
            if 'img' not in results:
                self._stop(check_file, file)
            elif own and self.classes is not None:
                self._stop(check_file if is_foreign(type(step)) else _first_of_label_map, own)
            try:
                results = step(results)
            except DataError:
                raise
            except Exception as error:  # any transform, any reason
                name, reason = type(step).__name__, str(error).partition('\n')[0]
                raise DataError(
                    f'{file}: {name} fails: {type(error).__name__}: {reason}'
                ) from error
            if results is None:
                return None
            new = set(results) - before
            if 'img' in new:
                _check_size(results)
            if 'gt_seg_map' in new and self.classes is not None:
                _check_size_of_labels(results, whole=self._converts < 0)
            # A step of the user's may make classes of what is in the files.
            last = place == self._converts or ('gt_seg_map' in new and place > self._converts)
            if last and 'gt_seg_map' in results and self.classes is not None:
                self._check_labels(results, self.classes)
        return results

    def _stop(self, check: Any, file: Any) -> None:
        """Raise what ``check`` finds; what is in a remote store is left to the step itself."""
        finding = check(file) if isinstance(file, str) and '://' not in file else None
        if finding is not None:
            raise DataError(str(finding))

    def _check_labels(self, results: Any, classes: int) -> None:
        labels = np.asarray(results['gt_seg_map'])
        if labels.ndim != 2 or labels.dtype.kind not in 'biu':
            return  # whatever a step of the user's has made of it
        wrong = wrong_labels(labels, classes, self.ignore)
        if wrong:
            raise DataError(f'{results.get("seg_map_path")}: {wrong}')


def _first_of_label_map(file: str) -> Finding | None:
    return next(check_label_map(file), None)


def _check_size_of_labels(results: Any, *, whole: bool) -> None:
    """With further dimensions, unless ``whole``, for a step of the user's to take away."""
    labels, (height, width) = results['gt_seg_map'], results['ori_shape'][:2]
    if (labels.shape if whole else labels.shape[:2]) != (height, width):
        shape = ' x '.join(map(str, labels.shape[1::-1]))
        raise DataError(
            f'{results.get("seg_map_path")}: a label map of {shape} pixels for an image of '
            f'{width} x {height}'
        )


def _check_size(results: Any) -> None:
    """mmdet's datasets hand on the size that the annotations give; mmseg's have none."""
    if 'height' not in results or 'width' not in results:
        return
    height, width = results['ori_shape'][:2]
    if (results['height'], results['width']) != (height, width):
        raise DataError(
            f'{results.get("img_path")}: {width} x {height} pixels, but {results["width"]} x '
            f'{results["height"]} by its annotations'
        )


def annotation_problems(dataset: Any, evaluators: Any = None) -> Iterator[str]:
    """What is wrong with the annotation files of a dataset, wrapped in others or not.

    A file that the command line has checked before is not read again.

    Args:
        evaluators: configs of those that compare with it, or one; those without an ``ann_file``
            take the truth from the dataset. None if unknown.
    """
    evaluators = evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]
    known = all(isinstance(each, Mapping) for each in evaluators)
    matched = {os.path.realpath(each.get('ann_file') or '') for each in evaluators if known}
    whole: list[ObjectCounts | None] = []
    files: dict[str, list[Finding]] = {}
    for part in iter_built_datasets(dataset):
        if not is_coco(type(part)) or '://' in part.ann_file:
            whole.append(None)
            continue
        names = part.metainfo.get('classes')
        if isinstance(names, str):
            files[part.ann_file] = [
                Finding(
                    'class without category',
                    part.ann_file,
                    f'metainfo.classes={names!r} is one text and no names: a comma is missing, '
                    f'classes=({names!r},)',
                )
            ]
            continue
        steps = getattr(getattr(part, 'pipeline', None), 'transforms', ())
        coco = read_coco(
            Path(part.ann_file),
            names,
            masks=any(getattr(step, 'with_mask', False) for step in steps),
            test=part.test_mode,
            ordered=in_file_order(type(part)),
        )
        matching = part.test_mode and (not known or os.path.realpath(part.ann_file) in matched)
        wrong = _EVALUATED | _TRAINED if matching else _TRAINED
        found = [f for f in coco.as_it_is if f.error or f.kind in wrong]
        if coco.rows is not None:
            images = [name for name, _, _ in coco.sizes]
            found += [f for f in verdicts.of_rows(part.ann_file, coco.rows, images) if f.error]
        files[part.ann_file] = found
        rows = None if part.test_mode else coco.rows
        poly2mask = all(getattr(step, 'poly2mask', True) for step in steps)
        filters = part.filter_cfg
        whole.append(rows and count_objects(rows, filter_cfg=filters, poly2mask=poly2mask))
    counts = [each for each in whole if each is not None]
    if counts == whole and files and not any(files.values()):
        file = next(iter(files))
        files[file] = [f for f in verdicts.of_objects(file, reduce(add, counts)) if f.error]
    for file, findings in files.items():
        for finding in findings[:SHOWN]:
            done = '' if finding.error else f': {finding.training}'
            yield f'{finding} ({finding.kind}){done}'
        if len(findings) > SHOWN:
            yield f'{file}: {len(findings) - SHOWN} more problems'


def iter_built_datasets(dataset: Any) -> Iterator[Any]:
    """The datasets that wrappers such as ConcatDataset hold, or the one itself."""
    inner = [getattr(dataset, 'dataset', None), *(getattr(dataset, 'datasets', None) or ())]
    inner = [part for part in inner if part is not None]
    for part in inner:
        yield from iter_built_datasets(part)
    if not inner:
        yield dataset


def classes_of(dataset: Any) -> Sequence[str] | None:
    """The classes of a built dataset in the order of their labels, None where it has none."""
    meta = getattr(dataset, 'metainfo', None)
    classes = meta.get('classes') if isinstance(meta, Mapping) else None
    return classes if isinstance(classes, (list, tuple)) else None


def order_problem(
    ours: Sequence[str] | None, theirs: Sequence[str] | None, *, whose: str
) -> Iterator[str]:
    """That labels stand for other classes in one place than in another.

    Args:
        ours: the classes of the data that are about to be used.
        whose: in words, what has the others.
    """
    if ours and theirs and in_another_order(ours, theirs):
        yield (
            f'the classes of the data are {", ".join(ours[:5])}, those of {whose} '
            f'{", ".join(theirs[:5])}, in another order, and a label would stand for another '
            'class: write metainfo.classes in one order'
        )


def in_file_order(cls: type) -> bool:
    """Whether a dataset numbers its classes by the order of its file, as mmdet's CocoDataset."""
    own = getattr(cls, 'load_data_list', None)
    return is_coco(cls) and getattr(own, '__qualname__', '') == 'CocoDataset.load_data_list'


def is_coco(cls: type) -> bool:
    """Whether a dataset reads annotations in COCO's format, as mmdet's CocoDataset does."""
    names = {base.__name__ for base in cls.__mro__}
    return 'CocoDataset' in names and not names & _OTHER_FORMATS
