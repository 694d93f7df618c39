"""Runs on disk: one SQLite file in the data directory, a transaction for each change.

A run is kept as the document that the API shows, with what recovery needs beside it: the request it
came from, whether it may hold a freeze or has registered a name, and for a task's run what else it
may have left where. All are written before the call that makes them so, so that whatever a crash
leaves behind is found and ended.
"""

import enum
import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path

from slackwater.storage.seam import Database, Storage
from slackwater.v1 import snapshot_pb2

FILE = "snapshot.db"
BUILT_IN = "snapshot"
"""The task of StartSnapshot; its name is taken."""

KEPT = 1000
"""Runs that are over, kept for looking at; older ones go."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    id TEXT PRIMARY KEY,
    task TEXT NOT NULL,
    group_name TEXT NOT NULL,
    request_id TEXT NOT NULL,
    over INTEGER NOT NULL,
    holding INTEGER NOT NULL,
    registered INTEGER NOT NULL,
    remains TEXT NOT NULL,
    request BLOB NOT NULL,
    run BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS runs_request ON runs (request_id) WHERE request_id <> '';
CREATE INDEX IF NOT EXISTS runs_over ON runs (over, holding, registered);
CREATE INDEX IF NOT EXISTS runs_task ON runs (task, id);
"""

OVER = frozenset(
    {
        snapshot_pb2.Run.STATE_SUCCEEDED,
        snapshot_pb2.Run.STATE_FAILED,
        snapshot_pb2.Run.STATE_CANCELLED,
    }
)
"""States in which a run does not change any more."""


Request = snapshot_pb2.StartSnapshotRequest | snapshot_pb2.StartTaskRequest
"""What starts a run."""


class Kind(enum.Enum):
    """What a run of a task may leave elsewhere."""

    MESSAGE = "message"
    EXPORT = "export"
    NAME = "name"
    CLONE = "clone"


@dataclass(frozen=True, slots=True)
class Remainder:
    """Something that has to be ended or taken back.

    Attributes:
        kind: What it is.
        link: Id of the link on whose Secondary it is; "": it is on the Primary.
        address: host:port of that service.
        name: The snapshot that is exported, the clone, or the application.
    """

    kind: Kind
    link: str
    address: str
    name: str


@dataclass(slots=True)
class RunRecord:
    """A run with what recovery needs.

    Attributes:
        id: The last part of its name; ids of later runs are greater.
        request: What started it.
        run: What the API shows.
        holding: It may hold a freeze on the Secondary.
        registered: It registered the application's name, and has to take it back.
        remains: What else it may have left, for a run of a task.
        definition: The task it runs; not kept, for a run that was interrupted does not go on.
    """

    id: str
    request: Request
    run: snapshot_pb2.Run
    holding: bool = False
    registered: bool = False
    remains: list[Remainder] = field(default_factory=list)
    definition: snapshot_pb2.Task | None = None

    @property
    def is_over(self) -> bool:
        """True if its state will not change."""
        return self.run.state in OVER

    @property
    def task(self) -> str:
        """The id of its task."""
        return self.run.name.split("/")[1]

    @property
    def has_left(self) -> bool:
        """True if something is still to be ended or taken back."""
        return self.holding or self.registered or bool(self.remains)


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
                "INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    record.id,
                    record.task,
                    record.run.group,
                    record.request.request_id,
                    record.is_over,
                    record.holding,
                    record.registered,
                    _dump(record.remains),
                    record.request.SerializeToString(),
                    record.run.SerializeToString(),
                ),
            )
            if record.is_over:
                connection.execute(
                    "DELETE FROM runs WHERE over AND NOT holding AND NOT registered"
                    " AND remains = '' AND id NOT IN"
                    " (SELECT id FROM runs ORDER BY id DESC LIMIT ?)",
                    (KEPT,),
                )

    def get(self, run_id: str) -> RunRecord | None:
        """Return a run, or None."""
        return self._first(self._select("WHERE id = ?", (run_id,)))

    def by_request(self, request_id: str) -> RunRecord | None:
        """Return the run that a request started, or None."""
        return self._first(self._select("WHERE request_id = ?", (request_id,)))

    def page(self, task: str, group: str, before: str, limit: int) -> list[RunRecord]:
        """Return runs, newest first, older than `before`; of a task, a group, if one is named."""
        return self._select(
            "WHERE (? = '' OR task = ?) AND (? = '' OR group_name = ?) AND (? = '' OR id < ?)"
            " ORDER BY id DESC LIMIT ?",
            (task, task, group, group, before, before, limit),
        )

    def unfinished(self) -> list[RunRecord]:
        """Return runs that a crash interrupted, or that left something to end."""
        return self._select(
            "WHERE NOT over OR holding OR registered OR remains <> '' ORDER BY id", ()
        )

    def close(self) -> None:
        """Close the file."""
        self.database.close()

    def _select(self, condition: str, parameters: Sequence[object]) -> list[RunRecord]:
        rows = self.database.query(
            f"SELECT id, task, holding, registered, remains, request, run FROM runs {condition}",  # noqa: S608
            parameters,
        )
        return [
            RunRecord(
                row["id"],
                _request(row["task"], row["request"]),
                snapshot_pb2.Run.FromString(row["run"]),
                bool(row["holding"]),
                bool(row["registered"]),
                _load(row["remains"]),
            )
            for row in rows
        ]

    @staticmethod
    def _first(records: list[RunRecord]) -> RunRecord | None:
        return records[0] if records else None


def _request(task: str, data: bytes) -> Request:
    if task == BUILT_IN:
        return snapshot_pb2.StartSnapshotRequest.FromString(data)
    return snapshot_pb2.StartTaskRequest.FromString(data)


def _dump(remains: Sequence[Remainder]) -> str:
    rows = [(row.kind.value, *astuple(row)[1:]) for row in remains]
    return json.dumps(rows) if rows else ""


def _load(text: str) -> list[Remainder]:
    rows = json.loads(text) if text else []
    return [Remainder(Kind(kind), *rest) for kind, *rest in rows]
