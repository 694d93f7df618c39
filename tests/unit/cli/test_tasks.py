"""Tasks, runs and schedules as people type them, against a scripted snapshot service."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from rich.console import Console

from slackwater.cli.commands.tasks.follow import board
from slackwater.cli.screen import Screen
from slackwater.errors import FailedPrecondition
from slackwater.v1 import common_pb2
from slackwater.v1 import snapshot_pb2 as api
from tests.unit.cli.conftest import CommandLine

NAME = "tasks/nightly/runs/r7"
WAIT_SECONDS = 20.0


def run(state: str = "RUNNING", *replicas: api.RunReplica, error: str = "") -> api.Run:
    value = api.Run.State.Value(f"STATE_{state}")
    made = api.Run(name=NAME, group="groups/demo", state=value, error=error, replicas=replicas)
    made.create_time.FromSeconds(1_700_000_000)
    return made


def replica(link: str = "site-b", state: str = "SUCCEEDED", error: str = "") -> api.RunReplica:
    return api.RunReplica(
        link=link,
        state=api.Run.State.Value(f"STATE_{state}"),
        verdict=common_pb2.VERDICT_STATE_SNAPSHOTTED,
        snapshot="groups/demo/snapshots/nightly-1",
        grade=common_pb2.SNAPSHOT_GRADE_APPLICATION,
        confirmed=state == "SUCCEEDED",
        error=error,
    )


def step(name: str, link: str = "", *, seconds: float | None = 2.0, error: str = "") -> api.RunStep:
    made = api.RunStep(step=name, link=link, where="secondary" if link else "primary", error=error)
    made.start_time.FromSeconds(1_700_000_000)
    if seconds is not None:
        made.end_time.FromMilliseconds(round((1_700_000_000 + seconds) * 1000))
    return made


def changes(*runs: api.Run) -> list[api.WatchRunResponse]:
    return [api.WatchRunResponse(run=row) for row in runs]


def started(cli: CommandLine, *runs: api.Run) -> None:
    cli.snapshot.answers["StartTask"] = api.StartTaskResponse(run=run("PENDING"))
    cli.snapshot.answers["WatchRun"] = lambda _: changes(*runs)


def test_a_run_is_followed_to_its_end_with_a_verdict_for_each_secondary(cli: CommandLine) -> None:
    going = run("RUNNING", replica(state="RUNNING"))
    going.steps.extend([step("send", seconds=None)])
    over = run("SUCCEEDED", replica(), replica("site-c"))
    over.steps.extend([step("send"), step("snapshot", "site-b", seconds=0.012)])
    started(cli, going, over)
    shown = cli("task", "run", "nightly", "-g", "demo", "--link", "site-b", "--link", "site-c")
    assert "send  running" in shown
    assert "site-b  secondary  snapshot  12ms" in shown
    assert shown.count("application (confirmed)") == 2
    (request,) = cli.snapshot.asked("StartTask")
    assert (request.name, request.group) == ("tasks/nightly", "groups/demo")
    assert list(request.links) == ["site-b", "site-c"]
    assert request.request_id


def test_one_secondary_that_failed_fails_the_command(cli: CommandLine) -> None:
    bad = replica("site-c", "FAILED", "fsck: errors")
    started(cli, run("FAILED", replica(), bad, error="site-c: fsck: errors"))
    cli("task", "run", "nightly", "--all", code=1)
    assert "site-c: fsck: errors" in cli.error
    assert "slackwater run get nightly/r7" in cli.error
    assert "application (not confirmed)" in cli.output
    assert cli.snapshot.asked("StartTask")[0].all_links


def test_success_wants_every_secondary(cli: CommandLine) -> None:
    """Whatever the run as a whole says."""
    started(cli, run("SUCCEEDED", replica(), replica("site-c", "CANCELLED")))
    cli("task", "run", "nightly", code=1)
    assert "site-c" in cli.error


def test_programs_get_one_document(cli: CommandLine) -> None:
    started(cli, run("RUNNING"), run("SUCCEEDED", replica()))
    found = cli.json("task", "run", "nightly")
    assert (found["state"], found["replicas"][0]["confirmed"]) == ("STATE_SUCCEEDED", True)


def test_a_dry_run_shows_the_plan_and_starts_nothing(cli: CommandLine) -> None:
    plan = api.PlannedStep(
        step="fsck", where="manager", holds="writes", link="site-b", detail="all"
    )
    plan.timeout.FromSeconds(300)
    cli.snapshot.answers["StartTask"] = api.StartTaskResponse(plan=[plan])
    shown = cli("task", "run", "nightly", "--dry-run")
    assert all(word in shown for word in ("fsck", "manager", "writes", "site-b", "5m00s"))
    assert cli.snapshot.asked("StartTask")[0].validate_only
    assert not cli.snapshot.asked("WatchRun")
    assert cli.json("task", "run", "nightly", "--dry-run")["plan"][0]["holds"] == "writes"


def test_detached_it_is_not_followed(cli: CommandLine) -> None:
    started(cli)
    assert NAME in cli("task", "run", "nightly", "--detach")
    assert not cli.snapshot.asked("WatchRun")


def test_all_and_links_are_one_too_many(cli: CommandLine) -> None:
    cli("task", "run", "nightly", "--all", "--link", "site-b", code=2)
    assert not cli.snapshot.requests


def test_a_refused_start_says_why(cli: CommandLine) -> None:
    cli.snapshot.answers["StartTask"] = FailedPrecondition(
        "TASK_IS_RUNNING", "another runs", "Wait"
    )
    cli("task", "run", "nightly", code=5)
    assert "another runs" in cli.error


def interrupting(cli: CommandLine, signals: int) -> threading.Event:
    """Answer a watch with a run that goes on until it is cancelled; interrupt us meanwhile."""
    cancelled = threading.Event()

    def watch(_: Any) -> Iterator[api.WatchRunResponse]:
        yield from changes(run("RUNNING", replica(state="RUNNING")))
        for _number in range(signals):
            os.kill(os.getpid(), signal.SIGINT)
        assert cancelled.wait(WAIT_SECONDS)
        yield from changes(run("CANCELLED", replica(state="CANCELLED"), error="CANCELLED"))

    def cancel(_: Any) -> api.CancelRunResponse:
        if signals == 1:
            cancelled.set()
        return api.CancelRunResponse()

    cli.snapshot.answers |= {
        "StartTask": api.StartTaskResponse(run=run("PENDING")),
        "WatchRun": watch,
        "CancelRun": cancel,
    }
    return cancelled


def test_an_interrupt_asks_for_the_end_and_waits_for_it(cli: CommandLine) -> None:
    interrupting(cli, 1)
    cli("task", "run", "nightly", code=1)
    assert [row.name for row in cli.snapshot.asked("CancelRun")] == [NAME]
    assert "CANCELLED" in cli.output


def test_a_second_interrupt_leaves(cli: CommandLine) -> None:
    def watch(_: Any) -> Iterator[api.WatchRunResponse]:
        yield from changes(run("RUNNING"))
        os.kill(os.getpid(), signal.SIGINT)
        assert asked.wait(WAIT_SECONDS)
        os.kill(os.getpid(), signal.SIGINT)
        left.wait(WAIT_SECONDS)

    def cancel(_: Any) -> api.CancelRunResponse:
        asked.set()
        return api.CancelRunResponse()

    asked, left = threading.Event(), threading.Event()
    started(cli)
    cli.snapshot.answers |= {"WatchRun": watch, "CancelRun": cancel}
    cli("task", "run", "nightly", code=128 + signal.SIGINT)
    left.set()
    assert "slackwater run watch nightly/r7" in cli.error


def test_an_interrupted_watch_leaves_the_run_alone(cli: CommandLine) -> None:
    cancelled = interrupting(cli, 1)
    cli.snapshot.answers["GetRun"] = api.GetRunResponse(run=run())
    cli("run", "watch", "nightly/r7", code=128 + signal.SIGINT)
    cancelled.set()
    assert not cli.snapshot.asked("CancelRun")


def test_a_stream_that_breaks_is_opened_again(cli: CommandLine) -> None:
    answers = [grpc.StatusCode.UNAVAILABLE, changes(run("SUCCEEDED", replica()))]
    cli.snapshot.answers |= {
        "StartTask": api.StartTaskResponse(run=run("PENDING")),
        "WatchRun": lambda _: answers.pop(0),
    }
    cli("task", "run", "nightly")
    assert len(cli.snapshot.asked("WatchRun")) == 2


def test_a_service_that_stays_away_ends_the_command(cli: CommandLine) -> None:
    cli.snapshot.answers |= {
        "StartTask": api.StartTaskResponse(run=run("PENDING")),
        "WatchRun": lambda _: grpc.StatusCode.UNAVAILABLE,
    }
    cli("task", "run", "nightly", "--timeout", "1s", code=3)
    assert "cannot be reached" in cli.error


def test_the_board_has_a_row_for_each_step_and_a_column_for_each_secondary() -> None:
    going = run("RUNNING", replica(), replica("site-c"))
    going.steps.extend(
        [
            step("send"),
            step("command", "site-b", seconds=1),
            step("command", "site-b", seconds=None),
            step("command", "site-c", seconds=3, error="exit status 1"),
        ]
    )
    console = Console(width=120, force_terminal=False)
    with console.capture() as captured:
        console.print(board(going))
    lines = [line.split() for line in captured.get().splitlines()]
    assert lines[0] == ["nightly/r7", "RUNNING", "run", "site-b", "site-c"]
    assert lines[1] == ["send", "2s"]
    assert lines[2] == ["command", "1s", "FAILED", "after", "3s"]
    assert lines[3] == ["command", "running"]


def test_on_a_terminal_the_table_is_live(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Screen, "is_terminal", property(lambda _: True))
    started(cli, run("RUNNING"), run("SUCCEEDED", replica()))
    assert "application (confirmed)" in cli("task", "run", "nightly")


def test_a_task_is_made_from_a_file_and_options(cli: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "task.yaml"
    file.write_text("onfreeze: [snapshot]\npostfreeze: [{command: [backup.sh], timeout: 2h}]\n")
    cli.snapshot.answers["CreateTask"] = lambda asked: api.CreateTaskResponse(task=asked.task)
    words = "task create nightly --group demo --quiesce db --keep-daily 7 --keep-last 2 -f"
    shown = cli(*words.split(), str(file))
    assert "2 last, 7 daily" in shown
    (asked,) = cli.snapshot.asked("CreateTask")
    assert asked.task.name == "tasks/nightly"
    assert asked.task.postfreeze[0].timeout.seconds == 7200
    assert list(asked.task.quiesce.applications) == ["db"]


def test_a_bad_file_names_its_line_and_calls_nobody(cli: CommandLine) -> None:
    cli("task", "create", "nightly", "-f", "-", code=2, given=b"body: x\nonfreze: [snapshot]\n")
    assert "-:2: onfreze" in cli.error
    assert "onfreeze" in cli.error
    assert not cli.snapshot.requests


def test_a_task_is_replaced_or_only_checked(cli: CommandLine) -> None:
    cli("task", "create", "nightly", "--replace", "--dry-run")
    (asked,) = cli.snapshot.asked("UpdateTask")
    assert asked.validate_only
    assert "nothing was changed" in cli.error


def test_a_task_is_described_with_what_would_go(cli: CommandLine) -> None:
    task = api.Task(name="tasks/nightly", source="api", onfreeze=[api.TaskStep()])
    task.onfreeze[0].snapshot.SetInParent()
    made = api.MadeSnapshot(
        snapshot="groups/demo/snapshots/nightly-1", link="site-b", expires=True, reason="held: tax"
    )
    cli.snapshot.answers["GetTask"] = api.GetTaskResponse(task=task, made=[made])
    shown = cli("task", "describe", "nightly")
    assert all(word in shown for word in ("onfreeze", "snapshot", "nightly-1", "goes", "held: tax"))
    assert cli.json("task", "describe", "nightly")["made"][0]["expires"] is True


def test_tasks_are_listed_with_files_that_cannot_be_used(cli: CommandLine) -> None:
    problem = api.FileProblem(file="/t/x/task.yaml", line=3, field="body", problem="is no text")
    cli.snapshot.answers["ListTasks"] = api.ListTasksResponse(
        tasks=[api.Task(name="tasks/nightly", source="api")], problems=[problem]
    )
    assert "nightly" in cli("task", "list")
    assert "/t/x/task.yaml:3: body: is no text" in cli.error


def test_a_task_is_deleted_once_that_is_confirmed(cli: CommandLine) -> None:
    cli.snapshot.answers["DeleteTask"] = api.DeleteTaskResponse(losses=["the definition"])
    cli("task", "delete", "nightly", "--dry-run")
    cli("task", "delete", "nightly", "--yes")
    asked = [row.validate_only for row in cli.snapshot.asked("DeleteTask")]
    assert asked == [True, True, False]


def test_a_run_is_found_by_its_id_alone(cli: CommandLine) -> None:
    cli.snapshot.answers["ListRuns"] = api.ListRunsResponse(runs=[run("SUCCEEDED")])
    cli("run", "get", "r7")
    cli("run", "get", "nightly/r7")
    cli("run", "get", NAME)
    assert [row.name for row in cli.snapshot.asked("GetRun")] == [NAME] * 3


def test_runs_are_listed_by_task_with_their_schedule(cli: CommandLine) -> None:
    over = run("SUCCEEDED")
    over.schedule = "schedules/night"
    cli.snapshot.answers["ListRuns"] = api.ListRunsResponse(runs=[over])
    shown = cli("run", "list", "--task", "nightly")
    assert all(word in shown for word in ("nightly/r7", "SUCCEEDED", "night"))
    assert cli.snapshot.asked("ListRuns")[0].task == "tasks/nightly"


def test_a_run_is_shown_with_outputs(cli: CommandLine) -> None:
    over = run("FAILED", replica("site-b", "FAILED"), error="COMMAND_FAILED")
    over.steps.extend([step("command", "site-b", error="exit status 3")])
    over.steps[0].output = "disk is full\n"
    cli.snapshot.answers["GetRun"] = api.GetRunResponse(run=over)
    shown = cli("run", "get", "nightly/r7")
    assert all(word in shown for word in ("disk is full", "exit status 3", "FAILED after 2s"))


def test_a_schedule_is_made(cli: CommandLine) -> None:
    cli.snapshot.answers["CreateSchedule"] = lambda asked: api.CreateScheduleResponse(
        schedule=asked.schedule
    )
    words = "schedule create night nightly --jitter 5m --overlap wait --catch-up 1h --all -g demo"
    shown = cli(*words.replace(" --all", "").split(), "--cron", "0 2 * * *")
    assert all(word in shown for word in ("0 2 * * * (UTC)", "WAIT", "5m00s", "1h00m"))
    (asked,) = cli.snapshot.asked("CreateSchedule")
    assert asked.schedule.task == "tasks/nightly"
    assert asked.schedule.overlap == api.Schedule.OVERLAP_WAIT
    assert asked.schedule.jitter.seconds == 300


def schedule() -> api.Schedule:
    made = api.Schedule(
        name="schedules/night",
        task="tasks/nightly",
        cron="0 2 * * *",
        missed=3,
        missed_reason="OVERLAP: the last run was not over",
        last_run=NAME,
        source="api",
    )
    made.next_time.FromSeconds(1_700_000_000)
    return made


def test_a_schedule_is_shown_with_what_it_missed(cli: CommandLine) -> None:
    cli.snapshot.answers |= {
        "GetSchedule": api.GetScheduleResponse(schedule=schedule()),
        "ListSchedules": api.ListSchedulesResponse(schedules=[schedule()]),
    }
    assert "3: OVERLAP: the last run was not over" in cli("schedule", "describe", "night")
    assert "nightly/r7" in cli.output
    assert "0 2 * * *" in cli("schedule", "list")
    assert cli.json("schedule", "list")["schedules"][0]["missed"] == "3"


@pytest.mark.parametrize(("verb", "paused"), [("pause", True), ("resume", False)])
def test_a_schedule_is_paused_and_resumed(cli: CommandLine, verb: str, paused: bool) -> None:
    there = schedule()
    there.paused = not paused
    cli.snapshot.answers |= {
        "GetSchedule": api.GetScheduleResponse(schedule=there),
        "UpdateSchedule": lambda asked: api.UpdateScheduleResponse(schedule=asked.schedule),
    }
    assert json.loads(cli("schedule", verb, "night", "-o", "json"))["paused"] is paused
    (asked,) = cli.snapshot.asked("UpdateSchedule")
    assert (asked.schedule.paused, asked.schedule.cron) == (paused, "0 2 * * *")


def test_a_schedule_is_deleted(cli: CommandLine) -> None:
    assert "schedule night is removed" in cli("schedule", "delete", "schedules/night", "--yes")


@pytest.mark.parametrize("words", ["task run a/b", "schedule pause x/y", "run get a/b/c"])
def test_what_is_no_name_is_refused_before_any_call(cli: CommandLine, words: str) -> None:
    cli(*words.split(), code=2)
    assert not cli.snapshot.requests
