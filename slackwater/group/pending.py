"""Changes that are in the log and not yet in their volumes.

Two things put a change here: writeback, where a write is answered before the log's sync (D7), and a
volume that refused a write the log already holds (D4).  Either way the change is history: reads
must see it, and it must reach its volume in lsn order.

A reader takes `overlapping` *before* it reads the volume and lays the result over what it read: a
change leaves here only after it is in the volume, so a reader misses none.
"""

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import pairwise

from slackwater.extent import Extent
from slackwater.group.volume import Volume
from slackwater.storage.seam import Buffer

BUCKET_BYTES = 1 << 20
WIDE_BYTES = 64 << 20


class Change:
    """One queued change: ``payload`` None means zeroes; ``number`` grows in log order."""

    __slots__ = ("length", "number", "offset", "payload", "volume")

    def __init__(
        self, number: int, volume: Volume, offset: int, length: int, payload: bytes | None
    ) -> None:
        """Keep the fields as they are."""
        self.number = number
        self.volume = volume
        self.offset = offset
        self.length = length
        self.payload = payload


class Pending:
    """An ordered queue of changes with an index by volume and 1 MiB bucket.

    One thread adds and drains (the leader of the commit); any thread reads. Zeroes over a wide
    range are not indexed bucket by bucket but looked at by every reader.
    Invariant: ``held_bytes`` is the sum of the payload lengths queued.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._queue: deque[Change] = deque()
        self._buckets: dict[tuple[int, int], list[Change]] = {}
        self._wide: list[Change] = []
        self._index_lock = threading.Lock()
        self._added = 0
        self.held_bytes = 0

    def __len__(self) -> int:
        """Return how many changes wait for their volume."""
        return len(self._queue)

    def add(self, volume: Volume, offset: int, length: int, payload: Buffer | None) -> None:
        """Queue one change; the payload is copied, for its buffer belongs to a connection."""
        self._added += 1
        copy = None if payload is None else bytes(payload)
        change = Change(self._added, volume, offset, length, copy)
        with self._index_lock:
            self._queue.append(change)
            if length > WIDE_BYTES:
                self._wide.append(change)
            else:
                for bucket in _buckets(offset, length):
                    self._buckets.setdefault((volume.id, bucket), []).append(change)
        if payload is not None:
            self.held_bytes += length

    def drain(self) -> None:
        """Write every queued change into its volume, in order.

        Raises:
            OSError: a volume refused; that change and all later ones are still queued.
        """
        while self._queue:
            change = self._queue[0]
            if change.payload is None:
                change.volume.zero(change.offset, change.length)
            else:
                change.volume.write(change.offset, change.payload)
                self.held_bytes -= change.length
            self._forget(change)

    def _forget(self, change: Change) -> None:
        with self._index_lock:
            self._queue.popleft()
            if change.length > WIDE_BYTES:
                self._wide.remove(change)
                return
            for bucket in _buckets(change.offset, change.length):
                held = self._buckets[(change.volume.id, bucket)]
                held.remove(change)
                if not held:
                    del self._buckets[(change.volume.id, bucket)]

    def overlapping(self, volume: Volume, offset: int, length: int) -> Sequence[Change]:
        """Return the queued changes that touch the range, oldest first."""
        if not self._queue:
            return ()
        end = offset + length
        with self._index_lock:
            candidates: Iterable[Change]
            if length > WIDE_BYTES:
                candidates = list(self._queue)
            else:
                candidates = list(self._wide)
                for bucket in _buckets(offset, length):
                    candidates.extend(self._buckets.get((volume.id, bucket), ()))
        found = {
            change.number: change
            for change in candidates
            if change.volume is volume
            and change.offset < end
            and offset < change.offset + change.length
        }
        return [found[number] for number in sorted(found)]


def _buckets(offset: int, length: int) -> range:
    return range(offset // BUCKET_BYTES, (offset + max(length, 1) - 1) // BUCKET_BYTES + 1)


def lay_over(data: bytearray, offset: int, changes: Sequence[Change]) -> None:
    """Bring ``data``, read from a volume at ``offset``, up to date with queued changes."""
    end = offset + len(data)
    for change in changes:
        first, last = max(offset, change.offset), min(end, change.offset + change.length)
        if change.payload is None:
            data[first - offset : last - offset] = bytes(last - first)
        else:
            part = memoryview(change.payload)[first - change.offset : last - change.offset]
            data[first - offset : last - offset] = part


def as_data(extents: Sequence[Extent], changes: Sequence[Change]) -> list[Extent]:
    """Return the extents with every range that a queued change touches reported as data."""
    if not changes:
        return list(extents)
    result: list[Extent] = []
    for extent in extents:
        end = extent.offset + extent.length
        edges = {extent.offset, end}
        for change in changes:
            for edge in (change.offset, change.offset + change.length):
                if extent.offset < edge < end:
                    edges.add(edge)
        for first, last in pairwise(sorted(edges)):
            data = extent.data or any(
                change.offset < last and first < change.offset + change.length for change in changes
            )
            if result and result[-1].data is data:
                result[-1] = Extent(result[-1].offset, result[-1].length + last - first, data)
            else:
                result.append(Extent(first, last - first, data))
    return result
