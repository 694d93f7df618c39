"""Moving what an older snapshot needs out of one that is going."""

import uuid
from typing import Final

from slackwater.snapshots.feed import Entry

MERGE_CHUNKS: Final = 32


class Merger:
    """Remembers how far the copying between two neighbours has come; a restart begins anew."""

    def __init__(self) -> None:
        """Start with nothing copied."""
        self._next: dict[tuple[uuid.UUID, uuid.UUID, int], int | None] = {}

    def step(self, older: Entry, going: Entry) -> bool:
        """Copy some chunks; True once the older one holds all it needs, durably.

        Raises:
            OSError: no room; nothing is lost, it may be tried again.
            StorageFailed: the sync failed, which is final (D3).
        """
        for volume_id, overlay in older.overlays.items():
            source = going.overlays.get(volume_id)
            key = (older.row.uid, going.row.uid, volume_id)
            first = self._next.get(key, 0)
            if source is not None and first is not None:
                self._next[key] = overlay.merge(source, first, MERGE_CHUNKS)
                return False
        for overlay in older.overlays.values():
            overlay.sync()
        return True

    def forget(self, gone: Entry) -> None:
        """A snapshot is gone."""
        self._next = {
            key: first for key, first in self._next.items() if gone.row.uid not in key[:2]
        }
