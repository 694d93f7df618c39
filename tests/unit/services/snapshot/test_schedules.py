"""Schedules over the API and in files, with a runner under them and a clock that tests own."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from services.snapshot.documents import Documents
from services.snapshot.store import RunStore
from slackwater.clock import ManualClock
from slackwater.runtime import status
from slackwater.storage.real import RealStorage
from slackwater.v1 import snapshot_pb2 as api
from tests.unit.services.snapshot.task_world import Desk, task
from tests.unit.services.snapshot.world import GROUP, OVER, World, play

NIGHT = "schedules/night"
NOON = 1_767_268_800  # 2026-01-01 12:00 UTC
HOUR = 3600
WAIT_SECONDS = 20.0

Scene = Callable[[World], Coroutine[Any, Any, Any]]


class Wall(ManualClock):
    """A clock whose wall part can be set."""

    def set_wall(self, seconds: float) -> None:
        """Somebody sets the clock; monotonic time does not care."""
        self._time_ns = round(seconds * 1e9)


class Stage:
    """A data directory, a Primary with its Secondaries, and a clock that goes on over restarts."""

    def __init__(self, tmp_path: Path) -> None:
        """Begin half an hour before one o'clock."""
        self.data = tmp_path / "data"
        self.desk = Desk("site-b", "site-c")
        self.clock = Wall(1000.0, round((NOON + HOUR / 2) * 1e9))
        self.secondary: Any = None

    def play(self, scene: Scene, primary: str = "") -> Any:
        """Run the service, from its start to its end."""
        address = primary or self.desk.service.address
        return play(self.data, scene, primary=address, clock=self.clock)

    def held(self) -> threading.Event:
        """Let runs wait until this is set."""
        going_on = threading.Event()
        self.desk.before_send = lambda: self._wait(going_on)
        return going_on

    def _wait(self, going_on: threading.Event) -> None:
        going_on.wait(WAIT_SECONDS)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.desk.before_send = lambda: None
    made.desk.stop()


async def make(world: World, **fields: Any) -> api.Schedule:
    """Make the task and a schedule of it, each hour."""
    with contextlib.suppress(grpc.aio.AioRpcError):
        await world.api.CreateTask(api.CreateTaskRequest(task=task(group=GROUP)))
    made = api.Schedule(name=NIGHT, task="tasks/nightly", cron="0 * * * *", **fields)
    answer = await world.api.CreateSchedule(api.CreateScheduleRequest(schedule=made))
    found: api.Schedule = answer.schedule
    return found


async def look(world: World) -> api.Schedule:
    """The schedule; asking for it looks at the clock."""
    answer = await world.api.GetSchedule(api.GetScheduleRequest(name=NIGHT))
    found: api.Schedule = answer.schedule
    return found


async def runs(world: World) -> list[api.Run]:
    """Runs so far, the oldest first."""
    answer = await world.api.ListRuns(api.ListRunsRequest())
    return list(answer.runs)[::-1]


