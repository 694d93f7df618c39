"""Quiesce rounds under full disks, jumping clocks, failing groups; retention of what they leave."""

import asyncio
import errno
import time
from pathlib import Path

import grpc

from slackwater import record
from slackwater.clock import ManualClock, SystemClock
from slackwater.errors import NoSpace
from slackwater.group.rows import MessageRow
from slackwater.position import LogPoint
from slackwater.v1 import common_pb2, record_pb2
from slackwater.v1 import primary_pb2 as api
from tests.unit.services.primary.agents import Agent, quiescing, ready
from tests.unit.services.primary.primary_site import (
    GROUP,
    LINK,
    Site,
    in_loop,
    refused,
    until,
)
from tests.unit.services.primary.test_quiesce import records, sent, status, watched

Code = grpc.StatusCode
CONFIRMED, REVOKED = record_pb2.Outcome.STATE_CONFIRMED, record_pb2.Outcome.STATE_REVOKED
DAY_NS = 86400 * 10**9


class JumpingClock(SystemClock):
    """A wall clock that jumps a day at each look, to and fro; the monotonic one is true."""

    def __init__(self) -> None:
        self._forward = False

    def time_ns(self) -> int:
        self._forward = not self._forward
        return super().time_ns() + (DAY_NS if self._forward else -DAY_NS)


@in_loop
async def test_wall_clock_that_jumps_either_way_ends_no_hold(tmp_path: Path) -> None:
    """D19: only monotonic time counts."""
    async with Site(tmp_path, clock=JumpingClock()) as site:
        await ready(site, "db")
        async with Agent(site, "db") as agent:
            for _ in range(4):
                answer = await sent(site, quiescing("db"), agent)
                assert answer.message.outcome == CONFIRMED
                assert answer.quiesce_window.ToSeconds() < 60


@in_loop
async def test_message_whose_row_finds_no_room_still_gets_its_outcome(tmp_path: Path) -> None:
    """C17: it is in the log, so it is judged, though the caller is told that the disk is full."""
    async with Site(tmp_path) as site:
        await ready(site, "db")
        database = site.node.group("demo").database
        put, full = database.put_message, True

        def put_message(message: MessageRow, *, awaits_outcome: bool = False) -> None:
            if full:
                raise OSError(errno.ENOSPC, "full")
            put(message, awaits_outcome=awaits_outcome)

        database.put_message = put_message  # type: ignore[method-assign]
        request = quiescing("db", request_id="r")
        async with Agent(site, "db") as agent:
            sending = asyncio.ensure_future(site.api.SendMessage(request))
            resume = await agent.obey()
            assert resume.message, "the agent is told of the message"
            await refused(sending, Code.RESOURCE_EXHAUSTED)
            (placed,) = records(site, record.KIND_IBC_MESSAGE)
            (outcome,) = records(site, record.KIND_OUTCOME)
            assert (outcome.message_id, outcome.state) == (placed.message_id, CONFIRMED)
            full = False
            await until(lambda: database.outcome(placed.message_id) is not None)
            again = await site.api.SendMessage(request)
            assert again.message.name == resume.message
            assert again.message.outcome == CONFIRMED
            assert agent.asked() == 0


@in_loop
async def test_outcome_that_finds_no_room_follows_once_there_is_some(tmp_path: Path) -> None:
    """C17, D9: one record, however often it is tried."""
    async with Site(tmp_path) as site:
        await ready(site, "db")
        writer = site.node.group("demo").writer
        append, refusals = writer.append_control, 3

        def append_control(kind: int, body: bytes, *, through_gate: bool = False) -> LogPoint:
            nonlocal refusals
            if kind == record.KIND_OUTCOME and refusals:
                refusals -= 1
                raise NoSpace("the log")
            return append(kind, body, through_gate=through_gate)

        writer.append_control = append_control  # type: ignore[method-assign]
        async with Agent(site, "db") as agent:
            answer = await sent(site, quiescing("db"), agent)
        assert answer.message.outcome == CONFIRMED, "what it was worth is known already"
        name = answer.message.name
        await until(lambda: bool(records(site, record.KIND_OUTCOME)))
        assert refusals == 0
        assert len(records(site, record.KIND_OUTCOME)) == 1
        assert (await watched(site, name)).outcome == CONFIRMED


