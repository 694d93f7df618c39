"""The bytes of an Append, made and cut by hand.

    ReplicateRequest  12 <length>  Append
    Append            0a <length>  Position
                      12 <length>  Record       for each record: the run, as in the log

The run is the log's own bytes, so a sender prefixes it and a receiver cuts it out again; neither
makes a protobuf object of a record.
"""

from typing import Final

from google.protobuf.message import DecodeError

from slackwater import errors
from slackwater.position import Position
from slackwater.v1 import common_pb2, replication_pb2

Buffer = bytes | bytearray | memoryview

MAX_APPEND: Final = 2 << 20
"""Bytes of one Append, at most."""

APPEND: Final = replication_pb2.ReplicateRequest.APPEND_FIELD_NUMBER
_APPEND_TAG: Final = 0x12
_PREVIOUS_TAG: Final = 0x0A
_LENGTH_DELIMITED: Final = 2


def to_wire(position: Position) -> common_pb2.Position:
    """Return a position as the API spells it."""
    return common_pb2.Position(epoch=position.epoch, lsn=position.lsn, chain_crc32c=position.chain)


def from_wire(position: common_pb2.Position) -> Position:
    """Return a position of the API."""
    return Position(position.epoch, position.lsn, position.chain_crc32c)


def append_prefix(previous: Position, run_length: int) -> bytes:
    """Return what makes a run of framed records a ReplicateRequest when put before it."""
    encoded = to_wire(previous).SerializeToString()
    head = bytes((_PREVIOUS_TAG, len(encoded))) + encoded
    assert len(encoded) < 0x80, "a position is short"
    assert len(head) + run_length <= MAX_APPEND, "an append is at most 2 MiB"
    return bytes((_APPEND_TAG,)) + _varint(len(head) + run_length) + head


def peek_kind(request: Buffer) -> int:
    """Return the field number of the message a ReplicateRequest carries, 0 if it carries none."""
    if not len(request) or request[0] & 7 != _LENGTH_DELIMITED or request[0] > 0x7F:
        return 0
    return request[0] >> 3


def split_append(request: Buffer) -> tuple[Position, memoryview]:
    """Return the position an Append follows and its run of framed records.

    Raises:
        InvalidRequest: These bytes are not one whole Append in canonical form.
    """
    view = memoryview(request)
    if len(view) > MAX_APPEND + 8:
        raise errors.InvalidRequest("append", f"{len(view)} bytes are more than {MAX_APPEND}")
    length, at = _read_varint(view, 1) if len(view) and view[0] == _APPEND_TAG else (-1, 0)
    if at + length != len(view):
        raise errors.InvalidRequest("append", "the message is not one whole Append")
    size, start = _read_varint(view, at + 1) if at < len(view) else (-1, 0)
    if size < 0 or view[at] != _PREVIOUS_TAG or start + size > len(view):
        raise errors.InvalidRequest("append.previous", "the position before the records is missing")
    position = common_pb2.Position()
    try:
        position.ParseFromString(bytes(view[start : start + size]))
    except DecodeError as error:
        raise errors.InvalidRequest("append.previous", "is no position") from error
    return from_wire(position), view[start + size :]


def _read_varint(view: memoryview, at: int) -> tuple[int, int]:
    """Return a varint below 2**28 and the place after it, or (-1, 0)."""
    value = 0
    for index in range(4):
        if at + index >= len(view):
            break
        byte = view[at + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, at + index + 1
    return -1, 0


def _varint(value: int) -> bytes:
    """Return the shortest varint of `value`."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
