"""What many samples come to."""

from collections.abc import Sequence


def percentiles(samples: Sequence[float]) -> dict[str, float]:
    """The median, the 99th percentile and the largest of what was measured, in its own unit."""
    if not samples:
        return {"p50": 0.0, "p99": 0.0, "max": 0.0}
    ordered = sorted(samples)

    def at(share: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))], 2)

    return {"p50": at(0.5), "p99": at(0.99), "max": round(ordered[-1], 2)}
