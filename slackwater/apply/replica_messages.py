"""The replica's calls about messages: names, receiving, unfreezing, verdicts."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass

from slackwater import errors
from slackwater.apply.applier import Applier
from slackwater.apply.database import ReplicaDatabase
from slackwater.apply.messages import Messages, OnAnswer, OnHold
from slackwater.apply.receiving import Receiver
from slackwater.clock import Clock
from slackwater.group.rows import MessageRow, VerdictRow
from slackwater.ibc.actions import Delivered
from slackwater.ibc.actions import Receiver as WaitingReceiver
from slackwater.ibc.messages import VerdictState
from slackwater.ibc.names import Application
from slackwater.position import Position

_ANSWER_GRACE_SECONDS = 5.0


@dataclass(frozen=True)
class Unfrozen:
    """What an unfreeze ended.

    Attributes:
        position: The message's.
        stood_seconds: How long applying stood still.
        backlog_bytes: What was received meanwhile.
    """

    position: Position
    stood_seconds: float
    backlog_bytes: int


class ReplicaMessages(ABC):
    """Calls about messages; part of `Replica`."""

    name: str
    clock: Clock
    database: ReplicaDatabase
    messages: Messages
    applier: Applier
    receiver: Receiver
    on_change: Callable[[], None]
    _apply_lock: AbstractContextManager[object]

    @abstractmethod
    def _changing(self) -> AbstractContextManager[None]:
        """See `Replica`."""

    def register_application(self, name: str) -> Application:
        """Register a name, durably; one that is registered stays as it is (C9).

        Raises:
            InvalidRequest: it is no DNS label.
            FailedPrecondition: 32 names are registered.
        """
        with self._changing():
            application = self.messages.register(name)
        self.on_change()
        return application

    def unregister_application(self, name: str) -> None:
        """Take a name back (C9).

        Raises:
            NotFound: it is not registered.
            FailedPrecondition: a message of that name is pending.
        """
        with self._changing():
            self.messages.unregister(name)
        self.on_change()

    def applications(self) -> list[Application]:
        """Return the registered names."""
        with self._apply_lock:
            return self.messages.delivery.applications.list()

    def receive(
        self, application: str, holder: str, request_id: str, wait_seconds: float, answer: OnAnswer
    ) -> WaitingReceiver:
        """Take the next message of a name within a time; `answer` is called once, from any thread.

        Raises:
            NotFound: the name is not registered.
            GroupFailed: the replica has failed.
        """
        with self._changing():
            receiver = self.messages.receive(application, holder, request_id, wait_seconds, answer)
        self.on_change()
        return receiver

    def cancel_receive(self, receiver: WaitingReceiver) -> None:
        """Forget a receive whose caller is gone; of a lease that holds, the grace runs (C13)."""
        with self._apply_lock:
            self.messages.cancel(receiver)

    def hold(self, application: str, holder: str, message_id: str, told: OnHold) -> WaitingReceiver:
        """Take the next message of a name, or come back to one, by a lease (C13).

        `told` is called from any thread: with an Answer when the message is here, with an EndHold
        when the lease is over. `cancel_receive` says that the stream is gone.

        Raises:
            NotFound: the name is not registered.
            InvalidRequest: the message is another application's.
            FailedPrecondition: the replica does not stand at the message, or another has it.
            GroupFailed: the replica has failed.
        """
        with self._changing():
            receiver = self.messages.hold(application, holder, message_id, told)
        self.on_change()
        return receiver

    def heartbeat(self, receiver: WaitingReceiver) -> None:
        """The holder of a lease lives. Waits for no step: a slow disk must not lose a lease."""
        self.messages.delivery.heartbeat(receiver, self.clock.monotonic())

    def listen(self, can_hear: bool) -> None:
        """Say whether holders of leases can be heard; the grace begins when they can."""
        with self._apply_lock:
            self.messages.delivery.listen(can_hear, self.clock.monotonic())

    def release_hold(self, receiver: WaitingReceiver) -> None:
        """The holder of a lease is done: thaw."""
        with self._changing():
            self.messages.release(receiver)
        self.on_change()

    def receive_message(
        self, application: str, wait_seconds: float = 0.0, holder: str = "", request_id: str = ""
    ) -> Delivered | None:
        """Take the next message of a name, waiting in this thread; None: none came (C10).

        Raises:
            NotFound: the name is not registered.
            Unavailable: the receive was stopped.
        """
        future: Future[tuple[Delivered | None, bool]] = Future()
        receiver = self.receive(
            application,
            holder,
            request_id,
            wait_seconds,
            lambda delivered, stopped: future.set_result((delivered, stopped)),
        )
        try:
            delivered, stopped = future.result(wait_seconds + _ANSWER_GRACE_SECONDS)
        except TimeoutError:
            self.cancel_receive(receiver)
            return None
        if stopped:
            raise errors.Unavailable(f"receiving for {application!r}", "It was stopped here")
        return delivered

    def stop_receive(self, application: str) -> int:
        """End the waiting receives of a name; returns how many there were.

        Raises:
            InvalidRequest, NotFound: as `Receivers.stop_receive`.
        """
        with self._changing():
            return self.messages.stop_receive(application)

    def unfreeze(self, message_id: str, by: str) -> Unfrozen:
        """End the freeze at a message; durable when it returns.

        Raises:
            FailedPrecondition: the replica does not stand at it, or it ended otherwise (C12).
        """
        with self._changing():
            stopped = self.applier.stopped
            seconds = self.messages.unfreeze(message_id, by)
            end = self.receiver.log.durable
            point = stopped or self.applier.applied
        self.on_change()
        return Unfrozen(point.position, seconds, max(0, end.offset - point.offset))

    def thaw(self, state: VerdictState) -> None:
        """End whatever freeze there is, for another reason than an unfreeze (C19)."""
        with self._changing():
            self.messages.abandon(state)
        self.on_change()

    def list_messages(self, after_lsn: int = 0, limit: int = 100) -> list[MessageRow]:
        """Return the messages that were reached, oldest first."""
        return self.database.messages(after_lsn, limit)

    def verdicts_of(self, message_id: str) -> list[VerdictRow]:
        """Return what became of a message here, in order."""
        return self.database.verdicts(message_id)

    def unconfirmed_verdicts(self) -> list[VerdictRow]:
        """Return the verdicts to repeat to the Primary, in order (D17)."""
        return self.database.unconfirmed_verdicts()

    def confirm_verdicts(self, sequence: int) -> None:
        """Note what the Primary holds durably (D17)."""
        self.database.confirm_verdicts(sequence)
