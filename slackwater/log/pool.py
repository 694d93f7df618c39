"""The pool: which segment files a log has, and how a new one comes about.

Four laps say it all, because files are renamed and removed lowest first, one directory sync each::

    lowest <= oldest <= current <= top

    [lowest, oldest)   spare: trimmed, not yet renamed
    [oldest, current]  kept; `current` is the one being written
    (current, top]     ready: written with zeroes or by an earlier lap, so that no sync of the
                       current segment ever has to commit a file system's metadata

A ready segment has its lap's name, durably, and no valid header of that lap.
"""

import errno
import threading
from pathlib import Path
from typing import Final

from slackwater.errors import NoSpace, StorageFailed
from slackwater.log import segment
from slackwater.log.failstop import FailStop
from slackwater.log.segment import LogSettings, SegmentHeader
from slackwater.storage.seam import Storage

_STEP_BYTES: Final = 1 << 20
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class SegmentPool:
    """The segment files of one log.

    `lock` guards the four laps and `headers` against `prepare` and `trim` from other threads; it
    may be held while a segment is written with zeroes. No other lock is taken under it.
    """

    def __init__(
        self, storage: Storage, directory: Path, settings: LogSettings, failstop: FailStop
    ) -> None:
        """Start with no files; `adopt` or `start_empty` says what there is."""
        self.lock = threading.Lock()
        self.lowest = self.oldest = self.current = self.top = 0
        self.headers: dict[int, SegmentHeader] = {}
        self._storage = storage
        self._directory = directory
        self._settings = settings
        self._failstop = failstop

    def path(self, lap: int) -> Path:
        """Return the file of a lap."""
        return segment.path(self._directory, lap)

    def adopt(self, headers: dict[int, SegmentHeader], top: int) -> None:
        """Take over what recovery found: the kept segments, and ready ones up to `top`."""
        self.headers = dict(headers)
        self.lowest = self.oldest = min(headers)
        self.current = max(headers)
        self.top = top

    def start_empty(self, lap: int) -> None:
        """Remove every segment there is and make `lap` ready; nothing is kept.

        Older segments are removed, not recycled: they may hold another history with higher lsns,
        which must never lie behind the records of this one (D6).

        Raises:
            NoSpace: the file system is full.
            StorageFailed: it failed otherwise.
        """
        step = "mkdir"
        try:
            # Its name may have survived a SIGKILL without being durable: synced in any case.
            self._storage.make_directory(self._directory)
            step = "sync"
            self._storage.sync_directory(self._directory.parent)
            step = "listing"
            for name in sorted(self._storage.listing(self._directory)):
                if segment.lap_of(name) is not None or name.endswith(segment.TEMPORARY_SUFFIX):
                    step = "remove"
                    self._storage.remove(self._directory / name)
            step = "sync"
            self._storage.sync_directory(self._directory)
        except OSError as error:
            raise self._failstop.fail(self._directory, step, error) from error
        with self.lock:
            self.headers = {}
            self._make(lap)
            self.lowest = self.oldest = self.current = self.top = lap

    def make_ready(self, lap: int) -> bool:
        """See to it that `lap` and all below it are ready; True if that took work.

        Raises:
            NoSpace: the log has its full number of segments and none is spare, or the file system
                is full; nothing changed, a later call may succeed.
            StorageFailed: a write, sync or rename failed (D3).
        """
        with self.lock:
            self._failstop.check()
            if lap <= self.top:
                return False
            while self.top < lap:
                if self.lowest < self.oldest:
                    self._rename(self.path(self.lowest), self.top + 1)
                    self.lowest += 1
                elif self.top - self.lowest + 1 < self._settings.segments:
                    self._make(self.top + 1)
                else:
                    raise NoSpace("the log", "Space comes back when links ack or are detached")
                self.top += 1
            return True

    def prepare(self, lap: int) -> bool:
        """Like `make_ready`, but a log that has its full number of segments is no error."""
        with self.lock:
            is_full = self.top - self.lowest + 1 >= self._settings.segments
            if is_full and self.lowest == self.oldest:
                self._failstop.check()
                return False
        return self.make_ready(lap)

    def advance(self, header: SegmentHeader) -> None:
        """Make the next lap the current one; its header is durable."""
        with self.lock:
            assert self.current + 1 == header.lap <= self.top, "laps are dense"
            self.headers[header.lap] = header
            self.current = header.lap

    def trim(self, lap: int) -> None:
        """Free every segment below `lap`; surplus files are removed.

        Raises:
            StorageFailed: a file could not be removed.
        """
        with self.lock:
            self._failstop.check()
            for freed in range(self.oldest, min(lap, self.current)):
                del self.headers[freed]
                self.oldest = freed + 1
            surplus = self.top - self.lowest + 1 - self._settings.segments
            for _ in range(min(surplus, self.oldest - self.lowest)):
                path = self.path(self.lowest)
                try:
                    self._storage.remove(path)
                    self._storage.sync_directory(self._directory)
                except OSError as error:
                    raise self._failstop.fail(path, "remove", error) from error
                self.lowest += 1

    def kept(self) -> dict[int, SegmentHeader]:
        """Return the headers of the kept segments."""
        with self.lock:
            return dict(self.headers)

    def _make(self, lap: int) -> None:
        """Write a new file with zeroes, sync it, and only then give it the lap's name.

        Not fallocate: unwritten extents make every later sync commit the file system's journal,
        and a file system that is full must say so here, not under a record.
        """
        temporary = self._directory / (segment.name(lap) + segment.TEMPORARY_SUFFIX)
        step = "open"
        try:
            file = self._storage.open(temporary, create=True)
            try:
                zeroes = bytes(_STEP_BYTES)
                step = "write"
                for offset in range(0, self._settings.segment_bytes, _STEP_BYTES):
                    length = min(_STEP_BYTES, self._settings.segment_bytes - offset)
                    file.write([memoryview(zeroes)[:length]], offset)
                    file.start_writeback(offset, length)
                step = "sync"
                file.sync()
            finally:
                file.close()
        except OSError as error:
            if error.errno in _FULL:
                self._give_up(temporary)
                raise NoSpace("the file system of the log", "Free space on it") from error
            raise self._failstop.fail(temporary, step, error) from error
        self._rename(temporary, lap)

    def _give_up(self, temporary: Path) -> None:
        """Give the space of an unfinished file back."""
        try:
            if self._storage.exists(temporary):
                self._storage.remove(temporary)
        except OSError as error:
            raise self._failstop.fail(temporary, "remove", error) from error

    def _rename(self, old: Path, lap: int) -> None:
        new = self.path(lap)
        step = "rename"
        try:
            self._storage.rename(old, new)
            step = "sync"
            self._storage.sync_directory(self._directory)
        except OSError as error:
            raise self._failure_of_rename(new, step, error) from error

    def _failure_of_rename(self, path: Path, step: str, error: OSError) -> NoSpace | StorageFailed:
        """A rename that found no room changed nothing; a failed directory sync is final (D3)."""
        if step == "rename" and error.errno in _FULL:
            return NoSpace("the file system of the log", "Free space on it")
        return self._failstop.fail(path, step, error)
