"""Runs: whole records in order, as the buffers that hold them.

The Primary makes a run of heads and payloads, two buffers a record and nothing copied; the
Secondary has one buffer with the whole slice, and the views its check of the chain left behind.
What the log needs from either is the same: the buffers, the sum of their bytes, the last position,
and, only where a segment ends in the middle of a run, the size and position of each record.
"""

from collections.abc import Iterable, Sequence

from slackwater.position import Position
from slackwater.record import Buffer, RecordView


class Run:
    """Whole records that continue each other.

    Invariant: the pieces, back to back, are exactly the framed records.
    """

    __slots__ = ("_records", "_views", "first_lsn", "last", "pieces", "size")

    def __init__(self, pieces: Sequence[Buffer], records: Sequence[tuple[int, Position]]) -> None:
        """Take the buffers, and (framed size, position) of each record in them."""
        assert records, "a run has a record"
        self.pieces = pieces
        self._records: Sequence[tuple[int, Position]] | None = records
        self._views: Sequence[RecordView] = ()
        self.size = sum([record[0] for record in records])
        self.first_lsn = records[0][1].lsn
        self.last = records[-1][1]

    @classmethod
    def of_views(cls, buffer: Buffer, views: Sequence[RecordView]) -> "Run":
        """Return a run of records that lie back to back in one buffer."""
        assert views, "a run has a record"
        first, last = views[0], views[-1]
        run = cls.__new__(cls)
        run.pieces = (memoryview(buffer)[first.start : last.end],)
        run._records = None
        run._views = views
        run.size = last.end - first.start
        run.first_lsn = first.lsn
        run.last = last.position
        return run

    def records(self) -> Iterable[tuple[int, Position]]:
        """Yield (framed size, position) of each record."""
        if self._records is not None:
            return self._records
        return ((view.end - view.start, view.position) for view in self._views)

    def cut(self, start: int, end: int) -> list[Buffer]:
        """Return the buffers of bytes `start` to `end` of the run, without copying."""
        if start == 0 and end == self.size:
            return list(self.pieces)
        out: list[Buffer] = []
        at = 0
        for piece in self.pieces:
            first, last = max(start - at, 0), min(end - at, len(piece))
            if first < last:
                whole = first == 0 and last == len(piece)
                out.append(piece if whole else memoryview(piece)[first:last])
            at += len(piece)
            if at >= end:
                break
        return out
