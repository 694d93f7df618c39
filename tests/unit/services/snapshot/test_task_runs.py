"""Runs of tasks against a fake Primary and fake Secondaries: the order, and each way to fail."""

import getpass
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.snapshot import steps
from slackwater.errors import DeadlineExceeded, FailedPrecondition
from slackwater.runtime import status
from slackwater.v1 import common_pb2, primary_pb2, record_pb2, snapshot_pb2
from tests.unit.services.snapshot.task_world import (
    SENT,
    TASK,
    Desk,
    delivered,
    outcome,
    program,
    run_task,
    start,
    task,
    words,
)
from tests.unit.services.snapshot.world import GROUP, World, play

Run = snapshot_pb2.Run
CONFIRMED, REVOKED = record_pb2.Outcome.STATE_CONFIRMED, record_pb2.Outcome.STATE_REVOKED
QUIESCE = primary_pb2.Quiesce(applications=["db"])

Scene = Callable[[World], Coroutine[Any, Any, Any]]
Stage = Callable[..., Any]


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk()
    yield made
    made.stop()


@pytest.fixture
def pair() -> Iterator[Desk]:
    made = Desk("site-b", "site-c")
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "FIRST_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(steps, "LAST_RETRY_SECONDS", 0.05)


def act(tmp_path: Path, desk: Desk, scene: Scene, **settings: Any) -> Any:
    """Run a scene between the fakes."""
    return play(tmp_path / "data", scene, primary=desk.service.address, **settings)


def run(tmp_path: Path, desk: Desk, made: snapshot_pb2.Task, **fields: Any) -> Run:
    """One run of a task, to its end; nothing is left anywhere."""

    async def scene(world: World) -> Run:
        over = await run_task(world, made, **fields)
        await world.until(
            lambda: (
                not world.service.metrics.registry.get_sample_value(
                    "slackwater_snapshot_runs_active"
                )
            )
        )
        return await world.get(over)

    found: Run = act(tmp_path, desk, scene)
    assert not desk.registered
    for site in desk.sites.values():
        assert not site.registered
        assert not site.exported
        assert not site.frozen_at
    return found


def test_freeze_task_does_the_cycle_in_the_contracts_order(tmp_path: Path, desk: Desk) -> None:
    data = tmp_path / "data"
    program(data, "before.sh", "echo before; env | grep SLACKWATER_MESSAGE_ID=")
    program(data, "after.sh", "env")
    desk.judgement = outcome(CONFIRMED)
    made = task(
        quiesce=QUIESCE,
        prefreeze=[["before.sh"]],
        onfreeze=["snapshot"],
        postfreeze=["export", ["after.sh", "x"]],
    )
    over = run(tmp_path, desk, made)
    assert (over.state, over.error) == (Run.STATE_SUCCEEDED, "")
    assert words(over) == [
        *("command", "register", "register", "hold", "send", "receive", "snapshot", "unfreeze"),
        *("outcome", "export", "command", "unexport", "unregister", "unregister"),
    ]
    (replica,) = over.replicas
    assert replica.state == Run.STATE_SUCCEEDED
    assert replica.verdict == common_pb2.VERDICT_STATE_UNFROZEN
    assert replica.grade == common_pb2.SNAPSHOT_GRADE_APPLICATION
    assert replica.confirmed
    assert replica.position.lsn == 42
    assert replica.frozen_for.ToMilliseconds() == 70
    assert over.message == SENT
    assert over.fence_held.ToMilliseconds() == 3
    assert over.quiesce_window.ToMilliseconds() == 40
    assert over.judgement.state == CONFIRMED
    assert over.steps[0].output == "before\nSLACKWATER_MESSAGE_ID=\n"
    printed = over.steps[-4].output
    for line in (
        *("SLACKWATER_GROUP=demo", "SLACKWATER_TASK=nightly", "SLACKWATER_LINK=site-b"),
        *("SLACKWATER_MESSAGE_ID=m1", "SLACKWATER_POSITION=1/42", "SLACKWATER_STEP=command"),
        f"SLACKWATER_SNAPSHOT={over.snapshot.rpartition('/')[2]}",
        f"SLACKWATER_NBD_URIS=nbd://127.0.0.1/{over.snapshot}",
    ):
        assert line in printed.splitlines()
    assert "HOME" not in printed


