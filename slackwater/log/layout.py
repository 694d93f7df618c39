"""Layout: which write puts which records into which segment."""

from collections.abc import Sequence
from typing import NamedTuple

from slackwater.log.run import Run
from slackwater.log.segment import MIN_SEAL_BYTES
from slackwater.position import Position
from slackwater.record import Buffer


class Step(NamedTuple):
    """What one gathered write puts into one segment: whole records."""

    lap: int
    offset: int
    pieces: list[Buffer]
    size: int
    last: Position


def lay_out(
    runs: Sequence[Run], offset: int, segment_end: int, capacity: int, *, window: int
) -> list[Step]:
    """Lay records out from a log offset on, over segments, in writes that each fit the window.

    A record never crosses a segment's end, and never leaves 1 to 7 bytes before it, which no
    padding could fill.
    """
    steps: list[Step] = []
    at = offset
    for run in runs:
        start = taken = 0
        step_at, last = at, None
        for size, position in run.records():
            assert size <= min(capacity - MIN_SEAL_BYTES, window), "a record fits a segment"
            left = segment_end - at - size
            full = left < MIN_SEAL_BYTES and left != 0
            if full or at + size - step_at > window:
                if last is not None:
                    steps.append(_step(segment_end, capacity, step_at, run, start, taken, last))
                if full:
                    at, segment_end = segment_end, segment_end + capacity
                start, step_at = taken, at
            taken += size
            at += size
            last = position
        assert last is not None, "a run has a record"
        assert taken == run.size, "a run is whole records"
        steps.append(_step(segment_end, capacity, step_at, run, start, taken, last))
    return steps


def _step(
    segment_end: int, capacity: int, at: int, run: Run, start: int, end: int, last: Position
) -> Step:
    # By the segment's end, not by the offset: one exactly at the end still belongs to the segment.
    lap = segment_end // capacity - 1
    return Step(lap, at, run.cut(start, end), end - start, last)
