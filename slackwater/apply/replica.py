"""A replica: the Secondary's engine for one group.

Composition of the receiver (log), the applier, the delivery of messages, snapshots, syncs and
checkpoints over one group directory. Without `start` there are no threads: `receive`, `step` and
`maintain` do the same work when they are called, which is how simulation drives a replica.

Locks, in the order they may be taken: `_apply_lock` (reentrant: the applier's step and everything
that must not happen inside one), the checkpoint's, the receiver's, those of the parts.

Invariants: applied <= durable; while frozen nothing after the message is in a volume; durable never
goes back but by a sync; an effect happens once per lsn.
"""

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from slackwater import errors
from slackwater.apply.applier import Applier
from slackwater.apply.check_results import CheckResults
from slackwater.apply.checkpoint import Checkpointer
from slackwater.apply.controls import Controls
from slackwater.apply.messages import Messages
from slackwater.apply.opening import Opened, ReplicaSpec, fill, open_parts
from slackwater.apply.receiving import OnDurable, Receiver
from slackwater.apply.regions import RegionQueue
from slackwater.apply.replica_budget import Expired
from slackwater.apply.replica_messages import ReplicaMessages
from slackwater.apply.replica_snapshots import ReplicaSnapshots
from slackwater.apply.replica_syncs import ReplicaSyncs
from slackwater.apply.replica_upkeep import ReplicaUpkeep
from slackwater.apply.replica_view import ReplicaView
from slackwater.apply.syncing import Syncing
from slackwater.apply.workers import IDLE_SECONDS, TICK_SECONDS, Worker
from slackwater.clock import Clock
from slackwater.group.directory import DataDirectory, GroupDirectory
from slackwater.histogram import Histogram
from slackwater.ibc.receivers import LEASE_GRACE_SECONDS
from slackwater.position import LogPoint
from slackwater.record import KIND_IBC_MESSAGE, Buffer, RecordView
from slackwater.storage.seam import Storage
from slackwater.v1 import record_pb2

FREEZE_LOG_LIMIT: Final = 0.8


