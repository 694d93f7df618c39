"""A histogram cheap enough for the data path: one bisect and two additions per observation.

Only the thread that leads a commit (or the one applier) observes; readers take a copy.  The
runtime's collector turns it into a Prometheus histogram at scrape time.
"""

from bisect import bisect_left
from collections.abc import Sequence

SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
"""Upper bounds in seconds that suit a sync of a log, a write, a fence and a freeze."""


class Histogram:
    """Counts of observations per bucket, in base units (seconds, bytes).

    Invariant: ``len(counts) == len(bounds) + 1``; the last bucket has no upper bound.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        """Return Prometheus' view: (upper bound as text, observations at or below it)."""
        result: list[tuple[str, float]] = []
        running = 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            running += count
            result.append((bound, float(running)))
        return result
