"""Regions of a sync, waiting for their place in the stream (D25).

A region is applied when exactly the records before it have been applied. Regions are not in the
log, so a region is acked only when the volumes are synced and the checkpoint stands at or past its
place; until then a crash brings the older records back over it and the Primary sends it again.
"""

import threading
from collections import deque
from dataclasses import dataclass, replace
from typing import Final

from slackwater.storage.seam import Buffer

MAX_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Region:
    """One range of a volume; `data` None means zeroes."""

    volume: int
    offset: int
    length: int
    data: Buffer | None


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a sync has come: everything before this byte of this volume is sent."""

    volume: int
    offset: int


@dataclass(frozen=True, slots=True)
class RegionBatch:
    """What one SyncRegions carried, and where in the stream it stands.

    Attributes:
        after_lsn: The lsn after which it is applied.
        sequence: The Primary's number for it, acked as a whole.
        regions: In the order they are written.
        cursor: Stored when the batch is acked.
        last: True if it stands for the end of the sync: nothing but `consistent_lsn` counts.
        consistent_lsn: With `last`: the lsn from which the replica is consistent.
    """

    after_lsn: int
    sequence: int
    regions: tuple[Region, ...]
    cursor: Cursor | None
    last: bool = False
    consistent_lsn: int = 0

    @property
    def data_bytes(self) -> int:
        """Bytes of memory the batch holds."""
        return sum(len(region.data) for region in self.regions if region.data is not None)


@dataclass(frozen=True, slots=True)
class Progress:
    """What was applied of a sync; becomes durable with a checkpoint."""

    sequence: int = 0
    cursor: Cursor | None = None
    consistent_lsn: int | None = None


class RegionQueue:
    """Batches in stream order: received at one end, applied at the other.

    Invariant: `held_bytes` is the memory of the queued batches.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._batches: deque[RegionBatch] = deque()
        self._lock = threading.Lock()
        self.held_bytes = 0
        self.unacked_bytes = 0
        self.applied = Progress()

    def __len__(self) -> int:
        """Return how many batches wait."""
        return len(self._batches)

    @property
    def has_room(self) -> bool:
        """Tell whether another batch may be received."""
        return self.held_bytes < MAX_BYTES

    def add(self, batch: RegionBatch) -> None:
        """Queue a batch behind the others."""
        with self._lock:
            assert not self._batches or self._batches[-1].after_lsn <= batch.after_lsn
            self._batches.append(batch)
            self.held_bytes += batch.data_bytes

    def first(self) -> RegionBatch | None:
        """Return the batch that is next, without taking it."""
        return self._batches[0] if self._batches else None

    def done(self) -> None:
        """Take the first batch: it is in the volumes."""
        with self._lock:
            batch = self._batches.popleft()
            self.held_bytes -= batch.data_bytes
            self.unacked_bytes += batch.data_bytes
            before = self.applied
            self.applied = Progress(
                batch.sequence if not batch.last else before.sequence,
                batch.cursor or before.cursor,
                batch.consistent_lsn if batch.last else before.consistent_lsn,
            )

    def reset(self, progress: Progress | None = None) -> None:
        """Forget everything: another stream, or another sync, begins."""
        with self._lock:
            self._batches.clear()
            self.held_bytes = self.unacked_bytes = 0
            self.applied = progress or Progress()

    def renumber(self, durable: Progress) -> Progress:
        """Forget what waits: another stream begins, and numbers its batches from 1.

        An end of the sync that is not durable is forgotten too: the Primary is told of none and
        sends regions again, which may be newer than the lsn that came with that end.

        Returns the durable progress in the new numbering.
        """
        with self._lock:
            self._batches.clear()
            self.held_bytes = 0
            consistent_lsn = durable.consistent_lsn
            self.applied = replace(self.applied, sequence=0, consistent_lsn=consistent_lsn)
            return replace(durable, sequence=0)
