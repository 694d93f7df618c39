"""What one snapshot keeps of one volume.

A chunk of the volume is *not preserved* (the snapshot looks through to a newer snapshot or to the
volume), *preserved* (its bytes are in the overlay), *zero* (it read as zeroes) or *lost* (its bytes
were damaged on disk: reported, never served). A chunk leaves the first state once and no other.

The order that keeps a snapshot whole (D23): the old bytes are appended, the map entry is set, the
overlay is synced, and only then is the volume written. A reader reads the volume first and looks
at the map afterwards: if the entry is not set by then, what it read is old enough.

After an unclean stop the map is made anew from the headers. Each header says how much of the file
was synced when it was written: damage below the highest such mark is a loss, named by the header
that follows it; damage above it is the torn end of a batch whose volume writes never began, and is
cut off. What is whole above the mark is written again in place, for it may have survived in the
page cache only (D5).
"""

import errno
import threading
import uuid
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Protocol

from crc32c import crc32c

from slackwater import errors
from slackwater.extent import Extent
from slackwater.snapshots import codec
from slackwater.snapshots.chunkmap import ChunkMap
from slackwater.snapshots.codec import FLAG_LOST, FLAG_ZERO, HEADER_BYTES
from slackwater.snapshots.gather import CHUNK_BYTES, Batch, Room, any_room
from slackwater.snapshots.pins import Pins
from slackwater.snapshots.rebuild import rebuild
from slackwater.storage.seam import File, Storage

_EXTENT_CHUNKS: Final = 4  # ranges of at least this many chunks are looked at by extents first


