"""Writing whole models, after a look at whether the file computes what the model does."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.config import Config
from torch import Tensor

from vitbackbones.errors import UserError
from vitbackbones.files import replacing

from .card import KEY
from .onnx import OPSET, PACKAGES, ExportError, open_file, write_program
from .operators import translations
from .parts import example_shapes, require_ours
from .pictures import pictures
from .segmentors import Segmentor
from .verify import Outcome, verify
from .whole import Wanted, Whole, build_whole

#: The name of what is exported here, beside the parts of a model.
WHOLE = 'model'

#: In words, files for any size, and how others are asked for.
OPTIONS = ('for any size', 'with --static')


def check_place(path: Path, *, force: bool) -> None:
    """That a file may be written, and that the packages for it are there.

    Raises:
        UserError: it exists and ``force`` is off, its folder does not, or a package is missing.
    """
    if path.exists() and not force:
        raise UserError(f'{path} exists; overwrite it with --force')
    if not path.parent.is_dir():
        raise UserError(f'{path} cannot be written: there is no folder {path.parent}')
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError:
            # Not the extra: over the forks of OpenMMLab's packages, pip would install mmengine too.
            raise UserError(f'{name} is missing: pip install {" ".join(PACKAGES)}') from None


@contextmanager
def in_one_sentence(what: str, path: Path, hint: str) -> Iterator[None]:
    """Turn what an export may raise into words for whoever asked for it.

    Args:
        hint: how it cannot be exported, and how it may be.

    Raises:
        UserError: in place of an error of the export, of writing, or of a backbone's about its
            input.
    """
    try:
        yield
    except ExportError as error:
        raise UserError(f'{what} cannot be exported{hint} ({error})') from error
    except OSError as error:
        raise UserError(f'{path} cannot be written ({error})') from error
    except ValueError as error:
        raise UserError(str(error)) from error


def export_whole(
    cfg: Config,
    checkpoint: str | None,
    path: Path,
    wanted: Wanted,
    *,
    name: str,
    opset: int = OPSET,
) -> Outcome:
    """Write the whole model of a config, if it finds in images what the model does.

    Args:
        checkpoint: weights; without, they are random.
        name: of the config.

    Returns:
        What was compared, in images of other sizes too unless the file is for one alone, and in
        one with nothing on it.

    Raises:
        UserError: a part of the model has no counterpart, or an option does not go with it.
        CheckpointError: the checkpoint cannot be read or belongs to another model.
        ExportError: there is no such program, or it finds something else; nothing is written.
        OSError: the file cannot be written.
    """
    whole = build_whole(cfg, checkpoint, wanted, name)
    module = whole.module
    is_segmentor = isinstance(module, Segmentor)
    if wanted.dynamic and is_segmentor and module.model.align_corners:
        raise UserError(
            'model.decode_head.align_corners=True can be exported with --static alone: mmseg then '
            'looks at every size by number'
        )
    if wanted.probabilities and is_segmentor and module.model.align_corners:
        raise UserError(
            '--probabilities: model.decode_head.align_corners=True, and who runs the file resizes '
            'them without; export labels'
        )
    backbone = require_ours(cfg)
    shapes = example_shapes(
        backbone,
        *wanted.size,
        dynamic=wanted.dynamic,
        stride=module.largest_stride,
        options=OPTIONS,
    )
    least = max(backbone.out_strides)
    blank = (1, least + 3, least + 5) if wanted.dynamic else (1, *wanted.size)
    shapes = [(batch if is_segmentor else 1, *size) for batch, *size in [*shapes, blank]]  # type: ignore[misc]
    images = pictures(cfg, shapes)
    with replacing(path) as part:
        write_whole(whole, wanted, images[0], part, opset=opset)
        return verify(whole, open_file(part), images)


def write_whole(
    whole: Whole, wanted: Wanted, images: Tensor, path: Path, *, opset: int = OPSET
) -> None:
    """Write a whole model, without a look at what the file computes.

    Args:
        images: (B, 3, H, W) uint8 in R, G, B, which the program is traced with.

    Raises:
        ExportError: there is no such program.
        OSError: the file cannot be written.
    """
    free = None
    if wanted.dynamic:
        sides = (1, 2) if wanted.given.layout == 'hwc' else (2, 3)
        free = dict(zip(sides, ('height', 'width'), strict=True))
        if isinstance(whole.module, Segmentor):
            free[0] = 'batch'
    write_program(
        whole.module,
        wanted.given.of(images),
        path,
        whole.module.outputs,
        free=free,
        opset=opset,
        table=translations(),
        properties={KEY: whole.card.to_json()},
    )
