"""Files on the Hugging Face hub, by their names there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote, unquote

from .errors import CheckpointError

FORMS = (
    'hf://owner/name/FILE, hf://owner/name@revision/FILE, or hf-hub:owner/name for its '
    'model.safetensors'
)
PUBLIC = 'https://huggingface.co'
#: What stands in the place of an owner for repositories that are not of models.
OTHER_KINDS = ('datasets', 'spaces')

# The hub's own rule for the names of owners and repositories. A file is served under resolve; under
# blob and raw a browser shows a page about it, or of a large one a note of where it is kept.
_REPO = r'(?P<repo>[\w.-]+/[\w.-]+)'
_PLACE = r'(resolve|blob|raw)/(?P<revision>[^/?#]+)/(?P<file>[^?#]+)([?#].*)?'
_NAMES = (
    re.compile(rf'hf://{_REPO}/{_PLACE}', re.ASCII),
    re.compile(rf'hf://{_REPO}(@(?P<revision>[^/]+))?/(?P<file>.+?)(\?download=true)?', re.ASCII),
    re.compile(rf'hf-hub:{_REPO}(@(?P<revision>.+))?', re.ASCII),
)
_ADDRESS = re.compile(rf'/{_REPO}/{_PLACE}', re.ASCII)
_PAGE = re.compile(rf'/{_REPO}(/tree/[^?#]*)?/?([?#].*)?', re.ASCII)
_HOST = re.compile(r'https?://(www\.)?(huggingface\.co|hf\.co)(?=/)')


class RefusedError(OSError):
    """The hub is there, and does not give the file; the message says what to do."""


@dataclass(frozen=True)
class HubFile:
    """One file of a repository of models on the hub."""

    repo: str
    revision: str
    file: str

    @property
    def moves(self) -> bool:
        """Whether another file may come to stand there: of all revisions only a commit stays."""
        return re.fullmatch('[0-9a-f]{40}', self.revision) is None

    @property
    def address(self) -> str:
        """Where ``HF_ENDPOINT``, or the public hub, serves it."""
        place = f'{quote(self.revision, safe="")}/{quote(self.file)}'
        return f'{endpoint()}/{self.repo}/resolve/{place}'


def hub_file(source: str) -> HubFile | None:
    """What ``source`` names on the hub, None for a path or for any other address.

    Raises:
        CheckpointError: it begins as such a name does, and is none; or it is a page of the hub
            that shows a whole repository.
    """
    place = _on_hub(source)
    if place is not None:
        found = _ADDRESS.fullmatch(place)
        page = _PAGE.fullmatch(place)
        if found is None and page is not None:
            raise CheckpointError(
                f'{source} is a page of the hub and no file; write hf://{page["repo"]}/FILE, or '
                f'hf-hub:{page["repo"]} for its model.safetensors'
            )
    else:
        found = next(filter(None, (name.fullmatch(source) for name in _NAMES)), None)
    if found is None:
        if re.match('hf://|hf-hub:', source):
            raise CheckpointError(f'{source!a} names no file on the hub; write {FORMS}')
        return None
    parts = found.groupdict()
    file = unquote(parts.get('file') or 'model.safetensors')
    if not all(file.split('/')) or {'.', '..'} & {*file.split('/'), *parts['repo'].split('/')}:
        raise CheckpointError(f'{source!a} names no file on the hub; write {FORMS}')
    kind = parts['repo'].partition('/')[0]
    if kind in OTHER_KINDS:
        raise CheckpointError(
            f'{source!a} is of a repository of {kind} on the hub, and files are read from those of '
            'models; download it, and give its path'
        )
    return HubFile(parts['repo'], unquote(parts['revision'] or 'main'), file)


def _on_hub(source: str) -> str | None:
    """What follows the host in an address of the public hub or of ``HF_ENDPOINT``."""
    own = os.environ.get('HF_ENDPOINT', '').rstrip('/')
    if own and source.startswith(f'{own}/'):
        return source.removeprefix(own)
    host = _HOST.match(source)
    return None if host is None else source[host.end() :]


def endpoint() -> str:
    """The hub's address, which ``HF_ENDPOINT`` sets, as it does for everybody's tools.

    Raises:
        CheckpointError: that is no address.
    """
    address = os.environ.get('HF_ENDPOINT', '').rstrip('/') or PUBLIC
    if not re.match('https?://[^/]', address):
        raise CheckpointError(
            f'HF_ENDPOINT={address} is no address of a hub; set it to one, such as {PUBLIC}, or '
            'leave it out'
        )
    return address


def has_client() -> bool:
    """Whether huggingface_hub is there, whose cache and tokens are used then."""
    return find_spec('huggingface_hub') is not None


def fetch(wanted: HubFile, seconds: float) -> tuple[Path, bool]:
    """The file in huggingface_hub's cache, and whether it was there.

    Args:
        seconds: of silence, until the hub counts as not there.

    Raises:
        OSError: it cannot be fetched; the message says why.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, try_to_load_from_cache

    try:
        before = try_to_load_from_cache(wanted.repo, wanted.file, revision=wanted.revision)
        if not isinstance(before, str):
            # The download itself would try a hub that is away six times, and take 23 seconds.
            get_hf_file_metadata(wanted.address, timeout=seconds)
        path = hf_hub_download(
            wanted.repo,
            wanted.file,
            revision=wanted.revision,
            endpoint=endpoint(),
            etag_timeout=seconds,
        )
    except Exception as error:  # from the client, and whatever it does its requests with
        raise refusal(error, wanted) from error
    return Path(path), path == before


def forget(path: Path) -> None:
    """Take a file out of huggingface_hub's cache: the name there, and what it alone stands for."""
    content, is_name = path.resolve(), path.is_symlink()
    path.unlink(missing_ok=True)
    revisions = content.parents[1] / 'snapshots'
    names = (each for each in revisions.rglob('*') if each.is_symlink())
    if is_name and not any(each.resolve() == content for each in names):
        content.unlink(missing_ok=True)


def refusal(error: BaseException, wanted: HubFile) -> OSError:
    """Why a file could not be had, :class:`RefusedError` if the hub itself says so.

    Args:
        error: of any client: the hub answers in headers.
    """
    for each in _chain(error):
        answer = getattr(each, 'response', None)
        headers = getattr(each if answer is None else answer, 'headers', None) or {}
        status = getattr(each, 'code', None) or getattr(answer, 'status_code', None)
        code = headers.get('X-Error-Code')
        if code == 'EntryNotFound':
            return RefusedError(
                f'{wanted.repo} has no file {wanted.file} at revision {wanted.revision}; name one '
                f'that it has, as hf://{wanted.repo}/FILE'
            )
        if code == 'RevisionNotFound':
            return RefusedError(
                f'{wanted.repo} has no revision {wanted.revision}; correct it, or leave it out for '
                'main'
            )
        if code == 'GatedRepo':
            return RefusedError(
                f'{wanted.repo} is gated; ask for access at {endpoint()}/{wanted.repo}, then `pip '
                'install huggingface_hub` and `hf auth login`'
            )
        if code == 'RepoNotFound' or status == 401:
            return RefusedError(
                f'{endpoint()} has no {wanted.repo}, or it is private; correct the name, or `pip '
                'install huggingface_hub` and `hf auth login`'
            )
        if isinstance(status, int):
            return OSError(f'{endpoint()} answers with HTTP status {status}')
    # The innermost cause: what the client says around it is several sentences of advice.
    *_, first = _chain(error)
    line = ' '.join(str(first).split()).partition('. ')[0]
    return OSError(f'{type(first).__name__}: {line}' if line else type(first).__name__)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
