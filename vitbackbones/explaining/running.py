"""From a config, a checkpoint and image files to drawings of what the model looks at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image, ImageOps

from vitbackbones.backbones.base import Backbone
from vitbackbones.errors import UserError, notice
from vitbackbones.files import replacing, write
from vitbackbones.inference.predict import test_pipeline, usable_device
from vitbackbones.inference.running import Outcome
from vitbackbones.launch.checks import build_backbone, require
from vitbackbones.launch.device import adapt_to_device
from vitbackbones.launch.trained import build_trained

from .drawn import DRAWN, Drawing, Given, ImageError
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
    """

    what: str
    stages: Sequence[int] | None = None
    box: bool = False
    arrays: bool = False


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

    An image that fails is in the outcome with the reason; what was drawn of it, and the others,
    stay.

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
    if request.box and (request.what != 'gradcam' or 'decode_head' in cfg.model):
        raise UserError('--box is for --what gradcam of a detector: only there are boxes')
    there = what.stages(backbone)
    if not there:
        raise UserError(
            f'--what {request.what}: {backbone.family} has none; choose from '
            f'{", ".join(name for name, other in DRAWN.items() if other.stages(backbone))}'
        )
    stages = choose(request.stages, there, what.named)
    _predict_whole_images(cfg)
    model, meta = build_trained(cfg, checkpoint)
    model.to(where)
    work = _Work(model, meta['classes'], test_pipeline(cfg), request, stages, out)
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


def _predict_whole_images(cfg: Config) -> None:
    """Let a segmentor see an image at once: the map of a stage is of one pass."""
    test_cfg = cfg.model.get('test_cfg') or {}
    if test_cfg.get('mode') == 'slide':
        test_cfg['mode'] = 'whole'
        notice('the image is explained at once, not in the windows that it is tested in')


@dataclass(frozen=True)
class _Work:
    """What is done with one image after the other."""

    model: Any
    classes: Sequence[str]
    pipeline: Any
    request: Request
    stages: Sequence[int]
    out: Path

    def draw(self, path: Path) -> int:
        """Draw and write all there is of an image; how many drawings that is."""
        given = self._load(path)
        count = 0
        drawings = DRAWN[self.request.what].drawings(given)
        while (drawing := _tried('the model', next, drawings, None)) is not None:
            self._write(path, drawing)
            count += 1
        return count

    def _load(self, path: Path) -> Given:
        if not path.is_file():
            raise ImageError('there is no such image')
        image = _tried('reading', _read, path)
        packed = _tried('the test pipeline', self.pipeline, dict(img_path=str(path), img_id=0))
        if packed is None:
            raise ImageError('the test pipeline leaves it out')
        batch = {key: [value] for key, value in packed.items()}
        data: Mapping[str, Any] = self.model.data_preprocessor(batch, False)
        return Given(
            self.model,
            next(part for part in self.model.modules() if isinstance(part, Backbone)),
            self.classes,
            data,
            image,
            data['data_samples'][0].img_shape[:2],
            self.stages,
            self.request.box,
        )

    def _write(self, path: Path, drawing: Drawing) -> None:
        name = f'{path.stem}_{self.request.what}_{drawing.stage}'
        if drawing.number is not None:
            name += f'_{drawing.number}'
        target = self.out / f'{name}.png'
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            write(target, side_by_side(drawing.panels))
            for key, values in drawing.arrays.items() if self.request.arrays else ():
                with replacing(self.out / f'{name}{key}.npy') as part, part.open('wb') as file:
                    np.save(file, values)
        except OSError as error:
            raise UserError(f'{target} cannot be written: {error.strerror}') from error


def _read(path: Path) -> Image.Image:
    with Image.open(path) as file:
        return ImageOps.exif_transpose(file).convert('RGB')


def _tried(step: str, do: Callable[..., Any], *args: Any) -> Any:
    """What ``do`` returns; its error becomes one that says which step failed."""
    try:
        return do(*args)
    except ImageError:
        raise
    except Exception as error:  # whatever an image leads Pillow, OpenCV or a network to
        reason = ' '.join(str(error).split())[:300]
        raise ImageError(f'{step} fails: {type(error).__name__}: {reason}') from error
