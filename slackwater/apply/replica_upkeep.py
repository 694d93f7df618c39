"""The replica's upkeep: what is due now and then, beside receiving and applying."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

from slackwater import errors
from slackwater.apply.applier import Applier
from slackwater.apply.checkpoint import Checkpointer
from slackwater.apply.database import INBOX, ReplicaDatabase
from slackwater.apply.messages import Messages
from slackwater.apply.receiving import Receiver
from slackwater.apply.syncing import Syncing
from slackwater.apply.workers import Worker
from slackwater.clock import Clock
from slackwater.group.history import History
from slackwater.group.rows import SnapshotRow
from slackwater.snapshots.catalogue import Catalogue

MERGE_STEPS: Final = 8
COPY_STEPS: Final = 64
"""Steps of full copies in a row, so that a checkpoint that is due need not wait long."""
COPY_BYTES_PER_SECOND: Final = 64 << 20
SHORTAGE_SECONDS: Final = 1.0
"""How long upkeep waits before it asks a full disk for a segment again."""


class ReplicaUpkeep(ABC):
    """What a replica does now and then; part of `Replica`.

    Attributes:
        copy_bytes_per_second: How fast full copies of snapshots are made, at most.
        on_copied: Told of each full copy that is whole.
        shortage: What could not be done for lack of space, as one sentence; it is tried again.
    """

    copy_bytes_per_second = COPY_BYTES_PER_SECOND
    shortage = ""
    is_closed: bool
    clock: Clock
    database: ReplicaDatabase
    failure: errors.SlackwaterError | None
    applier: Applier
    catalogue: Catalogue
    checkpointer: Checkpointer
    messages: Messages
    receiver: Receiver
    syncing: Syncing
    on_change: Callable[[], None]
    on_copied: Callable[[SnapshotRow], None] = staticmethod(lambda _row: None)
    _apply_lock: AbstractContextManager[object]
    _writer: Worker
    _history: History | None = None
    _log_shortage = ""
    _patient_until = 0.0
    _copied_until = 0.0
    _copy_allowance = 0.0

    @abstractmethod
    def _fail(self, error: errors.SlackwaterError) -> None:
        """See `Replica`."""

    @abstractmethod
    def keep_budget(self) -> None:
        """See `ReplicaBudget`."""

    @property
    @abstractmethod
    def log_use(self) -> float:
        """How full the log is; see `ReplicaView`."""

    def _tick(self) -> bool:
        self.maintain()
        return False

    def maintain(self) -> None:
        """Do what is due: timers, checkpoint, the next segment, snapshots that are going."""
        if self.failure is not None or self.is_closed:
            return
        try:
            self._maintain()
        except errors.SlackwaterError as error:
            self._fail(error)

    def _maintain(self) -> None:
        self.checkpointer.spread()
        shortage = ""
        for work in (
            self._tick_messages,
            self._checkpoint_due,
            self._merge,
            self._copy,
            self.keep_budget,
            self._forget_messages,
        ):
            try:
                work()
            except OSError as error:  # no room for it: tried again at the next call
                shortage = f"no space in {error.filename or 'the data directory'}"
        if self.receiver.is_full:
            self._writer.wake()
        self._prepare()
        self.shortage = shortage or self._log_shortage

    def _prepare(self) -> None:
        """Make the log's next segment ready; a full disk is not asked all the time.

        Trying means writing what room there is full of zeroes, and giving it back.
        """
        now = self.clock.monotonic()
        if self._log_shortage and now < self._patient_until:
            return
        try:
            self.receiver.log.prepare()
            self._log_shortage = ""
        except errors.NoSpace as error:
            self._log_shortage = str(error)
            self._patient_until = now + SHORTAGE_SECONDS

    def _tick_messages(self) -> None:
        with self._apply_lock:
            self.messages.tick(self.log_use)

    def keep_messages(self, number: int, seconds: float) -> None:
        """Keep about so many messages from now on, and only so long; see `History`."""
        self.database.keep_messages(number, INBOX)
        self._history = History(self.database, self.clock, seconds)

    def _forget_messages(self) -> None:
        if self._history is not None:
            self._history.tick()

    def _checkpoint_due(self) -> None:
        if (
            self.checkpointer.is_due()
            or self.receiver.is_full
            or self.syncing.wants_checkpoint(self.applier.applied.position.lsn)
        ):
            self.checkpoint()

    def _merge(self) -> None:
        with self._apply_lock:
            self.syncing.drop_old_guards()
        for _ in range(MERGE_STEPS):
            if not self.catalogue.merge_step():
                break

    def _copy(self) -> None:
        """Go on with full copies as fast as the setting lets them, one snapshot after another."""
        now = self.clock.monotonic()
        seconds = min(max(now - self._copied_until, 0.0), 1.0)
        self._copied_until = now
        self._copy_allowance = min(
            self._copy_allowance + seconds * self.copy_bytes_per_second,
            float(self.copy_bytes_per_second),
        )
        looked: int | None = 0
        steps = 0
        while looked is not None and self._copy_allowance > 0 and steps < COPY_STEPS:
            try:
                looked = self.catalogue.copy_step()
            except errors.FailedPrecondition:
                return  # after a crash, not yet at the snapshot
            self._copy_allowance -= looked or 0
            steps += 1
        uid = self.catalogue.copy_sync()
        if uid is None or looked is not None:
            return
        with self._apply_lock:
            row = self.catalogue.finish_copy(uid)
        if row is not None:
            self.on_copied(row)
            self.on_change()

    def checkpoint(self) -> None:
        """Take a checkpoint now, and let a sync that only waited for it be over.

        Raises:
            StorageFailed: a sync failed, which is final (D3).
            OSError: no room in group.db; may be tried again.
        """
        before = self.checkpointer.durable_progress
        try:
            self.checkpointer.run()
            with self._apply_lock:
                is_over = self.syncing.settle()
        except errors.StorageFailed as error:
            self._fail(error)
            raise
        if is_over or before != self.checkpointer.durable_progress:
            self.on_change()
