"""What a file of a whole model says of itself: what goes in, and what comes out."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Literal

import torch
from torch import nn

from vitbackbones.errors import UserError

#: The key of the model's metadata under which the card is, as JSON.
KEY = 'vitbackbones'

#: Of the fields below. Files of a later one are refused: a field may mean something else there.
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Card:
    """All that running a whole model needs besides its file.

    Attributes:
        version: of this package.
        config: name of the config that it was made of.
        task: 'boxes', 'masks' (boxes too) or 'labels'.
        classes: their names, in the order of labels. A segmentor of one class has one name: its
            label 1 stands for the class, 0 for the rest.
        palette: a colour [R, G, B] for each class.
        scale: [width, height] that the config's test pipeline resizes images to; None if it does
            not resize.
        keep_ratio: whether the image fits into ``scale`` as it is, or is stretched to it.
        layout: of the input, 'chw' or 'hwc'.
        channels: of the input, 'rgb' or 'bgr'.
        dtype: of the input, 'uint8' or 'float32'; from 0 to 255 in both.
        mean: of R, G and B, subtracted inside.
        std: of R, G and B, divided by inside.
        divisor: images are padded to multiples of it inside.
        smallest: pixels that each side of an image has to have at least, before it is padded.
        size: [height, width] that it was made for.
        dynamic: whether other sizes are taken too.
        masks: 'raw', of the box alone, or 'pasted' into the image; None without masks.
        mask_threshold: from which probability on a pixel belongs to a mask, or to the one class of
            a segmentor with one channel; None without.
        probabilities: whether there are probabilities of classes in place of labels.
        precision: 'float32', 'half' or 'int8'.
        weights: SHA-256 over the model's tensors; None if they are random.
    """

    version: str
    config: str
    task: Literal['boxes', 'masks', 'labels']
    classes: list[str]
    palette: list[list[int]]
    scale: list[int] | None
    keep_ratio: bool | None
    layout: Literal['chw', 'hwc']
    channels: Literal['rgb', 'bgr']
    dtype: Literal['uint8', 'float32']
    mean: list[float]
    std: list[float]
    divisor: int
    smallest: int
    size: list[int]
    dynamic: bool
    masks: Literal['raw', 'pasted'] | None
    mask_threshold: float | None
    probabilities: bool
    precision: Literal['float32', 'half', 'int8'] = 'float32'
    weights: str | None = None
    format: int = FORMAT

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of_properties(cls, properties: Mapping[str, str], name: str | os.PathLike[str]) -> Card:
        """That among a model's metadata, as onnxruntime has them.

        Args:
            name: of the file, for messages.

        Raises:
            UserError: there is none, or not one of this version.
        """
        hint = 'files that are run here are written by `vitbackbones export --part model`'
        if KEY not in properties:
            raise UserError(f'{name} has no metadata {KEY!r}; {hint}')
        try:
            content = json.loads(properties[KEY])
        except ValueError:
            content = None
        if not isinstance(content, dict) or 'format' not in content:
            raise UserError(f'{name}: its metadata {KEY!r} cannot be read; {hint}')
        if content['format'] != FORMAT:
            raise UserError(
                f'{name} is of format {content["format"]}, written by version '
                f'{content.get("version")}; this version reads {FORMAT}: export it anew'
            )
        known = {field.name for field in fields(cls)}
        missing = sorted(known - {*content})
        if missing:
            raise UserError(f'{name}: its metadata {KEY!r} lack {", ".join(missing)}; {hint}')
        return cls(**{key: value for key, value in content.items() if key in known})

    @classmethod
    def of_file(cls, path: str | os.PathLike[str]) -> Card:
        """That of a file, without running it.

        Raises:
            UserError: there is no such file, it is no ONNX, or somebody else's; or onnx is missing.
        """
        try:
            import onnx
        except ImportError:
            raise UserError('onnx is missing: pip install onnx') from None
        try:
            model = onnx.load(path, load_external_data=False)
        except OSError as error:
            raise UserError(f'{path} cannot be read: {error.strerror}') from error
        except Exception as error:  # of protobuf's, which has several implementations
            raise UserError(f'{path} is no file in ONNX ({error})') from error
        return cls.of_properties({entry.key: entry.value for entry in model.metadata_props}, path)


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over the names, shapes, types and values of a model's tensors, in order of names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f'{name} {tuple(tensor.shape)} {tensor.dtype}\n'.encode())
        values = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
