"""Ranks of a distributed run that end together, and say whose fault it was.

When a rank dies, the others wait for it: in a collective of NCCL's until that times out, with gloo
until an error tells a port. Starters that watch their processes (torchrun) end them, others (srun
without ``--kill-on-bad-exit``) do not. Here every rank has a connection to rank 0, and that tells
the others:

- a process that ends, however it does, has its connections closed by its kernel: that is noticed at
  once;
- a rank that fails sends its error before;
- a machine or network that is gone stops answering keep-alive probes. Kernels answer them, not
  processes: a rank that computes, validates alone or is halted by a debugger is alive.
"""

from __future__ import annotations

import json
import os
import secrets
import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from weakref import WeakSet

import torch

from vitbackbones.errors import notice

# Seconds that a machine may be silent before its ranks count as dead.
PATIENCE = max(int(os.environ.get('VITBACKBONES_PATIENCE', '30')), 6)
# Seconds in which an error of a rank's own, or a launcher that names the first one, may come first.
GRACE = 3

_open: WeakSet[socket.socket] = WeakSet()


def _close_in_child() -> None:
    for each in list(_open):
        each.close()


# A forked data worker would keep the connections of its dead parent open.
os.register_at_fork(after_in_child=_close_in_child)


@contextmanager
def linked_ranks() -> Iterator[None]:
    """End this process when another rank dies or fails inside, and the others when this one does.

    It ends with status 1 and a sentence on standard error that names the rank, its process, host
    and error; whatever it is busy with, a collective that never returns, for one. A rank may leave
    by a ``SystemExit`` with status 0, or with that of a signal, on which all ranks agree.

    Does nothing without other processes. With them, all have to enter.
    """
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not distributed or torch.distributed.get_world_size() == 1:
        yield
        return
    watch = _Watch()
    try:
        yield
    except BaseException as error:
        watch.fail(error)
        raise
    finally:
        watch.leave()


class _Watch:
    """The connections of one rank, and the thread that waits for news from them.

    Rank 0 is connected with all others, each of them with rank 0. A message is a line: ``end`` and
    a sentence, which rank 0 hands on to all others, or ``left``.
    """

    def __init__(self) -> None:
        rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
        host = socket.gethostname()
        self.name = f'rank {rank} (process {os.getpid()} on {host})'
        self._met, self._told, self._failing = (threading.Event() for _ in range(3))
        self._lock = threading.Lock()
        self._peers: list[_Peer] = []
        self._strangers = ranks - 1 if rank == 0 else 0
        self._selector = selectors.DefaultSelector()
        self._stop, stopped = socket.socketpair()
        self._register(stopped, None)
        listener = _listen(ranks) if rank == 0 else None
        port = listener.getsockname()[1] if listener else 0
        meeting = [(host, port, secrets.token_hex(), self.name)]
        torch.distributed.broadcast_object_list(meeting)
        (host, port, token, first) = meeting[0]
        self._token = token.encode()
        if listener is not None:
            self._register(listener, listener)
        else:
            self._call(os.environ.get('MASTER_ADDR', host), port, first)
        self._thread = threading.Thread(target=self._wait, name='ranks', daemon=True)
        self._thread.start()
        if listener is not None:  # who is not known cannot be told that this rank leaves
            self._met.wait(PATIENCE)

    def fail(self, error: BaseException) -> None:
        """Tell the others of an error; does not return if it comes of another rank's end."""
        if isinstance(error, SystemExit) and _planned(error.code):
            self._failing.set()
            return
        # The one whose connection broke is not the one that died.
        if _is_of_communication(error) and self._told.wait(PATIENCE):
            self._thread.join()
        self._failing.set()
        self._tell(f'{self.name} failed: {_in_short(error)}')

    def leave(self) -> None:
        """Be missed by nobody from now on."""
        with self._lock:
            self._told.set()  # how the connections end matters no more
            for peer in self._peers:
                peer.send('left')
        with self._stop:
            self._stop.send(b'.')
            self._thread.join()

    def _call(self, address: str, port: int, name: str) -> None:
        try:
            peer = _Peer(socket.create_connection((address, port), timeout=PATIENCE), name)
        except OSError as error:
            message = f'no connection to {name} at {address}:{port} ({error.strerror or error})'
            notice(f'{message}: dead ranks may go unnoticed', every_rank=True)
            return
        peer.socket.settimeout(None)
        peer.socket.sendall(self._token + b' ' + self.name.encode() + b'\n')
        self._register(peer.socket, peer)
        self._peers.append(peer)

    def _register(self, each: socket.socket, data: socket.socket | _Peer | None) -> None:
        _open.add(each)
        self._selector.register(each, selectors.EVENT_READ, data)

    def _wait(self) -> None:
        """The thread: until all have left, or this rank does."""
        left = False
        while not left:
            for key, _ in self._selector.select():
                if isinstance(key.fileobj, socket.socket) and key.fileobj.fileno() < 0:
                    continue  # forgotten since
                if key.data is None:
                    left = True
                elif isinstance(key.data, _Peer):
                    self._hear(key.data)
                else:
                    with suppress(OSError):  # who called has hung up, or nobody is to call any more
                        connection, _ = key.data.accept()
                        self._register(connection, _Peer(connection))
        for each in self._sockets():
            self._forget(each)
        self._selector.close()

    def _hear(self, peer: _Peer) -> None:
        try:
            lines = peer.receive()
        except OSError as error:
            self._forget(peer.socket)
            if peer.name:
                self._end(f'{peer.name} {_reason(error)}', peer)
            return
        if lines and not peer.name and not self._greet(peer, lines.pop(0)):
            return
        for line in lines:
            kind, text = json.loads(line)
            if kind == 'end':
                self._end(text, peer)
            else:
                self._forget(peer.socket)
                with self._lock:
                    self._peers.remove(peer)

    def _greet(self, peer: _Peer, line: bytes) -> bool:
        token, _, name = line.partition(b' ')
        if not secrets.compare_digest(token, self._token):
            self._forget(peer.socket)
            return False
        peer.name = name.decode()
        with self._lock:
            self._peers.append(peer)
        self._strangers -= 1
        if not self._strangers:
            for each in self._sockets():
                if self._selector.get_key(each).data is each:
                    self._forget(each)  # nobody else is to call
            self._met.set()
        return True

    def _sockets(self) -> list[socket.socket]:
        keys = self._selector.get_map().values()
        return [key.fileobj for key in keys if isinstance(key.fileobj, socket.socket)]

    def _forget(self, each: socket.socket) -> None:
        self._selector.unregister(each)
        each.close()

    def _tell(self, sentence: str, source: _Peer | None = None) -> bool:
        """Hand the sentence on, if it is the first one."""
        with self._lock:
            if self._told.is_set():
                return False
            self._told.set()
            for peer in self._peers:
                if peer is not source:
                    peer.send('end', sentence)
        return True

    def _end(self, sentence: str, source: _Peer) -> None:
        if not self._tell(sentence, source):
            return
        # Neither print nor a logger: what this process hangs in may hold their locks.
        os.write(2, f'vitbackbones: {sentence}; {self.name} ends, too\n'.encode())
        if not self._failing.wait(GRACE):
            os._exit(1)


