"""Regions of live volumes for a sync (D25), read through the page cache."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slackwater.link.actions import Cursor, Region
from slackwater.storage.seam import File, Storage

HOLE_BYTES = 1 << 30
"""One zero region covers at most this much, so that no single message stands for too much work."""

WALK_BYTES = 8 << 20
"""How far extents are looked up at a time."""


@dataclass(frozen=True, slots=True)
class SyncVolume:
    """A volume as the sender knows it; `lsn` is that of the record that added it."""

    id: int
    name: str
    size: int
    path: Path
    lsn: int


@dataclass(frozen=True, slots=True)
class Read:
    """What one look at the volumes gave; see `slackwater.link.sync.SyncSender.regions_read`."""

    regions: list[Region]
    cursor: Cursor
    covered_bytes: int
    done: bool


class RegionReader:
    """Reads volumes of one group, in ascending order of volume and offset."""

    def __init__(self, storage: Storage) -> None:
        """Open nothing yet."""
        self._storage = storage
        self._files: dict[int, tuple[Path, File]] = {}

    def read(self, volumes: Sequence[SyncVolume], cursor: Cursor, max_bytes: int) -> Read:
        """Read from the cursor on, at most `max_bytes` of data.

        Unallocated ranges are told as zeroes: the replica's volume may hold something there.

        Raises:
            OSError: a volume cannot be read.
        """
        regions: list[Region] = []
        covered = 0
        left = max_bytes
        for volume in sorted(volumes, key=lambda one: one.id):
            if volume.id < cursor.volume:
                continue
            at = cursor.offset if volume.id == cursor.volume else 0
            while at < volume.size:
                if left <= 0 or len(regions) >= 256:
                    return Read(regions, Cursor(volume.id, at), covered, done=False)
                region = self._next(volume, at, left)
                if region.data is not None:
                    left -= region.length
                regions.append(region)
                at += region.length
                covered += region.length
            cursor = Cursor(volume.id, volume.size)
        return Read(regions, cursor, covered, done=True)

    def _next(self, volume: SyncVolume, at: int, left: int) -> Region:
        file = self._file(volume)
        if self._is_data(file, at, volume.size):
            end = self._data_end(file, at, min(volume.size, at + left))
            return Region(volume.id, at, end - at, file.read(end - at, at))
        extent = next(iter(file.extents(at, min(HOLE_BYTES, volume.size - at))))
        return Region(volume.id, at, extent.length, None)

    def _is_data(self, file: File, at: int, size: int) -> bool:
        return next(iter(file.extents(at, min(WALK_BYTES, size - at)))).data

    def _data_end(self, file: File, at: int, end: int) -> int:
        return at + next(iter(file.extents(at, end - at))).length

    def _file(self, volume: SyncVolume) -> File:
        known = self._files.get(volume.id)
        if known is not None and known[0] == volume.path:
            return known[1]
        if known is not None:
            known[1].close()
        file = self._storage.open(volume.path, writable=False)
        self._files[volume.id] = (volume.path, file)
        return file

    def close(self) -> None:
        """Close all files."""
        for _, file in self._files.values():
            file.close()
        self._files.clear()
