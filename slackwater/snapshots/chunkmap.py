"""The index of an overlay: which chunk lies where in it.

A file of one 512-byte head and one 64-bit entry a chunk, mapped into memory. An entry is 0 when the
chunk is not preserved, else `(record offset / 512 + 1) << 2 | flags`.

Entries are loaded from the mapping, without a lock, and stored by plain writes: a store through the
mapping that finds no room on the disk would end the process (SIGBUS), a write says so. An entry
changes once, from 0; one that is loaded in the middle of that names a header that is not the
chunk's, and is loaded again.

The map only saves a scan of the overlay: it is used again after a clean stop, when its head fits,
and made anew after anything else (D23).
"""

import struct
import uuid
from array import array
from pathlib import Path
from typing import Final

from crc32c import crc32c

from slackwater.snapshots import codec
from slackwater.storage.seam import File, Storage

HEAD_BYTES: Final = 512
_HEAD: Final = struct.Struct("<8s16sQQQQI")
_MAGIC: Final = b"SWMAP\0\0\1"
_SECTOR: Final = 512
_CRC_STEP: Final = 1 << 20
_FILL_STEP: Final = 1 << 14


class ChunkMap:
    """Entries of one overlay. One thread at a time stores, any thread loads.

    `previous` is what a clean stop handed to `close_clean`: the chunks of the last record.
    """

    def __init__(self, file: File, snapshot_uid: uuid.UUID, chunks: int) -> None:
        """Map the file; use `create` or `open`."""
        self._file = file
        self._uid = snapshot_uid
        self._chunks = chunks
        self._whole = file.map()
        self._entries = self._whole[HEAD_BYTES:].cast("Q")
        self.previous = (0, 0)

    @classmethod
    def create(
        cls, storage: Storage, path: Path, snapshot_uid: uuid.UUID, chunks: int
    ) -> "ChunkMap":
        """Return an empty map; what was at `path` is gone."""
        file = storage.open(path, create=True)
        try:
            file.resize(0)
            file.resize(HEAD_BYTES + 8 * chunks)
            return cls(file, snapshot_uid, chunks)
        except OSError:
            file.close()
            raise

    @classmethod
    def open(
        cls, storage: Storage, path: Path, snapshot_uid: uuid.UUID, chunks: int, overlay_bytes: int
    ) -> "ChunkMap | None":
        """Return the map as a clean stop left it for an overlay of this size, or None."""
        if not storage.exists(path):
            return None
        file = storage.open(path)
        if file.size() != HEAD_BYTES + 8 * chunks:
            file.close()
            return None
        found = cls(file, snapshot_uid, chunks)
        magic, uid, of_chunks, of_bytes, *previous, crc = _HEAD.unpack_from(found._whole)
        if (magic, uid, of_chunks, of_bytes, crc) != (
            _MAGIC, snapshot_uid.bytes, chunks, overlay_bytes, found._crc()
        ):  # fmt: skip
            found.close()
            return None
        found.previous = (previous[0], previous[1])
        file.write([bytes(_HEAD.size)], 0)
        return found

    def close(self) -> None:
        """Let the file go; the head stays as it is, so the map will not be used again."""
        self._entries.release()
        self._whole.release()
        self._file.close()

    def close_clean(self, overlay_bytes: int, previous: tuple[int, int]) -> None:
        """Seal the map for an overlay of this size, sync it and let it go.

        Raises:
            OSError: the sync failed; the caller must not record a clean stop.
        """
        head = _HEAD.pack(
            _MAGIC, self._uid.bytes, self._chunks, overlay_bytes, *previous, self._crc()
        )
        self._file.write([head], 0)
        self._file.sync()
        self.close()

    def _crc(self) -> int:
        crc = 0
        for at in range(HEAD_BYTES, len(self._whole), _CRC_STEP):
            crc = crc32c(self._whole[at : at + _CRC_STEP], crc)
        return crc

    def has(self, chunk: int) -> bool:
        """Tell whether the chunk is preserved."""
        return self._entries[chunk] != 0

    def get(self, chunk: int) -> tuple[int, int] | None:
        """Return the record's offset and flags, or None if the chunk is not preserved."""
        entry = self._entries[chunk]
        return (((entry >> 2) - 1) * _SECTOR, entry & 3) if entry else None

    def put(self, first: int, count: int, record_offset: int, flags: int) -> None:
        """Point the chunks at a record.

        Raises:
            OSError: there is no room; some of the chunks may point there.
        """
        entry = array("Q", [(record_offset // _SECTOR + 1) << 2 | flags])
        for at in range(first, first + count, _FILL_STEP):
            width = min(_FILL_STEP, first + count - at)
            self._file.write([(entry * width).tobytes()], HEAD_BYTES + 8 * at)

    def first_set(self, first: int, next_chunk: int) -> int:
        """Return the first preserved chunk of the half-open range, or `next_chunk`."""
        at = first
        while at < next_chunk:
            width = min(_FILL_STEP, next_chunk - at)
            part = self._entries[at : at + width]
            if part != _EMPTY[:width]:
                return next(at + index for index, entry in enumerate(part) if entry)
            at += width
        return next_chunk


_EMPTY: Final = memoryview(array("Q", bytes(8 * _FILL_STEP)))

assert codec.HEADER_BYTES % _SECTOR == 0
