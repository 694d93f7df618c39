"""The layers of one group's clones: their directories, the frozen ones open once for all readers.

`clones/<uid of the layer>/` has the files of one layer of all volumes. A layer stays as long as a
row names it, whichever clone was made of which and in whatever order they go. One that no row
names was left by a crash, or by the last clone that needed it, and goes at the next start.
"""

import uuid
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from slackwater.clones.layer import Layer, data_path
from slackwater.group.rows import CloneRow
from slackwater.storage.seam import Storage


class Layers:
    """The layers; calls are serialised by `Clones`, but for `make` and `remove`."""

    def __init__(self, storage: Storage, directory: Path) -> None:
        """Hold nothing open yet."""
        self._storage = storage
        self._directory = directory
        self._frozen: dict[tuple[uuid.UUID, int], Layer] = {}

    def sweep(self, needed: Collection[uuid.UUID]) -> None:
        """Remove all that is not needed; for the start, when nothing is being made.

        Raises:
            OSError: the storage failed.
        """
        self._storage.make_directory(self._directory)
        known = {uid.hex for uid in needed}
        for name in self._storage.listing(self._directory):
            if name not in known:
                self._storage.remove_tree(self._directory / name)

    def make(self, uid: uuid.UUID, row: CloneRow) -> None:
        """Make the files of a layer for the volumes of a clone, durably.

        Raises:
            OSError: no room, or the storage refused; `remove` what there is.
        """
        directory = self._path(uid)
        self._storage.make_directory(directory)
        for number, _, size in row.volumes:
            Layer.create(self._storage, directory, number, uid, size, row.chunk_bytes)
        self._storage.sync_directory(directory)
        self._storage.sync_directory(directory.parent)
        self._storage.sync_directory(directory.parent.parent)

    def remove(self, uid: uuid.UUID) -> None:
        """Remove the files of a layer that nothing uses.

        Raises:
            OSError: the storage refused; the next start removes them.
        """
        self._storage.remove_tree(self._path(uid))

    def open(self, uid: uuid.UUID, row: CloneRow, number: int) -> Layer:
        """Open one volume of a layer; raises as `Layer.open`."""
        size = next(size for own, _, size in row.volumes if own == number)
        return Layer.open(
            self._storage, self._path(uid), number, uid, size, row.chunk_bytes, clone=row.name
        )

    def stack(self, row: CloneRow, number: int) -> tuple[Layer, ...]:
        """Open one volume of a clone: its frozen layers, the top last; raises as `Layer.open`."""
        for uid in row.layers:
            if (uid, number) not in self._frozen:
                self._frozen[uid, number] = self.open(uid, row, number)
        return (
            *(self._frozen[uid, number] for uid in row.layers),
            self.open(row.top, row, number),
        )

    def freeze(self, uid: uuid.UUID, number: int, layer: Layer) -> None:
        """Keep an open layer that is nobody's top any more."""
        self._frozen[uid, number] = layer

    def let_go(self, uids: Collection[uuid.UUID]) -> None:
        """Close frozen layers that no clone reads any more."""
        for key in [key for key in self._frozen if key[0] in uids]:
            self._frozen.pop(key).close()

    def close(self) -> None:
        """Close the frozen layers; the tops are the clones'."""
        self.let_go({uid for uid, _ in self._frozen})

    def bytes_of(self, uids: Collection[uuid.UUID], number: int) -> int:
        """Return the bytes that layers of a volume take on disk; 0 for what is not there."""
        result = 0
        for uid in uids:
            with suppress(OSError):  # it goes this moment, or is damaged
                path = data_path(self._path(uid), number)
                file = self._storage.open(path, writable=False)
                try:
                    result += file.allocated_bytes()
                finally:
                    file.close()
        return result

    def _path(self, uid: uuid.UUID) -> Path:
        return self._directory / uid.hex
