"""A folder of somebody's own: read for a config, and what is in it looked at."""

from __future__ import annotations

import copy
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import init_default_scope

from vitbackbones.data.report import whole_report
from vitbackbones.data.survey import survey
from vitbackbones.errors import UserError
from vitbackbones.formats.folder import read_folder
from vitbackbones.formats.own_data import Form, OwnData, Task
from vitbackbones.formats.writing import require_ours
from vitbackbones.launch.checks import check_config
from vitbackbones.launch.classes import use_one_order

from .datasets import SPLITS
from .draft import as_base, inherited
from .heads import HEADS, config_of, task_of

#: Examples of each kind of finding that are shown.
SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Data:
    """A folder to train on, and what is wanted of the config.

    Attributes:
        folder: of images and annotations.
        head: one of :data:`~.heads.HEADS`; None for the one that the annotations ask for.
        form: the format, where the folder has several.
        classes: a file that lists the classes.
        seed: of the choice of images for validation, where there are none.
        max_scale: width and height that images must not exceed.
        epochs: the length of the training.
        batch_size: images in a batch.
        device: 'cpu' or 'cuda'; None for what is there.
        memory: of it, in GB; None for what it has.
    """

    folder: Path
    head: str | None = None
    form: Form | None = None
    classes: Path | None = None
    seed: int = 0
    max_scale: tuple[int, int] | None = None
    epochs: int | None = None
    batch_size: int | None = None
    device: str | None = None
    memory: float | None = None


@contextmanager
def reading(wanted: Data, start: str | None, into: Path, *, force: bool) -> Iterator[OwnData]:
    """The folder's data; what was written for them is as it was if the block fails.

    Args:
        start: the config to begin with, which says what is learnt; None for one of ours.
        into: where is written what cannot be read as it is.
        force: replace ``into``.

    Raises:
        UserError: the folder is of no format or of several, or is not right.
    """
    if wanted.head is not None and start is not None:
        raise UserError('--head chooses one of our configs, --from another: give one of them')
    task: Task | None = None
    if start is not None:
        task = task_of(inherited([as_base(start)]), start)
    elif wanted.head is not None:
        task = HEADS.get(wanted.head)
        config_of(wanted.head, 'sepvit')  # that there is such a head
    kept = into.with_name(f'.{into.name}-{os.getpid()}')
    if force and into.exists():  # what a config of before reads, until this one is there
        require_ours(into)
        into.rename(kept)
    there = into.exists()
    try:
        yield read_folder(
            wanted.folder,
            into,
            form=wanted.form,
            task=task,
            classes=wanted.classes,
            seed=wanted.seed,
            force=force,
        )
    except BaseException as error:  # whatever ends it leaves everything as it was
        if not there:
            shutil.rmtree(into, ignore_errors=True)
        if kept.exists():
            kept.rename(into)
        if isinstance(error, UserError) and str(into) in str(error):  # what is no longer there
            raise UserError(_of_user(str(error), into, wanted.folder)) from error
        raise
    shutil.rmtree(kept, ignore_errors=True)


def _of_user(message: str, into: Path, folder: Path) -> str:
    """A message about files that were written of a folder's annotations, as one about these."""
    message = re.sub(
        rf'{re.escape(str(into))}/(\w+)\.\w+', rf'annotations of \1 in {folder}', message
    )
    return message.replace(str(into), str(folder))


def looked_at(cfg: Config) -> tuple[str, ...]:
    """What ``vitbackbones check-data`` prints of a config's data.

    Raises:
        UserError: a training would stop at them.
    """
    cfg = copy.deepcopy(cfg)
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    check_config(cfg, SPLITS)
    use_one_order(cfg, SPLITS)
    found = survey(cfg, SPLITS, jobs=min(8, os.cpu_count() or 1), decode=False)
    errors = [finding for source in found for finding in source.findings if finding.error]
    if errors:
        more = f', and {len(errors) - 1} more errors' if len(errors) > 1 else ''
        raise UserError(f'{errors[0]} ({errors[0].kind}){more}')
    return tuple(whole_report(found, SHOWN))
