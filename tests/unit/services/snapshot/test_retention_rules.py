"""Which snapshots are kept: examples; tests/property has the invariants."""

from services.snapshot.retention.rules import Entry, keep
from slackwater.v1 import snapshot_pb2

MIDNIGHT = 1_767_225_600.0  # 2026-01-01, a Thursday
HOUR, DAY = 3600.0, 86_400.0


def kept(*made: float, bad: tuple[float, ...] = (), **rules: int) -> dict[float, list[str]]:
    """What is kept of snapshots made at these times, by time."""
    rows = {f"{number}": moment for number, moment in enumerate((*made, *bad))}
    entries = [
        Entry(key, moment, number < len(made)) for number, (key, moment) in enumerate(rows.items())
    ]
    found = keep(entries, snapshot_pb2.Retention(**rules))
    return {rows[key]: words for key, words in found.items()}


def test_the_newest_are_kept() -> None:
    assert kept(1.0, 2.0, 3.0, keep_last=2) == {2.0: ["last"], 3.0: ["last"]}


def test_the_newest_of_each_hour_day_and_week_is_kept() -> None:
    made = [MIDNIGHT + hour * HOUR + minute * 60 for hour in range(3) for minute in (0, 30)]
    assert list(kept(*made, keep_hourly=2)) == [made[5], made[3]]
    days = [MIDNIGHT + day * DAY + hour * HOUR for day in range(3) for hour in (1, 20)]
    assert list(kept(*days, keep_daily=2)) == [days[5], days[3]]
    weeks = [MIDNIGHT + day * DAY for day in range(14)]
    # Sunday the 11th ends a week of which the 14th has begun the next.
    assert list(kept(*weeks, keep_weekly=2)) == [weeks[13], weeks[10]]


def test_periods_without_a_snapshot_do_not_count() -> None:
    made = [MIDNIGHT, MIDNIGHT + 40 * DAY]
    assert list(kept(*made, keep_daily=2)) == [made[1], made[0]]


def test_one_snapshot_may_be_kept_by_several_rules() -> None:
    assert kept(MIDNIGHT, keep_last=1, keep_daily=1) == {MIDNIGHT: ["last", "daily"]}


def test_failures_do_not_push_a_good_one_out() -> None:
    bad = (MIDNIGHT + HOUR, MIDNIGHT + 2 * HOUR, MIDNIGHT + 3 * HOUR)
    found = kept(MIDNIGHT, bad=bad, keep_last=1)
    assert sorted(found) == [MIDNIGHT, MIDNIGHT + 3 * HOUR]
