"""What a replica says of itself."""

import enum
from dataclasses import dataclass

from slackwater.apply.applier import Stall
from slackwater.group.rows import SyncRow
from slackwater.ibc.messages import Message
from slackwater.position import Position


class ReplicaState(enum.Enum):
    """The state of a replica, as the API names it."""

    EMPTY = "EMPTY"
    RECOVERING = "RECOVERING"
    INCONSISTENT = "INCONSISTENT"
    CONSISTENT = "CONSISTENT"
    FROZEN = "FROZEN"
    FAILED = "FAILED"


@dataclass(frozen=True)
class FreezeInfo:
    """The message a replica stands at.

    Attributes:
        message: With its position and body.
        phase: PREPARING, UNREGISTERED, AWAITING or FROZEN.
        holder: Who took it; empty before.
        stood_seconds: For how long applying has stood still, downtime not counted.
        remaining_seconds: What is left of this phase, or of the grace of a lease whose holder is
            away; None: for ever.
        backlog_bytes: What was received after the message.
        leased: Whether a lease owns the freeze (C13).
    """

    message: Message
    phase: str
    holder: str
    stood_seconds: float
    remaining_seconds: float | None
    backlog_bytes: int
    leased: bool = False


@dataclass(frozen=True)
class ReplicaStatus:
    """A replica at one moment. Invariant: applied.lsn <= durable.lsn."""

    state: ReplicaState
    reason: str
    durable: Position
    applied: Position
    applied_time_ns: int
    backlog_bytes: int
    log_used_bytes: int
    log_capacity_bytes: int
    log_room_bytes: int
    log_is_full: bool
    freeze: FreezeInfo | None
    sync: SyncRow | None
    region_sequence: int
    stall: Stall | None
    snapshots: int
    epoch: int
    received_bytes: int
    received_records: int
    applied_bytes: int
    applied_records: int
    checkpoints: int
