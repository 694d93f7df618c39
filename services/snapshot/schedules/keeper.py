"""Keeps time: looks every second what is due, and starts it through the runner.

What was decided is durable before it can be decided again: a start is made first, under a request
id of schedule and time, and then the cursor is moved; a crash in between repeats the start, which
gets the same run. A start that waits (for the last run, or for a Primary that does not answer)
keeps the cursor at its time, so that a restart sees it as missed or makes up for it.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import grpc

from services.snapshot.documents import Documents
from services.snapshot.events import Events
from services.snapshot.live import is_over
from services.snapshot.peers import says_nothing, sentence
from services.snapshot.runs import Runs
from services.snapshot.schedules import timetable
from services.snapshot.schedules.catalogue import Schedules
from services.snapshot.tasks.starting import Starter
from slackwater.clock import Clock
from slackwater.errors import FailedPrecondition, SlackwaterError, Unavailable
from slackwater.runtime import logs
from slackwater.v1 import snapshot_pb2

LOOK_SECONDS = 1.0
CANCEL_SECONDS = 10.0
JUMP_SECONDS = 30.0
"""A wall clock that goes apart from the monotonic one by more has been set."""

OVERLAP, RESTART, CLOCK, REFUSED = "overlap", "restart", "clock", "refused"
REASONS = (OVERLAP, RESTART, CLOCK, REFUSED)
_SENTENCES = {
    OVERLAP: "OVERLAP: the last run was not over",
    RESTART: "RESTART: the snapshot service was down",
    CLOCK: "CLOCK: the clock was set forward, or the service stood still",
}
_AGAIN = frozenset({"TOO_MANY_RUNS"})
_OTHERS = "TASK_IS_RUNNING"

Schedule = snapshot_pb2.Schedule
Spawn = Callable[[Coroutine[Any, Any, None], str], None]
_log = logs.get("schedules")


@dataclass(slots=True)
class _Due:
    """A start that is to be made, and is not yet."""

    moment: int
    give_up_at: float
    is_waiting: bool = False
    in_flight: bool = False


@dataclass(slots=True)
class _Row:
    """What became of one schedule: `state` is durable, and its next_time is the cursor."""

    state: Schedule
    cursor: int | None = None
    due: _Due | None = None
    starts: int = 0
    missed: Counter[str] = field(default_factory=Counter)


class Timekeeper:
    """Belongs to the event loop."""

    def __init__(
        self,
        schedules: Schedules,
        documents: Documents[Schedule],
        starter: Starter,
        runs: Runs,
        events: Events,
        clock: Clock,
        spawn: Spawn,
    ) -> None:
        """Nothing is looked at yet; `documents` keep what became of schedules."""
        self._schedules = schedules
        self._documents = documents
        self._starter = starter
        self._runs = runs
        self._events = events
        self._clock = clock
        self._spawn = spawn
        self._rows = {key: _Row(state) for key, state in documents.all().items()}
        self._offset: float | None = None

    async def keep(self) -> None:
        """Look again and again."""
        while True:
            try:
                self.look()
            except OSError as error:
                # As it is with a full disk: what was not kept is decided about again.
                _log.warning("schedules_wait", why=str(error))
            await asyncio.sleep(LOOK_SECONDS)

    def shown(self, schedule: Schedule) -> Schedule:
        """Return a schedule with what became of it."""
        made = Schedule()
        made.CopyFrom(schedule)
        row = self._rows.get(_key(schedule))
        if row is None:
            return made
        made.missed, made.missed_reason = row.state.missed, row.state.missed_reason
        made.last_run = row.state.last_run
        if row.state.HasField("last_time"):
            made.last_time.CopyFrom(row.state.last_time)
        upcoming = self.next_time(schedule)
        if upcoming is not None:
            made.next_time.FromMilliseconds(round(upcoming * 1000))
        return made

    def next_time(self, schedule: Schedule) -> float | None:
        """Return when a schedule starts its task next."""
        row = self._rows.get(_key(schedule))
        if row is None or row.cursor is None or schedule.paused:
            return None
        return row.cursor + timetable.put_off(schedule, row.cursor)

    def counts(self, schedule: Schedule) -> tuple[int, Counter[str]]:
        """Return starts and missed ones by reason, since the service started."""
        row = self._rows.get(_key(schedule))
        return (row.starts, row.missed) if row else (0, Counter())

    def look(self) -> None:
        """Decide about everything that is due."""
        now = self._clock.time_ns() / 1e9
        offset = now - self._clock.monotonic()
        is_first = self._offset is None
        was_set = self._offset is not None and abs(offset - self._offset) > JUMP_SECONDS
        self._offset = offset
        found = {_key(row): row for row in self._schedules.all()}
        for key in self._rows.keys() - found.keys():
            self._suspend(self._rows[key])
        for key, schedule in found.items():
            row = self._rows.setdefault(key, _Row(Schedule()))
            self._plan(schedule, row, now, afresh=is_first or was_set)
            self._look_at(schedule, row, now, is_first=is_first)

    def forget(self, name: str) -> None:
        """Forget what became of a schedule that was deleted."""
        key = name.removeprefix("schedules/")
        if self._rows.pop(key, None) is not None:
            self._documents.remove(key)

    def _suspend(self, row: _Row) -> None:
        """The file of a schedule cannot be used, or is gone: what it counted stays."""
        if row.cursor is None and row.due is None and not row.state.HasField("next_time"):
            return
        row.cursor = row.due = None
        self._save(row)

    def _plan(self, schedule: Schedule, row: _Row, now: float, *, afresh: bool) -> None:
        """Have a cursor that belongs to the schedule as it is now."""
        state = row.state
        is_new = state.cron != schedule.cron or state.paused != schedule.paused
        if is_new:
            row.cursor = row.due = None
            state.name, state.cron, state.paused = schedule.name, schedule.cron, schedule.paused
            state.ClearField("next_time")
        elif row.cursor is None and state.HasField("next_time"):
            row.cursor = state.next_time.ToSeconds()
        if schedule.paused:
            if is_new:
                self._save(row)
            return
        if row.cursor is None or afresh:
            last = state.last_time.ToSeconds()
            cursor = timetable.replan(schedule, row.cursor, last, now)
            if cursor != row.cursor or is_new:
                row.cursor = cursor
                self._save(row)

    def _look_at(self, schedule: Schedule, row: _Row, now: float, *, is_first: bool) -> None:
        if schedule.paused or row.cursor is None:
            return
        catch_up = schedule.catch_up.ToNanoseconds() / 1e9
        late_limit = catch_up if is_first else max(catch_up, timetable.ON_TIME_SECONDS)
        judged = timetable.judge(schedule, row.cursor, now, late_limit)
        if judged.cursor != row.cursor:
            row.cursor = judged.cursor
            if judged.missed:
                self._miss(schedule, row, RESTART if is_first else CLOCK, judged.missed)
            if judged.due is not None:
                if row.due is not None:
                    self._miss(schedule, row, OVERLAP)
                late = max(catch_up, timetable.ON_TIME_SECONDS)
                row.due = _Due(judged.due, now + late)
                row.state.last_time.FromSeconds(judged.due)
            self._save(row)
        if row.due is not None and not row.due.in_flight:
            row.due.in_flight = True
            self._spawn(self._attempt(schedule, row, row.due), f"schedule {schedule.name}")

    async def _attempt(self, schedule: Schedule, row: _Row, due: _Due) -> None:
        """Start what is due, if it can be now."""
        try:
            await self._start(schedule, row, due)
        except grpc.aio.AioRpcError as error:
            peer = self._starter.primary
            self._failed(schedule, row, due, sentence(error, peer), again=says_nothing(error))
        except FailedPrecondition as error:
            if error.reason == _OTHERS and schedule.overlap > Schedule.OVERLAP_SKIP:
                due.is_waiting = True
            elif error.reason == _OTHERS:
                self._give_up(schedule, row, due, OVERLAP, f"OVERLAP: {error}")
            else:
                again = error.reason in _AGAIN
                self._failed(schedule, row, due, f"{error.reason}: {error}", again=again)
        except OSError as error:
            _log.warning("schedules_wait", why=str(error))
        except SlackwaterError as error:
            again = isinstance(error, Unavailable)
            self._failed(schedule, row, due, f"{error.reason}: {error}", again=again)
        finally:
            due.in_flight = False

    async def _start(self, schedule: Schedule, row: _Row, due: _Due) -> None:
        if await self._overlaps(schedule, row, due):
            return
        run = await self._starter.start_scheduled(
            snapshot_pb2.StartTaskRequest(
                name=schedule.task,
                group=schedule.group,
                links=schedule.links,
                request_id=f"{schedule.name}/{due.moment}",
            ),
            schedule.name,
        )
        row.starts += 1
        row.state.last_run = run.name
        if row.due is due:
            row.due = None
        self._save(row)
        _log.info("schedule_started", schedule=schedule.name, run=run.name)
        self._tell(schedule, "SCHEDULE_STARTED", f"it started {run.name}", run.group)

    async def _overlaps(self, schedule: Schedule, row: _Row, due: _Due) -> bool:
        """Whether the last run is still in the way; does about it what the schedule says."""
        last = next((run for run in self._runs.live if run.name == row.state.last_run), None)
        if last is None or is_over(last):
            return False
        if schedule.overlap == Schedule.OVERLAP_CANCEL:
            over = await self._runs.cancel(last.name, CANCEL_SECONDS)
            due.is_waiting = True
            return not is_over(over)
        if schedule.overlap == Schedule.OVERLAP_WAIT:
            due.is_waiting = True
            return True
        self._give_up(schedule, row, due, OVERLAP, f"OVERLAP: {last.name} was not over")
        return True

    def _failed(
        self, schedule: Schedule, row: _Row, due: _Due, problem: str, *, again: bool
    ) -> None:
        """Try again for a while if that may help; else it is missed."""
        if again and (due.is_waiting or self._clock.time_ns() / 1e9 < due.give_up_at):
            return
        self._give_up(schedule, row, due, REFUSED, problem)

    def _give_up(self, schedule: Schedule, row: _Row, due: _Due, reason: str, text: str) -> None:
        if row.due is due:
            row.due = None
            self._miss(schedule, row, reason, 1, text)
            self._save(row)

    def _miss(
        self, schedule: Schedule, row: _Row, reason: str, number: int = 1, text: str = ""
    ) -> None:
        row.missed[reason] += number
        row.state.missed += number
        row.state.missed_reason = (text or _SENTENCES[reason])[:400]
        _log.warning("schedule_missed", schedule=schedule.name, reason=reason, number=number)
        self._tell(
            schedule,
            "SCHEDULE_MISSED",
            f"{number} missed: {row.state.missed_reason}",
            schedule.group,
        )

    def _tell(self, schedule: Schedule, kind: str, text: str, group: str) -> None:
        self._events.publish(schedule.name, kind, text, group=group)

    def _save(self, row: _Row) -> None:
        cursor = row.due.moment if row.due else row.cursor
        if cursor is None:
            row.state.ClearField("next_time")
        else:
            row.state.next_time.FromSeconds(cursor)
        self._documents.put(row.state.name.removeprefix("schedules/"), row.state)


def _key(schedule: Schedule) -> str:
    return schedule.name.removeprefix("schedules/")
