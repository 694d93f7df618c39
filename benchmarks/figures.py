"""What many samples come to."""

import math
from collections.abc import Mapping, Sequence


def percentiles(samples: Sequence[float]) -> dict[str, float]:
    """The median, the 99th percentile (nearest rank) and the largest, in the samples' unit."""
    if not samples:
        return {"p50": 0.0, "p99": 0.0, "max": 0.0}
    ordered = sorted(samples)

    def at(share: float) -> float:
        return round(ordered[math.ceil(len(ordered) * share) - 1], 2)

    return {"p50": at(0.5), "p99": at(0.99), "max": round(ordered[-1], 2)}


def grown(medians: Mapping[str, float], limit: float) -> list[str]:
    """Where a median is more than `limit` times the first one, which is the smallest case's."""
    first = next(iter(medians.values()))
    return [
        f"at {name}: {median} ms, {first} ms at {next(iter(medians))}"
        for name, median in medians.items()
        if median > limit * first
    ]


def ratios(rates: Mapping[str, float]) -> dict[str, float]:
    """Return each rate as a multiple of the first one."""
    first = next(iter(rates.values()))
    return {name: round(rate / first, 3) for name, rate in rates.items()}
