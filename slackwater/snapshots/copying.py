"""Making a full copy of what a snapshot holds, so that it no longer needs the volume.

A snapshot of kind FULL is used like any other from the first moment. Behind it, in small steps, all
that its own overlay lacks is read through it and kept in a second overlay for each volume, the
copy. A snapshot's content never changes, so what is read may be written at any later moment, beside
the applier, which goes on preserving in the first overlay; that one alone says what changed since,
to older snapshots, to merges and to differences. When both overlays together hold every chunk and
are synced, the row says COPIED, and from then on the volume is not looked at.

A crash loses no more than the last steps: the copy proves itself as an overlay does (D23), and
copying goes on where chunks lack.
"""

import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from slackwater import errors
from slackwater.extent import Extent
from slackwater.group.rows import SnapshotRow
from slackwater.group.volume import Volume
from slackwater.snapshots.feed import Entry
from slackwater.snapshots.overlay import Overlay
from slackwater.snapshots.reader import SnapshotVolume
from slackwater.storage.seam import Storage

FULL: Final = "FULL"
SPACE_OPTIMIZED: Final = "SPACE_OPTIMIZED"
COPY_BYTES: Final = 1 << 20
"""What one step looks at, at most."""


def _paths(directory: Path, volume_id: int) -> tuple[Path, Path]:
    return directory / f"{volume_id}.copy", directory / f"{volume_id}.copymap"


def make_copies(storage: Storage, directory: Path, row: SnapshotRow) -> dict[int, Overlay]:
    """Make the empty copies of a full snapshot; the caller syncs the directory.

    Raises:
        OSError: no room; what was made is closed again.
    """
    copies: dict[int, Overlay] = {}
    if row.kind != FULL:
        return copies
    try:
        for volume_id, _, size in row.volumes:
            copies[volume_id] = Overlay.create(
                storage, *_paths(directory, volume_id), row.uid, size, row.chunk_bytes
            )
    except OSError:
        for copy in copies.values():
            copy.close()
        raise
    return copies


def open_copies(
    storage: Storage, directory: Path, row: SnapshotRow, *, clean: bool
) -> dict[int, Overlay]:
    """Open the copies of a full snapshot; one that is unfinished and damaged is begun anew.

    Raises:
        DataCorrupt: a file is gone.
        OSError: the storage failed.
    """
    copies: dict[int, Overlay] = {}
    if row.kind != FULL:
        return copies
    for volume_id, _, size in row.volumes:
        paths = _paths(directory, volume_id)
        copy = Overlay.open(storage, *paths, row.uid, size, row.chunk_bytes, clean=clean)
        if copy.unnamed_loss and not row.copied:
            copy.close()
            for path in paths:
                storage.remove(path)
            copy = Overlay.create(storage, *paths, row.uid, size, row.chunk_bytes)
            storage.sync_directory(directory)
        copies[volume_id] = copy
    return copies


class Below:
    """What a snapshot looks through to: the volume, until a full copy stands in for it."""

    def __init__(self, volume: Callable[[], Volume], is_copied: Callable[[], bool]) -> None:
        """Ask for the volume anew at every read.

        A reader that was opened before the copy was whole may be between looking at the overlays
        and reading the volume just then: it goes on reading, and looks at the overlays again.
        """
        self._volume = volume
        self._is_copied = is_copied
        self._was_copied = is_copied()

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill the target from the volume.

        Raises:
            DataCorrupt: the copy ought to hold these bytes, and does not.
        """
        if self._was_copied:
            raise errors.DataCorrupt(
                f"{len(target)} bytes at {offset}", "the snapshot's full copy lacks them"
            )
        self._volume().read_into(offset, target)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """Return what covers the range; of a copied snapshot all is said by its overlays."""
        if self._is_copied():
            return iter((Extent(offset, length, True),))
        return self._volume().extents(offset, length)


class Copier:
    """Remembers how far the copies have come; a restart looks through what there is anew."""

    def __init__(self, reader: Callable[[SnapshotRow, int, int], SnapshotVolume]) -> None:
        """Read what is copied with what `reader` returns for a volume's id."""
        self._reader = reader
        self._next: dict[tuple[uuid.UUID, int], int] = {}

    def step(self, entry: Entry) -> int | None:
        """Copy a little of one snapshot; return the bytes looked at, None: nothing is left.

        Raises:
            FailedPrecondition: the replica recovers and is not yet at the snapshot (D22).
            OSError: no room, or the volume cannot be read; it may be tried again.
        """
        for volume_id, copy in entry.copies.items():
            key = (entry.row.uid, volume_id)
            first = self._next.get(key, 0)
            if first >= copy.chunks:
                continue
            next_chunk = min(copy.chunks, first + max(1, COPY_BYTES // copy.chunk_bytes))
            own = entry.overlays[volume_id]
            runs = list(_lacking(own, copy, first, next_chunk))
            looked = 0
            if runs:
                volume = self._reader(entry.row, volume_id, copy.size)
                copy.adopt(
                    (chunk, _chunk(volume, copy, chunk))
                    for run_first, run_next in runs
                    for chunk in range(run_first, run_next)
                )
                looked = sum(run_next - run_first for run_first, run_next in runs)
            self._next[key] = next_chunk
            return looked * copy.chunk_bytes
        return None

    def sync(self, entry: Entry) -> None:
        """Make what was copied, and what the snapshot has itself, durable.

        Raises:
            StorageFailed: a sync failed, which is final (D3).
        """
        for overlay in (*entry.copies.values(), *entry.overlays.values()):
            overlay.sync()

    def done_bytes(self, entry: Entry) -> int:
        """Return how much of a snapshot no longer needs the volume, as far as was looked."""
        if entry.row.copied:
            return sum(size for _, _, size in entry.row.volumes)
        return sum(
            min(size, self._next.get((entry.row.uid, number), 0) * entry.row.chunk_bytes)
            for number, _, size in entry.row.volumes
        )

    def forget(self, gone: SnapshotRow) -> None:
        """A snapshot is gone or whole."""
        self._next = {key: chunk for key, chunk in self._next.items() if key[0] != gone.uid}


def _lacking(own: Overlay, copy: Overlay, first: int, next_chunk: int) -> Iterable[tuple[int, int]]:
    """Yield runs of chunks that neither overlay holds."""
    at = first
    while at < next_chunk:
        if own.has(at) or copy.has(at):
            at += 1
            continue
        end = copy.first_set(at, own.first_set(at, next_chunk))
        yield at, end
        at = end


def _chunk(volume: SnapshotVolume, copy: Overlay, chunk: int) -> bytes | None:
    """Return a chunk of a snapshot; None: it is damaged, which the copy has to say too."""
    try:
        return volume.read(copy.chunk_length(chunk), chunk * copy.chunk_bytes)
    except errors.DataCorrupt:
        return None
