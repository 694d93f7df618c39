"""NBD over TCP and TLS against clients that want too much: many, slow, silent in the handshake."""

import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from slackwater.nbd import wire
from slackwater.nbd.client import Client
from slackwater.nbd.connection import Access, Connection
from slackwater.nbd.export import Listing
from slackwater.nbd.handshake import TlsMode
from slackwater.nbd.server import Server
from slackwater.nbd.stream import Settings
from slackwater.runtime.tls import CertificateStore
from tests.support.certificates import Authority
from tests.support.memory_export import MemoryExport
from tests.support.raw_sockets import exactly

pytestmark = pytest.mark.timeout(60)

NAME = "groups/g/volumes/v"


class Site:
    """A server on TCP, and on a unix socket beside it."""

    def __init__(self, directory: Path, mode: TlsMode = TlsMode.OFF, **bounds: float) -> None:
        export = MemoryExport(1 << 20, name=NAME)
        self.authority = Authority(directory)
        self.unix = directory / "nbd.sock"
        self.ended: list[str] = []
        self._end = threading.Semaphore(0)
        settings = Settings(connection_limit=4, host_limit=2, **bounds)  # type: ignore[arg-type]
        self.server = Server(
            Access(lambda: [Listing(NAME)], lambda _name, _peer: export),
            settings=settings,
            tls_context=CertificateStore(self.authority.issue("server")).server_context(),
            on_end=self._on_end,
        )
        self.address = self.server.listen_tcp("127.0.0.1", 0, mode)
        self.server.listen_unix(self.unix)

    def _on_end(self, connection: Connection) -> None:
        self.ended.append(connection.ended_by)
        self._end.release()

    def has_ended(self, seconds: float) -> bool:
        """Whether a connection ended by then."""
        return self._end.acquire(timeout=seconds)

    def reason(self) -> str:
        """Why the next connection ended."""
        assert self.has_ended(30), "no connection ended"
        return self.ended.pop(0)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.server.stop()


def test_one_host_leaves_room_for_others(site: Site) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(Client(site.address, NAME))
        stack.enter_context(Client(site.address, NAME))
        with pytest.raises(ConnectionError):
            Client(site.address, NAME)
        assert site.server.counters().refused == {"total": 0, "host": 1}
        # The socket's own permissions say who comes in there.
        for _ in range(2):
            stack.enter_context(Client(site.unix, NAME))
        first.close()
        assert site.reason() == ""
        stack.enter_context(Client(site.address, NAME))


def test_tls_handshake_byte_by_byte_has_no_longer_than_any_other(tmp_path: Path) -> None:
    site = Site(tmp_path, TlsMode.REQUIRED, handshake_seconds=0.3)
    with socket.create_connection(site.address, timeout=30) as sock:
        exactly(sock, 18)
        sock.sendall(struct.pack(">I8sII", 3, b"IHAVEOPT", wire.OPT_STARTTLS, 0))
        exactly(sock, 20)
        hello = ssl.MemoryBIO()
        client = ssl.create_default_context().wrap_bio(
            ssl.MemoryBIO(), hello, server_hostname="localhost"
        )
        with suppress(ssl.SSLWantReadError):
            client.do_handshake()
        stop = threading.Event()

        def drip() -> None:
            for byte in hello.read()[:-1]:
                with suppress(OSError):
                    sock.sendall(bytes([byte]))
                if stop.wait(0.02):
                    return

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            assert site.reason() == "the handshake took too long"
        finally:
            stop.set()
            dripping.join()
            site.server.stop()


def test_option_byte_by_byte_has_no_longer_than_any_other(tmp_path: Path) -> None:
    site = Site(tmp_path, handshake_seconds=0.3)
    with socket.create_connection(site.address, timeout=30) as sock:
        exactly(sock, 18)
        sock.sendall(struct.pack(">I8sII", 3, b"IHAVEOPT", wire.OPT_GO, 16 << 10))
        while not site.has_ended(0.01):
            with suppress(OSError):
                sock.sendall(b"x")
    assert site.ended == ["the handshake took too long"]
    site.server.stop()
