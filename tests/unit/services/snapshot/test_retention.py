"""Retention over fakes: what it deletes, what it never touches, what it tries again."""

import asyncio
import getpass
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from slackwater.errors import FailedPrecondition, NotFound
from slackwater.v1 import record_pb2, resources_pb2, secondary_pb2
from slackwater.v1 import snapshot_pb2 as api
from tests.unit.services.snapshot.task_world import TASK, Desk, outcome, program, start, task
from tests.unit.services.snapshot.world import GROUP, World, play

WAIT_SECONDS = 20.0
Scene = Callable[[World], Coroutine[Any, Any, Any]]


class Stage:
    """A Primary with one Secondary that lists and deletes snapshots."""

    def __init__(self, tmp_path: Path) -> None:
        """Serve no snapshot yet."""
        self.data = tmp_path / "data"
        self.desk = Desk()
        self.site = self.desk.site
        self.refusals = 0
        self.site.service.answers |= {
            "ListSnapshots": self._list,
            "DeleteSnapshot": self._delete,
        }

    @property
    def there(self) -> list[str]:
        """Ids of the snapshots that are there, the oldest first."""
        return [name.rpartition("/")[2] for name in self.site.snapshots]

    def play(self, scene: Scene) -> Any:
        """Run the service, from its start to its end."""
        user = getpass.getuser()
        return play(self.data, scene, primary=self.desk.service.address, command_user=user)

    async def run(self, world: World) -> resources_pb2.Snapshot:
        """Run the task to its end; returns its snapshot."""
        self.desk.messages.clear()
        over = await world.end(await start(world))
        assert over.state == api.Run.STATE_SUCCEEDED, over.error
        return self.site.snapshots[over.replicas[0].snapshot]

    async def until_left(self, world: World, *snapshots: resources_pb2.Snapshot) -> None:
        """Wait until these, and no others, are there."""
        wanted = [row.name.rpartition("/")[2] for row in snapshots]
        await world.until(lambda: self.there == wanted)

    def _list(self, request: Any) -> Any:
        assert request.group == GROUP
        rows = list(self.site.snapshots.values())
        return secondary_pb2.SecondaryServiceListSnapshotsResponse(snapshots=rows)

    def _delete(self, request: Any) -> Any:
        row = self.site.snapshots.get(request.name)
        if row is None:
            raise NotFound("snapshot", request.name)
        if self.refusals:
            self.refusals -= 1
            raise FailedPrecondition("IN_USE", "somebody reads it")
        del self.site.snapshots[request.name]
        return secondary_pb2.SecondaryServiceDeleteSnapshotResponse()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.desk.stop()


async def define(world: World, **rules: int) -> None:
    """Make the task, with rules or without."""
    made = task(group=GROUP)
    if rules:
        made.retention.CopyFrom(api.Retention(**rules))
    await world.api.CreateTask(api.CreateTaskRequest(task=made))


async def described(world: World) -> list[api.MadeSnapshot]:
    """What the task made, and what becomes of it."""
    return list((await world.api.GetTask(api.GetTaskRequest(name=TASK))).made)


