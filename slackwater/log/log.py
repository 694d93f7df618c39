"""The log of one group: appended by one, synced in order, read by many.

Offsets and segments are explained in `slackwater.log.segment`, recovery in
`slackwater.log.recovery`. The order of writes is the whole of its safety:

1. records, in file order, into a segment made ready before (no metadata to commit with a sync);
2. at a segment's end: padding, sync, and only then the next one's header, sync, records (D1, D14);
3. never more than the window past the synced end: `append` syncs by itself before that (D5, D6).

Locks, in the order they may be taken: the caller's (one appender), ``_sync_lock`` (one sync at a
time, so that a failure is known before the next sync could hide it, D3), the pool's.
"""

import threading
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from slackwater import record
from slackwater.errors import NoSpace
from slackwater.log import layout, recovery
from slackwater.log.failstop import FailStop
from slackwater.log.layout import Step
from slackwater.log.pool import SegmentPool
from slackwater.log.reader import LogReader, Trimmed, find_from
from slackwater.log.recovery import Recovery
from slackwater.log.run import Run
from slackwater.log.segment import (
    HEADER_BYTES,
    MAX_RECORD_BYTES,
    MIN_SEAL_BYTES,
    LogSettings,
    SegmentHeader,
)
from slackwater.position import LogPoint, Position
from slackwater.storage.seam import Buffer, File, Storage

__all__ = ["Log", "LogSettings", "Recovery", "Run"]


