"""Recovery: where a log ends, what of it is proven, and proving the rest again.

Two steps. `Survey.find` only reads: it walks the chain from the checkpoint, and where the chain
breaks decides between a torn tail and corruption (D6); it raises LogCorrupt with nothing changed.
`prove_again` only writes: whatever was read after a SIGKILL may be page cache and no more, so all
that no sync is known to cover is written again, and the rest of the write window zeroed (D5).

Two invariants of the writer carry the decisions:

* A segment is synced to its end before the header of the next is written, so unproven bytes lie in
  one segment only, and any later header proves every segment before it.
* No record is written that ends more than the window past the synced end, so bytes that far before
  the end are proven, and a record found that far past a break proves that the break was durable.
"""

import uuid
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from slackwater import record
from slackwater.errors import FailedPrecondition, LogCorrupt
from slackwater.log import evidence, segment
from slackwater.log.failstop import failed
from slackwater.log.reader import is_padding
from slackwater.log.segment import HEADER_BYTES, MAX_RECORD_BYTES, LogSettings, SegmentHeader
from slackwater.position import LogPoint, Position
from slackwater.record import RecordView
from slackwater.storage.seam import File, Storage

_CHUNK_BYTES: Final = 2 * MAX_RECORD_BYTES
_STEP_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Recovery:
    """What opening a log found and did.

    Attributes:
        end: Where the log ends; all of it is durable now.
        proven_lsn: The highest lsn known to be durable before recovery proved the rest again.
        was_torn: Something newer than the end was cut off.
        records_after_checkpoint: How many records the volumes may not have yet.
        last_start: The newest `Start` record among them, or None.
    """

    end: LogPoint
    proven_lsn: int
    was_torn: bool
    records_after_checkpoint: int
    last_start: Position | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """The outcome of a survey.

    Attributes:
        headers: Every kept segment by lap; the highest is the one being written.
        top: The highest lap whose file is ready for use.
        rewrite_offset: Log offset from which no sync is known.
        window_bytes: The write window of the last segment.
        recovery: For the caller.
    """

    headers: dict[int, SegmentHeader]
    top: int
    rewrite_offset: int
    window_bytes: int
    recovery: Recovery


