"""What checks of snapshots found: a few of the latest of each snapshot, durable."""

import threading
import uuid

from slackwater import errors
from slackwater.group.database import GroupDatabase
from slackwater.group.rows import CheckRow

KEPT = 10
"""Results of one snapshot that are kept, the latest."""


class CheckResults:
    """The results, by the uid of the snapshot: another one of the same name has none of them."""

    def __init__(self, database: GroupDatabase) -> None:
        """Read what there is."""
        self._database = database
        self._lock = threading.Lock()
        self._rows: dict[uuid.UUID, list[CheckRow]] = {}
        for row in database.checks():
            self._rows.setdefault(row.snapshot_uid, []).append(row)

    def of(self, snapshot_uid: uuid.UUID) -> list[CheckRow]:
        """Return the results of a snapshot, the latest first."""
        with self._lock:
            return self._rows.get(snapshot_uid, [])[::-1]

    def add(self, row: CheckRow) -> None:
        """Keep a result, durably; the same id again changes nothing.

        Raises:
            NoSpace: there is no room for it; nothing was changed.
        """
        with self._lock:
            rows = self._rows.get(row.snapshot_uid, [])
            if any(known.id == row.id for known in rows):
                return
            rows = [*rows, row][-KEPT:]
            try:
                self._database.set_checks(row.snapshot_uid, rows)
            except OSError as error:
                raise errors.NoSpace(f"the result of {row.check}", str(error)) from error
            self._rows[row.snapshot_uid] = rows