class Source(Protocol):
    """What old bytes are read from: a volume."""

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill the target with the bytes at the offset."""
        ...

    def extents(self, offset: int, length: int) -> Iterable[Extent]:
        """Return what covers the range."""
        ...


class Overlay:
    """The preserved chunks of one volume in one snapshot.

    Appending is serialised by a lock of its own, so is syncing, for a merge may run beside the
    applier; neither is held when the other is taken. Reading takes none but to count itself in.
    Invariant: bytes below `synced_bytes` are durable; entries of the map point below `end`. `held`
    is the bits of the preserved chunks, lowest first; it is released with the files.
    What is preserved asks `room` first; copies of a snapshot that goes do not (`budget`).
    """

    def __init__(
        self,
        file: File,
        chunk_map: ChunkMap,
        snapshot_uid: uuid.UUID,
        size: int,
        chunk_bytes: int,
        end: int,
        previous: tuple[int, int],
    ) -> None:
        """Use `create` or `open`."""
        self.size = size
        self.chunk_bytes = chunk_bytes
        self.end = end
        self.synced_bytes = end
        self._file = file
        self._map = chunk_map
        self.held = chunk_map.held
        self._uid = snapshot_uid
        self._previous = previous
        self._append_lock = threading.Lock()
        self._sync_lock = threading.Lock()
        self._failed_errno: int | None = None
        self._pins = Pins(self._close)
        self.unnamed_loss = False
        self.room: Room = any_room

    @classmethod
    def create(
        cls,
        storage: Storage,
        path: Path,
        map_path: Path,
        snapshot_uid: uuid.UUID,
        size: int,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> "Overlay":
        """Make an empty overlay; durable once the caller has synced its directory."""
        file = storage.open(path, create=True, exclusive=True)
        chunks = -(-size // chunk_bytes)
        try:
            chunk_map = ChunkMap.create(storage, map_path, snapshot_uid, chunks)
        except OSError:
            file.close()
            raise
        return cls(file, chunk_map, snapshot_uid, size, chunk_bytes, 0, (0, 0))

    @classmethod
    def open(
        cls,
        storage: Storage,
        path: Path,
        map_path: Path,
        snapshot_uid: uuid.UUID,
        size: int,
        chunk_bytes: int,
        *,
        clean: bool,
    ) -> "Overlay":
        """Open an overlay; without `clean` its map is made anew and its end is proved again.

        Raises:
            DataCorrupt: the overlay's file is gone.
            OSError: the storage failed.
        """
        if not storage.exists(path):
            raise errors.DataCorrupt(f"snapshot overlay {path}", "the file is missing")
        file = storage.open(path)
        chunks = -(-size // chunk_bytes)
        if clean:
            end = file.size()
            found = ChunkMap.open(storage, map_path, snapshot_uid, chunks, end)
            if found is not None:
                return cls(file, found, snapshot_uid, size, chunk_bytes, end, found.previous)
        chunk_map = ChunkMap.create(storage, map_path, snapshot_uid, chunks)
        proof = rebuild(file, chunk_map, snapshot_uid, size, chunk_bytes)
        overlay = cls(file, chunk_map, snapshot_uid, size, chunk_bytes, proof.end, proof.previous)
        overlay.unnamed_loss = proof.unnamed_loss
        return overlay

    # -- appending ---------------------------------------------------------------------------

    def preserve(
        self,
        source: Source,
        ranges: Iterable[tuple[int, int]],
        newer: Sequence["Overlay"] = (),
    ) -> None:
        """Append what the source holds in those chunks of the ranges that are not preserved.

        A range is a first chunk and the chunk after its last. A chunk that an overlay of `newer`
        holds counts as preserved. The caller calls `sync` before it writes the volume.

        Raises:
            OSError: a read or write failed; what was not appended is not preserved.
        """
        with self._append_lock, ExitStack() as pins:
            newer = [overlay for overlay in newer if overlay._pins.is_pinned_in(pins)]
            batch = self._batch(self.room)
            for first, next_chunk in ranges:
                at, range_end = first, min(next_chunk, self.chunks)
                while at < range_end:
                    if self._map.has(at) or any(overlay.has(at) for overlay in newer):
                        at += 1
                        continue
                    end = self._map.first_set(at, range_end)
                    for overlay in newer:
                        end = overlay.first_set(at, end)
                    self._preserve_run(batch, source, at, end)
                    at = end
            batch.flush()

    def _batch(self, room: Room) -> Batch:
        place = (self.end, self.synced_bytes, self._previous)
        return Batch(self._file, self._map, self._uid, *place, self._put, room)

    def _put(self, end: int, previous: tuple[int, int]) -> None:
        self.end, self._previous = end, previous

    def _preserve_run(self, batch: Batch, source: Source, first: int, next_chunk: int) -> None:
        if self.unnamed_loss:
            # One of these may be the chunk whose record rotted: the volume's bytes prove nothing.
            batch.add(FLAG_LOST, first, next_chunk - first, b"")
            return
        if next_chunk - first < _EXTENT_CHUNKS:
            for chunk in range(first, next_chunk):
                self._preserve_chunk(batch, source, chunk)
            return
        start = first * self.chunk_bytes
        end = min(next_chunk * self.chunk_bytes, self.size)
        at = first
        for extent in source.extents(start, end - start):
            hole_first = -(-extent.offset // self.chunk_bytes)
            whole = extent.next_offset == end
            hole_next = next_chunk if whole else extent.next_offset // self.chunk_bytes
            if extent.data or hole_next <= max(hole_first, at):
                continue
            for chunk in range(at, hole_first):
                self._preserve_chunk(batch, source, chunk)
            at = max(at, hole_first)
            batch.add(FLAG_ZERO, at, hole_next - at, b"")
            at = hole_next
        for chunk in range(at, next_chunk):
            self._preserve_chunk(batch, source, chunk)

    def _preserve_chunk(self, batch: Batch, source: Source, chunk: int) -> None:
        data = bytearray(self.chunk_length(chunk))
        source.read_into(chunk * self.chunk_bytes, memoryview(data))
        batch.add_data(chunk, data)

    def adopt(self, chunks: Iterable[tuple[int, bytes | None]]) -> None:
        """Append chunks of a full copy that are not here yet; None: the chunk is lost.

        The copies count once `sync` returned.

        Raises:
            OSError: a read or write failed; what was not appended is not here.
        """
        with self._append_lock:
            batch = self._batch(any_room)
            for chunk, data in chunks:
                if data is None:
                    batch.add(FLAG_LOST, chunk, 1, b"")
                else:
                    batch.add_data(chunk, data)
            batch.flush()

    def merge(self, other: "Overlay", first: int, limit: int) -> int | None:
        """Copy up to `limit` chunks of `other`, from `first` on, that are not preserved here.

        Returns the chunk to go on with, or None at the end. The copies count once `sync` returned.
        """
        copied = 0
        end = min(other.chunks, self.chunks)
        with self._append_lock:
            batch = self._batch(any_room)
            at = first if other.unnamed_loss else other.first_set(first, end)
            while at < end and copied < limit:
                if not self._map.has(at):
                    self._copy_chunk(batch, other, at)
                    copied += 1
                at = at + 1 if other.unnamed_loss else other.first_set(at + 1, end)
            batch.flush()
        return at if at < end else None

    def _copy_chunk(self, batch: Batch, other: "Overlay", chunk: int) -> None:
        try:
            data = other.read(chunk, 0, self.chunk_length(chunk))
        except errors.DataCorrupt:
            batch.add(FLAG_LOST, chunk, 1, b"")
            return
        assert data is not None, "first_set said that the chunk is preserved"
        batch.add_data(chunk, data)

    def sync(self) -> None:
        """Make everything appended durable.

        Raises:
            StorageFailed: the sync failed, which is final (D3).
        """
        with self._sync_lock, ExitStack() as pins:
            if not self._pins.is_pinned_in(pins):
                return  # merged away, so nobody needs it
            end = self.end
            if self._failed_errno is None and end != self.synced_bytes:
                try:
                    self._file.sync()
                except OSError as error:
                    # The next sync might report success for pages that were dropped.
                    self._failed_errno = error.errno or errno.EIO
                else:
                    self.synced_bytes = end
            if self._failed_errno is not None:
                raise errors.StorageFailed(str(self._file.path), "sync", self._failed_errno)

    # -- reading -----------------------------------------------------------------------------

    @property
    def chunks(self) -> int:
        """How many chunks the volume had at the snapshot."""
        return -(-self.size // self.chunk_bytes)

    def chunk_length(self, chunk: int) -> int:
        """Return the bytes of a chunk; less than a whole one only at the end."""
        return min(self.chunk_bytes, self.size - chunk * self.chunk_bytes)

    def has(self, chunk: int) -> bool:
        """Tell whether the chunk is preserved (or zero, or lost) here."""
        return chunk < self.chunks and self._map.has(chunk)

    def first_set(self, first: int, next_chunk: int) -> int:
        """Return the first chunk of the half-open range that is preserved, or `next_chunk`."""
        end = min(next_chunk, self.chunks)
        found = self._map.first_set(first, end) if first < end else end
        return found if found < end else next_chunk

    def is_zero(self, chunk: int) -> bool | None:
        """Tell whether a preserved chunk is zeroes; None if it is not preserved.

        Raises:
            Retired: the overlay was merged away.
        """
        with self._pins.pinned():
            entry = self._map.get(chunk) if chunk < self.chunks else None
        return None if entry is None else bool(entry[1] & FLAG_ZERO)

    def read(self, chunk: int, start: int, length: int) -> bytes | None:
        """Return bytes of a preserved chunk, checked against its checksum, or None.

        Raises:
            DataCorrupt: the chunk is damaged.
            Retired: the overlay was merged away.
        """
        data = bytearray(length)
        return bytes(data) if self.read_into(chunk, start, memoryview(data)) else None

    def read_into(self, chunk: int, start: int, target: memoryview) -> bool:
        """Fill the target with bytes of a preserved chunk; False if it is not preserved.

        Raises:
            DataCorrupt: the chunk is damaged.
            Retired: the overlay was merged away.
        """
        if chunk >= self.chunks:
            return False
        with self._pins.pinned():
            try:
                return self._read(chunk, start, target, settled=False)
            except errors.DataCorrupt:
                # Its place may have been loaded in the middle of a store.
                return self._read(chunk, start, target, settled=True)

    def _read(self, chunk: int, start: int, target: memoryview, *, settled: bool) -> bool:
        entry = self._map.get(chunk, settled=settled)
        if entry is None:
            if self.unnamed_loss:
                raise self._corrupt(chunk, "records were lost that no other record names")
            return False
        offset, flags = entry
        if flags & FLAG_LOST:
            raise self._corrupt(chunk, "its record was damaged on disk")
        if flags & FLAG_ZERO:
            target[:] = bytes(len(target))
            return True
        data_bytes = self.chunk_length(chunk)
        raw = self._file.read(HEADER_BYTES + data_bytes, offset)
        record = codec.decode(raw[:HEADER_BYTES], self._uid, offset)
        if (
            record is None
            or record.flags
            or record.first != chunk
            or record.chunks != 1
            or record.data_bytes != data_bytes
        ):
            raise self._corrupt(chunk, f"the header at byte {offset} is not that of the chunk")
        data = memoryview(raw)[HEADER_BYTES:]
        if len(data) != data_bytes or crc32c(data) != record.data_crc:
            raise self._corrupt(chunk, f"the data at byte {record.data_offset} has another CRC")
        target[:] = data[start : start + len(target)]
        return True

    def _corrupt(self, chunk: int, detail: str) -> errors.DataCorrupt:
        return errors.DataCorrupt(f"chunk {chunk} of snapshot overlay {self._file.path}", detail)

    # -- the end -----------------------------------------------------------------------------

    def close(self) -> None:
        """Take no new reader; the files are let go when the last one is done."""
        self._pins.retire()

    def _close(self) -> None:
        self._map.close()
        self._file.close()

    def close_clean(self) -> None:
        """Close after everything was synced, so that the next start need not scan.

        Raises:
            OSError: the storage failed; the caller must not record a clean stop.
        """
        assert self.synced_bytes == self.end, "a clean stop syncs first"
        self._pins.retire_kept()
        if self._file.size() != self.end:
            self._file.resize(self.end)
            self._file.sync()
        if self.unnamed_loss:
            self._map.close()  # only a scan finds the loss again
        else:
            self._map.close_clean(self.end, self._previous)
        self._file.close()
