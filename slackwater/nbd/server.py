"""The server: listeners, one thread per connection, counters, and an orderly end."""

import contextlib
import errno
import os
import socket
import ssl
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from slackwater.nbd import wire
from slackwater.nbd.connection import Access, Connection, Resources
from slackwater.nbd.export import Peer
from slackwater.nbd.handshake import TlsMode
from slackwater.nbd.stream import Settings

_BACKLOG: Final = 128
_KEEPALIVE_IDLE_SECONDS: Final = 60
_KEEPALIVE_INTERVAL_SECONDS: Final = 15
_KEEPALIVE_PROBES: Final = 4
_ACCEPT_PAUSE_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class Counters:
    """What a server did since it started; connections that are gone are included.

    Attributes:
        open_connections: clients at this moment.
        accepted: connections taken, ever.
        refused: connections hung up on because of a limit, by the limit's name.
        requests: by the command's name (``wire.COMMAND_NAMES``, and ``unknown``).
        bytes_read: bytes of READs answered well.
        bytes_written: bytes of WRITEs answered well.
    """

    open_connections: int
    accepted: int
    refused: dict[str, int]
    requests: dict[str, int]
    bytes_read: int
    bytes_written: int


@dataclass(slots=True)
class _Listener:
    sock: socket.socket
    tls: TlsMode
    unlink: Path | None
    thread: threading.Thread


