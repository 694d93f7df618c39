"""When schedules are due: arithmetic on minutes, with clocks that jump."""

import pytest

from services.snapshot.schedules import timetable
from slackwater.errors import InvalidRequest
from slackwater.v1 import snapshot_pb2

MIDNIGHT = 1_767_225_600  # 2026-01-01, a Thursday
HOUR, DAY = 3600, 86_400


def schedule(cron: str = "0 * * * *", **fields: int) -> snapshot_pb2.Schedule:
    made = snapshot_pb2.Schedule(name="schedules/s", task="tasks/t", cron=cron)
    for name, seconds in fields.items():
        getattr(made, name).FromSeconds(seconds)
    return made


@pytest.mark.parametrize(
    ("cron", "seconds"),
    [
        ("0 * * * *", HOUR),
        ("*/5 * * * *", 300),
        ("30 2 * * *", 2 * HOUR + 1800),
        ("0 0 * * MON", 4 * DAY),
        ("0 0 1 3 *", 59 * DAY),
    ],
)
def test_times_are_those_of_cron_in_utc(cron: str, seconds: int) -> None:
    assert timetable.next_time(cron, MIDNIGHT) == MIDNIGHT + seconds


def test_nothing_is_due_before_its_time() -> None:
    judged = timetable.judge(schedule(), MIDNIGHT, MIDNIGHT - 0.5, 60)
    assert judged == timetable.Judged(None, 0, MIDNIGHT)


def test_what_is_due_is_started_once() -> None:
    first = timetable.judge(schedule(), MIDNIGHT, MIDNIGHT + 0.5, 60)
    assert first == timetable.Judged(MIDNIGHT, 0, MIDNIGHT + HOUR)
    assert first.cursor is not None
    again = timetable.judge(schedule(), first.cursor, MIDNIGHT + 1, 60)
    assert again == timetable.Judged(None, 0, MIDNIGHT + HOUR)


def test_of_what_came_in_a_jump_the_newest_is_started_if_it_is_not_late() -> None:
    judged = timetable.judge(schedule(), MIDNIGHT, MIDNIGHT + 5 * HOUR + 30, 60)
    assert judged == timetable.Judged(MIDNIGHT + 5 * HOUR, 5, MIDNIGHT + 6 * HOUR)
    late = timetable.judge(schedule(), MIDNIGHT, MIDNIGHT + 5 * HOUR + 61, 60)
    assert late == timetable.Judged(None, 6, MIDNIGHT + 6 * HOUR)


def test_missed_starts_are_counted_within_reason() -> None:
    """A clock that comes from 1970 does not count half a century of minutes."""
    judged = timetable.judge(schedule("* * * * *"), 60, MIDNIGHT + 30, 60)
    assert judged == timetable.Judged(None, timetable.MISSED_LIMIT, MIDNIGHT + 60)


def test_a_start_is_put_off_by_the_same_part_of_the_jitter_every_time() -> None:
    jittery = schedule(jitter=600)
    offsets = {timetable.put_off(jittery, MIDNIGHT + hour * HOUR) for hour in range(50)}
    assert len(offsets) == 50
    assert all(0 <= offset < 600 for offset in offsets)
    offset = timetable.put_off(jittery, MIDNIGHT)
    assert timetable.judge(jittery, MIDNIGHT, MIDNIGHT + offset - 0.1, 60).due is None
    assert timetable.judge(jittery, MIDNIGHT, MIDNIGHT + offset + 0.1, 60).due == MIDNIGHT


def test_a_clock_set_back_makes_nothing_due_twice() -> None:
    last, now = MIDNIGHT, MIDNIGHT - 2 * HOUR
    assert timetable.replan(schedule(), MIDNIGHT + HOUR, last, now) == MIDNIGHT + HOUR


def test_a_clock_set_back_by_days_begins_a_new_plan() -> None:
    now = MIDNIGHT - 30 * DAY
    assert timetable.replan(schedule(), MIDNIGHT + HOUR, MIDNIGHT, now) == now + HOUR


def test_a_clock_set_back_before_the_first_start_begins_a_new_plan() -> None:
    now = MIDNIGHT - 2 * HOUR
    assert timetable.replan(schedule(), MIDNIGHT + HOUR, 0, now) == now + HOUR


def test_a_cursor_that_is_behind_stays_for_what_it_missed() -> None:
    assert timetable.replan(schedule(), MIDNIGHT, 0, MIDNIGHT + 3 * HOUR) == MIDNIGHT


@pytest.mark.parametrize(
    ("field", "made"),
    [
        ("task", snapshot_pb2.Schedule(cron="0 * * * *", task="nightly")),
        ("cron", schedule("0 2 * *")),
        ("cron", schedule("0 2 * * * *")),
        ("cron", schedule("61 2 * * *")),
        ("cron", schedule("0 0 30 2 *")),
        ("cron", schedule("@daily")),
        ("cron", schedule("0 0 * * *" + " " * 300)),
        ("jitter", schedule(jitter=HOUR)),
        ("jitter", schedule("* * * * *", jitter=60)),
        ("jitter", schedule(jitter=-1)),
        ("catch_up", schedule(catch_up=-1)),
        ("catch_up", schedule(catch_up=32 * DAY)),
        ("group", snapshot_pb2.Schedule(cron="0 * * * *", task="tasks/t", group="g")),
        ("links[1]", snapshot_pb2.Schedule(cron="0 * * * *", task="tasks/t", links=["a", "a"])),
    ],
)
def test_what_cannot_work_is_refused_with_its_field(
    field: str, made: snapshot_pb2.Schedule
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        timetable.check(made)
    assert caught.value.field == f"schedule.{field}"


def test_what_works_is_taken() -> None:
    timetable.check(schedule(jitter=HOUR - 1, catch_up=31 * DAY))
    timetable.check(schedule("0 0 29 2 *", jitter=DAY))
