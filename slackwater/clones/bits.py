"""Which chunks of a clone's volume are its own: one bit each, durable only after the chunk is.

::

    0      8   magic
    8     16   uid of the layer
    24     8   bytes of the volume
    32     4   bytes of a chunk
    36     4   CRC-32C of the 36 bytes before
    4096  ...  bits: chunk n is bit n % 8 of byte n / 8

Bits are set and never cleared. Whatever mixture of an old and a new page a crash leaves, each bit
in it stands for a chunk that was synced before: a torn page is a good page, without a checksum.
"""

import struct
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from crc32c import crc32c

from slackwater.errors import DataCorrupt
from slackwater.storage.seam import File, Storage

PAGE_BYTES: Final = 4096
_MAGIC: Final = b"SWCLONE1"
_HEADER: Final = struct.Struct("<8s16sQI")
_CRC: Final = struct.Struct("<I")
_NO_CHUNK: Final = bytes(PAGE_BYTES)


class Bits:
    """The bits of one volume, in memory and in their file; calls that change are serialised."""

    def __init__(self, file: File, chunks: int) -> None:
        """Use an open file with nothing set; use `create` or `open`."""
        self._file = file
        self._pages = -(-chunks // (PAGE_BYTES * 8))
        self._bits = bytearray(self._pages * PAGE_BYTES)
        self._changed: set[int] = set()
        self.is_empty = True

    @classmethod
    def create(
        cls, storage: Storage, path: Path, uid: uuid.UUID, size: int, chunk_bytes: int
    ) -> "Bits":
        """Make the file with nothing set, and sync it; its name is not yet durable.

        Raises:
            OSError: no room, or the storage refused.
        """
        file = storage.open(path, create=True, exclusive=True)
        try:
            bits = cls(file, -(-size // chunk_bytes))
            file.resize(PAGE_BYTES * (1 + bits._pages))
            file.write((_header(uid, size, chunk_bytes),), 0)
            file.sync()
        except OSError:
            file.close()
            raise
        return bits

    @classmethod
    def open(
        cls, storage: Storage, path: Path, uid: uuid.UUID, size: int, chunk_bytes: int
    ) -> "Bits":
        """Open the file; all that is set counts as changed, for it may be in a cache only (D5).

        Raises:
            DataCorrupt: it is not the file of this clone.
            OSError: the storage failed.
        """
        file = storage.open(path)
        try:
            bits = cls(file, -(-size // chunk_bytes))
            bits._check(_header(uid, size, chunk_bytes))
            bits._load()
        except BaseException:
            file.close()
            raise
        return bits

    def _check(self, head: bytes) -> None:
        whole = self._file.size() >= PAGE_BYTES * (1 + self._pages)
        if not whole or self._file.read(len(head), 0) != head:
            raise DataCorrupt(str(self._file.path), "it is not the map of this clone")

    def _load(self) -> None:
        for page in range(self._pages):
            data = self._file.read(PAGE_BYTES, PAGE_BYTES * (1 + page))
            if data != _NO_CHUNK:
                self._bits[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = data
                self._changed.add(page)
                self.is_empty = False

    def has(self, chunk: int) -> bool:
        """Tell whether a chunk is the clone's own."""
        return bool(self._bits[chunk >> 3] & 1 << (chunk & 7))

    def set(self, first: int, next_chunk: int) -> None:
        """Make chunks the clone's own, in memory: their bytes are in the file, not yet durable."""
        for chunk in range(first, next_chunk):
            self._bits[chunk >> 3] |= 1 << (chunk & 7)
        self.is_empty = False
        self._changed.update(range(first >> 15, ((next_chunk - 1) >> 15) + 1))

    def take(self) -> dict[int, bytes]:
        """Return the pages changed since the last call, as they are now."""
        changed, self._changed = self._changed, set()
        return {
            page: bytes(self._bits[page * PAGE_BYTES : (page + 1) * PAGE_BYTES])
            for page in sorted(changed)
        }

    def give_back(self, pages: Mapping[int, bytes]) -> None:
        """Count taken pages as changed: they could not be written."""
        self._changed.update(pages)

    def write(self, pages: Mapping[int, bytes]) -> None:
        """Write taken pages, whose chunks are durable; they are not until `sync`.

        Raises:
            OSError: no room, or the storage refused; it may be tried again.
        """
        for page, data in pages.items():
            self._file.write((data,), PAGE_BYTES * (1 + page))

    def sync(self) -> None:
        """Make what was written durable; a failure is final (D3)."""
        self._file.sync()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _header(uid: uuid.UUID, size: int, chunk_bytes: int) -> bytes:
    head = _HEADER.pack(_MAGIC, uid.bytes, size, chunk_bytes)
    return head + _CRC.pack(crc32c(head))
