"""Extents and the clock that tests own."""

import time

import pytest

from slackwater.clock import ManualClock, SystemClock
from slackwater.extent import Extent


def test_extent_is_half_open() -> None:
    assert Extent(512, 1024, data=True).next_offset == 1536


def test_manual_clock_moves_only_when_told() -> None:
    clock = ManualClock(monotonic=5.0, time_ns=100)
    assert (clock.monotonic(), clock.time_ns()) == (5.0, 100)
    clock.advance(1.5)
    assert (clock.monotonic(), clock.time_ns()) == (6.5, 1_500_000_100)


def test_manual_clock_never_goes_back() -> None:
    with pytest.raises(AssertionError):
        ManualClock().advance(-1)


def test_system_clock_reads_the_machine() -> None:
    clock = SystemClock()
    assert clock.monotonic() <= time.monotonic()
    assert clock.time_ns() <= time.time_ns()