class Survey:
    """Reads the segments of a log and finds its end; changes nothing."""

    def __init__(
        self,
        storage: Storage,
        directory: Path,
        group_uid: uuid.UUID,
        settings: LogSettings,
        start: LogPoint,
        checkpoint: LogPoint,
        floor_lsn: int,
        *,
        trust_synced_lsn: bool,
    ) -> None:
        """Take what group.db knows; `find` does the work."""
        assert start.offset % settings.capacity == 0, "a log starts with a lap"
        assert start.offset <= checkpoint.offset, "the checkpoint lies in the log"
        self._storage = storage
        self._directory = directory
        self._group_uid = group_uid
        self._settings = settings
        self._capacity = settings.capacity
        self._start = start
        self._checkpoint = checkpoint
        self._floor_lsn = max(floor_lsn, checkpoint.position.lsn)
        self._trust_synced_lsn = trust_synced_lsn
        self._laps: list[int] = []
        self._headers: dict[int, SegmentHeader] = {}
        # Of the segment being walked: its first unread lsn, and the offset after each record.
        self._walked_from = 0
        self._ends: array[int] = array("Q")
        self._claim = 0
        self._last_start: Position | None = None

    def find(self) -> Found | None:
        """Return the end of the log, or None if nothing was ever appended and it must be made.

        Raises:
            LogCorrupt: durable bytes are damaged or missing; nothing was changed.
            FailedPrecondition: a segment has a newer format or other sizes.
            StorageFailed: the storage reported an error.
        """
        try:
            return self._find()
        except OSError as error:
            raise failed(self._directory, "recovery", error) from error

    def _find(self) -> Found | None:
        self._read_headers()
        lap, position = self._checkpoint.offset // self._capacity, self._checkpoint.position
        byte = self._checkpoint.offset % self._capacity
        if lap not in self._headers and byte == 0:
            if self._checkpoint.offset == self._start.offset:
                self._judge_missing(lap, position)
                return None
            # The log may end exactly with the segment before.
            lap, byte = lap - 1, self._capacity
        self._check_kept(lap, byte)
        count = 0
        while True:
            byte, position, walked, sealed = self._walk(lap, byte, position)
            count += walked
            if not sealed or lap + 1 not in self._headers:
                break
            if self._headers[lap + 1].before != position:
                raise LogCorrupt(segment.name(lap + 1), 0, f"its header does not follow {position}")
            lap, byte = lap + 1, 0
        was_torn = self._judge(lap, byte, position, sealed=sealed)
        return self._found(lap, byte, position, count, was_torn)

    def _read_headers(self) -> None:
        names = self._storage.listing(self._directory) if self._exists() else []
        laps = sorted(lap for lap in map(segment.lap_of, names) if lap is not None)
        self._laps = [lap for lap in laps if lap >= self._start.offset // self._capacity]
        for lap in self._laps:
            header = self._header(lap)
            if header is not None:
                self._headers[lap] = header

    def _exists(self) -> bool:
        return self._storage.exists(self._directory)

    def _header(self, lap: int) -> SegmentHeader | None:
        """Return the header if it is whole and of this lap; a ready segment has none."""
        with _Opened(self._storage, segment.path(self._directory, lap)) as file:
            header = segment.parse_header(file.read(HEADER_BYTES, 0))
            size = file.size()
        if header is None or header.lap != lap:
            return None
        name = segment.name(lap)
        if header.group_uid != self._group_uid:
            raise LogCorrupt(name, 0, f"it belongs to group {header.group_uid}")
        if header.segment_bytes != self._settings.segment_bytes:
            raise FailedPrecondition(
                "LOG_SETTINGS",
                f"log segment {name} was made for {header.segment_bytes} bytes a segment, the group"
                f" has {self._settings.segment_bytes}",
            )
        if size != header.segment_bytes:
            raise LogCorrupt(name, size, f"its file has {size} bytes")
        return header

    def _check_kept(self, lap: int, byte: int) -> None:
        """Everything from the oldest file to the checkpoint's must be there, with its header."""
        first = self._laps[0] if self._laps else lap
        for kept in range(min(first, lap), lap + 1):
            if kept not in self._headers:
                problem = "the segment's header is not valid"
                if kept not in self._laps:
                    problem = "the segment is missing"
                raise LogCorrupt(segment.name(kept), 0, problem)
        header = self._headers[lap]
        before = self._checkpoint.position
        start_header = self._headers.get(self._start.offset // self._capacity)
        if start_header is not None and start_header.before != self._start.position:
            raise LogCorrupt(
                segment.name(start_header.lap), 0, f"its header does not follow {self._start}"
            )
        if header.before.lsn > before.lsn or (byte == 0 and header.before != before):
            raise LogCorrupt(
                segment.name(lap), 0, f"its header follows {header.before}, not {before}"
            )

    def _walk(self, lap: int, byte: int, position: Position) -> tuple[int, Position, int, bool]:
        """Follow the chain through one segment: where it stops, after what, and sealed or not."""
        self._walked_from = position.lsn
        self._ends = array("Q", (lap * self._capacity + byte,))
        with _Opened(self._storage, segment.path(self._directory, lap)) as file:
            for at, views in self._chunks(file, byte, position):
                base = lap * self._capacity + at
                self._ends.extend([base + view.end for view in views])
                if self._trust_synced_lsn:
                    claims = [view.synced_lsn or 0 for view in views]
                    self._claim = max(self._claim, *claims)
                self._last_start = newest_start(views) or self._last_start
                byte, position = at + views[-1].end, views[-1].position
            head = file.read(5, HEADER_BYTES + byte)
        left = self._capacity - byte
        return byte, position, len(self._ends) - 1, left == 0 or is_padding(head, 0, left)

    def _chunks(
        self, file: File, at: int, position: Position
    ) -> Iterator[tuple[int, list[RecordView]]]:
        while at < self._capacity:
            data = file.read(min(_CHUNK_BYTES, self._capacity - at), HEADER_BYTES + at)
            views, stop, why = record.scan(data, 0, len(data), position)
            if not views:
                return
            yield at, views
            if why not in ("end", "short"):
                return
            position = views[-1].position
            at += stop

    def _judge(self, lap: int, byte: int, position: Position, *, sealed: bool) -> bool:
        """Decide what a break is (D6); True if a newer record was torn off, False if none was.

        Raises:
            LogCorrupt: the break was durable once.
        """
        at = HEADER_BYTES + byte
        with _Opened(self._storage, segment.path(self._directory, lap)) as file:
            found = evidence.search(file, at, self._settings.segment_bytes, position)
        proof = ""
        later = [other for other in self._headers if other > lap]
        if later:
            proof = f"{segment.name(min(later))} was begun, and this synced before that"
        elif position.lsn < self._floor_lsn:
            proof = f"lsn {self._floor_lsn} is known to have been durable"
        elif self._trust_synced_lsn and found.claim > position.lsn:
            proof = f"a later record says that lsn {found.claim} was durable"
        elif found.chained_end > at + self._window(lap):
            proof = f"records up to byte {found.chained_end} were written only once this was synced"
        if proof:
            broken, broken_at = (lap + 1, 0) if sealed else (lap, at)
            raise LogCorrupt(
                segment.name(broken), broken_at, f"nothing continues {position}, but {proof}"
            )
        self._judge_next(lap + 1, position)
        return found.has_newer

    def _judge_missing(self, lap: int, position: Position) -> None:
        """Decide whether a first segment without a header is a log that was never made."""
        later = [other for other in self._headers if other > lap]
        if later or position.lsn < self._floor_lsn:
            raise LogCorrupt(segment.name(lap), 0, "its header is not valid, but the log was begun")
        self._judge_next(lap, position)

    def _judge_next(self, lap: int, position: Position) -> None:
        """A header is synced before its first record: newer records prove that it was there."""
        if lap not in self._laps:
            return
        with _Opened(self._storage, segment.path(self._directory, lap)) as file:
            head = file.read(MAX_RECORD_BYTES, HEADER_BYTES)
            first = record.parse(head, 0, len(head))
            end = min(HEADER_BYTES + self._settings.max_commit_bytes, self._settings.segment_bytes)
            found = evidence.search(file, HEADER_BYTES, end, position)
        if found.chained_end or (first is not None and record.continues(head, first, position)):
            raise LogCorrupt(
                segment.name(lap),
                0,
                f"its header is not valid, but records after {position} follow",
            )

    def _window(self, lap: int) -> int:
        return max(self._headers[lap].window_bytes, self._settings.max_commit_bytes)

    def _found(self, lap: int, byte: int, position: Position, count: int, was_torn: bool) -> Found:
        end = LogPoint(lap * self._capacity + byte, position)
        # Proven: everything of the segments before, what group.db and the records themselves say,
        # and what lies more than a window before the end.
        by_window = bisect_right(self._ends, end.offset - self._window(lap)) - 1
        proven = max(
            self._walked_from,
            self._walked_from + by_window,
            min(self._claim, position.lsn),
            min(self._floor_lsn, position.lsn),
        )
        return Found(
            headers={kept: header for kept, header in self._headers.items() if kept <= lap},
            top=self._top(lap),
            rewrite_offset=self._ends[proven - self._walked_from],
            window_bytes=self._window(lap),
            recovery=Recovery(end, proven, was_torn, count, self._last_start),
        )

    def _top(self, lap: int) -> int:
        """Return the last of the files above the current one that can serve as they are."""
        while lap + 1 in self._laps:
            with _Opened(self._storage, segment.path(self._directory, lap + 1)) as file:
                header = segment.parse_header(file.read(HEADER_BYTES, 0))
                if file.size() != self._settings.segment_bytes:
                    break
            if header is not None and header.lap in self._laps:
                break  # a recycled file has given up its old name: this is not one
            lap += 1
        return lap


def newest_start(views: Sequence[RecordView]) -> Position | None:
    """Return the position of the last `Start` record in a run, or None."""
    for view in reversed(views):
        if view.kind == record.KIND_START:
            return view.position
    return None


def prove_again(
    storage: Storage, directory: Path, settings: LogSettings, start: LogPoint, found: Found
) -> None:
    """Make durable what the survey read, and make sure that nothing lies behind it (D5).

    Raises:
        OSError: the storage reported an error; the log cannot be used.
    """
    lap = max(found.headers)
    header = found.headers[lap]
    end = found.recovery.end.offset
    byte = end - lap * settings.capacity
    window_end = byte + found.window_bytes
    # Names that survived a SIGKILL are not durable: were a recycled file overwritten before its new
    # name is, power loss would give it back to the lap it came from, damaged.
    storage.sync_directory(directory)
    with _Opened(storage, segment.path(directory, lap), writable=True) as file:
        # The header was synced before the first record, but with no record yet nothing shows it.
        grown = SegmentHeader(
            header.group_uid, lap, header.before, header.segment_bytes, found.window_bytes
        )
        file.write([grown.pack()], 0)
        _rewrite(
            file, HEADER_BYTES + found.rewrite_offset - lap * settings.capacity, HEADER_BYTES + byte
        )
        _zero(file, HEADER_BYTES + byte, HEADER_BYTES + min(window_end, settings.capacity))
        file.sync()
    if window_end > settings.capacity and lap < found.top:
        with _Opened(storage, segment.path(directory, lap + 1), writable=True) as file:
            _zero(file, 0, HEADER_BYTES)
            file.sync()
    _tidy(storage, directory, start.offset // settings.capacity, found.top)


def _rewrite(file: File, start: int, end: int) -> None:
    for at in range(start, end, _STEP_BYTES):
        file.write([file.read(min(_STEP_BYTES, end - at), at)], at)


def _zero(file: File, start: int, end: int) -> None:
    """Write zeroes; a hole would have to be allocated again under a later sync."""
    for at in range(start, end, _STEP_BYTES):
        file.write([bytes(min(_STEP_BYTES, end - at))], at)


def _tidy(storage: Storage, directory: Path, start_lap: int, top: int) -> None:
    """Remove what is no part of the log: before its start, unusable above it, unfinished."""
    removed = False
    for name in storage.listing(directory):
        lap = segment.lap_of(name)
        if name.endswith(segment.TEMPORARY_SUFFIX) or (
            lap is not None and not start_lap <= lap <= top
        ):
            storage.remove(directory / name)
            removed = True
    if removed:
        storage.sync_directory(directory)


class _Opened:
    """A file for the length of a block."""

    def __init__(self, storage: Storage, path: Path, *, writable: bool = False) -> None:
        self._file = storage.open(path, writable=writable)

    def __enter__(self) -> File:
        return self._file

    def __exit__(self, *_: object) -> None:
        self._file.close()
