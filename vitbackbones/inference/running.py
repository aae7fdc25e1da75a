"""Images that are predicted, drawn and written one after the other; none stops another."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from mmengine.dataset import Compose
from mmengine.visualization import Visualizer

from vitbackbones.errors import UserError
from vitbackbones.progress import RateColumn, progress_bar
from vitbackbones.tasks import Task

from .drawing import draw
from .inputs import Input, frame_name, is_readable
from .predict import predict_one
from .request import Kept
from .results import IMAGES, Result, Results
from .tiles import Tiles
from .videos import VideoError, read_frames, write_frame


@dataclass(frozen=True)
class Outcome:
    """What became of the images.

    Attributes:
        written: the images whose results are all there; frames are files below images/.
        failed: image, or video that breaks off, and reason.
    """

    written: list[Path] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)


class Stopped(KeyboardInterrupt):
    """Somebody stopped the work.

    Attributes:
        outcome: of what was done until then, all of which is written.
    """

    def __init__(self, outcome: Outcome) -> None:
        super().__init__()
        self.outcome = outcome


class _ImageError(Exception):
    """One sentence about an image whose results are not complete."""


@dataclass
class Work:
    """What is applied to one image after the other.

    Attributes:
        kept: of what the model finds.
        results: the formats that are written.
        number: gives the id of an image.
        out: the folder of results.
        score: from which on objects are drawn.
        tiles: what predicts, where images are cut into tiles.
    """

    model: Any
    task: Task
    pipeline: Compose
    visualizer: Visualizer
    kept: Kept
    results: Sequence[Results]
    number: Callable[[Path], Any]
    out: Path
    score: float
    tiles: Tiles | None = None

    def run(
        self,
        inputs: Sequence[Input],
        total: int | None,
        report: Callable[[str], None],
        *,
        bar: bool,
    ) -> Outcome:
        """Do all; what was done is written, too, when an exception ends it.

        A full disk ends it: what follows would be computed in vain.

        Args:
            total: how many images and frames there are; None if that is not known.
            report: called with a line for each.
            bar: show how far it is.

        Raises:
            UserError: the disk is full, or a file about all images cannot be written.
            Stopped: on Ctrl-C.
        """
        outcome = Outcome()
        try:
            self._run(inputs, total, report, outcome, bar=bar)
        except KeyboardInterrupt as error:
            raise Stopped(outcome) from error
        return outcome

    def _run(
        self,
        inputs: Sequence[Input],
        total: int | None,
        report: Callable[[str], None],
        outcome: Outcome,
        *,
        bar: bool,
    ) -> None:
        done = 0
        with ExitStack() as stack:
            for results in self.results:
                stack.callback(results.close)
            advance = stack.enter_context(_advancing(total)) if bar else lambda: None
            for each in inputs:
                try:
                    for path, name in self._images(each):
                        done += 1
                        line = f'{done}/{total} {path}' if total is not None else f'{done} {path}'
                        try:
                            self._do(path, name)
                        except _ImageError as error:
                            unread = not is_readable(path)
                            outcome.failed[path] = _UNREADABLE if unread else str(error)
                            report(f'{line} failed')
                        else:
                            outcome.written.append(path)
                            report(line)
                        advance()
                except VideoError as error:
                    outcome.failed[each.path] = str(error)

    def _images(self, each: Input) -> Iterator[tuple[Path, PurePosixPath]]:
        """The file and the name of an image, or of every frame, which is written before.

        Raises:
            VideoError: the video, or the place for its frames, breaks off.
        """
        if not each.is_video:
            yield each.path, each.name
            return
        for number, frame in enumerate(read_frames(each.path)):
            name = frame_name(each.name, number)
            path = self.out / IMAGES / name
            try:
                write_frame(path, frame)
            except OSError as error:
                raise VideoError(f'{path} cannot be written: {error.strerror}') from error
            yield path, name

    def _do(self, path: Path, name: PurePosixPath) -> None:
        """All there is to do with an image."""
        number = self.number(path)
        sample = self._predict(path, number)
        _named('reading its result', self.kept.reduce, sample, self.task)
        result = Result(path, name, number, sample)
        for results in self.results:
            _named('writing', results.add, result)
        target = _named('writing', result.target, self.out, '_prediction.jpg')
        _named('drawing', draw, self.visualizer, sample, target, truth=False, score=self.score)

    def _predict(self, path: Path, number: Any) -> Any:
        loaded = {'img_path': str(path), 'img_id': number}
        if self.tiles is not None:
            return _named('predicting it in tiles', self.tiles, loaded)
        packed = _named('the test pipeline', self.pipeline, loaded)
        if packed is None:
            raise _ImageError('the test pipeline leaves it out')
        return _named('the model', predict_one, self.model, packed)


_UNREADABLE = 'it cannot be read as an image'


@contextmanager
def _advancing(total: int | None) -> Iterator[Callable[[], None]]:
    """A bar, and the function that moves it by one."""
    with progress_bar(RateColumn()) as bar:
        task = bar.add_task('images', total=total)
        yield lambda: bar.advance(task)


def _named(step: str, do: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """What ``do`` returns; its error becomes one that says which step failed."""
    try:
        return do(*args, **options)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f'{step} fails: {error.strerror}; images until then are done'
            ) from error
        raise _failed(step, error) from error
    except Exception as error:  # whatever an image leads OpenCV, a network or matplotlib to
        raise _failed(step, error) from error


def _failed(step: str, error: Exception) -> _ImageError:
    reason = ' '.join(str(error).split())[:300]
    return _ImageError(f'{step} fails: {type(error).__name__}: {reason}')
