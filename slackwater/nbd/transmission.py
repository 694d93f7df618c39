"""The transmission phase, sans-I/O: requests out of a receive buffer, replies into pieces.

Each request passes four steps that can be pointed at: parse, *refuse* (every refusal in one
function, each with its errno), do (the export's part), reply.
"""

import errno
from collections.abc import Iterable, Sequence
from typing import Final

from slackwater.extent import Extent
from slackwater.nbd import wire
from slackwater.nbd.export import EMPTY, Batch, Buffer, Export, Request
from slackwater.nbd.status import error_on_wire

# One batch never asks for more memory than this for its answers (one larger READ excepted) nor
# holds more requests: what is left over waits in the receive buffer for the next batch.
MAX_BATCH_READ_BYTES: Final = 4 << 20
MAX_BATCH_REQUESTS: Final = 1024
MAX_BLOCK_DESCRIPTORS: Final = 4096
_QUERY_BYTES: Final = MAX_BLOCK_DESCRIPTORS * wire.BLOCK_DESCRIPTOR.size

_HEAD: Final = wire.REQUEST.size
_CHANGES: Final = frozenset({wire.CMD_WRITE, wire.CMD_TRIM, wire.CMD_WRITE_ZEROES})
# The commands of an export's requests, each with the flags it may carry; the protocol wants FUA
# accepted on every one of them. DF and BLOCK_STATUS come on top where they were negotiated.
_ALLOWED_FLAGS: Final = {
    wire.CMD_READ: wire.CMD_FLAG_FUA,
    wire.CMD_WRITE: wire.CMD_FLAG_FUA,
    wire.CMD_FLUSH: wire.CMD_FLAG_FUA,
    wire.CMD_TRIM: wire.CMD_FLAG_FUA,
    wire.CMD_CACHE: wire.CMD_FLAG_FUA,
    wire.CMD_WRITE_ZEROES: wire.CMD_FLAG_FUA | wire.CMD_FLAG_NO_HOLE | wire.CMD_FLAG_FAST_ZERO,
}


def transmission_flags(export: Export, *, structured: bool) -> int:
    """What the server tells a client that it may ask of this export."""
    flags = wire.FLAG_HAS_FLAGS | wire.FLAG_SEND_FLUSH | wire.FLAG_SEND_CACHE
    if export.read_only:
        flags |= wire.FLAG_READ_ONLY
    else:
        flags |= (
            wire.FLAG_SEND_FUA
            | wire.FLAG_SEND_TRIM
            | wire.FLAG_SEND_WRITE_ZEROES
            | wire.FLAG_SEND_FAST_ZERO
        )
    if export.multi_conn:
        flags |= wire.FLAG_CAN_MULTI_CONN
    if structured:
        flags |= wire.FLAG_SEND_DF
    return flags


class Intake:
    """What one look into the receive buffer found.

    Attributes:
        batch: valid requests for the export, in order.
        refused: requests to be answered with their `error`; the export never sees them.
        queries: valid BLOCK_STATUS requests, answered from `Export.extents`.
        position: where in the buffer the next look begins.
    """

    __slots__ = ("batch", "position", "queries", "refused")

    def __init__(
        self, batch: Batch, refused: list[Request], queries: list[Request], position: int
    ) -> None:
        """Keeps what was found."""
        self.batch = batch
        self.refused = refused
        self.queries = queries
        self.position = position

    @property
    def is_empty(self) -> bool:
        """Nothing to do and nothing to answer: more bytes are needed."""
        return not (self.batch.requests or self.refused or self.queries)


