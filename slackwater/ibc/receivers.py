"""Who takes the messages of a replica: waiting receives, and leases (C10, C13, C14).

Part of `delivery.Delivery`, which says what comes before and after a hand-over.

A lease is a stream that shows every second that its holder lives. It takes the next message as a
receive does, and owns the freeze from then on: `LEASE_GRACE_SECONDS` after the last sign of life
the freeze ends. A stream that broke may be followed by another one, of the same holder or naming
the message. The rules:

* a message taken by a lease is handed over again only to a lease that comes back;
* while the lease's stream lives, only its own holder may replace it (its end of the old one may be
  the only one that knows it is dead);
* a message taken without a lease is not held by one, but after a restart, when nobody knows who
  had it;
* who waits for a message by a lease and is silent for the grace does not get it.
"""

import math
from abc import ABC, abstractmethod

from slackwater import errors
from slackwater.ibc.actions import (
    Answer,
    Delivered,
    DeliveryAction,
    EndHold,
    Phase,
    Receiver,
    Record,
    Standing,
    TakeNotified,
    Timers,
)
from slackwater.ibc.inbox import Inbox
from slackwater.ibc.messages import Message, Verdict, VerdictState
from slackwater.ibc.names import Application, Applications

LEASE_GRACE_SECONDS = 5.0
PAUSE_SECONDS = 1.0
"""A gap between two ticks in which this side was not listening, rather than a holder silent."""


