"""What an interrupted run left is ended at the next start, by its notes alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.snapshot import steps
from services.snapshot.store import Kind, Remainder, RunRecord, RunStore
from slackwater.errors import FailedPrecondition
from slackwater.group.directory import DataDirectory
from slackwater.storage.real import RealStorage
from slackwater.v1 import common_pb2, resources_pb2, snapshot_pb2
from tests.unit.services.snapshot.task_world import SENT, TASK, Desk, delivered, run_task, task
from tests.unit.services.snapshot.world import GROUP, World, play

Run = snapshot_pb2.Run
NAME = f"{TASK}/runs/r1"


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk()
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "FIRST_RETRY_SECONDS", 0.01)
    monkeypatch.setattr("services.snapshot.tasks.leavings.LOOK_SECONDS", 0.05)
    monkeypatch.setattr("services.snapshot.tasks.leavings.SEND_SECONDS", 0.3)


def leave(tmp_path: Path, desk: Desk, *kinds: Kind, message: str = SENT) -> None:
    """Keep a run that was interrupted, with what it left."""
    data = tmp_path / "data"
    DataDirectory.open(RealStorage(), data, "snapshot").close()
    run = Run(name=NAME, group=GROUP, state=Run.STATE_RUNNING, message=message)
    address = desk.site.service.address
    run.replicas.add(link="site-b", endpoint=address, state=Run.STATE_RUNNING)
    run.steps.add(step="receive")
    known = {
        Kind.MESSAGE: [Remainder(Kind.MESSAGE, "site-b", address, "nightly")],
        Kind.EXPORT: [Remainder(Kind.EXPORT, "site-b", address, f"{GROUP}/snapshots/s1")],
        Kind.NAME: [
            Remainder(Kind.NAME, "", desk.service.address, "nightly"),
            Remainder(Kind.NAME, "site-b", address, "nightly"),
        ],
    }
    store = RunStore(RealStorage(), data)
    remains = [row for kind in kinds for row in known[kind]]
    request = snapshot_pb2.StartTaskRequest(name=TASK)
    store.save(RunRecord("r1", request, run, remains=remains))
    store.close()


def start_again(tmp_path: Path, desk: Desk) -> Run:
    """Start the service; returns the run once nothing of it is left."""

    async def scene(world: World) -> Any:
        await world.until(lambda: not _active(world))
        return await world.get(Run(name=NAME))

    found: Run = play(tmp_path / "data", scene, primary=desk.service.address)
    return found


def _active(world: World) -> float | None:
    return world.service.metrics.registry.get_sample_value("slackwater_snapshot_runs_active")


def place(desk: Desk) -> None:
    """A message of the run is under way to the site."""
    message = resources_pb2.Message(name=SENT, application="nightly", task=TASK)
    row = message.verdicts.add(link="site-b", state=common_pb2.VERDICT_STATE_DELIVERED)
    desk.messages[SENT] = message

    def verdict(state: common_pb2.VerdictState.ValueType) -> None:
        row.state, row.final, message.final = state, True, True

    desk.site.verdict = verdict


def test_row_runner_dies_its_run_failed_and_all_it_left_is_ended(
    tmp_path: Path, desk: Desk
) -> None:
    """Failure table: the runner dies."""
    leave(tmp_path, desk, Kind.MESSAGE, Kind.EXPORT, Kind.NAME)
    desk.registered.add("nightly")
    desk.site.registered.add("nightly")
    desk.site.exported.append(f"{GROUP}/snapshots/s1")
    place(desk)
    desk.site.frozen_at, desk.site.holder = SENT, "task-run-r1"
    run = start_again(tmp_path, desk)
    assert run.state == Run.STATE_FAILED
    assert run.error.startswith("INTERRUPTED")
    assert run.replicas[0].state == Run.STATE_CANCELLED
    assert not desk.site.frozen_at
    assert not desk.site.exported
    assert not desk.registered
    assert not desk.site.registered


def test_message_that_nobody_took_yet_is_taken_and_thawed(tmp_path: Path, desk: Desk) -> None:
    leave(tmp_path, desk, Kind.MESSAGE, message="")
    place(desk)
    replica = resources_pb2.Replica(name=GROUP)
    replica.freeze.message = SENT
    replica.freeze.application = "nightly"
    replica.freeze.phase = resources_pb2.Freeze.PHASE_AWAITING_RECEIVER
    real = desk.site.get_replica

    def get_replica(request: Any) -> Any:
        answer = real(request)
        if not desk.messages[SENT].final and not desk.site.frozen_at:
            answer.replica.CopyFrom(replica)
        return answer

    desk.site.coming.put(delivered(SENT))
    desk.site.service.answers["GetReplica"] = get_replica
    start_again(tmp_path, desk)
    assert desk.messages[SENT].final
    assert desk.site.calls == ["ReceiveMessage", "Unfreeze"]


def test_freeze_of_another_holder_is_left_alone(tmp_path: Path, desk: Desk) -> None:
    leave(tmp_path, desk, Kind.MESSAGE)
    desk.site.frozen_at, desk.site.holder = SENT, "somebody"
    start_again(tmp_path, desk)
    assert desk.site.frozen_at == SENT
    assert not desk.site.calls


def test_name_that_is_still_needed_stays_and_the_step_says_so(tmp_path: Path, desk: Desk) -> None:
    leave(tmp_path, desk, Kind.NAME)
    desk.service.answers["UnregisterApplication"] = FailedPrecondition(
        "MESSAGE_PENDING", "a message of nightly is pending"
    )
    run = start_again(tmp_path, desk)
    assert "MESSAGE_PENDING" in next(step.error for step in run.steps if step.step == "unregister")


def test_name_is_taken_back_once_the_last_verdict_is_at_the_primary(
    tmp_path: Path, desk: Desk
) -> None:
    """The replica is done, and its verdict may be on the way for a moment."""
    refusals = iter([True, True])
    unregister: Any = desk.service.answers["UnregisterApplication"]

    def late(request: Any) -> Any:
        if next(refusals, False):
            message = SENT.rpartition("/")[2]
            raise FailedPrecondition("MESSAGE_PENDING", f"message {message} is not final")
        return unregister(request)

    desk.service.answers["UnregisterApplication"] = late
    leave(tmp_path, desk, Kind.NAME)
    run = start_again(tmp_path, desk)
    assert [step.error for step in run.steps if step.step == "unregister"] == ["", ""]
    assert "nightly" not in desk.registered


def test_run_takes_over_names_that_an_earlier_one_still_takes_back(
    tmp_path: Path, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(tmp_path, desk, Kind.MESSAGE, Kind.NAME)
    place(desk)  # under way for as long as the scene likes
    desk.registered.add("nightly")

    async def scene(world: World) -> Run:
        message = desk.messages.pop(SENT)
        desk.messages["other"] = message
        message.name = SENT
        over = await run_task(world, task(onfreeze=["snapshot"]))
        message.final = message.verdicts[0].final = True
        await world.until(lambda: not _active(world))
        return over

    over = play(tmp_path / "data", scene, primary=desk.service.address)
    assert (over.state, over.error) == (Run.STATE_SUCCEEDED, "")
    assert len(desk.service.asked("UnregisterApplication")) == 1
    assert not desk.registered