class Server:
    """Serves exports on any number of listeners."""

    def __init__(
        self,
        access: Access,
        *,
        settings: Settings | None = None,
        tls_context: ssl.SSLContext | None = None,
        on_end: Callable[[Connection], None] = lambda _connection: None,
    ) -> None:
        """Makes a server that listens nowhere yet; `on_end` is told of every connection's end."""
        self._settings = settings or Settings()
        self._resources = Resources(access, self._settings, tls_context)
        self._on_end = on_end
        self._listeners: list[_Listener] = []
        self._lock = threading.Lock()  # guards everything below
        self._connections: dict[Connection, threading.Thread] = {}
        self._is_stopping = threading.Event()
        self._accepted = 0
        self._refused = {"total": 0, "host": 0}
        self._past_requests = [0] * (len(wire.COMMAND_NAMES) + 1)
        self._past_read = 0
        self._past_written = 0

    def listen_tcp(self, host: str, port: int, tls: TlsMode = TlsMode.OFF) -> tuple[str, int]:
        """Listens on TCP and returns the address as bound (port 0 picks one)."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        self._start(sock, tls, None)
        bound = sock.getsockname()
        return str(bound[0]), int(bound[1])

    def listen_unix(self, path: Path, tls: TlsMode = TlsMode.OFF) -> None:
        """Listens on a unix socket that only this user may open.

        A socket file that no one answers on is a leftover and replaced.
        """
        _remove_leftover(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.bind(str(path))
            path.chmod(stat.S_IRUSR | stat.S_IWUSR)
            sock.listen(_BACKLOG)
        except OSError:
            sock.close()
            raise
        self._start(sock, tls, path)

    def stop(self, grace_seconds: float = 10.0) -> None:
        """Ends the server: no new client, batches in hand finished and answered, then closed.

        Connections that are not done within the grace are cut.
        """
        self._is_stopping.set()
        for listener in self._listeners:
            _close_listener(listener)
        self._resources.receiving.close()
        self._resources.replying.close()
        with self._lock:
            remaining = dict(self._connections)
        for connection in remaining:
            connection.stop()
        deadline = time.monotonic() + grace_seconds
        for connection, thread in remaining.items():
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                connection.abandon()
        for listener in self._listeners:
            listener.thread.join(grace_seconds)

    def export_names(self) -> list[str]:
        """What the clients of this moment use, one name for each that has chosen."""
        with self._lock:
            return [one.export_name for one in self._connections if one.export_name is not None]

    def disconnect(self, condition: Callable[[str | None, Peer], bool]) -> int:
        """Ends the connections whose export name and peer satisfy a condition; returns how many.

        As at `stop`, batches in hand are finished and answered first.
        """
        with self._lock:
            chosen = [
                connection
                for connection in self._connections
                if condition(connection.export_name, connection.peer)
            ]
        for connection in chosen:
            connection.stop()
        return len(chosen)

    def counters(self) -> Counters:
        """What was done so far."""
        with self._lock:
            requests = list(self._past_requests)
            read, written = self._past_read, self._past_written
            for connection in self._connections:
                counts, more_read, more_written = connection.counts()
                requests = [
                    past + now
                    for past, now in zip(requests, counts or [0] * len(requests), strict=True)
                ]
                read += more_read
                written += more_written
            return Counters(
                len(self._connections),
                self._accepted,
                dict(self._refused),
                dict(zip((*wire.COMMAND_NAMES, "unknown"), requests, strict=True)),
                read,
                written,
            )

    def _start(self, sock: socket.socket, tls: TlsMode, unlink: Path | None) -> None:
        assert tls is TlsMode.OFF or self._resources.tls_context, "TLS needs a context"
        thread = threading.Thread(
            target=self._accept, args=(sock, tls), name="nbd-accept", daemon=True
        )
        self._listeners.append(_Listener(sock, tls, unlink, thread))
        thread.start()

    def _accept(self, listener: socket.socket, tls: TlsMode) -> None:
        while not self._is_stopping.is_set():
            try:
                sock, address = listener.accept()
            except ConnectionAbortedError:
                continue
            except OSError as error:
                if error.errno not in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
                    return  # the listener was closed
                self._is_stopping.wait(_ACCEPT_PAUSE_SECONDS)
                continue
            self._admit(sock, address, tls)

    def _admit(self, sock: socket.socket, address: object, tls: TlsMode) -> None:
        is_local = sock.family == socket.AF_UNIX
        if not is_local:
            _tune_tcp(sock)
        connection = Connection(sock, _peer(address, is_local=is_local), tls, self._resources)
        thread = threading.Thread(
            target=self._serve, args=(connection,), name="nbd-connection", daemon=True
        )
        with self._lock:
            is_welcome = not self._is_stopping.is_set()
            limit = self._limit_reached(connection.peer)
            if limit is not None:
                self._refused[limit] += 1
                is_welcome = False
            if is_welcome:
                self._accepted += 1
                self._connections[connection] = thread
        if is_welcome:
            thread.start()
        else:
            sock.close()

    def _limit_reached(self, peer: Peer) -> str | None:
        """The limit that one more client would break; with the lock held."""
        if len(self._connections) >= self._settings.connection_limit:
            return "total"
        if peer.is_local:
            return None  # whoever may open the socket is trusted with all of it
        same = sum(one.peer.host == peer.host for one in self._connections)
        return "host" if same >= self._settings.host_limit else None

    def _serve(self, connection: Connection) -> None:
        try:
            connection.run()
        finally:
            with self._lock:
                del self._connections[connection]
                counts, read, written = connection.counts()
                for command, count in enumerate(counts):
                    self._past_requests[command] += count
                self._past_read += read
                self._past_written += written
            self._on_end(connection)


def _peer(address: object, *, is_local: bool) -> Peer:
    if is_local or not isinstance(address, tuple):
        return Peer("unix", is_local=True)
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return Peer(f"{host}:{address[1]}")


def _tune_tcp(sock: socket.socket) -> None:
    """No delay for small answers; a client that vanished without a word is found in minutes."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)


def _remove_leftover(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), str(path))


def _close_listener(listener: _Listener) -> None:
    # `shutdown` wakes the accepting thread, which `close` alone would not.
    with contextlib.suppress(OSError):
        listener.sock.shutdown(socket.SHUT_RDWR)
    listener.sock.close()
    if listener.unlink is not None:
        listener.unlink.unlink(missing_ok=True)
