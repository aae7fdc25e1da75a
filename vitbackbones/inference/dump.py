"""What a test run predicts, written to files: COCO's list of results, classes, label maps."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.dist import get_rank
from mmengine.runner import Runner

from vitbackbones.data.configs import iter_datasets, place
from vitbackbones.data.loading import is_coco, iter_built_datasets
from vitbackbones.errors import UserError
from vitbackbones.tasks import Task, task_of_built

from .classes import best_classes
from .coco import AnnotationIds, image_ids, results_of
from .dumping import BETWEEN, DumpHook, ListHook, meta_of
from .label_maps import label_map_name, write_label_map


def dump_hook(runner: Runner, path: Path) -> DumpHook:
    """The hook that writes what ``runner`` predicts in its test: every image of the set once.

    Detectors and classifiers write one JSON file, segmentors a folder of NAME.png.

    Args:
        runner: with a test loop that has not run; its ``cfg`` is the config as it was written.
        path: where to; must not exist, a folder may if it is empty.

    Raises:
        UserError: nothing can be written there, or predictions of this model or test set have
            no such form.
    """
    task = task_of_built(runner.model)
    datasets = list(iter_built_datasets(runner.test_loop.dataloader.dataset))
    if task is Task.SEGMENTATION:
        return LabelMapsHook(path, datasets)
    if task is Task.CLASSIFICATION:
        return ClassesHook(path, datasets[0].metainfo['classes'])
    if task is Task.DETECTION:
        return CocoResultsHook(
            path, datasets, list(iter_datasets(runner.cfg.test_dataloader.dataset))
        )
    raise UserError(
        f'--dump {path}: the model is no detector of mmdet, segmentor of mmseg or classifier of '
        f'mmpretrain, but a {type(runner.model).__name__}'
    )


class ClassesHook(ListHook):
    """Writes the best classes of each image: its ``file_name``, and label, name and score of each.

    Args:
        classes: names by label.
    """

    def __init__(self, path: Path, classes: Sequence[str]) -> None:
        super().__init__(path)
        self.classes = classes
        self.open()

    def encode(self, sample: Any) -> tuple[Any, bytes]:
        image = meta_of(sample, 'img_path')
        row = dict(file_name=image, classes=best_classes(sample, self.classes))
        return image, json.dumps(row).encode()


class CocoResultsHook(ListHook):
    """Writes detections as COCO's list of results, with the ids of the test annotations.

    Args:
        datasets: those of the test set; of one that is not in COCO's format, classes have the
            numbers of the model's labels.
        written: their configs, which name the user's file; what is tested may be a copy of it in
            which ids are of one type.
    """

    def __init__(
        self, path: Path, datasets: Sequence[Any], written: Sequence[Mapping[str, Any]]
    ) -> None:
        super().__init__(path)
        if len(datasets) != 1:
            raise UserError(
                f'--dump {path}: image ids are those of one annotation file, the test set joins '
                f'{len(datasets)}'
            )
        self.image_ids, self.category_ids = _ids(datasets[0], place(written[0]))
        self.open()

    def encode(self, sample: Any) -> tuple[Any, bytes]:
        if 'pred_instances' not in sample:
            raise UserError(
                f'--dump {self.path}: the model predicts no boxes, only {sample.keys()}'
            )
        image = meta_of(sample, 'img_id')
        name = self.image_ids.get(image, image)
        rows = results_of(sample.pred_instances, name, self.category_ids)
        return image, BETWEEN.join(json.dumps(row).encode() for row in rows)


class LabelMapsHook(DumpHook):
    """Writes label maps as PNG, named as the images, in the folders that the images are in.

    Pixels are class indices in the order of the dataset. The folder is there once all of them are:
    until then its name ends in ``.part``, and what a run that broke off has left there is replaced.
    """

    def __init__(self, folder: Path, datasets: Sequence[Any]) -> None:
        super().__init__()
        self.folder = folder
        self.part = Path(f'{folder}.part')
        self.classes = datasets[0].metainfo['classes']
        self.names: dict[str, Path] = {}
        images: dict[Path, str] = {}
        for dataset in datasets:
            for image, name in _label_map_names(dataset):
                self.names[image] = name
                if images.setdefault(name, image) != image:
                    raise UserError(
                        f'--dump {folder}: {images[name]} and {image} would both be {name}'
                    )
        if get_rank() == 0:
            self._make_folder()

    def encode(self, sample: Any) -> tuple[Any, bytes]:
        file = io.BytesIO()
        labels = sample.pred_sem_seg.data[0].numpy()
        write_label_map(file, labels, self.classes)
        return meta_of(sample, 'img_path'), file.getvalue()

    def write(self, image: Any, data: bytes) -> None:
        target = self.part / self.names[image]
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        except OSError as error:
            raise UserError(f'--dump {target}: {error.strerror}') from error

    def close(self) -> None:
        try:
            os.replace(self.part, self.folder)  # which may be an empty one
        except OSError as error:
            raise UserError(
                f'--dump {self.folder}: {error.strerror}; the label maps are in {self.part}'
            ) from error

    def _make_folder(self) -> None:
        try:
            if self.folder.exists() and any(self.folder.iterdir()):
                raise UserError(
                    f'--dump {self.folder} is not empty: choose another folder, or empty it'
                )
            if self.part.exists():
                shutil.rmtree(self.part)
            self.part.mkdir(parents=True)
        except OSError as error:
            raise UserError(f'--dump {self.folder} cannot be written: {error.strerror}') from error


def _ids(dataset: Any, ann_file: str) -> tuple[Mapping[Any, Any], Sequence[Any]]:
    """Ids in the user's file: of images by the ids that a dataset gives them, of every class."""
    classes = dataset.metainfo['classes']
    if not is_coco(type(dataset)):
        return {}, range(len(classes))
    if '://' in ann_file:
        return {}, dataset.cat_ids
    category_ids = AnnotationIds.read(Path(ann_file)).of_classes(classes)
    if os.path.realpath(ann_file) == os.path.realpath(dataset.ann_file):
        return {}, category_ids
    # A copy has the same images in the same order; two may have one file name.
    there, here = (image_ids(Path(name)) for name in (dataset.ann_file, ann_file))
    return dict(zip(there, here, strict=True)), category_ids


def _label_map_names(dataset: Any) -> Iterator[tuple[str, Path]]:
    """Each image of a dataset of mmseg, and where its label map goes below the folder."""
    root = (dataset.data_prefix or {}).get('img_path') or ''
    for i in range(len(dataset)):
        image = dataset.get_data_info(i)['img_path']
        yield image, label_map_name(image, root)
