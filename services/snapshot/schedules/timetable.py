"""When a schedule is due: pure arithmetic on minutes of UTC, in whole seconds since 1970.

A schedule has a cursor, the first time that nothing was decided about yet. `judge` looks from
there to now: each time that has come is started, at most one, or missed. The cursor goes forward,
and whoever acts on a judgement keeps it durable, so a minute is decided about once, whatever the
wall clock does. A clock that was set back makes nothing due until it has passed the cursor again;
`replan` takes a cursor back that lies so far ahead that this would be a day or more.
"""

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from cronsim import CronSim, CronSimError

from slackwater import names
from slackwater.errors import InvalidRequest
from slackwater.v1 import snapshot_pb2

Schedule = snapshot_pb2.Schedule

ON_TIME_SECONDS = 60.0
"""How late a start may be that nobody calls late, while the service runs."""

BACK_LIMIT_SECONDS = 86_400
"""A clock that is set back by more than this begins a new plan."""

MISSED_LIMIT = 10_000
"""Missed starts counted at one look; more than a week of minutes is one long sleep."""

LOOKED_AT = 50
"""Starts whose distances bound the jitter."""

CRON_LIMIT, LINKS_LIMIT = 256, 64
CATCH_UP_LIMIT_SECONDS = 31 * 86_400.0
_FIELDS = 5


@dataclass(frozen=True, slots=True)
class Judged:
    """What is to be done about a schedule now.

    Attributes:
        due: The time whose start is to be made; None: none.
        missed: Times that came and are not started.
        cursor: The first time that is not decided about; None: there is none any more.
    """

    due: int | None
    missed: int
    cursor: int | None


def times(cron: str, after: int) -> Iterator[int]:
    """Yield when it is time, after a moment that is not itself among them."""
    for moment in CronSim(cron, datetime.fromtimestamp(after, UTC)):
        yield int(moment.timestamp())


def next_time(cron: str, after: int) -> int | None:
    """Return the first time after a moment, if there is any in the next fifty years."""
    return next(times(cron, after), None)


def put_off(schedule: Schedule, moment: int) -> float:
    """Return by how much a start is put off: random by name and time, the same after a restart."""
    seed = hashlib.sha256(f"{schedule.name} {moment}".encode()).digest()
    return int.from_bytes(seed[:8]) / 2**64 * schedule.jitter.ToNanoseconds() / 1e9


def judge(schedule: Schedule, cursor: int, now: float, late_limit: float) -> Judged:
    """Decide about every time from `cursor` that has come.

    Args:
        schedule: The definition.
        cursor: The first time that is not decided about.
        now: The wall clock.
        late_limit: How late the newest of them may be and still be started.
    """
    come: list[int] = []
    count = 0
    moment: int | None = cursor
    following = times(schedule.cron, cursor)
    while moment is not None and moment + put_off(schedule, moment) <= now:
        count += 1
        come = [moment]
        if count >= MISSED_LIMIT:
            return Judged(None, count, next_time(schedule.cron, int(now)))
        moment = next(following, None)
    if not come:
        return Judged(None, 0, cursor)
    newest = come[0]
    if now - newest - put_off(schedule, newest) <= late_limit:
        return Judged(newest, count - 1, moment)
    return Judged(None, count, moment)


def replan(schedule: Schedule, cursor: int | None, last: int, now: float) -> int | None:
    """Return the cursor to go on with: after a change of the clock, or a first one.

    Args:
        schedule: The definition.
        cursor: The one so far; None: there is none.
        last: The newest time that was decided about; 0: none yet.
        now: The wall clock.
    """
    first = next_time(schedule.cron, int(now))
    if cursor is None:
        return first
    if first is None or first >= cursor:
        return cursor
    if last <= now:
        # Nothing after now was decided about, so nothing can be started twice.
        return first
    return first if last - now > BACK_LIMIT_SECONDS else cursor


def check(schedule: Schedule, at: str = "schedule.") -> None:
    """Raise InvalidRequest for what cannot work; `at` comes before the names of fields."""
    names.parse(f"{at}task", schedule.task, "tasks")
    if schedule.group:
        names.group(f"{at}group", schedule.group)
    if len(schedule.links) > LINKS_LIMIT:
        raise InvalidRequest(f"{at}links", f"has more than {LINKS_LIMIT} entries")
    for number, link in enumerate(schedule.links):
        names.check_label(f"{at}links[{number}]", link)
        if link in schedule.links[:number]:
            raise InvalidRequest(f"{at}links[{number}]", f"{link!r} is named twice")
    if schedule.overlap not in Schedule.Overlap.values():
        raise InvalidRequest(f"{at}overlap", f"{schedule.overlap} is not known", "Leave it out")
    _check_cron(schedule.cron, f"{at}cron")
    _check_catch_up(schedule, f"{at}catch_up")
    _check_jitter(schedule, f"{at}jitter")


def _check_cron(cron: str, field: str) -> None:
    advice = "Write five fields: minute hour day-of-month month day-of-week, in UTC"
    if len(cron) > CRON_LIMIT:
        raise InvalidRequest(field, f"is longer than {CRON_LIMIT} characters", advice)
    if len(cron.split()) != _FIELDS:
        raise InvalidRequest(field, f"{cron!r} has not five fields", advice)
    try:
        first = next_time(cron, 0)
    except CronSimError as error:
        problem = str(error).replace("Bad ", "bad ", 1)
        raise InvalidRequest(field, f"{cron!r}: {problem}", advice) from error
    if first is None:
        raise InvalidRequest(field, f"{cron!r} never comes", advice)


def _check_catch_up(schedule: Schedule, field: str) -> None:
    seconds = schedule.catch_up.ToNanoseconds() / 1e9
    if not 0 <= seconds <= CATCH_UP_LIMIT_SECONDS:
        raise InvalidRequest(field, f"{seconds:g} s is not 0 to 31 days", "Leave it out for 0")


def _check_jitter(schedule: Schedule, field: str) -> None:
    """Starts must stay in order."""
    seconds = schedule.jitter.ToNanoseconds() / 1e9
    soon = list(itertools.islice(times(schedule.cron, 0), LOOKED_AT))
    distances = [later - earlier for earlier, later in itertools.pairwise(soon)]
    shortest = min(distances, default=BACK_LIMIT_SECONDS)
    if not 0 <= seconds < shortest and schedule.HasField("jitter"):
        raise InvalidRequest(
            field,
            f"{seconds:g} s is not shorter than the time between two starts, {shortest} s",
            "Give a shorter one",
        )
