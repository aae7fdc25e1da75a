"""Reading weight files safely, and finding the state dict in them."""

from __future__ import annotations

import argparse
import hashlib
import os
import pickle
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.dist import barrier, is_main_process
from mmengine.logging import HistoryBuffer
from torch import Tensor


class CheckpointError(RuntimeError):
    """A file that cannot be read safely or does not fit the network."""


# -------------------------------------------------------------------- what a file may contain


def _named(path: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` under the dotted name by which files call it."""

    def stand_in(*args: Any) -> Any:
        return function(*args)

    stand_in.__module__, _, stand_in.__name__ = path.rpartition('.')
    stand_in.__qualname__ = stand_in.__name__
    return stand_in


def _statistic(owner: object, name: str) -> Any:
    """All that is left of ``getattr``, through which a HistoryBuffer names its own four methods."""
    if owner is HistoryBuffer and name in ('min', 'max', 'mean', 'current'):
        return getattr(HistoryBuffer, name)
    raise pickle.UnpicklingError(f'GLOBAL getattr was not allowed for {owner}, {name!r}')


# The functions through which numpy pickles arrays and scalars; where they are differs by version.
_RECONSTRUCT: Any = np.empty(0).__reduce__()[0]
_SCALAR: Any = np.float64(0).__reduce__()[0]

# Besides tensors and plain containers: arguments of training scripts, arrays and scalars of numpy
# (without object and structured types), and what mmengine's Runner saves. Constructing these runs
# no code of the file.
_SAFE_GLOBALS = (
    argparse.Namespace,
    ConfigDict,
    HistoryBuffer,
    _named('builtins.getattr', _statistic),
    np.ndarray,
    np.dtype,
    *{type(np.dtype(c)) for c in '?' + np.typecodes['AllInteger'] + np.typecodes['AllFloat']},
    *(
        _named(f'numpy.{core}.multiarray.{name}', function)
        for core in ('core', '_core')  # numpy 1 and numpy 2
        for name, function in (('_reconstruct', _RECONSTRUCT), ('scalar', _SCALAR))
    ),
)


def register_safe_globals() -> None:
    """Let ``torch.load(..., weights_only=True)`` read the checkpoints of mmengine's Runner.

    mmengine 0.10.7 calls ``torch.load`` without further arguments, which torch >= 2.6 takes to
    mean ``weights_only=True``. Older versions than torch 2.4 know no such list: nothing is done.
    """
    if hasattr(torch.serialization, 'add_safe_globals'):
        torch.serialization.add_safe_globals(list(_SAFE_GLOBALS))


# ------------------------------------------------------------------------------------- reading


def read_checkpoint(
    source: str | os.PathLike[str],
    *,
    sha256: str | None = None,
    allow_pickle: bool = False,
    map_location: Any = 'cpu',
) -> dict[str, Any]:
    """The content of a torch or safetensors file with a state dict in it, read without running it.

    Args:
        source: a path, or an http(s) URL that is kept in torch hub's cache.
        sha256: hexadecimal digest of the file, or the first digits of it. Without it those in a
            name like ``gcvit_tiny-ac783954.pth`` are taken.
        allow_pickle: read the file even if that runs code in it. For files you trust.
        map_location: as in ``torch.load``.

    Raises:
        CheckpointError: there is no such file, it is none, or reading it would run code.
    """
    source = os.fspath(source)
    if re.match('https?://', source):
        path = _download(source, sha256)
        label = f'{source} (kept as {path}; delete that to download it again)'
    else:
        path, label = Path(source).expanduser(), source
    try:
        with path.open('rb') as file:
            head = file.read(512)
    except OSError as error:
        raise CheckpointError(
            f'{label} cannot be opened ({error.strerror}); give the path of a file with weights'
        ) from error
    if not head:
        raise CheckpointError(f'{label} is empty; copy or download it again')
    _verify(path, label, sha256 or hash_in_name(path.name))
    if head.startswith((b'PK\x03\x04', b'\x80')):  # zip archive; pickle of torch < 1.6
        content = _read_torch(path, label, allow_pickle, map_location)
    elif head[8:9] == b'{' and int.from_bytes(head[:8], 'little') <= 100_000_000:
        content = _read_safetensors(path, label)
    else:
        raise CheckpointError(f'{label} {_other_kind(path, head)}')
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f'{label} holds a {type(content).__name__} instead of a dict of tensors; save the '
            'state_dict() of the model'
        )
    find_weights(content, source=label)
    return dict(content)


def _download(url: str, sha256: str | None) -> Path:
    """The file of torch hub's cache that belongs to ``url``, downloaded if it is not there."""
    parts = urlparse(url)
    name = Path(parts.path).name
    if parts.query:  # such URLs differ in the query alone
        name = f'{hashlib.sha256(url.encode()).hexdigest()[:8]}_{name}'
    path = Path(torch.hub.get_dir(), 'checkpoints', name)
    digest = sha256 or hash_in_name(name)

    def fetch() -> None:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            progress = sys.stderr.isatty()
            torch.hub.download_url_to_file(url, str(path), digest, progress=progress)

    try:
        try:
            if is_main_process():
                fetch()
        finally:
            barrier()
        fetch()  # on machines that do not share the first one's disk
    except (OSError, HTTPException, RuntimeError) as error:
        raise CheckpointError(
            f'{url} cannot be downloaded ({error}); fetch it by other means and give the local '
            'path as checkpoint, or train from scratch with init_cfg=None'
        ) from error
    return path


def hash_in_name(name: str) -> str | None:
    """The eight digits that timm, torch and OpenMMLab append, unless they could be a date."""
    found = re.search(r'-(?=\d*[a-f])([0-9a-f]{8})\.', name)
    return found[1] if found else None


def _verify(path: Path, label: str, sha256: str | None) -> None:
    if sha256 is None:
        return
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if not digest.hexdigest().startswith(sha256.lower()):
        raise CheckpointError(
            f'{label} has the SHA-256 {digest.hexdigest()} instead of {sha256}: it is damaged or '
            'another file; download it again'
        )


def _read_torch(path: Path, label: str, allow_pickle: bool, map_location: Any) -> Any:
    try:
        return torch.load(path, map_location=map_location, weights_only=not allow_pickle)
    except Exception as error:  # of any type: a damaged pickle can make its reader do anything
        unsafe = isinstance(error, pickle.UnpicklingError)
        # torch wraps the reason in a page of advice, which is not ours.
        reason = str(error.__context__ if unsafe and error.__context__ else error)
        reason = reason.partition('\n')[0].partition('. ')[0] or 'it ends too early'
        refused = re.search(r'GLOBAL (\S+)', reason)
        if refused:
            what = f'is refused: reading it would call {refused[1]}, which can run code'
        elif unsafe:
            what = f'cannot be read safely: {reason}; it is damaged or holds more than weights'
        else:
            what = f'is truncated, damaged or no checkpoint: {reason}; copy or download it again'
        if unsafe:
            what += (
                '. If you trust its origin, convert it with `vitbackbones convert --allow-pickle` '
                'or read it with allow_pickle=True'
            )
        raise CheckpointError(f'{label} {what}') from error


def _read_safetensors(path: Path, label: str) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError(f'{label} needs `pip install safetensors` to be read') from error
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(
            f'{label} is truncated or damaged: copy or download it again ({error})'
        ) from error


def _other_kind(path: Path, head: bytes) -> str:
    """What a file without weights is, and what to do."""
    text = head.removeprefix(b'\xef\xbb\xbf').lstrip()
    if text.startswith(b'<'):
        return 'is a web page (HTML): open the link in a browser and save the file it offers'
    if path.suffix in ('.py', '.yaml', '.yml', '.json'):
        return 'is a config file: the weights (.pth, .safetensors) are wanted here'
    if text.startswith(b'version https://git-lfs'):
        return 'only stands for a file of Git LFS: fetch it with `git lfs pull`'
    return 'is neither a torch file nor a safetensors file: copy or download it again'


# ----------------------------------------------------------------------------------- unwrapping


def find_weights(
    content: Mapping[str, Any], weights: str = 'auto', *, source: str = 'the checkpoint'
) -> tuple[dict[str, Tensor], str]:
    """The state dict in a file's content without ``module.``, and the key it was found under.

    Args:
        content: as :func:`read_checkpoint` returns it.
        weights: ``'plain'`` or ``'ema'`` for the trained or the averaged weights; ``'auto'`` takes
            what published loaders take: ``state_dict``, else ``model``, else what else there is.
            (A Runner with mmengine's EMAHook saves its averaged weights as ``state_dict``.)
        source: name of the file for messages.

    Raises:
        CheckpointError: no tensors, or none of the wanted kind.
    """
    if weights not in ('auto', 'plain', 'ema'):
        raise ValueError(f"weights={weights!r} must be 'auto', 'plain' or 'ema'")
    held = holders(content)
    plain = [key for key in held if key in ('state_dict', 'model')]
    averaged = [key for key in held if key in ('state_dict_ema', 'model_ema')]
    order = [*plain, *averaged] or ['']
    if 'ema_state_dict' in held:
        plain, averaged = ['ema_state_dict'], plain
    choice = {'auto': order, 'plain': plain or [''], 'ema': averaged}[weights]
    entries = examples(content) or 'an empty dict'
    if not choice:
        raise CheckpointError(f"{source} holds no averaged weights (weights='ema'), only {entries}")
    state = content[choice[0]] if choice[0] else content
    tensors = {
        str(key).removeprefix('module.'): value
        for key, value in state.items()
        if isinstance(value, Tensor)
    }
    if not tensors:
        raise CheckpointError(
            f'{source} holds no weights, only {entries}; it has to be a state dict, or a '
            "dict with one under 'state_dict' or 'model'"
        )
    return tensors, choice[0]


def holders(content: Mapping[str, Any]) -> list[str]:
    """Where ``content`` may hold state dicts, plain before averaged ones."""
    keys = ('state_dict', 'model', 'state_dict_ema', 'model_ema', 'ema_state_dict')
    return [key for key in keys if isinstance(content.get(key), Mapping)]


def examples(names: Iterable[object], limit: int = 4) -> str:
    """The first of ``names``, for a message."""
    words = [str(name) for name in names]
    return ', '.join(words[:limit] + ['...'] * (len(words) > limit))
