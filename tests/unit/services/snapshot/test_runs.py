"""Runs: taken, refused, cancelled, interrupted; and a freeze that is ended whatever happens."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from services.snapshot import steps
from services.snapshot.store import RunRecord, RunStore
from slackwater.errors import AlreadyExists, FailedPrecondition, NoSpace, Unavailable
from slackwater.storage.real import RealStorage
from slackwater.v1 import common_pb2, secondary_pb2, snapshot_pb2
from tests.unit.services.snapshot.world import (
    GROUP,
    MESSAGE,
    Secondary,
    World,
    freeze_message,
    play,
)

Run = snapshot_pb2.Run
CYCLE = ["RegisterApplication", "ReceiveMessage", "CreateSnapshot", "Unfreeze"]


@pytest.fixture
def secondary() -> Secondary:
    return Secondary()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "FIRST_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(steps, "LAST_RETRY_SECONDS", 0.05)


def test_snapshot_now_is_a_crash_point(tmp_path: Path, secondary: Secondary) -> None:
    run = play(tmp_path, lambda world: world.run_to_end(snapshot_id="s1"), secondary)
    assert run.state == Run.STATE_SUCCEEDED
    assert run.snapshot == f"{GROUP}/snapshots/s1"
    assert (run.message, run.grade) == ("", common_pb2.SNAPSHOT_GRADE_CRASH)
    assert run.snapshot_duration.ToMilliseconds() == 4
    assert secondary.calls == ["CreateSnapshot"]


def test_snapshot_now_of_a_frozen_replica_is_at_its_message(
    tmp_path: Path, secondary: Secondary
) -> None:
    secondary.frozen_at, secondary.holder = MESSAGE, "somebody"
    run = play(tmp_path, lambda world: world.run_to_end(snapshot_id="s1"), secondary)
    assert (run.state, run.message) == (Run.STATE_SUCCEEDED, MESSAGE)
    assert secondary.frozen_at == MESSAGE  # it is not this run's to end


def test_freeze_that_ends_meanwhile_makes_it_a_crash_point(
    tmp_path: Path, secondary: Secondary
) -> None:
    secondary.frozen_at = MESSAGE

    def thaw_first(request: Any) -> Any:
        secondary.frozen_at = ""
        return secondary.create_snapshot(request)

    secondary.service.answers["CreateSnapshot"] = thaw_first
    run = play(tmp_path, lambda world: world.run_to_end(snapshot_id="s1"), secondary)
    assert (run.state, run.message) == (Run.STATE_SUCCEEDED, "")  # C12
    assert secondary.calls == ["CreateSnapshot", "CreateSnapshot"]


def test_run_at_the_next_message_stands_at_it_and_lets_go(
    tmp_path: Path, secondary: Secondary
) -> None:
    secondary.messages.append(freeze_message())
    run = play(tmp_path, lambda world: world.run_to_end(at_next="backup"), secondary)
    assert (run.state, run.message) == (Run.STATE_SUCCEEDED, MESSAGE)
    assert secondary.snapshots[run.snapshot].message == MESSAGE
    assert run.frozen_for.ToMilliseconds() == 70
    assert secondary.calls == [*CYCLE, "UnregisterApplication"]
    assert [step.step for step in run.steps] == [
        "register",
        "receive",
        "snapshot",
        "unfreeze",
        "unregister",
    ]
    assert secondary.frozen_at == ""


def test_name_registered_by_others_stays_registered(tmp_path: Path, secondary: Secondary) -> None:
    secondary.registered.add("backup")
    secondary.messages.append(freeze_message())
    play(tmp_path, lambda world: world.run_to_end(at_next="backup"), secondary)
    assert secondary.registered == {"backup"}
    assert secondary.calls == CYCLE[1:]


def test_failed_snapshot_fails_the_run_and_ends_the_freeze(
    tmp_path: Path, secondary: Secondary
) -> None:
    secondary.messages.append(freeze_message())
    secondary.service.answers["CreateSnapshot"] = NoSpace("the overlay", "Make room")
    run = play(tmp_path, lambda world: world.run_to_end(at_next="backup"), secondary)
    assert run.state == Run.STATE_FAILED
    assert run.error == "NO_SPACE: no space in the overlay"
    assert secondary.frozen_at == ""
    assert "Unfreeze" in secondary.calls


def test_run_without_a_message_in_time_fails_and_holds_nothing(
    tmp_path: Path, secondary: Secondary
) -> None:
    scene = lambda world: world.run_to_end(at_next="backup", wait=0.05)  # noqa: E731
    run = play(tmp_path, scene, secondary)
    assert run.state == Run.STATE_FAILED
    assert run.error.startswith("DEADLINE_EXCEEDED: the wait for a message of backup")
    assert "Unfreeze" not in secondary.calls
    assert secondary.registered == set()


def test_message_that_does_not_freeze_makes_no_snapshot(
    tmp_path: Path, secondary: Secondary
) -> None:
    message = freeze_message()
    message.behaviour = common_pb2.MESSAGE_BEHAVIOUR_NOTIFY
    secondary.messages.append(message)
    run = play(tmp_path, lambda world: world.run_to_end(at_next="backup"), secondary)
    assert run.error.startswith("NOT_FROZEN")  # C12: it would be of a later point
    assert not secondary.snapshots


def test_freeze_that_ended_by_itself_after_the_snapshot_is_no_failure(
    tmp_path: Path, secondary: Secondary
) -> None:
    secondary.messages.append(freeze_message())
    secondary.service.answers["Unfreeze"] = FailedPrecondition("FREEZE_TIMED_OUT", "it timed out")
    run = play(tmp_path, lambda world: world.run_to_end(at_next="backup"), secondary)
    assert run.state == Run.STATE_SUCCEEDED
    unfreeze = next(step for step in run.steps if step.step == "unfreeze")
    assert "timed out" in unfreeze.error


def test_secondary_that_is_gone_for_a_while_is_waited_for(
    tmp_path: Path, secondary: Secondary
) -> None:
    away = {"ReceiveMessage": 2, "CreateSnapshot": 2, "Unfreeze": 2}
    secondary.messages.append(freeze_message())
    answers = dict(secondary.service.answers)

    def sometimes(name: str) -> Any:
        def answer(request: Any) -> Any:
            away[name] -= 1
            if away[name] >= 0:
                raise Unavailable("the replica")
            real: Any = answers[name]
            return real(request)

        return answer

    for name in away:
        secondary.service.answers[name] = sometimes(name)
    run = play(tmp_path, lambda world: world.run_to_end(at_next="backup"), secondary)
    assert run.state == Run.STATE_SUCCEEDED
    assert secondary.frozen_at == ""
    requests = secondary.service.asked("CreateSnapshot")
    assert len({request.request_id for request in requests}) == 1


def test_snapshot_whose_answer_was_lost_is_found_again(
    tmp_path: Path, secondary: Secondary
) -> None:
    secondary.messages.append(freeze_message())

    def lose_answer(request: Any) -> Any:
        if secondary.snapshots:
            raise AlreadyExists("snapshot", request.snapshot_id)
        secondary.create_snapshot(request)
        raise Unavailable("the connection")

    secondary.service.answers["CreateSnapshot"] = lose_answer
    run = play(tmp_path, lambda world: world.run_to_end(at_next="backup"), secondary)
    assert (run.state, run.message) == (Run.STATE_SUCCEEDED, MESSAGE)


def test_secondary_that_dies_while_frozen_is_thawed_when_it_is_back(
    tmp_path: Path, secondary: Secondary
) -> None:
    secondary.messages.append(freeze_message())
    secondary.service.answers["CreateSnapshot"] = NoSpace("the overlay")
    secondary.service.answers["Unfreeze"] = Unavailable("everything")

    async def scene(world: World) -> Run:
        run = await world.start(at_next="backup")
        await world.until(lambda: len(secondary.service.asked("Unfreeze")) > 2)
        await asyncio.to_thread(secondary.service.stop)
        shown = await world.get(run)
        assert shown.state == Run.STATE_RUNNING
        assert shown.steps[-1].step == "unfreeze"
        secondary.serve(secondary.service.address)
        return await world.end(run)

    run = play(tmp_path, scene, secondary)
    assert run.state == Run.STATE_FAILED
    assert secondary.frozen_at == ""


def _blocking(secondary: Secondary) -> None:
    """Let ReceiveMessage wait as a Secondary does, until its caller hangs up."""

    def wait(_: Any) -> Any:
        secondary.service.stopping.wait(20)
        return secondary_pb2.ReceiveMessageResponse()

    secondary.service.answers["ReceiveMessage"] = wait


def test_cancelled_run_is_over_and_holds_nothing(tmp_path: Path, secondary: Secondary) -> None:
    _blocking(secondary)

    async def scene(world: World) -> tuple[Run, Run]:
        run = await world.start(at_next="backup")
        await world.until(lambda: bool(secondary.service.asked("ReceiveMessage")))
        assert (await world.get(run)).state == Run.STATE_WAITING
        request = snapshot_pb2.CancelRunRequest(name=run.name)
        first = (await world.api.CancelRun(request)).run
        return first, (await world.api.CancelRun(request)).run

    first, second = play(tmp_path, scene, secondary)
    assert first.state == second.state == Run.STATE_CANCELLED
    assert secondary.registered == set()


def test_message_that_crossed_the_cancel_is_thawed(tmp_path: Path, secondary: Secondary) -> None:
    _blocking(secondary)

    async def scene(world: World) -> Run:
        run = await world.start(at_next="backup")
        await world.until(lambda: bool(secondary.service.asked("ReceiveMessage")))
        secondary.frozen_at = MESSAGE
        secondary.holder = secondary.service.asked("ReceiveMessage")[0].holder
        found: Run = (await world.api.CancelRun(snapshot_pb2.CancelRunRequest(name=run.name))).run
        return found

    run = play(tmp_path, scene, secondary)
    assert (run.state, run.message) == (Run.STATE_CANCELLED, MESSAGE)
    assert secondary.frozen_at == ""


def test_freeze_of_another_holder_is_left_alone(tmp_path: Path, secondary: Secondary) -> None:
    _blocking(secondary)

    async def scene(world: World) -> None:
        run = await world.start(at_next="backup")
        await world.until(lambda: bool(secondary.service.asked("ReceiveMessage")))
        secondary.frozen_at, secondary.holder = MESSAGE, "somebody"
        await world.api.CancelRun(snapshot_pb2.CancelRunRequest(name=run.name))

    play(tmp_path, scene, secondary)
    assert secondary.frozen_at == MESSAGE


def test_end_of_the_service_ends_its_runs(tmp_path: Path, secondary: Secondary) -> None:
    _blocking(secondary)

    async def scene(world: World) -> Run:
        run: Run = await world.start(at_next="backup")
        await world.until(lambda: bool(secondary.service.asked("ReceiveMessage")))
        return run

    run = play(tmp_path, scene, secondary)
    secondary.serve("127.0.0.1:0")
    shown = play(tmp_path, lambda world: world.get(run), secondary)
    assert shown.state == Run.STATE_FAILED
    assert shown.error.startswith("INTERRUPTED")
    assert secondary.registered == set()


@pytest.mark.parametrize("message", [MESSAGE, ""], ids=["message-known", "answer-never-seen"])
def test_run_that_a_crash_interrupted_is_failed_and_its_freeze_ended(
    tmp_path: Path, secondary: Secondary, message: str
) -> None:
    request = snapshot_pb2.StartSnapshotRequest(group=GROUP, snapshot_id="s1")
    request.at_next_message.application = "backup"
    run = Run(name="tasks/snapshot/runs/r1", group=GROUP, state=Run.STATE_WAITING, message=message)
    run.steps.add(step="receive").start_time.GetCurrentTime()
    store = RunStore(RealStorage(), tmp_path)
    store.save(RunRecord("r1", request, run, holding=True, registered=True))
    store.close()
    (tmp_path / "slackwater.json").write_text('{"format": 1, "kind": "slackwater-data"}')
    secondary.frozen_at, secondary.holder = MESSAGE, "snapshot-run-r1"
    secondary.registered.add("backup")

    async def scene(world: World) -> Run:
        shown = await world.get(run)
        assert shown.state == Run.STATE_FAILED
        await world.until(lambda: not secondary.frozen_at and not secondary.registered)
        return shown

    shown = play(tmp_path, scene, secondary)
    assert shown.error.startswith("INTERRUPTED")
    assert shown.steps[0].error == "INTERRUPTED"


def test_freeze_that_cannot_be_ended_before_the_end_is_ended_after_the_next_start(
    tmp_path: Path, secondary: Secondary
) -> None:
    secondary.messages.append(freeze_message())
    secondary.service.answers["Unfreeze"] = Unavailable("the replica")

    async def scene(world: World) -> None:
        await world.start(at_next="backup")
        await world.until(lambda: len(secondary.service.asked("Unfreeze")) > 1)

    play(tmp_path, scene, secondary)
    assert secondary.frozen_at == MESSAGE
    secondary.serve("127.0.0.1:0")
    play(tmp_path, lambda world: world.until(lambda: not secondary.frozen_at), secondary)


def test_store_keeps_the_newest_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.snapshot.store.KEPT", 3)
    store = RunStore(RealStorage(), tmp_path)
    for number in range(6):
        run = Run(name=f"tasks/snapshot/runs/r{number}", state=Run.STATE_SUCCEEDED)
        store.save(RunRecord(f"r{number}", snapshot_pb2.StartSnapshotRequest(), run))
    assert [record.id for record in store.page("", "", "", 10)] == ["r5", "r4", "r3"]
    store.close()
