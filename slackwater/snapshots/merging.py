"""Moving what an older snapshot needs out of one that is going."""

import uuid
from collections.abc import Sequence
from typing import Final

from slackwater.snapshots.feed import Entry

MERGE_CHUNKS: Final = 32


class Merger:
    """Remembers how far the copying between two neighbours has come; a restart begins anew."""

    def __init__(self) -> None:
        """Start with nothing copied."""
        self._next: dict[tuple[uuid.UUID, uuid.UUID, int], int | None] = {}

    def step(self, older: Sequence[Entry], going: Entry) -> bool:
        """Copy some chunks; True once the older ones hold all they need, durably.

        Args:
            older: the snapshots older than the one that goes, the oldest first.
            going: the one that goes; of each volume its neighbour is the next older that has it.

        Raises:
            OSError: no room; nothing is lost, it may be tried again.
            StorageFailed: the sync failed, which is final (D3).
        """
        neighbours = []
        for volume_id, source in going.overlays.items():
            entry = next((one for one in reversed(older) if volume_id in one.overlays), None)
            if entry is None:
                continue
            overlay = entry.overlays[volume_id]
            neighbours.append(overlay)
            key = (entry.row.uid, going.row.uid, volume_id)
            first = self._next.get(key, 0)
            if first is not None:
                self._next[key] = overlay.merge(source, first, MERGE_CHUNKS)
                return False
        for overlay in neighbours:
            overlay.sync()
        return True

    def forget(self, gone: Entry) -> None:
        """A snapshot is gone."""
        self._next = {
            key: first for key, first in self._next.items() if gone.row.uid not in key[:2]
        }
