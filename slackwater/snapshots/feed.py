"""Where the old bytes under the next records go."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from slackwater.group.rows import SnapshotRow
from slackwater.group.volume import Volume
from slackwater.snapshots.making import READY
from slackwater.snapshots.overlay import Overlay


@dataclass(frozen=True)
class Entry:
    """A snapshot with its open overlays, by volume id; one of kind FULL has `copies` beside."""

    row: SnapshotRow
    overlays: Mapping[int, Overlay]
    copies: Mapping[int, Overlay] = field(default_factory=dict)

    @property
    def files(self) -> list[Overlay]:
        """All overlays, of the copy too."""
        return [*self.overlays.values(), *self.copies.values()]


class Feed:
    """The overlays that take the old bytes under the next records.

    Of each volume that is the newest snapshot's that has the volume: one may leave volumes out.
    """

    def __init__(self, entries: Sequence[Entry], volumes: Callable[[int], Volume]) -> None:
        """Feed from `entries`, the newest first; what those that go hold is not kept again."""
        self._entries = entries
        self._volumes = volumes
        self._looked_at: dict[int, Overlay] = {}

    def preserve(self, changes: Iterable[tuple[int, int, int]]) -> None:
        """Append the old bytes under the changes (volume id, offset, length); sync comes after.

        Raises:
            OSError: no room, or a read or write failed; nothing is lost, it may be tried again.
        """
        chunk_bytes = self._entries[0].row.chunk_bytes  # one size for all of a group
        ranges: dict[int, list[tuple[int, int]]] = {}
        for volume_id, offset, length in changes:
            chunks = (offset // chunk_bytes, -(-(offset + length) // chunk_bytes))
            ranges.setdefault(volume_id, []).append(chunks)
        for volume_id, of_volume in ranges.items():
            target, newer = self._target(volume_id)
            if target is not None:
                target.preserve(self._volumes(volume_id), _merged(of_volume), newer)

    def _target(self, volume_id: int) -> tuple[Overlay | None, list[Overlay]]:
        """Return the overlay to feed, None if no snapshot has the volume, and those that go."""
        newer: list[Overlay] = []
        for entry in self._entries:
            overlay = entry.overlays.get(volume_id)
            if overlay is None:
                continue  # left out, or the volume is younger than the snapshot
            self._looked_at[id(overlay)] = overlay
            if entry.row.state == READY:
                return overlay, newer
            newer.append(overlay)
        return None, newer

    def sync(self) -> None:
        """Make what was preserved durable, by an earlier try too; before any volume is written.

        Raises:
            StorageFailed: it failed, which is final (D3).
        """
        for overlay in self._looked_at.values():
            overlay.sync()


def _merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the same chunks, each once: a batch's chunks are in the map only when it is written.

    Records of one batch often change the same chunk; its old bytes are needed once.
    """
    merged: list[tuple[int, int]] = []
    for first, next_chunk in sorted(ranges):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], next_chunk))
        else:
            merged.append((first, next_chunk))
    return merged
