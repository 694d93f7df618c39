"""The replica's calls about full syncs."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from uuid import UUID

from slackwater import errors
from slackwater.apply.applier import Applier
from slackwater.apply.database import ReplicaDatabase
from slackwater.apply.opening import Opened
from slackwater.apply.receiving import Receiver
from slackwater.apply.regions import Cursor, Region
from slackwater.apply.syncing import Syncing, VolumeSpec
from slackwater.group.directory import GroupDirectory
from slackwater.log.log import Log
from slackwater.log.reader import LogReader
from slackwater.position import LogPoint, Position
from slackwater.storage.seam import Storage


class ReplicaSyncs(ABC):
    """Calls about syncs; part of `Replica`."""

    name: str
    uid: UUID
    database: ReplicaDatabase
    directory: GroupDirectory
    applier: Applier
    receiver: Receiver
    syncing: Syncing
    on_change: Callable[[], None]
    _apply_lock: AbstractContextManager[object]
    _parts: Opened
    _storage: Storage
    _recover_to: LogPoint | None

    @abstractmethod
    def check_alive(self) -> None:
        """Refuse when the replica has failed; see `Replica`."""

    @abstractmethod
    def write_some(self) -> bool:
        """Make what is queued durable; see `Replica`."""

    @abstractmethod
    def step(self) -> bool:
        """Apply one bounded piece; see `Replica`."""

    @abstractmethod
    def _fail(self, error: errors.SlackwaterError) -> None:
        """See `Replica`."""

    @abstractmethod
    def _wake_applier(self) -> None:
        """See `Replica`."""

    def begin_sync(
        self,
        sync_id: str,
        position: Position,
        specs: Sequence[VolumeSpec],
        total_bytes: int = 0,
        last_start: Position | None = None,
    ) -> None:
        """Let the stream begin anew after `position`; see `Syncing.begin`.

        Raises:
            FailedPrecondition: the replica stands at a message, reason FROZEN (D25).
            Unavailable: it cannot apply what it holds, so that would be lost.
            NoSpace: there is no room for the guard snapshot (D27); nothing was changed.
            GroupFailed: the replica has failed.
        """
        while self.write_some():
            pass
        self.receiver.forget()
        if not self.syncing.is_running:
            while self.step():
                pass
        with self._apply_lock:
            self.check_alive()
            self._check_overwritable()
            try:
                self.syncing.begin(
                    sync_id,
                    position,
                    specs,
                    total_bytes,
                    self.applier.applied,
                    self.receiver.log,
                    self._reset_log,
                    last_start,
                )
            except (errors.SlackwaterError, OSError) as error:
                self._judge_begin(sync_id, error)
            self._recover_to = None
        self.on_change()

    def _check_overwritable(self) -> None:
        if self.applier.stopped is not None:
            raise errors.FailedPrecondition(
                "FROZEN", f"replica {self.name!r} stands at a message", "Unfreeze it first"
            )
        if not self.syncing.is_running and not self.applier.is_idle:
            raise errors.Unavailable(
                f"a sync of replica {self.name!r}", "It cannot apply what it holds; see its status"
            )

    def _judge_begin(self, sync_id: str, error: errors.SlackwaterError | OSError) -> None:
        """Raise what kept a sync from beginning; past group.db's step only a reopen helps."""
        row = self.syncing.row
        has_begun = row is not None and row.sync_id == sync_id
        if isinstance(error, OSError):
            error = errors.NoSpace(f"replica {self.name!r}", str(error))
        if has_begun or isinstance(error, errors.StorageFailed):
            self._fail(error)
        raise error

    def _reset_log(self, start: LogPoint) -> None:
        self.receiver.log.close()
        log = Log.create(self._storage, self.directory.log, self.uid, self._parts.settings, start)
        self.receiver.replace_log(log, self.database.newest_start(start.position.lsn))
        self.applier.restart(self._reader(), start)

    def _reader(self) -> LogReader:
        return LogReader(self._storage, self.directory.log, self.uid, self._parts.settings)

    def add_regions(
        self, sync_id: str, sequence: int, regions: Sequence[Region], cursor: Cursor
    ) -> bool:
        """Queue regions after everything received so far; True if there is room for more."""
        self.check_alive()
        room = self.syncing.add_regions(
            sync_id, sequence, regions, cursor, self.receiver.received.lsn
        )
        self._wake_applier()
        return room

    def finish_sync(self, sync_id: str, consistent_lsn: int) -> None:
        """Note that all regions were received; the replica is consistent from that lsn on."""
        self.check_alive()
        self.syncing.finish(sync_id, consistent_lsn, self.receiver.received.lsn)
        self._wake_applier()
