"""What a delivery asks its shell to do, and what it keeps and hands over."""

import enum
from dataclasses import dataclass

from slackwater.errors import SlackwaterError
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
    leased: bool = False


@dataclass(frozen=True, slots=True)
class Delivered:
    """A message as a receiver gets it."""

    message: Message
    redelivered: bool
    remaining_seconds: float | None
    dropped: int


@dataclass(slots=True, eq=False)
class Receiver:
    """A waiting receive, or the stream of a lease; times are monotonic.

    Attributes:
        deadline: When a wait is over; a lease waits for as long as its holder lives.
        is_lease: Whether it takes a message by a lease (C13).
        message_id: Of a lease, the message its holder comes back to; empty: the next one.
        seen: Of a lease, when its holder last gave a sign of life.
    """

    application: str
    holder: str
    request_id: str
    deadline: float
    is_lease: bool = False
    message_id: str = ""
    seen: float = 0.0


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
    """Put a message that did not freeze into the durable inbox, with effect and verdict (D20)."""

    message: Message
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class TakeNotified:
    """Take a message out of the durable inbox."""

    message: Message


@dataclass(frozen=True, slots=True)
class Answer:
    """End a waiting receive: with a message, with nothing (its wait is over), or stopped."""

    receiver: Receiver
    delivered: Delivered | None
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class EndHold:
    """End the stream of a lease: how the freeze ended, or why it cannot go on."""

    receiver: Receiver
    verdict: Verdict | None = None
    error: SlackwaterError | None = None


DeliveryAction = (
    Freeze | Record | Resume | StoreTimers | KeepNotified | TakeNotified | Answer | EndHold
)


@dataclass(slots=True)
class Standing:
    """The message the replica stands at. A deadline of None means for ever.

    `leased`: a lease owns the freeze (C13); `stream` is the one that carries it now, None between
    two; `seen` is when the holder last gave a sign of life before that.
    """

    message: Message
    phase: Phase
    since: float
    deadline: float | None
    stood_since: float
    holder: str = ""
    holder_request_id: str = ""
    delivered: bool = False
    restored: bool = False
    leased: bool = False
    stream: Receiver | None = None
    seen: float = 0.0

    @property
    def holder_seen(self) -> float:
        """When the holder of the lease last gave a sign of life."""
        return self.seen if self.stream is None else max(self.seen, self.stream.seen)
