"""The record codec: the same bytes in the log and on the wire.

A *framed record* is the tag of field 2 (0x12), the record's length as a varint, and the record:

    12 <length>                                     frame
    0d <chain crc32c:4>                             not covered by the chain value itself
    11 <epoch:8> 19 <lsn:8> 21 <time:8>             head
    [29 <synced lsn:8>]                             first record of a commit only
    <body tag:2> <body length>                      the body ends the record
      0d <volume:4> 11 <offset:8> 7a <length> ...   Write: the payload ends the body
      0d <volume:4> 11 <offset:8> 19 <length:8>     Zero

Integers are little-endian, varints the shortest possible. This one shape is all a reader accepts,
so reading is a few fixed unpacks and no protobuf object exists on the data path. A run of framed
records, cut anywhere between two, parses as the field `repeated Record records = 2` of an Append.
"""

import functools
import struct
from collections.abc import Callable
from typing import Final, NamedTuple

from crc32c import crc32c
from google.protobuf.message import DecodeError, Message

from slackwater import errors
from slackwater.padding import MIN_PADDING as MIN_PADDING
from slackwater.padding import PADDING_TAG
from slackwater.padding import pad as pad
from slackwater.padding import pad_head as pad_head
from slackwater.padding import parse_padding as parse_padding
from slackwater.position import Position
from slackwater.v1 import record_pb2

Buffer = bytes | bytearray | memoryview

KIND_ZERO: Final = 17
KIND_IBC_MESSAGE: Final = 18
KIND_OUTCOME: Final = 19
KIND_EPOCH_CHANGE: Final = 20
KIND_VOLUME_CHANGE: Final = 21
KIND_START: Final = 22
KIND_WRITE: Final = 31

_MESSAGES: Final[dict[int, type[Message]]] = {
    KIND_ZERO: record_pb2.Zero,
    KIND_IBC_MESSAGE: record_pb2.IbcMessage,
    KIND_OUTCOME: record_pb2.Outcome,
    KIND_EPOCH_CHANGE: record_pb2.EpochChange,
    KIND_VOLUME_CHANGE: record_pb2.VolumeChange,
    KIND_START: record_pb2.Start,
    KIND_WRITE: record_pb2.Write,
}
KNOWN_KINDS: Final = frozenset(_MESSAGES)

MAX_PAYLOAD: Final = 1 << 20
"""Bytes of payload in one Write, at most."""

MAX_BODY: Final = MAX_PAYLOAD + 4096
"""Bytes of any record's body, at most, so that one record always fits an Append."""

_RECORD_TAG: Final = 0x12
_CHAIN_FIELD: Final = 5
_WRITE_FIXED: Final = 15  # volume and offset with their tags, and the payload's tag
_ZERO_BYTES: Final = 23

_HEAD: Final = struct.Struct("<BIBQBQBQB")  # chain, epoch, lsn, time and the byte that follows
_HEAD_BYTES: Final = _HEAD.size - 1
_WRITE: Final = struct.Struct("<BIBQB")
_ZERO: Final = struct.Struct("<BIBQBQ")
_U64: Final = struct.Struct("<Q")
_U32: Final = struct.Struct("<I")


class RecordView(NamedTuple):
    """Where the parts of one framed record lie in a buffer, and its head's values.

    Attributes:
        start: First byte of the frame.
        end: The byte after the record.
        chain: CRC32C chain value the record claims; proved by `continues`.
        epoch: Fencing token.
        lsn: Dense sequence number.
        time_ns: The Primary's clock.
        synced_lsn: What was durable when the record was built, or None.
        kind: Field number of the body.
        body_start: First byte of the body message.
        body_end: The byte after it; equal to `end`.
        volume: Volume id of a Write or Zero, else 0.
        offset: First byte of the range of a Write or Zero, else 0.
        length: Bytes of the range of a Write or Zero, else 0.
        payload_start: First byte of a Write's payload, else `end`.
    """

    start: int
    end: int
    chain: int
    epoch: int
    lsn: int
    time_ns: int
    synced_lsn: int | None
    kind: int
    body_start: int
    body_end: int
    volume: int
    offset: int
    length: int
    payload_start: int

    @property
    def position(self) -> Position:
        """The position right after this record."""
        return Position(self.epoch, self.lsn, self.chain)


_new_view = tuple.__new__


def write_head(
    previous_chain: int,
    epoch: int,
    lsn: int,
    time_ns: int,
    synced_lsn: int | None,
    volume: int,
    offset: int,
    payload: Buffer,
) -> tuple[bytes, int]:
    """Return the frame and head of a Write up to its payload, and the new chain value.

    The record is the returned bytes followed by `payload`, which is neither copied nor kept.
    """
    if synced_lsn is None:
        prefix, pack, middle, tail = _write_shape(len(payload), False)
        rest = pack(0x11, epoch, 0x19, lsn, 0x21, time_ns, middle, 0x0D, volume, 0x11, offset, tail)
    else:
        prefix, pack, middle, tail = _write_shape(len(payload), True)
        rest = pack(
            0x11, epoch, 0x19, lsn, 0x21, time_ns, 0x29, synced_lsn, middle,
            0x0D, volume, 0x11, offset, tail,
        )  # fmt: skip
    chain = crc32c(payload, crc32c(rest, previous_chain))
    return prefix + chain.to_bytes(4, "little") + rest, chain


