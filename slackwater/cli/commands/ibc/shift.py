"""What `regrecv` does at one message: wait for it, run the command, unfreeze, say how it went."""

import contextlib
import queue
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Never

import grpc

from slackwater.cli import words
from slackwater.cli.commands.ibc import applications, shown
from slackwater.cli.commands.ibc.receive import no_message
from slackwater.cli.contexts import KEYS
from slackwater.cli.failure import EXIT_PRECONDITION, Failure
from slackwater.cli.hold import Broken, Delivered, Hold, Refused, Thawed
from slackwater.cli.session import Session
from slackwater.cli.work import EXIT_SIGNALLED, Exited, Signalled, Work
from slackwater.v1 import common_pb2, secondary_pb2

EXIT_THAWED = 122
EXIT_NOT_UNFROZEN = 123
EXIT_TIME_OUT = 124
EXIT_OWN_FAILURE = 125
TICK_SECONDS = 0.5
LEAST_WAIT_SECONDS = 1.0
"""A message that is there already needs a way over the net to be handed over."""
KILL_SECONDS = 10.0
TAKE_BACK_SECONDS = 10.0


@dataclass
class Shift:
    """One message, from the wait for it to the unfreeze.

    Attributes:
        session: The services.
        opening: What is held.
        events: What happens: to the stream, to the command, to this process.
        status: What the command ended with; None until it did.
        thawed: How the freeze ended; None while it did not.
        timed_out: True if the command was ended for its time.
        frozen: True from the delivery of a message at which the replica stands.
    """

    session: Session
    opening: secondary_pb2.HoldMessageRequest.Open
    events: "queue.SimpleQueue[Any]"
    status: int | None = None
    thawed: Thawed | None = None
    timed_out: bool = False
    frozen: bool = False
    interrupted: bool = False

    def __post_init__(self) -> None:
        """Plan the stream."""
        self._hold = Hold(self.session.secondary.HoldMessage, self.opening, self.events)
        self._lost: Failure | None = None

    @contextlib.contextmanager
    def registered(self) -> Iterator[None]:
        """Register the name, and take it back if it was not there before."""
        session, group, name = self.session, self.opening.group, self.opening.application
        is_new = not applications.is_on_secondary(session, group, name)
        if is_new:
            applications.register_on_secondary(session, group, name, session.timeout_seconds)
        try:
            yield
        finally:
            if is_new:
                self._take_back()

    @contextlib.contextmanager
    def holding(self) -> Iterator[None]:
        """Open the stream; whatever happens, unfreeze and hang up."""
        self._hold.start()
        try:
            yield
        finally:
            try:
                self._see_late_delivery()
                if self.frozen and self.thawed is None:
                    self._unfreeze()
            finally:
                self._hold.close()

    def wait(self, seconds: float) -> secondary_pb2.DeliveredMessage:
        """Wait for the message."""
        application = self.opening.application
        self._note(f"waiting for a message for {application}")
        for event in self._events(max(seconds, LEAST_WAIT_SECONDS)):
            if isinstance(event, Delivered):
                self.frozen = event.message.behaviour == common_pb2.MESSAGE_BEHAVIOUR_FREEZE
                self._tell(event.message)
                return event.message
            if isinstance(event, Signalled):
                self.interrupted = True
                raise Failure(
                    f"{signal.Signals(event.number).name} before a message came",
                    EXIT_SIGNALLED + event.number,
                    "CANCELLED",
                    "INTERRUPTED",
                )
            if isinstance(event, Refused):
                raise self._why_refused(event.error)
        raise no_message(self.opening.group, application, seconds, EXIT_TIME_OUT)

    def run(
        self,
        argv: list[str],
        message: secondary_pb2.DeliveredMessage,
        body_file: Path,
        limit_seconds: float,
    ) -> None:
        """Run the command to its end, with all signals passed on to it."""
        work = Work(argv, self._environment(message, body_file), self.events)
        for number in (None, signal.SIGTERM, signal.SIGKILL):
            if number is not None:
                self.timed_out = True
                self._note(f"the command is ended by {number.name}: out of time")
                work.forward(number)
            wait = limit_seconds if number is None else KILL_SECONDS
            for event in self._events(wait):
                if isinstance(event, Signalled):
                    work.forward(event.number)
                if isinstance(event, Exited):
                    self.status = event.status
                    return
                self._notice_end(event)

    def report(self, message: secondary_pb2.DeliveredMessage) -> int:
        """Say how it ended; the exit code."""
        status = self.status if self.status is not None else EXIT_OWN_FAILURE
        state = shown.state(self.thawed.state) if self.thawed is not None else ""
        if state and state != "UNFROZEN":
            self._fail_thawed(message, state)
        if self.frozen and self.thawed is None:
            failure = self._not_unfrozen(status)
            if status == 0:
                raise failure
            self.session.screen.alarm(failure.message)
        if self.timed_out:
            raise Failure(
                "the command did not end within --command-timeout",
                EXIT_TIME_OUT,
                "DEADLINE_EXCEEDED",
                "COMMAND_TIMED_OUT",
            )
        self._summary(message, state, status)
        return status

    def _events(self, seconds: float) -> Iterator[Any]:
        """What happens, for at most so long; a silent connection is noticed meanwhile."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._hold.check()
            try:
                event = self.events.get(timeout=min(TICK_SECONDS, left))
            except queue.Empty:
                continue
            if isinstance(event, Broken):
                why = event.error.details() if event.error is not None else "it ended"
                self._note(f"the Secondary cannot be heard ({why}); trying again")
            else:
                yield event

    def _notice_end(self, event: object) -> None:
        """The freeze ended, or cannot be held any more, while the command runs."""
        if isinstance(event, Thawed):
            self.thawed = event
            if event.state == common_pb2.VERDICT_STATE_UNFROZEN:
                self._note("somebody unfroze the replica; the command runs on")
            else:
                self.session.screen.alarm(
                    f"the freeze is over ({shown.state(event.state)}) and the command still runs:"
                    " what it reads from now on is not the point of the message"
                )
        elif isinstance(event, Refused) and self.frozen:
            self._lost = self._why_refused(event.error)
            self.thawed = Thawed(common_pb2.VERDICT_STATE_LEASE_LOST, 0.0)
            self.session.screen.alarm(f"the lease is lost: {self._lost.message}")

    def _see_late_delivery(self) -> None:
        """A message that came while we were giving up is unfrozen as any other."""
        with contextlib.suppress(queue.Empty):
            while self.interrupted:
                event = self.events.get_nowait()
                if isinstance(event, Delivered):
                    self.frozen = event.message.behaviour == common_pb2.MESSAGE_BEHAVIOUR_FREEZE

    def _unfreeze(self) -> None:
        """Release the lease and wait for the end of the freeze."""
        self._hold.release()
        for event in self._events(self.session.timeout_seconds):
            if isinstance(event, Thawed):
                self.thawed = event
                return
            if isinstance(event, Refused):
                self._lost = self._why_refused(event.error)
                return
            if isinstance(event, Signalled):
                self._note("unfreezing; the signal changes nothing")

    def _take_back(self) -> None:
        """Take the name back; a lease that was just hung up on keeps it busy for a while."""
        deadline = time.monotonic() + (TAKE_BACK_SECONDS if self.interrupted else 0.0)
        while True:
            try:
                applications.unregister_on_secondary(
                    self.session, self.opening.group, self.opening.application
                )
            except Failure as failure:
                if failure.exit_code == EXIT_PRECONDITION and time.monotonic() < deadline:
                    time.sleep(TICK_SECONDS)
                    continue
                self._note(
                    f"{self.opening.application} stays registered: {failure.message}; later:"
                    f" slackwater ibc unregister {words.last(self.opening.group)}"
                    f" {self.opening.application} --side secondary"
                )
            return

    def _environment(
        self, message: secondary_pb2.DeliveredMessage, body_file: Path
    ) -> dict[str, str]:
        """What the command is told: the message, and where the services are that we talk to."""
        told = {
            "GROUP": words.last(self.opening.group),
            "APPLICATION": message.application,
            "MESSAGE_ID": words.last(message.name),
            "POSITION": words.position(message.position),
            "BEHAVIOUR": shown.behaviour(message.behaviour),
            "TASK": message.task.removeprefix("tasks/"),
            "SNAPSHOT_ID": message.snapshot.rpartition("/")[2],
            "BODY_FILE": str(body_file),
        }
        context = self.session.context
        told |= {key.upper(): str(getattr(context, key)) for key in KEYS if getattr(context, key)}
        return {f"SLACKWATER_{key}": value for key, value in told.items()}

    def _note(self, sentence: str) -> None:
        if not self.session.screen.is_json:
            self.session.screen.note(sentence)

    def _tell(self, message: secondary_pb2.DeliveredMessage) -> None:
        stands = "stands" if self.frozen else "went on"
        again = ", handed over before" if message.redelivered else ""
        self._note(
            f"message {words.last(message.name)} at {words.position(message.position)}{again}:"
            f" the replica {stands}"
        )

    def _why_refused(self, error: grpc.RpcError | None) -> Failure:
        if error is None:
            return Failure(
                "the Secondary ended the hold without a word",
                EXIT_OWN_FAILURE,
                next_step=f"slackwater ibc status {words.last(self.opening.group)}",
            )
        group, application = words.last(self.opening.group), self.opening.application
        return self.session.failure(
            error, "secondary", f"slackwater ibc register {group} {application}"
        )

    def _fail_thawed(self, message: secondary_pb2.DeliveredMessage, state: str) -> Never:
        why = f": {self._lost.message}" if self._lost else ""
        raise Failure(
            f"the freeze at message {words.last(message.name)} ended with {state} before the"
            f" command did{why}; the command ended with {self.status}, and what it made is not to"
            " be trusted",
            EXIT_THAWED,
            "ABORTED",
            state,
            next_step=f"slackwater ibc status {words.last(self.opening.group)}",
        )

    def _not_unfrozen(self, status: int) -> Failure:
        why = f"within {words.seconds(self.session.timeout_seconds)}"
        if self._lost is not None:
            why = f": {self._lost.message}"
        return Failure(
            f"the command ended with {status}, but the Secondary did not confirm the unfreeze"
            f" {why}",
            EXIT_NOT_UNFROZEN,
            "DEADLINE_EXCEEDED",
            "NOT_UNFROZEN",
            next_step=f"slackwater ibc unfreeze {self.opening.message}",
        )

    def _summary(self, message: secondary_pb2.DeliveredMessage, state: str, status: int) -> None:
        frozen = self.thawed.frozen_seconds if self.thawed is not None else 0.0
        self.session.screen.summary(
            {
                "message": message.name,
                "state": state or shown.behaviour(message.behaviour).upper(),
                "frozenFor": f"{frozen:g}s",
                "exitCode": status,
            },
            f"the command ended with {status}; "
            + (f"{state} after {words.seconds(frozen)}" if state else "nothing was frozen"),
        )
