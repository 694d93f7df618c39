"""What a replica shows of itself; waits for no step of the applier."""

from typing import Final

from slackwater import errors
from slackwater.apply.applier import Applier
from slackwater.apply.checkpoint import Checkpointer
from slackwater.apply.database import ReplicaDatabase
from slackwater.apply.messages import Messages
from slackwater.apply.receiving import Receiver
from slackwater.apply.status import FreezeInfo, ReplicaState, ReplicaStatus
from slackwater.apply.syncing import Syncing
from slackwater.clock import Clock
from slackwater.log.segment import MAX_RECORD_BYTES
from slackwater.position import LogPoint, Position
from slackwater.snapshots.catalogue import Catalogue

_APPEND_BYTES: Final = 2 << 20  # the most one message of the link carries


class ReplicaView:
    """What is so; part of `Replica`."""

    failure: errors.SlackwaterError | None
    database: ReplicaDatabase
    catalogue: Catalogue
    clock: Clock
    receiver: Receiver
    applier: Applier
    checkpointer: Checkpointer
    syncing: Syncing
    messages: Messages
    _recover_to: LogPoint | None

    @property
    def state(self) -> ReplicaState:
        """The replica's state."""
        if self.failure is not None:
            return ReplicaState.FAILED
        if self._recover_to is not None:
            return ReplicaState.RECOVERING
        if self.syncing.is_running:
            return ReplicaState.INCONSISTENT
        return ReplicaState.CONSISTENT if self.applier.stopped is None else ReplicaState.FROZEN

    @property
    def durable(self) -> Position:
        """The durable end of the log."""
        return self.receiver.log.durable.position

    @property
    def applied(self) -> Position:
        """What the volumes stand for: everything up to here and nothing after."""
        return self.applier.reached.position

    @property
    def log_room_bytes(self) -> int:
        """Bytes of records the log can take beyond what is queued, however they are cut."""
        log = self.receiver.log
        # At each end of a segment less than one record is lost to padding.
        lost = 3 * min(MAX_RECORD_BYTES, log.capacity_bytes // 32)
        room = log.free_bytes - log.settings.control_reserve_bytes - self.receiver.held_bytes
        return max(0, room - lost)

    @property
    def log_use(self) -> float:
        """How full the log is, from 0 to 1; 1 before the Primary has to stop sending (C8)."""
        log = self.receiver.log
        spare = 2 * min(_APPEND_BYTES, log.capacity_bytes // 16)
        if self.receiver.is_full or self.log_room_bytes < spare:
            return 1.0
        return log.used_bytes / log.capacity_bytes

    @property
    def is_log_full(self) -> bool:
        """Whether the log takes nothing more, or not another append of the Primary (C8)."""
        return self.log_use >= 1.0

    def status(self) -> ReplicaStatus:
        """Return everything at once; waits for no step."""
        log, applier = self.receiver.log, self.applier
        applied, durable = applier.reached, log.durable
        return ReplicaStatus(
            state=self.state,
            reason="" if self.failure is None else str(self.failure),
            durable=durable.position,
            applied=applied.position,
            applied_time_ns=applier.applied_time_ns,
            backlog_bytes=max(0, durable.offset - applied.offset),
            log_used_bytes=log.used_bytes,
            log_capacity_bytes=log.capacity_bytes,
            log_room_bytes=self.log_room_bytes,
            log_is_full=self.is_log_full,
            freeze=self.freeze(),
            sync=self.syncing.row,
            region_sequence=self.checkpointer.durable_progress.sequence,
            stall=applier.stall,
            snapshots=len(self.catalogue.ready()),
            epoch=self.database.identity().epoch,
            received_bytes=self.receiver.received_bytes,
            received_records=self.receiver.received_records,
            applied_bytes=applier.applied_bytes,
            applied_records=applier.applied_records,
            checkpoints=self.checkpointer.checkpoints_total,
        )

    def freeze(self) -> FreezeInfo | None:
        """Return the message the replica stands at, if it does."""
        standing, stopped = self.messages.delivery.standing, self.applier.stopped
        if standing is None or stopped is None:
            return None
        now = self.clock.monotonic()
        return FreezeInfo(
            message=standing.message,
            phase=standing.phase.value,
            holder=standing.holder,
            stood_seconds=now - standing.stood_since,
            remaining_seconds=self.messages.delivery.remaining(now),
            backlog_bytes=max(0, self.receiver.log.durable.offset - stopped.offset),
            leased=standing.leased,
        )