@functools.lru_cache(maxsize=4096)
def _write_shape(
    payload_bytes: int, synced: bool
) -> tuple[bytes, Callable[..., bytes], bytes, bytes]:
    """Return what all Writes of a size share: prefix, packer, body head, payload head."""
    assert 0 < payload_bytes <= MAX_PAYLOAD, "a payload is 1 byte to 1 MiB"
    tail = b"\x7a" + _varint(payload_bytes)
    body_bytes = _WRITE_FIXED - 1 + len(tail) + payload_bytes
    middle = _body_tag(KIND_WRITE) + _varint(body_bytes)
    record_bytes = _HEAD_BYTES + (9 if synced else 0) + len(middle) + body_bytes
    prefix = b"\x12" + _varint(record_bytes) + b"\x0d"
    shape = "<BQBQBQ" + ("BQ" if synced else "") + f"{len(middle)}sBIBQ{len(tail)}s"
    return prefix, struct.Struct(shape).pack, middle, tail


def frame(
    previous_chain: int,
    epoch: int,
    lsn: int,
    time_ns: int,
    synced_lsn: int | None,
    kind: int,
    body: bytes,
) -> tuple[bytes, int]:
    """Return a whole framed record with the given encoded body, and the new chain value."""
    assert 16 <= kind < 2048, "a body's tag has two bytes"
    assert len(body) <= MAX_BODY, "bodies are bounded before they are framed"
    synced = b"" if synced_lsn is None else b"\x29" + _U64.pack(synced_lsn)
    rest = b"".join(
        (
            struct.pack("<BQBQBQ", 0x11, epoch, 0x19, lsn, 0x21, time_ns),
            synced,
            _body_tag(kind),
            _varint(len(body)),
            body,
        )
    )
    chain = crc32c(rest, previous_chain)
    head = b"\x12" + _varint(_CHAIN_FIELD + len(rest)) + b"\x0d" + _U32.pack(chain)
    return head + rest, chain


def parse(  # noqa: C901, PLR0915 - one line of checks, no calls: the hot path
    buffer: Buffer, start: int, end: int
) -> RecordView | None:
    """Return the record that begins at `start` and lies whole below `end`, or None.

    Structure only: whether it belongs there is for `continues`. Never raises, whatever the bytes.
    """
    if start + 2 + _HEAD_BYTES >= end or buffer[start] != _RECORD_TAG:
        return None
    # The frame's length: one to three bytes, the shortest that fits.
    at = start + 2
    size = buffer[start + 1]
    if size > 0x7F:
        at += 1
        second = buffer[start + 2]
        size = (size & 0x7F) | (second & 0x7F) << 7
        if second > 0x7F:
            at += 1
            third = buffer[start + 3]
            if third > 0x7F:
                return None
            size |= third << 14
    record_end = at + size
    if record_end > end or at + _HEAD_BYTES >= record_end:
        return None
    if at - start - 1 != _varint_bytes(size):
        return None
    tag1, chain, tag2, epoch, tag3, lsn, tag4, time_ns, following = _HEAD.unpack_from(buffer, at)
    if tag1 != 0x0D or tag2 != 0x11 or tag3 != 0x19 or tag4 != 0x21:
        return None
    at += _HEAD_BYTES
    synced_lsn = None
    if following == 0x29:
        if at + 9 >= record_end:
            return None
        (synced_lsn,) = _U64.unpack_from(buffer, at + 1)
        at += 9
        following = buffer[at]
    # The body: a two-byte tag of a length-delimited field, and a length that ends the record.
    if at + 3 > record_end or following & 0x87 != 0x82:
        return None
    high = buffer[at + 1]
    if not 0 < high < 0x80:
        return None
    kind = (following >> 3 & 0x0F) | high << 4
    body_start = _length_start(buffer, at + 2, record_end)
    if body_start is None:
        return None
    if kind == KIND_WRITE:
        if body_start + _WRITE_FIXED >= record_end:
            return None
        tag1, volume, tag2, offset, tag3 = _WRITE.unpack_from(buffer, body_start)
        if tag1 != 0x0D or tag2 != 0x11 or tag3 != 0x7A:
            return None
        payload_start = _length_start(buffer, body_start + _WRITE_FIXED, record_end)
        if payload_start is None:
            return None
        length = record_end - payload_start
        if not 0 < length <= MAX_PAYLOAD:
            return None
    elif kind == KIND_ZERO:
        if record_end - body_start != _ZERO_BYTES:
            return None
        tag1, volume, tag2, offset, tag3, length = _ZERO.unpack_from(buffer, body_start)
        if tag1 != 0x0D or tag2 != 0x11 or tag3 != 0x19 or not length:
            return None
        payload_start = record_end
    else:
        if record_end - body_start > MAX_BODY:
            return None
        volume = offset = length = 0
        payload_start = record_end
    return _new_view(
        RecordView,
        (
            start, record_end, chain, epoch, lsn, time_ns, synced_lsn, kind, body_start,
            record_end, volume, offset, length, payload_start,
        ),
    )  # fmt: skip


