"""A volume: the object that stores one logical disk's bytes, raw."""

import errno
from collections.abc import Iterator
from pathlib import Path

from slackwater.errors import AlreadyExists
from slackwater.extent import Extent
from slackwater.storage.seam import Buffer, File, Storage


class Volume:
    """A sparse file or a block device. Ranges are checked by the caller."""

    __slots__ = ("file", "id", "name", "size")

    def __init__(self, number: int, name: str, size: int, file: File) -> None:
        """Use an open file as the volume with id `number`."""
        self.id = number
        self.name = name
        self.size = size
        self.file = file

    @classmethod
    def create(cls, storage: Storage, path: Path, number: int, name: str, size: int) -> "Volume":
        """Make the file, all zeroes, and its name durable; a leftover of an earlier try goes.

        Raises:
            AlreadyExists: never for a file this database knows; ids are not reused.
        """
        if storage.exists(path):
            storage.remove(path)
        try:
            file = storage.open(path, create=True, exclusive=True)
        except FileExistsError:
            raise AlreadyExists("volume file", str(path)) from None
        try:
            file.resize(size)
            file.sync()
            storage.sync_directory(path.parent)
        except OSError:
            file.close()
            raise
        return cls(number, name, size, file)

    @classmethod
    def open(cls, storage: Storage, path: Path, number: int, name: str, size: int) -> "Volume":
        """Open the file; it is extended to `size` if a crash came between a grow and its file."""
        file = storage.open(path)
        try:
            if file.size() < size:
                file.resize(size)
        except OSError:
            file.close()
            raise
        return cls(number, name, size, file)

    @property
    def path(self) -> Path:
        """The file or device."""
        return self.file.path

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes of a range."""
        return self.file.read(length, offset)

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill `target` with the bytes at `offset`."""
        got = self.file.read_into(target, offset)
        if got < len(target):
            raise OSError(errno.EIO, "the volume's file is shorter than the volume", str(self.path))

    def write(self, offset: int, data: Buffer) -> None:
        """Write bytes; durable at the next sync."""
        self.file.write((data,), offset)

    def zero(self, offset: int, length: int) -> None:
        """Make a range read as zeroes (D12)."""
        self.file.zero(offset, length)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """Yield data and holes of a range."""
        return self.file.extents(offset, length)

    def allocated_bytes(self) -> int:
        """Return the bytes that take space, holes not counted."""
        return self.file.allocated_bytes()

    def sync(self) -> None:
        """Make all writes durable; a failure is final (D3)."""
        self.file.sync()

    def start_writeback(self, offset: int, length: int) -> None:
        """Let the system begin to write a range back (D10)."""
        self.file.start_writeback(offset, length)

    def grow(self, size: int) -> None:
        """Extend to the larger of both sizes (D28)."""
        if size > self.size:
            self.file.resize(max(size, self.file.size()))
            self.size = size

    def close(self) -> None:
        """Close the file."""
        self.file.close()
