"""What a stream asks its Secondary's shell to do, and what it is told of the replica."""

import uuid
from dataclasses import dataclass

from slackwater.link.actions import Cursor, Region, VolumeInfo
from slackwater.position import Position
from slackwater.record import RecordView
from slackwater.v1 import replication_pb2

Response = replication_pb2.ReplicateResponse


@dataclass(frozen=True, slots=True)
class HelloInfo:
    """Who calls, checked."""

    group_uid: uuid.UUID
    group: str
    link: str
    epoch: int
    durable: Position
    volumes: tuple[VolumeInfo, ...]
    log_bytes: int
    sync_id: bytes
    discard_secondary: bool


@dataclass(frozen=True, slots=True)
class RunningSync:
    """A sync as the replica holds it durably."""

    sync_id: bytes
    cursor: Cursor
    done: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the replica stands: applied_lsn <= durable.lsn."""

    durable: Position
    applied_lsn: int
    applied_time_ns: int
    region_sequence: int
    log_used_bytes: int
    log_capacity_bytes: int
    replica_state: int
    sync_id: bytes = b""


@dataclass(frozen=True, slots=True)
class Opened:
    """The replica as it was found or made for a Hello."""

    replica_uid: uuid.UUID
    epoch: int
    progress: Progress
    running_sync: RunningSync | None = None
    last_start: Position | None = None


@dataclass(frozen=True, slots=True, eq=False)
class OpenReplica:
    """Cancel the older stream, open or make the replica; answer `opened`."""

    hello: HelloInfo


@dataclass(frozen=True, slots=True, eq=False)
class AppendRun:
    """Append these records to the log as they stand."""

    run: memoryview
    views: list[RecordView]
    end: Position


@dataclass(frozen=True, slots=True, eq=False)
class StartSync:
    """Start the replica over from `position`; answer `sync_started`."""

    sync_id: bytes
    position: Position
    volumes: tuple[VolumeInfo, ...]
    total_bytes: int
    discard_secondary: bool
    last_start: Position | None


@dataclass(frozen=True, slots=True, eq=False)
class ApplyRegions:
    """Lay regions over the volumes, in stream order."""

    sequence: int
    regions: tuple[Region, ...]
    cursor: Cursor


@dataclass(frozen=True, slots=True, eq=False)
class FinishSync:
    """The replica is consistent once everything up to this lsn is applied and durable."""

    sync_id: bytes
    consistent_lsn: int


@dataclass(frozen=True, slots=True, eq=False)
class VerdictsConfirmed:
    """Verdicts up to this sequence need not be repeated (D17)."""

    sequence: int


@dataclass(frozen=True, slots=True, eq=False)
class PrimaryHeard:
    """The Primary's clock and the end of its log, for lag; None: it lies past what was sent."""

    time_ns: int
    durable: Position | None


@dataclass(frozen=True, slots=True, eq=False)
class FailReplica:
    """Stop the replica, position kept."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True, eq=False)
class SendResponse:
    """Send this message on the stream."""

    message: Response


@dataclass(frozen=True, slots=True, eq=False)
class EndStream:
    """End the call: the Primary is silent."""

    reason: str


ReceiverAction = (
    OpenReplica
    | AppendRun
    | StartSync
    | ApplyRegions
    | FinishSync
    | VerdictsConfirmed
    | PrimaryHeard
    | FailReplica
    | SendResponse
    | EndStream
)
