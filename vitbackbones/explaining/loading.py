"""An image file as a model gets it, and as it is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from vitbackbones.errors import notice
from vitbackbones.inference.drawing import read_image

from .placing import Place, traced


class ImageError(Exception):
    """One sentence about an image of which there is nothing to draw."""


@dataclass(frozen=True)
class Loaded:
    """An image.

    Attributes:
        image: the file in RGB.
        data: what the model's data preprocessor made of it, a batch of one.
        place: of the file in the network's input.
    """

    image: Image.Image
    data: Mapping[str, Any]
    place: Place


class Loader:
    """Loads images for a model through a test pipeline."""

    def __init__(self, model: Any, pipeline: Callable[..., Any]) -> None:
        self.model = model
        self.pipeline = pipeline
        self._places: dict[tuple[int, int], Place | None] = {}

    def load(self, path: Path) -> Loaded:
        """What there is of an image file.

        Raises:
            ImageError: it cannot be read, or the pipeline fails or leaves it out.
        """
        if not path.is_file():
            raise ImageError('there is no such image')
        image = tried('reading', read_image, path)
        packed = tried('the test pipeline', self.pipeline, dict(img_path=str(path), img_id=0))
        if packed is None:
            raise ImageError('the test pipeline leaves it out')
        batch = {key: [value] for key, value in packed.items()}
        data = tried('the data preprocessor', self.model.data_preprocessor, batch, False)
        return Loaded(image, data, self._place(image.size, packed['inputs'].shape[-2:]))

    def _place(self, size: tuple[int, int], shape: tuple[int, int]) -> Place:
        if size not in self._places:
            try:
                place = traced(self.pipeline, size)
            except Exception:  # a pipeline of anybody's, given images that are not the user's
                place = None
            self._places[size] = place
            if place is None:
                notice(
                    'the test pipeline changes images so that nobody can tell where their pixels '
                    'go: drawings show all of an image under all of a map'
                )
        return self._places[size] or Place.of_all(size, shape)


def tried(step: str, do: Callable[..., Any], *args: Any) -> Any:
    """What ``do`` returns.

    Raises:
        ImageError: ``do`` fails; it says which step that was.
    """
    try:
        return do(*args)
    except ImageError:
        raise
    except Exception as error:  # whatever an image leads Pillow, OpenCV or a network to
        reason = ' '.join(str(error).split())[:300]
        raise ImageError(f'{step} fails: {type(error).__name__}: {reason}') from error
