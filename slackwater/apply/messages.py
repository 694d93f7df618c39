"""Messages on a replica: the delivery machine's actions, made durable and carried out in order.

The machine (`slackwater.ibc.delivery`) decides; this does. An action that finds no room stays
first in the queue and is tried again: nothing behind it happens before it (D20).
Everything here is called under the replica's apply lock.
"""

from collections import deque
from collections.abc import Callable
from contextlib import suppress

from slackwater import errors
from slackwater.apply.database import INBOX, TAKEN, ReplicaDatabase
from slackwater.apply.message_rows import (
    message_of_record,
    message_of_row,
    row_of,
    row_of_timers,
    timers_of_row,
    verdict_of_row,
    verdict_row,
)
from slackwater.clock import Clock
from slackwater.group.rows import MessageRow, VerdictRow
from slackwater.ibc.actions import (
    Answer,
    Delivered,
    DeliveryAction,
    EndHold,
    Freeze,
    KeepNotified,
    Receiver,
    Record,
    Resume,
    StoreTimers,
    TakeNotified,
    Timers,
)
from slackwater.ibc.delivery import Delivery, ended
from slackwater.ibc.messages import Behaviour, Message, Verdict, VerdictState
from slackwater.ibc.names import Application, Applications
from slackwater.position import LogPoint
from slackwater.v1 import record_pb2

OnAnswer = Callable[[Delivered | None, bool], None]
OnHold = Callable[[Answer | EndHold], None]
OnVerdict = Callable[[Message, Verdict], None]


