"""A link's task against a Secondary in memory: the real group, the real log, a real stream."""

import asyncio
import random
import socket
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.primary.sender import line
from services.primary.sender.showing import STATES, Showing
from slackwater.group.batch import write_change
from slackwater.link.actions import LinkState
from slackwater.position import Position
from slackwater.v1 import common_pb2, replication_pb2
from tests.unit.services.primary.link_world import SIZE, World, linked
from tests.unit.services.primary.primary_site import FakeSecondary, in_loop, until

SHUTDOWN = grpc.ChannelConnectivity.SHUTDOWN
NOTHING: dict[str, Any] = {"endpoint": None, "paused": None, "retry": False, "discard": False}


@linked
async def test_link_streams_what_is_written(world: World, secondary: FakeSecondary) -> None:
    await world.caught_up(secondary)
    for number in range(20):
        await world.write(bytes([number]) * 5000, number * 10240)
    await world.caught_up(secondary)
    assert secondary.volumes[1] == world.content()
    assert secondary.records == list(range(1, world.writer.log.durable.position.lsn + 1))
    assert secondary.hellos[0].group == "demo"
    assert STATES[world.link_marks.state] is LinkState.STREAMING


@linked
async def test_link_resumes_right_after_what_the_secondary_holds(
    world: World, secondary: FakeSecondary
) -> None:
    await world.write(b"before" * 100)
    await world.caught_up(secondary)
    acked = secondary.durable
    assert acked is not None
    await secondary.hang_up()
    await world.become("CONNECTING")
    await world.write(b"while it was away" * 100)
    await secondary.come_back()
    await world.caught_up(secondary)
    assert secondary.records == list(range(1, world.writer.log.durable.position.lsn + 1))
    assert not secondary.syncs
    assert secondary.hellos[-1].acked.lsn == acked.lsn
    assert world.link_marks.reconnects == len(secondary.hellos)


@linked
async def test_link_keeps_one_channel_and_no_task_of_earlier_streams(
    world: World, secondary: FakeSecondary
) -> None:
    for _ in range(3):
        await world.caught_up(secondary)
        await secondary.hang_up()
        await world.become("CONNECTING")
        await secondary.come_back()
    await world.caught_up(secondary)
    closed = [channel.get_state() is SHUTDOWN for channel in world.channels]
    assert closed == [True] * (len(world.channels) - 1) + [False]
    await until(
        lambda: len([one for one in asyncio.all_tasks() if "_carry" in repr(one.get_coro())]) == 1
    )


@linked
async def test_gap_is_sent_again(world: World, secondary: FakeSecondary) -> None:
    await world.caught_up(secondary)
    before, count = secondary.durable, len(secondary.records)
    await world.write(b"one" * 100)
    await world.caught_up(secondary)
    secondary.durable = before  # it forgot what it had not synced
    del secondary.records[count:]
    await world.write(b"two" * 100)
    await world.caught_up(secondary)
    assert secondary.records == list(range(1, world.writer.log.durable.position.lsn + 1))


@linked
async def test_secondary_of_another_history_is_not_overwritten_unasked(
    world: World, secondary: FakeSecondary
) -> None:
    """D16."""
    await world.caught_up(secondary)
    await secondary.hang_up()
    await world.become("CONNECTING")
    ours = world.writer.log.durable.position
    secondary.durable = Position(ours.epoch, ours.lsn + 5, 12345)
    records = list(secondary.records)
    await secondary.come_back()
    await world.become("DIVERGED")
    assert world.link.status.diverged == secondary.durable
    assert str(ours) in world.link.status.reason
    assert world.row().state == "DIVERGED"
    await world.write(b"goes on")
    assert secondary.records == records
    assert not secondary.syncs
    world.link.update(**{**NOTHING, "discard": True})
    await until(lambda: bool(secondary.syncs))
    assert secondary.syncs[0].discard_secondary
    await world.caught_up(secondary)
    assert secondary.volumes[1] == world.content()
    assert not world.row().discard


