"""How a snapshot comes: a row that nobody sees, its files, synced, then READY.

What a crash leaves CREATING was never seen by anyone and is removed at the next start. A snapshot
that takes another's place is made under a name of its own; one transaction then gives it the name
and lets the other go, so at every moment exactly one of the two has the name.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from slackwater.clock import Clock
from slackwater.group.database import GroupDatabase
from slackwater.group.rows import SnapshotRow
from slackwater.group.volume import Volume
from slackwater.position import LogPoint
from slackwater.snapshots import files
from slackwater.snapshots.overlay import Overlay
from slackwater.storage.seam import Storage

CREATING: Final = "CREATING"
READY: Final = "READY"
DELETING: Final = "DELETING"


def going(row: SnapshotRow) -> SnapshotRow:
    """Return the row of a snapshot that goes; its name is free at once."""
    # No snapshot can be given a name with a tilde.
    return replace(row, state=DELETING, exported=False, name=f"{row.name}~{row.id}")


class Making:
    """Makes the rows and files of snapshots; calls are serialised by the catalogue's caller."""

    def __init__(
        self,
        storage: Storage,
        database: GroupDatabase,
        clock: Clock,
        path: Callable[[SnapshotRow], Path],
    ) -> None:
        """Keep rows in `database` and the files of each where `path` says."""
        self._storage = storage
        self._database = database
        self._clock = clock
        self._path = path
        self._leftovers: list[int] = []

    def make(
        self,
        name: str,
        point: LogPoint,
        volumes: Sequence[Volume],
        *,
        message_id: str,
        guard: bool,
        evidence: Mapping[str, object],
        chunk_bytes: int,
        began: float | None,
        replaces: SnapshotRow | None,
        kind: str,
    ) -> tuple[SnapshotRow, dict[int, Overlay], dict[int, Overlay]]:
        """Make a snapshot; with `replaces`, that one is DELETING from the same moment on.

        Raises:
            OSError: no room, or the storage refused; nothing is left behind, it may be tried again.
            StorageFailed: a sync or commit failed, which is final (D3).
        """
        row = SnapshotRow(
            id=0,
            name=f"{name}~" if replaces else name,
            uid=uuid.uuid4(),
            point=point,
            state=CREATING,
            grade="crash",
            message_id=message_id,
            guard=guard,
            exported=False,
            chunk_bytes=chunk_bytes,
            created_ns=self._clock.time_ns(),
            volumes=tuple((volume.id, volume.name, volume.size) for volume in volumes),
            evidence=dict(evidence),
            kind=kind,
        )
        self._remove_leftovers()
        row = replace(row, id=self._database.add_snapshot(row))
        overlays: dict[int, Overlay] = {}
        copies: dict[int, Overlay] = {}
        try:
            overlays, copies = files.make(self._storage, self._path(row), row)
            if began is not None:
                row.evidence["create_seconds"] = self._clock.monotonic() - began
            row = replace(row, state=READY, name=name)
            if replaces is None:
                self._database.update_snapshot(row)
            else:
                self._database.replace_snapshot(going(replaces), row)
        except OSError:
            files.drop(self._storage, self._path(row), (*overlays.values(), *copies.values()))
            self._leftovers.append(row.id)
            with suppress(OSError):
                self._remove_leftovers()
            raise
        return row, overlays, copies

    def _remove_leftovers(self) -> None:
        while self._leftovers:  # each row holds a name
            self._database.remove_snapshot(self._leftovers[-1])
            self._leftovers.pop()
