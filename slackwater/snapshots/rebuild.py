"""Making an overlay's map anew from its records, and proving its end again (D5, D23)."""

import uuid
from collections import deque
from dataclasses import dataclass
from typing import Final

from crc32c import crc32c

from slackwater.snapshots import codec
from slackwater.snapshots.chunkmap import ChunkMap
from slackwater.snapshots.codec import FLAG_LOST, HEADER_BYTES, ChunkRecord
from slackwater.storage.seam import File

_SEARCH_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class Proof:
    """What a rebuild found.

    Attributes:
        end: Bytes of the overlay that count, all synced now.
        previous: First chunk and number of chunks of the last record.
        unnamed_loss: True if synced records were damaged whose chunks no header names.
    """

    end: int
    previous: tuple[int, int]
    unnamed_loss: bool


@dataclass(frozen=True)
class _Gap:
    """Bytes that are no record, and the header that follows them."""

    offset: int
    following: ChunkRecord


def rebuild(
    file: File, chunk_map: ChunkMap, snapshot_uid: uuid.UUID, size: int, chunk_bytes: int
) -> Proof:
    """Fill the empty map from the file; cut, rewrite and sync the file's unproven end.

    Raises:
        OSError: the storage failed.
    """
    return _Scan(file, chunk_map, snapshot_uid, size, chunk_bytes).run()


class _Scan:
    def __init__(
        self, file: File, chunk_map: ChunkMap, snapshot_uid: uuid.UUID, size: int, chunk_bytes: int
    ) -> None:
        self._file = file
        self._map = chunk_map
        self._uid = snapshot_uid
        self._size = size
        self._chunk_bytes = chunk_bytes
        self._file_bytes = file.size()
        self._proven = 0
        self._unproven: deque[ChunkRecord | _Gap] = deque()
        self._last: tuple[int, int] = (0, 0)
        self._unnamed_loss = False

    def run(self) -> Proof:
        at = 0
        while at < self._file_bytes:
            record = self._header(at)
            if record is None:
                record = self._search(at)
                if record is None:
                    break
                self._unproven.append(_Gap(at, record))
            self._unproven.append(record)
            self._prove(record.synced_bytes)
            at = record.next_offset
        end = self._settle_end()
        return Proof(end, self._last, self._unnamed_loss)

    def _header(self, at: int) -> ChunkRecord | None:
        record = codec.decode(self._file.read(HEADER_BYTES, at), self._uid, at)
        return record if record is not None and self._is_possible(record) else None

    def _is_possible(self, record: ChunkRecord) -> bool:
        chunks = -(-self._size // self._chunk_bytes)
        if not record.chunks or record.first + record.chunks > chunks:
            return False
        if record.flags:
            return record.data_bytes == 0
        length = min(self._chunk_bytes, self._size - record.first * self._chunk_bytes)
        return record.chunks == 1 and record.data_bytes == length

    def _search(self, at: int) -> ChunkRecord | None:
        """Return the first header after the damage at `at`."""
        start = at + HEADER_BYTES
        while start < self._file_bytes:
            window = self._file.read(_SEARCH_BYTES, start)
            for inside in range(0, len(window) - HEADER_BYTES + 1, HEADER_BYTES):
                sector = window[inside : inside + HEADER_BYTES]
                record = codec.decode(sector, self._uid, start + inside)
                if record is not None and self._is_possible(record):
                    return record
            start += _SEARCH_BYTES
        return None

    def _prove(self, synced_bytes: int) -> None:
        """Take what lies below a synced mark as what it is: a record, or a loss."""
        self._proven = max(self._proven, synced_bytes)
        while self._unproven and self._unproven[0].offset < self._proven:
            item = self._unproven.popleft()
            if isinstance(item, _Gap):
                self._record_loss(item)
            else:
                self._accept(item)

    def _accept(self, record: ChunkRecord) -> None:
        self._map.put(record.first, record.chunks, record.offset, record.flags)
        self._last = (record.first, record.chunks)

    def _record_loss(self, gap: _Gap) -> None:
        following = gap.following
        gap_bytes = following.offset - gap.offset
        first, count = following.previous_first, following.previous_count
        length = min(self._chunk_bytes, self._size - first * self._chunk_bytes)
        if count and gap_bytes in {HEADER_BYTES, HEADER_BYTES + length}:
            self._map.put(first, count, gap.offset, FLAG_LOST)
        else:
            self._unnamed_loss = True

    def _settle_end(self) -> int:
        """Write what is whole above the mark again, cut the rest, sync; return the end."""
        end = self._proven
        for item in self._unproven:
            if isinstance(item, _Gap):
                break
            raw = self._file.read(item.next_offset - item.offset, item.offset)
            if crc32c(memoryview(raw)[HEADER_BYTES:]) != item.data_crc or (
                len(raw) != item.next_offset - item.offset
            ):
                break
            self._file.write([raw], item.offset)
            self._accept(item)
            end = item.next_offset
        if end != self._file_bytes:
            self._file.resize(end)
        self._file.sync()
        return end
