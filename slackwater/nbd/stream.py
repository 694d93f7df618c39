"""The transmission phase on one socket: receive what is there, hand it over, answer it at once."""

import contextlib
import socket
import ssl
import struct
import threading
import time
from dataclasses import dataclass
from typing import Final

from slackwater.errors import SlackwaterError
from slackwater.nbd.export import Batch, Buffer, Export, Request
from slackwater.nbd.memory import Space
from slackwater.nbd.status import errno_of
from slackwater.nbd.transmission import Intake, Transmission, total_length

_JOIN_BYTES: Final = 256 << 10  # up to here one copy is cheaper than a long gather list
_MOST_PIECES: Final = 1024  # IOV_MAX
_LEAST_RECEIVE_BYTES: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class Settings:
    """Bounds of a server; every one holds against a client that means harm.

    Attributes:
        connection_limit: clients at the same time; one more is hung up on.
        host_limit: clients of one host at the same time, over TCP; one more is hung up on.
        handshake_seconds: a negotiation that takes longer is ended.
        stall_seconds: how long a half-received request, or an answer that the client does not
            take, may stand still. A connection between requests may stay for ever.
        least_bytes_per_second: the rate at which a request must arrive and answers be taken,
            after `stall_seconds` of patience.
        comfort_bytes: memory for the larger buffers of busy connections, all together.
        large_bytes: memory for requests larger than those buffers, in each direction.
    """

    connection_limit: int = 64
    host_limit: int = 48
    handshake_seconds: float = 10.0
    stall_seconds: float = 60.0
    least_bytes_per_second: int = 256 << 10
    comfort_bytes: int = 32 << 20
    large_bytes: int = 33 << 20


class Ended(Exception):
    """The connection is over: hang-up, stall or stop; not an error of this server."""