class _Peer:
    """The other end of a connection; its name is empty until it has said it."""

    def __init__(self, connection: socket.socket, name: str = '') -> None:
        self.socket, self.name = connection, name
        self._rest = b''
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (('IDLE', PATIENCE // 3), ('INTVL', PATIENCE // 6), ('CNT', 4)):
            if hasattr(socket, f'TCP_KEEP{option}'):
                number = getattr(socket, f'TCP_KEEP{option}')
                connection.setsockopt(socket.IPPROTO_TCP, number, value)

    def send(self, kind: str, text: str = '') -> None:
        with suppress(OSError):  # it is gone, which the thread hears by itself
            self.socket.sendall(json.dumps([kind, text]).encode() + b'\n')

    def receive(self) -> list[bytes]:
        """Lines that have come.

        Raises:
            OSError: the connection has ended.
        """
        data = self.socket.recv(1 << 16)
        if not data or (not self.name and len(self._rest) > 1000):
            raise ConnectionResetError
        *lines, self._rest = (self._rest + data).split(b'\n')
        return lines


def _listen(ranks: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        family, both = socket.AF_INET6, True
    else:
        family, both = socket.AF_INET, False
    return socket.create_server(('', 0), family=family, backlog=ranks, dualstack_ipv6=both)


def _planned(code: object) -> bool:
    """Whether an exit status is one with which all ranks end."""
    return not code or (isinstance(code, int) and code > 128)


def _is_of_communication(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and any(
        word in str(error) for word in ('gloo', 'NCCL', 'Connection closed by peer')
    )


def _in_short(error: BaseException) -> str:
    """One line of an error; what a data worker raises has its traceback in the message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if 'Original Traceback (most recent call last):' in lines:
        return lines[-1]
    return f'{type(error).__name__}: {" ".join(lines)}'[:1000]


def _reason(error: OSError) -> str:
    if isinstance(error, ConnectionError):
        return 'died without a word: killed, out of memory or crashed'
    return f'has been silent for {PATIENCE} s: its machine or the network is down'
