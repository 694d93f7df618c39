"""What a link asks its shell to do.

A shell drains the list after every input and acts in order. An action that asks for something
(`ReadLog`, `FindPosition`, ...) is answered by handing the same object back with the answer, so an
answer that comes too late, for a stream that is gone, is recognised and dropped.
"""

import enum
from dataclasses import dataclass

from slackwater.link.wire import Buffer, append_prefix
from slackwater.position import LogPoint, Position
from slackwater.v1 import replication_pb2


class LinkState(enum.Enum):
    """State of a link; values are the names of `slackwater.v1.LinkState` without prefix."""

    DETACHED = "DETACHED"
    CONNECTING = "CONNECTING"
    SYNCING = "SYNCING"
    CATCHING_UP = "CATCHING_UP"
    STREAMING = "STREAMING"
    PAUSED = "PAUSED"
    DIRTY = "DIRTY"
    DIVERGED = "DIVERGED"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Cursor:
    """Everything of the volumes before this place, by volume id and offset, is covered."""

    volume: int = 0
    offset: int = 0


@dataclass(frozen=True, slots=True)
class VolumeInfo:
    """A volume as both sides must agree on it."""

    volume: int
    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Region:
    """One range of a volume in a sync; `data` None reads as zeroes."""

    volume: int
    offset: int
    length: int
    data: Buffer | None


@dataclass(frozen=True, slots=True, eq=False)
class Dial:
    """Open a stream to the Secondary; answer `connected` or `disconnected`."""


@dataclass(frozen=True, slots=True, eq=False)
class Disconnect:
    """End the stream, or the attempt; no `disconnected` is expected for it."""

    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class SendMessage:
    """Send this message on the stream."""

    message: replication_pb2.ReplicateRequest


@dataclass(frozen=True, slots=True, eq=False)
class SendAppend:
    """Send `prefix` and `run`, joined, as one message on the stream."""

    previous: Position
    run: Buffer

    @property
    def prefix(self) -> bytes:
        """What goes before the run."""
        return append_prefix(self.previous, len(self.run))


@dataclass(frozen=True, slots=True, eq=False)
class ReadLog:
    """Read whole records from `start` up to the durable offset `limit`, at most `max_bytes`.

    Answer `slice_read`, or `slice_trimmed` if the log no longer holds them.
    """

    start: LogPoint
    limit: int
    max_bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class FindPosition:
    """Look a position up in the log by lsn and chain, and the newest `Start` at or below it.

    Answer `position_found`.
    """

    position: Position


@dataclass(frozen=True, slots=True, eq=False)
class FindSyncPoint:
    """Name a place in the log at or below in_volumes to sync from; answer `point_found`."""


@dataclass(frozen=True, slots=True, eq=False)
class ReadRegions:
    """Read the volumes from `cursor`, at most `max_bytes` of data; answer `regions_read`.

    Nothing else is sent until the answer: a record sent after the read would be overwritten by
    the older bytes of the region (D25).
    """

    cursor: Cursor
    max_bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class Acked:
    """The Secondary holds the log up to here durably, and has applied up to `applied_lsn`."""

    point: LogPoint
    applied_lsn: int
    applied_time_ns: int


@dataclass(frozen=True, slots=True, eq=False)
class StoreLink:
    """Make this durable in group.db, together, before acting on anything that follows (D26).

    With `sync_point` the log is held for the link from there; `forget_acked` and no `sync_point`
    never come together. With `dirty` the log is not held for it at all.
    """

    state: LinkState
    reason: str
    dirty: bool
    sync_id: bytes
    forget_acked: bool
    discard_secondary: bool
    sync_point: LogPoint | None


@dataclass(frozen=True, slots=True, eq=False)
class VerdictReceived:
    """Make a message's verdict durable, then answer `verdict_stored` (D17)."""

    report: replication_pb2.VerdictReport


LinkAction = (
    Dial
    | Disconnect
    | SendMessage
    | SendAppend
    | ReadLog
    | FindPosition
    | FindSyncPoint
    | ReadRegions
    | Acked
    | StoreLink
    | VerdictReceived
)
