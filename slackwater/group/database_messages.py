"""Rows of messages, verdicts, outcomes and registered applications."""

import json
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from slackwater.errors import FailedPrecondition, NotFound
from slackwater.group.rows import ApplicationRow, MessageRow, VerdictRow
from slackwater.group.table import Table
from slackwater.position import Position
from slackwater.v1 import record_pb2

APPLICATIONS_LIMIT = 32
AWAITED = "AWAITED"
"""State of an outcome that is still to come (C17)."""
_FORGOTTEN_AT_ONCE: Final = 1000
_MOST: Final = (1 << 63) - 1


class MessageTable(Table):
    """Messages by id, verdicts by link and source, outcomes, application names."""

    _kept: int | None = None
    _pending_state = "INBOX"

    def keep_messages(self, number: int, pending_state: str) -> None:
        """Keep about so many messages from now on, the newest, with their verdicts and outcomes.

        Until this is called all are kept.

        Args:
            number: how many.
            pending_state: messages whose row says so are kept beyond it.
        """
        self._kept, self._pending_state = number, pending_state

    def forget_messages_before(self, time_ns: int) -> int:
        """Forget messages that were sent before then, with their verdicts and outcomes.

        Some at a time, so that nobody waits long for the database; what is still to be done stays.

        Returns:
            How many went; 0 if none is left that may go.
        """
        choice = _History(time_ns, _MOST, self._pending_state)
        if not _forgettable(self.query, choice, 1):
            return 0
        with self.transaction() as connection:
            gone = _forgettable(connection.execute, choice, _FORGOTTEN_AT_ONCE)
            _forget(connection, gone)
        return len(gone)

    # -- messages -----------------------------------------------------------------------------

    def put_message(self, message: MessageRow, *, awaits_outcome: bool = False) -> None:
        """Add a message; one that is there stays as it is (D11: replay adds what is missing).

        Args:
            message: the message.
            awaits_outcome: it was quiesced, so an outcome is owed; see `unjudged`.
        """
        position = message.position
        with self.transaction() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO messages VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    message.id,
                    position.lsn,
                    position.epoch,
                    position.chain,
                    message.application,
                    message.request_id or None,
                    message.time_ns,
                    message.record,
                    json.dumps(message.links),
                    message.fence_seconds,
                    message.state,
                ),
            )
            if awaits_outcome:
                connection.execute(
                    "INSERT OR IGNORE INTO outcomes VALUES (?, ?, ?, '{}')",
                    (message.id, position.lsn, AWAITED),
                )
            if self._kept is not None:
                _forget_old(connection, self._kept, self._pending_state)

    def message(self, message_id: str) -> MessageRow:
        """Return a message.

        Raises:
            NotFound: there is none of that id, or it is no longer kept.
        """
        rows = self.query("SELECT * FROM messages WHERE id = ?", (message_id,))
        if not rows:
            raise NotFound(
                "message", message_id, f"List them with: slackwater ibc status {self.name}"
            )
        return _message(rows[0])

    def message_of_request(self, request_id: str) -> MessageRow | None:
        """Return the message that a send with this request id made, if there is one (C3)."""
        if not request_id:
            return None
        rows = self.query("SELECT * FROM messages WHERE request_id = ?", (request_id,))
        return _message(rows[0]) if rows else None

    def messages(self, after_lsn: int = 0, limit: int = 100) -> list[MessageRow]:
        """Return messages past an lsn, oldest first."""
        rows = self.query(
            "SELECT * FROM messages WHERE lsn > ? ORDER BY lsn LIMIT ?", (after_lsn, limit)
        )
        return [_message(row) for row in rows]

    def messages_in_state(self, state: str) -> list[MessageRow]:
        """Return the messages whose row says `state`, oldest first (the NOTIFY inbox)."""
        rows = self.query("SELECT * FROM messages WHERE state = ? ORDER BY lsn", (state,))
        return [_message(row) for row in rows]

    def count_messages_in_state(self, state: str) -> int:
        """Return how many messages have a row that says `state`."""
        rows = self.query("SELECT count(*) AS number FROM messages WHERE state = ?", (state,))
        return int(rows[0]["number"])

    def set_message_state(self, message_id: str, state: str) -> None:
        """Note where a message stands on this side."""
        with self.transaction() as connection:
            connection.execute("UPDATE messages SET state = ? WHERE id = ?", (state, message_id))

    # -- verdicts -----------------------------------------------------------------------------

    def add_verdict(self, verdict: VerdictRow) -> int:
        """Add a verdict and return its sequence number; a repeated one counts once."""
        with self.transaction() as connection:
            return add_verdict(connection, verdict)

    def verdicts(self, message_id: str) -> list[VerdictRow]:
        """Return what became of a message, on every link, in order."""
        rows = self.query(
            "SELECT * FROM verdicts WHERE message_id = ? ORDER BY sequence", (message_id,)
        )
        return [_verdict(row) for row in rows]

    def unconfirmed_verdicts(self) -> list[VerdictRow]:
        """Return the verdicts that the Primary has not confirmed, in order (D17)."""
        rows = self.query("SELECT * FROM verdicts WHERE confirmed = 0 ORDER BY sequence")
        return [_verdict(row) for row in rows]

    def confirm_verdicts(self, sequence: int) -> None:
        """Note that the Primary holds every verdict up to a sequence number durably (D17)."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE verdicts SET confirmed = 1 WHERE confirmed = 0 AND sequence <= ?",
                (sequence,),
            )

    # -- outcomes -----------------------------------------------------------------------------

    def put_outcome(self, message_id: str, lsn: int, state: str, detail: dict[str, Any]) -> None:
        """Note what a quiesce was worth; the first outcome of a message stands."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO outcomes VALUES (?, ?, ?, ?) ON CONFLICT (message_id) DO UPDATE"
                " SET lsn = excluded.lsn, state = excluded.state, detail = excluded.detail"
                " WHERE state = ?",
                (message_id, lsn, state, json.dumps(detail), AWAITED),
            )

    def put_outcome_record(self, outcome: record_pb2.Outcome, lsn: int) -> None:
        """Note an Outcome record, whole; anything but CONFIRMED is REVOKED."""
        is_confirmed = outcome.state == record_pb2.Outcome.STATE_CONFIRMED
        state = "CONFIRMED" if is_confirmed else "REVOKED"
        detail = {"record": outcome.SerializeToString().hex()}
        self.put_outcome(outcome.message_id, lsn, state, detail)

    def outcome(self, message_id: str) -> tuple[str, dict[str, Any]] | None:
        """Return (state, detail) of a message's outcome, if it is known."""
        rows = self.query(
            "SELECT * FROM outcomes WHERE message_id = ? AND state != ?", (message_id, AWAITED)
        )
        return (rows[0]["state"], json.loads(rows[0]["detail"])) if rows else None

    def unjudged(self) -> list[MessageRow]:
        """Return the messages whose outcome is owed, oldest first (C17)."""
        rows = self.query(
            "SELECT messages.* FROM messages JOIN outcomes ON outcomes.message_id = messages.id"
            " WHERE outcomes.state = ? ORDER BY messages.lsn",
            (AWAITED,),
        )
        return [_message(row) for row in rows]

    # -- applications (C9) --------------------------------------------------------------------

    def applications(self) -> list[ApplicationRow]:
        """Return the registered names."""
        return [
            ApplicationRow(row["name"], row["deliver_timeout"], row["created_ns"])
            for row in self.query("SELECT * FROM applications ORDER BY name")
        ]

    def register_application(
        self, name: str, now_ns: int, deliver_timeout: float | None = None
    ) -> ApplicationRow:
        """Register a name, durably; one that is registered stays as it is.

        Raises:
            FailedPrecondition: 32 names are registered on this side.
        """
        with self.transaction() as connection:
            known = connection.execute("SELECT count(*) FROM applications").fetchone()[0]
            there = connection.execute("SELECT 1 FROM applications WHERE name = ?", (name,))
            if there.fetchone() is None and known >= APPLICATIONS_LIMIT:
                raise FailedPrecondition(
                    "TOO_MANY_APPLICATIONS",
                    f"{APPLICATIONS_LIMIT} application names are registered in this group",
                    f"Unregister one with: slackwater ibc unregister {self.name} APP",
                )
            connection.execute(
                "INSERT OR IGNORE INTO applications VALUES (?, ?, ?)",
                (name, deliver_timeout, now_ns),
            )
        return next(one for one in self.applications() if one.name == name)

    def unregister_application(self, name: str) -> None:
        """Take a name back; the caller has seen that no message of it is pending.

        Raises:
            NotFound: it is not registered.
        """
        with self.transaction() as connection:
            cursor = connection.execute("DELETE FROM applications WHERE name = ?", (name,))
            if not cursor.rowcount:
                raise NotFound(
                    "application", name, f"List the names with: slackwater ibc status {self.name}"
                )


