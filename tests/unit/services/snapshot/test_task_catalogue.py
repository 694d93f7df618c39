"""Tasks: made, changed and removed over the API, read from files, and never mixed up."""

import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.snapshot.tasks import trust
from slackwater.runtime import status
from slackwater.v1 import snapshot_pb2 as api
from tests.unit.services.snapshot.world import Secondary, World, play

NIGHTLY = "tasks/nightly"


def scene(tmp_path: Path, act: Callable[[World], Coroutine[Any, Any, Any]]) -> Any:
    """Run a scene against the service of one data directory."""
    return play(tmp_path / "data", act, Secondary())


def write(tmp_path: Path, text: str, task: str = "nightly") -> Path:
    """Write the file of a task, as nobody else may."""
    tasks = tmp_path / "data" / "tasks"
    file = tasks / task / "task.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    for path in (tasks, file.parent, file):
        path.chmod(path.stat().st_mode & ~0o022)
    return file


async def refused(call: Any) -> status.RemoteError:
    """The refusal of a call."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return status.decode(caught.value)


def made(**fields: Any) -> api.CreateTaskRequest:
    return api.CreateTaskRequest(task=api.Task(name=NIGHTLY, **fields))


def test_tasks_of_the_api_survive_a_restart(tmp_path: Path) -> None:
    async def make(world: World) -> None:
        task = (await world.api.CreateTask(made(body="first"))).task
        assert task.source == "api"
        changed = api.UpdateTaskRequest(task=api.Task(name=NIGHTLY, body="second"))
        await world.api.UpdateTask(changed)

    async def look(world: World) -> Any:
        return (await world.api.GetTask(api.GetTaskRequest(name=NIGHTLY))).task

    scene(tmp_path, make)
    assert scene(tmp_path, look).body == "second"


def test_a_repeated_create_gets_the_first_answer(tmp_path: Path) -> None:
    async def act(world: World) -> None:
        request = made()
        request.request_id = "r1"
        first = await world.api.CreateTask(request)
        assert await world.api.CreateTask(request) == first
        assert (await refused(world.api.CreateTask(made()))).code is grpc.StatusCode.ALREADY_EXISTS

    scene(tmp_path, act)


def test_validating_changes_nothing(tmp_path: Path) -> None:
    async def act(world: World) -> None:
        request = made()
        request.validate_only = True
        await world.api.CreateTask(request)
        assert not (await world.api.ListTasks(api.ListTasksRequest())).tasks
        await world.api.CreateTask(made())
        wanted = api.DeleteTaskRequest(name=NIGHTLY, validate_only=True)
        assert NIGHTLY in (await world.api.DeleteTask(wanted)).losses[0]
        changed = api.UpdateTaskRequest(task=api.Task(name=NIGHTLY, body="x"), validate_only=True)
        await world.api.UpdateTask(changed)
        assert not (await world.api.GetTask(api.GetTaskRequest(name=NIGHTLY))).task.body
        await world.api.DeleteTask(api.DeleteTaskRequest(name=NIGHTLY))
        gone = await refused(world.api.GetTask(api.GetTaskRequest(name=NIGHTLY)))
        assert gone.code is grpc.StatusCode.NOT_FOUND

    scene(tmp_path, act)


def test_a_task_that_cannot_work_is_refused_with_its_field(tmp_path: Path) -> None:
    async def act(world: World) -> None:
        wrong = made(prefreeze=[api.TaskStep()])
        failure = await refused(world.api.CreateTask(wrong))
        assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
        assert failure.field == "task.prefreeze[0]"
        built_in = api.CreateTaskRequest(task=api.Task(name="tasks/snapshot"))
        assert "built-in" in (await refused(world.api.CreateTask(built_in))).message

    scene(tmp_path, act)


def test_tasks_of_files_are_read_and_read_again(tmp_path: Path) -> None:
    file = write(tmp_path, "body: one")

    async def act(world: World) -> None:
        wanted = api.GetTaskRequest(name=NIGHTLY)
        task = (await world.api.GetTask(wanted)).task
        assert (task.body, task.source) == ("one", str(file))
        write(tmp_path, "body: another")
        assert (await world.api.GetTask(wanted)).task.body == "another"
        file.unlink()
        assert (await refused(world.api.GetTask(wanted))).code is grpc.StatusCode.NOT_FOUND

    scene(tmp_path, act)


def test_a_task_of_a_file_is_read_only_over_the_api(tmp_path: Path) -> None:
    file = write(tmp_path, "body: one")

    async def act(world: World) -> None:
        for call in (
            world.api.UpdateTask(api.UpdateTaskRequest(task=api.Task(name=NIGHTLY))),
            world.api.DeleteTask(api.DeleteTaskRequest(name=NIGHTLY)),
        ):
            failure = await refused(call)
            assert failure.code is grpc.StatusCode.FAILED_PRECONDITION
            assert str(file) in failure.message
        assert (await refused(world.api.CreateTask(made()))).code is grpc.StatusCode.ALREADY_EXISTS

    scene(tmp_path, act)


def test_a_bad_file_takes_away_its_own_task_only(tmp_path: Path) -> None:
    bad = write(tmp_path, "body: one\n\nonfreeze: [snapshoot]")
    write(tmp_path, "body: good", "hourly")
    write(tmp_path, "body: x", "snapshot")
    write(tmp_path, "body: x", "Not_A_Name")

    async def act(world: World) -> None:
        answer = await world.api.ListTasks(api.ListTasksRequest())
        assert [task.name for task in answer.tasks] == ["tasks/hourly"]
        problems = {Path(row.file).parent.name: row for row in answer.problems}
        assert problems["nightly"].file == str(bad)
        assert problems["nightly"].line == 3
        assert problems["nightly"].field == "onfreeze[0].snapshoot"
        assert "built-in" in problems["snapshot"].problem
        assert "is not a name" in problems["Not_A_Name"].problem
        shown = await world.api.GetStatus(api.SnapshotServiceGetStatusRequest())
        assert shown.problems == answer.problems
        failure = await refused(world.api.GetTask(api.GetTaskRequest(name=NIGHTLY)))
        assert failure.code is grpc.StatusCode.FAILED_PRECONDITION
        assert f"{bad}:3" in failure.message
        metrics = world.service.metrics.registry
        assert metrics.get_sample_value("slackwater_snapshot_task_files_bad") == 3
        assert metrics.get_sample_value("slackwater_snapshot_tasks", {"source": "file"}) == 1

    scene(tmp_path, act)


def test_a_bad_file_is_told_to_those_who_watch(tmp_path: Path) -> None:
    async def act(world: World) -> None:
        call = world.api.WatchEvents(api.SnapshotServiceWatchEventsRequest())
        await call.initial_metadata()
        write(tmp_path, "nothing: here")
        await world.api.ListTasks(api.ListTasksRequest())
        event = (await call.read()).event
        assert (event.resource, event.kind) == (NIGHTLY, "TASK_FILE_BAD")
        assert "nothing" in event.text
        call.cancel()

    scene(tmp_path, act)


def test_a_file_that_others_can_write_is_not_used(tmp_path: Path) -> None:
    file = write(tmp_path, "body: one")
    file.chmod(0o666)

    async def act(world: World) -> None:
        (problem,) = (await world.api.ListTasks(api.ListTasksRequest())).problems
        assert "chmod go-w" in problem.problem
        file.chmod(0o644)
        file.parent.chmod(0o777)
        (problem,) = (await world.api.ListTasks(api.ListTasksRequest())).problems
        assert str(file.parent) in problem.problem

    scene(tmp_path, act)


def test_a_file_named_like_a_task_of_the_api_does_not_count(tmp_path: Path) -> None:
    async def act(world: World) -> None:
        await world.api.CreateTask(made(body="api"))
        write(tmp_path, "body: file")
        answer = await world.api.ListTasks(api.ListTasksRequest())
        assert [task.body for task in answer.tasks] == ["api"]
        assert "Delete one of the two" in answer.problems[0].problem

    scene(tmp_path, act)


def test_tasks_directory_that_cannot_be_read_is_shown(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "tasks").write_text("")

    async def act(world: World) -> None:
        (problem,) = (await world.api.ListTasks(api.ListTasksRequest())).problems
        assert problem.file.endswith("/tasks")

    scene(tmp_path, act)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A task's directory that nobody else can write."""
    path = tmp_path / "home"
    path.mkdir(mode=0o755)
    path.chmod(0o755)
    program = path / "run.sh"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return path


