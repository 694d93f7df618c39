"""Sizes, times and identities of a link, and how far its stream has come."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from slackwater.link.actions import LinkState, VolumeInfo
from slackwater.position import Position
from slackwater.v1 import replication_pb2

PROTOCOL_VERSION = 1
STANDING_STILL = frozenset(
    {LinkState.PAUSED, LinkState.DIVERGED, LinkState.FAILED, LinkState.DETACHED}
)
"""States in which nothing is dialled, and which only the operator ends."""


class Stream(enum.Enum):
    """How far the stream under a link has come."""

    CLOSED = "closed"
    DIALLING = "dialling"
    GREETING = "greeting"
    PLACING = "placing"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class LinkIdentity:
    """Who calls, as Hello says it."""

    group_uid: bytes
    group: str
    link: str
    epoch: int
    kinds: frozenset[int]
    log_bytes: int


@dataclass(frozen=True, slots=True)
class LinkRow:
    """What group.db keeps of a link."""

    state: LinkState = LinkState.CONNECTING
    reason: str = ""
    dirty: bool = False
    sync_id: bytes = b""
    acked: Position | None = None
    discard_secondary: bool = False


@dataclass(frozen=True, slots=True)
class SenderSettings:
    """Sizes and times of a sender."""

    window_bytes: int = 16 << 20
    slice_bytes: int = 1 << 20
    small_slice_bytes: int = 256 << 10
    small_slices_in_flight: int = 4
    region_bytes: int = 1 << 20
    region_window_bytes: int = 16 << 20
    heartbeat_seconds: float = 1.0
    silence_seconds: float = 10.0
    greeting_seconds: float = 60.0
    backoff_seconds: float = 0.2
    backoff_max_seconds: float = 10.0


def volume_infos(volumes: Sequence[VolumeInfo]) -> list[replication_pb2.VolumeInfo]:
    """Return volumes as the link spells them."""
    return [
        replication_pb2.VolumeInfo(volume=v.volume, name=v.name, size_bytes=v.size_bytes)
        for v in volumes
    ]