class Messages:
    """The messages of one replica."""

    def __init__(
        self,
        database: ReplicaDatabase,
        clock: Clock,
        *,
        link: str,
        freeze_log_limit: float,
        lease_grace: float,
        stand_still: Callable[[], object],
        go_on: Callable[[], None],
        snapshot: Callable[[Message, str, LogPoint], str],
    ) -> None:
        """Take up what group.db has.

        Args:
            database: Of the group.
            clock: For timers and times.
            link: This replica's link id on the Primary.
            freeze_log_limit: Log use at which a freeze ends by itself (C8).
            lease_grace: Seconds without a sign of life that end a lease (C13).
            stand_still: Syncs the volumes and takes a checkpoint at the message (D24).
            go_on: Lets the applier pass the message.
            snapshot: Takes a snapshot at a message under a name, once; returns the name.
        """
        self._database = database
        self._clock = clock
        self._stand_still = stand_still
        self._go_on = go_on
        self._snapshot = snapshot
        self._queue: deque[DeliveryAction] = deque()
        self._answers: dict[Receiver, OnAnswer] = {}
        self._holds: dict[Receiver, OnHold] = {}
        self._reaching = 0
        self.on_verdict: OnVerdict = _nobody_asked
        self.delivery = Delivery(
            Applications(
                database.name,
                [Application(row.name, row.created_ns) for row in database.applications()],
            ),
            [self._kept(row) for row in database.messages_in_state(INBOX)],
            timers_of_row(database.delivery()),
            freeze_log_limit,
            link,
            lease_grace,
        )

    def _kept(self, row: MessageRow) -> Message:
        """Return a message of the inbox, with the snapshot that was taken at it.

        By its verdict, not its effect: effects go when the checkpoint has passed them.
        """
        verdict = self._final_verdict(row.id)
        return message_of_row(row, verdict.snapshot_id if verdict else "")

    # -- the applier's side ------------------------------------------------------------------

    def reach(
        self,
        body: record_pb2.IbcMessage,
        point: LogPoint,
        time_ns: int,
        *,
        consistent: bool,
    ) -> tuple[bool, bool]:
        """Do what the message asks for; returns (applying may go on, it was for us and is new).

        Raises:
            OSError: no room; reach it again.
            StorageFailed: the storage failed, which is final (D3).
        """
        lsn = point.position.lsn
        self.pump(reaching=True)
        if self._reaching == lsn:  # an earlier try found no room, now it did
            self._reaching = 0
            return self.delivery.may_apply, True
        if self._database.effect(lsn) is not None:
            return True, False
        message = message_of_record(body, point.position, time_ns)
        self._database.keep_message(row_of(message, body))
        link = self.delivery.link
        if message.links and link and link not in message.links:
            return True, False
        if message.behaviour is Behaviour.SNAPSHOT and consistent:
            name = self._snapshot(message, body.snapshot_id, point)
            self._reaching = lsn
            self.delivery.snapshotted(message, name, self._clock.monotonic())
        else:
            self._reaching = lsn
            self.delivery.reach(message, self._clock.monotonic(), consistent)
        self.pump(reaching=True)
        self._reaching = 0
        return self.delivery.may_apply, True

    def pump(self, *, reaching: bool = False) -> None:
        """Carry out what the machine asked for, in order.

        A freeze that found no room waits for the applier, `reaching` the message again: nobody is
        handed the message before the applier stands at it.

        Raises:
            OSError: no room; the rest waits for the next call.
            StorageFailed: the storage failed, which is final (D3).
        """
        self._queue.extend(self.delivery.actions())
        while self._queue and (reaching or not isinstance(self._queue[0], Freeze)):
            self._do(self._queue[0])
            self._queue.popleft()
            self._queue.extend(self.delivery.actions())

    def _pump_on(self) -> None:
        """Go on after a change that is durable: what finds no room now is nothing to refuse it for.

        It waits for the next call, at the latest that of `tick`.
        """
        with suppress(OSError):
            self.pump()

    def _do(self, action: DeliveryAction) -> None:
        match action:
            case Freeze():
                self._stand_still()
                self.delivery.frozen_here(self._clock.monotonic())
            case Record(message, verdict, effect):
                row = self._row(message, verdict)
                if effect:
                    self._database.record_effect(
                        message.position.lsn, verdict.state.value, verdict=row, end_delivery=True
                    )
                else:
                    self._database.add_verdict(row)
                self.on_verdict(message, verdict)
            case KeepNotified(message, verdict):
                self._database.keep_notified(self._row(message, verdict))
                self.on_verdict(message, verdict)
            case TakeNotified(message):
                self._database.set_message_state(message.message_id, TAKEN)
            case StoreTimers(timers):
                self._store(timers)
            case Resume():
                self._go_on()
            case Answer(receiver, delivered, stopped):
                self._answers.pop(receiver, _nobody)(delivered, stopped)
                self._holds.get(receiver, _nobody_holds)(action)
            case EndHold(receiver):
                self._holds.pop(receiver, _nobody_holds)(action)

    def _store(self, timers: Timers | None) -> None:
        if timers is None:
            self._database.clear_delivery()
            return
        standing = self.delivery.standing
        lsn = 0 if standing is None else standing.message.position.lsn
        self._database.set_delivery(row_of_timers(timers, lsn))

    def _row(self, message: Message, verdict: Verdict) -> VerdictRow:
        return verdict_row(message, verdict, self._clock.time_ns())

    # -- receivers ---------------------------------------------------------------------------

    def register(self, name: str) -> Application:
        """Register an application name, durably (C9)."""
        if self.delivery.applications.check_register(name):
            row = self._database.register_application(name, self._clock.time_ns())
            self.delivery.register(Application(row.name, row.created_ns), self._clock.monotonic())
            self._pump_on()
        return self.delivery.applications.get(name)

    def unregister(self, name: str) -> None:
        """Take a name back (C9)."""
        self.delivery.check_unregister(name)
        self._database.unregister_application(name)
        self.delivery.unregister(name)
        self._pump_on()

    def receive(
        self, application: str, holder: str, request_id: str, wait_seconds: float, answer: OnAnswer
    ) -> Receiver:
        """Take the next message of a name, now or later; `answer` is called once (C10)."""
        receiver = self.delivery.receive(
            application, holder, request_id, wait_seconds, self._clock.monotonic()
        )
        self._answers[receiver] = answer
        self.pump()
        return receiver

    def cancel(self, receiver: Receiver) -> None:
        """Forget a receive whose caller is gone; of a lease that holds, the grace runs (C13)."""
        self.delivery.cancel(receiver)
        self._answers.pop(receiver, None)
        self._holds.pop(receiver, None)

    def hold(self, application: str, holder: str, message_id: str, told: OnHold) -> Receiver:
        """Take the next message, or come back to one, by a lease (C13).

        `told` gets an `Answer` when the message is here and an `EndHold` at the end, which may be
        at once: the freeze may have ended while the holder was away.
        """
        verdict = self._final_verdict(message_id) if message_id else None
        if verdict is not None:
            over = Receiver(application, holder, "", 0.0, True, message_id)
            told(EndHold(over, verdict))
            return over
        receiver = self.delivery.hold(application, holder, message_id, self._clock.monotonic())
        self._holds[receiver] = told
        self.pump()
        return receiver

    def release(self, receiver: Receiver) -> None:
        """The holder of a lease is done: thaw; durable before it is told."""
        self.delivery.release(receiver, self._clock.monotonic())
        self.pump()

    def _final_verdict(self, message_id: str) -> Verdict | None:
        rows = [row for row in self._database.verdicts(message_id) if row.final]
        return verdict_of_row(rows[-1]) if rows else None

    def stop_receive(self, application: str) -> int:
        """End the waiting receives of a name; returns how many there were.

        Raises:
            InvalidRequest, NotFound: as `Receivers.stop_receive`.
        """
        stopped = self.delivery.stop_receive(application)
        self.pump()
        return stopped

    def unfreeze(self, message_id: str, by: str) -> float:
        """End the freeze at a message; returns how long applying stood still.

        It is durable before this returns, so an unfreeze that was answered stays.

        Raises:
            FailedPrecondition: the replica does not stand at it; says how the freeze ended (C12).
        """
        try:
            seconds = self.delivery.unfreeze(message_id, by, self._clock.monotonic())
        except errors.FailedPrecondition as error:
            rows = self._database.verdicts(message_id) if error.reason == "NOT_FROZEN" else []
            for row in rows:
                if row.final:  # it ended before the last start
                    raise ended(message_id, row.state, str(row.detail.get("by", ""))) from None
            raise
        self.pump()
        return seconds

    def tick(self, log_use: float) -> None:
        """Let time pass; a freeze ends before the log is full (C8)."""
        now = self._clock.monotonic()
        self.delivery.tick(now)
        self.delivery.log_use(log_use, now)
        self.pump()

    def abandon(self, state: VerdictState) -> None:
        """End whatever stands."""
        self.delivery.abandon(state, self._clock.monotonic())
        self.pump()

    def store_timers(self) -> None:
        """Make what is left of the timers durable, before a stop (D19)."""
        timers = self.delivery.timers(self._clock.monotonic())
        if timers is not None:
            self._store(timers)


def _nobody_asked(message: Message, verdict: Verdict) -> None:
    """Tell nobody about a verdict that is durable."""
    del message, verdict


def _nobody(delivered: Delivered | None, stopped: bool) -> None:
    """Answer a receive whose caller is gone."""
    del delivered, stopped


def _nobody_holds(news: Answer | EndHold) -> None:
    """Tell a lease whose stream is gone."""
    del news
