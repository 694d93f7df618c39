"""Reading a log while it is written, from any thread or process.

A reader has file descriptors of its own and knows nothing but the directory, the settings and a
limit: the durable mark (D13). It hands out whole records as they lie in the file, ready to be sent,
and walks them by their frames alone; who needs their chain proved asks for it (`verify`, `replay`).

A segment may be recycled under a slow reader. Its header is overwritten, durably, before any of its
records, so a header that is unchanged *after* a read proves that what was read was whole (D14).
"""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from slackwater import record
from slackwater.errors import LogCorrupt
from slackwater.log import segment
from slackwater.log.failstop import failed
from slackwater.log.segment import HEADER_BYTES, LogSettings
from slackwater.position import LogPoint, Position
from slackwater.record import RecordView
from slackwater.storage.seam import File, Storage

_RECORD_TAG: Final = 0x12
_LEAST_READ_BYTES: Final = 64
REPLAY_BYTES: Final = 1 << 20


class Trimmed(Exception):
    """The segment of an offset is gone: freed, or already another lap's.

    A fact, not a failure: it never leaves the process, so it is no SlackwaterError.
    """

    def __init__(self, offset: int) -> None:
        """Keep the offset that is no longer held."""
        self.offset = offset
        super().__init__(f"log offset {offset} is no longer held")


@dataclass(frozen=True, slots=True)
class Slice:
    """Whole records, back to back, as they lie in the log.

    Invariant: ``offset + len(data) == next_offset``; empty exactly when the limit was reached, and
    then ``first`` and ``last`` are None.

    Attributes:
        data: The framed records; stays valid.
        count: How many.
        first: Position of the first record; unproved.
        last: Position of the last record; unproved.
        offset: Log offset of the first byte; past what was asked for where padding was skipped.
        next_offset: Log offset of the byte after the last record.
    """

    data: memoryview
    count: int
    first: Position | None
    last: Position | None
    offset: int
    next_offset: int

    def views(self) -> list[RecordView]:
        """Return the records, parsed, unproved."""
        views = []
        at, end = 0, len(self.data)
        while at < end:
            view = record.parse(self.data, at, end)
            assert view is not None, "a slice holds whole records"
            views.append(view)
            at = view.end
        return views


class _Segment:
    """One open segment: its file and the header bytes that were valid when it was opened."""

    __slots__ = ("file", "header", "lap")

    def __init__(self, lap: int, file: File, header: bytes) -> None:
        self.lap = lap
        self.file = file
        self.header = header


class LogReader:
    """Reads one log; one thread at a time."""

    def __init__(
        self, storage: Storage, directory: Path, group_uid: uuid.UUID, settings: LogSettings
    ) -> None:
        """Open nothing yet."""
        self._storage = storage
        self._directory = directory
        self._group_uid = group_uid
        self._settings = settings
        self._capacity = settings.capacity
        self._open: _Segment | None = None

    def read(self, offset: int, limit: int, max_bytes: int) -> Slice:
        """Return whole records from a record boundary on.

        Args:
            offset: Log offset of a record, of the padding after one, or of a segment's first byte.
            limit: Log offset to stop at, right after a record: the durable mark or less.
            max_bytes: At most this much, or one larger record.

        Raises:
            Trimmed: the segment of `offset` is gone or was recycled while it was read.
            LogCorrupt: what lies there is no record, or reaches past the limit.
            StorageFailed: the storage reported an error.
        """
        while offset < limit:
            lap, start = divmod(offset, self._capacity)
            found = self._slice(lap, start, min(limit - offset, self._capacity - start), max_bytes)
            if found is not None:
                return found
            offset = (lap + 1) * self._capacity
        return Slice(memoryview(b""), 0, None, None, offset, offset)

    @property
    def capacity(self) -> int:
        """Bytes of one records area."""
        return self._capacity

    def verify(self, found: Slice, previous: Position) -> list[RecordView]:
        """Return the records of a slice, proved to continue `previous`.

        Raises:
            LogCorrupt: one does not; names its segment and byte.
        """
        views, stop, _ = record.scan(found.data, 0, len(found.data), previous)
        if stop != len(found.data):
            lap, start = divmod(found.offset + stop, self._capacity)
            after = views[-1].position if views else previous
            raise LogCorrupt(
                segment.name(lap), HEADER_BYTES + start, f"the record does not continue {after}"
            )
        return views

    def close(self) -> None:
        """Close the file that is open."""
        if self._open is not None:
            self._open.file.close()
            self._open = None

    def _slice(self, lap: int, start: int, available: int, max_bytes: int) -> Slice | None:
        """Return records of one segment; None if padding begins at `start`."""
        opened = self._segment(lap)
        want = min(available, max(max_bytes, _LEAST_READ_BYTES))
        data = self._read(opened, want, HEADER_BYTES + start)
        count, used, last, needed = _walk(data)
        if not count and want < needed <= available:
            data = self._read(opened, needed, HEADER_BYTES + start)
            count, used, last, needed = _walk(data)
        self._check_unchanged(opened)
        if count:
            # Frames alone were walked; the two ends are parsed, for their positions.
            first_view = record.parse(data, 0, used)
            last_view = record.parse(data, last, used)
            if first_view is not None and last_view is not None:
                offset = lap * self._capacity + start
                return Slice(
                    memoryview(data)[:used],
                    count,
                    first_view.position,
                    last_view.position,
                    offset,
                    offset + used,
                )
        elif is_padding(data, 0, self._capacity - start):
            return None
        raise LogCorrupt(segment.name(lap), HEADER_BYTES + start, "no whole record lies here")

    def _segment(self, lap: int) -> _Segment:
        if self._open is not None:
            if self._open.lap == lap:
                return self._open
            self.close()
        path = segment.path(self._directory, lap)
        try:
            file = self._storage.open(path, writable=False)
        except FileNotFoundError:
            raise Trimmed(lap * self._capacity) from None
        except OSError as error:
            raise failed(path, "open", error) from error
        opened = _Segment(lap, file, b"")
        try:
            data = self._read(opened, HEADER_BYTES, 0)
            self._check_header(lap, data)
        except BaseException:
            file.close()
            raise
        opened.header = data[: segment.HEADER_USED_BYTES]
        self._open = opened
        return opened

    def _check_header(self, lap: int, data: bytes) -> None:
        header = segment.parse_header(data)
        if header is not None and header.lap == lap and header.group_uid == self._group_uid:
            return
        path = segment.path(self._directory, lap)
        # Between the opening by name and the reading it may have become another lap's file.
        if not self._storage.exists(path):
            raise Trimmed(lap * self._capacity)
        raise LogCorrupt(path.name, 0, "the segment's header is not valid")

    def _check_unchanged(self, opened: _Segment) -> None:
        if self._read(opened, segment.HEADER_USED_BYTES, 0) != opened.header:
            self.close()
            raise Trimmed(opened.lap * self._capacity)

    def _read(self, opened: _Segment, length: int, offset: int) -> bytes:
        try:
            return opened.file.read(length, offset)
        except OSError as error:
            raise failed(opened.file.path, "read", error) from error