def add_verdict(connection: sqlite3.Connection, verdict: VerdictRow) -> int:
    """Add a verdict in a running transaction; a repeated one counts once.

    On the Secondary ``source`` is 0: the row's own sequence number becomes it. A replica made anew
    counts from 1 again, so a link's source number alone does not say that a verdict is known.
    """
    if verdict.source:
        found = connection.execute(
            "SELECT sequence FROM verdicts"
            " WHERE link = ? AND source = ? AND message_id = ? AND state = ?",
            (verdict.link, verdict.source, verdict.message_id, verdict.state),
        ).fetchone()
        if found:
            return int(found[0])
    source = verdict.source or -1 - int(
        connection.execute("SELECT coalesce(max(sequence), 0) FROM verdicts").fetchone()[0]
    )
    cursor = connection.execute(
        "INSERT INTO verdicts (message_id, link, source, lsn, state, detail, time_ns, final,"
        " confirmed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            verdict.message_id,
            verdict.link,
            source,
            verdict.lsn,
            verdict.state,
            json.dumps(verdict.detail),
            verdict.time_ns,
            int(verdict.final),
            int(verdict.confirmed),
        ),
    )
    sequence = cursor.lastrowid
    assert sequence is not None
    if not verdict.source:
        connection.execute(
            "UPDATE verdicts SET source = ? WHERE sequence = ?", (sequence, sequence)
        )
    return sequence