def _length_start(buffer: Buffer, at: int, end: int) -> int | None:
    """Return where the content begins if a shortest varint at `at` spans exactly up to `end`."""
    # Only one length can end the record: compute it, then compare the bytes.
    for width in (1, 2, 3):
        if at + width > end:
            return None
        if buffer[at + width - 1] < 0x80:
            break
    else:
        return None
    length = end - at - width
    if width != _varint_bytes(length):
        return None
    if width == 1:
        fits = buffer[at] == length
    elif width == 2:
        fits = buffer[at] & 0x7F | buffer[at + 1] << 7 == length
    else:
        fits = buffer[at] & 0x7F | (buffer[at + 1] & 0x7F) << 7 | buffer[at + 2] << 14 == length
    return at + width if fits else None


def continues(buffer: Buffer, view: RecordView, previous: Position) -> bool:
    """Tell whether a parsed record follows `previous` in the same history."""
    if view.lsn != previous.lsn + 1:
        return False
    if view.epoch != previous.epoch and (
        view.epoch < previous.epoch or view.kind != KIND_EPOCH_CHANGE
    ):
        return False
    return _chain_of(memoryview(buffer), view, previous.chain) == view.chain


def _chain_of(buffer: memoryview, view: RecordView, previous_chain: int) -> int:
    """Return the chain value of the record's bytes after `previous_chain`."""
    record_bytes = view.end - view.start - 1
    covered = view.start + 1 + _varint_bytes(record_bytes - 1) + _CHAIN_FIELD
    return crc32c(buffer[covered : view.end], previous_chain)


def scan(
    buffer: Buffer, start: int, end: int, previous: Position
) -> tuple[list[RecordView], int, str]:
    """Return all records from `start` that continue the history, where that stops, and why.

    The reason is "end" (exactly at `end`), "padding" (a padding field begins), "short" (what is
    there may be the beginning of a record that reaches past `end`) or "break" (anything else).
    """
    view_buffer = memoryview(buffer)
    views: list[RecordView] = []
    epoch, lsn, chain = previous.epoch, previous.lsn, previous.chain
    at = start
    while at < end:
        view = parse(view_buffer, at, end)
        if view is None or view.lsn != lsn + 1:
            break
        if view.epoch != epoch and (view.epoch < epoch or view.kind != KIND_EPOCH_CHANGE):
            break
        size = view.end - at
        # The chain covers all but the frame's tag and length (2 to 4 bytes) and the chain field.
        covered = at + (7 if size <= 0x7F + 2 else 8 if size <= 0x3FFF + 3 else 9)
        if crc32c(view_buffer[covered : view.end], chain) != view.chain:
            break
        views.append(view)
        epoch, lsn, chain = view.epoch, view.lsn, view.chain
        at = view.end
    return views, at, _why(view_buffer, at, end)


def _why(buffer: memoryview, at: int, end: int) -> str:
    """Say why a scan stopped at `at`."""
    if at >= end:
        return "end"
    if buffer[at] == PADDING_TAG:
        return "padding"
    if buffer[at] != _RECORD_TAG:
        return "break"
    size = 0
    for index in range(3):
        if at + 1 + index >= end:
            return "short"
        byte = buffer[at + 1 + index]
        size |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return "short" if at + 2 + index + size > end else "break"
    return "break"


def body(buffer: Buffer, view: RecordView) -> Message:
    """Return the record's body as the protobuf message of its kind.

    Raises:
        FailedPrecondition: The kind is not known here.
        DataCorrupt: The body does not parse as a message of its kind.
    """
    message_type = _MESSAGES.get(view.kind)
    if message_type is None:
        raise errors.FailedPrecondition(
            "UNKNOWN_RECORD",
            f"record {view.epoch}/{view.lsn} is of unknown kind {view.kind}",
            "Upgrade this service; Secondaries are upgraded before Primaries",
        )
    message = message_type()
    try:
        message.ParseFromString(bytes(memoryview(buffer)[view.body_start : view.body_end]))
    except DecodeError as error:
        raise errors.DataCorrupt(f"record {view.epoch}/{view.lsn}", str(error)) from error
    return message


def _body_tag(kind: int) -> bytes:
    """Return the two-byte tag of a length-delimited body field."""
    return bytes(((kind << 3 | 2) & 0x7F | 0x80, kind >> 4))


def _varint_bytes(value: int) -> int:
    """Return how many bytes the shortest varint of `value` has, for values below 2**21."""
    return 1 if value < 0x80 else 2 if value < 0x4000 else 3


def _varint(value: int) -> bytes:
    """Return the shortest varint of `value`."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