async def wait_runs(world: World, number: int, *, over: bool = True) -> list[api.Run]:
    """Wait until there are so many runs, and all are over."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            await look(world)
            found = await runs(world)
            if len(found) >= number and (not over or all(run.state in OVER for run in found)):
                assert len(found) == number
                return found
            await asyncio.sleep(0.02)


async def wait_missed(world: World, number: int) -> api.Schedule:
    """Wait until so many starts were missed."""
    async with asyncio.timeout(WAIT_SECONDS):
        while (found := await look(world)).missed < number:
            await asyncio.sleep(0.02)
    assert found.missed == number
    return found


def test_it_starts_its_task_once_when_it_is_time(stage: Stage) -> None:
    async def act(world: World) -> None:
        made = await make(world)
        assert (made.next_time.seconds, made.source) == (NOON + HOUR, "api")
        stage.clock.advance(HOUR / 2 - 1)
        await look(world)
        assert not await runs(world)
        stage.clock.advance(1)
        (run,) = await wait_runs(world, 1)
        assert (run.schedule, run.state) == (NIGHT, api.Run.STATE_SUCCEEDED)
        assert [row.link for row in run.replicas] == ["site-b", "site-c"]
        stage.clock.advance(30)
        found = await look(world)
        assert (found.last_run, found.last_time.seconds) == (run.name, NOON + HOUR)
        assert (found.next_time.seconds, found.missed) == (NOON + 2 * HOUR, 0)
        await wait_runs(world, 1)

    stage.play(act)


def test_links_of_the_schedule_count(stage: Stage) -> None:
    async def act(world: World) -> None:
        await make(world, links=["site-c"])
        stage.clock.advance(HOUR / 2)
        (run,) = await wait_runs(world, 1)
        assert [row.link for row in run.replicas] == ["site-c"]

    stage.play(act)


def test_a_paused_schedule_starts_nothing_and_goes_on_from_now(stage: Stage) -> None:
    async def act(world: World) -> None:
        made = await make(world, paused=True)
        assert not made.HasField("next_time")
        stage.clock.advance(3 * HOUR)
        made = await look(world)
        assert not await runs(world)
        made.paused = False
        answer = await world.api.UpdateSchedule(api.UpdateScheduleRequest(schedule=made))
        assert answer.schedule.next_time.seconds == NOON + 4 * HOUR
        assert (answer.schedule.missed, await runs(world)) == (0, [])

    stage.play(act)


def test_overlap_skip_counts_a_missed_start(stage: Stage) -> None:
    going_on = stage.held()

    async def act(world: World) -> None:
        await make(world)
        stage.clock.advance(HOUR / 2)
        await wait_runs(world, 1, over=False)
        stage.clock.advance(HOUR)
        found = await wait_missed(world, 1)
        assert found.missed_reason.startswith("OVERLAP: tasks/nightly/runs/")
        going_on.set()
        await wait_runs(world, 1)
        stage.clock.advance(HOUR)
        await wait_runs(world, 2)

    stage.play(act)


def test_overlap_wait_starts_once_the_last_run_is_over(stage: Stage) -> None:
    going_on = stage.held()

    async def act(world: World) -> None:
        await make(world, overlap=api.Schedule.OVERLAP_WAIT)
        stage.clock.advance(HOUR / 2)
        await wait_runs(world, 1, over=False)
        stage.clock.advance(HOUR)
        await look(world)
        stage.clock.advance(HOUR / 4)
        await look(world)
        await wait_runs(world, 1, over=False)
        going_on.set()
        await wait_runs(world, 2)
        assert (await look(world)).missed == 0

    stage.play(act)


def test_overlap_cancel_ends_the_last_run_first(stage: Stage) -> None:
    going_on = stage.held()

    async def act(world: World) -> None:
        await make(world, overlap=api.Schedule.OVERLAP_CANCEL)
        stage.clock.advance(HOUR / 2)
        await wait_runs(world, 1, over=False)
        await world.until(lambda: bool(stage.desk.service.asked("SendMessage")))
        stage.clock.advance(HOUR)
        asyncio.get_running_loop().call_later(0.3, going_on.set)
        first, second = await wait_runs(world, 2)
        assert first.state == api.Run.STATE_CANCELLED
        assert second.state == api.Run.STATE_SUCCEEDED

    stage.play(act)


def test_a_start_while_the_service_was_down_is_missed(stage: Stage) -> None:
    stage.play(make)
    stage.clock.advance(3 * HOUR)

    async def act(world: World) -> None:
        found = await wait_missed(world, 3)
        assert found.missed_reason.startswith("RESTART")
        assert (found.next_time.seconds, await runs(world)) == (NOON + 4 * HOUR, [])

    stage.play(act)


def test_catch_up_makes_up_for_the_newest_of_them(stage: Stage) -> None:
    async def prepare(world: World) -> None:
        wanted = api.Schedule()
        wanted.catch_up.FromSeconds(HOUR)
        await make(world, catch_up=wanted.catch_up)

    stage.play(prepare)
    stage.clock.advance(3 * HOUR)

    async def act(world: World) -> None:
        await wait_runs(world, 1)
        found = await wait_missed(world, 2)
        assert found.last_time.seconds == NOON + 3 * HOUR

    stage.play(act)


def test_a_start_that_a_crash_kept_from_being_noted_is_not_made_again(stage: Stage) -> None:
    async def prepare(world: World) -> str:
        made = api.Schedule()
        made.catch_up.FromSeconds(HOUR)
        await make(world, catch_up=made.catch_up)
        stage.clock.advance(HOUR / 2)
        (run,) = await wait_runs(world, 1)
        return run.name

    name = stage.play(prepare)
    store = RunStore(RealStorage(), stage.data)
    kept = Documents(store.database, "schedule_state", api.Schedule)
    state = kept.all()["night"]
    state.next_time.FromSeconds(NOON + HOUR)
    state.last_run = ""
    state.ClearField("last_time")
    kept.put("night", state)
    store.close()

    async def act(world: World) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while (await look(world)).last_run != name:
                await asyncio.sleep(0.02)
        await wait_runs(world, 1)

    stage.play(act)


def test_a_clock_set_back_starts_nothing_twice(stage: Stage) -> None:
    async def act(world: World) -> None:
        await make(world)
        stage.clock.advance(HOUR / 2)
        await wait_runs(world, 1)
        for wall in (NOON, NOON + HOUR - 1, NOON + HOUR, NOON + HOUR + 59):
            stage.clock.set_wall(wall)
            assert (await look(world)).next_time.seconds == NOON + 2 * HOUR
        await wait_runs(world, 1)
        stage.clock.set_wall(NOON + 2 * HOUR)
        await wait_runs(world, 2)

    stage.play(act)


def test_a_clock_set_back_by_years_does_not_stop_a_schedule(stage: Stage) -> None:
    async def act(world: World) -> None:
        await make(world)
        stage.clock.advance(HOUR / 2)
        await wait_runs(world, 1)
        stage.clock.set_wall(NOON - 10_000 * HOUR)
        assert (await look(world)).next_time.seconds == NOON - 9_999 * HOUR

    stage.play(act)


def test_a_clock_set_forward_misses_what_it_jumps_over(stage: Stage) -> None:
    async def act(world: World) -> None:
        await make(world)
        stage.clock.set_wall(NOON + 5 * HOUR + HOUR / 2)
        found = await wait_missed(world, 5)
        assert found.missed_reason.startswith("CLOCK")
        assert (found.next_time.seconds, await runs(world)) == (NOON + 6 * HOUR, [])

    stage.play(act)


def test_a_primary_that_is_away_for_a_while_costs_no_start(stage: Stage) -> None:
    address = stage.desk.service.address
    stage.desk.service.stop()

    async def act(world: World) -> None:
        await make(world)
        stage.clock.advance(HOUR / 2)
        for _ in range(3):
            await look(world)
            await asyncio.sleep(0.05)
        assert (await look(world)).missed == 0
        stage.clock.advance(61)
        found = await wait_missed(world, 1)
        assert "UNAVAILABLE" in found.missed_reason
        assert address in found.missed_reason

    stage.play(act, primary=address)


def test_a_task_that_is_not_there_is_missed_with_its_reason(stage: Stage) -> None:
    async def act(world: World) -> None:
        await make(world)
        await world.api.DeleteTask(api.DeleteTaskRequest(name="tasks/nightly"))
        stage.clock.advance(HOUR / 2)
        assert "there is no task" in (await wait_missed(world, 1)).missed_reason

    stage.play(act)


async def refused(call: Any) -> status.RemoteError:
    """Return what a call was refused with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return status.decode(caught.value)


