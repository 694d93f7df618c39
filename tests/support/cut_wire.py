"""A TCP proxy that can stop forwarding while all connections stay open: a network that is gone."""

import contextlib
import socket
import threading
from typing import Self


class CutWire:
    """Forwards to one address until it is cut."""

    def __init__(self, target: str) -> None:
        """Listen on a port of its own."""
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._passes = threading.Event()
        self._passes.set()
        self._ends: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        """For `with`."""
        return self

    def __exit__(self, *about: object) -> None:
        """Close everything."""
        self._passes.set()
        for end in (self._listener, *self._ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def cut(self) -> None:
        """Let nothing through any more."""
        self._passes.clear()

    def mend(self) -> None:
        """Let everything through again, what was kept back first."""
        self._passes.set()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                self._ends += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._forward, args=pair, daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(64 << 10):
                self._passes.wait()
                sink.sendall(data)
            self._passes.wait()
            sink.shutdown(socket.SHUT_WR)
