"""What a test run predicts, written to files: COCO's list of results, or label maps."""

from __future__ import annotations

import io
import json
import os
import pickle
import tempfile
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from mmengine.dist import broadcast_object_list, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from PIL import Image

from vitbackbones.data.configs import iter_datasets, place
from vitbackbones.data.loading import is_coco, iter_built_datasets
from vitbackbones.errors import UserError

from .coco import AnnotationIds, image_ids, results_of

SENT_AT_ONCE = 64  # predictions that a rank hands over in one message


def dump_hook(runner: Runner, path: Path) -> DumpHook:
    """The hook that writes what ``runner`` predicts in its test: every image of the set once.

    Detectors write one JSON file, segmentors a folder of NAME.png.

    Args:
        runner: with a test loop that has not run; its ``cfg`` is the config as it was written.
        path: where to; must not exist, a folder may if it is empty.

    Raises:
        UserError: nothing can be written there, or predictions of this model or test set have
            no such form.
    """
    kinds = _class_names(runner.model)
    datasets = list(iter_built_datasets(runner.test_loop.dataloader.dataset))
    if kinds & {'BaseSegmentor', 'OnnxSegmentor'}:
        return LabelMapsHook(path, datasets)
    if kinds & {'BaseDetector', 'OnnxDetector'}:
        return CocoResultsHook(
            path, datasets, list(iter_datasets(runner.cfg.test_dataloader.dataset))
        )
    raise UserError(
        f'--dump {path}: the model is neither a detector of mmdet nor a segmentor of mmseg, but a '
        f'{type(runner.model).__name__}'
    )


class DumpHook(Hook):
    """Brings the predictions of all ranks to the first one, which writes them.

    Ranks need not share a disk: what the others predict waits in temporary files of theirs.
    Samplers give some images to two ranks; each is written once.
    """

    def __init__(self) -> None:
        self._written: set[Any] = set()
        # Without a name: whatever happens to the run, nothing is left of it.
        self._waiting: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (_gather closes it)

    @abstractmethod
    def encode(self, sample: Any) -> tuple[Any, bytes]:
        """What identifies a sample's image, and what is written of the sample."""

    @abstractmethod
    def write(self, image: Any, data: bytes) -> None:
        """Write one image's predictions; on the first rank."""

    def close(self) -> None:
        """Called on the first rank when all predictions are written."""

    def before_test_epoch(self, runner: Runner) -> None:
        if not len(runner.test_loop.dataloader):
            self._gather()

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        for sample in outputs:
            item = self.encode(sample.cpu())
            if get_rank() == 0:
                self._take(*item)
            else:
                pickle.dump(item, self._waiting)
        # Not after the epoch: an evaluator that fails does not take the predictions with it.
        if batch_idx + 1 == len(runner.test_loop.dataloader):
            self._gather()

    def _take(self, image: Any, data: bytes) -> None:
        if image not in self._written:
            self._written.add(image)
            self.write(image, data)

    def _gather(self) -> None:
        self._waiting.seek(0)
        for rank in range(1, get_world_size()):
            parcel = self._parcel(rank)
            while parcel:
                if get_rank() == 0:
                    for image, data in parcel:
                        self._take(image, data)
                parcel = self._parcel(rank)
        self._waiting.close()
        if get_rank() == 0:
            self.close()

    def _parcel(self, rank: int) -> list[tuple[Any, bytes]]:
        """The next predictions of a rank, none at their end; on all ranks."""
        items: list[list[tuple[Any, bytes]]] = [[]]
        if get_rank() == rank:
            try:
                while len(items[0]) < SENT_AT_ONCE:
                    items[0].append(pickle.load(self._waiting))
            except EOFError:
                pass  # that was the last one
        broadcast_object_list(items, rank)
        return items[0]


