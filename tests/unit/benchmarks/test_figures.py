"""What the benchmarks make of their samples."""

from benchmarks.figures import grown, percentiles, ratios


def test_percentiles_are_those_of_the_nearest_rank() -> None:
    assert percentiles([float(one) for one in range(100, 0, -1)]) == {
        "p50": 50.0, "p99": 99.0, "max": 100.0,
    }  # fmt: skip
    assert percentiles([3.0]) == {"p50": 3.0, "p99": 3.0, "max": 3.0}
    assert percentiles([]) == {"p50": 0.0, "p99": 0.0, "max": 0.0}


def test_growth_is_told_against_the_smallest_case() -> None:
    medians = {"1 GiB": 2.0, "10 GiB": 4.0, "100 GiB": 4.1}
    assert grown(medians, 2.0) == ["at 100 GiB: 4.1 ms, 2.0 ms at 1 GiB"]
    assert grown(dict(reversed(medians.items())), 2.0) == []


def test_ratios_are_to_the_first() -> None:
    assert ratios({"0": 200.0, "1": 100.0, "10": 300.0}) == {"0": 1.0, "1": 0.5, "10": 1.5}