class Replica(ReplicaMessages, ReplicaSnapshots, ReplicaSyncs, ReplicaView, ReplicaUpkeep):
    """One group on its Secondary; every method may be called from any thread."""

    def __init__(
        self,
        parts: Opened,
        clock: Clock,
        *,
        freeze_log_limit: float = FREEZE_LOG_LIMIT,
        lease_grace: float = LEASE_GRACE_SECONDS,
    ) -> None:
        """Compose what `open_parts` opened; use `open` or `create`."""
        self.name = parts.identity.name
        self.uid = parts.identity.uid
        self.replica_uid = uuid.UUID(hex=parts.identity.settings["replica_uid"])
        self.directory = parts.directory
        self.database = parts.database
        self.volumes = parts.volumes
        self.catalogue = parts.catalogue
        self.clones = parts.clones
        self.checks = CheckResults(parts.database)
        self.clones.on_failed = self._fail
        self.clock = clock
        self.on_change: Callable[[], None] = _nothing
        self.on_expired: Callable[[Expired], None] = lambda _expired: None
        self.failure: errors.SlackwaterError | None = parts.volumes.failure
        self.is_closed = False
        self.apply_seconds = Histogram()
        self._parts = parts
        self._storage = parts.storage
        self._apply_lock = threading.RLock()
        self.receiver = Receiver(parts.log, self._wake_writer, parts.last_start)
        self.regions = RegionQueue()
        self.controls = Controls(
            parts.database,
            parts.volumes,
            parts.catalogue,
            lambda changes: self.applier.preserve(changes),
            self._reach_message,
        )
        self.applier = Applier(
            self._reader(),
            lambda: self.receiver.log.durable,
            parts.checkpoint,
            parts.volumes,
            parts.catalogue,
            self.controls,
            self.regions,
        )
        parts.catalogue.reached = lambda: self.applier.reached
        self.open_budget()
        self.checkpointer = Checkpointer(
            self._apply_lock,
            self.applier,
            parts.volumes,
            parts.catalogue,
            parts.database,
            lambda: self.receiver.log,
            self.regions,
            clock,
            parts.checkpoint,
        )
        self.syncing = Syncing(
            parts.database, parts.volumes, parts.catalogue, self.checkpointer, self.regions
        )
        self.messages = Messages(
            parts.database,
            clock,
            link=parts.identity.settings["link"],
            freeze_log_limit=freeze_log_limit,
            lease_grace=lease_grace,
            stand_still=self.checkpointer.run,
            go_on=self._go_on,
            snapshot=self._snapshot_at,
        )
        end = parts.log.end
        # After a clean stop at a message the replica stands there again once it is reached.
        stood = parts.database.delivery() is not None
        ahead = parts.catalogue.next_boundary(parts.checkpoint.offset) is not None
        must_recover = not parts.is_clean or stood or ahead
        self._recover_to: LogPoint | None = None
        if must_recover and parts.checkpoint.offset < end.offset:
            self._recover_to = end
        self._writer = Worker("log-" + self.name, self.write_some, IDLE_SECONDS, self._died)
        self._applying = Worker("apply-" + self.name, self.step, IDLE_SECONDS, self._died)
        self._upkeep = Worker("upkeep-" + self.name, self._tick, TICK_SECONDS, self._died)
        self._has_threads = False

    @classmethod
    def open(
        cls,
        storage: Storage,
        directory: GroupDirectory,
        clock: Clock,
        *,
        freeze_log_limit: float = FREEZE_LOG_LIMIT,
        lease_grace: float = LEASE_GRACE_SECONDS,
    ) -> "Replica":
        """Open a replica; after an unclean stop it is RECOVERING until `step` has replayed its log.

        Raises:
            FailedPrecondition: it is in use, of a newer format, or not a Secondary's.
            LogCorrupt, DataCorrupt: durable bytes are damaged; nothing was cut.
            StorageFailed, OSError: the storage failed.
        """
        parts = open_parts(storage, directory, clock)
        try:
            return cls(parts, clock, freeze_log_limit=freeze_log_limit, lease_grace=lease_grace)
        except BaseException:
            parts.lock.close()
            raise

    @classmethod
    def create(
        cls,
        storage: Storage,
        data: DataDirectory,
        spec: ReplicaSpec,
        clock: Clock,
        *,
        freeze_log_limit: float = FREEZE_LOG_LIMIT,
        lease_grace: float = LEASE_GRACE_SECONDS,
    ) -> "Replica":
        """Make a replica as a Hello describes it: no volumes, CONSISTENT at the group's origin.

        Raises:
            AlreadyExists: a group of that name is here.
            NoSpace, StorageFailed, OSError: the storage failed; nothing is left behind.
        """
        directory = data.create_group(
            spec.group, lambda building: fill(storage, building, spec, clock)
        )
        return cls.open(
            storage,
            directory,
            clock,
            freeze_log_limit=freeze_log_limit,
            lease_grace=lease_grace,
        )

    # -- threads -----------------------------------------------------------------------------

    def start(self) -> None:
        """Start the threads."""
        self._has_threads = True
        for worker in (self._writer, self._applying, self._upkeep):
            worker.start()

    def stop(self) -> None:
        """End the threads; work in hand is finished."""
        for worker in (self._writer, self._applying, self._upkeep):
            worker.stop()
        self._has_threads = False

    def close(self, *, clean: bool = True) -> None:
        """Stop and let everything go; a clean close leaves nothing to replay but what is frozen."""
        self.stop()
        with self._apply_lock:
            if self.is_closed:
                return
            self.is_closed = True
            self.clones.close(clean=clean)
            is_sealed = clean and self.failure is None and self._close_clean()
            if not is_sealed:
                with suppress(OSError):
                    self.catalogue.close(clean=False)
            self.applier.close()
            self.receiver.log.close()
            self.volumes.close()
            self.database.close()
            self._parts.lock.close()

    def _close_clean(self) -> bool:
        """Checkpoint, seal the maps, and say so last; False: the next start recovers."""
        try:
            while self.receiver.write_some():
                pass
            self.messages.store_timers()
            self.checkpointer.run()
            if self._recover_to is not None or not self.applier.is_at_boundary:
                return False
            self.catalogue.close(clean=True)
            self.database.set_clean_end(self.receiver.log.end.position.lsn)
        except (errors.SlackwaterError, OSError):
            return False
        return True

    def _died(self, error: BaseException) -> None:
        """A thread met what it did not expect: the replica stops rather than go on without it."""
        if isinstance(error, errors.SlackwaterError):
            self._fail(error)
        else:
            self._fail(errors.GroupFailed(self.name, f"{type(error).__name__}: {error}"))

    def fail(self, error: errors.SlackwaterError) -> None:
        """Stop here, position kept: what the stream brings cannot be taken."""
        self._fail(error)

    def _fail(self, error: errors.SlackwaterError) -> None:
        if self.failure is None:
            self.failure = error
        self.on_change()

    def check_alive(self) -> None:
        """Refuse when the replica has failed.

        Raises:
            GroupFailed: it has; the cause is in it.
        """
        if self.failure is not None:
            raise errors.GroupFailed(self.name, str(self.failure))

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Change something between two steps; a failure of the storage is the replica's (D3)."""
        with self._apply_lock:
            self.check_alive()
            try:
                yield
            except errors.StorageFailed as error:
                self._fail(error)
                raise

    # -- receiving ---------------------------------------------------------------------------

    def new_stream(self, link: str) -> None:
        """A Hello ended the older stream: finish its last append, forget what cannot be (D15)."""
        while self.write_some():
            pass
        self.receiver.forget()
        with self._apply_lock:
            self.messages.delivery.link = link
            self.applier.forget_regions()
            self.checkpointer.new_stream()

    def append_run(self, run: Buffer, views: Sequence[RecordView], on_durable: OnDurable) -> bool:
        """Queue whole records proved to continue `receiver.received`; see `Receiver.append`.

        Raises:
            GroupFailed: the replica has failed.
            OutOfOrder: they do not continue.
        """
        self.check_alive()
        if any(view.kind == KIND_IBC_MESSAGE for view in views):
            self.volumes.start_writeback(
                everything=True
            )  # so that the sync at the message is short (D24)
        return self.receiver.append(run, views, on_durable)

    def write_some(self) -> bool:
        """Make what is queued durable; False: nothing to do now."""
        if self.failure is not None:
            return False
        try:
            did = self.receiver.write_some()
        except errors.SlackwaterError as error:
            self._fail(error)
            return False
        if did:
            self._applying.wake()
            self.on_change()
        elif self.receiver.is_full:
            self._upkeep.wake()
        return did

    def _wake_writer(self) -> None:
        self._writer.wake()

    def _wake_applier(self) -> None:
        self._applying.wake()

    # -- applying ----------------------------------------------------------------------------

    def step(self) -> bool:
        """Apply one bounded piece of what is durable; False: nothing to do now."""
        with self._apply_lock:
            if self.failure is not None or self.is_closed:
                return False
            began = time.perf_counter()
            try:
                did = self.applier.step()
            except errors.SlackwaterError as error:
                self._fail(error)
                return False
            if did:
                self.apply_seconds.observe(time.perf_counter() - began)
            self._check_recovered()
        if did:
            if self.checkpointer.has_acks_due():
                self._upkeep.wake()
            self.on_change()
        return did

    def _check_recovered(self) -> None:
        if (
            self._recover_to is not None
            and self.applier.applied.position.lsn >= self._recover_to.position.lsn
        ):
            self._recover_to = None

    def _reach_message(self, body: record_pb2.IbcMessage, point: LogPoint, time_ns: int) -> bool:
        if self.syncing.wants_checkpoint(self.applier.applied.position.lsn):
            self.checkpoint()  # the message lies past where the replica is consistent (C18)
        passed, is_new = self.messages.reach(
            body, point, time_ns, consistent=not self.syncing.is_running
        )
        if is_new:
            self._recover_to = None  # nothing after it was ever applied (D21)
        return passed

    def _go_on(self) -> None:
        if self.applier.stopped is not None:
            self.applier.release()
        self._applying.wake()


def _nothing() -> None:
    """Nobody listens."""