async def wait_reason(world: World, row: resources_pb2.Snapshot, words: str) -> None:
    """Wait until it is said why a snapshot that is to go is still there."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            for found in await described(world):
                if found.snapshot == row.name and found.expires and words in found.reason:
                    return
            await asyncio.sleep(0.02)


def test_what_no_rule_names_goes_after_a_run(stage: Stage) -> None:
    async def act(world: World) -> None:
        await define(world, keep_last=2)
        rows = [await stage.run(world) for _ in range(4)]
        await stage.until_left(world, *rows[2:])
        assert [row.snapshot for row in await described(world)] == [
            row.name for row in reversed(rows[2:])
        ]
        assert all(row.reason == "last" and not row.expires for row in await described(world))
        registry: CollectorRegistry = world.service.metrics.registry
        text = generate_latest(registry).decode()
        assert 'slackwater_snapshot_retention_deleted_total{task="nightly"} 2.0' in text
        assert 'slackwater_snapshot_retention_refused_total{task="nightly"} 0.0' in text

    stage.play(act)


def test_without_rules_nothing_goes(stage: Stage) -> None:
    async def act(world: World) -> None:
        await define(world)
        rows = [await stage.run(world) for _ in range(3)]
        found = await described(world)
        assert [(row.snapshot, row.expires) for row in found] == [
            (row.name, False) for row in reversed(rows)
        ]

    stage.play(act)
    assert len(stage.there) == 3
    assert not stage.site.service.asked("DeleteSnapshot")


def test_snapshots_that_the_task_did_not_make_are_never_touched(stage: Stage) -> None:
    async def act(world: World) -> None:
        await define(world, keep_last=1)
        by_hand = stage.site.snapshot("nightly-by-hand", "")
        at_a_message = stage.site.snapshot("s1", f"{GROUP}/messages/m1")
        rows = [await stage.run(world) for _ in range(2)]
        await stage.until_left(world, by_hand, at_a_message, rows[1])

    stage.play(act)


def test_a_name_that_is_somebody_elses_by_now_is_left_alone(stage: Stage) -> None:
    async def act(world: World) -> None:
        await define(world, keep_last=1)
        first = await stage.run(world)
        first.message = f"{GROUP}/messages/another"
        second = await stage.run(world)
        async with asyncio.timeout(WAIT_SECONDS):
            while [row.snapshot for row in await described(world)] != [second.name]:
                await asyncio.sleep(0.02)
        await stage.until_left(world, first, second)

    stage.play(act)


@pytest.mark.parametrize(("field", "words"), [("held", "held: audit"), ("exported", "exported")])
def test_what_is_held_or_exported_stays_until_it_is_not(
    stage: Stage, field: str, words: str
) -> None:
    async def act(world: World) -> None:
        await define(world, keep_last=1)
        first = await stage.run(world)
        first.hold_note = "audit"
        setattr(first, field, True)
        second = await stage.run(world)
        await wait_reason(world, first, words)
        await stage.until_left(world, first, second)
        assert not stage.site.service.asked("DeleteSnapshot")
        setattr(first, field, False)
        third = await stage.run(world)
        await stage.until_left(world, third)

    stage.play(act)


def test_a_refusal_is_shown_and_tried_again_after_a_restart_too(stage: Stage) -> None:
    stage.refusals = 1

    async def act(world: World) -> list[resources_pb2.Snapshot]:
        await define(world, keep_last=1)
        rows = [await stage.run(world) for _ in range(2)]
        await wait_reason(world, rows[0], "IN_USE: somebody reads it")
        await stage.until_left(world, *rows)
        return rows

    rows = stage.play(act)

    async def again(world: World) -> None:
        await stage.until_left(world, rows[1])

    stage.play(again)


def test_a_secondary_that_is_away_is_tried_again(stage: Stage) -> None:
    stage.site.service.answers["ListSnapshots"] = FailedPrecondition("FAILED", "not now")

    async def act(world: World) -> None:
        await define(world, keep_last=1)
        rows = [await stage.run(world) for _ in range(2)]
        await wait_reason(world, rows[0], "not now")
        stage.site.service.answers["ListSnapshots"] = stage._list
        rows.append(await stage.run(world))
        await stage.until_left(world, rows[2])

    stage.play(act)


def test_a_snapshot_that_somebody_deleted_is_forgotten(stage: Stage) -> None:
    async def act(world: World) -> None:
        await define(world, keep_last=1)
        first = await stage.run(world)
        stage.site.snapshots.clear()
        second = await stage.run(world)
        async with asyncio.timeout(WAIT_SECONDS):
            while len(await described(world)) != 1:
                await asyncio.sleep(0.02)
        assert first.name not in [row.snapshot for row in await described(world)]
        await stage.until_left(world, second)

    stage.play(act)


def test_rules_that_come_later_count_for_what_was_made_before(stage: Stage) -> None:
    async def act(world: World) -> None:
        await define(world)
        rows = [await stage.run(world) for _ in range(3)]
        ruled = task(group=GROUP)
        ruled.retention.keep_last = 1
        await world.api.UpdateTask(api.UpdateTaskRequest(task=ruled))
        shown = {row.snapshot: row.expires for row in await described(world)}
        assert shown == {rows[0].name: True, rows[1].name: True, rows[2].name: False}
        assert len(stage.there) == 3
        rows.append(await stage.run(world))
        await stage.until_left(world, rows[3])

    stage.play(act)


def test_a_quiesce_that_was_revoked_does_not_push_the_confirmed_one_out(stage: Stage) -> None:
    async def act(world: World) -> None:
        quiescing = task(group=GROUP)
        quiescing.quiesce.applications.append("db")
        quiescing.retention.keep_last = 1
        await world.api.CreateTask(api.CreateTaskRequest(task=quiescing))
        stage.desk.judgement = outcome(record_pb2.Outcome.STATE_CONFIRMED)
        good = await stage.run(world)
        stage.desk.judgement = outcome(record_pb2.Outcome.STATE_REVOKED)
        revoked = []
        for _ in range(2):
            stage.desk.messages.clear()
            over = await world.end(await start(world))
            assert over.state == api.Run.STATE_FAILED
            revoked.append(stage.site.snapshots[over.replicas[0].snapshot])
        await stage.until_left(world, good, revoked[1])

    stage.play(act)


def test_failed_runs_do_not_push_the_good_one_out(stage: Stage) -> None:
    async def act(world: World) -> None:
        program(stage.data, "bad.sh", "exit 1")
        bad = task(group=GROUP, postfreeze=[["bad.sh"]])
        bad.retention.keep_last = 1
        await define(world, keep_last=1)
        good = await stage.run(world)
        await world.api.UpdateTask(api.UpdateTaskRequest(task=bad))
        failed = []
        for _ in range(2):
            stage.desk.messages.clear()
            over = await world.end(await start(world))
            assert over.state == api.Run.STATE_FAILED
            failed.append(stage.site.snapshots[over.replicas[0].snapshot])
        await stage.until_left(world, good, failed[1])

    stage.play(act)
