"""The NBD server over real sockets, driven by our own client and by raw bytes."""

import contextlib
import errno
import os
import socket
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from slackwater import errors
from slackwater.nbd import wire
from slackwater.nbd.client import Client, list_exports
from slackwater.nbd.connection import Access, Connection
from slackwater.nbd.export import Export, Listing, Peer
from slackwater.nbd.handshake import MAX_OPTION_BYTES
from slackwater.nbd.server import Server
from slackwater.nbd.stream import Settings
from tests.support.memory_export import MemoryExport
from tests.support.raw_sockets import exactly

pytestmark = pytest.mark.timeout(60)

SIZE = 64 << 20
NAME = "groups/g/volumes/v"


class Site:
    """A server with one export on a unix socket, and a record of connections that ended."""

    def __init__(self, directory: Path, settings: Settings | None = None) -> None:
        self.export = MemoryExport(SIZE, name=NAME)
        self.path = directory / "nbd.sock"
        self.ended: list[str] = []
        self.end = threading.Semaphore(0)
        self.while_opening: Callable[[], object] = lambda: None
        access = Access(lambda: [Listing(NAME, "in memory")], self._open)
        self.server = Server(access, settings=settings, on_end=self._on_end)
        self.server.listen_unix(self.path)

    def _open(self, name: str, peer: Peer) -> Export:
        assert peer.is_local
        if name != NAME:
            raise errors.NotFound("export", name)
        self.while_opening()
        return self.export

    def _on_end(self, connection: Connection) -> None:
        self.ended.append(connection.ended_by)
        self.end.release()

    def reason(self) -> str:
        """Why the next connection ended."""
        assert self.end.acquire(timeout=30), "no connection ended"
        return self.ended.pop(0)

    def client(self) -> Client:
        return Client(self.path, NAME)

    def raw(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(30)
        sock.connect(str(self.path))
        return sock

    def raw_in_transmission(self) -> socket.socket:
        sock = self.raw()
        name = NAME.encode()
        sock.sendall(struct.pack(">I8sII", 3, b"IHAVEOPT", wire.OPT_EXPORT_NAME, len(name)) + name)
        exactly(sock, 18 + 10)
        return sock


def head(kind: int, offset: int = 0, length: int = 0, flags: int = 0, cookie: int = 1) -> bytes:
    return wire.REQUEST.pack(wire.REQUEST_MAGIC, flags, kind, cookie, offset, length)


def option_reply(sock: socket.socket) -> tuple[int, int]:
    """The next option reply: which option, which kind."""
    magic, option, kind, length = struct.unpack(">QIII", exactly(sock, 20))
    assert magic == 0x3E889045565A9
    exactly(sock, length)
    return option, kind


def rss_anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no RssAnon")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.export.gate.set()
    site.server.stop()


@pytest.fixture
def hasty(tmp_path: Path) -> Iterator[Site]:
    """A site that loses patience quickly."""
    settings = Settings(
        connection_limit=4,
        handshake_seconds=0.3,
        stall_seconds=0.3,
        least_bytes_per_second=1 << 30,
    )
    site = Site(tmp_path, settings)
    yield site
    site.export.gate.set()
    site.server.stop()


class TestRequests:
    def test_client_reads_what_it_wrote(self, site: Site) -> None:
        with site.client() as client:
            assert client.size == SIZE
            assert not client.is_read_only
            client.write(1000, b"hello", fua=True)
            assert client.read(998, 9) == b"\0\0hello\0\0"
            client.flush()
            client.cache(0, 4096)
            client.trim(0, 4096)
            assert client.read(1000, 5) == bytes(5)
        requests = [request for batch in site.export.batches for request in batch]
        assert (wire.CMD_WRITE, wire.CMD_FLAG_FUA, 1000, 5) in requests

    def test_largest_request_passes_both_ways(self, site: Site) -> None:
        data = os.urandom(1 << 20) * 32
        with site.client() as client:
            client.write(4096, data)
            assert client.read(4096, len(data)) == data

    def test_request_over_the_bound_is_refused_and_the_connection_lives_on(
        self, site: Site
    ) -> None:
        with site.client() as client:
            with pytest.raises(OSError) as caught:
                client.write(0, bytes(wire.MAX_PAYLOAD + 1))
            assert caught.value.errno == errno.EINVAL
            with pytest.raises(OSError) as caught:
                client.read(0, wire.MAX_PAYLOAD + 1)
            assert caught.value.errno == errno.EINVAL
            client.write(0, b"still here")
            assert client.read(0, 10) == b"still here"

    def test_range_past_the_end_is_refused(self, site: Site) -> None:
        with site.client() as client:
            with pytest.raises(OSError) as caught:
                client.write(SIZE - 1, b"xx")
            assert caught.value.errno == errno.ENOSPC
            with pytest.raises(OSError) as caught:
                client.read(SIZE, 1)
            assert caught.value.errno == errno.EINVAL

    def test_read_only_export_refuses_writes(self, site: Site) -> None:
        site.export.read_only = True
        with site.client() as client:
            assert client.is_read_only
            with pytest.raises(OSError) as caught:
                client.write(0, b"x")
            assert caught.value.errno == errno.EPERM

    @pytest.mark.parametrize(
        ("failure", "number"),
        [
            (errors.NoSpace("the log"), errno.ENOSPC),
            (errors.GroupFailed("g", "sync"), errno.EIO),
            (OSError(errno.EIO, "broken"), errno.EIO),
        ],
    )
    def test_failure_of_the_export_is_answered_and_the_connection_lives_on(
        self, site: Site, failure: Exception, number: int
    ) -> None:
        with site.client() as client:
            site.export.fails = failure
            for attempt in (
                lambda: client.write(0, b"x"),
                lambda: client.read(0, 1),
                client.flush,
                lambda: client.block_status(0, 512),
            ):
                with pytest.raises(OSError) as caught:
                    attempt()
                assert caught.value.errno == number
            site.export.fails = None
            client.write(0, b"x")

    def test_one_failed_request_does_not_fail_its_batch(self, site: Site) -> None:
        site.export.fails_request[wire.CMD_TRIM] = errno.EIO
        with site.client() as client:
            client.write(0, b"fine")
            with pytest.raises(OSError):
                client.trim(0, 4096)
            assert client.read(0, 4) == b"fine"

    def test_fast_zero_is_refused_where_it_is_not_fast(self, site: Site) -> None:
        with site.client() as client:
            client.zero(0, 4096, flags=wire.CMD_FLAG_FAST_ZERO)
            with pytest.raises(OSError) as caught:
                client.zero(0, 100, flags=wire.CMD_FLAG_FAST_ZERO)
            assert caught.value.errno == errno.ENOTSUP

    def test_block_status_tells_data_from_holes(self, site: Site) -> None:
        with site.client() as client:
            client.write(8192, bytes(4096))
            assert client.has_block_status
            found = [(e.offset, e.length, e.data) for e in client.block_status(0, 65536)]
            assert found == [
                (0, 8192, False),
                (8192, 4096, True),
                (12288, 65536 - 12288, False),
            ]
            assert len(client.block_status(0, 65536, one=True)) == 1
            assert sum(extent.length for extent in client.extents()) == SIZE

    def test_pipeline_reports_each_answer_with_its_tag(self, site: Site) -> None:
        answered: list[tuple[int, int]] = []
        deepest = 0
        with site.client() as client:
            with client.pipeline(8, lambda tag, error: answered.append((tag, error))) as pipeline:
                for tag in range(100):
                    pipeline.write(tag, tag * 4096, bytes([tag]) * 4096)
                    deepest = max(deepest, pipeline.in_flight)
                pipeline.write(100, SIZE, b"past the end")
                pipeline.zero(101, 0, 4096)
                pipeline.flush(102)
            assert deepest == 8
            assert sorted(answered) == [
                (tag, errno.ENOSPC if tag == 100 else 0) for tag in range(103)
            ]
            assert client.read(99 * 4096, 4096) == bytes([99]) * 4096

    def test_requests_that_wait_in_the_socket_become_one_batch(self, site: Site) -> None:
        site.export.gate.clear()
        with site.raw_in_transmission() as sock:
            sock.sendall(head(wire.CMD_FLUSH))
            assert site.export.entered.acquire(timeout=30)
            sock.sendall(b"".join(head(wire.CMD_WRITE, n, 1) + b"x" for n in range(32)))
            site.export.gate.set()
            exactly(sock, 33 * 16)
        assert [len(batch) for batch in site.export.batches] == [1, 32]

    def test_counters_add_up_over_connections_that_are_gone(self, site: Site) -> None:
        for _ in range(2):
            with site.client() as client:
                client.write(0, bytes(512))
                client.read(0, 100)
            assert site.reason() == ""
        with site.client() as client:
            client.write(0, bytes(512))
            counters = site.server.counters()
        assert (counters.open_connections, counters.accepted) == (1, 3)
        assert (counters.bytes_written, counters.bytes_read) == (1536, 200)
        assert (counters.requests["write"], counters.requests["disconnect"]) == (3, 2)


class TestHandshake:
    def test_list_shows_what_is_exported(self, site: Site) -> None:
        assert list_exports(site.path) == [Listing(NAME, "in memory")]

    def test_unknown_export_is_named(self, site: Site) -> None:
        with pytest.raises(errors.NotFound, match="nobody"):
            Client(site.path, "nobody")

    def test_peer_without_permission_neither_sees_nor_opens_an_export(self, tmp_path: Path) -> None:
        export = MemoryExport(4096, name="secret")
        access = Access(
            lambda: [Listing("secret"), Listing("public")],
            lambda _name, _peer: export,
            lambda name, peer: name == "public" and peer.is_local,
        )
        server = Server(access)
        server.listen_unix(tmp_path / "s")
        try:
            assert list_exports(tmp_path / "s") == [Listing("public")]
            with pytest.raises(errors.PermissionDenied):
                Client(tmp_path / "s", "secret")
        finally:
            server.stop()

    def test_tcp_client_is_served_and_known_by_its_address(self) -> None:
        peers: list[Peer] = []
        export = MemoryExport(4096)

        def open_export(_name: str, peer: Peer) -> Export:
            peers.append(peer)
            return export

        server = Server(Access(list, open_export))
        host, port = server.listen_tcp("127.0.0.1", 0)
        try:
            with Client((host, port), "any") as client:
                client.write(0, b"over TCP")
                assert client.read(0, 8) == b"over TCP"
        finally:
            server.stop()
        assert peers[-1].address.startswith("127.0.0.1:")
        assert not peers[-1].is_local


class TestHostileClients:
    def test_garbage_in_place_of_a_handshake_is_hung_up_on(self, site: Site) -> None:
        with site.raw() as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n" * 10)
            assert "client flags" in site.reason()

    def test_garbage_in_transmission_is_hung_up_on(self, site: Site) -> None:
        with site.raw_in_transmission() as sock:
            sock.sendall(b"\xff" * 100)
            assert "request magic" in site.reason()

    def test_oversized_option_is_refused_and_the_next_one_is_served(self, site: Site) -> None:
        with site.raw() as sock:
            length = MAX_OPTION_BYTES + 1
            sock.sendall(struct.pack(">I8sII", 3, b"IHAVEOPT", wire.OPT_GO, length) + bytes(length))
            exactly(sock, 18)
            assert option_reply(sock) == (wire.OPT_GO, wire.REP_ERR_TOO_BIG)
            sock.sendall(struct.pack(">8sII", b"IHAVEOPT", wire.OPT_LIST, 0))
            assert option_reply(sock) == (wire.OPT_LIST, wire.REP_SERVER)

    def test_option_that_claims_gigabytes_is_hung_up_on(self, site: Site) -> None:
        with site.raw() as sock:
            sock.sendall(struct.pack(">I8sII", 3, b"IHAVEOPT", wire.OPT_GO, 0xFFFFFFFF))
            assert str(0xFFFFFFFF) in site.reason()

    def test_silent_client_is_hung_up_on(self, hasty: Site) -> None:
        with hasty.raw():
            assert hasty.reason() == "the handshake took too long"

    def test_client_that_dribbles_its_handshake_is_hung_up_on(self, hasty: Site) -> None:
        with hasty.raw() as sock, pytest.raises(OSError):
            while not hasty.end.acquire(timeout=0.02):
                sock.send(b"\0")
            raise OSError(hasty.ended[0])
        assert hasty.ended == ["the handshake took too long"]

    def test_half_a_request_is_hung_up_on_and_leaves_nothing(self, hasty: Site) -> None:
        with hasty.raw_in_transmission() as sock:
            sock.sendall(head(wire.CMD_WRITE, 0, 4096) + bytes(1000))
            assert hasty.reason() == "a request arrived too slowly"
        assert hasty.export.batches == []

    def test_dribbled_request_is_hung_up_on(self, hasty: Site) -> None:
        with hasty.raw_in_transmission() as sock, pytest.raises(OSError):
            sock.sendall(head(wire.CMD_WRITE, 0, 4096))
            while not hasty.end.acquire(timeout=0.02):
                sock.send(b"\0")
            raise OSError(hasty.ended[0])
        assert hasty.ended == ["a request arrived too slowly"]

    def test_idle_connection_outlives_every_limit(self, hasty: Site) -> None:
        with hasty.client() as idle:
            # Another one runs into the limit meanwhile: proof that the time has passed.
            with hasty.raw_in_transmission() as sock:
                sock.sendall(head(wire.CMD_WRITE, 0, 4096))
                assert hasty.reason() == "a request arrived too slowly"
            idle.write(0, b"x")
            assert idle.read(0, 1) == b"x"

    def test_client_that_takes_no_answers_is_hung_up_on(self, hasty: Site) -> None:
        hasty.export.content[0] = 1
        hasty.export.allocated[0] = 1
        with hasty.raw_in_transmission() as sock:
            sock.sendall(head(wire.CMD_READ, 0, 4 << 20) * 4)
            assert hasty.reason() == "the client does not take its answers"

    def test_hang_up_in_mid_request_leaves_nothing(self, site: Site) -> None:
        with site.raw_in_transmission() as sock:
            sock.sendall(head(wire.CMD_WRITE, 0, 5) + b"whole" + head(wire.CMD_WRITE, 8, 4) + b"ha")
            exactly(sock, 16)
        assert site.reason() == "hang-up in a request"
        assert site.export.batches == [[(wire.CMD_WRITE, 0, 0, 5)]]
        assert bytes(site.export.content[:12]) == b"whole" + bytes(7)

    def test_hang_up_while_its_batch_is_done_harms_no_one(self, site: Site) -> None:
        site.export.gate.clear()
        with site.raw_in_transmission() as sock:
            sock.sendall(head(wire.CMD_WRITE, 0, 4) + b"done")
            assert site.export.entered.acquire(timeout=30)
        site.export.gate.set()
        site.reason()
        with site.client() as client:
            assert client.read(0, 4) == b"done"

    def test_one_client_too_many_is_hung_up_on_until_another_leaves(self, hasty: Site) -> None:
        with ExitStack() as stack:
            clients = [stack.enter_context(hasty.client()) for _ in range(4)]
            with pytest.raises(ConnectionError):
                hasty.client()
            assert hasty.server.counters().refused == {"total": 1, "host": 0}
            clients[0].close()
            assert hasty.reason() == ""
            with hasty.client() as late:
                late.flush()

    def test_many_connections_work_side_by_side_in_little_memory(self, tmp_path: Path) -> None:
        count, length = 64, 8 << 20
        site = Site(tmp_path)
        site.export.gate.clear()
        try:
            before = rss_anonymous_bytes()
            with ExitStack() as stack:
                socks = [stack.enter_context(site.raw_in_transmission()) for _ in range(count)]
                # 512 MiB, if each of them were received at once.
                payload = bytes(length)

                def send(sock: socket.socket) -> None:
                    sock.sendall(head(wire.CMD_WRITE, 0, length))
                    sock.sendall(payload)

                threads = [threading.Thread(target=send, args=(sock,)) for sock in socks]
                for thread in threads:
                    thread.start()
                for _ in range(4):  # as many as the allowance for large requests holds
                    assert site.export.entered.acquire(timeout=30)
                bound = Settings()
                most = bound.comfort_bytes + bound.large_bytes + count * (256 << 10)
                assert rss_anonymous_bytes() - before < most + length + (16 << 20)
                site.export.gate.set()
                for sock in socks:
                    assert exactly(sock, 16)[4:8] == bytes(4)
                for thread in threads:
                    thread.join(30)
            for _ in range(count):
                site.reason()
            assert site.server.counters().bytes_written == count * length
        finally:
            site.export.gate.set()
            site.server.stop()


class TestStopping:
    def test_stop_finishes_and_answers_the_batch_in_hand(self, site: Site) -> None:
        site.export.gate.clear()
        with site.raw_in_transmission() as sock:
            sock.sendall(head(wire.CMD_WRITE, 0, 4) + b"last")
            assert site.export.entered.acquire(timeout=30)
            sock.sendall(head(wire.CMD_WRITE, 0, 4) + b"late")
            stopping = threading.Thread(target=site.server.stop)
            stopping.start()
            with pytest.raises(BrokenPipeError):  # comes when the server takes no more of us
                while stopping.is_alive():
                    sock.send(b"")
                    site.end.acquire(timeout=0.005)
            site.export.gate.set()
            assert exactly(sock, 16)[:8] == bytes.fromhex("6744669800000000")
            stopping.join(30)
            assert not stopping.is_alive()
            with contextlib.suppress(ConnectionResetError):  # what was not read is thrown away
                assert sock.recv(1) == b""
        assert bytes(site.export.content[:4]) == b"last"

    def test_stop_ends_idle_and_negotiating_clients_and_removes_the_socket(
        self, site: Site
    ) -> None:
        with site.raw_in_transmission() as idle, site.raw() as negotiating:
            exactly(negotiating, 18)
            site.server.stop()
            assert idle.recv(1) == b""
            assert negotiating.recv(1) == b""
        assert not site.path.exists()

    def test_stop_cuts_a_client_that_does_not_take_its_answer(self, site: Site) -> None:
        site.export.allocated[0] = 1
        with site.raw_in_transmission() as sock:
            sock.sendall(head(wire.CMD_READ, 0, 8 << 20))
            assert site.export.entered.acquire(timeout=30)
            site.server.stop(grace_seconds=0.2)
            site.reason()

    def test_disconnect_ends_the_connections_of_one_export_only(self, site: Site) -> None:
        with site.client() as client:
            assert site.server.disconnect(lambda name, _peer: name == "another") == 0
            client.flush()
            assert site.server.disconnect(lambda name, _peer: name == NAME) == 1
            site.reason()
            with pytest.raises(OSError):
                client.flush()


class TestListening:
    def test_unix_socket_is_for_its_owner_only(self, site: Site) -> None:
        assert stat.S_IMODE(site.path.stat().st_mode) == 0o600

    def test_leftover_socket_is_replaced(self, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
            dead.bind(str(tmp_path / "nbd.sock"))
        site = Site(tmp_path)
        with site.client() as client:
            client.flush()
        site.server.stop()

    def test_socket_in_use_is_not_taken_over(self, site: Site) -> None:
        other = Server(Access(list, lambda _name, _peer: site.export))
        with pytest.raises(OSError) as caught:
            other.listen_unix(site.path)
        assert caught.value.errno == errno.EADDRINUSE
        with site.client() as client:
            client.flush()

    def test_file_that_is_no_socket_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "nbd.sock").write_text("precious")
        with pytest.raises(FileExistsError):
            Site(tmp_path)
        assert (tmp_path / "nbd.sock").read_text() == "precious"


class TestDisconnect:
    def test_client_that_is_being_let_in_is_found(self, site: Site) -> None:
        # An export that is withdrawn between its opening and the client's first request.
        ended: list[int] = []
        site.while_opening = lambda: ended.append(
            site.server.disconnect(lambda name, _peer: name == NAME)
        )
        with contextlib.suppress(OSError, wire.ProtocolError), site.client() as client:
            with pytest.raises(OSError):
                client.read(0, 4096)
        site.reason()
        assert ended
        assert all(count == 1 for count in ended)
        assert not site.server.counters().open_connections

    def test_client_that_only_asked_uses_nothing(self, site: Site) -> None:
        with site.raw() as sock:
            exactly(sock, 18)
            sock.sendall(struct.pack(">I", 1))
            name = NAME.encode()
            body = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
            sock.sendall(struct.pack(">8sII", b"IHAVEOPT", wire.OPT_INFO, len(body)) + body)
            while option_reply(sock) != (wire.OPT_INFO, wire.REP_ACK):
                pass
            sock.sendall(struct.pack(">8sII", b"IHAVEOPT", wire.OPT_LIST, 0))
            while option_reply(sock) != (wire.OPT_LIST, wire.REP_ACK):
                pass
            assert site.server.export_names() == []
