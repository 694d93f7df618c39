"""One layer of a clone's volume: a sparse file with chunks at their own offsets, and their bits.

A clone has one layer that it writes to, its top. When a clone is made of it, that layer is frozen:
from then on no byte of it changes, both clones read through it, and each gets a new top above it.
"""

import uuid
from pathlib import Path

from slackwater.clones.bits import Bits
from slackwater.errors import DataCorrupt
from slackwater.storage.seam import File, Storage


class Layer:
    """The open files of one layer of one volume."""

    def __init__(self, data: File, bits: Bits) -> None:
        """Use open files; use `open`."""
        self.data = data
        self.bits = bits

    @staticmethod
    def create(
        storage: Storage, directory: Path, number: int, uid: uuid.UUID, size: int, chunk_bytes: int
    ) -> None:
        """Make the files with no chunk in them, synced; their names are not yet durable.

        Raises:
            OSError: no room, or the storage refused.
        """
        data = storage.open(data_path(directory, number), create=True, exclusive=True)
        try:
            data.resize(size)
            data.sync()
        finally:
            data.close()
        Bits.create(storage, _bits_path(directory, number), uid, size, chunk_bytes).close()

    @classmethod
    def open(
        cls,
        storage: Storage,
        directory: Path,
        number: int,
        uid: uuid.UUID,
        size: int,
        chunk_bytes: int,
        *,
        clone: str,
    ) -> "Layer":
        """Open the files of volume `number`; `clone` is who asks.

        Raises:
            DataCorrupt: they are damaged.
            OSError: the storage failed.
        """
        try:
            data = storage.open(data_path(directory, number))
        except FileNotFoundError as error:
            raise DataCorrupt(f"clone {clone}", "its data is gone") from error
        try:
            _check_whole(data, size, clone)
            bits = Bits.open(storage, _bits_path(directory, number), uid, size, chunk_bytes)
        except FileNotFoundError as error:
            data.close()
            raise DataCorrupt(f"clone {clone}", "its map is gone") from error
        except BaseException:
            data.close()
            raise
        return cls(data, bits)

    def close(self) -> None:
        """Close the files."""
        self.data.close()
        self.bits.close()


def data_path(directory: Path, number: int) -> Path:
    """Return where the chunks of a volume are."""
    return directory / f"{number}.data"


def _bits_path(directory: Path, number: int) -> Path:
    return directory / f"{number}.bits"


def _check_whole(data: File, size: int, clone: str) -> None:
    if data.size() < size:
        raise DataCorrupt(f"clone {clone}", "its data is cut off")
