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
                               or the end of its lease (C13)      -> LEASE_LOST

and FREEZE_LOG_LIMIT from each. A thaw is final: the verdict is durable, then applying goes on.

At a SNAPSHOT message the shell takes the snapshot itself, then calls `snapshotted`.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from slackwater import errors
from slackwater.ibc.actions import (
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
from slackwater.ibc.names import Applications
from slackwater.ibc.receivers import LEASE_GRACE_SECONDS, PAUSE_SECONDS, Receivers, not_frozen

FREEZE_LOG_LIMIT = 0.8
TIMERS_EVERY_SECONDS = 5.0
ENDED_KEPT = 100


class Delivery(Receivers):
    """Messages of one replica, from where applying reaches them to their verdict.

    Attributes:
        applications: The names registered on this Secondary.
        standing: The message the replica stands at, or None.
    """

    def __init__(
        self,
        applications: Applications,
        inbox: Sequence[Message] = (),
        timers: Timers | None = None,
        freeze_log_limit: float = FREEZE_LOG_LIMIT,
        link: str = "",
        lease_grace: float = LEASE_GRACE_SECONDS,
    ) -> None:
        """Take up what group.db has.

        Args:
            applications: The registered names of the group.
            inbox: Messages that did not freeze and nobody has taken yet, oldest first.
            timers: What was left of the delivery the replica stood at, if any (C15).
            freeze_log_limit: Log use at which a freeze ends by itself; 0: never.
            link: This replica's link id on the Primary, to tell which messages are for it.
            lease_grace: Seconds without a sign of life after which a lease is lost (C13).
        """
        self.applications = applications
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
        self._grace = lease_grace
        self._ticked_at: float | None = None
        self._paused_at = -math.inf

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
            raise AssertionError("the shell takes the snapshot that a message asks for")

    def snapshotted(self, message: Message, snapshot_id: str, now: float) -> None:
        """The snapshot that a SNAPSHOT message asks for is there (C7); receivers are told now."""
        verdict = Verdict(VerdictState.SNAPSHOTTED, snapshot_id=snapshot_id)
        if message.application in self.applications:
            self._keep(replace(message, snapshot_id=snapshot_id), verdict, now)
        else:
            self._end(message, verdict)  # nobody asked to be told

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
        standing.leased, standing.seen = restored.leased, now  # the grace begins anew
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
        self._keep(message, Verdict(VerdictState.NOTIFIED), now)

    def _keep(self, message: Message, verdict: Verdict, now: float) -> None:
        self._actions.append(KeepNotified(message, verdict))
        for oldest in self._inbox.keep(message):
            self._actions.append(TakeNotified(oldest))
        self._hand_over(now)

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
            return not_frozen(message_id)
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
        self._notice_pause(now)
        self._end_waits(now)
        self._end_silent(now)
        standing = self.standing
        if standing is None or standing.phase is Phase.PREPARING:
            return
        if self._is_lost(standing, now):
            self._thaw(VerdictState.LEASE_LOST, now)
        elif standing.deadline is not None and now >= standing.deadline:
            self._thaw(_EXPIRY[standing.phase], now)
        elif now - self._stored_at >= TIMERS_EVERY_SECONDS:
            self._store_timers(now)

    def _notice_pause(self, now: float) -> None:
        """Give holders their grace again after this side did not listen, once in two graces.

        A machine that stood still finds the heartbeats of that time unread; ticks that are always
        late must not keep a lost lease alive.
        """
        since, self._ticked_at = self._ticked_at, now
        if since is None or now - since <= PAUSE_SECONDS:
            return
        if now - self._paused_at > 2 * self._grace:
            self._paused_at = now

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
        verdict = Verdict(state, by=by or standing.holder, frozen_seconds=seconds)
        self._end(standing.message, verdict)
        self._actions.append(StoreTimers(None))
        self._actions.append(Resume(standing.message))
        self._end_holds(standing, verdict)
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
            leased=standing.leased,
        )

    def remaining(self, now: float) -> float | None:
        """Return how long it is until the phase ends by itself; None: it does not."""
        standing = self.standing
        if standing is None:
            return None
        ends = [] if standing.deadline is None else [standing.deadline]
        if standing.leased and standing.stream is None:
            ends.append(standing.holder_seen + self._grace)
        return max(0.0, min(ends) - now) if ends else None

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
