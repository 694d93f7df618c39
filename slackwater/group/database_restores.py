"""Rows of restores."""

import json
from dataclasses import asdict

from slackwater.group.rows import RestoreRow
from slackwater.group.table import Table

RESTORES_KEPT = 100


class RestoreTable(Table):
    """Restores of a group, the last `RESTORES_KEPT` of them."""

    def restores(self) -> list[RestoreRow]:
        """Return all restores that are kept, oldest first."""
        return [
            _row(row["id"], row["detail"])
            for row in self.query("SELECT id, detail FROM restores ORDER BY id")
        ]

    def add_restore(self, restore: RestoreRow) -> int:
        """Add a row, forget the oldest beyond those that are kept, and return its id."""
        with self.transaction() as connection:
            cursor = connection.execute(
                "INSERT INTO restores (detail) VALUES (?)", (_detail(restore),)
            )
            assert cursor.lastrowid is not None
            connection.execute(
                "DELETE FROM restores WHERE id <= ?", (cursor.lastrowid - RESTORES_KEPT,)
            )
            return cursor.lastrowid

    def update_restore(self, restore: RestoreRow) -> None:
        """Write a row again."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE restores SET detail = ? WHERE id = ?", (_detail(restore), restore.id)
            )


def _detail(restore: RestoreRow) -> str:
    fields = asdict(restore)
    del fields["id"]
    return json.dumps(fields)


def _row(number: int, detail: str) -> RestoreRow:
    fields = json.loads(detail)
    names = {key: tuple(fields.get(key, ())) for key in ("volumes", "left")}
    return RestoreRow(id=number, **{**fields, **names})