@in_loop
async def test_group_that_fails_in_the_fence_lets_the_agents_go_on(tmp_path: Path) -> None:
    """Fence or append: all agents resume; what a restart finds in the log it revokes."""
    async with Site(tmp_path) as site:
        await ready(site, "db")
        writer = site.node.group("demo").writer
        async with Agent(site, "db") as agent:
            sending = asyncio.ensure_future(site.api.SendMessage(quiescing("db")))
            hold = await agent.next("hold")
            writer.committer.fail("the disk is gone")
            await agent.quiesced(hold.hold_id)
            assert (await agent.next("resume")).message == ""
            await agent.resumed(hold.hold_id)
            assert "the disk is gone" in await refused(sending, Code.FAILED_PRECONDITION)


@in_loop
async def test_fence_that_takes_too_long_lets_the_agents_go_on(tmp_path: Path) -> None:
    """C2: past the fence timeout nothing is placed, writes go on; status shows a fence at work."""
    async with Site(tmp_path) as site:
        await ready(site, "db")
        writer = site.node.group("demo").writer
        async with Agent(site, "db") as agent:
            with writer.fenced(1.0):  # another holds the gate
                assert (await status(site)).HasField("fence_held")
                request = quiescing("db")
                request.fence_timeout.FromMilliseconds(100)
                sending = asyncio.ensure_future(site.api.SendMessage(request))
                hold = await agent.next("hold")
                await agent.quiesced(hold.hold_id)
                assert (await agent.next("resume")).message == ""
                await agent.resumed(hold.hold_id)
                assert "fence" in await refused(sending, Code.DEADLINE_EXCEEDED)
            assert not (await status(site)).HasField("fence_held")
        assert records(site, record.KIND_IBC_MESSAGE) == []
        assert site.node.group("demo").quiesce.rounds_total["timed_out"] == 1
        await site.write(b"writes go on")


@in_loop
async def test_group_that_fails_before_the_outcome_revokes_when_it_is_back(tmp_path: Path) -> None:
    """C17: it is never CONFIRMED unless the log says so, though the agent did; metrics know."""
    async with Site(tmp_path) as site:
        await ready(site, "db")
        async with Agent(site, "db") as agent:
            sending = asyncio.ensure_future(site.api.SendMessage(quiescing("db")))
            hold = await agent.next("hold")
            await agent.quiesced(hold.hold_id)
            name = (await agent.next("resume")).message
            site.node.group("demo").writer.committer.fail("the disk is gone")
            await agent.resumed(hold.hold_id)
            await refused(sending, Code.FAILED_PRECONDITION)
        await site.restart()
        message = await watched(site, name)
        assert message.outcome == REVOKED
        assert message.judgement.grade == common_pb2.SNAPSHOT_GRADE_CRASH
        assert [one.application for one in message.judgement.reports] == ["db"]
        assert site.node.group("demo").quiesce.rounds_total["interrupted"] == 1


