"""Marks of snapshots that may change: exports, holds, what they are worth."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace

from slackwater.group.database import GroupDatabase
from slackwater.group.rows import SnapshotRow
from slackwater.snapshots.feed import Entry


class Marks(ABC):
    """Changes rows, durably and then in the chain; part of `Catalogue`."""

    _chain: tuple[Entry, ...]
    _database: GroupDatabase
    _lock: threading.Lock

    @abstractmethod
    def get(self, name: str) -> SnapshotRow:
        """See `Catalogue`."""

    @abstractmethod
    def ready(self) -> list[SnapshotRow]:
        """See `Catalogue`."""

    def set_exported(self, name: str, exported: bool) -> SnapshotRow:
        """Mark a snapshot as exported, durably, or take the mark off.

        Raises:
            NotFound: there is none of that name.
        """
        return self._update(replace(self.get(name), exported=exported))

    def set_held(self, name: str, held: bool, note: str = "") -> SnapshotRow:
        """Mark a snapshot as held, durably, or take the mark off; `delete` does not look at it.

        Raises:
            NotFound: there is none of that name.
        """
        return self._update(replace(self.get(name), held=held, hold_note=note))

    def judge(
        self, message_id: str, grade: str, evidence: Mapping[str, object]
    ) -> list[SnapshotRow]:
        """Give the snapshots made at a message what its Outcome says (C17, C20); return them.

        Only what was quiesced can be judged, and the first judgement stands.
        """
        waiting = [
            row
            for row in self.ready()
            if row.message_id == message_id
            and row.evidence.get("quiesced")
            and "outcome" not in row.evidence
        ]
        return [
            self._update(replace(row, grade=grade, evidence={**row.evidence, **evidence}))
            for row in waiting
        ]

    def _update(self, row: SnapshotRow, expired: Mapping[str, object] | None = None) -> SnapshotRow:
        self._database.update_snapshot(row, expired)
        with self._lock:
            self._chain = tuple(
                replace(entry, row=row) if entry.row.uid == row.uid else entry
                for entry in self._chain
            )
        return row
