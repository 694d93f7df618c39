"""The full copies of a group's snapshots: doing them a step at a time, and how far they are."""

import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace

from slackwater.group.rows import SnapshotRow
from slackwater.group.volume import Volume
from slackwater.snapshots.copying import FULL, Below, Copier
from slackwater.snapshots.feed import Entry
from slackwater.snapshots.making import READY
from slackwater.snapshots.overlay import Overlay
from slackwater.snapshots.reader import SnapshotVolume


class Copies(ABC):
    """Copies what full snapshots hold; part of `Catalogue`.

    Attributes:
        copied_bytes: Looked at and copied where it had to be, since the service started.
    """

    copied_bytes = 0
    _chain: tuple[Entry, ...]
    _copier: Copier
    _merge_lock: threading.Lock
    _volumes: Callable[[int], Volume]

    @abstractmethod
    def _update(self, row: SnapshotRow) -> SnapshotRow:
        """See `Marks`."""

    @abstractmethod
    def chain(self, snapshot_uid: uuid.UUID, volume_id: int) -> Sequence[Overlay]:
        """See `Catalogue`."""

    def _reader(self, row: SnapshotRow, volume_id: int, size: int) -> SnapshotVolume:
        below = Below(lambda: self._volumes(volume_id), lambda: self._is_copied(row.uid))
        return SnapshotVolume(self, below, row.uid, volume_id, size, row.chunk_bytes)

    def _is_copied(self, uid: uuid.UUID) -> bool:
        return any(entry.row.uid == uid and entry.row.copied for entry in self._chain)

    def _copying(self) -> Entry | None:
        for entry in self._chain:
            row = entry.row
            if row.kind == FULL and row.state == READY and not row.copied:
                return entry
        return None

    def copy_step(self) -> int | None:
        """Copy a little of the oldest full snapshot that is not whole; None: nothing is left of it.

        Never beside a merge, which may let a snapshot's files go.

        Raises:
            FailedPrecondition: the replica recovers and is not yet at the snapshot (D22).
            OSError: no room, or the volume cannot be read; it may be tried again.
        """
        with self._merge_lock:
            entry = self._copying()
            looked = None if entry is None else self._copier.step(entry)
        self.copied_bytes += looked or 0
        return looked

    def copy_sync(self) -> uuid.UUID | None:
        """Make what was copied durable; return the snapshot's uid, None if none is being copied.

        Raises:
            StorageFailed: a sync failed, which is final (D3).
        """
        with self._merge_lock:
            entry = self._copying()
            if entry is None:
                return None
            self._copier.sync(entry)
            return entry.row.uid

    def finish_copy(self, uid: uuid.UUID) -> SnapshotRow | None:
        """Say durably that a snapshot no longer needs the volumes; all of it is synced.

        The caller serialises it with everything else that changes rows.
        """
        for entry in self._chain:
            if entry.row.uid == uid and entry.row.state == READY:
                row = self._update(replace(entry.row, copied=True))
                self._copier.forget(row)
                return row
        return None

    def copied_of(self, uid: uuid.UUID) -> int:
        """Return how many bytes of a snapshot no longer need the volumes."""
        for entry in self._chain:
            if entry.row.uid == uid:
                return self._copier.done_bytes(entry) if entry.row.kind == FULL else 0
        return 0

    @property
    def remaining_bytes(self) -> int:
        """Bytes of full snapshots that are still to be copied, at most."""
        return sum(
            sum(size for _, _, size in entry.row.volumes) - self._copier.done_bytes(entry)
            for entry in self._chain
            if entry.row.kind == FULL and entry.row.state == READY
        )
