"""Delivery of messages on a Secondary: one machine for each replica (C6 to C15).

Contract with the shell, in this order:

1. `reach` is called when every record before a message is applied and none after it is (C6), and
   applying goes on only when `may_apply` is true again.
2. `Freeze` comes first at a FREEZE message: sync the volumes, move the checkpoint to the message
   (D24), then call `frozen_here`. Nothing is handed over before.
3. `Record` is one transaction of group.db: the verdict with the next sequence, and, if
   `effect`, the effect row of the message's lsn. It is durable before anything after it is done and
   before the next record is applied (D20). A message with an effect row is not reached again.
4. `StoreTimers` is made durable too; it comes when a phase begins and every 5 s after (D19).
5. `tick` is called at least every quarter of a second.

At a FREEZE message:

    reach -> PREPARING -> UNREGISTERED | AWAITING -> FROZEN -> thaw
                 UNREGISTERED: the name is not registered here    -> AWAITING | UNCLAIMED
                 AWAITING:     for a receiver to take it          -> FROZEN | EXPIRED
                 FROZEN:       for the unfreeze                   -> UNFROZEN | FREEZE_TIMED_OUT

and FREEZE_LOG_LIMIT from each. A thaw is final: the verdict is durable, then applying goes on.
"""

from collections.abc import Sequence

from slackwater import errors
from slackwater.ibc.actions import (
    Answer,
    Delivered,
    DeliveryAction,
    Freeze,
    KeepNotified,
    Phase,
    Receiver,
    Record,
    Resume,
    Standing,
    StoreTimers,
    TakeNotified,
    Timers,
)
from slackwater.ibc.inbox import Inbox
from slackwater.ibc.messages import Behaviour, Message, Verdict, VerdictState
from slackwater.ibc.names import Application, Applications

FREEZE_LOG_LIMIT = 0.8
TIMERS_EVERY_SECONDS = 5.0
ENDED_KEPT = 100


