"""From a config, a checkpoint and image files to drawings of what the model looks at."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope

from vitbackbones.backbones.base import Backbone
from vitbackbones.errors import UserError, notice
from vitbackbones.files import replacing, write
from vitbackbones.inference.drawing import SCORE
from vitbackbones.inference.predict import test_pipeline, usable_device
from vitbackbones.inference.running import Outcome
from vitbackbones.launch.checks import build_backbone, require
from vitbackbones.launch.device import adapt_to_device
from vitbackbones.launch.trained import build_trained
from vitbackbones.plotting import drawable_names
from vitbackbones.tasks import Task, task_of

from .drawn import DRAWN, Drawing, Given
from .loading import ImageError, Loader, tried
from .pictures import side_by_side
from .stages import choose


@dataclass(frozen=True)
class Request:
    """What is to be explained.

    Attributes:
        what: a key of :data:`~vitbackbones.explaining.drawn.DRAWN`.
        stages: numbers of stages, or of blocks for tokens; None takes all.
        box: of detections also what their boxes are made of.
        arrays: also write what is drawn as arrays.
        threshold: of Grad-CAM, the least score that is explained; None is :data:`SCORE`.
    """

    what: str
    stages: Sequence[int] | None = None
    box: bool = False
    arrays: bool = False
    threshold: float | None = None


def explain(
    cfg: Config,
    checkpoint: str,
    paths: Sequence[Path],
    out: Path,
    request: Request,
    *,
    device: str = 'cpu',
    report: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Write drawings of image files, ``IMAGE_WHAT_STAGE[_N].png``, into a folder.

    Drawings of an image replace all of the same kind and stages that are there of it. An image that
    fails is in the outcome with the reason; what was drawn of it, and the others, stay.

    Args:
        cfg: changed by what the device and the prediction need.
        checkpoint: path or URL.
        report: called with a line for each image.

    Raises:
        UserError: the config, the request or the device is not right, and nothing was written; or
            a drawing cannot be written.
        CheckpointError: the checkpoint cannot be read or belongs to another model.
    """
    where = usable_device(device)
    require(cfg, 'test_dataloader')
    check_names(paths)
    what = DRAWN[request.what]
    cfg.pop('optim_wrapper', None)  # of no concern here
    adapt_to_device(cfg)
    init_default_scope(cfg.default_scope)
    backbone = build_backbone(cfg)
    if backbone is None:
        raise UserError(
            f'model.backbone={cfg.model.get("backbone")}: only our backbones can be explained, '
            f'which are {", ".join(Backbone.registered())}'
        )
    if request.box and (request.what != 'gradcam' or task_of(cfg.model) is not Task.DETECTION):
        raise UserError('--box is for --what gradcam of a detector: only there are boxes')
    if request.threshold is not None:
        _check_threshold(request, task_of(cfg.model))
    there = what.stages(backbone)
    if not there:
        raise UserError(
            f'--what {request.what}: {type(backbone).__name__} has none; choose from '
            f'{", ".join(name for name, other in DRAWN.items() if other.stages(backbone))}'
        )
    stages = choose(request.stages, there, what.named)
    _predict_whole_images(cfg)
    model, meta = build_trained(cfg, checkpoint)
    model.to(where)
    network = next(part for part in model.modules() if isinstance(part, Backbone))
    loader = Loader(model, test_pipeline(cfg))
    work = _Work(loader, network, drawable_names(meta['classes']), request, stages, out)
    outcome = Outcome()
    for i, path in enumerate(paths):
        line = f'{i + 1}/{len(paths)} {path}'
        try:
            report(f'{line}: {work.draw(path)} drawings')
        except ImageError as error:
            outcome.failed[path] = str(error)
            report(f'{line} failed')
        else:
            outcome.written.append(path)
    return outcome


def check_names(paths: Sequence[Path]) -> None:
    """UserError if drawings of two images had the same name."""
    stems: dict[str, Path] = {}
    for path in paths:
        other = stems.setdefault(path.stem, path)
        if other is not path:
            raise UserError(
                f'{other} and {path} would have drawings of the same name; '
                'explain them into different folders'
            )


def _check_threshold(request: Request, task: Task) -> None:
    assert request.threshold is not None
    if request.what != 'gradcam' or task is Task.SEGMENTATION:
        raise UserError('--threshold is for --what gradcam of what has scores, not of label maps')
    if not 0 <= request.threshold <= 1:
        raise UserError(f'--threshold {request.threshold:g} must be a score from 0 to 1')


def _predict_whole_images(cfg: Config) -> None:
    """Let a segmentor see an image at once: the map of a stage is of one pass."""
    test_cfg = cfg.model.get('test_cfg') or {}
    if test_cfg.get('mode') == 'slide':
        test_cfg['mode'] = 'whole'
        notice('the image is explained at once, not in the windows that it is tested in')


@dataclass(frozen=True)
class _Work:
    """What is done with one image after the other."""

    loader: Loader
    network: Backbone
    classes: Sequence[str]
    request: Request
    stages: Sequence[int]
    out: Path

    def draw(self, path: Path) -> int:
        """Draw and write all there is of an image; how many drawings that is.

        They stand in the place of all that were drawn of these stages of it before: a detection
        that is no longer found would be taken for one that is.
        """
        model, request = self.loader.model, self.request
        loaded = self.loader.load(path)
        given = Given(
            model,
            self.network,
            self.classes,
            loaded,
            self.stages,
            request.box,
            SCORE if request.threshold is None else request.threshold,
        )
        drawings = DRAWN[request.what].drawings(given)
        earlier, count = self._earlier(path), 0
        try:
            while (drawing := tried('the model', next, drawings, None)) is not None:
                earlier -= self._write(path, drawing)
                count += 1
        except ImageError:
            _remove(earlier)
            raise
        _remove(earlier)
        return count

    def _earlier(self, path: Path) -> set[Path]:
        """What was drawn of an image before."""
        start = re.escape(f'{path.stem}_{self.request.what}_')
        stages = '|'.join(map(str, self.stages))
        pattern = re.compile(rf'{start}({stages})(_\d+)?(\.png|(_[a-z_]+)?\.npy)')
        return {file for file in self.out.glob('*') if pattern.fullmatch(file.name)}

    def _write(self, path: Path, drawing: Drawing) -> set[Path]:
        """Write a drawing and its arrays; the files."""
        name = f'{path.stem}_{self.request.what}_{drawing.stage}'
        if drawing.number is not None:
            name += f'_{drawing.number}'
        target = self.out / f'{name}.png'
        arrays = drawing.arrays if self.request.arrays else {}
        files = {self.out / f'{name}{key}.npy': values for key, values in arrays.items()}
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            write(target, side_by_side(drawing.panels))
            for file, values in files.items():
                with replacing(file) as part, part.open('wb') as opened:
                    np.save(opened, values)
        except OSError as error:
            raise UserError(f'{target} cannot be written: {error.strerror}') from error
        return {target, *files}


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f'{file} cannot be removed: {error.strerror}') from error
