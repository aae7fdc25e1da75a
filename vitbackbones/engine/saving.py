"""Saving checkpoints so that there always is a whole one, with all that resuming needs."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

from mmengine.dist import all_gather_object, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from . import mmengine_compat as compat
from .atomic import AtomicBackend, write_atomically
from .random_states import Randomness

INTERRUPTED = 'interrupted.pth'


class DurableCheckpointHook(compat.OpenCheckpointHook):
    """mmengine's ``CheckpointHook``, safe against being killed at any moment.

    mmengine writes into the final file, and makes room by deleting the oldest checkpoint before the
    newest is written. Here every file is written atomically, and nothing is deleted before what
    follows it is on the disk. ``meta`` of a checkpoint also has the ``random_states`` of all
    processes, by rank, and ``batches_per_epoch``.
    """

    randomness: Randomness
    backend_args: dict[str, Any] | None
    file_backend: Any
    keep_ckpt_ids: deque[int]

    @classmethod
    def adopt(cls, hook: CheckpointHook, randomness: Randomness) -> None:
        """Turn a config's hook with all its options into one of this class."""
        hook.__class__ = cls
        hook.randomness = randomness

    def before_train(self, runner: Runner) -> None:
        resumed = compat.loaded_file(runner) if compat.resumes(runner) else None
        self.resumed_from = Path(resumed) if resumed else None
        folder = str(self.out_dir or runner.work_dir)
        if '://' not in folder and not self.backend_args and not self.file_client_args:
            self.backend_args = dict(backend=AtomicBackend.name)
        super().before_train(runner)

    def save_interrupted(self, runner: Runner, iteration: int) -> str:
        """Save what an interrupted training goes on from; the file's path.

        It is deleted as soon as the training that resumed from it has saved again.
        """
        meta = dict(epoch=runner.epoch, iter=iteration)
        self._write(runner, INTERRUPTED, meta, save_optimizer=True, save_param_scheduler=True)
        return self.last_ckpt

    def write_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        outdated: list[int] = []
        if self.max_keep_ckpts > 0:
            kept = [*(other for other in self.keep_ckpt_ids if other != step), step]
            # With those about to be deleted: killed before that, the resumed run does it.
            runner.message_hub.update_info('keep_ckpt_ids', kept)
            self.keep_ckpt_ids = deque(kept, self.max_keep_ckpts)
            outdated = kept[: -self.max_keep_ckpts]
        options = dict(
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            **self.args,
        )
        self._write(runner, self.filename_tmpl.format(step), meta, **options)
        for other in outdated:
            self._delete(self._path(self.filename_tmpl.format(other)))
        if self.resumed_from == Path(self._path(INTERRUPTED)):
            self._delete(str(self.resumed_from))

    def write_best(self, runner: Runner, metrics: dict[str, Any]) -> None:
        backend = self.file_backend
        self.file_backend = later = _DeleteLater(backend)
        try:
            super().write_best(runner, metrics)
        finally:
            self.file_backend = backend
        best = {getattr(self, 'best_ckpt_path', None)}
        best |= set(getattr(self, 'best_ckpt_path_dict', {}).values())
        for path in later.paths:
            # A resumed checkpoint names the best one, maybe of another training's folder.
            name = Path(path).name
            own = self._path(name)
            if name.startswith('best_') and own not in best:
                self._delete(own)

    def _write(self, runner: Runner, name: str, meta: dict[str, Any], **options: Any) -> None:
        self.last_ckpt = self._path(name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        more = dict(
            random_states=all_gather_object(self.randomness.current()),
            batches_per_epoch=len(runner.train_dataloader),
        )
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            meta={**meta, **more},
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **options,
        )
        if is_main_process():
            write_atomically(Path(runner.work_dir, 'last_checkpoint'), self.last_ckpt.encode())

    def _path(self, name: str) -> str:
        return self.file_backend.join_path(self.out_dir, name)

    def _delete(self, path: str) -> None:
        if is_main_process():
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)
            elif self.file_backend.isdir(path):  # deepspeed's
                self.file_backend.rmtree(path)


class _DeleteLater:
    """A file backend that only notes what to delete."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.paths: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def remove(self, path: str) -> None:
        self.paths.append(path)

    rmtree = remove
