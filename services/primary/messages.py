"""Messages of one group on its Primary: sending, verdicts, what is pending (C1 to C5, C9, C16)."""

import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from slackwater.errors import FailedPrecondition, NoSpace
from slackwater.group.changes import SentMessage, send_message
from slackwater.group.outcomes import append_outcome
from slackwater.group.rows import ApplicationRow, MessageRow, VerdictRow
from slackwater.ibc.messages import Behaviour, Send, VerdictState, check_send
from slackwater.ibc.names import Application, Applications
from slackwater.runtime.events import EventHub
from slackwater.v1 import common_pb2, record_pb2

if TYPE_CHECKING:
    from services.primary.group import PrimaryGroup

PENDING, FINAL = "", "final"


class MessageDesk:
    """Takes messages in and keeps book of what became of them."""

    def __init__(self, group: "PrimaryGroup", events: EventHub) -> None:
        """Serve a group."""
        self._group = group
        self._events = events
        self.sent_total = dict.fromkeys(Behaviour, 0)
        self._sending = threading.Lock()
        self._judging = threading.Lock()
        self._owed: list[record_pb2.Outcome] = []

    # -- names --------------------------------------------------------------------------------

    def applications(self) -> Applications:
        """Return the registered names with their rules."""
        rows = self._group.database.applications()
        registered = [Application(row.name, row.created_ns) for row in rows]
        return Applications(self._group.name, registered)

    def register(self, name: str) -> ApplicationRow:
        """Register a name for sending (C9)."""
        self.applications().check_register(name)
        return self._group.database.register_application(name, time.time_ns())

    def unregister(self, name: str) -> None:
        """Take a name back (C9).

        Raises:
            FailedPrecondition: a message of that name is not final, or it has an agent.
        """
        self.applications().get(name)
        if any(agent.application == name for agent in self._group.quiesce.core.sessions()):
            raise FailedPrecondition(
                "AGENT_CONNECTED", f"application {name!r} has an agent", "Stop the agent first"
            )
        pending = [row for row in self.pending() if row.application == name]
        if pending:
            raise FailedPrecondition(
                "MESSAGE_PENDING",
                f"message {pending[0].id} of application {name!r} is not final",
                f"Look at it with: slackwater ibc status {self._group.name}",
            )
        self._group.database.unregister_application(name)

    # -- sending ------------------------------------------------------------------------------

    def known(self, request_id: str) -> MessageRow | None:
        """Return the message that an earlier send with this request id has placed (C3)."""
        return self._group.database.message_of_request(request_id)

    def check(self, send: Send) -> tuple[str, ...]:
        """Return the links a message goes to, or say why it is not taken.

        Raises:
            InvalidRequest, NotFound, FailedPrecondition: see `check_send`.
        """
        links = check_send(send, self.applications(), self._group.links)
        if self._group.database.count_messages_in_state(PENDING) >= self._group.messages_kept:
            raise FailedPrecondition(
                "TOO_MANY_PENDING",
                f"{self._group.messages_kept} messages are not final, the most that are kept",
                f"See what they wait for: slackwater ibc status {self._group.name}",
            )
        return links

    def send(
        self,
        send: Send,
        message: record_pb2.IbcMessage,
        fence: float | None,
        check: Callable[[], None] = lambda: None,
    ) -> SentMessage:
        """Check a message and place it in the stream.

        Args:
            send: what is asked for, to be checked.
            message: the record's body; its id and links are set here.
            fence: seconds that writes may be held back, None for no fence.
            check: see `send_message`.

        Raises:
            InvalidRequest, NotFound, FailedPrecondition: see `check`.
            DeadlineExceeded: the fence; nothing was placed.
        """
        with self._sending:
            known = self.known(send.request_id)
            if known is not None:
                return SentMessage(known, repeated=True)
            links = self.check(send)
            del message.links[:]
            message.links.extend(links)
            message.message_id = str(uuid.uuid4())
            if send.behaviour is Behaviour.SNAPSHOT and not message.snapshot_id:
                message.snapshot_id = f"ibc-{message.message_id[:13]}"
            sent = send_message(self._group.writer, message, fence_timeout=fence, check=check)
            self.sent_total[send.behaviour] += 1
        self._events.publish(self.resource(sent.row.id), "MESSAGE_SENT", f"at {sent.row.position}")
        return sent

    # -- outcomes (C17) -----------------------------------------------------------------------

    def judged(self, outcome: record_pb2.Outcome) -> None:
        """Put the Outcome of a message into the log; while there is no room, it is owed.

        Raises:
            GroupFailed: the group has stopped; opening it again revokes the message.
        """
        self._owed.append(outcome)
        with suppress(NoSpace):
            self.settle_outcomes()

    def settle_outcomes(self) -> None:
        """Append the Outcomes that are owed.

        Raises:
            NoSpace: there is still no room.
            GroupFailed: the group has stopped.
        """
        with self._judging:
            while self._owed:
                outcome = self._owed[0]
                append_outcome(self._group.writer, outcome)
                del self._owed[0]
                state = record_pb2.Outcome.State.Name(outcome.state).removeprefix("STATE_")
                self._events.publish(
                    self.resource(outcome.message_id), "OUTCOME", outcome.evidence, state=state
                )

    def resource(self, message_id: str) -> str:
        """Return a message's resource name."""
        return f"groups/{self._group.name}/messages/{message_id}"

    # -- verdicts -----------------------------------------------------------------------------

    def pending(self) -> Sequence[MessageRow]:
        """Return the messages with a verdict that is not final."""
        return self._group.database.messages_in_state(PENDING)

    def all(self) -> Sequence[MessageRow]:
        """Return every message that is kept."""
        return self._group.database.messages(limit=1 << 20)

    def verdicts(self, row: MessageRow) -> list[VerdictRow]:
        """Return what became of a message, one row per link it went to, newest news each."""
        news = {verdict.link: verdict for verdict in self._group.database.verdicts(row.id)}
        return [news.get(link) or self._on_its_way(row, link) for link in row.links]

    def _on_its_way(self, row: MessageRow, link_name: str) -> VerdictRow:
        link = self._group.links.get(link_name)
        state = VerdictState.QUEUED
        if link is not None and link.marks.acked_lsn >= row.position.lsn:
            state = VerdictState.ARRIVED
        elif link is not None and link.marks.sent_lsn >= row.position.lsn:
            state = VerdictState.SENT
        return VerdictRow(
            0, row.id, link_name, 0, row.position.lsn, state.name, {}, row.time_ns, final=False
        )

    def verdict_came(self, message_id: str) -> None:
        """A verdict is in group.db; tell who watches, and note when all are final."""
        for row in self.pending():
            if row.id == message_id and all(one.final for one in self.verdicts(row)):
                self._group.database.set_message_state(row.id, FINAL)
        self._events.publish(self.resource(message_id), "MESSAGE_VERDICT", "")

    def link_detached(self, link: str) -> None:
        """End what is pending on a link that goes (C16)."""
        self._end(link, self.pending(), VerdictState.LINK_DETACHED)

    def sync_jumped(self, link: str, lsn: int) -> None:
        """End what a sync stood in for: the Secondary will never reach it (C18)."""
        jumped = [row for row in self.pending() if row.position.lsn <= lsn]
        self._end(link, jumped, VerdictState.SKIPPED_INCONSISTENT)

    def _end(self, link: str, rows: Sequence[MessageRow], state: VerdictState) -> None:
        for row in rows:
            if link not in row.links:
                continue
            if any(one.link == link and one.final for one in self.verdicts(row)):
                continue
            self._group.database.add_verdict(
                VerdictRow(
                    0,
                    row.id,
                    link,
                    -row.position.lsn,  # no Secondary numbers its verdicts below 1
                    row.position.lsn,
                    state.name,
                    {},
                    time.time_ns(),
                    final=True,
                    confirmed=True,
                )
            )
            self.verdict_came(row.id)


def verdict_state(name: str) -> common_pb2.VerdictState.ValueType:
    """Return a verdict's state as the API spells it."""
    return common_pb2.VerdictState.Value(f"VERDICT_STATE_{name}")
