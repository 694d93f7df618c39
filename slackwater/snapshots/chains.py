"""Which overlays a snapshot looks through to, found once as long as no snapshot comes or goes."""

import uuid
from collections.abc import Sequence

from slackwater.group.rows import SnapshotRow
from slackwater.snapshots.feed import Entry
from slackwater.snapshots.making import READY
from slackwater.snapshots.overlay import Overlay

Found = tuple[SnapshotRow, list[Overlay]]


class Chains:
    """Remembers what was found in the entries it was last asked about; any thread may ask."""

    def __init__(self) -> None:
        """Remember nothing."""
        self._last: tuple[Sequence[Entry], dict[tuple[uuid.UUID, int], Found]] = ((), {})

    def of(self, entries: Sequence[Entry], snapshot_uid: uuid.UUID, volume_id: int) -> Found | None:
        """Return a snapshot with its own overlay and newer ones' in order; None: it is not there.

        The entries, oldest first, are never changed in place.
        """
        asked, known = self._last
        if asked is not entries:
            known = {}
            self._last = (entries, known)
        key = (snapshot_uid, volume_id)
        found = known.get(key)
        if found is None:
            for place, entry in enumerate(entries):
                if entry.row.uid == snapshot_uid and entry.row.state == READY:
                    overlays = _looked_through(entries[place:], volume_id)
                    found = known[key] = (entry.row, overlays)
                    break
        return found


def _looked_through(entries: Sequence[Entry], volume_id: int) -> list[Overlay]:
    """Return the first entry's own overlays and, unless its copy is whole, those of newer ones."""
    asked = entries[0]
    own = [held[volume_id] for held in (asked.overlays, asked.copies) if volume_id in held]
    if asked.row.copied:
        return own
    return own + [newer.overlays[volume_id] for newer in entries[1:] if volume_id in newer.overlays]
