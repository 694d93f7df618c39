"""What a replica shows of itself; waits for no step of the applier."""

from slackwater import errors
from slackwater.apply.applier import Applier
from slackwater.apply.checkpoint import Checkpointer
from slackwater.apply.database import ReplicaDatabase
from slackwater.apply.messages import Messages
from slackwater.apply.receiving import Receiver
from slackwater.apply.status import FreezeInfo, ReplicaState, ReplicaStatus
from slackwater.apply.syncing import Syncing
from slackwater.clock import Clock
from slackwater.position import LogPoint, Position
from slackwater.snapshots.catalogue import Catalogue


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
        """Bytes of records the log can take beyond what is queued."""
        log = self.receiver.log
        room = log.free_bytes - log.settings.control_reserve_bytes - self.receiver.held_bytes
        return max(0, room - 2 * log.settings.max_commit_bytes)

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
            log_is_full=self.receiver.is_full,
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
            remaining_seconds=(
                None if standing.deadline is None else max(0.0, standing.deadline - now)
            ),
            backlog_bytes=max(0, self.receiver.log.durable.offset - stopped.offset),
        )
