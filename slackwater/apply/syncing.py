"""Full syncs of a replica: begin, regions in stream order, done (D25, D27).

`begin` keeps a guard snapshot of the last consistent state, takes a checkpoint, and then resets the
log: group.db first, in one transaction that also says INCONSISTENT, the files after it. A crash in
between finds a log that is still to be made. Places in the log grow through the reset, so snapshots
keep their order (D22).

The end comes in three durable steps: every region is in synced volumes (the checkpoint), the lsn
from which the replica is consistent is noted, and, once it is applied and checkpointed, the state.
The guard goes last.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from slackwater import errors
from slackwater.apply.checkpoint import Checkpointer
from slackwater.apply.regions import Cursor, Progress, Region, RegionBatch, RegionQueue
from slackwater.apply.volumes import ACTIVE, REMOVING, VolumeSet
from slackwater.group.database import GroupDatabase
from slackwater.group.rows import SyncRow, VolumeRow
from slackwater.log.log import Log
from slackwater.log.segment import fresh_start
from slackwater.position import LogPoint, Position
from slackwater.snapshots.catalogue import Catalogue

GUARD_PREFIX: Final = "guard-"


@dataclass(frozen=True, slots=True)
class VolumeSpec:
    """A volume as the Primary announces it."""

    id: int
    name: str
    size: int


class Syncing:
    """The sync of one replica. Everything here is called under the replica's apply lock."""

    def __init__(
        self,
        database: GroupDatabase,
        volumes: VolumeSet,
        catalogue: Catalogue,
        checkpointer: Checkpointer,
        regions: RegionQueue,
    ) -> None:
        """Take up the sync that group.db says is running, if one is."""
        self.row: SyncRow | None = database.sync()
        self._database = database
        self._volumes = volumes
        self._catalogue = catalogue
        self._checkpointer = checkpointer
        self._regions = regions
        if self.row is not None:
            progress = self._progress(self.row)
            regions.reset(progress)
            checkpointer.reset(checkpointer.point, progress)

    @staticmethod
    def _progress(row: SyncRow) -> Progress:
        cursor = None if row.cursor is None else Cursor(*row.cursor)
        return Progress(0, cursor, row.consistent_lsn)

    @property
    def is_running(self) -> bool:
        """Tell whether the replica is inconsistent until the sync is done."""
        return self.row is not None

    def begin(
        self,
        sync_id: str,
        position: Position,
        specs: Sequence[VolumeSpec],
        total_bytes: int,
        applied: LogPoint,
        log: Log,
        reset_log: Callable[[LogPoint], None],
        last_start: Position | None,
    ) -> None:
        """Let the stream begin anew right after `position`; the volumes are overwritten then.

        The caller has applied all that is durable, and the replica is not frozen.

        Raises:
            NoSpace, OSError: there is no room for the guard; nothing was changed.
            StorageFailed: the storage failed.
        """
        self.drop_old_guards()
        guard = self.row.guard if self.row is not None else ""
        if self.row is None and applied.position.lsn and self._volumes.active():
            # What a site can fall back on while its volumes are a mixture (D27).
            guard = f"{GUARD_PREFIX}{sync_id.lower()[:12]}"
            self._catalogue.create(guard, applied, self._volumes.active(), guard=True)
        # Snapshots look through to the volumes, and the log that could bring them back goes.
        self._checkpointer.run()
        start = fresh_start(log.settings, log.end.offset, position)
        rows = self._rows(specs, position.lsn)
        self._database.begin_sync(
            sync_id,
            start,
            guard=guard,
            total_bytes=total_bytes,
            volumes=rows,
            last_start=last_start,
        )
        self.row = SyncRow(sync_id, None, None, guard, total_bytes)
        self._regions.reset()
        self._checkpointer.reset(start)
        self._volumes.reopen(self._database.volumes())
        reset_log(start)

    def _rows(self, specs: Sequence[VolumeSpec], lsn: int) -> list[VolumeRow]:
        """Return the volume rows of the new set; files that are there are kept and overwritten."""
        named = {spec.id: spec for spec in specs}
        rows = []
        for row in self._volumes.rows():
            spec = named.pop(row.id, None)
            if spec is None:
                rows.append(replace(row, state=REMOVING, lsn=lsn))
            else:
                rows.append(replace(row, name=spec.name, size=spec.size, state=ACTIVE))
        new = [self._volumes.new_row(one.id, one.name, one.size, lsn) for one in named.values()]
        return rows + new

    def add_regions(
        self, sync_id: str, sequence: int, regions: Sequence[Region], cursor: Cursor, after_lsn: int
    ) -> bool:
        """Queue regions at their place in the stream; returns whether there is room for more.

        Raises:
            FailedPrecondition: another sync, or none, is running.
        """
        self._check(sync_id)
        self._regions.add(RegionBatch(after_lsn, sequence, tuple(regions), cursor))
        return self._regions.has_room

    def finish(self, sync_id: str, consistent_lsn: int, after_lsn: int) -> None:
        """Queue the end of the sync at its place in the stream.

        Raises:
            FailedPrecondition: another sync, or none, is running.
        """
        self._check(sync_id)
        self._regions.add(
            RegionBatch(after_lsn, 0, (), None, last=True, consistent_lsn=consistent_lsn)
        )

    def _check(self, sync_id: str) -> None:
        if self.row is None or self.row.sync_id != sync_id:
            running = "none" if self.row is None else self.row.sync_id
            raise errors.FailedPrecondition(
                "SYNC_MISMATCH",
                f"sync {sync_id} is not running here ({running} is)",
                "Start a new sync",
            )

    def is_over(self) -> bool:
        """Tell whether the checkpoint has passed the lsn from which the replica is consistent."""
        consistent_lsn = self._checkpointer.durable_progress.consistent_lsn
        return (
            self.row is not None
            and consistent_lsn is not None
            and self._checkpointer.point.position.lsn >= consistent_lsn
        )

    def wants_checkpoint(self, applied_lsn: int) -> bool:
        """Tell whether only a checkpoint is missing for the replica to be consistent."""
        consistent_lsn = self._regions.applied.consistent_lsn
        return self.row is not None and consistent_lsn is not None and applied_lsn >= consistent_lsn

    def settle(self) -> bool:
        """Become consistent if the sync is over; True if that happened now."""
        if not self.is_over():
            return False
        self._database.finish_sync(self._checkpointer.point)
        self.row = None
        self._regions.reset()
        self._checkpointer.reset(self._checkpointer.point)
        with suppress(OSError):  # no room for its row: `drop_old_guards` comes again
            self.drop_old_guards()
        return True

    def drop_old_guards(self) -> None:
        """Let go of guard snapshots once no sync runs; one exported or held stays.

        Raises:
            OSError: no room in group.db; may be tried again.
        """
        if self.row is not None:
            return
        for row in self._catalogue.ready():
            if row.guard and not (row.exported or row.held):
                self._catalogue.delete(row.name, guard=True)
