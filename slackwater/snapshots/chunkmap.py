"""The index of an overlay: which chunk lies where in it.

A sparse file, mapped into memory:

| part  | bytes         | what                                                                |
| ----- | ------------- | ------------------------------------------------------------------- |
| head  | 512           | what a clean stop leaves: magic, uid, sizes, checksum               |
| table | 4 a block     | where the page of each 256 chunks is, in 16 bytes; 0: there is none |
| held  | 1 bit a chunk | the chunk is preserved                                              |
| zero  | 1 bit a chunk | it was zeroes                                                       |
| pages | 6 an entry    | of the chunks with data, where their records are                    |
| lost  | 1 bit a chunk | its bytes were damaged; a hole as long as there is none             |

A page is 2 bytes count, 2 bytes room, a byte for each entry (which chunk of the block) and 5 bytes
for each (offset of its record / 512). It has room for 4 first and is copied to one of twice the
room when it is full.

So what it takes goes with what is preserved and not with the volume, but for some bits a chunk.

Everything is loaded from the mapping, without a lock, and stored by plain writes: a store through
the mapping that finds no room on the disk would end the process (SIGBUS), a write says so. The
place of a chunk is stored before its held bit, what a page holds before its count, a page before
the table names it: a store that fails in between leaves what was there. Whoever loads a place while
its page moves may get that of another chunk, as its record's header tells; `get` with `settled`
waits.

The map only saves a scan of the overlay: it is used again after a clean stop, when its head fits,
and made anew after anything else (D23).
"""

import struct
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from crc32c import crc32c

from slackwater.snapshots import codec
from slackwater.snapshots.codec import FLAG_LOST, FLAG_ZERO
from slackwater.storage.seam import File, Storage

HEAD_BYTES: Final = 512
_HEAD: Final = struct.Struct("<8s16sQQQQQI")
_MAGIC: Final = b"SWMAP\0\0\2"
_SECTOR: Final = 512
_CRC_STEP: Final = 1 << 20
_FILL_STEP: Final = 1 << 17
_SCAN_STEP: Final = 1 << 12

_BLOCK: Final = 256
_UNIT: Final = 16
_PAGE: Final = struct.Struct("<HH")
_COUNT: Final = struct.Struct("<H")
_POINTER: Final = struct.Struct("=I")
_PLACE_BYTES: Final = 5
_ROOMS: Final = (4, 8, 16, 32, 64, 128, _BLOCK)


