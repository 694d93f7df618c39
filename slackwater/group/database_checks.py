"""Rows of what checks of snapshots found."""

import uuid
from collections.abc import Sequence

from slackwater.group.rows import CheckRow
from slackwater.group.table import Table


class CheckTable(Table):
    """The latest results of each snapshot."""

    def checks(self) -> list[CheckRow]:
        """Return all results, oldest first."""
        return [
            CheckRow(
                id=row["id"],
                snapshot_uid=uuid.UUID(bytes=row["snapshot_uid"]),
                check=row["check_name"],
                verdict=row["verdict"],
                start_ns=row["start_ns"],
                took_ns=row["took_ns"],
                reason=row["reason"],
                output=row["output"],
            )
            for row in self.query("SELECT * FROM checks ORDER BY number")
        ]

    def set_checks(self, snapshot_uid: uuid.UUID, rows: Sequence[CheckRow]) -> None:
        """Write all results of a snapshot anew; those of snapshots that are gone go with it."""
        with self.transaction() as connection:
            connection.execute(
                "DELETE FROM checks WHERE snapshot_uid = ?"
                " OR snapshot_uid NOT IN (SELECT uid FROM snapshots)",
                (snapshot_uid.bytes,),
            )
            connection.executemany(
                "INSERT INTO checks (id, snapshot_uid, check_name, verdict, start_ns, took_ns,"
                " reason, output) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        row.id,
                        row.snapshot_uid.bytes,
                        row.check,
                        row.verdict,
                        row.start_ns,
                        row.took_ns,
                        row.reason,
                        row.output,
                    )
                    for row in rows
                ],
            )
