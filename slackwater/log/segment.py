r"""Segments: the files of a log, their header and their place in the log's address space.

A segment file is a header of 4096 bytes and a records area. The areas of all laps, one after the
other, are the log's address space: byte ``b`` of lap ``n`` has the log offset
``n * capacity + b``. Offsets are never used twice, file blocks are: an old segment becomes the
next lap's by a rename (D14).

Segment header, little-endian (docs/log-format.md binds these offsets to a golden test)::

    0   8  magic "SLKWSEG\0"         48   8  first lsn
    8   4  format version, 1         56   8  segment bytes
    12  4  header bytes, 4096        64   8  window bytes
    16 16  group uid                 72   4  chain before the first record
    32  8  lap                       76   4  CRC32C of bytes 0 to 75
    40  8  epoch before              80 4016 zeroes

All that varies lies in the first sector, so an overwrite of the header is not torn.
"""

import re
import struct
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from crc32c import crc32c

from slackwater import errors
from slackwater.position import LogPoint, Position

MAGIC: Final = b"SLKWSEG\0"
VERSION: Final = 1
HEADER_BYTES: Final = 4096
MIN_SEAL_BYTES: Final = 8
"""The smallest padding field; a record that would leave less (but not nothing) seals instead."""

SUFFIX: Final = ".seg"
TEMPORARY_SUFFIX: Final = ".tmp"
MAX_RECORD_BYTES: Final = (1 << 20) + 8192
MIN_LOG_BYTES: Final = 64 << 20
MAX_LOG_BYTES: Final = 1 << 40
"""More than any framed record takes: 1 MiB of payload, 4 KiB of other body, the head."""

_HEADER: Final = struct.Struct("<8sII16sQQQQQI")
_CRC: Final = struct.Struct("<I")
HEADER_USED_BYTES: Final = _HEADER.size + _CRC.size
_NAME: Final = re.compile(r"(\d{12})\.seg")

assert HEADER_USED_BYTES == 80


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Sizes of a log, fixed when the group is made and kept in group.db.

    Attributes:
        log_bytes: What all segment files together may take.
        segment_bytes: Size of one segment file, header included.
        max_commit_bytes: What may be appended and not yet synced; the write window (D5, D6).
    """

    log_bytes: int = 1 << 30
    segment_bytes: int = 64 << 20
    max_commit_bytes: int = 8 << 20

    def __post_init__(self) -> None:
        """Refuse what the arithmetic cannot bear; production bounds are `validate`'s."""
        assert self.segment_bytes >= 2 * HEADER_BYTES, "a segment holds more than its header"
        assert self.segment_bytes <= 256 << 20, "a padding field spans at most 256 MiB"
        assert self.segments >= 2, "one segment is written while another is kept"
        assert self.max_commit_bytes > 0, "something may be in flight"

    def validate(self) -> None:
        """Refuse settings that production must not have.

        Raises:
            InvalidRequest: a size is out of bounds; names the field.
        """
        if self.segment_bytes % HEADER_BYTES:
            raise errors.InvalidRequest("segment_bytes", "is not a multiple of 4096")
        if self.segment_bytes < (4 << 20) + HEADER_BYTES:
            raise errors.InvalidRequest("segment_bytes", "is less than 4 MiB + 4096")
        if self.segment_bytes > self.log_bytes // 8:
            raise errors.InvalidRequest("segment_bytes", "is more than an eighth of log_bytes")
        if not MAX_RECORD_BYTES <= self.max_commit_bytes <= self.log_bytes // 8:
            raise errors.InvalidRequest(
                "max_commit_bytes", f"is not between {MAX_RECORD_BYTES} and an eighth of log_bytes"
            )

    @property
    def capacity(self) -> int:
        """Bytes of one records area."""
        return self.segment_bytes - HEADER_BYTES

    @property
    def segments(self) -> int:
        """Segment files the log may have."""
        return self.log_bytes // self.segment_bytes

    @property
    def capacity_bytes(self) -> int:
        """Bytes of all records areas together."""
        return self.segments * self.capacity

    @property
    def control_reserve_bytes(self) -> int:
        """Space that only control records may take (D9)."""
        return min(4 << 20, self.capacity_bytes // 8)


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What a segment says of itself.

    Attributes:
        group_uid: The group whose log this is.
        lap: Its number; the file is named after it.
        before: The position its first record continues.
        segment_bytes: Size of the file.
        window_bytes: No byte of this segment was written more than this past the synced end.
    """

    group_uid: uuid.UUID
    lap: int
    before: Position
    segment_bytes: int
    window_bytes: int

    def pack(self) -> bytes:
        """Return the whole header."""
        used = _HEADER.pack(
            MAGIC,
            VERSION,
            HEADER_BYTES,
            self.group_uid.bytes,
            self.lap,
            self.before.epoch,
            self.before.lsn + 1,
            self.segment_bytes,
            self.window_bytes,
            self.before.chain,
        )
        return (used + _CRC.pack(crc32c(used))).ljust(HEADER_BYTES, b"\0")


def parse_header(data: bytes) -> SegmentHeader | None:
    """Return the header if these are the bytes of a whole one, else None.

    Raises:
        FailedPrecondition: it is whole, but of a format this version does not know.
    """
    if len(data) != HEADER_BYTES or any(data[HEADER_USED_BYTES:]):
        return None
    used = data[: _HEADER.size]
    if _CRC.unpack_from(data, _HEADER.size)[0] != crc32c(used):
        return None
    magic, version, size, uid, lap, epoch, first_lsn, segment_bytes, window_bytes, chain = (
        _HEADER.unpack(used)
    )
    if magic != MAGIC or first_lsn < 1:
        return None
    if version != VERSION or size != HEADER_BYTES:
        raise errors.FailedPrecondition(
            "LOG_FORMAT",
            f"a log segment has format {version}, this version reads {VERSION}",
            "Use the version that wrote it, or a newer one",
        )
    before = Position(epoch, first_lsn - 1, chain)
    return SegmentHeader(uuid.UUID(bytes=uid), lap, before, segment_bytes, window_bytes)


def name(lap: int) -> str:
    """Return the file name of a lap."""
    return f"{lap:012d}{SUFFIX}"


def path(directory: Path, lap: int) -> Path:
    """Return the file of a lap."""
    return directory / name(lap)


def lap_of(file_name: str) -> int | None:
    """Return the lap a file is named after, or None if it is no segment."""
    match = _NAME.fullmatch(file_name)
    return int(match[1]) if match else None


def fresh_start(settings: LogSettings, offset: int, position: Position) -> LogPoint:
    """Return where a log begins anew at `position`, given any offset at or past its present end.

    Two laps above: the lap right above may exist already as a file made ready ahead of need.
    """
    return LogPoint((offset // settings.capacity + 2) * settings.capacity, position)
