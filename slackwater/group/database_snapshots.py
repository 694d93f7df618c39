"""Rows of what the Secondary does by itself: effects, snapshots, the delivery in progress."""

import json
import sqlite3
import uuid
from collections.abc import Mapping
from typing import Any

from slackwater.group.database_messages import add_verdict
from slackwater.group.rows import DeliveryRow, EffectRow, SnapshotRow, VerdictRow
from slackwater.group.table import Table
from slackwater.position import LogPoint, Position

EXPIRED_KEPT = 100


class SnapshotTable(Table):
    """Snapshots, effects by lsn, and where a delivery stands."""

    def snapshots(self) -> list[SnapshotRow]:
        """Return all snapshots, whatever their state, oldest first."""
        return [_snapshot(row) for row in self.query("SELECT * FROM snapshots ORDER BY id")]

    def add_snapshot(self, snapshot: SnapshotRow) -> int:
        """Add a row and return the id it was given; the row's own id does not count."""
        with self.transaction() as connection:
            cursor = connection.execute(
                "INSERT INTO snapshots (name, uid, offset, epoch, lsn, chain, state, grade,"
                " message_id, guard, exported, chunk_bytes, created_ns, volumes, evidence,"
                " held, hold_note, kind, copied)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                _snapshot_values(snapshot),
            )
            assert cursor.lastrowid is not None
            return cursor.lastrowid

    def update_snapshot(
        self, snapshot: SnapshotRow, expired: Mapping[str, object] | None = None
    ) -> None:
        """Write a row as it is now; with `expired` note beside it that the budget took it."""
        with self.transaction() as connection:
            _update_snapshot(connection, snapshot)
            if expired is not None:
                cursor = connection.execute(
                    "INSERT INTO expired (detail) VALUES (?)", (json.dumps(dict(expired)),)
                )
                connection.execute(
                    "DELETE FROM expired WHERE id <= ?", ((cursor.lastrowid or 0) - EXPIRED_KEPT,)
                )

    # -- the budget ---------------------------------------------------------------------------

    def expired(self) -> list[dict[str, Any]]:
        """Return what the budget took, the latest first."""
        rows = self.query("SELECT detail FROM expired ORDER BY id DESC")
        return [json.loads(row["detail"]) for row in rows]

    def budget(self) -> dict[str, Any] | None:
        """Return the settings of the snapshot budget, if there is one."""
        rows = self.query("SELECT detail FROM budget")
        return json.loads(rows[0]["detail"]) if rows else None

    def set_budget(self, settings: Mapping[str, object] | None) -> None:
        """Keep the settings of the snapshot budget; None: there is none any more."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM budget")
            if settings is not None:
                connection.execute(
                    "INSERT INTO budget VALUES (1, ?)", (json.dumps(dict(settings)),)
                )

    def replace_snapshot(self, old: SnapshotRow, new: SnapshotRow) -> None:
        """Write two rows in one step; `old` gives a name up that `new` takes."""
        with self.transaction() as connection:
            _update_snapshot(connection, old)
            _update_snapshot(connection, new)

    def remove_snapshot(self, number: int) -> None:
        """Forget a snapshot whose files are gone."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM snapshots WHERE id = ?", (number,))

    # -- effects (D20) ------------------------------------------------------------------------

    def effect(self, lsn: int) -> EffectRow | None:
        """Return what was done at a record, if anything was."""
        rows = self.query("SELECT * FROM effects WHERE lsn = ?", (lsn,))
        if not rows:
            return None
        return EffectRow(rows[0]["lsn"], rows[0]["kind"], json.loads(rows[0]["detail"]))

    def record_effect(
        self,
        lsn: int,
        kind: str,
        detail: dict[str, Any] | None = None,
        *,
        verdict: VerdictRow | None = None,
        snapshot: SnapshotRow | None = None,
        end_delivery: bool = False,
    ) -> int:
        """Note what was done at a record, with all that goes with it, in one step.

        Returns the verdict's sequence number, 0 without one. The same lsn again replaces the row.
        """
        with self.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO effects VALUES (?, ?, ?)",
                (lsn, kind, json.dumps(detail or {})),
            )
            if snapshot is not None:
                _update_snapshot(connection, snapshot)
            if end_delivery:
                connection.execute("DELETE FROM delivery")
            return 0 if verdict is None else add_verdict(connection, verdict)

    # -- delivery (C15, D19) ------------------------------------------------------------------

    def delivery(self) -> DeliveryRow | None:
        """Return the delivery in progress, if there is one."""
        rows = self.query("SELECT * FROM delivery")
        if not rows:
            return None
        row = rows[0]
        return DeliveryRow(row["message_id"], row["lsn"], row["phase"], json.loads(row["detail"]))

    def set_delivery(self, delivery: DeliveryRow) -> None:
        """Note where the delivery stands."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO delivery VALUES (1, ?, ?, ?, ?)",
                (delivery.message_id, delivery.lsn, delivery.phase, json.dumps(delivery.detail)),
            )

    def clear_delivery(self) -> None:
        """Note that nothing is being delivered."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM delivery")


def _snapshot_values(row: SnapshotRow) -> tuple[Any, ...]:
    position = row.point.position
    return (
        row.name,
        row.uid.bytes,
        row.point.offset,
        position.epoch,
        position.lsn,
        position.chain,
        row.state,
        row.grade,
        row.message_id,
        int(row.guard),
        int(row.exported),
        row.chunk_bytes,
        row.created_ns,
        json.dumps(row.volumes),
        json.dumps(row.evidence),
        int(row.held),
        row.hold_note,
        row.kind,
        int(row.copied),
    )


def _update_snapshot(connection: sqlite3.Connection, row: SnapshotRow) -> None:
    connection.execute(
        "UPDATE snapshots SET name = ?, uid = ?, offset = ?, epoch = ?, lsn = ?, chain = ?,"
        " state = ?, grade = ?, message_id = ?, guard = ?, exported = ?, chunk_bytes = ?,"
        " created_ns = ?, volumes = ?, evidence = ?, held = ?, hold_note = ?,"
        " kind = ?, copied = ? WHERE id = ?",
        (*_snapshot_values(row), row.id),
    )


def _snapshot(row: sqlite3.Row) -> SnapshotRow:
    return SnapshotRow(
        id=row["id"],
        name=row["name"],
        uid=uuid.UUID(bytes=row["uid"]),
        point=LogPoint(row["offset"], Position(row["epoch"], row["lsn"], row["chain"])),
        state=row["state"],
        grade=row["grade"],
        message_id=row["message_id"],
        guard=bool(row["guard"]),
        exported=bool(row["exported"]),
        chunk_bytes=row["chunk_bytes"],
        created_ns=row["created_ns"],
        volumes=tuple((one[0], one[1], one[2]) for one in json.loads(row["volumes"])),
        evidence=json.loads(row["evidence"]),
        held=bool(row["held"]),
        hold_note=row["hold_note"],
        kind=row["kind"],
        copied=bool(row["copied"]),
    )