def test_program_of_the_task_is_trusted(home: Path) -> None:
    assert trust.program_problem(home, "run.sh") == ""
    assert trust.program_problem(home, "./run.sh") == ""


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda home: (home / "run.sh").chmod(0o644), "not executable"),
        (lambda home: (home / "run.sh").chmod(0o775), "by its group or by others"),
        (lambda home: (home / "run.sh").chmod(0o757), "by its group or by others"),
        (lambda home: home.chmod(0o777), "by its group or by others"),
        (lambda home: (home / "run.sh").unlink(), "cannot be used"),
        (lambda home: ((home / "run.sh").unlink(), (home / "run.sh").mkdir(0o755)), "not a file"),
        (
            lambda home: ((home / "run.sh").unlink(), (home / "run.sh").symlink_to("/bin/sh")),
            "outside the task's directory",
        ),
    ],
)
def test_program_that_is_not_the_tasks_own_is_refused(
    home: Path, spoil: Callable[[Path], object], words: str
) -> None:
    spoil(home)
    assert words in trust.program_problem(home, "run.sh")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_program_of_another_user_is_refused(home: Path) -> None:
    os.chown(home / "run.sh", 12345, 0)
    assert "belongs to user 12345" in trust.program_problem(home, "run.sh")


PAIR = """\
onfreeze:
  - snapshot:
  - command:
      arguments: [./check.sh, --fast]
"""


