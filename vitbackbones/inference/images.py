"""Predictions of image files, drawn and written; one that fails stops no other."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import VISUALIZERS, init_default_scope
from mmengine.visualization import Visualizer

from vitbackbones.data.configs import format_of, iter_datasets
from vitbackbones.deploy.onnx_file import is_onnx
from vitbackbones.errors import UserError, notice
from vitbackbones.launch.checks import build_backbone, require
from vitbackbones.launch.classes import check_same
from vitbackbones.launch.device import adapt_to_device
from vitbackbones.launch.trained import build_trained
from vitbackbones.tasks import Task, task_of_sample

from .classes import best_classes
from .coco import AnnotationIds, Predictions
from .drawing import draw
from .dump import write_label_map
from .onnx_model import config_of, read_onnx_model
from .predict import check_images, test_pipeline, usable_device

RESULTS = 'predictions.json'


@dataclass(frozen=True)
class Outcome:
    """What became of the images.

    Attributes:
        written: the images whose results are all there.
        failed: image and reason.
    """

    written: list[Path] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)


def infer(
    cfg: Config | None,
    checkpoint: str,
    paths: Sequence[Path],
    out: Path,
    *,
    device: str = 'cpu',
    report: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Predict image files with the model of a config and write what it finds into a folder.

    Writes NAME_prediction.jpg for every image NAME; detectors also write predictions.json, with
    the ids of the config's test annotations for images that are in them, segmentors
    NAME_labels.png, classifiers predictions.json with the best classes of each image.

    Args:
        cfg: changed by what the device and the prediction need; None with an ONNX file, which says
            itself how images are resized, and numbers them.
        checkpoint: path or URL, or an ONNX file of a whole model.
        device: as torch names it; an ONNX file is computed on the CPU.
        report: called with a line for each image.

    Raises:
        UserError: the config, the device or a file is not right, and nothing was written; or the
            disk is full when predictions.json is due.
        CheckpointError: the checkpoint cannot be read or belongs to another model.
    """
    check_images(paths)
    where = usable_device(device)
    model: Any
    if is_onnx(checkpoint):
        model = read_onnx_model(checkpoint)
        cfg, meta = cfg or config_of(model), model.meta
        require(cfg, 'test_dataloader', 'visualizer')
        init_default_scope(cfg.default_scope)
        check_same(cfg, 'test', meta['classes'], checkpoint)
    else:
        assert cfg is not None
        require(cfg, 'test_dataloader', 'visualizer')
        cfg.pop('optim_wrapper', None)  # of no concern here
        adapt_to_device(cfg)
        init_default_scope(cfg.default_scope)
        build_backbone(cfg)
        model, meta = build_trained(cfg, checkpoint)
        model.to(where)
    visualizer = VISUALIZERS.build({'name': 'infer', **cfg.visualizer, 'vis_backends': []})
    visualizer.dataset_meta = meta
    work = _Work(model, test_pipeline(cfg), visualizer, out)
    ids = annotation_ids(cfg, paths)
    _check_place(out)
    return work.run(paths, ids, report)


def _check_place(out: Path) -> None:
    """That results can be written, before any is there to be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise UserError(f'--out-dir {out} cannot be written: {error.strerror}') from error
    if (out / RESULTS).is_dir():
        raise UserError(f'--out-dir {out}: {RESULTS} is a folder there, the results go into a file')


def annotation_ids(cfg: Config, paths: Sequence[Path]) -> AnnotationIds:
    """Those of the config's test set, if it is in one file of COCO's format that names an image.

    Predicting needs no dataset: a file that is missing is no error.
    """
    datasets = list(iter_datasets(cfg.test_dataloader.dataset))
    if len(datasets) != 1 or format_of(cfg, datasets[0]) != 'coco':
        return AnnotationIds()
    (dataset,) = datasets
    root, prefix = dataset.get('data_root') or '', dataset.get('data_prefix') or ''
    folder = prefix if isinstance(prefix, str) else prefix.get('img') or ''
    path = Path(root, dataset.get('ann_file') or '')
    if not path.is_file():
        return AnnotationIds()
    try:
        ids = AnnotationIds.read(path, os.path.join(root, folder))
    except (OSError, ValueError) as error:
        notice(f'{path} cannot be read ({error}): images and classes get numbers of their own')
        return AnnotationIds()
    return ids if any(map(ids.names, paths)) else AnnotationIds()


class _ImageError(Exception):
    """One sentence about an image whose results are not complete."""


@dataclass
class _Work:
    """What is applied to one image after the other."""

    model: Any
    pipeline: Compose
    visualizer: Visualizer
    out: Path

    def run(
        self, paths: Sequence[Path], ids: AnnotationIds, report: Callable[[str], None]
    ) -> Outcome:
        outcome = Outcome()
        found = Predictions(ids.of_classes(self.classes), self.classes)
        classified: list[dict[str, Any]] = []
        image_ids = ids.of_images(paths)
        for i, (path, image_id) in enumerate(zip(paths, image_ids, strict=True)):
            line = f'{i + 1}/{len(paths)} {path}'
            try:
                sample = self._predict(path, image_id)
                task = task_of_sample(sample)
                if task is Task.DETECTION:
                    _named('reading its result', found.add, str(path), image_id, sample)
                self._write(path, sample)
                if task is Task.CLASSIFICATION:
                    best = best_classes(sample, self.classes)
                    classified.append(dict(file_name=str(path), classes=best))
            except _ImageError as error:
                outcome.failed[path] = str(error)
                report(f'{line} failed')
            else:
                outcome.written.append(path)
                report(line)
        if found.images:
            self._write_results(found.write)
        if classified:
            text = json.dumps(classified, indent=1, ensure_ascii=False) + '\n'
            self._write_results(lambda part: part.write_text(text, encoding='utf-8'))
        return outcome

    @property
    def classes(self) -> Sequence[str]:
        return self.visualizer.dataset_meta['classes']

    def _predict(self, path: Path, image_id: Any) -> Any:
        loaded = {'img_path': str(path), 'img_id': image_id}
        packed = _named('the test pipeline', self.pipeline, loaded)
        if packed is None:
            raise _ImageError('the test pipeline leaves it out')
        batch = {key: [value] for key, value in packed.items()}
        with torch.no_grad():
            (sample,) = _named('the model', self.model.test_step, batch)
        return sample.cpu()

    def _write_results(self, write: Callable[[Path], Any]) -> None:
        target = self.out / RESULTS
        part = target.with_name(f'{RESULTS}.part')
        try:
            write(part)
            os.replace(part, target)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise UserError(f'{target} cannot be written: {error.strerror}') from error

    def _write(self, path: Path, sample: Any) -> None:
        if task_of_sample(sample) is Task.SEGMENTATION:
            labels = sample.pred_sem_seg.data[0].numpy()
            target = self.out / f'{path.stem}_labels.png'
            _named('writing', write_label_map, target, labels, len(self.classes))
        target = self.out / f'{path.stem}_prediction.jpg'
        _named('drawing', draw, self.visualizer, sample, target, truth=False)


def _named(step: str, do: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """What ``do`` returns; its error becomes one that says which step failed."""
    try:
        return do(*args, **options)
    except Exception as error:  # whatever an image leads OpenCV, a network or matplotlib to
        reason = ' '.join(str(error).split())[:300]
        raise _ImageError(f'{step} fails: {type(error).__name__}: {reason}') from error