class CocoResultsHook(DumpHook):
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
        super().__init__()
        if len(datasets) != 1:
            raise UserError(
                f'--dump {path}: image ids are those of one annotation file, the test set joins '
                f'{len(datasets)}'
            )
        self.path = path
        self.image_ids, self.category_ids = _ids(datasets[0], place(written[0]))
        if get_rank() == 0:
            self._file = self._open()

    def encode(self, sample: Any) -> tuple[Any, bytes]:
        if 'pred_instances' not in sample:
            raise UserError(
                f'--dump {self.path}: the model predicts no boxes, only {sample.keys()}'
            )
        image = _meta(sample, 'img_id')
        name = self.image_ids.get(image, image)
        rows = results_of(sample.pred_instances, name, self.category_ids)
        return image, b''.join(b',\n' + json.dumps(row).encode() for row in rows)

    def write(self, image: Any, data: bytes) -> None:
        if data:
            self._file.write(data[2:] if self._file.tell() == 1 else data)

    def close(self) -> None:
        self._file.write(b']\n')
        self._file.seek(0)
        part = self.path.with_name(self.path.name + '.part')
        try:
            with part.open('wb') as whole:
                whole.writelines(self._file)
            os.replace(part, self.path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise UserError(f'--dump {self.path}: {error.strerror}') from error
        self._file.close()

    def _open(self) -> IO[bytes]:
        """Where rows are collected: next to ``path``, so that there is room, and without a name."""
        if self.path.exists():
            raise UserError(f'--dump {self.path} exists: choose another name, or remove it')
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = tempfile.TemporaryFile(dir=self.path.parent)  # noqa: SIM115 (close closes it)
        except OSError as error:
            raise UserError(f'--dump {self.path} cannot be written: {error.strerror}') from error
        file.write(b'[')
        return file


class LabelMapsHook(DumpHook):
    """Writes label maps as PNG, named as the images, in the folders that the images are in.

    Pixels are class indices in the order of the dataset, 8 bits, or 16 where there are more than
    256 classes.
    """

    def __init__(self, folder: Path, datasets: Sequence[Any]) -> None:
        super().__init__()
        self.folder = folder
        self.classes = len(datasets[0].metainfo['classes'])
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
        return _meta(sample, 'img_path'), file.getvalue()

    def write(self, image: Any, data: bytes) -> None:
        target = self.folder / self.names[image]
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        except OSError as error:
            raise UserError(f'--dump {target}: {error.strerror}') from error

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if any(self.folder.iterdir()):
                raise UserError(
                    f'--dump {self.folder} is not empty: choose another folder, or empty it'
                )
            tempfile.TemporaryFile(dir=self.folder).close()
        except OSError as error:
            raise UserError(f'--dump {self.folder} cannot be written: {error.strerror}') from error


def write_label_map(file: Path | IO[bytes], labels: np.ndarray, classes: int) -> None:
    """Write a label map, (H, W), as PNG: of 8 bits, or 16 where there are more classes."""
    depth = np.uint8 if classes <= 256 else np.uint16
    Image.fromarray(labels.astype(depth)).save(file, format='PNG')


def _class_names(model: Any) -> set[str]:
    """Names of the classes of a model and of those that it wraps."""
    names = {base.__name__ for base in type(model).__mro__}
    # Of DistributedDataParallel, or of test time augmentation.
    inner = getattr(model, 'module', None)
    return names if inner is None else names | _class_names(inner)


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


def label_map_name(image: str, root: str) -> Path:
    """Where the label map of an image goes below the folder, if images lie below ``root``."""
    below = Path(os.path.relpath(image, root) if '://' not in image else image.rpartition('/')[2])
    name = below if '..' not in below.parts else Path(below.name)
    return name.with_suffix('.png')


def _meta(sample: Any, key: str) -> Any:
    if key not in sample.metainfo:
        raise UserError(
            f'--dump needs {key!r} among meta_keys of the test pipeline, there are only '
            f'{", ".join(sample.metainfo)}'
        )
    return sample.metainfo[key]
