"""Which snapshots are kept: a pure function of when they were made and of the task's rules.

Hours, days and ISO weeks are those of UTC. A rule looks at the newest so many hours, days or weeks
in which there is a snapshot at all: a task that did not run for a month loses nothing by that.
Snapshots of runs that succeeded and of those that failed are judged apart, so that a week of
failures does not push the last good one out.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from slackwater.v1 import snapshot_pb2


@dataclass(frozen=True, slots=True)
class Entry:
    """A snapshot as the rules see it.

    Attributes:
        key: What it is told apart by.
        made: When it was made, in seconds since 1970.
        is_good: True if the run that made it succeeded there.
    """

    key: str
    made: float
    is_good: bool


def _hour(moment: datetime) -> Hashable:
    return moment.date(), moment.hour


def _day(moment: datetime) -> Hashable:
    return moment.date()


def _week(moment: datetime) -> Hashable:
    return moment.isocalendar()[:2]


_PERIODS: tuple[tuple[str, Callable[[datetime], Hashable]], ...] = (
    ("hourly", _hour),
    ("daily", _day),
    ("weekly", _week),
)


def keep(entries: Sequence[Entry], rules: snapshot_pb2.Retention) -> dict[str, list[str]]:
    """Return the keys of what is kept, each with the words of the rules that keep it."""
    kept: dict[str, list[str]] = {}
    for is_good in (True, False):
        rows = [row for row in entries if row.is_good is is_good]
        rows.sort(key=lambda row: (row.made, row.key), reverse=True)
        for row in rows[: rules.keep_last]:
            kept.setdefault(row.key, []).append("last")
        limits = (rules.keep_hourly, rules.keep_daily, rules.keep_weekly)
        for (word, period), limit in zip(_PERIODS, limits, strict=True):
            seen: set[Hashable] = set()
            for row in rows:
                found = period(datetime.fromtimestamp(row.made, UTC))
                if found in seen or len(seen) >= limit:
                    continue
                seen.add(found)
                kept.setdefault(row.key, []).append(word)
    return kept