def _forget_old(connection: sqlite3.Connection, kept: int, pending_state: str) -> None:
    """Keep a bounded number of messages, and the verdicts and outcomes of those kept."""
    last = connection.execute(
        "SELECT lsn FROM messages ORDER BY lsn DESC LIMIT 1 OFFSET ?", (kept,)
    ).fetchone()
    if last is not None:
        choice = _History(_MOST, last["lsn"], pending_state)
        _forget(connection, _forgettable(connection.execute, choice, -1))


@dataclass(frozen=True, slots=True)
class _History:
    """Messages sent before a time and placed up to an lsn, but those in the pending state."""

    before_ns: int
    last_lsn: int
    pending_state: str


def _forgettable(
    select: Callable[[str, tuple[Any, ...]], Iterable[sqlite3.Row]], choice: _History, limit: int
) -> list[str]:
    """Return which of them are history, at most so many (-1: all).

    What is still to be done is no history: a message that is not final (Primary) or not read
    (the inbox, C7), a verdict not confirmed, the message in delivery, an outcome that is owed. Nor
    is what lies after the checkpoint: replay would bring it back as new (D11).
    """
    rows = select(
        "SELECT id FROM messages WHERE time_ns < ? AND lsn <= ? AND state != ?"
        " AND lsn <= (SELECT checkpoint_lsn FROM log)"
        " AND id NOT IN (SELECT message_id FROM verdicts WHERE confirmed = 0 AND link = '')"
        " AND id NOT IN (SELECT message_id FROM delivery)"
        " AND id NOT IN (SELECT message_id FROM outcomes WHERE state = ?)"
        " LIMIT ?",
        (choice.before_ns, choice.last_lsn, choice.pending_state, AWAITED, limit),
    )
    return [row["id"] for row in rows]


def _forget(connection: sqlite3.Connection, messages: list[str]) -> None:
    for statement in (
        "DELETE FROM verdicts WHERE message_id = ?",
        "DELETE FROM outcomes WHERE message_id = ?",
        "DELETE FROM messages WHERE id = ?",
    ):
        connection.executemany(statement, [(one,) for one in messages])


def _message(row: sqlite3.Row) -> MessageRow:
    return MessageRow(
        row["id"],
        Position(row["epoch"], row["lsn"], row["chain"]),
        row["application"],
        row["request_id"] or "",
        row["time_ns"],
        row["record"],
        tuple(json.loads(row["links"])),
        row["fence_seconds"],
        row["state"],
    )


def _verdict(row: sqlite3.Row) -> VerdictRow:
    return VerdictRow(
        row["sequence"],
        row["message_id"],
        row["link"],
        row["source"],
        row["lsn"],
        row["state"],
        json.loads(row["detail"]),
        row["time_ns"],
        bool(row["final"]),
        bool(row["confirmed"]),
    )
