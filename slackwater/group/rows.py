"""What group.db holds, as values."""

import uuid
from dataclasses import dataclass, field
from typing import Any

from slackwater.position import LogPoint, Position

PRIMARY = "PRIMARY"
SECONDARY = "SECONDARY"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the group is, and what this side is of it."""

    uid: uuid.UUID
    name: str
    role: str
    epoch: int
    created_ns: int
    settings: dict[str, Any]
    replica_state: str = ""
    replica_reason: str = ""


@dataclass(frozen=True, slots=True)
class LogState:
    """Where the log begins and what of it needs no replay.

    Invariant: ``start.offset <= checkpoint.offset``. `clean_end` is the last lsn of a log that was
    closed in order, None while it is open.
    """

    start: LogPoint
    checkpoint: LogPoint
    clean_end: int | None


@dataclass(frozen=True, slots=True)
class VolumeRow:
    """A volume; `state` is CREATING, ACTIVE or REMOVING, `lsn` its newest record's."""

    id: int
    name: str
    size: int
    state: str
    path: str
    lsn: int


@dataclass(frozen=True, slots=True)
class LinkRow:
    """A link; `acked` never goes back, except to None with a new sync.

    `dirty`: the log let go of it and a full sync is due; `discard`: an operator allowed that sync
    to overwrite a Secondary with another history. `sync_id` is 16 bytes in hex, empty without one.
    """

    name: str
    uid: uuid.UUID
    endpoint: str
    state: str
    reason: str
    paused: bool
    acked: LogPoint | None
    sync_id: str
    created_ns: int
    settings: dict[str, Any] = field(default_factory=dict)
    dirty: bool = False
    discard: bool = False


@dataclass(frozen=True, slots=True)
class MessageRow:
    """A message of the log; `record` is its serialized `slackwater.v1.IbcMessage`."""

    id: str
    position: Position
    application: str
    request_id: str
    time_ns: int
    record: bytes
    links: tuple[str, ...]
    fence_seconds: float = 0.0
    state: str = ""


@dataclass(frozen=True, slots=True)
class VerdictRow:
    """What became of a message on one link.

    `source` is the Secondary's sequence number. On the Secondary `link` is empty and
    `sequence == source`; on the Primary a verdict repeated under one source counts once.
    """

    sequence: int
    message_id: str
    link: str
    source: int
    lsn: int
    state: str
    detail: dict[str, Any]
    time_ns: int
    final: bool
    confirmed: bool = False


@dataclass(frozen=True, slots=True)
class EffectRow:
    """What the Secondary did by itself at a record (D20)."""

    lsn: int
    kind: str
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True)
class SnapshotRow:
    """A group snapshot; `state` is CREATING, READY or DELETING.

    `id` grows with each snapshot made; 0 before it is added. `volumes` has (id, name, size).
    `held`: it cannot be deleted, for the reason in `hold_note`. `kind` is SPACE_OPTIMIZED or FULL;
    `copied`: its full copy is whole and durable, so it no longer needs the volumes.
    """

    id: int
    name: str
    uid: uuid.UUID
    point: LogPoint
    state: str
    grade: str
    message_id: str
    guard: bool
    exported: bool
    chunk_bytes: int
    created_ns: int
    volumes: tuple[tuple[int, str, int], ...]
    evidence: dict[str, Any]
    held: bool = False
    hold_note: str = ""
    kind: str = "SPACE_OPTIMIZED"
    copied: bool = False


@dataclass(frozen=True, slots=True)
class CloneRow:
    """A writable clone; `state` is CREATING, READY, FAILED (a sync of it failed) or DELETING.

    `id` grows with each clone made; 0 before it is added. `volumes` has (id, name, size). `top` is
    the layer that is written to, `layers` are the frozen ones below it, the lowest first. `parent`
    is the uid of the clone it was made of, which may be gone; None: of the snapshot itself.
    """

    id: int
    name: str
    uid: uuid.UUID
    snapshot_uid: uuid.UUID
    state: str
    exported: bool
    chunk_bytes: int
    created_ns: int
    volumes: tuple[tuple[int, str, int], ...]
    top: uuid.UUID
    layers: tuple[uuid.UUID, ...] = ()
    parent: uuid.UUID | None = None


@dataclass(frozen=True, slots=True)
class CheckRow:
    """What a check found of the snapshot with a uid; `verdict` is PASSED, FAILED, ERROR, ..."""

    id: str
    snapshot_uid: uuid.UUID
    check: str
    verdict: str
    start_ns: int
    took_ns: int
    reason: str
    output: str


@dataclass(frozen=True, slots=True)
class RestoreRow:
    """A snapshot's content on its way back to volumes (`slackwater.group.restoring`).

    Attributes:
        id: Given by the database; 0 before.
        snapshot: Resource name of the snapshot on the Secondary.
        link: Name of the link to that Secondary.
        volumes: Names of the volumes.
        state: See `restoring`.
        snapshot_uid: Identity of the snapshot; its name may be used again, this is not.
        left: Names of the group's volumes that it leaves as they are.
        holding: Whether the snapshot may still be held for it on the Secondary.
        total_bytes: What may differ, as counted when copying began.
        done_bytes: Compared so far.
        written_bytes: Written so far; more than 0 is durable before anything is.
        sha256: Of what may have differed, read at the end; hexadecimal.
        created_ns: When it was asked for.
        ended_ns: When it ended; 0: it has not.
    """

    id: int
    snapshot: str
    link: str
    volumes: tuple[str, ...]
    state: str
    created_ns: int
    snapshot_uid: str = ""
    left: tuple[str, ...] = ()
    holding: bool = True
    total_bytes: int = 0
    done_bytes: int = 0
    written_bytes: int = 0
    sha256: str = ""
    ended_ns: int = 0


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """Where delivery stood: what is left of the timers is in `detail` (D19)."""

    message_id: str
    lsn: int
    phase: str
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True)
class SyncRow:
    """A running sync; the cursor is the first byte not yet acked, None before the first ack."""

    sync_id: str
    cursor: tuple[int, int] | None
    consistent_lsn: int | None
    guard: str
    total_bytes: int


@dataclass(frozen=True, slots=True)
class ApplicationRow:
    """A registered application name (C9); deliver_timeout in seconds, None: the default."""

    name: str
    deliver_timeout: float | None
    created_ns: int