class Stream:
    """Serves one export on one socket."""

    def __init__(
        self,
        sock: socket.socket,
        export: Export,
        transmission: Transmission,
        receive: Space,
        reply: Space,
        settings: Settings,
    ) -> None:
        """Puts the socket's time limits in place."""
        self._socket = sock
        self._export = export
        self._transmission = transmission
        self._receive_space = receive
        self._reply_space = reply
        self._settings = settings
        self._start = 0  # the receive space holds unparsed bytes in [start, end)
        self._end = 0
        self._stalled_since: float | None = None
        self._tick_seconds = settings.stall_seconds / 4
        # TLS cannot gather, and sees a kernel time limit as a reason to try again.
        self._gathers = not isinstance(sock, ssl.SSLSocket)
        if self._gathers:
            # Limits kept by the kernel cost nothing; Python's own would poll before each call.
            sock.settimeout(None)
            limit = struct.pack(
                "@ll", int(self._tick_seconds), int(self._tick_seconds % 1 * 1_000_000)
            )
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        else:
            sock.settimeout(self._tick_seconds)

    def serve(self, first: bytes, is_stopping: threading.Event) -> None:
        """Serves until the client says goodbye or the server stops.

        `first` are bytes that came right behind the handshake. Between two batches nothing of a
        request is kept but its bytes: a client that hangs up in mid-request leaves nothing.

        Raises:
            Ended: the client hung up or stalled.
            ProtocolError: the client sent what is no request.
        """
        self._receive_space.view[: len(first)] = first
        self._end = len(first)
        transmission = self._transmission
        while not is_stopping.is_set():
            intake = transmission.parse(self._receive_space.view, self._start, self._end)
            self._start = intake.position
            if not intake.is_empty:
                self._answer(intake)
                del intake  # its views into the receive space end here
                if self._receive_space.is_borrowed:
                    # Borrowed memory is as large as its one request: nothing else is in it.
                    assert self._start == self._end, "borrowed memory holds more than a request"
                    self._receive_space.relax()
                    self._start = self._end = 0
            elif transmission.is_closing:
                return
            else:
                self._receive()

    def _receive(self) -> None:
        space, transmission = self._receive_space, self._transmission
        held = self._end - self._start
        if not held:
            self._start = self._end = 0
        elif transmission.wanted > space.capacity:
            if not space.reserve(transmission.wanted, slice(self._start, self._end)):
                raise Ended("the server is stopping")
            self._start, self._end = 0, held
        elif space.capacity - self._start < max(transmission.wanted, _LEAST_RECEIVE_BYTES):
            space.view[:held] = space.view[self._start : self._end]
            self._start, self._end = 0, held
        try:
            count = self._socket.recv_into(space.view[self._end :])
        except (BlockingIOError, TimeoutError):
            self._idle()
            return
        if not count:
            raise Ended("hang-up" if not transmission.is_mid_request else "hang-up in a request")
        self._end += count
        if transmission.is_mid_request:
            self._check_progress()
        if self._end == space.capacity and space.stretch(slice(self._start, self._end)):
            self._start, self._end = 0, self._end - self._start

    def _idle(self) -> None:
        if self._transmission.is_mid_request:
            self._check_progress()
        else:
            self._receive_space.relax()
            self._reply_space.relax()

    def _check_progress(self) -> None:
        now = time.monotonic()
        if self._stalled_since is None:
            self._stalled_since = now
        limit = (
            self._settings.stall_seconds
            + self._transmission.wanted / self._settings.least_bytes_per_second
        )
        if now - self._stalled_since > limit:
            raise Ended("a request arrived too slowly")

    # Answers.

    def _answer(self, intake: Intake) -> None:
        batch = intake.batch
        transmission = self._transmission
        self._stalled_since = None
        pieces: list[Buffer] = []
        if batch.requests:
            if batch.read_bytes:
                if not self._reply_space.reserve(batch.read_bytes, slice(0, 0)):
                    raise Ended("the server is stopping")
                batch.lend(self._reply_space.view)
            self._submit(batch)
            pieces = transmission.replies(batch.requests)
        if intake.refused:
            pieces += transmission.replies(intake.refused)
        for query in intake.queries:
            pieces += self._block_status(query)
        self._send(pieces)
        if self._reply_space.is_borrowed:
            self._reply_space.relax()

    def _submit(self, batch: Batch) -> None:
        try:
            self._export.submit(batch)
        except (SlackwaterError, OSError) as error:
            number = errno_of(error)
            for request in batch.requests:
                request.error = number

    def _block_status(self, query: Request) -> list[Buffer]:
        try:
            extents = self._export.extents(query.offset, query.length)
            return self._transmission.block_status(query, extents)
        except (SlackwaterError, OSError) as error:
            query.error = errno_of(error)
            return self._transmission.replies([query])

    def _send(self, pieces: list[Buffer]) -> None:
        total = total_length(pieces)
        if total <= _JOIN_BYTES or not self._gathers:
            self._send_whole(b"".join(pieces) if len(pieces) > 1 else pieces[0])
            return
        first, skipped = 0, 0  # the piece to go on with, and how much of it is sent
        deadline = self._deadline(total)
        while first < len(pieces):
            gather = pieces[first : first + _MOST_PIECES]
            if skipped:
                gather[0] = memoryview(gather[0])[skipped:]
            sent = self._send_once(gather, deadline) + skipped
            skipped = 0
            while first < len(pieces) and sent >= len(pieces[first]):
                sent -= len(pieces[first])
                first += 1
            skipped = sent

    def _send_whole(self, data: Buffer) -> None:
        """The common case: all of it goes at once."""
        try:
            sent = self._socket.send(data)
        except (BlockingIOError, TimeoutError):
            sent = 0
        if sent < len(data):
            deadline = self._deadline(len(data))
            rest = memoryview(data)[sent:]
            while rest:
                rest = rest[self._send_once([rest], deadline) :]

    def _deadline(self, length: int) -> float:
        return (
            time.monotonic()
            + self._settings.stall_seconds
            + length / self._settings.least_bytes_per_second
        )

    def _send_once(self, gather: list[Buffer], deadline: float) -> int:
        """Sends some bytes, of answers that have until the deadline in all."""
        while True:
            if time.monotonic() > deadline:
                raise Ended("the client does not take its answers")
            with contextlib.suppress(BlockingIOError, TimeoutError):
                if self._gathers:
                    return self._socket.sendmsg(gather)
                return self._socket.send(gather[0])
