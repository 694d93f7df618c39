"""A small blocking client: for the demo's and the tests' writers, and for the command line.

One thread uses a client at a time. Errors of single requests are `OSError` with the errno the
server gave; refusals in the handshake are `SlackwaterError`.
"""

import contextlib
import os
import ssl
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from slackwater.extent import Extent
from slackwater.nbd import wire
from slackwater.nbd.dialing import TIMEOUT_SECONDS, Address, Negotiation
from slackwater.nbd.export import EMPTY, Buffer, Listing


class Client:
    """A connection to one export, in transmission.

    Attributes:
        size: bytes of the export.
        flags: transmission flags (``wire.FLAG_*``).
        description: the server's words for the export, may be empty.
        maximum_payload: bytes one request may carry.
        has_block_status: `block_status` works.
    """

    def __init__(
        self,
        address: Address,
        export: str,
        *,
        tls_context: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        """Connects and chooses an export."""
        self.size = 0
        self.flags = 0
        self.description = ""
        self.maximum_payload = wire.MAX_PAYLOAD
        negotiation = Negotiation(address, tls_context, server_hostname, timeout_seconds)
        self._channel = negotiation.channel
        try:
            self._is_structured = negotiation.structured_replies()
            self.has_block_status = self._is_structured and negotiation.base_allocation(export)
            for body in negotiation.go(export):
                self._learn(body)
        except BaseException:
            self._channel.close()
            raise
        self._cookie = 0

    def __enter__(self) -> Self:
        """The client itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Says goodbye."""
        self.close()

    @property
    def is_read_only(self) -> bool:
        """The server takes no writes on this export."""
        return bool(self.flags & wire.FLAG_READ_ONLY)

    def close(self) -> None:
        """Says goodbye and closes; harmless on a broken connection."""
        with contextlib.suppress(OSError):
            self._send(wire.CMD_DISC, 0, 0, 0)
        self._channel.close()

    def read(self, offset: int, length: int) -> bytes:
        """Reads bytes."""
        self._send(wire.CMD_READ, 0, offset, length)
        return self._read_reply(offset, length)

    def write(self, offset: int, data: Buffer, *, fua: bool = False) -> None:
        """Writes bytes; with `fua` they are durable at return whatever the export's cache."""
        self._simple(wire.CMD_WRITE, _fua(fua), offset, len(data), data)

    def flush(self) -> None:
        """Makes everything answered so far durable."""
        self._simple(wire.CMD_FLUSH, 0, 0, 0)

    def trim(self, offset: int, length: int, *, fua: bool = False) -> None:
        """Gives up a range; on a Slackwater export it reads as zeroes afterwards (D12)."""
        self._simple(wire.CMD_TRIM, _fua(fua), offset, length)

    def zero(self, offset: int, length: int, *, fua: bool = False, flags: int = 0) -> None:
        """Writes zeroes without sending them; `flags` may hold NO_HOLE and FAST_ZERO."""
        self._simple(wire.CMD_WRITE_ZEROES, _fua(fua) | flags, offset, length)

    def cache(self, offset: int, length: int) -> None:
        """Asks the server to read ahead."""
        self._simple(wire.CMD_CACHE, 0, offset, length)

    def block_status(self, offset: int, length: int, *, one: bool = False) -> list[Extent]:
        """What the server says of a range, from its start; it may describe less than asked."""
        self._send(wire.CMD_BLOCK_STATUS, wire.CMD_FLAG_REQ_ONE if one else 0, offset, length)
        extents: list[Extent] = []
        for kind, _cookie, body in self._chunks():
            if kind != wire.REPLY_TYPE_BLOCK_STATUS:
                continue
            for size, state in wire.BLOCK_DESCRIPTOR.iter_unpack(body[wire.LENGTH32.size :]):
                extents.append(Extent(offset, size, not state & wire.STATE_ZERO))
                offset += size
        return extents

    def extents(self) -> Iterator[Extent]:
        """The whole export's extents; neighbours of one kind may come apart."""
        offset = 0
        while offset < self.size:
            for extent in self.block_status(offset, min(self.size - offset, 1 << 30)):
                yield extent
                offset = extent.next_offset

    def pipeline(self, depth: int, on_done: Callable[[int, int], None]) -> "Pipeline":
        """Writes with up to `depth` requests in flight; see `Pipeline`."""
        return Pipeline(self, depth, on_done)

    # Internals, shared with Pipeline.

    def _send(self, kind: int, flags: int, offset: int, length: int, data: Buffer = EMPTY) -> int:
        self._cookie += 1
        head = wire.REQUEST.pack(wire.REQUEST_MAGIC, flags, kind, self._cookie, offset, length)
        self._channel.send(head, data)
        return self._cookie

    def _simple(
        self, kind: int, flags: int, offset: int, length: int, data: Buffer = EMPTY
    ) -> None:
        cookie = self._send(kind, flags, offset, length, data)
        answered, error = self._simple_reply()
        if answered != cookie:
            raise wire.ProtocolError(f"an answer to request {answered} in place of {cookie}")
        if error:
            raise OSError(error, os.strerror(error))

    def _simple_reply(self) -> tuple[int, int]:
        head = self._channel.receive(wire.SIMPLE_REPLY.size)
        magic, error, cookie = wire.SIMPLE_REPLY.unpack(head)
        if magic != wire.SIMPLE_REPLY_MAGIC:
            raise wire.ProtocolError(f"reply magic is {magic:#010x}")
        return cookie, error

    def _read_reply(self, offset: int, length: int) -> bytes:
        if not self._is_structured:
            _cookie, error = self._simple_reply()
            if error:
                raise OSError(error, os.strerror(error))
            return self._channel.receive(length)
        result = bytearray(length)
        for kind, _cookie, body in self._chunks():
            if kind == wire.REPLY_TYPE_OFFSET_DATA:
                (at,) = wire.OFFSET.unpack_from(body)
                part = memoryview(body)[wire.OFFSET.size :]
                result[at - offset : at - offset + len(part)] = part
            elif kind == wire.REPLY_TYPE_NONE:
                continue
            elif kind != wire.REPLY_TYPE_OFFSET_HOLE:
                raise wire.ProtocolError(f"chunk of type {kind} answers a READ")
        if len(result) != length:
            raise wire.ProtocolError("a READ was answered outside its range")
        return bytes(result)

    def _chunks(self) -> Iterator[tuple[int, int, bytes]]:
        """The chunks of one answer; an error among them is raised when all have come."""
        failure: OSError | None = None
        is_done = False
        while not is_done:
            head = self._channel.receive(wire.CHUNK.size)
            magic, flags, kind, cookie, length = wire.CHUNK.unpack(head)
            if magic != wire.CHUNK_MAGIC:
                raise wire.ProtocolError(f"chunk magic is {magic:#010x}")
            if length > wire.MAX_PAYLOAD + wire.OFFSET.size:
                raise wire.ProtocolError(f"a chunk of {length} bytes")
            body = self._channel.receive(length)
            is_done = bool(flags & wire.REPLY_FLAG_DONE)
            if kind & wire.REPLY_TYPE_FLAG_ERROR:
                (number,) = wire.LENGTH32.unpack_from(body)
                failure = OSError(number, os.strerror(number))
            else:
                yield kind, cookie, body
        if failure is not None:
            raise failure

    def _learn(self, body: bytes) -> None:
        (kind,) = wire.INFO_TYPE.unpack_from(body)
        if kind == wire.INFO_EXPORT:
            _, self.size, self.flags = wire.INFO_EXPORT_REPLY.unpack(body)
        elif kind == wire.INFO_BLOCK_SIZE:
            _, _, _, self.maximum_payload = wire.INFO_BLOCK_SIZE_REPLY.unpack(body)
        elif kind == wire.INFO_DESCRIPTION:
            self.description = body[wire.INFO_TYPE.size :].decode()


class Pipeline:
    """Writes kept in flight on one client; reads have no place here.

    `on_done(tag, errno)` is called for each request in the order of the server's answers, which
    may differ from the order of sending. Leaving the `with` block waits for all of them.
    """

    def __init__(self, client: Client, depth: int, on_done: Callable[[int, int], None]) -> None:
        """Keeps at most `depth` requests in flight."""
        assert depth >= 1, "a pipeline holds one request at least"
        self._client = client
        self._depth = depth
        self._on_done = on_done
        self._tags: dict[int, int] = {}

    def __enter__(self) -> Self:
        """The pipeline itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Waits for all answers, unless the block failed."""
        if kind is None:
            self.drain()

    @property
    def in_flight(self) -> int:
        """Requests without an answer."""
        return len(self._tags)

    def write(self, tag: int, offset: int, data: Buffer, *, fua: bool = False) -> None:
        """Sends a write, first waiting for an answer if `depth` requests are in flight."""
        self._submit(tag, wire.CMD_WRITE, _fua(fua), offset, len(data), data)

    def zero(self, tag: int, offset: int, length: int) -> None:
        """Sends a write of zeroes."""
        self._submit(tag, wire.CMD_WRITE_ZEROES, 0, offset, length, EMPTY)

    def flush(self, tag: int) -> None:
        """Sends a flush; it covers the writes answered before it was sent."""
        self._submit(tag, wire.CMD_FLUSH, 0, 0, 0, EMPTY)

    def drain(self) -> None:
        """Waits for every answer."""
        while self._tags:
            self._take_answer()

    def _submit(
        self, tag: int, kind: int, flags: int, offset: int, length: int, data: Buffer
    ) -> None:
        while len(self._tags) >= self._depth:
            self._take_answer()
        self._tags[self._client._send(kind, flags, offset, length, data)] = tag

    def _take_answer(self) -> None:
        cookie, error = self._client._simple_reply()
        if cookie not in self._tags:
            raise wire.ProtocolError(f"an answer to request {cookie}, which is not in flight")
        self._on_done(self._tags.pop(cookie), error)


def list_exports(
    address: Address,
    *,
    tls_context: ssl.SSLContext | None = None,
    server_hostname: str | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> list[Listing]:
    """The exports a server shows to this client."""
    negotiation = Negotiation(address, tls_context, server_hostname, timeout_seconds)
    try:
        return negotiation.listing()
    finally:
        negotiation.channel.close()


def _fua(fua: bool) -> int:
    return wire.CMD_FLAG_FUA if fua else 0