def test_snapshot_task_never_stands(tmp_path: Path, desk: Desk) -> None:
    over = run(tmp_path, desk, task())
    assert (over.state, over.error) == (Run.STATE_SUCCEEDED, "")
    assert words(over) == ["register", "send", "snapshot", "unregister"]
    assert over.replicas[0].verdict == common_pb2.VERDICT_STATE_SNAPSHOTTED
    assert over.snapshot.startswith(f"{GROUP}/snapshots/nightly-")
    assert desk.site.calls == []


def test_row_prefreeze_fails_nothing_is_sent(tmp_path: Path, pair: Desk) -> None:
    """Failure table: prefreeze."""
    program(tmp_path / "data", "check.sh", '[ "$SLACKWATER_LINK" = site-b ] && sleep 30; exit 3')
    made = task(prefreeze=[["check.sh"]], onfreeze=["snapshot"])
    over = run(tmp_path, pair, made, all_links=True)
    assert over.state == Run.STATE_FAILED
    assert over.error == ("PREFREEZE_FAILED: site-c: COMMAND_FAILED: check.sh ended with status 3")
    assert [row.state for row in over.replicas] == [Run.STATE_CANCELLED, Run.STATE_FAILED]
    assert not pair.service.asked("SendMessage")
    assert not pair.service.asked("RegisterApplication")


@pytest.mark.parametrize(
    "error",
    [
        DeadlineExceeded("the quiesce by db", 30),
        FailedPrecondition("QUIESCE_FAILED", "agent db said no"),
        DeadlineExceeded("the fence", 1),
    ],
)
def test_row_quiesce_fence_or_append_fails_no_freeze_happens(
    tmp_path: Path, desk: Desk, error: Exception
) -> None:
    """Failure table: quiesce, or its time-out; fence or append."""
    desk.send_error = [error]  # type: ignore[list-item]
    over = run(tmp_path, desk, task(quiesce=QUIESCE, onfreeze=["snapshot"]))
    assert over.state == Run.STATE_FAILED
    assert str(error) in over.error
    assert len(desk.service.asked("SendMessage")) == 1
    assert words(over) == [
        *("register", "register", "hold", "send", "unregister", "unregister"),
    ]


def test_row_hold_broke_the_secondary_side_is_finished(tmp_path: Path, desk: Desk) -> None:
    """Failure table: resume, or the hold broke."""
    desk.judgement = outcome(REVOKED)
    program(tmp_path / "data", "after.sh", "echo done")
    over = run(
        tmp_path,
        desk,
        task(quiesce=QUIESCE, onfreeze=["snapshot"], postfreeze=[["after.sh"]]),
    )
    assert over.state == Run.STATE_FAILED
    assert over.error.startswith("QUIESCE_REVOKED")
    assert "db's session died" in over.error
    (replica,) = over.replicas
    assert replica.state == Run.STATE_SUCCEEDED
    assert (replica.grade, replica.confirmed) == (common_pb2.SNAPSHOT_GRADE_CRASH, False)
    assert "done\n" in [step.output for step in over.steps]


@pytest.mark.parametrize(
    ("text", "reason"), [("exit 1", "COMMAND_FAILED"), ("sleep 60", "COMMAND_TIMED_OUT")]
)
def test_row_onfreeze_fails_it_unfreezes_and_skips_postfreeze(
    tmp_path: Path, desk: Desk, text: str, reason: str
) -> None:
    """Failure table: onfreeze, or its time-out."""
    program(tmp_path / "data", "at.sh", text)
    made = task(onfreeze=["snapshot", ["at.sh"]], postfreeze=["export"])
    made.onfreeze[1].timeout.FromMilliseconds(300)
    over = run(tmp_path, desk, made)
    assert over.state == Run.STATE_FAILED
    assert reason in over.error
    assert words(over)[-4:] == ["command", "unfreeze", "unregister", "unregister"]
    assert over.replicas[0].verdict == common_pb2.VERDICT_STATE_UNFROZEN
    assert over.replicas[0].snapshot in desk.site.snapshots


