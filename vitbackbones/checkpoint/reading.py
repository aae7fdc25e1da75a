"""Reading weight files safely, and finding the state dict in them."""

from __future__ import annotations

import json
import os
import pickle
import re
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .allowed import register_safe_globals
from .errors import CheckpointError
from .fetching import digest_of, fetched, is_address, is_digest
from .screening import screen

# ------------------------------------------------------------------------------------- reading


def read_checkpoint(
    source: str | os.PathLike[str],
    *,
    sha256: str | None = None,
    allow_pickle: bool = False,
    map_location: Any = 'cpu',
    mmap: bool = False,
) -> dict[str, Any]:
    """The content of a torch or safetensors file with a state dict in it, read without running it.

    Args:
        source: a path, an http(s) address, or a name on the Hugging Face hub, see
            :func:`~vitbackbones.checkpoint.fetching.fetched`.
        sha256: hexadecimal digest of the file, or the first digits of it. Without it those in a
            name like ``gcvit_tiny-ac783954.pth`` are taken.
        allow_pickle: read the file even if that runs code in it. For files you trust.
        map_location: as in ``torch.load``; if it is a function, safetensors stay on the CPU.
        mmap: leave tensors in the file until they are used, where its format allows that.

    Raises:
        CheckpointError: there is no such file, it is none, or reading it would run code.
    """
    source = os.fspath(source)
    path, sha256 = fetched(source, sha256)
    label = source
    if is_address(source):  # what a name in huggingface_hub's cache stands for is elsewhere in it
        label = f'{source} (kept as {path.resolve()}; delete that to download it again)'
    try:
        path = path.expanduser()
        if path.exists() and not path.is_file():  # opening a pipe would wait for ever
            raise ValueError('it is no regular file')
        with path.open('rb') as file:
            head = file.read(512)
    except (OSError, ValueError, RuntimeError) as error:  # a NUL in the path; no such home
        reason = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(
            f'{label} cannot be opened ({reason}); give the path of a file with weights'
        ) from error
    if not head:
        raise CheckpointError(f'{label} is empty; copy or download it again')
    _verify(path, label, sha256)
    _refuse_archives(path, head, label)
    # First what begins with a length, whose bytes may be those that other formats begin with.
    if head[8:9] == b'{' and int.from_bytes(head[:8], 'little') <= 100_000_000:
        content = _read_safetensors(path, label, map_location)
    elif head.startswith((b'PK\x03\x04', b'\x80')):  # zip archive; pickle of torch < 1.6
        mmap = mmap and zipfile.is_zipfile(path)
        content = _read_torch(path, label, allow_pickle, map_location, mmap)
    else:
        raise CheckpointError(f'{label} {_other_kind(path, head)}')
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f'{label} holds a {type(content).__name__} instead of a dict of tensors; save the '
            'state_dict() of the model'
        )
    held: dict[str, Any] = dict(_items(content))
    find_weights(held, source=label)
    if not allow_pickle:
        for state in (held, *(held[key] for key in state_dict_keys(held))):
            _check_bytes([value for _, value in _items(state)], label)
    return held


def _verify(path: Path, label: str, sha256: str | None) -> None:
    digest = '' if sha256 is None else digest_of(path)
    if not is_digest(digest, sha256):
        raise CheckpointError(
            f'{label} has the SHA-256 {digest} instead of {sha256}: it is damaged or '
            'another file; download it again'
        )


def _refuse_archives(path: Path, head: bytes, label: str) -> None:
    """Formats that torch.load takes, too, but as something else than a pickle with weights."""
    try:  # no more than the first header, whose checksum tells: others may be endless
        tarfile.TarInfo.frombuf(head, 'utf-8', 'surrogateescape')
        is_tar = True
    except (tarfile.TarError, ValueError):
        is_tar = False
    if is_tar:  # torch < 2.6 runs the pickles in it, whatever weights_only says
        raise CheckpointError(
            f'{label} is a tar archive, as the first versions of torch wrote them: unpack '
            'it and give the file in it, or read it where you trust it and '
            'save the state_dict() of the model'
        )
    try:
        with zipfile.ZipFile(path) as archive:
            is_script = any(name.endswith('/constants.pkl') for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError):  # left to torch.load
        is_script = False
    if is_script:
        raise CheckpointError(f'{label} is a TorchScript archive: save its state_dict()')


