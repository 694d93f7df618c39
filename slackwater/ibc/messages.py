"""Messages and what becomes of them, and the checks of the send side."""

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from slackwater import errors
from slackwater.ibc.names import Applications
from slackwater.position import Position

MAX_BODY_BYTES = 128 << 10
MAX_REQUEST_ID = 128
DELIVER_TIMEOUT_SECONDS = 600.0
FREEZE_TIMEOUT_SECONDS = 600.0
UNREGISTERED_TIMEOUT_SECONDS = 30.0
MAX_TIMEOUT_SECONDS = 366 * 86400.0
MESSAGES_KEPT = 10_000
MESSAGES_KEPT_SECONDS = 30 * 86_400.0
"""How many messages of a group each side keeps if nobody says otherwise."""


class Behaviour(enum.Enum):
    """What a Secondary does at a message (C7)."""

    FREEZE = "FREEZE"
    NOTIFY = "NOTIFY"
    SNAPSHOT = "SNAPSHOT"


class VerdictState(enum.Enum):
    """How far a message has come on one link, and how it ended there (C16)."""

    QUEUED = "QUEUED"
    SENT = "SENT"
    ARRIVED = "ARRIVED"
    DELIVERED = "DELIVERED"
    UNFROZEN = "UNFROZEN"
    NOTIFIED = "NOTIFIED"
    SNAPSHOTTED = "SNAPSHOTTED"
    EXPIRED = "EXPIRED"
    UNCLAIMED = "UNCLAIMED"
    FREEZE_TIMED_OUT = "FREEZE_TIMED_OUT"
    FREEZE_LOG_LIMIT = "FREEZE_LOG_LIMIT"
    LEASE_LOST = "LEASE_LOST"
    SKIPPED_INCONSISTENT = "SKIPPED_INCONSISTENT"
    LINK_DETACHED = "LINK_DETACHED"

    @property
    def is_final(self) -> bool:
        """Whether the state will not change any more."""
        return self not in _ON_THE_WAY


_ON_THE_WAY: Final = frozenset(
    {VerdictState.QUEUED, VerdictState.SENT, VerdictState.ARRIVED, VerdictState.DELIVERED}
)


@dataclass(frozen=True, slots=True)
class Message:
    """A message at its place in the log, as both sides know it."""

    message_id: str
    application: str
    behaviour: Behaviour
    position: Position
    body: bytes = b""
    body_is_text: bool = False
    links: tuple[str, ...] = ()
    request_id: str = ""
    deliver_timeout_seconds: float = DELIVER_TIMEOUT_SECONDS
    freeze_timeout_seconds: float = FREEZE_TIMEOUT_SECONDS
    unregistered_timeout_seconds: float = UNREGISTERED_TIMEOUT_SECONDS
    time_ns: int = 0
    fenced: bool = False
    fence_held_seconds: float = 0.0
    freeze_timeout_chosen: bool = False
    quiesced: tuple[str, ...] = ()
    task: str = ""
    snapshot_id: str = ""

    def freeze_seconds(self, *, leased: bool) -> float | None:
        """Return how long it may hold a freeze; None: for ever (C12).

        A lease lasts as long as its holder lives, unless the sender chose a timeout (C13).
        """
        if leased and not self.freeze_timeout_chosen:
            return None
        return self.freeze_timeout_seconds or None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a message on one link."""

    state: VerdictState
    by: str = ""
    frozen_seconds: float | None = None
    snapshot_id: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Send:
    """A send as it was asked for, before it has an id and a place."""

    application: str
    behaviour: Behaviour = Behaviour.FREEZE
    body: bytes = b""
    links: tuple[str, ...] = ()
    request_id: str = ""
    deliver_timeout_seconds: float = DELIVER_TIMEOUT_SECONDS
    freeze_timeout_seconds: float = FREEZE_TIMEOUT_SECONDS
    unregistered_timeout_seconds: float = UNREGISTERED_TIMEOUT_SECONDS


def check_send(send: Send, applications: Applications, attached: Iterable[str]) -> tuple[str, ...]:
    """Return the links the message goes to, or say why it is not taken (C4, C5).

    Args:
        send: What is asked for.
        applications: The names registered on the Primary.
        attached: Ids of the links that are not detached.

    Raises:
        InvalidRequest: Body, request id, timeout or link is no good.
        NotFound: The application is not registered.
        FailedPrecondition: No link is attached.
    """
    if len(send.body) > MAX_BODY_BYTES:
        raise errors.InvalidRequest(
            "body", f"{len(send.body)} bytes are more than {MAX_BODY_BYTES}"
        )
    if len(send.request_id) > MAX_REQUEST_ID:
        raise errors.InvalidRequest("request_id", f"is longer than {MAX_REQUEST_ID} characters")
    for name in ("deliver_timeout", "freeze_timeout", "unregistered_timeout"):
        seconds = getattr(send, f"{name}_seconds")
        if not 0 <= seconds <= MAX_TIMEOUT_SECONDS:
            raise errors.InvalidRequest(name, f"{seconds:g} s is not from 0 s to 366 days")
    applications.get(send.application)
    known = sorted(attached)
    for link in send.links:
        if link not in known:
            raise errors.InvalidRequest("links", f"there is no link {link[:80]!r} attached")
    if not known:
        raise errors.FailedPrecondition(
            "NO_LINK", "no link is attached, so nobody would get the message", "Create a link first"
        )
    return tuple(sorted(set(send.links))) or tuple(known)