class Transmission:
    """One connection's side of the transmission phase.

    Attributes:
        is_closing: the client said goodbye (DISC); what follows is ignored.
        wanted: bytes the request at `Intake.position` takes in all as far as is known, 0 if
            none has begun to arrive. At most the export's largest payload and a head.
        counts: requests seen, by command; the last place counts unknown ones.
        bytes_read: bytes of READs answered well.
        bytes_written: bytes of WRITEs answered well.
    """

    def __init__(self, export: Export, *, structured: bool, block_status: bool) -> None:
        """Starts transmission with what the handshake agreed on."""
        self.is_closing = False
        self.wanted = 0
        self.counts = [0] * (len(wire.COMMAND_NAMES) + 1)
        self.bytes_read = 0
        self.bytes_written = 0
        self._structured = structured
        self._allowed_flags = dict(_ALLOWED_FLAGS)
        if structured:
            self._allowed_flags[wire.CMD_READ] |= wire.CMD_FLAG_DF
        if block_status:
            self._allowed_flags[wire.CMD_BLOCK_STATUS] = wire.CMD_FLAG_FUA | wire.CMD_FLAG_REQ_ONE
        self._size = export.size
        self._read_only = export.read_only
        assert export.minimum_block.bit_count() == 1, "the protocol wants a power of two"
        self._misaligned = export.minimum_block - 1
        self._maximum = min(export.maximum_payload, wire.MAX_PAYLOAD)
        self._skipping = 0
        self._skipped: Request | None = None

    @property
    def is_mid_request(self) -> bool:
        """A request has begun to arrive and is not whole."""
        return self.wanted > 0 or self._skipping > 0

    def parse(  # noqa: C901, PLR0915 -- the hot loop: a call per request costs a tenth
        self, buffer: memoryview, start: int, end: int
    ) -> Intake:
        """Takes every whole request out of ``buffer[start:end]``; payloads are views into it.

        Raises:
            ProtocolError: the bytes at `start` are no request. Requests before broken bytes are
                handed out first; the next call raises.
        """
        requests: list[Request] = []
        intake = Intake(Batch(requests), [], [], start)
        if self._skipping:
            start = self._skip(intake, start, end)
        unpack = wire.REQUEST.unpack_from
        size, read_only, maximum = self._size, self._read_only, self._maximum
        misaligned = self._misaligned
        counts, last = self.counts, len(self.counts) - 1
        expected = 0  # bytes of memory the answers will take
        room = MAX_BATCH_REQUESTS
        self.wanted = 0
        while not self.is_closing and room and expected < MAX_BATCH_READ_BYTES:
            if end - start < _HEAD:
                self.wanted = _HEAD if end > start else 0
                break
            magic, flags, kind, cookie, offset, length = unpack(buffer, start)
            if magic != wire.REQUEST_MAGIC:
                if intake.is_empty:
                    raise wire.ProtocolError(f"request magic is {magic:#010x}")
                break
            stop = start + _HEAD
            payload = EMPTY
            if kind == wire.CMD_WRITE:
                if length > maximum:
                    counts[kind] += 1
                    self._skipping = length
                    self._skipped = Request(kind, flags, offset, length, EMPTY, cookie)
                    start = self._skip(intake, stop, end)
                    if self._skipping:
                        break
                    room -= 1
                    continue
                stop += length
                if stop > end:
                    self.wanted = _HEAD + length
                    break
                payload = buffer[start + _HEAD : stop]
                # The common case by itself: an ordinary write needs no look at the rest.
                if (
                    flags <= 1
                    and length
                    and not (offset | length) & misaligned
                    and offset + length <= size
                    and not read_only
                ):
                    counts[kind] += 1
                    requests.append(Request(kind, flags, offset, length, payload, cookie))
                    start = stop
                    room -= 1
                    continue
            elif kind == wire.CMD_READ:
                if expected and expected + length > MAX_BATCH_READ_BYTES:
                    break
            elif kind == wire.CMD_DISC:
                counts[kind] += 1
                self.is_closing = True
                start = end
                break
            counts[min(kind, last)] += 1
            request = Request(kind, flags, offset, length, payload, cookie)
            request.error = self.refusal(kind, flags, offset, length)
            if request.error:
                intake.refused.append(request)
            elif kind == wire.CMD_BLOCK_STATUS:
                intake.queries.append(request)
                expected += _QUERY_BYTES
            else:
                requests.append(request)
                if kind == wire.CMD_READ:
                    expected += length
                    intake.batch.read_bytes += length
            start = stop
            room -= 1
        intake.position = start
        return intake

    def _skip(self, intake: Intake, start: int, end: int) -> int:
        """Drops the payload of a WRITE over the bound without ever holding it."""
        dropped = min(self._skipping, end - start)
        self._skipping -= dropped
        if not self._skipping and self._skipped is not None:
            self._skipped.error = errno.EINVAL
            intake.refused.append(self._skipped)
            self._skipped = None
        return start + dropped

    def refusal(self, kind: int, flags: int, offset: int, length: int) -> int:
        """The errno that a request must be refused with, 0 if it is valid."""
        allowed = self._allowed_flags.get(kind)
        if allowed is None or flags & ~allowed:
            return errno.EINVAL
        if kind == wire.CMD_FLUSH:
            return errno.EINVAL if offset or length else 0
        changes = kind in _CHANGES
        if changes and self._read_only:
            return errno.EPERM
        if length == 0 or (kind == wire.CMD_READ and length > self._maximum):
            return errno.EINVAL
        if changes and (offset | length) & self._misaligned:
            return errno.EINVAL
        if offset + length > self._size:
            return errno.ENOSPC if changes and kind != wire.CMD_TRIM else errno.EINVAL
        return 0

    def replies(self, requests: Iterable[Request]) -> list[Buffer]:
        """The answers to requests that are done or refused, as pieces to send in order."""
        pieces: list[Buffer] = []
        append = pieces.append
        pack_simple = wire.SIMPLE_REPLY.pack
        structured = self._structured
        for request in requests:
            error = request.error
            if request.kind == wire.CMD_READ and (structured or not error):
                if error:
                    append(self._error_chunk(request.cookie, error))
                else:
                    self._append_read(pieces, request)
            elif error:
                code = error_on_wire(error)
                if structured and request.kind == wire.CMD_BLOCK_STATUS:
                    append(self._error_chunk(request.cookie, error))
                else:
                    append(pack_simple(wire.SIMPLE_REPLY_MAGIC, code, request.cookie))
            else:
                if request.kind == wire.CMD_WRITE:
                    self.bytes_written += request.length
                append(pack_simple(wire.SIMPLE_REPLY_MAGIC, 0, request.cookie))
        return pieces

    def _append_read(self, pieces: list[Buffer], request: Request) -> None:
        length = request.length
        self.bytes_read += length
        data = request.data
        if data is None:
            # Zeroes must be meant: an export that forgot to answer must not read as empty.
            assert request.hole, "the export left a READ without data"
            if self._structured:
                pieces.append(
                    wire.OFFSET_HOLE.pack(
                        wire.CHUNK_MAGIC,
                        wire.REPLY_FLAG_DONE,
                        wire.REPLY_TYPE_OFFSET_HOLE,
                        request.cookie,
                        12,
                        request.offset,
                        length,
                    )
                )
                return
            data = bytes(length)
        assert len(data) == length, "the export read another length than was asked"
        if self._structured:
            pieces.append(
                wire.OFFSET_DATA.pack(
                    wire.CHUNK_MAGIC,
                    wire.REPLY_FLAG_DONE,
                    wire.REPLY_TYPE_OFFSET_DATA,
                    request.cookie,
                    8 + length,
                    request.offset,
                )
            )
        else:
            pieces.append(wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, 0, request.cookie))
        pieces.append(data)

    def block_status(self, request: Request, extents: Iterable[Extent]) -> list[Buffer]:
        """The answer to one BLOCK_STATUS; reads no further than the answer needs."""
        most = 1 if request.flags & wire.CMD_FLAG_REQ_ONE else MAX_BLOCK_DESCRIPTORS
        merged: list[list[int]] = []
        for extent in extents:
            state = 0 if extent.data else wire.STATE_HOLE | wire.STATE_ZERO
            if merged and merged[-1][1] == state:
                merged[-1][0] += extent.length
            elif len(merged) == most:
                break
            else:
                merged.append([extent.length, state])
        assert merged, "the export described no extent of a range that exists"
        body = b"".join(wire.BLOCK_DESCRIPTOR.pack(length, state) for length, state in merged)
        head = wire.CHUNK.pack(
            wire.CHUNK_MAGIC,
            wire.REPLY_FLAG_DONE,
            wire.REPLY_TYPE_BLOCK_STATUS,
            request.cookie,
            wire.LENGTH32.size + len(body),
        )
        return [head + wire.LENGTH32.pack(wire.BASE_ALLOCATION_ID) + body]

    @staticmethod
    def _error_chunk(cookie: int, error: int) -> bytes:
        return wire.ERROR_CHUNK.pack(
            wire.CHUNK_MAGIC,
            wire.REPLY_FLAG_DONE,
            wire.REPLY_TYPE_ERROR,
            cookie,
            6,
            error_on_wire(error),
            0,
        )


def total_length(pieces: Sequence[Buffer]) -> int:
    """Bytes in all pieces together."""
    return sum(map(len, pieces))
