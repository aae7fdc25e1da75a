"""A server on loopback that answers as the Hugging Face hub does."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = hashlib.sha1(b'commit').hexdigest()


@dataclass
class Hub:
    """What the server has, how it behaves, and what it was asked.

    Attributes:
        files: contents by (repository, file); there is one commit, which ``main`` and ``v1`` name.
        gated: repositories that are not for everybody.
        private: those that only this token opens, which others take for missing.
        sent: how much of each file is sent before the connection breaks, all without it.
        status: of every answer, where the hub itself is broken.
        asked: methods and paths of all requests.
    """

    files: dict[tuple[str, str], bytes] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    private: dict[str, str] = field(default_factory=dict)
    sent: int | None = None
    status: int | None = None
    asked: list[str] = field(default_factory=list)
    address: str = ''


@contextmanager
def hub_server() -> Iterator[Hub]:
    """Serve a hub for as long as the block runs; ``HF_ENDPOINT`` is its ``address``."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = 'HTTP/1.1'

        def log_message(self, *args: object) -> None: ...

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            content = self.answer()
            self.wfile.write(content[: hub.sent])
            self.close_connection = hub.sent is not None

        def answer(self) -> bytes:
            """Send the head of an answer, and give its body."""
            hub.asked.append(f'{self.command} {self.path}')
            words = [*map(unquote, self.path[1:].split('/')), '', '']
            if words[2] != 'resolve':  # what else a client asks of a hub
                return self.refuse(404, None)
            owner, name, _, revision, *parts = words[:-2]
            repo, file = f'{owner}/{name}', '/'.join(parts)
            known = {each for each, _ in hub.files}
            token = hub.private.get(repo)
            if hub.status is not None:
                return self.refuse(hub.status, None)
            if repo not in known or (token and self.headers['Authorization'] != f'Bearer {token}'):
                return self.refuse(401, 'RepoNotFound')
            if repo in hub.gated:
                return self.refuse(403, 'GatedRepo')
            if revision not in ('main', 'v1', COMMIT):
                return self.refuse(404, 'RevisionNotFound')
            if (repo, file) not in hub.files:
                return self.refuse(404, 'EntryNotFound')
            content = hub.files[repo, file]
            self.send_response(200)
            self.send_header('ETag', f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header('X-Repo-Commit', COMMIT)
            self.send_header('Content-Length', str(len(content)))
            self.end_headers()
            return content

        def refuse(self, status: int, code: str | None) -> bytes:
            self.send_response(status)
            if code is not None:
                self.send_header('X-Error-Code', code)
                self.send_header('X-Error-Message', 'not to be had')
                self.send_header('X-Repo-Commit', COMMIT)
            self.send_header('Content-Length', '0')
            self.end_headers()
            return b''

    with ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        server.daemon_threads = True
        hub.address = f'http://127.0.0.1:{server.server_port}'
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield hub
        server.shutdown()
        thread.join()
