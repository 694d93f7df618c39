"""Retention whatever was made when: nothing good goes that a rule names, and little else stays."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from services.snapshot.retention.rules import Entry, keep
from slackwater.v1 import snapshot_pb2

moments = st.floats(0, 4e9, allow_nan=False) | st.integers(1_767_000_000, 1_767_900_000).map(float)
entries = st.lists(st.tuples(moments, st.booleans()), max_size=60).map(
    lambda rows: [Entry(str(number), made, good) for number, (made, good) in enumerate(rows)]
)
limits = st.integers(0, 6)
rules = st.builds(
    snapshot_pb2.Retention,
    keep_last=limits,
    keep_hourly=limits,
    keep_daily=limits,
    keep_weekly=limits,
)


@given(entries, rules)
def test_the_newest_good_one_always_stays(
    rows: list[Entry], wanted: snapshot_pb2.Retention
) -> None:
    good = [row for row in rows if row.is_good]
    has_rule = any((wanted.keep_last, wanted.keep_hourly, wanted.keep_daily, wanted.keep_weekly))
    if good and has_rule:
        newest = max(good, key=lambda row: (row.made, row.key))
        assert newest.key in keep(rows, wanted)


@given(entries, rules)
def test_no_more_stays_than_the_rules_name(
    rows: list[Entry], wanted: snapshot_pb2.Retention
) -> None:
    most = wanted.keep_last + wanted.keep_hourly + wanted.keep_daily + wanted.keep_weekly
    found = keep(rows, wanted)
    for is_good in (True, False):
        assert sum(row.key in found for row in rows if row.is_good is is_good) <= most
    assert found.keys() <= {row.key for row in rows}


@given(entries, rules)
def test_what_stays_stays_when_the_others_are_gone(
    rows: list[Entry], wanted: snapshot_pb2.Retention
) -> None:
    found = keep(rows, wanted)
    assert keep([row for row in rows if row.key in found], wanted) == found


@given(entries, rules, rules)
def test_another_rule_takes_nothing_away(
    rows: list[Entry], wanted: snapshot_pb2.Retention, more: snapshot_pb2.Retention
) -> None:
    both = snapshot_pb2.Retention(
        keep_last=max(wanted.keep_last, more.keep_last),
        keep_hourly=max(wanted.keep_hourly, more.keep_hourly),
        keep_daily=max(wanted.keep_daily, more.keep_daily),
        keep_weekly=max(wanted.keep_weekly, more.keep_weekly),
    )
    assert keep(rows, wanted).keys() <= keep(rows, both).keys()


@given(entries, st.integers(1, 6))
def test_the_newest_of_each_of_the_newest_days_stays(rows: list[Entry], days: int) -> None:
    """By another way to count days."""
    found = keep(rows, snapshot_pb2.Retention(keep_daily=days))
    good = [row for row in rows if row.is_good]
    newest: dict[str, tuple[float, str]] = {}
    for row in good:
        day = datetime.fromtimestamp(row.made, UTC).strftime("%Y-%m-%d")
        newest[day] = max(newest.get(day, (-1.0, "")), (row.made, row.key))
    wanted = {newest[day][1] for day in sorted(newest, reverse=True)[:days]}
    assert {row.key for row in good if row.key in found} == wanted


@given(entries, rules)
def test_the_order_they_come_in_is_of_no_matter(
    rows: list[Entry], wanted: snapshot_pb2.Retention
) -> None:
    assert keep(rows, wanted) == keep(rows[::-1], wanted)