class Receivers(ABC):
    """Hands messages over; part of `Delivery`."""

    applications: Applications
    standing: Standing | None
    _actions: list[DeliveryAction]
    _grace: float
    _inbox: Inbox
    _paused_at: float
    _receivers: list[Receiver]
    _restored: Timers | None

    @abstractmethod
    def _enter(self, phase: Phase, seconds: float | None, now: float) -> None:
        """See `Delivery`."""

    @abstractmethod
    def _store_timers(self, now: float) -> None:
        """See `Delivery`."""

    @abstractmethod
    def _thaw(self, state: VerdictState, now: float, by: str = "") -> float:
        """See `Delivery`."""

    # ---- names

    def register(self, application: Application, now: float) -> None:
        """Note a registration that is durable; a message that waits for it can be received now."""
        self.applications.add(application)
        standing = self.standing
        if (
            standing is not None
            and standing.phase is Phase.UNREGISTERED
            and standing.message.application == application.name
        ):
            self._enter(Phase.AWAITING, standing.message.deliver_timeout_seconds or None, now)

    def check_unregister(self, name: str) -> None:
        """Allow to take a name back, or say why not (C9)."""
        pending = self.standing is not None and self.standing.message.application == name
        self.applications.check_unregister(name, pending or self._inbox.holds(name))

    def unregister(self, name: str) -> None:
        """Note that a registration is durably gone; waiting receives of it are stopped."""
        self.applications.remove(name)
        self._stop(name)

    # ---- receives

    def receive(
        self, application: str, holder: str, request_id: str, wait_seconds: float, now: float
    ) -> Receiver:
        """Take the next message, now or within `wait_seconds`; an `Answer` ends it (C10).

        Raises:
            NotFound: The application is not registered here.
        """
        self.applications.get(application)
        receiver = Receiver(application, holder, request_id, now + wait_seconds)
        self._receivers.append(receiver)
        self._hand_over(now)
        self._end_waits(now)
        return receiver

    def cancel(self, receiver: Receiver) -> None:
        """The caller is gone: forget its receive; of a lease that holds, the grace runs (C13)."""
        if receiver in self._receivers:
            self._receivers.remove(receiver)
        standing = self.standing
        if standing is not None and standing.stream is receiver:
            standing.seen, standing.stream = standing.holder_seen, None

    def stop_receive(self, application: str) -> int:
        """End the waiting receives of an application; return how many there were.

        Raises:
            InvalidRequest: The name is no DNS label.
            NotFound: The application is not registered here.
        """
        self.applications.get(application)
        return self._stop(application)

    def _stop(self, application: str) -> int:
        stopped = [r for r in self._receivers if r.application == application]
        for receiver in stopped:
            self._answer(receiver, None, stopped=True)
        return len(stopped)

    # ---- leases (C13)

    def hold(self, application: str, holder: str, message_id: str, now: float) -> Receiver:
        """Take the next message, or come back to one, by a lease; `EndHold` ends it.

        An `Answer` hands the message over. One that does not freeze is handed over without a lease.

        Raises:
            NotFound: The application is not registered here.
            InvalidRequest: The message is another application's.
            FailedPrecondition: The replica does not stand at the message named, or another holder
                has it.
        """
        self.applications.get(application)
        receiver = Receiver(application, holder, "", math.inf, True, message_id, now)
        if message_id:
            self._check_comes_back(receiver)
        self._receivers.append(receiver)
        self._hand_over(now)
        return receiver

    def heartbeat(self, receiver: Receiver, now: float) -> None:
        """The holder of a lease gave a sign of life. Changes this one figure only."""
        receiver.seen = now

    def listen(self, can_hear: bool, now: float) -> None:
        """Holders can be heard from now on, or not until this is called again."""
        self._paused_at = now if can_hear else math.inf

    def release(self, receiver: Receiver, now: float) -> None:
        """The holder is done: thaw, unless the freeze is over or another's by now."""
        standing = self.standing
        if standing is not None and standing.stream is receiver:
            self._thaw(VerdictState.UNFROZEN, now, by=standing.holder)

    def _check_comes_back(self, receiver: Receiver) -> None:
        standing, restored = self.standing, self._restored
        if standing is None or standing.message.message_id != receiver.message_id:
            if restored is not None and restored.message_id == receiver.message_id:
                return  # a restarted replica has not come to it yet
            raise not_frozen(receiver.message_id)
        if standing.message.application != receiver.application:
            raise errors.InvalidRequest(
                "open.application",
                f"message {receiver.message_id!r} is of application"
                f" {standing.message.application!r}",
                "Open the lease for that",
            )
        refusal = self._why_not_back(standing, receiver)
        if refusal is not None:
            raise refusal

    def _why_not_back(
        self, standing: Standing, receiver: Receiver
    ) -> errors.FailedPrecondition | None:
        """Say why a lease may not take up a message that was handed over; None: it may."""
        if standing.phase is not Phase.FROZEN:
            return None
        message_id = standing.message.message_id
        if not standing.leased:
            return (
                None
                if standing.restored
                else errors.FailedPrecondition(
                    "NOT_LEASED",
                    f"message {message_id!r} was received by {standing.holder!r} without a lease",
                    f"Its freeze timeout guards it; or: {self._how_to_unfreeze(message_id)}",
                )
            )
        if standing.stream is None or receiver.holder == standing.holder:
            return None
        return errors.FailedPrecondition(
            "LEASE_HELD",
            f"message {message_id!r} is held by {standing.holder!r}, whose lease lives",
            f"Let the holder finish, or end the freeze with: {self._how_to_unfreeze(message_id)}",
        )

    def _how_to_unfreeze(self, message_id: str) -> str:
        return f"slackwater ibc unfreeze {self.applications.group}/{message_id}"

    def _is_lost(self, standing: Standing, now: float) -> bool:
        """Whether the holder has been silent for the grace (C13)."""
        return standing.leased and now - max(standing.holder_seen, self._paused_at) >= self._grace

    def _end_silent(self, now: float) -> None:
        """Let go of waiting leases whose holder is silent: a message would be lost to them."""
        for receiver in [r for r in self._receivers if r.is_lease]:
            if now - max(receiver.seen, self._paused_at) >= self._grace:
                error = errors.Unavailable(
                    f"the lease of {receiver.holder!r}",
                    f"No heartbeat came for {self._grace:g} s; open it again",
                )
                self._end_hold(receiver, error=error)

    def _end_hold(
        self,
        receiver: Receiver,
        verdict: Verdict | None = None,
        error: errors.SlackwaterError | None = None,
    ) -> None:
        if receiver in self._receivers:
            self._receivers.remove(receiver)
        self._actions.append(EndHold(receiver, verdict, error))

    def _end_holds(self, standing: Standing, verdict: Verdict) -> None:
        """Tell the lease how its freeze ended, and who waits to come back to it."""
        if standing.stream is not None:
            self._end_hold(standing.stream, verdict)
        message_id = standing.message.message_id
        for receiver in [r for r in self._receivers if r.message_id == message_id]:
            self._end_hold(receiver, verdict)

    # ---- handing over

    def _hand_over(self, now: float) -> None:
        """Give waiting receivers what there is for them, in order of their calls."""
        for receiver in list(self._receivers):
            standing = self.standing
            # An inbox message of a name lies before the message the replica stands at.
            notified = None
            if not receiver.message_id:
                notified = self._inbox.take(receiver.application)
            if notified is not None:
                # Answered before it is taken out: lost in between, it comes again (C14).
                self._answer(receiver, self._delivered(notified, False, None))
                self._actions.append(TakeNotified(notified))
            elif standing is not None and standing.message.application == receiver.application:
                self._hand_over_standing(standing, receiver, now)

    def _hand_over_standing(self, standing: Standing, receiver: Receiver, now: float) -> None:
        redelivered = standing.delivered
        seconds = standing.message.freeze_seconds(leased=receiver.is_lease)
        if receiver.message_id not in ("", standing.message.message_id):
            return
        if standing.phase is Phase.AWAITING:
            standing.delivered = True
            self._take(standing, receiver)
            self._enter(Phase.FROZEN, seconds, now)
            verdict = Verdict(VerdictState.DELIVERED, by=receiver.holder)
            self._actions.append(Record(standing.message, verdict, effect=False))
        elif standing.phase is not Phase.FROZEN or not self._may_take_again(standing, receiver):
            return
        elif standing.restored or receiver.is_lease:
            # The holder may have died in the outage: the next receiver gets it (C14).
            if receiver.is_lease and seconds is None:
                standing.deadline = None
            self._take(standing, receiver)
            self._store_timers(now)
        remaining = None if standing.deadline is None else standing.deadline - now
        self._answer(receiver, self._delivered(standing.message, redelivered, remaining))

    def _take(self, standing: Standing, receiver: Receiver) -> None:
        older = standing.stream
        standing.holder, standing.holder_request_id = receiver.holder, receiver.request_id
        standing.restored = False
        standing.leased = receiver.is_lease
        standing.stream = receiver if receiver.is_lease else None
        if older is not None:
            error = errors.FailedPrecondition(
                "LEASE_MOVED", "the lease goes on in a later stream of its holder"
            )
            self._end_hold(older, error=error)

    def _may_take_again(self, standing: Standing, receiver: Receiver) -> bool:
        """Whether this is the holder asking again, or the first to ask after a restart (C14)."""
        same_holder = bool(receiver.holder) and standing.holder == receiver.holder
        if receiver.is_lease and receiver.message_id:
            refusal = self._why_not_back(standing, receiver)
            if refusal is not None:  # it waited for the replica to come here, and was not the first
                self._end_hold(receiver, error=refusal)
            return refusal is None
        if standing.leased:
            return receiver.is_lease and standing.stream is None and same_holder
        if receiver.is_lease:
            return standing.restored
        same_request = bool(receiver.request_id) and (
            standing.holder_request_id == receiver.request_id
        )
        return same_request or same_holder or standing.restored

    def _delivered(self, message: Message, again: bool, remaining: float | None) -> Delivered:
        return Delivered(message, again, remaining, self._inbox.take_dropped(message.application))

    def _answer(
        self, receiver: Receiver, delivered: Delivered | None, stopped: bool = False
    ) -> None:
        self._receivers.remove(receiver)
        self._actions.append(Answer(receiver, delivered, stopped))

    def _end_waits(self, now: float) -> None:
        for receiver in [r for r in self._receivers if r.deadline <= now]:
            self._answer(receiver, None)


def not_frozen(message_id: str) -> errors.FailedPrecondition:
    """Return the refusal of what needs the replica to stand at a message."""
    return errors.FailedPrecondition(
        "NOT_FROZEN", f"the replica does not stand at message {message_id!r}"
    )