class Delivery:
    """Messages of one replica, from where applying reaches them to their verdict.

    Attributes:
        applications: The names registered on this Secondary.
        standing: The message the replica stands at, or None.
    """

    def __init__(
        self,
        applications: Sequence[Application] = (),
        inbox: Sequence[Message] = (),
        timers: Timers | None = None,
        freeze_log_limit: float = FREEZE_LOG_LIMIT,
        link: str = "",
    ) -> None:
        """Take up what group.db has.

        Args:
            applications: The registered names.
            inbox: NOTIFY messages nobody has taken yet, oldest first.
            timers: What was left of the delivery the replica stood at, if any (C15).
            freeze_log_limit: Log use at which a freeze ends by itself; 0: never.
            link: This replica's link id on the Primary, to tell which messages are for it.
        """
        self.applications = Applications(list(applications))
        self.standing: Standing | None = None
        self.link = link
        self._inbox = Inbox(inbox)
        self._restored = timers
        self._limit = freeze_log_limit
        self._receivers: list[Receiver] = []
        self._ended: dict[str, Verdict] = {}
        self._actions: list[DeliveryAction] = []
        self._stored_at = 0.0
        self._log_use = 0.0

    def actions(self) -> list[DeliveryAction]:
        """Return what to do, in order, and forget it."""
        drained, self._actions = self._actions, []
        return drained

    @property
    def may_apply(self) -> bool:
        """Whether the applier may pass the latest message reached."""
        return self.standing is None

    # ---- applying reaches a message

    def reach(self, message: Message, now: float, consistent: bool = True) -> None:
        """Every earlier record is applied and no later one; a message is next (C6).

        Args:
            message: The message.
            now: The monotonic time.
            consistent: False while the replica is being synchronised (C18).
        """
        assert self.standing is None, "messages are delivered one at a time (C10)"
        if message.links and self.link and self.link not in message.links:
            return
        if not consistent:
            self._end(message, Verdict(VerdictState.SKIPPED_INCONSISTENT))
        elif message.behaviour is Behaviour.NOTIFY:
            self._notify(message, now)
        elif message.behaviour is Behaviour.FREEZE:
            self.standing = Standing(message, Phase.PREPARING, now, None, now)
            self._actions.append(Freeze(message))
        else:
            raise errors.FailedPrecondition(
                "UNKNOWN_BEHAVIOUR",
                f"behaviour {message.behaviour.value} is not known here",
                "Upgrade this Secondary; Secondaries are upgraded before Primaries",
            )

    def frozen_here(self, now: float) -> None:
        """Volumes and checkpoint stand at the message, durably (D24): it may be handed over."""
        standing = self.standing
        if standing is None or standing.phase is not Phase.PREPARING:
            return
        restored, self._restored = self._restored, None
        if restored is not None and restored.message_id == standing.message.message_id:
            self._restore(standing, restored, now)
        elif standing.message.application in self.applications:
            self._enter(Phase.AWAITING, standing.message.deliver_timeout_seconds or None, now)
        else:
            self._enter(Phase.UNREGISTERED, standing.message.unregistered_timeout_seconds, now)
        self._over_limit(now)
        self._hand_over(now)

    def _restore(self, standing: Standing, restored: Timers, now: float) -> None:
        """Come back to where the timers stood; downtime does not count (C15, D19)."""
        standing.stood_since = now - restored.stood_seconds
        standing.holder = restored.holder
        standing.holder_request_id = restored.holder_request_id
        standing.delivered = restored.delivered
        standing.restored = True
        if (
            restored.phase is Phase.UNREGISTERED
            and standing.message.application in self.applications
        ):
            self._enter(Phase.AWAITING, standing.message.deliver_timeout_seconds or None, now)
        else:
            self._enter(restored.phase, restored.remaining_seconds, now)

    def _enter(self, phase: Phase, seconds: float | None, now: float) -> None:
        standing = self.standing
        assert standing is not None, "phases are those of a message"
        standing.phase = phase
        standing.since = now
        standing.deadline = None if seconds is None else now + seconds
        self._store_timers(now)

    def _notify(self, message: Message, now: float) -> None:
        if message.application not in self.applications:
            # Applying never waits for NOTIFY: there is nobody to keep it for (C7).
            self._end(message, Verdict(VerdictState.UNCLAIMED))
            return
        self._actions.append(KeepNotified(message))
        for oldest in self._inbox.keep(message):
            self._actions.append(TakeNotified(oldest))
        self._hand_over(now)

    # ---- receivers

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
        self.stop_receive(name)

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
        """The caller is gone: forget its receive."""
        if receiver in self._receivers:
            self._receivers.remove(receiver)

    def stop_receive(self, application: str) -> int:
        """End the waiting receives of an application; return how many there were."""
        stopped = [r for r in self._receivers if r.application == application]
        for receiver in stopped:
            self._answer(receiver, None, stopped=True)
        return len(stopped)

    def _hand_over(self, now: float) -> None:
        """Give waiting receivers what there is for them, in order of their calls."""
        for receiver in list(self._receivers):
            standing = self.standing
            # An inbox message of a name lies before the message the replica stands at.
            notified = self._inbox.take(receiver.application)
            if notified is not None:
                # Answered before it is taken out: lost in between, it comes again (C14).
                self._answer(receiver, self._delivered(notified, False, None))
                self._actions.append(TakeNotified(notified))
            elif standing is not None and standing.message.application == receiver.application:
                self._hand_over_standing(standing, receiver, now)

    def _hand_over_standing(self, standing: Standing, receiver: Receiver, now: float) -> None:
        redelivered = standing.delivered
        if standing.phase is Phase.AWAITING:
            standing.delivered = True
            seconds = standing.message.freeze_timeout_seconds or None
            self._take(standing, receiver)
            self._enter(Phase.FROZEN, seconds, now)
            verdict = Verdict(VerdictState.DELIVERED, by=receiver.holder)
            self._actions.append(Record(standing.message, verdict, effect=False))
        elif standing.phase is not Phase.FROZEN or not self._may_take_again(standing, receiver):
            return
        elif standing.restored:
            # The holder may have died in the outage: the next receiver gets it (C14).
            self._take(standing, receiver)
            self._store_timers(now)
        remaining = None if standing.deadline is None else standing.deadline - now
        self._answer(receiver, self._delivered(standing.message, redelivered, remaining))

    @staticmethod
    def _take(standing: Standing, receiver: Receiver) -> None:
        standing.holder, standing.holder_request_id = receiver.holder, receiver.request_id
        standing.restored = False

    @staticmethod
    def _may_take_again(standing: Standing, receiver: Receiver) -> bool:
        """Whether this is the holder asking again, or the first to ask after a restart (C14)."""
        same_request = bool(receiver.request_id) and (
            standing.holder_request_id == receiver.request_id
        )
        same_holder = bool(receiver.holder) and standing.holder == receiver.holder
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

    # ---- the ends of a freeze

    def unfreeze(self, message_id: str, by: str, now: float) -> float:
        """End the freeze at a message; return how long applying stood still.

        Raises:
            FailedPrecondition: The replica does not stand at it, or nobody has taken it yet.
        """
        standing = self.standing
        if standing is None or standing.message.message_id != message_id:
            raise self._not_frozen(message_id)
        if standing.phase is not Phase.FROZEN:
            raise errors.FailedPrecondition(
                "NOT_DELIVERED",
                f"message {message_id!r} has not been received yet",
                "Receive it first, or let it expire",
            )
        return self._thaw(VerdictState.UNFROZEN, now, by=by)

    def _not_frozen(self, message_id: str) -> errors.FailedPrecondition:
        verdict = self._ended.get(message_id)
        if verdict is None:
            return errors.FailedPrecondition(
                "NOT_FROZEN", f"the replica does not stand at message {message_id!r}"
            )
        return ended(message_id, verdict.state.value, verdict.by)

    def log_use(self, fraction: float, now: float) -> None:
        """Learn how full the log is; a freeze ends before it is full (C8)."""
        self._log_use = fraction
        self._over_limit(now)

    def _over_limit(self, now: float) -> None:
        standing = self.standing
        over = self._limit and self._log_use >= self._limit
        if over and standing is not None and standing.phase is not Phase.PREPARING:
            self._thaw(VerdictState.FREEZE_LOG_LIMIT, now)

    def tick(self, now: float) -> None:
        """Let time pass."""
        self._end_waits(now)
        standing = self.standing
        if standing is None or standing.phase is Phase.PREPARING:
            return
        if standing.deadline is not None and now >= standing.deadline:
            self._thaw(_EXPIRY[standing.phase], now)
        elif now - self._stored_at >= TIMERS_EVERY_SECONDS:
            self._store_timers(now)

    def abandon(self, state: VerdictState, now: float) -> None:
        """End whatever stands: promotion, a sync, the end of the link (C19)."""
        if self.standing is not None:
            self._thaw(state, now)

    def _thaw(self, state: VerdictState, now: float, by: str = "") -> float:
        standing = self.standing
        assert standing is not None, "only a standing replica thaws"
        self.standing = None
        seconds = now - standing.stood_since
        if not standing.delivered:
            self._inbox.drop(standing.message.application)
        self._end(
            standing.message, Verdict(state, by=by or standing.holder, frozen_seconds=seconds)
        )
        self._actions.append(StoreTimers(None))
        self._actions.append(Resume(standing.message))
        return seconds

    def _end(self, message: Message, verdict: Verdict) -> None:
        self._actions.append(Record(message, verdict, effect=True))
        self._ended[message.message_id] = verdict
        while len(self._ended) > ENDED_KEPT:
            del self._ended[next(iter(self._ended))]

    # ---- timers that survive a restart

    def timers(self, now: float) -> Timers | None:
        """Return what is left of the delivery, to be made durable; None if there is none."""
        standing = self.standing
        if standing is None or standing.phase is Phase.PREPARING:
            return None
        return Timers(
            message_id=standing.message.message_id,
            phase=standing.phase,
            remaining_seconds=(
                None if standing.deadline is None else max(0.0, standing.deadline - now)
            ),
            stood_seconds=now - standing.stood_since,
            holder=standing.holder,
            holder_request_id=standing.holder_request_id,
            delivered=standing.delivered,
        )

    def _store_timers(self, now: float) -> None:
        self._stored_at = now
        self._actions.append(StoreTimers(self.timers(now)))


def ended(message_id: str, state: str, by: str) -> errors.FailedPrecondition:
    """Return the refusal of an unfreeze that comes after the thaw (C12)."""
    return errors.FailedPrecondition(
        state,
        f"the freeze at message {message_id!r} is over already: {state}{f' by {by}' if by else ''}",
        "What was done after the thaw is not at the message",
    )


_EXPIRY = {
    Phase.UNREGISTERED: VerdictState.UNCLAIMED,
    Phase.AWAITING: VerdictState.EXPIRED,
    Phase.FROZEN: VerdictState.FREEZE_TIMED_OUT,
}
