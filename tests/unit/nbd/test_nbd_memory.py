"""Memory of connections stays inside the allowances of the whole server."""

import threading

import pytest

from slackwater.nbd.memory import BASE_BYTES, COMFORTABLE_BYTES, Allowance, Space

NOTHING = slice(0, 0)


@pytest.fixture
def comfort() -> Allowance:
    return Allowance(COMFORTABLE_BYTES)


@pytest.fixture
def large() -> Allowance:
    return Allowance(8 << 20)


class TestAllowance:
    def test_bytes_are_taken_up_to_the_limit(self) -> None:
        allowance = Allowance(10)
        assert allowance.try_take(6)
        assert not allowance.try_take(5)
        assert allowance.take(4)
        allowance.give(10)
        assert allowance.used == 0

    def test_taker_waits_until_bytes_come_back(self) -> None:
        allowance = Allowance(10)
        assert allowance.take(10)
        taken = threading.Event()

        def take() -> None:
            if allowance.take(1):
                taken.set()

        thread = threading.Thread(target=take)
        thread.start()
        assert not taken.is_set()
        allowance.give(10)
        assert taken.wait(10)
        thread.join(10)

    def test_closing_wakes_a_waiter_with_nothing(self) -> None:
        allowance = Allowance(10)
        allowance.take(10)
        results: list[bool] = []
        thread = threading.Thread(target=lambda: results.append(allowance.take(1)))
        thread.start()
        allowance.close()
        thread.join(10)
        assert results == [False]

    def test_more_than_all_is_a_programmers_error(self) -> None:
        with pytest.raises(AssertionError):
            Allowance(10).take(11)

    def test_giving_more_than_was_taken_is_a_programmers_error(self) -> None:
        with pytest.raises(AssertionError):
            Allowance(10).give(1)


class TestSpace:
    def test_starts_small_and_takes_nothing(self, comfort: Allowance, large: Allowance) -> None:
        space = Space(comfort, large)
        assert space.capacity == BASE_BYTES
        assert (comfort.used, large.used) == (0, 0)

    def test_stretching_keeps_the_bytes_asked_for(
        self, comfort: Allowance, large: Allowance
    ) -> None:
        space = Space(comfort, large)
        space.view[10:13] = b"abc"
        assert space.stretch(slice(10, 13))
        assert (space.capacity, bytes(space.view[:3])) == (COMFORTABLE_BYTES, b"abc")
        assert not space.stretch(NOTHING)

    def test_second_space_does_not_wait_for_comfort(
        self, comfort: Allowance, large: Allowance
    ) -> None:
        first, second = Space(comfort, large), Space(comfort, large)
        assert first.stretch(NOTHING)
        assert not second.stretch(NOTHING)
        assert second.reserve(1 << 20, NOTHING)
        assert second.is_borrowed
        assert (second.capacity, large.used) == (1 << 20, 1 << 20)

    def test_reserving_within_capacity_changes_nothing(
        self, comfort: Allowance, large: Allowance
    ) -> None:
        space = Space(comfort, large)
        assert space.reserve(BASE_BYTES, NOTHING)
        assert space.capacity == BASE_BYTES

    def test_reserving_a_comfortable_amount_stretches(
        self, comfort: Allowance, large: Allowance
    ) -> None:
        space = Space(comfort, large)
        assert space.reserve(BASE_BYTES + 1, NOTHING)
        assert (space.capacity, space.is_borrowed) == (COMFORTABLE_BYTES, False)

    def test_large_reservation_gives_comfort_back_and_holds_exactly_the_amount(
        self, comfort: Allowance, large: Allowance
    ) -> None:
        space = Space(comfort, large)
        space.stretch(NOTHING)
        space.view[:2] = b"ab"
        assert space.reserve(5 << 20, slice(0, 2))
        assert (space.capacity, bytes(space.view[:2])) == (5 << 20, b"ab")
        assert (comfort.used, large.used) == (0, 5 << 20)

    def test_relaxing_gives_everything_back(self, comfort: Allowance, large: Allowance) -> None:
        space = Space(comfort, large)
        space.reserve(5 << 20, NOTHING)
        space.relax()
        assert (space.capacity, large.used) == (BASE_BYTES, 0)
        space.relax()
        assert space.capacity == BASE_BYTES

    def test_borrower_never_waits_for_what_it_holds(
        self, comfort: Allowance, large: Allowance
    ) -> None:
        space = Space(comfort, large)
        space.reserve(5 << 20, NOTHING)
        with pytest.raises(AssertionError):
            space.reserve(6 << 20, NOTHING)

    def test_closing_gives_everything_back_once(self, comfort: Allowance, large: Allowance) -> None:
        space = Space(comfort, large)
        space.stretch(NOTHING)
        space.close()
        space.close()
        assert comfort.used == 0

    def test_reservation_fails_once_the_server_closes(
        self, comfort: Allowance, large: Allowance
    ) -> None:
        large.close()
        assert not Space(comfort, large).reserve(5 << 20, NOTHING)