class Log:
    """One group's log, open for appending.

    Invariants: ``oldest <= durable.offset <= end.offset``; everything up to `durable` survives
    power loss; `durable` and `end` never go back.

    Attributes:
        settings: Sizes.
        end: Appended so far, not necessarily durable.
        durable: Synced so far, without a gap.
    """

    def __init__(
        self,
        storage: Storage,
        directory: Path,
        group_uid: uuid.UUID,
        settings: LogSettings,
        pool: SegmentPool,
        failstop: FailStop,
        end: LogPoint,
    ) -> None:
        """Take an open pool whose current segment ends, durably, at `end`; see `create`, `open`."""
        self.settings = settings
        self.end = end
        self.durable = end
        self._storage = storage
        self._directory = directory
        self._group_uid = group_uid
        self._pool = pool
        self._failstop = failstop
        self._sync_lock = threading.Lock()
        self._capacity = settings.capacity
        self._window = settings.max_commit_bytes
        self._lap = pool.current
        self._segment_end = (pool.current + 1) * self._capacity
        # Records below this are synced; unlike `durable` it does not lie before padding.
        self._synced_offset = end.offset
        self._file = self._open_segment(pool.current)

    @classmethod
    def create(
        cls,
        storage: Storage,
        directory: Path,
        group_uid: uuid.UUID,
        settings: LogSettings,
        start: LogPoint,
    ) -> Self:
        """Make an empty log that begins at `start`; segments found there are removed.

        group.db must say `start` before this is called: a crash in the middle leaves what `open`
        takes for a log that is still to be made.

        Raises:
            NoSpace: the file system is full; may be called again.
            StorageFailed: the storage reported an error.
        """
        assert start.offset % settings.capacity == 0, "a log starts with a lap"
        failstop = FailStop()
        pool = SegmentPool(storage, directory, settings, failstop)
        lap = start.offset // settings.capacity
        pool.start_empty(lap)
        header = SegmentHeader(
            group_uid, lap, start.position, settings.segment_bytes, settings.max_commit_bytes
        )
        _write_header(storage, pool.path(lap), header, failstop).close()
        pool.adopt({lap: header}, lap)
        return cls(storage, directory, group_uid, settings, pool, failstop, start)

    @classmethod
    def open(
        cls,
        storage: Storage,
        directory: Path,
        group_uid: uuid.UUID,
        settings: LogSettings,
        start: LogPoint,
        checkpoint: LogPoint,
        floor_lsn: int,
        *,
        trust_synced_lsn: bool,
    ) -> tuple[Self, Recovery]:
        """Open a log after a stop of any kind: find its end, prove it, cut a torn tail (D5, D6).

        Args:
            storage: Where the files are.
            directory: The log's own.
            group_uid: Whose log it must be.
            settings: Those it was made with.
            start: Where it begins.
            checkpoint: A durable point at or past `start`, from which the chain is followed.
            floor_lsn: The highest lsn that is known to have been durable: acked by a link, or the
                end at a clean stop.
            trust_synced_lsn: Records say what was durable *here* when they were built: true for
                the Primary that built them, false on a Secondary.

        Raises:
            LogCorrupt: durable bytes are damaged; nothing was changed.
            FailedPrecondition: a segment has a newer format or other sizes; nothing was changed.
            NoSpace: the log was still to be made and the file system is full.
            StorageFailed: the storage reported an error.
        """
        found = recovery.Survey(
            storage,
            directory,
            group_uid,
            settings,
            start,
            checkpoint,
            floor_lsn,
            trust_synced_lsn=trust_synced_lsn,
        ).find()
        if found is None:
            log = cls.create(storage, directory, group_uid, settings, start)
            return log, Recovery(start, start.position.lsn, False, 0)
        failstop = FailStop()
        try:
            recovery.prove_again(storage, directory, settings, start, found)
        except OSError as error:
            raise failstop.fail(directory, "recovery", error) from error
        pool = SegmentPool(storage, directory, settings, failstop)
        pool.adopt(found.headers, found.top)
        end = found.recovery.end
        return cls(storage, directory, group_uid, settings, pool, failstop, end), found.recovery

    @property
    def oldest(self) -> int:
        """Log offset of the oldest byte still kept: the beginning of the oldest segment."""
        return self._pool.oldest * self._capacity

    @property
    def oldest_lsn(self) -> int:
        """The lowest lsn whose position the log can tell: that before its oldest record."""
        return min(header.before.lsn for header in self._pool.kept().values())

    @property
    def capacity_bytes(self) -> int:
        """Bytes of records the log can hold."""
        return self.settings.capacity_bytes

    @property
    def used_bytes(self) -> int:
        """Bytes from the oldest kept segment's beginning to the end."""
        return self.end.offset - self.oldest

    @property
    def free_bytes(self) -> int:
        """What is left, before the reserve for control records."""
        return max(self.capacity_bytes - self.used_bytes, 0)

    @property
    def failed(self) -> bool:
        """Whether the storage failed once; the log then takes nothing more (D3)."""
        return self._failstop.cause is not None

    def has_room(self, size: int, *, control: bool = False) -> bool:
        """Tell whether `append` will find room for `size` bytes, however they fall on segments."""
        end = self.end.offset  # read once: the log may roll meanwhile
        left = self._capacity - end % self._capacity
        if size > left - MIN_SEAL_BYTES:
            # Less than a record is lost to padding at each segment's end.
            lost = min(size, MAX_RECORD_BYTES, self._capacity) + MIN_SEAL_BYTES
            size += lost * (2 + size // self._capacity)
        return end + size <= self._limit(control)

    def append(self, runs: Sequence[Run], *, control: bool = False) -> None:
        """Write whole records at the end; they are durable after the next `sync`.

        Buffers are not kept after the call. `control` may use the space kept for control records
        (D9).

        Raises:
            NoSpace: they do not fit, or the next segment could not be made ready; nothing was
                written.
            StorageFailed: a write or sync failed, now or before (D3).
        """
        self._failstop.check()
        end = self.end
        assert runs[0].first_lsn == end.position.lsn + 1, "records continue the log"
        if len(runs) == 1:
            pieces, size = runs[0].pieces, runs[0].size
        else:
            pieces = [piece for run in runs for piece in run.pieces]
            size = sum([run.size for run in runs])
        after = end.offset + size
        left = self._segment_end - after
        if (
            (left >= MIN_SEAL_BYTES or left == 0)
            and after <= self._limit(control)
            and after - self._synced_offset <= self._window
        ):
            self._write(pieces, end.offset)
            self.end = LogPoint(after, runs[-1].last)
            return
        steps = layout.lay_out(
            runs, end.offset, self._segment_end, self._capacity, window=self._window
        )
        if steps[-1].offset + steps[-1].size > self._limit(control):
            raise NoSpace("the log", "Space comes back when links ack or are detached")
        self._pool.make_ready(steps[-1].lap)
        for step in steps:
            self._perform(step)

    def sync(self) -> LogPoint:
        """Make durable what is appended now; return how far the log is durable.

        One fdatasync, none if there is nothing to do. May run beside `append` of another thread.

        Raises:
            StorageFailed: it failed, now or before; it is never tried again (D3).
        """
        with self._sync_lock:
            self._failstop.check()
            point = self.end
            if point.offset > self.durable.offset:
                self._sync_file()
                self._synced_offset = point.offset
                self.durable = point
            return self.durable

    def trim(self, offset: int) -> None:
        """Free the segments that lie whole below `offset`, for reuse; never that of `durable`.

        The caller answers for readers: none may still need a byte below `offset` (D14).

        Raises:
            StorageFailed: the storage failed, now or before.
        """
        self._pool.trim(min(offset, self.durable.offset) // self._capacity)

    def prepare(self) -> bool:
        """Make the next segment ready ahead of need; True if there was work to do.

        For a maintenance thread, so that no writer waits for it. There is none when the log has
        its full number of segments and none is spare.

        Raises:
            NoSpace: the file system is full.
            StorageFailed: the storage failed, now or before.
        """
        return self._pool.prepare(self._lap + 1)

    def find(self, position: Position) -> LogPoint | None:
        """Return the place of exactly this position, or None if the log does not hold it."""
        point = self._after(position.lsn)
        return point if point and point.position == position else None

    def position_before(self, lsn: int) -> LogPoint | None:
        """Return the place right before a durable record, or None if it is not held."""
        return self._after(lsn - 1) if lsn <= self.durable.position.lsn else None

    def _after(self, lsn: int) -> LogPoint | None:
        """Return the place right after the record with this lsn, or None if it is not held."""
        end = self.end
        if lsn >= end.position.lsn:
            return end if lsn == end.position.lsn else None
        headers = self._pool.kept()
        laps = [lap for lap, header in headers.items() if header.before.lsn <= lsn]
        if not laps:
            return None
        lap = max(laps)
        offset = lap * self._capacity
        if headers[lap].before.lsn == lsn:
            return LogPoint(offset, headers[lap].before)
        reader = LogReader(self._storage, self._directory, self._group_uid, self.settings)
        try:
            return find_from(reader, offset, min(end.offset, offset + self._capacity), lsn)
        except Trimmed:
            return None
        finally:
            reader.close()

    def close(self) -> None:
        """Close the files; syncs nothing."""
        self._file.close()

    def __enter__(self) -> Self:
        """Return the log itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def _limit(self, control: bool) -> int:
        limit = self.oldest + self.settings.capacity_bytes
        return limit if control else limit - self.settings.control_reserve_bytes

    def _perform(self, step: Step) -> None:
        if step.lap > self._lap:
            self._roll()
        elif step.offset + step.size - self._synced_offset > self._window:
            self.sync()
        self._write(step.pieces, step.offset)
        self.end = LogPoint(step.offset + step.size, step.last)

    def _roll(self) -> None:
        """Seal the current segment, sync it, and begin the next (D1, D14)."""
        with self._sync_lock:
            end = self.end
            left = self._segment_end - end.offset
            if left:
                self._write([record.pad(left)], end.offset)
            self._sync_file()
            self.durable = end
            lap = self._lap + 1
            header = SegmentHeader(
                self._group_uid, lap, end.position, self.settings.segment_bytes, self._window
            )
            file = _write_header(self._storage, self._pool.path(lap), header, self._failstop)
            self._pool.advance(header)
            self._file.close()
            self._file = file
            self._lap = lap
            self._synced_offset = self._segment_end
            self._segment_end += self._capacity

    def _write(self, pieces: Sequence[Buffer], offset: int) -> None:
        try:
            self._file.write(pieces, HEADER_BYTES + offset - self._lap * self._capacity)
        except OSError as error:
            raise self._failstop.fail(self._file.path, "write", error) from error

    def _sync_file(self) -> None:
        self._failstop.check()
        try:
            self._file.sync()
        except OSError as error:
            raise self._failstop.fail(self._file.path, "sync", error) from error

    def _open_segment(self, lap: int) -> File:
        path = self._pool.path(lap)
        try:
            return self._storage.open(path)
        except OSError as error:
            raise self._failstop.fail(path, "open", error) from error


def _write_header(storage: Storage, path: Path, header: SegmentHeader, failstop: FailStop) -> File:
    """Write a segment's header and make it durable before any record of it (D14)."""
    step = "open"
    try:
        file = storage.open(path)
        step = "write"
        file.write([header.pack()], 0)
        step = "sync"
        file.sync()
    except OSError as error:
        raise failstop.fail(path, step, error) from error
    return file
