"""Predictions of images and videos, drawn and written; one image that fails stops no other."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import VISUALIZERS, init_default_scope

from vitbackbones.data.configs import format_of, iter_datasets
from vitbackbones.deploy.onnx_file import is_onnx
from vitbackbones.errors import UserError, notice
from vitbackbones.formats.yolo_writing import plain_name
from vitbackbones.launch.checks import build_backbone, require
from vitbackbones.launch.classes import check_same
from vitbackbones.launch.device import adapt_to_device
from vitbackbones.launch.trained import build_trained
from vitbackbones.tasks import Task, task_of_built

from .coco import AnnotationIds
from .inputs import Input, check_readable, find_inputs, frame_name
from .onnx_model import config_of, read_onnx_model
from .precision import check_precision, compute_in
from .predict import predict_one, test_pipeline, usable_device
from .request import Kept, Request
from .results import IMAGES, ClassesFile, CocoFile, LabelMaps, Results, Table
from .running import Outcome, Work
from .tiles import Tiles, check_sahi
from .videos import count_frames
from .yolo import YoloFolder


def infer(
    cfg: Config | None,
    checkpoint: str,
    words: Sequence[str | Path],
    out: Path,
    request: Request | None = None,
    *,
    device: str = 'cpu',
    dtype: str = 'fp32',
    report: Callable[[str], None] = lambda line: None,
    bar: bool = False,
) -> Outcome:
    """Predict images with the model of a config and write what it finds into a folder.

    Writes NAME_prediction.jpg for every image NAME; detectors also write predictions.json, with
    the ids of the config's test annotations for images that are in them, segmentors
    NAME_labels.png, classifiers predictions.json with the best classes of each image. The frames of
    a video are written to images/ and are then images as others. What was done is written, too,
    when an exception ends it.

    Args:
        cfg: changed by what the device and the prediction need; None with an ONNX file, which says
            itself how images are resized, and numbers them.
        checkpoint: path or URL, or an ONNX file of a whole model.
        words: images, videos, folders and patterns, see
            :func:`~vitbackbones.inference.inputs.find_inputs`.
        request: formats, threshold, classes, tiles.
        device: as torch names it; an ONNX file is computed on the CPU.
        dtype: what layers compute in, see :func:`~vitbackbones.inference.precision.compute_in`.
        report: called with a line for each image.
        bar: show on standard error how far it is.

    Raises:
        UserError: the config, the request, the device or a file is not right, and nothing was
            written; or the disk is full when predictions.json is due.
        CheckpointError: the checkpoint cannot be read or belongs to another model.
    """
    request = request or Request()
    request.check()
    if request.tile is not None:
        check_sahi()
    inputs = find_inputs(words, out, *([plain_name] if 'yolo' in request.formats else []))
    check_readable(inputs)
    total = _count(inputs)
    where = usable_device(device)
    check_precision(dtype, checkpoint)
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
        compute_in(model, dtype)
    task = task_of_built(model) or Task.DETECTION
    request.check_for(task)
    kept = Kept.of(request, meta['classes'], task)
    visualizer = VISUALIZERS.build({'name': 'infer', **cfg.visualizer, 'vis_backends': []})
    visualizer.dataset_meta = meta
    ids = annotation_ids(cfg, [each.path for each in inputs])
    results = _results(task, request, kept, ids, out)
    pipeline = test_pipeline(cfg)
    tiles = None
    if request.tile is not None:
        tiles = Tiles(pipeline, partial(predict_one, model), request.tile, request.score)
    number, score = ids.numbering(), request.score
    work = Work(model, task, pipeline, visualizer, kept, results, number, out, score, tiles)
    _check_place(out, inputs, results)
    return work.run(inputs, total, report, bar=bar)


def _count(inputs: Sequence[Input]) -> int | None:
    """How many images and frames there are; None if a video does not say.

    Raises:
        UserError: a video that was named cannot be read.
    """
    total: int | None = 0
    for each in inputs:
        count: int | None = 1
        if each.is_video:
            try:
                count = count_frames(each.path)
            except UserError:
                if each.asked:
                    raise
                count = 0  # its failure is told when it is due
        total = None if total is None or count is None else total + count
    return total


def _results(
    task: Task, request: Request, kept: Kept, ids: AnnotationIds, out: Path
) -> Sequence[Results]:
    """What a request writes of a model of a task."""
    every: list[Results] = []
    if task is Task.SEGMENTATION:
        every.append(LabelMaps(out, kept))
    if task is Task.CLASSIFICATION:
        every.append(ClassesFile(out, kept))
    if task is Task.DETECTION and (not request.formats or 'coco' in request.formats):
        every.append(CocoFile(out, kept, ids))
    if 'yolo' in request.formats:
        every.append(YoloFolder(out, kept, request.score))
    if 'csv' in request.formats:
        every.append(Table(out, kept, task, request.score))
    return every


def _check_place(out: Path, inputs: Sequence[Input], results: Sequence[Results]) -> None:
    """That results can be written, before any is there to be written."""
    for each in results:
        each.check()
    for video in (each for each in inputs if each.is_video):
        first = out / IMAGES / frame_name(video.name, 0)
        if os.path.lexists(first):
            raise UserError(
                f'{first} is there already: choose another --out-dir for the frames of '
                f'{video.path}, or remove it'
            )
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise UserError(f'--out-dir {out} cannot be written: {error.strerror}') from error


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
