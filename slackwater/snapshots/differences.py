"""Which ranges of a volume may differ between a snapshot and something newer, from the index alone.

A chunk that changed after the older snapshot and before the newer one is in an overlay of the chain
from the one up to the other: its own, or one between them that came since, going ones too. A chunk
in none of them did not change. The chain is loaded anew for each window and the whole window told
from one chain, so that a merge that moves chunks between overlays meanwhile hides none.
"""

from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from slackwater import errors
from slackwater.extent import Extent
from slackwater.group.rows import SnapshotRow
from slackwater.snapshots.feed import Entry
from slackwater.snapshots.making import READY
from slackwater.snapshots.overlay import Overlay
from slackwater.snapshots.pins import Retired

WINDOW_BYTES: Final = 64 << 20
_PAGE_WINDOWS: Final = 256


class View(Protocol):
    """What is asked of the catalogue."""

    def entries(self) -> Sequence[Entry]:
        """Return the whole chain, oldest first, with those that are going."""
        ...


class Target(Protocol):
    """The newer side."""

    @property
    def size(self) -> int:
        """Bytes in the volume."""
        ...

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """Yield data and holes of a range."""
        ...


class Differences:
    """What may differ in one volume between `older` and `newer`."""

    def __init__(
        self,
        view: View,
        older: SnapshotRow | None,
        newer: SnapshotRow | None,
        volume_id: int,
        target: Target,
    ) -> None:
        """Tell what changed since `older`; without it, what is allocated in `target`.

        Without `newer` the target is the replica as applied now.

        Raises:
            InvalidRequest: `older` is not the older one.
        """
        self._view = view
        self._older = older
        self._newer = newer
        self._volume_id = volume_id
        self._target = target
        self.size = target.size
        sizes = [] if older is None else [size for of, _, size in older.volumes if of == volume_id]
        self._older_size = sizes[0] if sizes else 0
        """0: the volume is younger than `older`, so all of it is new."""
        if older is not None:
            self._between(older)

    def page(self, offset: int, limit: int) -> tuple[list[Extent], int]:
        """Return some ranges from `offset` on, and the byte up to which everything is told.

        Raises:
            OutOfRange: the offset lies past the end.
            NotFound: a snapshot is gone.
        """
        if not 0 <= offset <= self.size:
            raise errors.OutOfRange("offset", f"{offset} lies past the volume's {self.size} bytes")
        found: list[Extent] = []
        at = offset
        for _ in range(_PAGE_WINDOWS):
            if at >= self.size:
                break
            end = min(self.size, (at // WINDOW_BYTES + 1) * WINDOW_BYTES)
            for extent in self._window(at, end):
                if found and _continues(found[-1], extent):
                    last = found[-1]
                    found[-1] = Extent(last.offset, last.length + extent.length, last.data)
                elif len(found) == limit:
                    return found, found[-1].next_offset
                else:
                    found.append(extent)
            at = end
        return found, at

    def _window(self, start: int, end: int) -> Iterator[Extent]:
        if self._older is None:
            yield from (one for one in self._target.extents(start, end - start) if one.data)
            return
        for first, next_byte in self._changed(self._older, start, end):
            yield from self._target.extents(first, next_byte - first)

    def _changed(self, older: SnapshotRow, start: int, end: int) -> list[tuple[int, int]]:
        """Return the byte ranges that may have changed, ascending, apart from each other."""
        size = older.chunk_bytes
        first, next_chunk = start // size, -(-end // size)
        while True:
            marks = bytearray(next_chunk - first)
            try:
                for overlay in self._between(older):
                    _mark(overlay, first, marks)
            except Retired:
                continue  # a merge ended meanwhile: its chunks are in another overlay now
            break
        grown = max(self._older_size // size, first)
        if self._older_size < end:
            marks[grown - first :] = b"\1" * (next_chunk - grown)
        ranges: list[tuple[int, int]] = []
        at = marks.find(1)
        while at >= 0:
            stop = marks.find(0, at)
            stop = len(marks) if stop < 0 else stop
            ranges.append((max(start, (first + at) * size), min(end, (first + stop) * size)))
            at = marks.find(1, stop)
        return ranges

    def _between(self, older: SnapshotRow) -> list[Overlay]:
        """Return the overlays that hold what changed from `older` to `newer`."""
        chain = self._view.entries()
        begin = _place(chain, older)
        end = len(chain) if self._newer is None else _place(chain, self._newer)
        if end < begin:
            raise errors.InvalidRequest(
                "older", f"snapshot {older.name!r} is newer than the other", "Change their places"
            )
        number = self._volume_id
        return [entry.overlays[number] for entry in chain[begin:end] if number in entry.overlays]


def _place(chain: Sequence[Entry], row: SnapshotRow) -> int:
    for index, entry in enumerate(chain):
        if entry.row.uid == row.uid and entry.row.state == READY:
            return index
    raise errors.NotFound("snapshot", row.name, "It was removed or refreshed meanwhile")


def _mark(overlay: Overlay, first: int, marks: bytearray) -> None:
    """Mark the chunks that the overlay holds, or may have held."""
    end = first + len(marks)
    if overlay.unnamed_loss:
        marks[:] = b"\1" * len(marks)  # any chunk may have been the one that rotted
        return
    try:
        at = overlay.first_set(first, end)
        while at < end:
            marks[at - first] = 1
            at = overlay.first_set(at + 1, end)
    except ValueError as error:  # its map was let go: it was merged away just now
        raise Retired from error


def _continues(before: Extent, after: Extent) -> bool:
    return before.next_offset == after.offset and before.data is after.data
