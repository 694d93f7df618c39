"""The records of an overlay file.

An overlay is an append-only run of records, each 512 bytes of header and, unless it stands for
zeroes or for a loss, the old bytes of one chunk. All fields are little-endian.

| offset | size | field                                                              |
| ------ | ---- | ------------------------------------------------------------------ |
| 0      | 4    | magic `SWO1`; the digit is the format's version                    |
| 4      | 4    | flags: 1 the chunks are zeroes, 2 the chunks are lost              |
| 8      | 16   | uid of the snapshot                                                |
| 24     | 8    | where in the file this header stands                               |
| 32     | 8    | first chunk                                                        |
| 40     | 8    | number of chunks; 1 when data follows                              |
| 48     | 8    | bytes of the file known synced when the record was written         |
| 56     | 8    | first chunk of the record before this one                          |
| 64     | 8    | number of chunks of the record before this one; 0: there was none  |
| 72     | 4    | bytes of data that follow the header                               |
| 76     | 4    | CRC32C of the data                                                 |
| 80     | 4    | CRC32C of bytes 0 to 80                                            |
| 84     | 428  | zeroes                                                             |

Everything is a multiple of 512 bytes, so no sector that was ever synced is written again. The
header says where it stands and of which snapshot it is: chunk data that looks like a header is
none. It repeats the chunks of its predecessor, so that a header that rots can still be named.
"""

import struct
import uuid
from typing import Final, NamedTuple

from crc32c import crc32c

HEADER_BYTES: Final = 512
FLAG_ZERO: Final = 1
FLAG_LOST: Final = 2

_MAGIC: Final = b"SWO1"
_FIELDS: Final = struct.Struct("<4sI16sQQQQQQII")
_CRC: Final = struct.Struct("<I")
_PADDING: Final = bytes(HEADER_BYTES - _FIELDS.size - _CRC.size)

assert _FIELDS.size + _CRC.size == 84


class ChunkRecord(NamedTuple):
    """The header of one record.

    Attributes:
        flags: `FLAG_ZERO`, `FLAG_LOST` or 0.
        offset: Where in the file the header stands.
        first: First chunk the record speaks of.
        chunks: Number of chunks; 1 when data follows.
        synced_bytes: Bytes of the file known synced when the record was written.
        previous_first: First chunk of the record before.
        previous_count: Number of chunks of the record before; 0 if there was none.
        data_bytes: Bytes of data after the header.
        data_crc: CRC32C of them.
    """

    flags: int
    offset: int
    first: int
    chunks: int
    synced_bytes: int
    previous_first: int
    previous_count: int
    data_bytes: int
    data_crc: int

    @property
    def data_offset(self) -> int:
        """Where in the file the data begins."""
        return self.offset + HEADER_BYTES

    @property
    def next_offset(self) -> int:
        """Where in the file the next record begins."""
        return self.offset + HEADER_BYTES + self.data_bytes


def encode(snapshot_uid: uuid.UUID, record: ChunkRecord) -> bytes:
    """Return the header's 512 bytes."""
    fields = _FIELDS.pack(_MAGIC, record.flags, snapshot_uid.bytes, *record[1:])
    return fields + _CRC.pack(crc32c(fields)) + _PADDING


def decode(data: bytes, snapshot_uid: uuid.UUID, offset: int) -> ChunkRecord | None:
    """Return the header of this snapshot that stands at `offset`, or None if `data` is none."""
    if len(data) < HEADER_BYTES:
        return None
    magic, flags, uid, *rest = _FIELDS.unpack_from(data)
    if magic != _MAGIC or uid != snapshot_uid.bytes:
        return None
    (crc,) = _CRC.unpack_from(data, _FIELDS.size)
    if crc != crc32c(data[: _FIELDS.size]):
        return None
    record = ChunkRecord(flags, *rest)
    return record if record.offset == offset else None
