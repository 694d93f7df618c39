"""What runs of tasks made, on disk: the only snapshots that retention ever touches.

A row is written from the document of a run that is over, and says under which message the snapshot
was taken: a snapshot of that name at another message is somebody else's.
"""

from dataclasses import dataclass

from services.snapshot.store import BUILT_IN, OVER, RunStore
from slackwater.v1 import snapshot_pb2

_SCHEMA = """
CREATE TABLE IF NOT EXISTS made (
    run TEXT NOT NULL,
    link TEXT NOT NULL,
    task TEXT NOT NULL,
    group_name TEXT NOT NULL,
    address TEXT NOT NULL,
    snapshot TEXT NOT NULL,
    message TEXT NOT NULL,
    made_ms INTEGER NOT NULL,
    good INTEGER NOT NULL,
    note TEXT NOT NULL,
    gone INTEGER NOT NULL,
    PRIMARY KEY (run, link)
) STRICT
"""


@dataclass(frozen=True, slots=True)
class Made:
    """A snapshot that a run made.

    Attributes:
        run: The run's name.
        link: Id of the link on whose Secondary it is.
        task: Id of the run's task.
        group: `groups/<group>`.
        address: host:port of the Secondary.
        snapshot: The snapshot's name.
        message: Name of the message it was taken at.
        made: When, in seconds since 1970.
        is_good: True if the run succeeded there, its quiesce, if any, included.
        note: Why it was still there when it was last to go; empty if it was not.
    """

    run: str
    link: str
    task: str
    group: str
    address: str
    snapshot: str
    message: str
    made: float
    is_good: bool
    note: str

    @property
    def key(self) -> str:
        """What it is told apart by."""
        return f"{self.run} {self.link}"


class MadeSnapshots:
    """The table. Every change is one short transaction."""

    def __init__(self, store: RunStore) -> None:
        """Make the table in the service's file, beside the runs."""
        self._store = store
        self._database = store.database
        with self._database.transaction() as connection:
            connection.execute(_SCHEMA)

    def learn(self, task: str) -> None:
        """Write down what runs of a task made that are over and not known yet."""
        rows = [
            row
            for record in self._store.page(task, "", "", -1)
            if record.run.state in OVER and record.task != BUILT_IN
            for row in _rows(record.id, record.run)
        ]
        if not rows:
            return
        with self._database.transaction() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO made VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, '', 0)", rows
            )
            connection.execute("DELETE FROM made WHERE gone AND run NOT IN (SELECT id FROM runs)")

    def of(self, task: str) -> list[Made]:
        """Return what is there of a task's snapshots as far as known, newest first."""
        rows = self._database.query(
            "SELECT * FROM made WHERE task = ? AND NOT gone ORDER BY made_ms DESC, run, link",
            (task,),
        )
        return [
            Made(
                run=f"tasks/{row['task']}/runs/{row['run']}",
                link=row["link"],
                task=row["task"],
                group=row["group_name"],
                address=row["address"],
                snapshot=row["snapshot"],
                message=row["message"],
                made=row["made_ms"] / 1000,
                is_good=bool(row["good"]),
                note=row["note"],
            )
            for row in rows
        ]

    def note(self, row: Made, text: str) -> None:
        """Say why a snapshot that is to go is still there."""
        self._set(row, "note = ?", text)

    def gone(self, row: Made) -> None:
        """Say that a snapshot is not there any more."""
        self._set(row, "gone = ?", 1)

    def _set(self, row: Made, change: str, value: object) -> None:
        with self._database.transaction() as connection:
            connection.execute(
                f"UPDATE made SET {change} WHERE run = ? AND link = ?",  # noqa: S608  # ours
                (value, row.run.rpartition("/")[2], row.link),
            )


def _is_good(run: snapshot_pb2.Run, replica: snapshot_pb2.RunReplica) -> bool:
    """Whether a run did all it should there; of a quiesce, that it is known to have held."""
    is_quiesced = run.HasField("judgement") or run.HasField("quiesce_window")
    is_done = replica.state == snapshot_pb2.Run.STATE_SUCCEEDED
    return is_done and (replica.confirmed or not is_quiesced)


def _rows(run_id: str, run: snapshot_pb2.Run) -> list[tuple[object, ...]]:
    return [
        (
            run_id,
            replica.link,
            run.name.split("/")[1],
            run.group,
            replica.endpoint,
            replica.snapshot,
            run.message,
            run.create_time.ToMilliseconds(),
            _is_good(run, replica),
        )
        for replica in run.replicas
        if replica.snapshot
    ]
