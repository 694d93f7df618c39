"""Reading a volume as it was at a snapshot, while the applier goes on writing.

No lock is shared with the applier. The volume is read first and the maps of the chain are looked at
afterwards; the applier sets a chunk's entry before it writes the volume, so whoever finds no entry
holds bytes from before the write. The chain itself is loaded after the volume is read too: a
snapshot that is newer than the chain could have taken the chunk in its stead.
"""

import uuid
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from slackwater import errors
from slackwater.extent import Extent
from slackwater.snapshots.overlay import Overlay, Retired, Source

_STEP_BYTES: Final = 1 << 20
_EXTENT_STEP_BYTES: Final = 64 << 20


class View(Protocol):
    """What the reader asks the catalogue for, at every read anew."""

    def chain(self, snapshot_uid: uuid.UUID, volume_id: int) -> Sequence[Overlay]:
        """Return the overlays to look at in order: the snapshot's own, then newer ones'.

        Raises:
            NotFound: the snapshot is gone.
            FailedPrecondition: it cannot be read yet (D22).
        """
        ...


class SnapshotVolume:
    """One volume of one snapshot, read-only; any number of threads may read."""

    def __init__(
        self,
        view: View,
        source: Source,
        snapshot_uid: uuid.UUID,
        volume_id: int,
        size: int,
        chunk_bytes: int,
    ) -> None:
        """Keep the parts; nothing is opened."""
        self.size = size
        self.chunk_bytes = chunk_bytes
        self._view = view
        self._source = source
        self._snapshot_uid = snapshot_uid
        self._volume_id = volume_id

    def read(self, length: int, offset: int) -> bytes:
        """Return the bytes of a range within the volume.

        Raises:
            OutOfRange: the range reaches past the end.
            DataCorrupt: a chunk of the range is damaged.
            NotFound: the snapshot was deleted.
            FailedPrecondition: the replica has not caught up with the snapshot after a crash.
        """
        self._check(offset, length)
        pieces = []
        at, end = offset, offset + length
        while at < end:
            step_end = min(end, (at // _STEP_BYTES + 1) * _STEP_BYTES)
            pieces.append(self._read_step(at, step_end))
            at = step_end
        return b"".join(pieces)

    def _read_step(self, start: int, end: int) -> bytes:
        while True:
            try:
                return self._read_once(start, end)
            except Retired:
                continue  # a merge ended between loading the chain and using it

    def _read_once(self, start: int, end: int) -> bytes:
        data = bytearray(end - start)
        if not self._is_preserved(start, end):
            self._source.read_into(start, memoryview(data))
        chain = self._view.chain(self._snapshot_uid, self._volume_id)
        for chunk in range(start // self.chunk_bytes, -(-end // self.chunk_bytes)):
            chunk_start = chunk * self.chunk_bytes
            first, last = max(start, chunk_start), min(end, chunk_start + self.chunk_bytes)
            for overlay in chain:
                found = overlay.read(chunk, first - chunk_start, last - first)
                if found is not None:
                    data[first - start : last - start] = found
                    break
        return bytes(data)

    def _is_preserved(self, start: int, end: int) -> bool:
        """Tell whether the snapshot's own overlay has it all, as it then has for good."""
        own = self._view.chain(self._snapshot_uid, self._volume_id)[0]
        first, next_chunk = start // self.chunk_bytes, -(-end // self.chunk_bytes)
        try:
            return all(own.has(chunk) for chunk in range(first, next_chunk))
        except ValueError as error:  # its map was let go: it was merged away just now
            raise Retired from error

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """Yield data and holes that cover the range exactly, neighbours of a kind merged.

        Raises:
            OutOfRange, NotFound, FailedPrecondition: as `read`.
        """
        self._check(offset, length)
        pending: Extent | None = None
        at, end = offset, offset + length
        while at < end:
            step_end = min(end, (at // _EXTENT_STEP_BYTES + 1) * _EXTENT_STEP_BYTES)
            for extent in self._extents_step(at, step_end):
                if pending is not None and pending.data is extent.data:
                    pending = Extent(pending.offset, pending.length + extent.length, extent.data)
                    continue
                if pending is not None:
                    yield pending
                pending = extent
            at = step_end
        if pending is not None:
            yield pending

    def _extents_step(self, start: int, end: int) -> list[Extent]:
        while True:
            try:
                return self._extents_once(start, end)
            except Retired:
                continue

    def _extents_once(self, start: int, end: int) -> list[Extent]:
        below = list(self._source.extents(start, end - start))
        chain = self._view.chain(self._snapshot_uid, self._volume_id)
        result: list[Extent] = []
        index = 0
        for chunk in range(start // self.chunk_bytes, -(-end // self.chunk_bytes)):
            first = max(start, chunk * self.chunk_bytes)
            last = min(end, (chunk + 1) * self.chunk_bytes)
            zero = next(
                (found for overlay in chain if (found := overlay.is_zero(chunk)) is not None), None
            )
            if zero is not None:
                result.append(Extent(first, last - first, not zero))
                continue
            while index < len(below) and below[index].next_offset <= first:
                index += 1
            at, scan = first, index
            while at < last:
                piece = below[scan] if scan < len(below) else Extent(at, last - at, False)
                piece_end = min(last, piece.next_offset)
                result.append(Extent(at, piece_end - at, piece.data))
                at, scan = piece_end, scan + 1
        return result

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise errors.OutOfRange(
                "offset", f"{length} bytes at {offset} reach past the volume's {self.size} bytes"
            )
