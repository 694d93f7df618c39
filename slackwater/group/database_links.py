"""Rows of the Primary's links, and the memory of administrative calls."""

import json
import sqlite3
import uuid
from typing import Any

from slackwater.errors import AlreadyExists, NotFound
from slackwater.group.rows import LinkRow
from slackwater.group.table import Table
from slackwater.position import LogPoint, Position

REQUESTS_KEPT = 10_000
"""Remembered administrative calls per group; the oldest go first."""


class LinkTable(Table):
    """Links by name, and the answers given to administrative calls by request id."""

    def links(self) -> list[LinkRow]:
        """Return all links by name."""
        return [_link(row) for row in self.query("SELECT * FROM links ORDER BY name")]

    def link(self, name: str) -> LinkRow:
        """Return a link.

        Raises:
            NotFound: there is none of that name.
        """
        rows = self.query("SELECT * FROM links WHERE name = ?", (name,))
        if not rows:
            raise NotFound("link", name, f"List the links with: slackwater link list {self.name}")
        return _link(rows[0])

    def add_link(self, link: LinkRow) -> None:
        """Add a link.

        Raises:
            AlreadyExists: the name is taken.
        """
        with self.transaction() as connection:
            taken = connection.execute("SELECT 1 FROM links WHERE name = ?", (link.name,))
            if taken.fetchone():
                raise AlreadyExists("link", link.name)
            acked = link.acked
            connection.execute(
                "INSERT INTO links VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    link.name,
                    link.uid.bytes,
                    link.endpoint,
                    link.state,
                    link.reason,
                    int(link.paused),
                    int(link.dirty),
                    int(link.discard),
                    None if acked is None else acked.position.epoch,
                    None if acked is None else acked.position.lsn,
                    None if acked is None else acked.position.chain,
                    None if acked is None else acked.offset,
                    link.sync_id,
                    link.created_ns,
                    json.dumps(link.settings),
                ),
            )

    def remove_link(self, name: str) -> None:
        """Forget a link."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM links WHERE name = ?", (name,))

    def set_link_settings(
        self, name: str, *, endpoint: str, paused: bool, settings: dict[str, Any]
    ) -> None:
        """Note what an operator changed."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE links SET endpoint = ?, paused = ?, settings = ? WHERE name = ?",
                (endpoint, int(paused), json.dumps(settings), name),
            )

    def set_link_acked(self, name: str, point: LogPoint) -> None:
        """Note the last acked point; it never goes back (D16)."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE links SET acked_epoch = ?, acked_lsn = ?, acked_chain = ?, acked_offset = ?"
                " WHERE name = ? AND (acked_offset IS NULL OR acked_offset <= ?)",
                (
                    point.position.epoch,
                    point.position.lsn,
                    point.position.chain,
                    point.offset,
                    name,
                    point.offset,
                ),
            )

    def store_link(
        self,
        name: str,
        *,
        state: str,
        reason: str,
        dirty: bool,
        sync_id: str,
        discard: bool,
        forget_acked: bool,
    ) -> None:
        """Note a link's transition, all of it in one step (D26)."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE links SET state = ?, reason = ?, dirty = ?, sync_id = ?, discard = ?"
                " WHERE name = ?",
                (state, reason, int(dirty), sync_id, int(discard), name),
            )
            if forget_acked:
                connection.execute(
                    "UPDATE links SET acked_epoch = NULL, acked_lsn = NULL, acked_chain = NULL,"
                    " acked_offset = NULL WHERE name = ?",
                    (name,),
                )

    # -- idempotency of administrative calls --------------------------------------------------

    def remembered(self, request_id: str, method: str) -> bytes | None:
        """Return the answer that a call with this id got, if it was made."""
        rows = self.query(
            "SELECT response FROM requests WHERE request_id = ? AND method = ?",
            (request_id, method),
        )
        return rows[0]["response"] if rows else None

    def remember(self, request_id: str, method: str, response: bytes, now_ns: int) -> None:
        """Keep the answer to a call; calls without an id are not kept."""
        if not request_id:
            return
        with self.transaction() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO requests VALUES (?, ?, ?, ?)",
                (request_id, method, response, now_ns),
            )
            connection.execute(
                "DELETE FROM requests WHERE rowid <= (SELECT max(rowid) FROM requests) - ?",
                (REQUESTS_KEPT,),
            )


def _link(row: sqlite3.Row) -> LinkRow:
    acked = None
    if row["acked_lsn"] is not None:
        position = Position(row["acked_epoch"], row["acked_lsn"], row["acked_chain"])
        acked = LogPoint(row["acked_offset"], position)
    return LinkRow(
        row["name"],
        uuid.UUID(bytes=row["uid"]),
        row["endpoint"],
        row["state"],
        row["reason"],
        bool(row["paused"]),
        acked,
        row["sync_id"],
        row["created_ns"],
        json.loads(row["settings"]),
        bool(row["dirty"]),
        bool(row["discard"]),
    )
