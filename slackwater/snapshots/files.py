"""The files of one snapshot: a directory with an overlay and a map for each volume."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from slackwater import errors
from slackwater.group.rows import SnapshotRow
from slackwater.snapshots.copying import make_copies
from slackwater.snapshots.overlay import Overlay
from slackwater.storage.seam import Storage


def paths(directory: Path, volume_id: int) -> tuple[Path, Path]:
    """Return the overlay and the map of one volume."""
    return directory / f"{volume_id}.overlay", directory / f"{volume_id}.map"


def make(
    storage: Storage, directory: Path, row: SnapshotRow
) -> tuple[dict[int, Overlay], dict[int, Overlay]]:
    """Make empty overlays for all of a snapshot's volumes, and copies of a full one, durably.

    Raises:
        OSError: no room, or the storage refused; nothing is left behind, it may be tried again.
        StorageFailed: a sync failed, which is final (D3).
    """
    overlays: dict[int, Overlay] = {}
    try:
        storage.make_directory(directory)
        for volume_id, _, size in row.volumes:
            overlays[volume_id] = Overlay.create(
                storage, *paths(directory, volume_id), row.uid, size, row.chunk_bytes
            )
        copies = make_copies(storage, directory, row)
    except OSError:
        drop(storage, directory, overlays.values())
        raise
    try:
        storage.sync_directory(directory)
        storage.sync_directory(directory.parent)
    except OSError as error:
        raise errors.StorageFailed(str(directory), "sync", error.errno or 0) from error
    return overlays, copies


def drop(storage: Storage, directory: Path, overlays: Iterable[Overlay]) -> None:
    """Let a snapshot's files go, once their last reader is done."""
    for overlay in overlays:
        overlay.close()
    with suppress(OSError):  # a leftover directory goes at the next start
        storage.remove_tree(directory)
