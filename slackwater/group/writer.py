"""The Primary's engine for one group: its log, its volumes, its checkpoints.

`GroupWriter` owns an open group directory. Writes go through its `Committer`; everything else here
is what surrounds a commit: reads, checkpoints, log space, control records. It starts no thread: a
service calls `maintain` regularly, a simulation calls it when it likes.

Invariants (docs/failure-model.md): the checkpoint never passes ``in_volumes`` (D2) nor a hold; the
log is never trimmed past the checkpoint, an attached link's acked position, or a hold (D11).
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from slackwater.clock import Clock
from slackwater.errors import DataCorrupt, GroupFailed, NoSpace, StorageFailed
from slackwater.extent import Extent
from slackwater.group.batch import Batch, Change, control_change
from slackwater.group.commit import Committer
from slackwater.group.database import GroupDatabase
from slackwater.group.holds import FULL, Hold, Holds
from slackwater.group.marks import LocalMarks, Marks
from slackwater.group.pending import as_data, lay_over
from slackwater.group.volume import Volume
from slackwater.histogram import Histogram
from slackwater.log.log import Log
from slackwater.position import LogPoint

CHECKPOINT_SHARE = 4
"""A checkpoint is due when a fourth of the log was written since the last one (D10)."""

CHECKPOINT_BYTES = 512 << 20
"""... or this much: about 10 s of replay on a slow disk (D10)."""

CHECKPOINT_SECONDS = 30.0
"""... or after this long, if anything was written."""

SPREAD_BYTES = 32 << 20
"""Written to volumes before the system is asked to begin to write it back (D10)."""

SHORTAGE_SECONDS = 1.0
"""How long maintenance waits before it asks a full disk again."""


class GroupWriter:
    """An open group of which this service is the Primary."""

    def __init__(
        self,
        name: str,
        database: GroupDatabase,
        log: Log,
        volumes: Mapping[int, Volume],
        *,
        epoch: int,
        clock: Clock,
        writeback: bool = False,
        marks: Marks | None = None,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        """Serve a group whose log and volumes `recover` has brought in step.

        Args:
            name: of the group.
            database: its group.db.
            log: its log; everything in it is in the volumes.
            volumes: by id.
            epoch: of this Primary.
            clock: times of records, monotonic time of pacing.
            writeback: answer before the sync (D7).
            marks: told how far senders may read.
            wake: called when there is something new to send; must not block.
        """
        self.name = name
        self.database = database
        self.log = log
        self.volumes = dict(volumes)
        self.marks: Marks = marks if marks is not None else LocalMarks()
        self.clock = clock
        self.log_pressure: Callable[[int], None] = lambda _offset: None
        self.links_floor: Callable[[], int | None] = lambda: None
        self.checkpoint_point = log.end
        self.checkpoints_total = 0
        self.fence_seconds = Histogram()
        self.fence_began: float | None = None
        """Since when, monotonic, a fence has been holding writes back; None: none does."""
        self.sending = threading.Lock()
        """Messages are placed one after the other, so that a repeated one finds the first (C3)."""
        self.shortage: NoSpace | None = None
        """What maintenance could not do for lack of space; it is tried again."""
        self._wake = wake
        self._maintenance = threading.Lock()
        self._burial = threading.Lock()
        self._retired: list[tuple[int, Volume, Callable[[], None]]] = []
        self._patient_until = clock.monotonic()
        self._spread_bytes = 0
        self._checkpointed_at = clock.monotonic()
        self.committer = Committer(
            name,
            log,
            epoch,
            clock,
            writeback=writeback,
            published=self._publish,
            relieve=self.make_room,
            stopped=self._stopped,
        )
        self._holds = Holds(name, self.committer.fail)
        self._publish(log.durable, log.durable)
        self.marks.trim_offset = log.oldest

    # -- writes and reads ---------------------------------------------------------------------

    @property
    def batch_bytes(self) -> int:
        """Bytes of payload that one commit takes; larger batches are better cut by the caller."""
        return self.log.settings.max_commit_bytes

    @property
    def largest_request_bytes(self) -> int:
        """Bytes of the largest single write: all its records must fit the log at once (D8)."""
        return min(32 << 20, self.log.settings.log_bytes // 8)

    @property
    def failure(self) -> GroupFailed | None:
        """Why the group stopped, if it did."""
        return self.committer.failure

    def submit(self, changes: Sequence[Change], *, sync: bool = False) -> None:
        """Commit changes, in order; returns when they may be answered.

        Raises:
            GroupFailed: the group has stopped (D3).
            NoSpace: the disk is full.
            Unavailable: a volume fails; writes go on by themselves when it does not (D4).
        """
        if not changes and not (sync and self.committer.writeback):
            if self.failure is not None:
                raise self.failure
            return  # writethrough: whatever was answered is durable, a flush has nothing to do
        self.committer.commit(Batch(changes, sync=sync))

    def read_into(self, volume: Volume, offset: int, target: memoryview) -> None:
        """Read ``len(target)`` bytes: the volume, with what the log holds beyond it laid over."""
        if self.failure is not None:
            raise self.failure
        held = self.committer.pending
        changes = held.overlapping(volume, offset, len(target)) if len(held) else ()
        volume.read_into(offset, target)
        if changes:
            data = bytearray(target)
            lay_over(data, offset, changes)
            target[:] = data

    def extents(self, volume: Volume, offset: int, length: int) -> list[Extent]:
        """Return data and holes of a range; what is held back counts as data."""
        changes = self.committer.pending.overlapping(volume, offset, length)
        return as_data(list(volume.extents(offset, length)), changes)

    def _publish(self, durable: LogPoint, in_volumes: LogPoint) -> None:
        self.marks.in_volumes_offset = in_volumes.offset
        if self.marks.durable_offset != durable.offset:
            self.marks.durable_offset = durable.offset
            self.marks.durable_lsn = durable.position.lsn
            self._wake()

    def _stopped(self) -> None:
        self.marks.failed = 1

    # -- control records ----------------------------------------------------------------------

    def append_control(self, kind: int, body: bytes, *, through_gate: bool = False) -> LogPoint:
        """Append one control record and return the point right after it, once durable.

        The caller holds (`hold`) if a row must be written for it.
        """
        batch = Batch((control_change(kind, body),), sync=True, control=True)
        self.committer.commit(batch, through_gate=through_gate)
        assert batch.last is not None
        return batch.last

    @contextmanager
    def fenced(self, timeout_seconds: float) -> Iterator[None]:
        """Hold writes back while the body runs (C2, D8); see `Committer.fence`."""
        self.fence_began = self.clock.monotonic()
        try:
            with self.committer.fence(timeout_seconds):
                yield
        finally:
            self.fence_began = None

    @contextmanager
    def hold(self) -> Iterator[Hold]:
        """Keep the checkpoint and the log where they are until rows have followed records (D11).

        A record appended in the body is replayed after a crash as long as its row is not written.
        """
        with self._holds.hold(lambda: self.committer.in_volumes) as hold:
            yield hold

    def settle_rows(self) -> None:
        """Write rows that group.db had no room for; what depends on rows calls this first.

        Raises:
            NoSpace: group.db is still full.
            GroupFailed: group.db failed (D3).
        """
        self._holds.settle()

    # -- checkpoint and log space -------------------------------------------------------------

    def checkpoint(self) -> LogPoint:
        """Make the volumes durable up to ``in_volumes`` as of now, and free log space.

        Raises:
            GroupFailed: a sync of a volume or of group.db failed; it is not tried again (D3).
            NoSpace: group.db is full; the checkpoint stays where it was.
        """
        with self._maintenance:
            point = self._checkpoint()
        self._bury()
        return point

    def _checkpoint(self) -> LogPoint:
        if self.failure is not None:
            raise self.failure
        # Read before the sync: what enters a volume during it is not covered by it (D2). A hold
        # taken later starts at or past this point.
        point = self._holds.lowest(self.committer.in_volumes)
        if point.offset > self.checkpoint_point.offset:
            self._sync_volumes()
            try:
                self.database.checkpoint(point)
            except (OSError, DataCorrupt) as error:
                if isinstance(error, OSError) and error.errno in FULL:
                    raise NoSpace(
                        f"group.db of group {self.name!r}", "Free space; it goes on by itself"
                    ) from error
                raise self.committer.fail(str(error)) from error
            self.checkpoint_point = point
            self.checkpoints_total += 1
        self._checkpointed_at = self.clock.monotonic()
        self._trim()
        return point

    def _sync_volumes(self) -> None:
        for volume in list(self.volumes.values()):
            try:
                volume.sync()
            except OSError as error:
                failed = StorageFailed(str(volume.path), "sync", error.errno or 0)
                raise self.committer.fail(str(failed)) from error

    def _trim(self) -> None:
        if self.failure is not None:
            return
        floor = self.checkpoint_point.offset
        links = self.links_floor()
        if links is not None:
            floor = min(floor, links)
        if floor > self.marks.trim_offset:
            # Senders look at the mark after each read: it moves before any segment does (D14).
            self.marks.trim_offset = floor
            before = self.log.oldest
            try:
                self.log.trim(floor)
            except StorageFailed as failed:
                raise self.committer.fail(str(failed)) from failed
            if self.log.oldest > before:
                self.committer.room_made()

    def trim(self) -> None:
        """Free log space that the links have let go of."""
        with self._maintenance:
            self._trim()

    def make_room(self, needed: int) -> None:
        """Free log space for a writer that waits for so many bytes; holds no lock it needs (D9).

        A link that holds the log beyond what the checkpoint frees is let go of: writers never
        stall for a dead link (it becomes DIRTY). Not if another's wait has just made the room, nor
        if the checkpoint itself stands in the way.
        """
        with self._maintenance:
            if self.failure is not None or self.log.has_room(needed):
                return
            before = self.log.oldest
            self._checkpoint()
            gain = self.checkpoint_point.offset - before
            if self.log.oldest == before and gain >= self.log.settings.capacity:
                self.log_pressure(self.checkpoint_point.offset)
                self._trim()

    # -- volumes that go ----------------------------------------------------------------------

    def retire(self, volume: Volume, point: LogPoint, bury: Callable[[], None]) -> None:
        """Take a volume out of service whose removal is the record right before `point` (D28).

        Args:
            volume: nobody uses it any more; its row says REMOVING.
            point: once the checkpoint is there, the volume is closed and `bury` called.
            bury: removes its file and row; called again if it raises OSError.
        """
        with self._maintenance:
            del self.volumes[volume.id]
            self._retired.append((point.offset, volume, bury))

    def _bury(self) -> None:
        with self._burial:
            for one in list(self._retired):
                offset, volume, bury = one
                if offset <= self.checkpoint_point.offset:
                    volume.close()
                    bury()
                    self._retired.remove(one)

    def is_checkpoint_due(self) -> bool:
        """Tell whether log space or replay time asks for a checkpoint (D10)."""
        written = self.committer.in_volumes.offset - self.checkpoint_point.offset
        if not written:
            return False
        age = self.clock.monotonic() - self._checkpointed_at
        limit = min(self.log.settings.log_bytes // CHECKPOINT_SHARE, CHECKPOINT_BYTES)
        return written >= limit or age >= CHECKPOINT_SECONDS

    def maintain(self) -> None:
        """Do what is due and not on the path of a write: segments, checkpoint, retries.

        What lacks space is put off and said in `shortage`.

        Raises:
            GroupFailed: the storage failed (D3).
            OSError: the files of a removed volume could not be removed; it is tried again.
        """
        if self.failure is not None:
            return
        if self.committer.writeback and self.committer.is_behind:
            self.submit((), sync=True)
        if self.committer.stalled is not None and self.committer.retry_volumes():
            self.committer.room_made()
        if self.shortage is not None and self.clock.monotonic() < self._patient_until:
            self.trim()
            return
        self._spread()
        try:
            self._prepare()
            self.settle_rows()
            if self.is_checkpoint_due():
                self.checkpoint()
            else:
                self.trim()
                self._bury()
            self.shortage = None
        except NoSpace as shortage:
            self.shortage = shortage
            self._patient_until = self.clock.monotonic() + SHORTAGE_SECONDS

    def _spread(self) -> None:
        """Have volumes written back bit by bit, so that a checkpoint finds little to do (D10)."""
        written = self.committer.payload_bytes_total
        if written - self._spread_bytes >= SPREAD_BYTES:
            self._spread_bytes = written
            for volume in list(self.volumes.values()):
                volume.start_writeback(0, volume.size)

    def _prepare(self) -> None:
        try:
            self.log.prepare()
        except StorageFailed as failed:
            raise self.committer.fail(str(failed)) from failed

    def close(self, *, clean: bool = True) -> None:
        """Close the group; a clean close leaves nothing to replay and says so in group.db."""
        try:
            if clean and self.failure is None:
                self._finish()
        finally:
            self.log.close()
            for volume in (*self.volumes.values(), *(one[1] for one in self._retired)):
                volume.close()
            self.database.close()

    def _finish(self) -> None:
        try:
            self.submit((), sync=True)
            self.settle_rows()
            self.checkpoint()
        except (NoSpace, OSError):
            return  # the next start replays what this one could not finish
        if self.checkpoint_point == self.log.end:
            self.database.set_clean_end(self.log.end.position.lsn)