@linked
async def test_dirty_link_is_synchronised_by_itself_while_writers_go_on(
    world: World, secondary: FakeSecondary
) -> None:
    """D25, D26."""
    await world.fall_behind(secondary)  # returns: writers do not stall for a link that is away
    assert world.row().dirty
    assert world.link.floor is None
    await secondary.come_back()
    choose = random.Random(1)
    while not secondary.syncs or secondary.sync_id:
        await world.write(choose.randbytes(3072), choose.randrange((SIZE - 3072) // 512) * 512)
    await world.caught_up(secondary)
    assert secondary.volumes[1] == world.content()
    await until(lambda: (world.row().dirty, world.row().sync_id) == (False, ""))
    assert world.link.floor == world.link_marks.acked_offset


@linked
async def test_broken_sync_goes_on_at_its_cursor(world: World, secondary: FakeSecondary) -> None:
    """D25."""
    await world.fall_behind(secondary)
    secondary.break_after_regions = 3
    await secondary.come_back()
    await until(lambda: secondary.break_after_regions == 0)
    await world.caught_up(secondary)
    assert len(secondary.syncs) == 1
    assert secondary.volumes[1] == world.content()


@linked
async def test_sync_goes_on_after_the_sender_died(world: World, secondary: FakeSecondary) -> None:
    """D15, D25."""
    await world.fall_behind(secondary)
    secondary.break_after_regions = 3
    await secondary.come_back()
    await until(lambda: secondary.break_after_regions == 0)
    await world.end()
    world.begin()
    await world.caught_up(secondary)
    assert len(secondary.syncs) == 1
    assert secondary.volumes[1] == world.content()


@linked
async def test_volume_added_in_a_sync_arrives_whole(world: World, secondary: FakeSecondary) -> None:
    """D25, D28."""
    await world.fall_behind(secondary)
    await secondary.come_back()
    await until(lambda: bool(secondary.syncs))
    added = await asyncio.to_thread(world.volumes.add, "wal", 1 << 20)
    world.link.volumes_changed()
    await asyncio.to_thread(world.writer.submit, [write_change(added, 512, b"wal" * 512)])
    await world.caught_up(secondary)
    assert secondary.volumes[added.id][512:812] == b"wal" * 100
    assert secondary.volumes[1] == world.content()


@linked
async def test_files_of_volumes_are_closed_when_the_sync_is_over(
    world: World, secondary: FakeSecondary
) -> None:
    await world.fall_behind(secondary)
    await secondary.come_back()
    await until(lambda: bool(secondary.syncs))
    await world.caught_up(secondary)
    await until(lambda: not world.task._regions._files)


@linked
async def test_verdicts_are_confirmed_once_they_are_kept(
    world: World, secondary: FakeSecondary
) -> None:
    """D17: as many as a long absence leaves behind, in one go."""
    secondary.verdicts = [
        replication_pb2.VerdictReport(
            sequence=number, message_id=f"m{number}", state=common_pb2.VERDICT_STATE_NOTIFIED
        )
        for number in range(1, 301)
    ]
    await until(lambda: secondary.confirmed[-1:] == [300])
    assert world.verdicts_kept == list(range(1, 301))
    assert world.writer.database.verdicts("m300")


@linked
async def test_link_waits_for_a_full_group_db_and_goes_on(
    world: World, secondary: FakeSecondary
) -> None:
    await world.fall_behind(secondary)
    world.broken_asks = 3
    await secondary.come_back()
    await world.caught_up(secondary)
    assert secondary.volumes[1] == world.content()


@linked
async def test_paused_link_sends_nothing_until_it_is_resumed(
    world: World, secondary: FakeSecondary
) -> None:
    await world.caught_up(secondary)
    world.link.update(**{**NOTHING, "paused": True})
    await world.become("PAUSED")
    records = len(secondary.records)
    lsn = await world.write(b"kept for it")
    assert len(secondary.records) == records
    world.link.update(**{**NOTHING, "paused": False})
    await world.caught_up(secondary)
    assert secondary.records[-1] == lsn


@linked
async def test_link_moves_to_another_endpoint_at_once(
    world: World, secondary: FakeSecondary
) -> None:
    await world.caught_up(secondary)
    async with FakeSecondary() as other:
        world.link.update(**{**NOTHING, "endpoint": other.address})
        # It holds nothing, which is less than what the link knows to be acked (D16).
        await world.become("DIVERGED")
        assert other.hellos
        assert not other.records


@linked
async def test_what_cannot_get_better_stops_the_link_and_the_rest_is_dialled_again(
    world: World, secondary: FakeSecondary
) -> None:
    await world.caught_up(secondary)
    secondary.refusal = (grpc.StatusCode.UNAVAILABLE, "in a moment")
    await secondary.hang_up()
    await secondary.come_back()
    await until(lambda: "in a moment" in world.link.status.reason)
    assert world.link.status.state == "CONNECTING"
    secondary.refusal = (grpc.StatusCode.ABORTED, "fenced by epoch 7")
    await world.become("FAILED")
    assert world.link.status.reason == "ABORTED: fenced by epoch 7"
    assert world.row().state == "FAILED"
    await until(lambda: world.channels[-1].get_state() is SHUTDOWN)
    secondary.refusal = None
    world.link.update(**{**NOTHING, "retry": True})
    await world.caught_up(secondary)


@linked
async def test_secondary_that_lacks_a_kind_of_record_stops_the_link(
    world: World, secondary: FakeSecondary
) -> None:
    await world.caught_up(secondary)
    secondary.kinds = secondary.kinds[:-1]
    await secondary.hang_up()
    await secondary.come_back()
    await world.become("FAILED")
    assert "does not know record kinds" in world.link.status.reason


@linked
async def test_nothing_is_sent_for_a_group_that_has_failed(
    world: World, secondary: FakeSecondary
) -> None:
    """D3."""
    await world.caught_up(secondary)
    world.writer.committer.fail("the disk is gone")
    await until(lambda: "has failed" in world.link.status.reason)
    await until(lambda: world.channels[-1].get_state() is SHUTDOWN)
    assert len(secondary.hellos) == len(world.channels) == 1


@linked
async def test_log_that_cannot_be_read_stops_this_link_alone(
    world: World, secondary: FakeSecondary
) -> None:
    await world.caught_up(secondary)

    def refuse(*_arguments: object) -> Any:
        raise OSError(5, "refused by the test")

    world.task._reader.read = refuse  # type: ignore[assignment,method-assign]
    await world.write(b"unreadable")
    await world.become("FAILED")
    assert "the log cannot be read" in world.link.status.reason
    assert not world.running.done()


def test_secondary_that_takes_nothing_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "SILENCE_SECONDS", 0.3)

    async def stuck(world: World, secondary: FakeSecondary) -> None:
        await world.caught_up(secondary)
        secondary.is_reading.clear()
        for number in range(40):
            await world.write(bytes([number]) * (60 << 10), number * (60 << 10))
        await until(lambda: "taken nothing" in world.link.status.reason)
        secondary.is_reading.set()
        await world.caught_up(secondary)
        assert secondary.volumes[1] == world.content()

    linked(stuck)(tmp_path)


def test_dial_without_an_answer_ends_and_leaves_the_link_to_its_operator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "DIAL_SECONDS", 0.3)

    @in_loop
    async def run(path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1]
            async with World(path, f"127.0.0.1:{port}") as world:
                await until(lambda: "cannot reach" in world.link.status.reason)
                assert world.link.status.state == "CONNECTING"
                world.link.update(**{**NOTHING, "paused": True})
                await world.become("PAUSED")

    run(tmp_path)


