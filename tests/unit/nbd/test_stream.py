"""The transmission loop on a scripted socket: short sends, time-outs, growth, the end."""

import socket
import threading
from collections.abc import Iterable
from typing import cast

import pytest

from slackwater.nbd import wire
from slackwater.nbd.memory import BASE_BYTES, COMFORTABLE_BYTES, Allowance, Space
from slackwater.nbd.stream import Ended, Settings, Stream
from slackwater.nbd.transmission import Transmission
from tests.support.memory_export import MemoryExport

SIZE = 8 << 20


class ScriptedSocket:
    """Gives bytes in the portions asked for, and takes at most `sends` bytes a call."""

    def __init__(self, received: bytes, portion: int, sends: int) -> None:
        self.received = received
        self.portion = portion
        self.sends = sends
        self.sent = bytearray()
        self.stalls = 0  # calls of send that time out first
        self.calls: list[str] = []

    def settimeout(self, _seconds: float | None) -> None:
        pass

    def setsockopt(self, *_arguments: object) -> None:
        pass

    def recv_into(self, view: memoryview) -> int:
        assert len(view) > 0, "receiving into nothing looks like a hang-up"
        part = self.received[: min(self.portion, len(view))]
        self.received = self.received[len(part) :]
        view[: len(part)] = part
        return len(part)

    def sendmsg(self, gather: Iterable[bytes | memoryview]) -> int:
        self.calls.append("sendmsg")
        return self._take(b"".join(gather))

    def send(self, data: bytes | memoryview) -> int:
        self.calls.append("send")
        return self._take(bytes(data))

    def _take(self, data: bytes) -> int:
        if self.stalls:
            self.stalls -= 1
            raise BlockingIOError
        self.sent += data[: self.sends]
        return min(len(data), self.sends)


class Bench:
    """A stream over a scripted socket."""

    def __init__(
        self, received: bytes, *, portion: int = 1 << 30, sends: int = 1 << 30, stalls: int = 0
    ) -> None:
        self.export = MemoryExport(SIZE)
        self.export.content[:] = bytes(range(251)) * (SIZE // 251) + bytes(SIZE % 251)
        self.export.allocated[:] = b"\1" * len(self.export.allocated)
        self.socket = ScriptedSocket(received, portion, sends)
        self.socket.stalls = stalls
        self.comfort = Allowance(2 * COMFORTABLE_BYTES)
        self.large = Allowance(33 << 20)
        self.receive = Space(self.comfort, self.large)
        self.reply = Space(self.comfort, self.large)
        self.stream = Stream(
            cast(socket.socket, self.socket),
            self.export,
            Transmission(self.export, structured=False, block_status=False),
            self.receive,
            self.reply,
            Settings(),
        )

    def serve(self, first: bytes = b"") -> bytes:
        with pytest.raises(Ended, match="hang-up"):
            self.stream.serve(first, threading.Event())
        return bytes(self.socket.sent)


def head(kind: int, offset: int, length: int) -> bytes:
    return wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, kind, 7, offset, length)


def write(offset: int, payload: bytes) -> bytes:
    return head(wire.CMD_WRITE, offset, len(payload)) + payload


OK = wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, 0, 7)


@pytest.mark.parametrize("sends", [1, 7, 16, 17, 1 << 30])
@pytest.mark.parametrize("stalls", [0, 2])
def test_small_answers_arrive_whole_however_little_a_send_takes(sends: int, stalls: int) -> None:
    bench = Bench(write(0, b"x") * 3 + head(wire.CMD_READ, 100, 50), sends=sends, stalls=stalls)
    expected = bytes(bench.export.content[100:150])
    assert bench.serve() == OK * 4 + expected


