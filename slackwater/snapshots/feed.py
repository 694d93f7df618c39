"""Where the old bytes under the next records go."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from slackwater.group.rows import SnapshotRow
from slackwater.group.volume import Volume
from slackwater.snapshots.overlay import Overlay


@dataclass(frozen=True)
class Entry:
    """A snapshot with its open overlays, by volume id."""

    row: SnapshotRow
    overlays: Mapping[int, Overlay]


class Feed:
    """The overlays that take the old bytes under the next records."""

    def __init__(
        self, target: Entry, newer: Sequence[Entry], volumes: Callable[[int], Volume]
    ) -> None:
        """Feed `target`; what `newer`, which are going, hold already need not be kept again."""
        self._target = target
        self._newer = newer
        self._volumes = volumes

    def preserve(self, changes: Iterable[tuple[int, int, int]]) -> None:
        """Append the old bytes under the changes (volume id, offset, length); sync comes after.

        Raises:
            OSError: no room, or a read or write failed; nothing is lost, it may be tried again.
        """
        chunk_bytes = self._target.row.chunk_bytes
        ranges: dict[int, list[tuple[int, int]]] = {}
        for volume_id, offset, length in changes:
            chunks = (offset // chunk_bytes, -(-(offset + length) // chunk_bytes))
            ranges.setdefault(volume_id, []).append(chunks)
        for volume_id, of_volume in ranges.items():
            overlay = self._target.overlays.get(volume_id)
            if overlay is None:
                continue  # the volume is younger than the snapshot
            newer = [
                entry.overlays[volume_id] for entry in self._newer if volume_id in entry.overlays
            ]
            overlay.preserve(self._volumes(volume_id), _merged(of_volume), newer)

    def sync(self) -> None:
        """Make what was preserved durable; before any volume is written.

        Raises:
            StorageFailed: it failed, which is final (D3).
        """
        for overlay in self._target.overlays.values():
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