def test_definitions_are_checked_kept_and_removed(stage: Stage) -> None:
    async def act(world: World) -> None:
        await make(world)
        same = api.Schedule(name=NIGHT, task="tasks/nightly", cron="0 * * * *")
        taken = await refused(world.api.CreateSchedule(api.CreateScheduleRequest(schedule=same)))
        assert taken.code is grpc.StatusCode.ALREADY_EXISTS
        same.cron = "never"
        wrong = await refused(world.api.UpdateSchedule(api.UpdateScheduleRequest(schedule=same)))
        assert (wrong.code, wrong.field) == (grpc.StatusCode.INVALID_ARGUMENT, "schedule.cron")
        other = api.Schedule(name="schedules/x", task="tasks/none", cron="0 * * * *")
        gone = await refused(world.api.CreateSchedule(api.CreateScheduleRequest(schedule=other)))
        assert gone.code is grpc.StatusCode.NOT_FOUND
        listed = await world.api.ListSchedules(api.ListSchedulesRequest())
        assert [row.name for row in listed.schedules] == [NIGHT]
        asked = api.DeleteScheduleRequest(name=NIGHT, validate_only=True)
        assert NIGHT in (await world.api.DeleteSchedule(asked)).losses[0]
        assert (await look(world)).name == NIGHT
        asked.validate_only = False
        await world.api.DeleteSchedule(asked)
        assert (await refused(look(world))).code is grpc.StatusCode.NOT_FOUND

    stage.play(act)


def test_a_schedule_made_anew_counts_from_nothing(stage: Stage) -> None:
    async def act(world: World) -> None:
        await make(world)
        stage.clock.set_wall(NOON + 5 * HOUR + HOUR / 2)
        await wait_missed(world, 5)
        await world.api.DeleteSchedule(api.DeleteScheduleRequest(name=NIGHT))
        assert (await make(world)).missed == 0

    stage.play(act)