def test_program_that_cannot_be_run_is_a_problem_with_file_and_line(tmp_path: Path) -> None:
    file = write(tmp_path, PAIR)
    program = file.parent / "check.sh"

    async def problems(world: World) -> list[Any]:
        listed = (await world.api.ListTasks(api.ListTasksRequest())).problems
        status_ = await world.api.GetStatus(api.SnapshotServiceGetStatusRequest())
        assert list(status_.problems) == list(listed)
        return list(listed)

    async def act(world: World) -> None:
        (missing,) = await problems(world)
        assert (missing.file, missing.line) == (str(file), 3)
        assert missing.field == "onfreeze[1].command"
        assert f"{program} cannot be used: No such file" in missing.problem
        program.write_text("#!/bin/sh\n")
        program.chmod(0o644)
        (plain,) = await problems(world)
        assert "chmod +x" in plain.problem
        program.chmod(0o757)
        (open_to_all,) = await problems(world)
        assert "by others" in open_to_all.problem
        start = api.StartTaskRequest(name=NIGHTLY, group="groups/g")
        refusal = await refused(world.api.StartTask(start))
        assert refusal.reason == "COMMAND_REFUSED"
        assert f"{file}:3: onfreeze[1].command: {program} " in refusal.message
        program.chmod(0o755)
        assert await problems(world) == []

    scene(tmp_path, act)


def test_program_of_a_task_of_the_api_is_looked_at_too(tmp_path: Path) -> None:
    async def act(world: World) -> None:
        step = api.TaskStep(command=api.TaskStep.Command(arguments=["./no.sh"]))
        await world.api.CreateTask(made(postfreeze=[step]))
        (problem,) = (await world.api.ListTasks(api.ListTasksRequest())).problems
        assert (problem.file, problem.line) == (str(tmp_path / "data" / "tasks" / "nightly"), 0)
        assert problem.field == "postfreeze[0].command"

    scene(tmp_path, act)
