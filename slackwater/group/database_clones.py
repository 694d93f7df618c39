"""Rows of writable clones."""

import json
import uuid

from slackwater.group.rows import CloneRow
from slackwater.group.table import Table


class CloneTable(Table):
    """Clones of snapshots, whatever their state."""

    def clones(self) -> list[CloneRow]:
        """Return all clones, oldest first."""
        return [
            CloneRow(
                id=row["id"],
                name=row["name"],
                uid=uuid.UUID(bytes=row["uid"]),
                snapshot_uid=uuid.UUID(bytes=row["snapshot_uid"]),
                state=row["state"],
                exported=bool(row["exported"]),
                chunk_bytes=row["chunk_bytes"],
                created_ns=row["created_ns"],
                volumes=tuple((one[0], one[1], one[2]) for one in json.loads(row["volumes"])),
                top=uuid.UUID(bytes=row["top"]),
                layers=tuple(uuid.UUID(hex=one) for one in json.loads(row["layers"])),
                parent=None if row["parent"] is None else uuid.UUID(bytes=row["parent"]),
            )
            for row in self.query("SELECT * FROM clones ORDER BY id")
        ]

    def add_clone(self, clone: CloneRow) -> int:
        """Add a row and return the id it was given; the row's own id does not count."""
        with self.transaction() as connection:
            cursor = connection.execute(
                "INSERT INTO clones (name, uid, snapshot_uid, state, exported, chunk_bytes,"
                " created_ns, volumes, top, layers, parent)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    clone.name,
                    clone.uid.bytes,
                    clone.snapshot_uid.bytes,
                    clone.state,
                    int(clone.exported),
                    clone.chunk_bytes,
                    clone.created_ns,
                    json.dumps(clone.volumes),
                    clone.top.bytes,
                    _layers(clone),
                    None if clone.parent is None else clone.parent.bytes,
                ),
            )
            assert cursor.lastrowid is not None
            return cursor.lastrowid

    def update_clones(self, *clones: CloneRow) -> None:
        """Write what may change of rows, all or none: name, state, export mark and layers."""
        with self.transaction() as connection:
            for clone in clones:
                connection.execute(
                    "UPDATE clones SET name = ?, state = ?, exported = ?, top = ?, layers = ?"
                    " WHERE id = ?",
                    (
                        clone.name,
                        clone.state,
                        int(clone.exported),
                        clone.top.bytes,
                        _layers(clone),
                        clone.id,
                    ),
                )

    def remove_clone(self, number: int) -> None:
        """Forget a clone whose files are gone."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM clones WHERE id = ?", (number,))


def _layers(clone: CloneRow) -> str:
    return json.dumps([uid.hex for uid in clone.layers])