def _read_torch(
    path: Path, label: str, allow_pickle: bool, map_location: Any, mmap: bool = False
) -> Any:
    try:
        if not allow_pickle:
            screen(path)
            # Again: onedl-mmengine lists some of these types too, and strikes them off afterwards.
            register_safe_globals()
        return torch.load(
            path, map_location=map_location, weights_only=not allow_pickle, mmap=mmap or None
        )
    except (MemoryError, torch.cuda.OutOfMemoryError):
        raise
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


def _read_safetensors(path: Path, label: str, map_location: Any) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError(f'{label} needs `pip install safetensors` to be read') from error
    try:
        tensors = load_file(path)
        with path.open('rb') as file:
            header = file.read(int.from_bytes(file.read(8), 'little'))
        json.loads(header, object_pairs_hook=_names_once)  # of two, one would be read silently
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(
            f'{label} is truncated or damaged: copy or download it again ({error})'
        ) from error
    if isinstance(map_location, Mapping):
        map_location = map_location.get('cpu')
    if isinstance(map_location, (str, torch.device)):
        tensors = {name: value.to(map_location) for name, value in tensors.items()}
    return tensors


def _names_once(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError('a name occurs twice in its header')


def _check_bytes(values: Iterable[Any], label: str) -> None:
    """Few numbers can stand for any amount: shapes may repeat them, and names the tensors."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    plain = [value for value in tensors if value.layout is torch.strided and not value.is_meta]
    stored = {value.untyped_storage().data_ptr(): value.untyped_storage() for value in plain}
    held = sum(storage.nbytes() for storage in stored.values())
    total = sum(value.numel() * value.element_size() for value in plain)
    if total > max(8 * held, 1 << 30):
        raise CheckpointError(
            f'{label} holds {held} bytes of numbers in tensors of {total} bytes: no training saves '
            'such a file'
        )


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
    """The state dict in a file's content, and the key it was found under.

    A ``module.`` that all names begin with, as parallel training adds it, is left out.

    Args:
        content: as :func:`read_checkpoint` returns it.
        weights: ``'plain'`` or ``'ema'`` for the trained or the averaged weights; ``'auto'`` takes
            what published loaders take: ``state_dict``, else ``model``, else what else there is.
            (A Runner with mmengine's EMAHook saves its averaged weights as ``state_dict``.)
            ``'measured'`` takes those of which a classifier's published figure is: the same, but
            for the trainer of timm, which measures what it saves as ``state_dict_ema``.
        source: name of the file for messages.

    Raises:
        CheckpointError: no tensors, or none of the wanted kind.
    """
    if weights not in ('auto', 'plain', 'ema', 'measured'):
        raise ValueError(f"weights={weights!r} must be 'auto', 'plain', 'ema' or 'measured'")
    held = state_dict_keys(content)
    plain = [key for key in held if key in ('state_dict', 'model')]
    averaged = [key for key in held if key in ('state_dict_ema', 'model_ema')]
    order = [*plain, *averaged] or ['']
    if 'ema_state_dict' in held:
        plain, averaged = ['ema_state_dict'], plain
    measured = ['state_dict_ema'] if 'state_dict_ema' in held else order
    choices = {'auto': order, 'plain': plain or [''], 'ema': averaged, 'measured': measured}
    choice = choices[weights]
    entries = preview(content) or 'an empty dict'
    if not choice:
        raise CheckpointError(f"{source} holds no averaged weights (weights='ema'), only {entries}")
    state = content[choice[0]] if choice[0] else content
    tensors = {str(key): value for key, value in _items(state) if isinstance(value, Tensor)}
    if all(name.startswith('module.') for name in tensors):
        tensors = {name.removeprefix('module.'): value for name, value in tensors.items()}
    if not tensors:
        raise CheckpointError(
            f'{source} holds no weights, only {entries}; it has to be a state dict, or a '
            "dict with one under 'state_dict' or 'model'"
        )
    return tensors, choice[0]


def _items(mapping: Mapping[Any, Any]) -> Iterable[tuple[Any, Any]]:
    """Its items, even if a file gave a dict an attribute of that name."""
    return dict.items(mapping) if isinstance(mapping, dict) else mapping.items()


def state_dict_keys(content: Mapping[str, Any]) -> list[str]:
    """Where ``content`` may hold state dicts, plain before averaged ones."""
    keys = ('state_dict', 'model', 'state_dict_ema', 'model_ema', 'ema_state_dict')
    return [key for key in keys if isinstance(content.get(key), Mapping)]


def preview(names: Iterable[object], limit: int = 4) -> str:
    """The first of ``names``, for a message."""
    words = [str(name) for name in names]
    return ', '.join(words[:limit] + ['...'] * (len(words) > limit))
