"""The checkpoint that an interrupted training goes on from."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.dist import all_gather_object
from torch import Tensor

from vitbackbones.checkpoint import CheckpointError, read_checkpoint
from vitbackbones.checkpoint.reading import preview

from .atomic import PART

_NEEDED = ('state_dict', 'optimizer', 'meta')


class _Found(NamedTuple):
    path: Path
    content: dict[str, Any]
    iteration: int
    written: int  # nanoseconds


def resume_point(work_dir: str | Path, tell: Callable[[str], None]) -> str | None:
    """The file that a training goes on from if none is named; None starts from the beginning.

    Args:
        tell: gets a line for each file that was skipped, and one if there is no checkpoint.

    Raises:
        CheckpointError: there are some, but none is whole.
    """
    newest, skipped = newest_checkpoint(work_dir)
    for line in skipped:
        tell(f'not resumed from {line}')
    if newest is None:
        tell(f'no checkpoint in {work_dir} to resume from: starting from the beginning')
    return None if newest is None else str(newest)


def missing_for_resuming(content: Mapping[str, Any]) -> str:
    """What a checkpoint lacks to be resumed from, in words; '' if nothing."""
    return ' and no '.join(key for key in _NEEDED if key not in content)


def newest_checkpoint(work_dir: str | Path) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint of a training, and a line for each file that was skipped.

    Whole means: it can be read safely, its checksums are right, it has what resuming needs, and no
    weight is NaN. The newest is the one that ``last_checkpoint`` names, unless the run was killed
    between writing another one and writing this name. None: there are no checkpoints, whole or not.

    Raises:
        CheckpointError: there are some, but none is whole.
    """
    named = _named(Path(work_dir))
    folders = {Path(work_dir), *([named.parent] if named else [])}
    # The best ones by some metric are weights alone.
    paths = {p for folder in folders for p in folder.glob('*.pth') if p.name[:5] != 'best_'}
    skipped = [f'{p}: its writing was cut off' for f in folders for p in f.glob(f'*.pth{PART}')]
    found: list[_Found] = []
    broken = []
    for path in sorted(paths | ({named} if named else set())):
        try:
            content = read_checkpoint(path, mmap=True)
        except CheckpointError as error:
            broken.append(str(error))
            continue
        iteration = (content.get('meta') or {}).get('iter')
        if isinstance(iteration, int):
            found.append(_Found(path, content, iteration, path.stat().st_mtime_ns))
        else:
            skipped.append(f'{path}: no checkpoint of a training')
    for candidate in _newest_first(found, named):
        reason = _damage(candidate)
        if reason is None:
            return candidate.path, skipped + broken
        broken.append(f'{candidate.path} {reason}')
    if broken:
        lines = '\n  - '.join([f'no checkpoint in {work_dir} can be resumed from:', *broken])
        raise CheckpointError(f'{lines}\nTo start from the beginning, delete them')
    return None, skipped


def require_same_on_all_ranks(path: str | None, meta: Mapping[str, Any]) -> None:
    """Compare the checkpoint that this process resumes from with those of all others.

    Args:
        path: of the checkpoint; what differs may be where it is, not its name.
        meta: of the checkpoint; empty where training starts from the beginning.

    Raises:
        CheckpointError: they differ, in all processes.
    """
    own = 'none'
    if path and meta:
        # Trainings of one config write files of one name at the same iterations.
        own = f'{Path(path).name} (iteration {meta.get("iter")}, saved {meta.get("time")})'
    ranks: dict[str, list[int]] = {}
    for rank, found in enumerate(all_gather_object(own)):
        ranks.setdefault(found, []).append(rank)
    if len(ranks) > 1:
        lines = [f'rank {preview(numbers, 16)}: {found}' for found, numbers in ranks.items()]
        message = 'processes found different checkpoints to resume from:'
        remedy = 'Put the work directory on a disk that all machines share, or name the file'
        raise CheckpointError('\n  - '.join([message, *lines]) + f'\n{remedy}')


def _named(work_dir: Path) -> Path | None:
    """The checkpoint that ``last_checkpoint`` names, the folder's own if it is a copy."""
    try:
        name = Path(work_dir, 'last_checkpoint').read_text().strip()
    except FileNotFoundError:
        return None
    # It is a path from where training was started, and of before the folder was copied or moved.
    places = [work_dir / Path(name).name, Path(name)]
    return next((place for place in places if name and place.is_file()), None)


def _newest_first(found: list[_Found], named: Path | None) -> list[_Found]:
    last = next((f for f in found if f.path == named), None)

    def rank(one: _Found) -> tuple[bool, int]:
        # Files with more iterations may be left from a training that was then gone back from; only
        # their time tells. Time alone is no order: copying a folder changes it.
        later = last is None or (one.iteration >= last.iteration and one.written >= last.written)
        return later, one.iteration

    return sorted(found, key=rank, reverse=True)


def _damage(one: _Found) -> str | None:
    """Why a readable file is not to be resumed from."""
    missing = missing_for_resuming(one.content)
    if missing:
        return f'holds no {missing}'
    if zipfile.is_zipfile(one.path):  # torch does not look at the checksums that it writes
        with zipfile.ZipFile(one.path) as archive:
            wrong = archive.testzip()
        if wrong:
            return f'is damaged: the checksum of {wrong} is wrong'
    for name, value in one.content['state_dict'].items():
        if isinstance(value, Tensor) and value.isnan().any():
            return f'holds weights that are no numbers: {name}'
    return None
