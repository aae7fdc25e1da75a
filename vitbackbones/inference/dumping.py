"""Hooks that write what a test run predicts: each image once, whatever rank has had it."""

from __future__ import annotations

import pickle
import tempfile
from abc import abstractmethod
from pathlib import Path
from typing import IO, Any

from mmengine.dist import broadcast_object_list, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner

from vitbackbones.errors import UserError
from vitbackbones.files import replacing

from .rows import Rows

BETWEEN = b',\n'  # two rows of a list
SENT_AT_ONCE = 64  # predictions that a rank hands over in one message


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


class ListHook(DumpHook):
    """Writes a JSON list, whole or not at all. Rows of an image are joined by :data:`BETWEEN`."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def open(self) -> None:
        """On the first rank; the path must not exist."""
        if get_rank():
            return
        if self.path.exists():
            raise UserError(f'--dump {self.path} exists: choose another name, or remove it')
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._rows = Rows(self.path.parent, BETWEEN)
        except OSError as error:
            raise UserError(f'--dump {self.path} cannot be written: {error.strerror}') from error

    def write(self, image: Any, data: bytes) -> None:
        if data:
            try:
                self._rows.add(data)
            except OSError as error:
                raise UserError(f'--dump {self.path}: {error.strerror}') from error

    def close(self) -> None:
        try:
            with replacing(self.path) as part, part.open('wb') as whole:
                whole.write(b'[')
                self._rows.copy_to(whole)
                whole.write(b']\n')
        except OSError as error:
            raise UserError(f'--dump {self.path}: {error.strerror}') from error
        self._rows.close()


def meta_of(sample: Any, key: str) -> Any:
    """What the test pipeline says of a sample's image.

    Raises:
        UserError: it does not say this.
    """
    if key not in sample.metainfo:
        raise UserError(
            f'--dump needs {key!r} among meta_keys of the test pipeline, there are only '
            f'{", ".join(sample.metainfo)}'
        )
    return sample.metainfo[key]
