"""Runs on disk: one SQLite file in the data directory, a transaction for each change.

A run is kept as the document that the API shows, with what recovery needs beside it: the request it
came from, and whether it may hold a freeze or has registered a name. Both are written before the
call that makes them so, so that whatever a crash leaves behind is found and ended.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slackwater.storage.seam import Database, Storage
from slackwater.v1 import snapshot_pb2

FILE = "snapshot.db"
KEPT = 1000
"""Runs that are over, kept for looking at; older ones go."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    id TEXT PRIMARY KEY,
    group_name TEXT NOT NULL,
    request_id TEXT NOT NULL,
    over INTEGER NOT NULL,
    holding INTEGER NOT NULL,
    registered INTEGER NOT NULL,
    request BLOB NOT NULL,
    run BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS runs_request ON runs (request_id) WHERE request_id <> '';
CREATE INDEX IF NOT EXISTS runs_over ON runs (over, holding, registered);
"""

OVER = frozenset(
    {
        snapshot_pb2.Run.STATE_SUCCEEDED,
        snapshot_pb2.Run.STATE_FAILED,
        snapshot_pb2.Run.STATE_CANCELLED,
    }
)
"""States in which a run does not change any more."""


@dataclass(slots=True)
class RunRecord:
    """A run with what recovery needs.

    Attributes:
        id: The last part of its name; ids of later runs are greater.
        request: What started it.
        run: What the API shows.
        holding: It may hold a freeze on the Secondary.
        registered: It registered the application's name, and has to take it back.
    """

    id: str
    request: snapshot_pb2.StartSnapshotRequest
    run: snapshot_pb2.Run
    holding: bool = False
    registered: bool = False

    @property
    def is_over(self) -> bool:
        """True if its state will not change."""
        return self.run.state in OVER

    @property
    def application(self) -> str:
        """The name whose message it waits for, or ""."""
        return self.request.at_next_message.application


class RunStore:
    """The table of runs. Every call is one short transaction."""

    def __init__(self, storage: Storage, data_dir: Path) -> None:
        """Open or make the file."""
        self.database: Database = storage.open_database(data_dir / FILE)
        with self.database.transaction() as connection:
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)

    def save(self, record: RunRecord) -> None:
        """Write a run; old runs that are over make room."""
        with self.database.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    record.id,
                    record.run.group,
                    record.request.request_id,
                    record.is_over,
                    record.holding,
                    record.registered,
                    record.request.SerializeToString(),
                    record.run.SerializeToString(),
                ),
            )
            if record.is_over:
                connection.execute(
                    "DELETE FROM runs WHERE over AND NOT holding AND NOT registered AND id NOT IN"
                    " (SELECT id FROM runs ORDER BY id DESC LIMIT ?)",
                    (KEPT,),
                )

    def get(self, run_id: str) -> RunRecord | None:
        """Return a run, or None."""
        return self._first(self._select("WHERE id = ?", (run_id,)))

    def by_request(self, request_id: str) -> RunRecord | None:
        """Return the run that a request started, or None."""
        return self._first(self._select("WHERE request_id = ?", (request_id,)))

    def page(self, group: str, before: str, limit: int) -> list[RunRecord]:
        """Return runs, newest first: those of a group if one is named, older than `before`."""
        return self._select(
            "WHERE (? = '' OR group_name = ?) AND (? = '' OR id < ?) ORDER BY id DESC LIMIT ?",
            (group, group, before, before, limit),
        )

    def unfinished(self) -> list[RunRecord]:
        """Return runs that a crash interrupted, or that left something to end."""
        return self._select("WHERE NOT over OR holding OR registered ORDER BY id", ())

    def close(self) -> None:
        """Close the file."""
        self.database.close()

    def _select(self, condition: str, parameters: Sequence[object]) -> list[RunRecord]:
        rows = self.database.query(
            f"SELECT id, holding, registered, request, run FROM runs {condition}",  # noqa: S608
            parameters,
        )
        return [
            RunRecord(
                row["id"],
                snapshot_pb2.StartSnapshotRequest.FromString(row["request"]),
                snapshot_pb2.Run.FromString(row["run"]),
                bool(row["holding"]),
                bool(row["registered"]),
            )
            for row in rows
        ]

    @staticmethod
    def _first(records: list[RunRecord]) -> RunRecord | None:
        return records[0] if records else None
