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
from slackwater.snapshots.catalogue import Catalogue

MERGE_STEPS: Final = 8
SHORTAGE_SECONDS: Final = 1.0
"""How long upkeep waits before it asks a full disk for a segment again."""


class ReplicaUpkeep(ABC):
    """What a replica does now and then; part of `Replica`.

    Attributes:
        shortage: What could not be done for lack of space, as one sentence; it is tried again.
    """

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
    _apply_lock: AbstractContextManager[object]
    _writer: Worker
    _history: History | None = None
    _log_shortage = ""
    _patient_until = 0.0

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