@in_loop
async def test_refused_dial_says_why(tmp_path: Path) -> None:
    async with FakeSecondary() as gone:
        address = gone.address
    async with World(tmp_path, address) as world:
        await until(lambda: "refused" in world.link.status.reason)
        assert address in world.link.status.reason


@linked
async def test_acked_point_is_kept_with_the_offset_that_belongs_to_it(
    world: World, secondary: FakeSecondary
) -> None:
    """A new sender knows of an older position than the shared page does."""
    await world.write(b"one")
    await world.caught_up(secondary)
    await world.end()
    await secondary.hang_up()
    known = world.link.acked = world.row().acked
    world.begin()
    await until(lambda: "cannot reach" in world.link.status.reason)
    assert world.link.acked == known
    await secondary.come_back()
    await world.caught_up(secondary)
    await until(lambda: world.link.acked == world.writer.log.durable)


@linked
async def test_acked_point_forgotten_for_a_sync_is_not_told_again(
    world: World, secondary: FakeSecondary
) -> None:
    """D16: what was acked before a sync says nothing of the replica after it."""
    await world.caught_up(secondary)
    await world.end()
    told: list[dict[str, Any]] = []
    shown = Showing("key", world.task.core, world.link_marks, told.append)
    shown.acked = world.writer.log.durable
    shown.show()
    world.task.core.acked_position = None
    world.task.core.pause()  # a state is told at once
    shown.show()
    assert [one["acked"] is None for one in told] == [False, True]
