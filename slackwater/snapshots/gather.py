"""Gathering an overlay's records, so that many old chunks are one write."""

import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from crc32c import crc32c

from slackwater.snapshots import codec
from slackwater.snapshots.chunkmap import ChunkMap
from slackwater.snapshots.codec import FLAG_ZERO, ChunkRecord
from slackwater.storage.seam import Buffer, File

CHUNK_BYTES: Final = 64 << 10
GATHER_BYTES: Final = 2 << 20
_ZEROES: Final = bytes(CHUNK_BYTES)
Room = Callable[[int], AbstractContextManager[None]]


def any_room(_size: int) -> AbstractContextManager[None]:
    """Let anything be appended."""
    return nullcontext()


class Batch:
    """Records on their way into the file; the map learns of them when they are in it."""

    def __init__(
        self,
        file: File,
        chunk_map: ChunkMap,
        snapshot_uid: uuid.UUID,
        end: int,
        synced_bytes: int,
        previous: tuple[int, int],
        written: Callable[[int, tuple[int, int]], None],
        room: Room,
    ) -> None:
        """Append from `end` on.

        Args:
            file: the overlay's.
            chunk_map: learns of what is appended.
            snapshot_uid: stands in every record.
            end: of the file.
            synced_bytes: of it that are durable.
            previous: the chunks of the last record.
            written: told the new end and the chunks of the last record.
            room: asked for each append; raises OSError if it may not be.
        """
        self._file = file
        self._map = chunk_map
        self._uid = snapshot_uid
        self._end = end
        self._synced_bytes = synced_bytes
        self._previous = previous
        self._written = written
        self._room = room
        self._pieces: list[Buffer] = []
        self._records: list[ChunkRecord] = []
        self._bytes = 0

    def add_data(self, chunk: int, data: Buffer) -> None:
        """Add a chunk's bytes; zeroes take no room."""
        if data == (_ZEROES if len(data) == CHUNK_BYTES else bytes(len(data))):
            self.add(FLAG_ZERO, chunk, 1, b"")
        else:
            self.add(0, chunk, 1, data)

    def add(self, flags: int, first: int, chunks: int, data: Buffer) -> None:
        """Add one record; writes when enough is gathered."""
        record = ChunkRecord(
            flags,
            self._end + self._bytes,
            first,
            chunks,
            self._synced_bytes,
            *self._previous,
            len(data),
            crc32c(data),
        )
        self._previous = (first, chunks)
        self._records.append(record)
        self._pieces.append(codec.encode(self._uid, record))
        if data:
            self._pieces.append(data)
        self._bytes = record.next_offset - self._end
        if self._bytes >= GATHER_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is gathered, then set its map entries.

        Raises:
            OSError: what is not in the map is not preserved; it is appended again at another try.
        """
        if not self._records:
            return
        with self._room(self._bytes):
            self._file.write(self._pieces, self._end)
            self._end += self._bytes
            self._written(self._end, self._previous)
        for record in self._records:
            self._map.put(record.first, record.chunks, record.offset, record.flags)
        self._pieces, self._records, self._bytes = [], [], 0