@in_loop
async def test_flood_of_an_agent_is_cut_and_kept(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        await ready(site, "db")
        async with Agent(site, "db") as agent:
            sending = asyncio.ensure_future(site.api.SendMessage(quiescing("db")))
            hold = (await agent.next("hold")).hold_id
            await agent.quiesced(hold, "x" * (3 << 20))
            await agent.next("resume")
            await agent.resumed(hold, "y" * (3 << 20))
            answer = await sending
        (report,) = answer.message.judgement.reports
        assert len(report.answer) == len(report.resume_answer) == 16 << 10
        assert answer.message.outcome == CONFIRMED


@in_loop
async def test_group_that_is_deleted_ends_its_sessions(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        await ready(site, "db")
        async with Agent(site, "db") as agent:
            await site.api.DeleteLink(api.DeleteLinkRequest(name=LINK))
            await site.api.DeleteGroup(api.DeleteGroupRequest(name=GROUP))
            assert await agent.end() is Code.UNAVAILABLE


@in_loop
async def test_pending_messages_are_kept_and_bounded_and_final_ones_go(tmp_path: Path) -> None:
    """C16: what is not final is never dropped; past the setting no more is taken."""
    async with Site(tmp_path, messages_kept=3) as site:
        await ready(site)
        request = api.SendMessageRequest(group=GROUP, application="backup")
        names = [(await site.api.SendMessage(request)).message.name for _ in range(3)]
        text = await refused(site.api.SendMessage(request), Code.FAILED_PRECONDITION)
        assert "not final" in text
        listing = api.PrimaryServiceListMessagesRequest(group=GROUP)
        listed = (await site.api.ListMessages(listing)).messages
        assert [one.name for one in listed] == names[::-1]
        await site.api.DeleteLink(api.DeleteLinkRequest(name=LINK))
        await site.with_link(name="site-c")
        await asyncio.to_thread(site.node.group("demo").writer.checkpoint)
        newest = (await site.api.SendMessage(request)).message.name
        listed = (await site.api.ListMessages(listing)).messages
        assert [one.name for one in listed] == [newest, *names[:0:-1]]
        await refused(site.api.GetMessage(api.GetMessageRequest(name=names[0])), Code.NOT_FOUND)


@in_loop
async def test_messages_are_kept_for_a_time_and_longer_if_not_final(tmp_path: Path) -> None:
    clock = ManualClock(time_ns=time.time_ns())
    async with Site(tmp_path, clock=clock, messages_kept_seconds=86_400.0) as site:
        await ready(site)
        request = api.SendMessageRequest(group=GROUP, application="backup")
        final = (await site.api.SendMessage(request)).message.name
        await site.api.DeleteLink(api.DeleteLinkRequest(name=LINK))
        await site.with_link(name="site-c")
        waiting = (await site.api.SendMessage(request)).message.name
        await asyncio.to_thread(site.node.group("demo").writer.checkpoint)
        listing = api.PrimaryServiceListMessagesRequest(group=GROUP)
        listed = (await site.api.ListMessages(listing)).messages
        assert [one.name for one in listed] == [waiting, final]
        clock.advance(2 * 86_400.0)
        while len(listed) > 1:
            await asyncio.sleep(0.01)
            listed = (await site.api.ListMessages(listing)).messages
        assert [one.name for one in listed] == [waiting]


@in_loop
async def test_snapshot_message_names_its_snapshot(tmp_path: Path) -> None:
    """C7: the sender's name, or one made from the message's id."""
    async with Site(tmp_path) as site:
        await ready(site)
        request = api.SendMessageRequest(
            group=GROUP,
            application="backup",
            behaviour=common_pb2.MESSAGE_BEHAVIOUR_SNAPSHOT,
            snapshot_id="nightly-1",
        )
        request.freeze_timeout.FromSeconds(5)
        text = await refused(site.api.SendMessage(request), Code.INVALID_ARGUMENT)
        assert "freeze_timeout" in text
        request.ClearField("freeze_timeout")
        await site.api.SendMessage(request)
        request.ClearField("snapshot_id")
        await site.api.SendMessage(request)
        named, made = records(site, record.KIND_IBC_MESSAGE)
        assert named.snapshot_id == "nightly-1"
        assert made.snapshot_id == f"ibc-{made.message_id[:13]}"
        request.behaviour = common_pb2.MESSAGE_BEHAVIOUR_FREEZE
        request.freeze_timeout.FromSeconds(5)
        await site.api.SendMessage(request)
        chosen = records(site, record.KIND_IBC_MESSAGE)[-1]
        assert (chosen.freeze_timeout_chosen, made.freeze_timeout_chosen) == (True, False)
        assert not named.fenced, "a fence is the default only with a quiesce (C2)"
