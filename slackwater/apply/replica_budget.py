"""The replica's budget of bytes that snapshots keep, and what is done when it is spent."""

from abc import ABC
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass

from slackwater import errors
from slackwater.apply.applier import Applier
from slackwater.apply.database import ReplicaDatabase
from slackwater.clock import Clock
from slackwater.clones.catalogue import Clones
from slackwater.group.rows import SnapshotRow
from slackwater.snapshots.budget import EXPIRE, OK, BudgetSettings
from slackwater.snapshots.catalogue import Catalogue
from slackwater.snapshots.making import DELETING


@dataclass(frozen=True, slots=True)
class Expired:
    """A snapshot that the budget took.

    Attributes:
        name: It had.
        position: It was at, in text.
        message_id: Of the message it was at; empty: none.
        grade: It had.
        created_ns: When it was made.
        expired_ns: When it was taken.
        kept_bytes: What it kept.
    """

    name: str
    position: str
    message_id: str
    grade: str
    created_ns: int
    expired_ns: int
    kept_bytes: int


class ReplicaBudget(ABC):
    """Calls about the snapshot budget; part of `Replica`.

    Attributes:
        on_expired: Told of each snapshot that the budget took, under the replica's lock.
        expired_total: How many it took since the start.
    """

    name: str
    applier: Applier
    catalogue: Catalogue
    clock: Clock
    clones: Clones
    database: ReplicaDatabase
    on_change: Callable[[], None]
    on_expired: Callable[[Expired], None]
    expired_total = 0
    _apply_lock: AbstractContextManager[object]

    def open_budget(self) -> None:
        """Use the settings that are kept."""
        kept = self.database.budget()
        self.catalogue.budget.set(None if kept is None else BudgetSettings(**kept))

    def set_budget(self, settings: BudgetSettings | None) -> None:
        """Keep other settings, durably, and use them at once; what applying waits for goes on.

        Raises:
            OSError: no room in group.db; nothing changed.
            StorageFailed: the commit failed, which is final (D3).
        """
        with self._apply_lock:
            self.database.set_budget(None if settings is None else asdict(settings))
            self.catalogue.budget.set(settings)
        self.on_change()

    def expired(self) -> list[Expired]:
        """Return the snapshots that the budget took, the latest first; the last 100."""
        return [Expired(**row) for row in self.database.expired()]

    def check_budget(self) -> None:
        """Refuse a new snapshot from the soft mark on.

        Raises:
            NoSpace: the budget says so; names the figures and what to do.
        """
        budget = self.catalogue.budget
        settings = budget.settings
        if settings is not None and budget.state() != OK:
            raise errors.NoSpace(
                f"the snapshot budget of replica {self.name!r}: {budget.used_bytes} of"
                f" {settings.limit_bytes} bytes are used, and from {settings.soft_percent} % on"
                " no new snapshot is taken",
                f"Delete some (slackwater snapshot list {self.name}), or give more:"
                f" slackwater replica budget {self.name} --bytes SIZE",
            )

    def keep_budget(self) -> None:
        """Look at the growth, and take the oldest snapshot that may go when applying waits.

        Raises:
            OSError: no room in group.db; tried again.
            StorageFailed: the commit failed, which is final (D3).
        """
        budget = self.catalogue.budget
        budget.sample(self.clock.monotonic())
        settings = budget.settings
        if settings is None or settings.at_limit != EXPIRE or not budget.is_short:
            return
        with self._apply_lock:
            is_going = any(entry.row.state == DELETING for entry in self.catalogue.entries())
            if self.applier.stall is None or is_going:
                return  # what is going makes room first
            row = next((one for one in self.catalogue.ready() if self._may_expire(one)), None)
            if row is not None:
                self._expire(row)

    def _may_expire(self, row: SnapshotRow) -> bool:
        relied_on = row.held or row.exported or row.guard
        return not relied_on and not self.clones.on(row.uid)

    def _expire(self, row: SnapshotRow) -> None:
        expired = Expired(
            row.name,
            str(row.point.position),
            row.message_id,
            row.grade,
            row.created_ns,
            self.clock.time_ns(),
            sum(self.catalogue.preserved_bytes(row.name).values()),
        )
        self.catalogue.expire(row.name, asdict(expired))
        self.expired_total += 1
        self.on_expired(expired)
