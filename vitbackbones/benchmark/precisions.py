"""One whole model in several precisions: size, time, and what each file reaches on the test set."""

from __future__ import annotations

import copy
import io
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.config import Config
from numpy.typing import NDArray

from vitbackbones import tables
from vitbackbones.deploy.onnx_file import OnnxFile
from vitbackbones.deploy.precision import calibration_images, write_half, write_int8
from vitbackbones.errors import UserError, notice
from vitbackbones.inference.predict import build_tester
from vitbackbones.launch.checks import has_data

from .metrics import METRICS, expected_metrics
from .timing import in_turn

ROUNDS = 9


def export_in_precision(
    cfg: Config, out: Path, export: Callable[[Path], object], *, half: bool, int8: Path | None
) -> str:
    """Write a whole model; if in fewer bits, compare it with what it is in single precision.

    Args:
        cfg: of the model; its test set measures both files, if the data are there.
        export: writes the model in single precision, and returns what there is to say of that.
        half: whether to write half precision,
        int8: or eight bits, whose ranges are found by the images of this folder.

    Returns:
        What ``export`` returned, in words, and of fewer bits a table.

    Raises:
        UserError: both precisions are asked for, an image is none, or the config or its test data
            are not right.
        OSError: ``out`` cannot be written.
    """
    if half and int8:
        raise UserError('--half and --int8 are two precisions: one file has one of them')
    if not half and not int8:
        return str(export(out))
    images = calibration_images(int8) if int8 else []
    with tempfile.TemporaryDirectory() as folder:
        single = Path(folder, 'single.onnx')
        said = str(export(single))
        if half:
            write_half(single, out)
        if int8:
            write_int8(single, out, images)
        return f'in single precision {said}\n{compare(cfg, [single, out], images)}'


def compare(cfg: Config, paths: Sequence[Path], images: Sequence[Path]) -> str:
    """A table with a row for each file.

    Args:
        cfg: whose test set measures them, if its data are there.
        paths: of the files.
        images: the first is what times are taken with; noise without any.

    Raises:
        UserError: the config or its test data are not right.
    """
    files = [OnnxFile(path) for path in paths]
    latencies = _latencies(files, images)
    names = expected_metrics(cfg) if cfg.get('test_evaluator') and has_data(cfg, ('test',)) else []
    if not names:
        notice('the test set of the config is not there: accuracies are not measured')
    head = ['precision', 'MB', 'ms per image', *(METRICS[name][0] for name in names)]
    rows = []
    for file, path, seconds in zip(files, paths, latencies, strict=True):
        row = [file.card.precision, f'{path.stat().st_size / 1e6:.1f}', f'{1000 * seconds:.1f}']
        found = _measured(cfg, path) if names else {}
        for name in names:
            value = next((v for key, v in found.items() if key.endswith(name)), float('nan'))
            row.append(f'{METRICS[name][1] * value:.2f}')
        rows.append(row)
    return tables.markdown(head, rows)


def _latencies(files: Sequence[OnnxFile], images: Sequence[Path]) -> list[float]:
    """Median seconds of each file for one image, in turn."""
    image = _image(files[0], images)
    candidates = {i: partial(file.run, image) for i, file in enumerate(files)}
    seconds: Mapping[int, list[float]] = {i: [] for i in candidates}
    for i, value in in_turn(candidates, ROUNDS):
        if value is not None:
            seconds[i].append(value)
    return [statistics.median(values) for values in seconds.values()]


def _image(file: OnnxFile, images: Sequence[Path]) -> NDArray[np.uint8]:
    width, height = file.size_for(*file.card.size[::-1])
    if images:
        pixels: Any = cv2.imread(str(images[0]))
        return cv2.resize(pixels, (width, height))
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def _measured(cfg: Config, path: Path) -> dict[str, float]:
    """The metrics of the test set."""
    cfg = copy.deepcopy(cfg)
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        cfg.work_dir = folder  # its log is nobody's
        cfg.log_level = 'WARNING'
        # mmengine keeps visualizers by name, with the folders that they were made for.
        visualizer = cfg.get('visualizer') or {'type': 'Visualizer'}
        cfg.visualizer = {**visualizer, 'name': folder, 'vis_backends': []}
        return build_tester(cfg, str(path)).test()
