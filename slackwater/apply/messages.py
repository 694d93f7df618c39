"""Messages on a replica: the delivery machine's actions, made durable and carried out in order.

The machine (`slackwater.ibc.delivery`) decides; this does. An action that finds no room stays
first in the queue and is tried again: nothing behind it happens before it (D20).
Everything here is called under the replica's apply lock.
"""

from collections import deque
from collections.abc import Callable
from typing import Final, cast

from slackwater import errors
from slackwater.apply.database import INBOX, TAKEN, ReplicaDatabase
from slackwater.clock import Clock
from slackwater.group.rows import DeliveryRow, MessageRow, VerdictRow
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
    StoreTimers,
    TakeNotified,
    Timers,
)
from slackwater.ibc.delivery import Delivery, ended
from slackwater.ibc.messages import Behaviour, Message, Verdict, VerdictState
from slackwater.ibc.names import Application
from slackwater.position import LogPoint, Position
from slackwater.v1 import common_pb2, record_pb2

OnAnswer = Callable[[Delivered | None, bool], None]
OnVerdict = Callable[[Message, Verdict], None]

_BEHAVIOURS: Final = {
    common_pb2.MESSAGE_BEHAVIOUR_UNSPECIFIED: Behaviour.FREEZE,
    common_pb2.MESSAGE_BEHAVIOUR_FREEZE: Behaviour.FREEZE,
    common_pb2.MESSAGE_BEHAVIOUR_NOTIFY: Behaviour.NOTIFY,
    common_pb2.MESSAGE_BEHAVIOUR_SNAPSHOT: Behaviour.SNAPSHOT,
}


class Messages:
    """The messages of one replica."""

    def __init__(
        self,
        database: ReplicaDatabase,
        clock: Clock,
        *,
        link: str,
        freeze_log_limit: float,
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
        self._reaching = 0
        self.on_verdict: OnVerdict = _nobody_asked
        self.delivery = Delivery(
            [Application(row.name, row.created_ns) for row in database.applications()],
            [_message_of_row(row) for row in database.messages_in_state(INBOX)],
            _timers_of_row(database.delivery()),
            freeze_log_limit,
            link,
        )

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
        message = _message_of_record(body, point.position, time_ns)
        self._database.keep_message(_row_of(message, body))
        link = self.delivery.link
        if message.links and link and link not in message.links:
            return True, False
        if message.behaviour is Behaviour.SNAPSHOT and consistent:
            name = self._snapshot(message, body.snapshot_id, point)
            verdict = Verdict(VerdictState.SNAPSHOTTED, snapshot_id=name)
            self._database.record_effect(
                lsn, "SNAPSHOTTED", {"snapshot": name}, verdict=self._row(message, verdict)
            )
            self.on_verdict(message, verdict)
            return True, True
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
            case KeepNotified(message):
                verdict = Verdict(VerdictState.NOTIFIED)
                notified = self._row(message, verdict)
                self._database.keep_notified(message.message_id, message.position.lsn, notified)
                self.on_verdict(message, verdict)
            case TakeNotified(message):
                self._database.set_message_state(message.message_id, TAKEN)
            case StoreTimers(timers):
                self._store(timers)
            case Resume():
                self._go_on()
            case Answer(receiver, delivered, stopped):
                self._answers.pop(receiver, _nobody)(delivered, stopped)

    def _store(self, timers: Timers | None) -> None:
        if timers is None:
            self._database.clear_delivery()
            return
        standing = self.delivery.standing
        lsn = 0 if standing is None else standing.message.position.lsn
        detail = {
            "remaining_seconds": timers.remaining_seconds,
            "stood_seconds": timers.stood_seconds,
            "holder": timers.holder,
            "holder_request_id": timers.holder_request_id,
            "delivered": timers.delivered,
        }
        self._database.set_delivery(DeliveryRow(timers.message_id, lsn, timers.phase.value, detail))

    def _row(self, message: Message, verdict: Verdict) -> VerdictRow:
        detail: dict[str, object] = {}
        if verdict.by:
            detail["by"] = verdict.by
        if verdict.frozen_seconds is not None:
            detail["frozen_seconds"] = verdict.frozen_seconds
        if verdict.snapshot_id:
            detail["snapshot_id"] = verdict.snapshot_id
        if verdict.text:
            detail["text"] = verdict.text
        return VerdictRow(
            sequence=0,
            message_id=message.message_id,
            link="",
            source=0,
            lsn=message.position.lsn,
            state=verdict.state.value,
            detail=detail,
            time_ns=self._clock.time_ns(),
            final=verdict.state.is_final,
        )

    # -- receivers ---------------------------------------------------------------------------

    def register(self, name: str) -> Application:
        """Register an application name, durably (C9)."""
        if self.delivery.applications.check_register(name):
            row = self._database.register_application(name, self._clock.time_ns())
            self.delivery.register(Application(row.name, row.created_ns), self._clock.monotonic())
            self.pump()
        return self.delivery.applications.get(name)

    def unregister(self, name: str) -> None:
        """Take a name back (C9)."""
        self.delivery.check_unregister(name)
        self._database.unregister_application(name)
        self.delivery.unregister(name)
        self.pump()

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
        """Forget a receive whose caller is gone."""
        self.delivery.cancel(receiver)
        self._answers.pop(receiver, None)

    def stop_receive(self, application: str) -> int:
        """End the waiting receives of a name; returns how many there were."""
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


def _message_of_record(body: record_pb2.IbcMessage, position: Position, time_ns: int) -> Message:
    is_text = body.WhichOneof("body") == "text"
    return Message(
        message_id=body.message_id,
        application=body.application,
        behaviour=_BEHAVIOURS.get(body.behaviour, Behaviour.FREEZE),
        position=position,
        body=body.text.encode() if is_text else body.data,
        body_is_text=is_text,
        links=tuple(body.links),
        request_id=body.request_id,
        deliver_timeout_seconds=body.deliver_timeout_seconds,
        freeze_timeout_seconds=body.freeze_timeout_seconds,
        unregistered_timeout_seconds=body.unregistered_timeout_seconds,
        time_ns=time_ns,
        fenced=body.fenced,
    )


def _row_of(message: Message, body: record_pb2.IbcMessage) -> MessageRow:
    return MessageRow(
        id=message.message_id,
        position=message.position,
        application=message.application,
        request_id="",  # repeated sends are the Primary's matter; here it need not be unique
        time_ns=message.time_ns,
        record=body.SerializeToString(),
        links=message.links,
        fence_seconds=body.fence_held_seconds,
    )


def _message_of_row(row: MessageRow) -> Message:
    body = record_pb2.IbcMessage.FromString(row.record)
    return _message_of_record(body, row.position, row.time_ns)


def _timers_of_row(row: DeliveryRow | None) -> Timers | None:
    if row is None:
        return None
    detail = row.detail
    return Timers(
        message_id=row.message_id,
        phase=Phase(row.phase),
        remaining_seconds=cast("float | None", detail["remaining_seconds"]),
        stood_seconds=float(detail["stood_seconds"]),
        holder=str(detail["holder"]),
        holder_request_id=str(detail["holder_request_id"]),
        delivered=bool(detail["delivered"]),
    )