def is_padding(data: bytes, at: int, left: int) -> bool:
    """Tell whether the padding that seals a segment, `left` bytes before its end, begins here."""
    return left >= segment.MIN_SEAL_BYTES and data[at : at + 5] == record.pad_head(left)


def _walk(data: bytes) -> tuple[int, int, int, int]:
    """Walk frames: count, bytes used by whole records, start of the last one, bytes the next needs.

    Nothing is created per record; a slice of 256 costs less than its CRC.
    """
    size = len(data)
    at = count = last = needed = 0
    while at + 4 <= size and data[at] == _RECORD_TAG:
        length = data[at + 1]
        if length < 0x80:
            end = at + 2 + length
        else:
            second = data[at + 2]
            if second < 0x80:
                end = at + 3 + (length & 0x7F | second << 7)
            else:
                end = at + 4 + (length & 0x7F | (second & 0x7F) << 7 | data[at + 3] << 14)
        if end > size:
            needed = end - at
            break
        last = at
        at = end
        count += 1
    return count, at, last, needed


def replay(
    reader: LogReader, start: LogPoint, end: LogPoint
) -> Iterator[tuple[memoryview, RecordView]]:
    """Yield every record after `start` up to `end` with the buffer it lies in, proved, in order.

    Raises:
        Trimmed: the log no longer reaches back to `start`.
        LogCorrupt: a record does not continue the one before, or the end is another than `end`.
    """
    offset, position = start.offset, start.position
    while offset < end.offset:
        found = reader.read(offset, end.offset, REPLAY_BYTES)
        views = reader.verify(found, position)
        for view in views:
            yield found.data, view
        if views:
            position = views[-1].position
        offset = found.next_offset
    if position != end.position:
        raise LogCorrupt(
            segment.name(end.offset // reader.capacity),
            HEADER_BYTES + end.offset % reader.capacity,
            f"the log ends at {position}, not at {end.position}",
        )


def find_from(reader: LogReader, offset: int, limit: int, lsn: int) -> LogPoint | None:
    """Return the place after the record with this lsn, at or after `offset`; None if it is not.

    Raises:
        Trimmed: the segment is gone.
        LogCorrupt: the lsns are not dense.
    """
    while offset < limit:
        found = reader.read(offset, limit, REPLAY_BYTES)
        if found.last is None:
            return None
        if found.last.lsn >= lsn:
            for view in found.views():
                if view.lsn == lsn:
                    return LogPoint(found.offset + view.end, view.position)
            raise LogCorrupt(
                segment.name(offset // reader.capacity), HEADER_BYTES, "its lsns are not dense"
            )
        offset = found.next_offset
    return None
