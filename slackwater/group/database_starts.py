"""Positions of `Start` records, kept longer than the log is: what history this side holds."""

import sqlite3

from slackwater.group.table import Table
from slackwater.position import Position

STARTS_KEPT = 1000
"""Remembered positions; the oldest go first."""


class StartTable(Table):
    """Positions of `Start` records, the group's origin before them all.

    Invariant: from the lowest lsn kept on, the list is complete. Each start of a Primary has a
    random incarnation in its chain, so sides that agree on the newest start at or below an lsn
    hold one history there (D16).
    """

    def put_start(self, position: Position) -> None:
        """Note a `Start` record; the same one again changes nothing."""
        with self.transaction() as connection:
            add_start(connection, position)
            connection.execute(
                "DELETE FROM starts WHERE lsn <="
                " (SELECT lsn FROM starts ORDER BY lsn DESC LIMIT 1 OFFSET ?)",
                (STARTS_KEPT,),
            )

    def newest_start(self, lsn: int) -> Position | None:
        """Return the newest start at or below `lsn`; None: it is not remembered."""
        rows = self.query(
            "SELECT epoch, lsn, chain FROM starts WHERE lsn <= ? ORDER BY lsn DESC LIMIT 1", (lsn,)
        )
        return Position(*rows[0]) if rows else None


def add_start(connection: sqlite3.Connection, position: Position) -> None:
    """Note a start in a running transaction."""
    connection.execute(
        "INSERT OR REPLACE INTO starts (epoch, lsn, chain) VALUES (?, ?, ?)",
        (position.epoch, position.lsn, position.chain),
    )
