"""Reading a volume as it was at a snapshot, while the applier goes on writing.

No lock is shared with the applier. The volume is read first and the maps of the chain are looked at
afterwards; the applier sets a chunk's entry before it writes the volume, so whoever finds no entry
holds bytes from before the write. The chain itself is loaded after the volume is read too: a
snapshot that is newer than the chain could have taken the chunk in its stead. A chunk that is found
in a map beforehand is preserved for good, so the volume is not read for it.

Which overlay has a chunk is told by a bit of each, whole ranges at a time, without asking overlays
one by one for each chunk.
"""

import threading
import uuid
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from slackwater import errors
from slackwater.extent import Extent
from slackwater.snapshots.overlay import Overlay, Source
from slackwater.snapshots.pins import Retired

_STEP_BYTES: Final = 1 << 20
_EXTENT_STEP_BYTES: Final = 64 << 20
_SMALL_BYTES: Final = 64 << 10


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
        data = _scratch(end - start)
        first, next_chunk = start // self.chunk_bytes, -(-end // self.chunk_bytes)
        owners = find_owners(self._chain(), first, next_chunk)
        looked_through = [chunk for chunk in range(first, next_chunk) if chunk not in owners]
        if looked_through:
            for run_first, run_next in _runs(looked_through):
                at = max(start, run_first * self.chunk_bytes)
                stop = min(end, run_next * self.chunk_bytes)
                self._source.read_into(at, data[at - start : stop - start])
            # Those that are preserved by now may have been read too late.
            owners |= find_owners(self._chain(), first, next_chunk)
        for chunk, overlay in owners.items():
            chunk_start = chunk * self.chunk_bytes
            at, stop = max(start, chunk_start), min(end, chunk_start + self.chunk_bytes)
            target = data[at - start : stop - start]
            if not overlay.read_into(chunk, at - chunk_start, target):
                raise AssertionError("a chunk that is preserved stays so")
        return bytes(data)

    def _chain(self) -> Sequence[Overlay]:
        return self._view.chain(self._snapshot_uid, self._volume_id)

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
        next_chunk = -(-end // self.chunk_bytes)
        owners = find_owners(self._chain(), start // self.chunk_bytes, next_chunk, damaged=False)
        result: list[Extent] = []
        index = 0
        for chunk in range(start // self.chunk_bytes, next_chunk):
            first = max(start, chunk * self.chunk_bytes)
            last = min(end, (chunk + 1) * self.chunk_bytes)
            owner = owners.get(chunk)
            if owner is not None:
                zero = owner.is_zero(chunk)
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


class _Scratch(threading.local):
    """Where a thread puts a step together; memory that is new each time costs more than to read."""

    def __init__(self) -> None:
        self.bytes = memoryview(bytearray(_STEP_BYTES))


def _scratch(length: int) -> memoryview:
    if length <= _SMALL_BYTES:
        return memoryview(bytearray(length))
    return _OF_THREAD.bytes[:length]


_OF_THREAD: Final = _Scratch()


def find_owners(
    chain: Sequence[Overlay], first: int, next_chunk: int, *, damaged: bool = True
) -> dict[int, Overlay]:
    """Return which overlay shows each chunk of the half-open range; the volume shows the others.

    With `damaged`, an overlay that may have held any chunk, no one knows which, owns all that is
    left, so that reading from it says so.

    Raises:
        Retired: an overlay was merged away; look at the chain again.
    """
    low, high = first >> 3, (next_chunk + 7) >> 3
    base = 8 * low
    pending = (1 << (next_chunk - base)) - (1 << (first - base))
    owners: dict[int, Overlay] = {}
    try:
        for overlay in chain:
            if damaged and overlay.unnamed_loss:
                hit = pending
            elif high - low == 1:
                hit = overlay.held[low] & pending
            else:
                hit = int.from_bytes(overlay.held[low:high], "little") & pending
            if hit:
                pending &= ~hit
                while hit:
                    lowest = hit & -hit
                    owners[base + lowest.bit_length() - 1] = overlay
                    hit ^= lowest
                if not pending:
                    break
    except ValueError as error:  # its map was let go: it was merged away just now
        raise Retired from error
    return owners


def _runs(chunks: Sequence[int]) -> list[tuple[int, int]]:
    """Return ascending chunks as half-open ranges."""
    runs: list[tuple[int, int]] = []
    for chunk in chunks:
        if runs and runs[-1][1] == chunk:
            runs[-1] = (runs[-1][0], chunk + 1)
        else:
            runs.append((chunk, chunk + 1))
    return runs