def test_a_repeated_create_gets_the_first_answer(stage: Stage) -> None:
    async def act(world: World) -> None:
        await world.api.CreateTask(api.CreateTaskRequest(task=task(group=GROUP)))
        wanted = api.Schedule(name=NIGHT, task="tasks/nightly", cron="0 * * * *")
        request = api.CreateScheduleRequest(schedule=wanted, request_id="r1")
        first = await world.api.CreateSchedule(request)
        assert await world.api.CreateSchedule(request) == first

    stage.play(act)


def write(stage: Stage, text: str, name: str = "night") -> Path:
    """Put a schedule's file beside its task."""
    home = stage.data / "tasks" / "nightly"
    home.mkdir(parents=True, exist_ok=True)
    (home / "task.yaml").write_text(f"group: {GROUP}\n")
    file = home / f"{name}.schedule.yaml"
    file.write_text(text)
    for path, mode in ((home.parent, 0o755), (home, 0o755), (file, 0o644)):
        path.chmod(mode)
    return file


def test_schedules_of_files_run_and_are_read_only(stage: Stage) -> None:
    file = write(stage, "cron: 0 * * * *\noverlap: wait\njitter: 0s\ncatch_up: 1h\n")

    async def act(world: World) -> None:
        found = await look(world)
        assert (found.task, found.source) == ("tasks/nightly", str(file))
        assert found.overlap == api.Schedule.OVERLAP_WAIT
        refusal = await refused(world.api.UpdateSchedule(api.UpdateScheduleRequest(schedule=found)))
        assert refusal.code is grpc.StatusCode.FAILED_PRECONDITION
        assert str(file) in refusal.message
        stage.clock.advance(HOUR / 2)
        await wait_runs(world, 1)
        write(stage, "cron: 30 * * * *\n")
        assert (await look(world)).next_time.seconds == NOON + HOUR * 3 // 2
        file.unlink()
        assert (await refused(look(world))).code is grpc.StatusCode.NOT_FOUND

    stage.play(act)


@pytest.mark.parametrize(
    ("text", "line", "field"),
    [
        ("cron: 0 2 * *", 1, "cron"),
        ("cron: 0 2 * * *\n\njiter: 5m", 3, "jiter"),
        ("cron: 0 2 * * *\nmissed: 3", 2, "missed"),
        ("cron: 0 2 * * *\ntask: tasks/other", 2, "task"),
    ],
)
def test_a_bad_file_is_shown_with_its_line(stage: Stage, text: str, line: int, field: str) -> None:
    file = write(stage, text, "bad")
    write(stage, "cron: 0 2 * * *")

    async def act(world: World) -> None:
        answer = await world.api.ListSchedules(api.ListSchedulesRequest())
        assert [row.name for row in answer.schedules] == [NIGHT]
        (problem,) = answer.problems
        assert (problem.file, problem.line, problem.field) == (str(file), line, field)
        shown = await world.api.GetStatus(api.SnapshotServiceGetStatusRequest())
        assert list(shown.problems) == [problem]

    stage.play(act)


def test_metrics_tell_of_starts_missed_ones_and_the_next(stage: Stage) -> None:
    async def act(world: World) -> None:
        await make(world)
        stage.clock.advance(HOUR / 2)
        await wait_runs(world, 1)
        stage.clock.set_wall(NOON + 5 * HOUR + HOUR / 2)
        await wait_missed(world, 4)
        registry: CollectorRegistry = world.service.metrics.registry
        text = generate_latest(registry).decode()
        name = "slackwater_snapshot_schedule"
        assert f'{name}_starts_total{{schedule="night"}} 1.0' in text
        assert f'{name}_missed_total{{reason="clock",schedule="night"}} 4.0' in text
        assert f'{name}_missed_total{{reason="overlap",schedule="night"}} 0.0' in text
        assert f'{name}_next_timestamp_seconds{{schedule="night"}}' in text

    stage.play(act)


def test_events_tell_of_starts(stage: Stage) -> None:
    async def act(world: World) -> None:
        await make(world)
        watch = world.api.WatchEvents(api.SnapshotServiceWatchEventsRequest())
        await watch.initial_metadata()
        stage.clock.advance(HOUR / 2)
        await look(world)
        async with asyncio.timeout(WAIT_SECONDS):
            async for answer in watch:
                if answer.event.kind == "SCHEDULE_STARTED":
                    break
        assert answer.event.resource == NIGHT

    stage.play(act)
