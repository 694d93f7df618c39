"""What a delivery asks its shell to do, and what it keeps and hands over."""

import enum
from dataclasses import dataclass

from slackwater.ibc.messages import Message, Verdict


class Phase(enum.Enum):
    """What a replica at a FREEZE message waits for."""

    PREPARING = "PREPARING"
    UNREGISTERED = "UNREGISTERED"
    AWAITING = "AWAITING"
    FROZEN = "FROZEN"


@dataclass(frozen=True, slots=True)
class Timers:
    """What is left of a delivery, as group.db keeps it (D19); None: for ever."""

    message_id: str
    phase: Phase
    remaining_seconds: float | None
    stood_seconds: float
    holder: str
    holder_request_id: str
    delivered: bool


@dataclass(frozen=True, slots=True)
class Delivered:
    """A message as a receiver gets it."""

    message: Message
    redelivered: bool
    remaining_seconds: float | None
    dropped: int


@dataclass(frozen=True, slots=True, eq=False)
class Receiver:
    """A waiting receive; `deadline` is monotonic."""

    application: str
    holder: str
    request_id: str
    deadline: float


@dataclass(frozen=True, slots=True)
class Freeze:
    """Stop applying; make the volumes and the checkpoint stand at the message, then report."""

    message: Message


@dataclass(frozen=True, slots=True)
class Record:
    """Make a verdict durable; with `effect` also the effect row of the message's lsn (D20)."""

    message: Message
    verdict: Verdict
    effect: bool


@dataclass(frozen=True, slots=True)
class Resume:
    """Let applying go on after the message."""

    message: Message


@dataclass(frozen=True, slots=True)
class StoreTimers:
    """Make the timers durable; None: the delivery is over."""

    timers: Timers | None


@dataclass(frozen=True, slots=True)
class KeepNotified:
    """Put a NOTIFY message into the durable inbox, with its effect row and its verdict (D20)."""

    message: Message


@dataclass(frozen=True, slots=True)
class TakeNotified:
    """Take a NOTIFY message out of the durable inbox."""

    message: Message


@dataclass(frozen=True, slots=True)
class Answer:
    """End a waiting receive: with a message, with nothing (its wait is over), or stopped."""

    receiver: Receiver
    delivered: Delivered | None
    stopped: bool = False


DeliveryAction = Freeze | Record | Resume | StoreTimers | KeepNotified | TakeNotified | Answer


@dataclass(slots=True)
class Standing:
    """The message the replica stands at. A deadline of None means for ever."""

    message: Message
    phase: Phase
    since: float
    deadline: float | None
    stood_since: float
    holder: str = ""
    holder_request_id: str = ""
    delivered: bool = False
    restored: bool = False
