"""Weight files that are somewhere else: whole in a cache, or not there."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlparse
from urllib.request import Request, urlopen

import torch
from mmengine.dist import barrier, is_main_process

from vitbackbones.files import replacing
from vitbackbones.progress import progress_bar

from .errors import CheckpointError
from .hub import HubFile, RefusedError, fetch, forget, has_client, hub_file, refusal

SECONDS = 30.0  # of silence, until a server counts as not there
BLOCK = 1 << 20


def is_address(source: str) -> bool:
    """Whether weights are downloaded from there: http(s), or a name on the Hugging Face hub."""
    return re.match('https?://|hf://|hf-hub:', source) is not None


def local_file(source: str, *, seconds: float = SECONDS) -> str:
    """The file that a checkpoint is read from, see :func:`fetched`."""
    return str(fetched(source, seconds=seconds)[0])


def fetched(
    source: str, sha256: str | None = None, *, seconds: float = SECONDS
) -> tuple[Path, str | None]:
    """The file that ``source`` stands for, fetched if it is not there.

    What has an address is kept in torch hub's cache; what has a name on the hub in that of
    huggingface_hub, where that is installed. Only then is a branch asked for what it has now; what
    was kept before is taken where the hub is away, a commit or a digest is named.

    Args:
        source: a path, an address, or a name on the hub.
        sha256: hexadecimal digest that a file must have to be kept, or the first digits of it.
            Without it those in a name like ``gcvit_tiny-ac783954.pth`` are taken.
        seconds: of silence, until a server counts as not there.

    Returns:
        Its path, and the digest that it must have as far as that is known.

    Raises:
        CheckpointError: it cannot be fetched, or is not what it must be; it is not kept then.
    """
    if not is_address(source):
        return Path(source), sha256 or hash_in_name(Path(source).name)
    named = hub_file(source)
    address = source if named is None else named.address
    try:
        name = Path(urlparse(address).path).name
        # Many files are called model.safetensors: only the whole address tells them apart.
        prefix = hashlib.sha256(address.encode()).hexdigest()[:16]
    except ValueError as error:
        raise CheckpointError(f'{source!a} is no address ({error}); correct it') from error
    sha256 = sha256 or hash_in_name(name)
    path = Path(torch.hub.get_dir(), 'checkpoints', f'{prefix}_{name}')

    def bring() -> Path:
        if named is not None and has_client():
            stays = sha256 is not None or not named.moves
            if not (stays and path.exists()):
                return _from_client(named, sha256, seconds, path)
        if path.exists():
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        _download(address, named, path, sha256, seconds)
        return path

    try:
        return _first_alone(bring), sha256
    except RefusedError as error:
        raise CheckpointError(f'{source} is not to be had: {error}') from error
    except (OSError, HTTPException, ValueError) as error:  # the last: no host's name
        raise CheckpointError(
            f'{source} cannot be downloaded ({error}); fetch it by other means and give the local '
            'path in its place (where a backbone starts from it, --cfg-options '
            'model.backbone.init_cfg.checkpoint=FILE, or train from scratch with init_cfg=None, '
            '--cfg-options model.backbone.init_cfg=None)'
        ) from error


def _first_alone(bring: Callable[[], Path]) -> Path:
    """What the first process brings before the others look for it."""
    path = None
    try:
        if is_main_process():
            path = bring()
    finally:
        barrier()
    return path or bring()  # on machines that do not share the first one's disk


def _from_client(named: HubFile, sha256: str | None, seconds: float, kept: Path) -> Path:
    """The file in huggingface_hub's cache, or the one ``kept`` without it if the hub is away."""
    try:
        path, was_there = fetch(named, seconds)
    except RefusedError:
        raise
    except OSError:
        if not kept.exists():
            raise
        return kept
    found = digest_of(path) if sha256 and not was_there else ''
    if found and not is_digest(found, sha256):
        forget(path)
        raise ValueError(f'its SHA-256 is {found} instead of {sha256}')
    return path


def _download(
    address: str, named: HubFile | None, path: Path, sha256: str | None, seconds: float
) -> None:
    """The file at ``address`` as ``path``, if all of it comes and has the digest."""
    digest, received = hashlib.sha256(), 0
    request = Request(address, headers={'User-Agent': 'vitbackbones'})
    try:
        with urlopen(request, timeout=seconds) as answer, replacing(path) as part:
            size = int(answer.headers.get('Content-Length', -1))
            with part.open('wb') as file, _bar(path.name, size) as advance:
                while block := answer.read(BLOCK):
                    file.write(block)
                    digest.update(block)
                    received += len(block)
                    advance(len(block))
            if size not in (-1, received):
                raise OSError(f'it ended after {received} of {size} bytes')
            if not is_digest(digest.hexdigest(), sha256):
                raise ValueError(f'its SHA-256 is {digest.hexdigest()} instead of {sha256}')
    except HTTPError as error:
        if named is not None:
            raise refusal(error, named) from error
        raise OSError(f'HTTP status {error.code}, {error.reason}') from error
    except URLError as error:
        raise OSError(error.reason) from error


@contextmanager
def _bar(name: str, size: int) -> Iterator[Callable[[int], None]]:
    """Tell whoever waits at a terminal how far it is; the function takes a number of bytes."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    with progress_bar() as bar:
        task = bar.add_task(f'{name} (MB)', total=size / 1e6 if size > 0 else None)
        yield lambda count: bar.advance(task, count / 1e6)


def hash_in_name(name: str) -> str | None:
    """The eight digits that timm, torch and OpenMMLab append, unless they could be a date."""
    found = re.search(r'-(?=\d*[a-f])([0-9a-f]{8})\.', name)
    return found[1] if found else None


def digest_of(path: Path) -> str:
    """The SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def is_digest(found: str, wanted: str | None) -> bool:
    """Whether ``found`` begins with what is ``wanted``, if anything is."""
    return wanted is None or found.startswith(wanted.lower())