def test_row_one_secondary_of_several_has_its_own_verdict(tmp_path: Path, pair: Desk) -> None:
    """Failure table: one Secondary of several."""
    pair.undelivered["site-c"] = common_pb2.VERDICT_STATE_SKIPPED_INCONSISTENT
    over = run(tmp_path, pair, task(onfreeze=["snapshot"]), all_links=True)
    assert over.state == Run.STATE_FAILED
    well, ill = over.replicas
    assert (well.state, well.verdict) == (
        Run.STATE_SUCCEEDED,
        common_pb2.VERDICT_STATE_UNFROZEN,
    )
    assert (ill.state, ill.verdict) == (
        Run.STATE_FAILED,
        common_pb2.VERDICT_STATE_SKIPPED_INCONSISTENT,
    )
    assert "SKIPPED_INCONSISTENT" in over.error


def test_secondary_that_is_away_does_not_stop_the_others(
    tmp_path: Path, pair: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.snapshot.tasks.half.CALL_SECONDS", 1.0)
    pair.sites["site-c"].service.stop()
    over = run(tmp_path, pair, task(onfreeze=["snapshot"]), all_links=True)
    assert [row.state for row in over.replicas] == [Run.STATE_SUCCEEDED, Run.STATE_FAILED]
    assert "is not available" in over.replicas[1].error
    assert pair.service.asked("SendMessage")[0].links == ["site-b"]


@pytest.mark.parametrize(
    "state",
    [
        common_pb2.LINK_STATE_DETACHED,
        common_pb2.LINK_STATE_DIVERGED,
        common_pb2.LINK_STATE_FAILED,
    ],
)
def test_link_that_nothing_comes_through_fails_alone(
    tmp_path: Path, pair: Desk, state: common_pb2.LinkState.ValueType
) -> None:
    pair.states["site-c"] = state
    over = run(tmp_path, pair, task(onfreeze=["snapshot"]), links=["site-b", "site-c"])
    assert [row.state for row in over.replicas] == [Run.STATE_SUCCEEDED, Run.STATE_FAILED]
    assert "link site-c is" in over.replicas[1].error
    assert pair.service.asked("SendMessage")[0].links == ["site-b"]


def test_lease_that_is_refused_says_why(tmp_path: Path, desk: Desk) -> None:
    desk.site.service.answers["HoldMessage"] = FailedPrecondition("NOT_HERE", "no lease today")
    over = run(tmp_path, desk, task(onfreeze=["snapshot"]))
    assert over.error == (
        "SECONDARIES_FAILED: nothing was sent: site-b: LEASE_REFUSED: NOT_HERE: no lease today"
    )
    assert not desk.service.asked("SendMessage")


def test_row_postfreeze_fails_the_snapshot_stays_valid(tmp_path: Path, desk: Desk) -> None:
    """Failure table: postfreeze."""
    program(tmp_path / "data", "after.sh", "kill -SEGV $$")
    over = run(tmp_path, desk, task(postfreeze=[["after.sh"]]))
    assert over.state == Run.STATE_FAILED
    assert "COMMAND_KILLED: after.sh was ended by signal 11" in over.error
    assert over.replicas[0].snapshot in desk.site.snapshots
    assert over.replicas[0].verdict == common_pb2.VERDICT_STATE_SNAPSHOTTED
    assert next(step for step in over.steps if step.step == "command").exit_status == 139


def test_freeze_that_ends_under_a_step_ends_the_step(tmp_path: Path, desk: Desk) -> None:
    program(tmp_path / "data", "at.sh", "sleep 60")
    desk.site.thaw_as = common_pb2.VERDICT_STATE_FREEZE_LOG_LIMIT

    async def scene(world: World) -> Run:
        made = task(onfreeze=[["at.sh"]])
        await world.api.CreateTask(snapshot_pb2.CreateTaskRequest(task=made))
        begun = await start(world)
        await world.until(lambda: bool(desk.site.frozen_at))
        desk.site.thaw_now.set()
        return await world.end(begun)

    over = act(tmp_path, desk, scene)
    assert over.state == Run.STATE_FAILED
    assert "FREEZE_LOG_LIMIT" in over.error
    assert over.replicas[0].verdict == common_pb2.VERDICT_STATE_FREEZE_LOG_LIMIT


def test_stream_that_breaks_is_opened_again_and_the_freeze_goes_on(
    tmp_path: Path, desk: Desk
) -> None:
    gate = tmp_path / "gate"
    tmp_path.chmod(0o755)
    program(tmp_path / "data", "at.sh", f"while [ ! -e {gate} ]; do sleep 0.05; done")

    async def scene(world: World) -> Run:
        made = task(onfreeze=["snapshot", ["at.sh"]])
        await world.api.CreateTask(snapshot_pb2.CreateTaskRequest(task=made))
        begun = await start(world)
        await world.until(lambda: bool(desk.site.snapshots))
        desk.site.break_once.set()
        await world.until(lambda: desk.site.calls.count("HoldMessage") == 2)
        assert desk.site.frozen_at == SENT
        gate.touch()
        return await world.end(begun)

    over = act(tmp_path, desk, scene, command_user=getpass.getuser())
    assert (over.state, over.error) == (Run.STATE_SUCCEEDED, "")
    assert over.replicas[0].verdict == common_pb2.VERDICT_STATE_UNFROZEN


def test_message_of_an_interrupted_run_is_unfrozen_and_not_worked_on(
    tmp_path: Path, desk: Desk
) -> None:
    other = f"{GROUP}/messages/m0"
    desk.before_send = lambda: desk.site.coming.put(delivered(other))
    over = run(tmp_path, desk, task(onfreeze=["snapshot"]))
    assert (over.state, over.error) == (Run.STATE_SUCCEEDED, "")
    assert [row.message for row in desk.site.snapshots.values()] == [SENT]


def test_cancelled_run_ends_its_freeze(tmp_path: Path, desk: Desk) -> None:
    program(tmp_path / "data", "at.sh", "sleep 60")

    async def scene(world: World) -> Run:
        made = task(onfreeze=[["at.sh"]])
        await world.api.CreateTask(snapshot_pb2.CreateTaskRequest(task=made))
        begun = await start(world)
        await world.until(lambda: bool(desk.site.frozen_at))
        answer = await world.api.CancelRun(snapshot_pb2.CancelRunRequest(name=begun.name))
        assert not desk.site.frozen_at
        cancelled: Run = answer.run
        return cancelled

    over = act(tmp_path, desk, scene)
    assert over.state == Run.STATE_CANCELLED
    assert over.replicas[0].state == Run.STATE_CANCELLED
    assert not desk.site.registered


def test_lost_answer_of_the_send_is_asked_for_again(tmp_path: Path, desk: Desk) -> None:
    real = desk.send
    lost = iter((True, False))

    def send(request: Any) -> Any:
        answer = real(request)
        return grpc.StatusCode.UNAVAILABLE if next(lost) else answer

    desk.service.answers["SendMessage"] = send
    over = run(tmp_path, desk, task())
    assert over.state == Run.STATE_SUCCEEDED
    first, second = desk.service.asked("SendMessage")
    assert first.request_id
    assert first.request_id == second.request_id
    assert len(desk.site.snapshots) == 1


def test_plan_says_what_runs_where_and_what_it_holds(tmp_path: Path, pair: Desk) -> None:
    program(tmp_path / "data", "at.sh", "")
    made = task(quiesce=QUIESCE, onfreeze=["snapshot", ["at.sh", "a b"]], postfreeze=["fsck"])

    async def scene(world: World) -> Any:
        await world.api.CreateTask(snapshot_pb2.CreateTaskRequest(task=made))
        request = snapshot_pb2.StartTaskRequest(
            name=TASK, group=GROUP, links=["site-c"], validate_only=True
        )
        return (await world.api.StartTask(request)).plan

    plan = {step.step: step for step in act(tmp_path, pair, scene)}
    assert list(plan) == [
        *("register", "hold", "quiesce", "send", "receive", "snapshot", "command"),
        *("unfreeze", "outcome", "fsck", "unregister"),
    ]
    assert plan["quiesce"].holds == "db: each at most 10 s"
    assert plan["send"].holds == "writes to groups/demo: at most 1 s"
    assert plan["snapshot"].holds.startswith("applying on site-c")
    assert plan["command"].detail == "at.sh 'a b'"
    assert (plan["command"].where, plan["command"].timeout.seconds) == ("manager", 300)
    assert not pair.service.asked("SendMessage")
    assert not pair.service.asked("RegisterApplication")


@pytest.mark.parametrize(
    ("fields", "code", "sentence"),
    [
        ({"links": ["nope"]}, grpc.StatusCode.INVALID_ARGUMENT, "there is no link 'nope'"),
        ({"links": ["site-b", "site-b"]}, grpc.StatusCode.INVALID_ARGUMENT, "twice"),
        ({"links": ["site-b"], "all_links": True}, grpc.StatusCode.INVALID_ARGUMENT, "all_links"),
        ({}, grpc.StatusCode.INVALID_ARGUMENT, "the group has site-b, site-c"),
        ({"group": ""}, grpc.StatusCode.INVALID_ARGUMENT, "group"),
        ({"group": "groups/nope"}, grpc.StatusCode.NOT_FOUND, "nope"),
    ],
)
def test_start_that_cannot_work_is_refused(
    tmp_path: Path, pair: Desk, fields: dict[str, Any], code: grpc.StatusCode, sentence: str
) -> None:
    async def scene(world: World) -> None:
        await world.api.CreateTask(snapshot_pb2.CreateTaskRequest(task=task()))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await start(world, **fields)
        assert caught.value.code() is code
        assert sentence in str(caught.value.details())
        assert not (await world.api.ListRuns(snapshot_pb2.ListRunsRequest())).runs

    act(tmp_path, pair, scene)


def test_group_without_an_attached_link_is_refused(tmp_path: Path, desk: Desk) -> None:
    desk.states["site-b"] = common_pb2.LINK_STATE_DETACHED

    async def scene(world: World) -> None:
        await world.api.CreateTask(snapshot_pb2.CreateTaskRequest(task=task()))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await start(world, all_links=True)
        assert status.decode(caught.value).reason == "NO_LINK"

    act(tmp_path, desk, scene)


@pytest.mark.parametrize(("mode", "words_"), [(0o644, "not executable"), (0o777, "by others")])
def test_command_that_is_not_to_be_trusted_is_refused_at_the_start(
    tmp_path: Path, desk: Desk, mode: int, words_: str
) -> None:
    program(tmp_path / "data", "after.sh", "", mode)

    async def scene(world: World) -> None:
        made = task(postfreeze=[["after.sh"]])
        await world.api.CreateTask(snapshot_pb2.CreateTaskRequest(task=made))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await start(world)
        assert status.decode(caught.value).reason == "COMMAND_REFUSED"
        assert "postfreeze[0].command" in str(caught.value.details())
        assert words_ in str(caught.value.details())

    act(tmp_path, desk, scene)


def test_two_runs_do_not_take_each_others_messages(tmp_path: Path, desk: Desk) -> None:
    program(tmp_path / "data", "at.sh", "sleep 60")

    async def scene(world: World) -> None:
        made = task(onfreeze=[["at.sh"]])
        await world.api.CreateTask(snapshot_pb2.CreateTaskRequest(task=made))
        first = await start(world, request_id="one")
        assert (await start(world, request_id="one")).name == first.name
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await start(world, request_id="two")
        assert status.decode(caught.value).reason == "TASK_IS_RUNNING"
        assert first.name in str(caught.value.details())
        await world.api.CancelRun(snapshot_pb2.CancelRunRequest(name=first.name))

    act(tmp_path, desk, scene)


def test_runs_are_listed_by_task_without_outputs(tmp_path: Path, desk: Desk) -> None:
    program(tmp_path / "data", "after.sh", "echo words")

    async def scene(world: World) -> None:
        over = await run_task(world, task(postfreeze=[["after.sh"]]))
        assert "words\n" in [step.output for step in over.steps]
        found = (await world.api.ListRuns(snapshot_pb2.ListRunsRequest(task=TASK))).runs
        assert [row.name for row in found] == [over.name]
        assert not any(step.output for step in found[0].steps)
        other = snapshot_pb2.ListRunsRequest(task="tasks/other")
        assert not (await world.api.ListRuns(other)).runs
        registry = world.service.metrics.registry
        labels = {"task": "nightly", "result": "SUCCEEDED"}
        assert registry.get_sample_value("slackwater_snapshot_runs_total", labels) == 1
        assert (
            registry.get_sample_value("slackwater_snapshot_run_seconds_count", {"task": "nightly"})
            == 1
        )
        assert registry.get_sample_value(
            "slackwater_snapshot_last_success_timestamp_seconds",
            {"task": "nightly", "group": "demo"},
        )

    act(tmp_path, desk, scene)


def test_primary_that_is_away_refuses_the_start(tmp_path: Path, desk: Desk) -> None:
    async def scene(world: World) -> None:
        await world.api.CreateTask(snapshot_pb2.CreateTaskRequest(task=task()))
        desk.service.stop()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await start(world)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE

    act(tmp_path, desk, scene)
