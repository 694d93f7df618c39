"""group.db: what a group knows beside its log and its volumes.

Every method that changes something is one transaction, durable when it returns. Transitions that
must not be seen half are one method. The rows of
checks, clones, links, messages, restores, snapshots and starts have rooms of their own
(`CheckTable`, `CloneTable`, `LinkTable`, `MessageTable`, `RestoreTable`, `SnapshotTable`,
`StartTable`); `GroupDatabase` inherits from all, so a group has one object.
"""

import json
import sqlite3
import uuid
from pathlib import Path

from slackwater.errors import FailedPrecondition, SlackwaterError
from slackwater.group import schema
from slackwater.group.database_checks import CheckTable
from slackwater.group.database_clones import CloneTable
from slackwater.group.database_links import LinkTable
from slackwater.group.database_messages import MessageTable
from slackwater.group.database_restores import RestoreTable
from slackwater.group.database_snapshots import SnapshotTable
from slackwater.group.database_starts import StartTable, add_start
from slackwater.group.rows import Identity, LogState, SyncRow, VolumeRow
from slackwater.position import LogPoint, Position
from slackwater.storage.seam import Storage


class GroupDatabase(
    CheckTable, CloneTable, LinkTable, MessageTable, RestoreTable, SnapshotTable, StartTable
):
    """The one object through which a group's rows are read and changed; thread-safe."""

    @classmethod
    def create(
        cls, storage: Storage, path: Path, identity: Identity, start: LogPoint
    ) -> "GroupDatabase":
        """Make the database of a new group whose log begins at `start`."""
        database = cls(storage.open_database(path))
        try:
            database._fill(identity, start)
        except BaseException:
            database.close()
            raise
        return database

    def _fill(self, identity: Identity, start: LogPoint) -> None:
        with self.transaction() as connection:
            for statement in schema.TABLES.split(";"):
                connection.execute(statement)
            connection.execute(
                "INSERT INTO identity (one, uid, name, role, epoch, created_ns, settings,"
                " replica_state) VALUES (1, ?, ?, ?, ?, ?, ?, ?)",
                (
                    identity.uid.bytes,
                    identity.name,
                    identity.role,
                    identity.epoch,
                    identity.created_ns,
                    json.dumps(identity.settings),
                    identity.replica_state,
                ),
            )
            connection.execute(
                "INSERT INTO epochs VALUES (?, ?, ?, ?)",
                (
                    identity.epoch,
                    start.position.lsn,
                    start.position.chain,
                    identity.created_ns,
                ),
            )
            connection.execute(
                "INSERT INTO log VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, NULL)",
                (*_point(start), *_point(start)),
            )
            add_start(connection, start.position)
            connection.execute(f"PRAGMA user_version = {schema.VERSION}")

    @classmethod
    def open(cls, storage: Storage, path: Path) -> "GroupDatabase":
        """Open an existing database.

        Raises:
            FailedPrecondition: it is of another format, or not a group.db.
            DataCorrupt: it is damaged.
        """
        if not storage.exists(path):
            raise FailedPrecondition(
                "NOT_A_GROUP", f"{path} is missing", "Give the directory of a group"
            )
        database = cls(storage.open_database(path))
        try:
            database._check_version(path)
        except SlackwaterError:
            database.close()
            raise
        return database

    def _check_version(self, path: Path) -> None:
        version = int(self.query("PRAGMA user_version")[0][0])
        if version > schema.VERSION:
            raise FailedPrecondition(
                "NEWER_FORMAT",
                f"{path} has format {version}, this release knows up to {schema.VERSION}",
                "Start a release that is at least as new as the one that wrote it",
            )
        if version < 1:
            raise FailedPrecondition(
                "NOT_A_GROUP", f"{path} holds no group", "Give the directory of a group"
            )
        if version < schema.VERSION:
            raise FailedPrecondition(
                "OLDER_FORMAT",
                f"{path} has format {version}, written before the first release;"
                f" this one reads format {schema.VERSION}",
                "Open it with the build that wrote it, and copy its volumes to a new group",
            )

    # -- identity -----------------------------------------------------------------------------

    def identity(self) -> Identity:
        """Return who the group is."""
        row = self.query("SELECT * FROM identity")[0]
        return Identity(
            uuid.UUID(bytes=row["uid"]),
            row["name"],
            row["role"],
            row["epoch"],
            row["created_ns"],
            json.loads(row["settings"]),
            row["replica_state"],
            row["replica_reason"],
        )

    def set_epoch(self, epoch: int, position: Position, began_ns: int) -> None:
        """Note a new epoch that began after `position`; the same one again changes nothing."""
        with self.transaction() as connection:
            connection.execute("UPDATE identity SET epoch = ? WHERE epoch < ?", (epoch, epoch))
            connection.execute(
                "INSERT OR IGNORE INTO epochs VALUES (?, ?, ?, ?)",
                (epoch, position.lsn, position.chain, began_ns),
            )

    def raise_epoch(self, epoch: int) -> None:
        """Remember that an epoch was claimed, before the log shows anything of it (I11)."""
        with self.transaction() as connection:
            connection.execute("UPDATE identity SET epoch = ? WHERE epoch < ?", (epoch, epoch))

    def epochs(self) -> list[tuple[int, int]]:
        """Return (epoch, lsn after which it began), oldest first."""
        return [
            (row["epoch"], row["lsn"]) for row in self.query("SELECT * FROM epochs ORDER BY epoch")
        ]

    # -- log ----------------------------------------------------------------------------------

    def log_state(self) -> LogState:
        """Return where the log begins and the checkpoint."""
        row = self.query("SELECT * FROM log")[0]
        return LogState(
            LogPoint(
                row["start_offset"],
                Position(row["start_epoch"], row["start_lsn"], row["start_chain"]),
            ),
            LogPoint(
                row["checkpoint_offset"],
                Position(row["checkpoint_epoch"], row["checkpoint_lsn"], row["checkpoint_chain"]),
            ),
            row["clean_end"],
        )

    def checkpoint(self, point: LogPoint) -> None:
        """Move the checkpoint forward; the volumes are synced past it. Old effects go (D20)."""
        with self.transaction() as connection:
            _move_checkpoint(connection, point)

    def set_clean_end(self, lsn: int) -> None:
        """Note that the log was closed in order and ends at `lsn`."""
        with self.transaction() as connection:
            connection.execute("UPDATE log SET clean_end = ?", (lsn,))

    def clear_clean_end(self) -> None:
        """Note that the log is open."""
        with self.transaction() as connection:
            connection.execute("UPDATE log SET clean_end = NULL")

    # -- volumes ------------------------------------------------------------------------------

    def volumes(self) -> list[VolumeRow]:
        """Return all volumes, whatever their state, by id."""
        return [
            VolumeRow(row["id"], row["name"], row["size"], row["state"], row["path"], row["lsn"])
            for row in self.query("SELECT * FROM volumes ORDER BY id")
        ]

    def reserve_volume(self, name: str, size: int, path: str) -> VolumeRow:
        """Give a volume an id that was never used (D28); its state is CREATING."""
        with self.transaction() as connection:
            number = connection.execute("SELECT next_volume_id FROM identity").fetchone()[0]
            connection.execute("UPDATE identity SET next_volume_id = ?", (number + 1,))
            row = VolumeRow(number, name, size, "CREATING", path, 0)
            _put_volume(connection, row)
        return row

    def put_volume(self, row: VolumeRow) -> None:
        """Write a volume's row as it is now; ids up to its own are never given again."""
        with self.transaction() as connection:
            _put_volume(connection, row)

    def remove_volume(self, number: int) -> None:
        """Forget a volume whose file is gone."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM volumes WHERE id = ?", (number,))

    # -- sync of a replica (D25) --------------------------------------------------------------

    def sync(self) -> SyncRow | None:
        """Return the running sync, if there is one."""
        rows = self.query("SELECT * FROM sync")
        if not rows:
            return None
        row = rows[0]
        cursor = (
            None if row["cursor_volume"] is None else (row["cursor_volume"], row["cursor_offset"])
        )
        return SyncRow(
            row["sync_id"], cursor, row["consistent_lsn"], row["guard"], row["total_bytes"]
        )

    def begin_sync(
        self,
        sync_id: str,
        start: LogPoint,
        *,
        guard: str = "",
        total_bytes: int = 0,
        volumes: list[VolumeRow] | None = None,
        last_start: Position | None = None,
    ) -> None:
        """Become INCONSISTENT and let the log begin anew at `start`, in one step.

        `volumes`, if given, replaces the volume rows: the set the sync was announced with.
        `last_start`, the newest at or below `start`, replaces those of the old history.
        """
        with self.transaction() as connection:
            connection.execute(
                "UPDATE identity SET replica_state = 'INCONSISTENT', replica_reason = 'syncing'"
            )
            connection.execute("DELETE FROM sync")
            connection.execute(
                "INSERT INTO sync VALUES (1, ?, NULL, NULL, NULL, ?, ?)",
                (sync_id, guard, total_bytes),
            )
            connection.execute(
                "UPDATE log SET start_offset = ?, start_epoch = ?, start_lsn = ?, start_chain = ?,"
                " checkpoint_offset = ?, checkpoint_epoch = ?, checkpoint_lsn = ?,"
                " checkpoint_chain = ?, clean_end = NULL",
                (*_point(start), *_point(start)),
            )
            connection.execute("DELETE FROM effects")
            connection.execute("DELETE FROM delivery")
            connection.execute("DELETE FROM starts")
            if last_start is not None:
                add_start(connection, last_start)
            if volumes is not None:
                connection.execute("DELETE FROM volumes")
                for row in volumes:
                    _put_volume(connection, row)

    def advance_sync(self, cursor: tuple[int, int] | None, checkpoint: LogPoint) -> None:
        """Note that everything before the cursor is in synced volumes, with the checkpoint."""
        with self.transaction() as connection:
            _move_checkpoint(connection, checkpoint)
            if cursor is not None:
                connection.execute("UPDATE sync SET cursor_volume = ?, cursor_offset = ?", cursor)

    def sync_sent(self, consistent_lsn: int) -> None:
        """Note the lsn from which the replica is consistent."""
        with self.transaction() as connection:
            connection.execute("UPDATE sync SET consistent_lsn = ?", (consistent_lsn,))

    def finish_sync(self, checkpoint: LogPoint) -> None:
        """Become CONSISTENT: applied past the consistent lsn, volumes synced."""
        with self.transaction() as connection:
            _move_checkpoint(connection, checkpoint)
            connection.execute("DELETE FROM sync")
            connection.execute(
                "UPDATE identity SET replica_state = 'CONSISTENT', replica_reason = ''"
            )


def _point(point: LogPoint) -> tuple[int, int, int, int]:
    return (point.offset, point.position.epoch, point.position.lsn, point.position.chain)


def _move_checkpoint(connection: sqlite3.Connection, point: LogPoint) -> None:
    connection.execute(
        "UPDATE log SET checkpoint_offset = ?, checkpoint_epoch = ?, checkpoint_lsn = ?,"
        " checkpoint_chain = ? WHERE checkpoint_offset <= ?",
        (*_point(point), point.offset),
    )
    connection.execute("DELETE FROM effects WHERE lsn <= ?", (point.position.lsn,))


def _put_volume(connection: sqlite3.Connection, row: VolumeRow) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO volumes VALUES (?, ?, ?, ?, ?, ?)",
        (row.id, row.name, row.size, row.state, row.path, row.lsn),
    )
    connection.execute("UPDATE identity SET next_volume_id = max(next_volume_id, ?)", (row.id + 1,))
