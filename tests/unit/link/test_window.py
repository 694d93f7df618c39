"""What is in flight, counted in bytes."""

import pytest

from slackwater import errors
from slackwater.link.actions import Cursor
from slackwater.link.window import SyncWindow, Window
from slackwater.position import LogPoint, Position


def point(lsn: int) -> LogPoint:
    return LogPoint(lsn * 100, Position(1, lsn, lsn))


def window(*ends: int, size: int = 100) -> Window:
    made = Window(point(0), window_bytes=1000, small_bytes=200, messages=3)
    for end in ends:
        made.push(point(end), size, end)
    return made


def test_ack_frees_whole_slices_and_moves_acked() -> None:
    made = window(2, 4, 6)
    assert made.ack(Position(1, 5, 99)), "an ack may fall inside a slice"
    assert (made.acked, made.in_flight_bytes, made.oldest_time_ns) == (point(4), 100, 6)
    assert not made.ack(Position(1, 5, 99))
    assert not made.ack(Position(1, 3, 1)), "an older ack means nothing"


def test_ack_of_what_was_never_sent_is_another_history() -> None:
    with pytest.raises(errors.Diverged):
        window(2).ack(Position(1, 3, 3))


def test_ack_with_another_chain_is_another_history() -> None:
    with pytest.raises(errors.Diverged):
        window(2, 4).ack(Position(1, 2, 77))


def test_small_slices_are_limited_in_number_large_ones_in_bytes() -> None:
    assert window(1, 2).has_room()
    assert not window(1, 2, 3).has_room()
    assert window(1, 2, 3, size=200).has_room()
    assert not window(1, 2, 3, 4, 5, size=200).has_room()
    assert window().has_room()


def test_one_slice_larger_than_the_window_fits() -> None:
    assert Window(point(0), 10, 5, 3).has_room()


def test_rewind_forgets_what_was_not_taken() -> None:
    made = window(2, 4, 6)
    assert made.rewind(point(4).position) == 1
    assert made.sent == point(4)
    assert made.rewind(Position(1, 0, 0)) == 2
    assert (made.sent, made.in_flight_bytes) == (point(0), 0)


def test_empty_slice_is_a_programmers_error() -> None:
    with pytest.raises(AssertionError):
        window(2).push(point(2), 1, 0)


def test_regions_are_acked_in_order_and_count_as_done() -> None:
    sync = SyncWindow(b"x", Cursor(), 300)
    assert sync.push(Cursor(1, 100), 50, 100) == 1
    assert sync.push(Cursor(1, 200), 70, 100) == 2
    assert sync.in_flight_bytes == 120
    sync.ack(1)
    assert (sync.in_flight_bytes, sync.done_bytes) == (70, 100)
    sync.ack(9)
    assert (sync.in_flight_bytes, sync.done_bytes) == (0, 200)