def _page_bytes(room: int) -> int:
    return -(-(_PAGE.size + room * (1 + _PLACE_BYTES)) // _UNIT) * _UNIT


_BLOCK_BYTES: Final = sum(map(_page_bytes, _ROOMS))
"""What the pages of one block may take in all, with those it has outgrown."""


def _aligned(length: int) -> int:
    return -(-length // _UNIT) * _UNIT


class ChunkMap:
    """The index of one overlay. One thread at a time stores, any thread loads.

    `held` is the bits of the chunks that are preserved, lowest first; `previous` is what a clean
    stop handed to `close_clean`: the chunks of the last record.
    """

    def __init__(self, file: File, snapshot_uid: uuid.UUID, chunks: int) -> None:
        """Map the file; use `create` or `open`."""
        self._file = file
        self._uid = snapshot_uid
        self._chunks = chunks
        blocks = -(-chunks // _BLOCK)
        plane = _aligned(-(-chunks // 8))
        self._held_at = HEAD_BYTES + _aligned(_POINTER.size * blocks)
        self._zero_at = self._held_at + plane
        self._pages_at = self._zero_at + plane
        self._lost_at = self._pages_at + blocks * _BLOCK_BYTES
        self._whole = file.map()
        self._table = self._whole[HEAD_BYTES : self._held_at].cast("I")
        self.held = self._whole[self._held_at : self._zero_at]
        self._zero = self._whole[self._zero_at : self._pages_at]
        self._lost = self._whole[self._lost_at :]
        self._pages_end = self._pages_at
        self._free: dict[int, list[int]] = {room: [] for room in _ROOMS}
        self._store_lock = threading.Lock()
        self.previous = (0, 0)

    @staticmethod
    def _file_bytes(chunks: int) -> int:
        blocks = -(-chunks // _BLOCK)
        planes = 3 * _aligned(-(-chunks // 8))
        return HEAD_BYTES + _aligned(_POINTER.size * blocks) + planes + blocks * _BLOCK_BYTES

    @classmethod
    def create(
        cls, storage: Storage, path: Path, snapshot_uid: uuid.UUID, chunks: int
    ) -> "ChunkMap":
        """Return an empty map; what was at `path` is gone."""
        file = storage.open(path, create=True)
        try:
            file.resize(0)
            file.resize(cls._file_bytes(chunks))
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
        if file.size() != cls._file_bytes(chunks):
            file.close()
            return None
        found = cls(file, snapshot_uid, chunks)
        magic, uid, of_chunks, of_bytes, pages_end, *previous, crc = _HEAD.unpack_from(found._whole)
        if (magic, uid, of_chunks, of_bytes, crc) != (
            _MAGIC, snapshot_uid.bytes, chunks, overlay_bytes, found._crc(pages_end)
        ):  # fmt: skip
            found.close()
            return None
        found.previous = (previous[0], previous[1])
        found._pages_end = pages_end
        file.write([bytes(_HEAD.size)], 0)
        return found

    def close(self) -> None:
        """Let the file go; the head stays as it is, so the map will not be used again."""
        for view in (self._table, self.held, self._zero, self._lost, self._whole):
            view.release()
        self._file.close()

    def close_clean(self, overlay_bytes: int, previous: tuple[int, int]) -> None:
        """Seal the map for an overlay of this size, sync it and let it go.

        Raises:
            OSError: the sync failed; the caller must not record a clean stop.
        """
        end = self._pages_end
        sizes = (self._chunks, overlay_bytes, end)
        head = _HEAD.pack(_MAGIC, self._uid.bytes, *sizes, *previous, self._crc(end))
        self._file.write([head], 0)
        self._file.sync()
        self.close()

    def _crc(self, pages_end: int) -> int:
        crc = 0
        for first, end in ((HEAD_BYTES, pages_end), (self._lost_at, len(self._whole))):
            for at in range(first, end, _CRC_STEP):
                crc = crc32c(self._whole[at : min(end, at + _CRC_STEP)], crc)
        return crc

    # -- loading -----------------------------------------------------------------------------

    def has(self, chunk: int) -> bool:
        """Tell whether the chunk is preserved."""
        return bool(self.held[chunk >> 3] >> (chunk & 7) & 1)

    def get(self, chunk: int, *, settled: bool = False) -> tuple[int, int] | None:
        """Return the record's offset and flags, or None if the chunk is not preserved.

        The offset is 0 for zeroes and losses. It is that of another chunk's record if a store
        moves the chunk's page meanwhile; with `settled` it waits for the store.
        """
        if not self.has(chunk):
            return None
        byte, bit = chunk >> 3, chunk & 7
        if self._lost[byte] >> bit & 1:
            return 0, FLAG_LOST
        if self._zero[byte] >> bit & 1:
            return 0, FLAG_ZERO
        place = None if settled else self._place(chunk)
        if place is None:
            with self._store_lock:
                place = self._place(chunk)
        assert place is not None, "a place is stored before its held bit"
        return place * _SECTOR, 0

    def _place(self, chunk: int) -> int | None:
        page = self._page(chunk // _BLOCK)
        if page is None:
            return None
        at, count, room = page
        index = bytes(self._whole[at + _PAGE.size : at + _PAGE.size + count]).find(chunk % _BLOCK)
        if index < 0:
            return None
        place = at + _PAGE.size + room + _PLACE_BYTES * index
        return int.from_bytes(self._whole[place : place + _PLACE_BYTES], "little")

    def _page(self, block: int) -> tuple[int, int, int] | None:
        """Return where a block's page is, its count and its room."""
        pointer = self._table[block]
        at = pointer * _UNIT
        if not self._pages_at <= at < self._lost_at:
            return None
        count, room = _PAGE.unpack_from(self._whole, at)
        return at, count, room

    def first_set(self, first: int, next_chunk: int) -> int:
        """Return the first preserved chunk of the half-open range, or `next_chunk`."""
        if first >= next_chunk:
            return next_chunk
        byte = first >> 3
        bits = self.held[byte] >> (first & 7)
        at = first
        if not bits:
            at = next_chunk
            end = -(-next_chunk // 8)
            for step in range(byte + 1, end, _SCAN_STEP):
                part = bytes(self.held[step : min(end, step + _SCAN_STEP)])
                rest = part.lstrip(b"\0")
                if rest:
                    at, bits = 8 * (step + len(part) - len(rest)), rest[0]
                    break
            else:
                return next_chunk
        return min(at + (bits & -bits).bit_length() - 1, next_chunk)

    # -- storing -----------------------------------------------------------------------------

    def put(self, first: int, count: int, record_offset: int, flags: int) -> None:
        """Point the chunks at a record.

        Raises:
            OSError: there is no room; some of the chunks may point there.
        """
        with self._store_lock:
            if flags & FLAG_LOST:
                self._set_bits(self._lost_at, self._lost, first, count)
            elif flags & FLAG_ZERO:
                self._set_bits(self._zero_at, self._zero, first, count)
                self._clear_bits(self._lost_at, self._lost, first, count)
            else:
                assert count == 1, "a record with data is of one chunk"
                self._put_place(first, record_offset // _SECTOR)
                self._clear_bits(self._zero_at, self._zero, first, count)
                self._clear_bits(self._lost_at, self._lost, first, count)
            self._set_bits(self._held_at, self.held, first, count)

    def _put_place(self, chunk: int, place: int) -> None:
        block, tag = divmod(chunk, _BLOCK)
        page = self._page(block)
        encoded = place.to_bytes(_PLACE_BYTES, "little")
        if page is None:
            self._new_page(block, _ROOMS[0], bytes([tag]), encoded)
            return
        at, count, room = page
        tags_at = at + _PAGE.size
        tags = bytes(self._whole[tags_at : tags_at + count])
        places_at = tags_at + room
        index = tags.find(tag)
        if index >= 0:  # its entry was stored by a try that found no room for the bit
            self._file.write([encoded], places_at + _PLACE_BYTES * index)
        elif count < room:
            self._file.write([encoded], places_at + _PLACE_BYTES * count)
            self._file.write([bytes([tag])], tags_at + count)
            self._file.write([_COUNT.pack(count + 1)], at)
        else:
            places = bytes(self._whole[places_at : places_at + _PLACE_BYTES * count])
            self._new_page(block, 2 * room, tags + bytes([tag]), places + encoded)
            self._free[room].append(at)

    def _new_page(self, block: int, room: int, tags: bytes, places: bytes) -> None:
        length = _page_bytes(room)
        at = self._free[room].pop() if self._free[room] else self._pages_end
        try:
            data = _PAGE.pack(len(tags), room) + tags.ljust(room, b"\0") + places
            self._file.write([data.ljust(length, b"\0")], at)
            if at == self._pages_end:
                self._pages_end += length
            self._file.write([_POINTER.pack(at // _UNIT)], HEAD_BYTES + _POINTER.size * block)
        except OSError:
            if at != self._pages_end:
                self._free[room].append(at)
            raise

    def _set_bits(self, plane_at: int, plane: memoryview, first: int, count: int) -> None:
        for at, data in _bytes_of(plane, first, count):
            self._file.write([data], plane_at + at)

    def _clear_bits(self, plane_at: int, plane: memoryview, first: int, count: int) -> None:
        """Clear what a try that found no room left; nearly always there is nothing."""
        end = -(-(first + count) // 8)
        for step in range(first >> 3, end, _FILL_STEP):
            part = bytes(plane[step : min(end, step + _FILL_STEP)])
            if part.count(0) == len(part):
                continue
            for chunk in range(max(first, 8 * step), min(first + count, 8 * (step + len(part)))):
                byte, bit = chunk >> 3, 1 << (chunk & 7)
                if plane[byte] & bit:
                    self._file.write([bytes([plane[byte] & ~bit])], plane_at + byte)


def _bytes_of(plane: memoryview, first: int, count: int) -> Iterator[tuple[int, bytes]]:
    """Yield where to write what, in bounded pieces, to set the bits of a range."""
    at, end = first, first + count
    while at < end:
        byte = at >> 3
        if at & 7 or end - at < 8:
            stop = min(end, 8 * (byte + 1))
            mask = (1 << (stop & 7 or 8)) - (1 << (at & 7))
            yield byte, bytes([plane[byte] | mask])
        else:
            stop = 8 * min(end >> 3, byte + _FILL_STEP)
            yield byte, b"\xff" * ((stop - at) >> 3)
        at = stop


assert codec.HEADER_BYTES % _SECTOR == 0
