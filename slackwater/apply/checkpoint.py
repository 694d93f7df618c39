"""Checkpoints: what of the log need not be replayed: the volumes hold it durably (D2, D10).

The position is read before the syncs begin: what enters a volume during them is not covered.
Volumes and overlays are synced without the applier's lock; only a FREEZE delivery (D24) and the
reset of the log for a sync make the applier wait for a checkpoint.
"""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

from slackwater.apply.applier import Applier
from slackwater.apply.regions import Progress, RegionQueue
from slackwater.apply.volumes import VolumeSet
from slackwater.clock import Clock
from slackwater.group.database import GroupDatabase
from slackwater.log.log import Log
from slackwater.position import LogPoint
from slackwater.snapshots.catalogue import Catalogue

SECONDS: Final = 10.0
SHARE_OF_LOG: Final = 4
REGION_BYTES: Final = 4 << 20


class Checkpointer:
    """Takes checkpoints of one replica and knows when one is due.

    Locks: `apply_lock`, then `_lock`; never the other way round.
    """

    def __init__(
        self,
        apply_lock: AbstractContextManager[object],
        applier: Applier,
        volumes: VolumeSet,
        catalogue: Catalogue,
        database: GroupDatabase,
        log: Callable[[], Log],
        regions: RegionQueue,
        clock: Clock,
        point: LogPoint,
    ) -> None:
        """Begin at the checkpoint of group.db."""
        self.point = point
        self.durable_progress = Progress()
        self.checkpoints_total = 0
        self._apply_lock = apply_lock
        self._applier = applier
        self._volumes = volumes
        self._catalogue = catalogue
        self._database = database
        self._log = log
        self._regions = regions
        self._clock = clock
        self._lock = threading.Lock()
        self._at_seconds = clock.monotonic()

    def run(self) -> LogPoint:
        """Sync volumes and overlays, move the checkpoint, free log space; return its place.

        Raises:
            StorageFailed: a sync failed, which is final (D3).
        """
        with self._apply_lock:
            self._lock.acquire()
            # Read before the syncs (D2). The cursor belongs to the same instant (D25).
            point = self._applier.applied
            progress = self._regions.applied
        try:
            self._move(point, progress)
        finally:
            self._lock.release()
        with self._apply_lock, self._lock:  # no other sync may hold a file that is let go
            self._volumes.drop_removed(self.point.position.lsn, self._catalogue.used_volumes())
        return point

    def _move(self, point: LogPoint, progress: Progress) -> None:
        is_moved = point.offset > self.point.offset
        if is_moved or progress != self.durable_progress:
            self._volumes.sync()
            self._catalogue.sync()
            if progress != self.durable_progress:
                cursor = progress.cursor
                self._database.advance_sync(
                    None if cursor is None else (cursor.volume, cursor.offset), point
                )
                if progress.consistent_lsn is not None:
                    self._database.sync_sent(progress.consistent_lsn)
            else:
                self._database.checkpoint(point)
            self.point = point
            self.durable_progress = progress
            self._regions.unacked_bytes = 0
            self.checkpoints_total += 1
        self._at_seconds = self._clock.monotonic()
        self._log().trim(self.point.offset)

    def reset(self, point: LogPoint, progress: Progress | None = None) -> None:
        """Begin anew at another place: the log was reset for a sync."""
        with self._lock:
            self.point = point
            self.durable_progress = progress or Progress()

    def new_stream(self) -> None:
        """Regions are numbered from 1 again: what is acked is 0, whatever is being synced (D25)."""
        with self._lock:
            self.durable_progress = self._regions.renumber(self.durable_progress)

    def is_due(self) -> bool:
        """Tell whether log space, replay time or a sync's acks ask for a checkpoint (D10)."""
        if self._regions.applied != self.durable_progress and (
            not len(self._regions) or self.has_acks_due()
        ):
            return True
        written = self._applier.applied.offset - self.point.offset
        if written <= 0:
            return False
        log = self._log()
        if written >= log.capacity_bytes // SHARE_OF_LOG:
            return True
        return self._clock.monotonic() - self._at_seconds >= SECONDS

    def has_acks_due(self) -> bool:
        """Tell whether the Primary waits for acks of regions: its window is a few times that."""
        return self._regions.unacked_bytes >= REGION_BYTES

    def spread(self) -> None:
        """Let the system begin to write back some of what was applied a while ago (D10)."""
        self._volumes.start_writeback()
