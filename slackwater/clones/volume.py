"""One volume of a clone: the snapshot's bytes, and over them what was written since.

The data file is sparse and as long as the volume; each chunk that is the clone's own lies there at
its own offset. A write into part of another chunk copies that chunk up first, whole. The bit comes
last, so a chunk is the snapshot's or the clone's and never something between.

`flush` is where a write becomes durable: the data is synced first, then the bits that stood when
the sync began are written and synced. What was not flushed may be lost by a crash, as on any disk
with a cache; chunks whose bit was lost are the snapshot's again.

Locks, in the order they may be taken: `_flushing`, `_writing`, `_turn`.
"""

import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, Protocol

from slackwater import errors
from slackwater.clones.bits import Bits
from slackwater.extent import Extent
from slackwater.storage.seam import Buffer, File

_EXTENT_STEP_BYTES: Final = 64 << 20


class Parent(Protocol):
    """What a clone stands on; its bytes never change."""

    def read(self, length: int, offset: int) -> bytes:
        """Return the bytes of a range."""
        ...

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """Yield data and holes of a range."""
        ...


class CloneVolume:
    """A writable volume over a snapshot's; used from any number of threads."""

    def __init__(
        self,
        name: str,
        parent: Callable[[], Parent],
        data: File,
        bits: Bits,
        size: int,
        chunk_bytes: int,
        on_failed: Callable[[], None],
    ) -> None:
        """Use open files; `on_failed` is told once if a sync failed."""
        self.name = name
        self.size = size
        self.chunk_bytes = chunk_bytes
        self._find_parent = parent
        self._data = data
        self._bits = bits
        self._on_failed = on_failed
        self._flushing = threading.Lock()
        self._writing = threading.Lock()
        self._turn = threading.Condition()
        self._users = 0
        self._is_closed = False
        self._is_failed = False
        self._is_changed = True  # what a killed process left may be in a cache only (D5)

    # -- reading -----------------------------------------------------------------------------

    def read(self, length: int, offset: int) -> bytes:
        """Return the bytes of a range within the volume.

        Raises:
            OutOfRange: the range reaches past the end.
            NotFound: the clone is gone.
            DataCorrupt: a chunk of the snapshot is damaged.
            OSError: the storage failed.
        """
        self._check(offset, length)
        with self._using():
            pieces = [
                self._data.read(end - start, start)
                if own
                else self._find_parent().read(end - start, start)
                for start, end, own in self._runs(offset, offset + length)
            ]
        return b"".join(pieces)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """Yield data and holes that cover the range exactly.

        Raises:
            OutOfRange, NotFound: as `read`.
        """
        self._check(offset, length)
        at, end = offset, offset + length
        while at < end:
            step_end = min(end, at + _EXTENT_STEP_BYTES)
            with self._using():
                found = [
                    extent
                    for start, stop, own in self._runs(at, step_end)
                    for extent in (
                        self._data.extents(start, stop - start)
                        if own
                        else self._find_parent().extents(start, stop - start)
                    )
                ]
            yield from found
            at = step_end

    def _runs(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """Yield neighbouring bytes that are of one file: where from, where to, whether our own."""
        at, began, kind = start, start, False
        while at < end:
            own = self._bits.has(at // self.chunk_bytes)  # once: it may change at any moment
            if own is not kind:
                if began < at:
                    yield began, at, kind
                began, kind = at, own
            at = (at // self.chunk_bytes + 1) * self.chunk_bytes
        if began < end:
            yield began, end, kind

    # -- writing -----------------------------------------------------------------------------

    def write(self, offset: int, data: Buffer) -> None:
        """Write bytes; durable at the next flush.

        Raises:
            OutOfRange, NotFound, DataCorrupt: as `read`.
            StorageFailed: a sync failed before; the clone takes no more writes.
            OSError: no room, or the storage failed; the chunks are what they were, or partly new.
        """
        end = offset + len(data)
        with self._changing(offset, end):
            self._data.write((data,), offset)

    def zero(self, offset: int, length: int) -> None:
        """Make a range read as zeroes (D12); raises as `write`."""
        with self._changing(offset, offset + length):
            self._data.zero(offset, length)

    @contextmanager
    def _changing(self, start: int, end: int) -> Iterator[None]:
        """Copy up what the body does not fill; the chunks are our own once it is done."""
        self._check(start, end - start)
        if start == end:
            return
        first, next_chunk = start // self.chunk_bytes, -(-end // self.chunk_bytes)
        with self._using(), self._writing:
            self._check_alive()
            self._is_changed = True
            for chunk in {first, next_chunk - 1}:
                low = chunk * self.chunk_bytes
                high = min(low + self.chunk_bytes, self.size)
                if (start > low or end < high) and not self._bits.has(chunk):
                    self._copy_up(low, high)
            yield
            self._bits.set(first, next_chunk)

    def _copy_up(self, low: int, high: int) -> None:
        data = self._find_parent().read(high - low, low)
        if data == bytes(high - low):
            self._data.zero(low, high - low)
        else:
            self._data.write((data,), low)

    def flush(self) -> None:
        """Make every write that was answered durable: the data first, the bits after it.

        Raises:
            NotFound: the clone is gone.
            StorageFailed: a sync failed, which is final (D3): the clone takes no more writes.
            OSError: no room for the bits; it may be tried again.
        """
        with self._using(), self._flushing:
            with self._writing:
                self._check_alive()
                if not self._is_changed:
                    return
                self._is_changed = False
                pages = self._bits.take()
            self._sync(self._data.sync)
            if not pages:
                return
            try:
                self._bits.write(pages)
            except OSError:
                with self._writing:
                    self._bits.give_back(pages)
                    self._is_changed = True
                raise
            self._sync(self._bits.sync)

    def _sync(self, sync: Callable[[], None]) -> None:
        try:
            sync()
        except OSError as error:
            self._is_failed = True
            self._on_failed()
            raise errors.StorageFailed(f"clone {self.name}", "sync", error.errno or 0) from error

    # -- the end -----------------------------------------------------------------------------

    def close(self, *, flush: bool) -> None:
        """Wait for who uses it, then close the files; with `flush` nothing answered is lost."""
        if flush:
            with suppress(errors.SlackwaterError, OSError):  # the client's flush would have told
                self.flush()
        with self._turn:
            self._is_closed = True
            self._turn.wait_for(lambda: self._users == 0)
        self._data.close()
        self._bits.close()

    @contextmanager
    def _using(self) -> Iterator[None]:
        with self._turn:
            if self._is_closed:
                raise errors.NotFound("clone", self.name)
            self._users += 1
        try:
            yield
        finally:
            with self._turn:
                self._users -= 1
                self._turn.notify_all()

    def _check_alive(self) -> None:
        if self._is_failed:
            raise errors.StorageFailed(f"clone {self.name}", "an earlier sync", errno.EIO)

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise errors.OutOfRange(
                "offset", f"{length} bytes at {offset} reach past the volume's {self.size} bytes"
            )
