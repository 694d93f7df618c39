"""What `make bench-snapshots` holds its figures to."""

from typing import Any

from benchmarks.snapshots import goals


def report(
    slow: float = 1.9, kept: float = 1.0, times: float = 1.5, maps: float = 0.99
) -> dict[str, Any]:
    reading = {"1 MiB sequential": {"times_alone": times, "times_volume": times}}
    return {
        "creating_ms": {"1 GiB": {"p50": 1.0}, "100 GiB": {"p50": slow}},
        "applying": {"0": {"preserves_per_chunk": 0.0}, "1": {"preserves_per_chunk": kept}},
        "reading_direct": reading,
        "reading_nbd": reading,
        "maps": {"bytes_per_chunk_and_snapshot": maps},
    }


def missed(**figures: float) -> list[str]:
    return [goal["what"] for goal in goals(report(**figures)) if not goal["met"]]


def test_figures_within_their_limits_are_reached() -> None:
    assert missed() == []


def test_each_figure_past_its_limit_is_missed() -> None:
    assert missed(slow=2.1) == ["creating, largest to smallest"]
    assert missed(kept=1.01) == ["preserves a chunk"]
    assert len(missed(times=1.51)) == 3
    assert missed(maps=1.01) == ["map bytes a chunk and snapshot"]
