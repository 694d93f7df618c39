"""One volume of a clone: the snapshot's bytes, and over them what was written since.

A data file is sparse and as long as the volume; each chunk that is the clone's own lies there at
its own offset. A write into part of another chunk copies that chunk up first, whole. The bit comes
last, so a chunk is the snapshot's or the clone's and never something between. Under the layer that
is written to there may be frozen ones: the chunk is then the uppermost layer's that has it.

`flush` is where a write becomes durable: the data is synced first, then the bits that stood when
the sync began are written and synced. What was not flushed may be lost by a crash, as on any disk
with a cache; chunks whose bit was lost are the snapshot's again.

Locks, in the order they may be taken: `_flushing`, `_writing`, `_turn`. Who holds several volumes
takes them in the order of their ids.
"""

import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, Protocol

from slackwater import errors
from slackwater.clones.layer import Layer
from slackwater.extent import Extent
from slackwater.storage.seam import Buffer

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
        stack: tuple[Layer, ...],
        size: int,
        chunk_bytes: int,
        on_failed: Callable[[], None],
    ) -> None:
        """Use open layers, the top last; `on_failed` is told once if a sync failed."""
        self.name = name
        self.size = size
        self.chunk_bytes = chunk_bytes
        self._find_parent = parent
        self._stack = stack  # replaced whole: a reader keeps to the one it began with
        self._on_failed = on_failed
        self._flushing = threading.RLock()
        self._writing = threading.RLock()
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
            return self._read(self._stack, length, offset)

    def _read(self, stack: tuple[Layer, ...], length: int, offset: int) -> bytes:
        pieces = [
            self._find_parent().read(end - start, start)
            if layer is None
            else layer.data.read(end - start, start)
            for start, end, layer in self._runs(stack, offset, offset + length)
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
                    for start, stop, layer in self._runs(self._stack, at, step_end)
                    for extent in (
                        self._find_parent().extents(start, stop - start)
                        if layer is None
                        else layer.data.extents(start, stop - start)
                    )
                ]
            yield from found
            at = step_end

    def _runs(
        self, stack: tuple[Layer, ...], start: int, end: int
    ) -> Iterator[tuple[int, int, Layer | None]]:
        """Yield neighbouring bytes of one layer, or None for the snapshot: where from, where to."""
        at, began, held_by = start, start, None
        while at < end:
            found = _holder(stack, at // self.chunk_bytes)  # once: it may change at any moment
            if found is not held_by:
                if began < at:
                    yield began, at, held_by
                began, held_by = at, found
            at = (at // self.chunk_bytes + 1) * self.chunk_bytes
        if began < end:
            yield began, end, held_by

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
            self._stack[-1].data.write((data,), offset)

    def zero(self, offset: int, length: int) -> None:
        """Make a range read as zeroes (D12); raises as `write`."""
        with self._changing(offset, offset + length):
            self._stack[-1].data.zero(offset, length)

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
            bits = self._stack[-1].bits
            for chunk in {first, next_chunk - 1}:
                low = chunk * self.chunk_bytes
                high = min(low + self.chunk_bytes, self.size)
                if (start > low or end < high) and not bits.has(chunk):
                    self._copy_up(low, high)
            yield
            bits.set(first, next_chunk)

    def _copy_up(self, low: int, high: int) -> None:
        *below, top = self._stack
        data = self._read(tuple(below), high - low, low)
        if data == bytes(high - low):
            top.data.zero(low, high - low)
        else:
            top.data.write((data,), low)

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
                top = self._stack[-1]
                pages = top.bits.take()
            self._sync(top.data.sync)
            if not pages:
                return
            try:
                top.bits.write(pages)
            except OSError:
                with self._writing:
                    top.bits.give_back(pages)
                    self._is_changed = True
                raise
            self._sync(top.bits.sync)

    def _sync(self, sync: Callable[[], None]) -> None:
        try:
            sync()
        except OSError as error:
            self._is_failed = True
            self._on_failed()
            raise errors.StorageFailed(f"clone {self.name}", "sync", error.errno or 0) from error

    # -- clones of it ------------------------------------------------------------------------

    @contextmanager
    def standing(self) -> Iterator[bool]:
        """Hold writers off while the body runs; all that was answered is durable.

        Yields whether the top holds anything. Raises as `flush`.
        """
        with self._using(), self._flushing, self._writing:
            self._check_alive()
            self.flush()
            yield not self._stack[-1].bits.is_empty

    def grow(self, top: Layer) -> Layer:
        """Write to a new layer from now on, within `standing`; returns the one that is frozen."""
        frozen = self._stack[-1]
        self._stack = (*self._stack, top)
        return frozen

    # -- the end -----------------------------------------------------------------------------

    def close(self, *, flush: bool) -> None:
        """Wait for who uses it, then close the files; with `flush` nothing answered is lost."""
        if flush:
            with suppress(errors.SlackwaterError, OSError):  # the client's flush would have told
                self.flush()
        with self._turn:
            self._is_closed = True
            self._turn.wait_for(lambda: self._users == 0)
        self._stack[-1].close()  # those below are not ours alone

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


def _holder(stack: tuple[Layer, ...], chunk: int) -> Layer | None:
    for layer in reversed(stack):
        if layer.bits.has(chunk):
            return layer
    return None