@pytest.mark.parametrize("sends", [99_991, 200_000, 300_016, 1 << 30])
def test_large_answers_are_gathered_and_arrive_whole(sends: int) -> None:
    reads = b"".join(head(wire.CMD_READ, n * 300_000, 300_000) for n in range(3))
    bench = Bench(reads, sends=sends, stalls=1)
    content = bench.export.content
    expected = b"".join(OK + content[n * 300_000 : (n + 1) * 300_000] for n in range(3))
    assert bench.serve() == expected
    assert set(bench.socket.calls) == {"sendmsg"}


def test_more_answers_than_one_gather_list_holds_arrive_whole() -> None:
    bench = Bench(head(wire.CMD_READ, 0, 1000) * 1000)
    expected = (OK + bench.export.content[:1000]) * 1000
    assert bench.serve() == expected


@pytest.mark.parametrize("portion", [1, 27, 28, 29, 1000, 4096])
def test_requests_arrive_whole_in_any_portions(portion: int) -> None:
    bench = Bench(write(5, b"abc") + write(4096, b"z" * 4096), portion=portion)
    assert bench.serve() == OK * 2
    assert bytes(bench.export.content[5:8]) == b"abc"
    assert bytes(bench.export.content[4096:8192]) == b"z" * 4096


def test_bytes_behind_the_handshake_are_the_first_of_transmission() -> None:
    data = write(0, b"first")
    bench = Bench(data[10:])
    assert bench.serve(data[:10]) == OK
    assert bytes(bench.export.content[:5]) == b"first"


@pytest.mark.parametrize("portion", [60_000, 200_000, 1 << 30])
@pytest.mark.parametrize("length", [BASE_BYTES, 1 << 20, 5 << 20])
def test_buffer_grows_to_what_a_request_needs_and_keeps_every_byte(
    length: int, portion: int
) -> None:
    payloads = [bytes([n]) * length for n in range(1, 6)]
    bench = Bench(b"".join(write(0, payload) for payload in payloads), portion=portion)
    seen: list[bytes] = []
    submit = bench.export.submit

    def spy(batch: object) -> None:
        seen.extend(bytes(r.payload) for r in batch.requests)  # type: ignore[attr-defined]
        submit(batch)  # type: ignore[arg-type]

    bench.export.submit = spy  # type: ignore[method-assign]
    assert bench.serve() == OK * 5
    assert seen == payloads
    assert bench.large.used == 0, "what was borrowed for one request is given back after it"


def test_large_read_borrows_for_its_time_only() -> None:
    bench = Bench(head(wire.CMD_READ, 0, 6 << 20))
    expected = OK + bytes(bench.export.content[: 6 << 20])
    assert bench.serve() == expected
    assert bench.large.used == 0


def test_idle_connection_goes_back_to_its_base_size() -> None:
    bench = Bench(write(0, bytes(1 << 20)))
    recv_into = bench.socket.recv_into
    idle = iter([True])

    def receive(view: memoryview) -> int:
        if not bench.socket.received and next(idle, False):
            assert bench.receive.capacity == COMFORTABLE_BYTES
            raise BlockingIOError
        return recv_into(view)

    bench.socket.recv_into = receive  # type: ignore[method-assign]
    assert bench.serve() == OK
    assert (bench.receive.capacity, bench.comfort.used) == (BASE_BYTES, 0)


def test_stop_ends_the_loop_before_the_next_request() -> None:
    bench = Bench(write(0, b"x"))
    stopping = threading.Event()
    stopping.set()
    bench.stream.serve(b"", stopping)
    assert bench.export.batches == []


def test_disconnect_ends_the_loop_after_what_came_before_it() -> None:
    bench = Bench(write(0, b"x") + head(wire.CMD_DISC, 0, 0) + write(0, b"y"))
    bench.stream.serve(b"", threading.Event())
    assert bytes(bench.socket.sent) == OK
    assert len(bench.export.batches) == 1


def test_closed_allowance_ends_a_connection_that_needs_memory() -> None:
    bench = Bench(write(0, bytes(5 << 20)), portion=100_000)
    bench.large.close()
    with pytest.raises(Ended, match="stopping"):
        bench.stream.serve(b"", threading.Event())
