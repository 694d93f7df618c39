"""The Primary's half of a quiesce, over gRPC, with agents made by hand."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from slackwater import record
from slackwater.log.reader import LogReader, replay
from slackwater.runtime import roles, tls
from slackwater.storage.real import RealStorage
from slackwater.v1 import common_pb2, record_pb2, resources_pb2
from slackwater.v1 import primary_pb2 as api
from tests.unit.services.primary.agents import Agent, quiescing, ready
from tests.unit.services.primary.primary_site import GROUP, LINK, SECONDS, Site, in_loop, refused

Code = grpc.StatusCode
CONFIRMED, REVOKED = record_pb2.Outcome.STATE_CONFIRMED, record_pb2.Outcome.STATE_REVOKED


def records(site: Site, kind: int) -> list[Any]:
    """Return the bodies of all records of a kind in the group's log."""
    group = site.node.group("demo")
    log = group.writer.log
    reader = LogReader(
        RealStorage(), group.open.directory.log, group.open.identity.uid, log.settings
    )
    try:
        start = group.database.log_state().start
        return [
            record.body(data, view)
            for data, view in replay(reader, start, log.durable)
            if view.kind == kind
        ]
    finally:
        reader.close()


async def sent(site: Site, request: api.SendMessageRequest, *agents: Agent) -> Any:
    """Send while these agents do as they should."""
    async with asyncio.TaskGroup() as tasks:
        for agent in agents:
            tasks.create_task(agent.obey())
        return await site.api.SendMessage(request)
    raise AssertionError("the group of tasks raises what its body does")


async def status(site: Site) -> Any:
    request = api.PrimaryServiceGetStatusRequest(group=GROUP)
    return (await site.api.GetStatus(request)).groups[0]


async def watched(site: Site, name: str) -> resources_pb2.Message:
    answer = await site.api.GetMessage(api.GetMessageRequest(name=name))
    message = answer.message
    assert isinstance(message, resources_pb2.Message)
    return message


class TestConfirmed:
    @staticmethod
    @in_loop
    async def test_message_lies_in_the_hold_and_its_outcome_follows(tmp_path: Path) -> None:
        """C17, C20: a fence by default, Outcome in the log right after, evidence of every agent."""
        async with Site(tmp_path) as site:
            await ready(site, "db", "fs")
            async with Agent(site, "db", "postgres") as db, Agent(site, "fs", "fsfreeze") as fs:
                sending = site.api.SendMessage(quiescing("fs", "db", task="tasks/nightly"))
                hold = await db.next("hold")
                assert (hold.application, hold.task, list(hold.links)) == (
                    "backup",
                    "tasks/nightly",
                    ["site-b"],
                )
                assert hold.max_hold.seconds == 10
                other = await fs.next("hold")
                assert other.hold_id != hold.hold_id
                await db.quiesced(hold.hold_id, "label 17")
                assert records(site, record.KIND_IBC_MESSAGE) == []
                await fs.quiesced(other.hold_id)
                resume = await db.next("resume")
                placed = records(site, record.KIND_IBC_MESSAGE)
                assert [list(one.quiesced) for one in placed] == [["db", "fs"]]
                assert resume.message == f"{GROUP}/messages/{placed[0].message_id}"
                assert placed[0].fenced
                assert records(site, record.KIND_OUTCOME) == []
                await db.resumed(hold.hold_id, "stopped at 18")
                await fs.resumed((await fs.next("resume")).hold_id)
                answer = await sending
        message = answer.message
        assert (message.outcome, message.fenced, message.task) == (CONFIRMED, True, "tasks/nightly")
        assert message.judgement.grade == common_pb2.SNAPSHOT_GRADE_APPLICATION
        assert answer.quiesce_window.ToNanoseconds() > 0
        assert answer.HasField("fence_held")
        first, second = message.judgement.reports
        assert (first.application, first.kind, first.answer, first.resume_answer) == (
            "db",
            "postgres",
            "label 17",
            "stopped at 18",
        )
        assert first.unbroken and second.unbroken and second.application == "fs"

    @staticmethod
    @in_loop
    async def test_outcome_is_one_record_and_is_read_again_after_a_restart(tmp_path: Path) -> None:
        """C17: GetMessage and the answer to the same request, before and after."""
        async with Site(tmp_path) as site:
            await ready(site, "fs")
            request = quiescing("fs", request_id="r1")
            async with Agent(site, "fs") as agent:
                first = await sent(site, request, agent)
                again = await site.api.SendMessage(request)
                assert agent.asked() == 0, "a repeated send quiesces nobody (C3)"
            assert again.message.judgement == first.message.judgement
            assert [one.state for one in records(site, record.KIND_OUTCOME)] == [CONFIRMED]
            await site.restart()
            assert len(records(site, record.KIND_OUTCOME)) == 1
            got = await watched(site, first.message.name)
            assert got.judgement == first.message.judgement
            assert got.judgement.grade == common_pb2.SNAPSHOT_GRADE_FILESYSTEM
            after = await site.api.SendMessage(request)
            assert after.message.position == first.message.position

    @staticmethod
    @in_loop
    async def test_no_fence_no_grade(tmp_path: Path) -> None:
        """C20: held over the fence, or nothing."""
        async with Site(tmp_path) as site:
            await ready(site, "db")
            async with Agent(site, "db", "command") as agent:
                answer = await sent(site, quiescing("db", fence=False), agent)
            assert answer.message.outcome == CONFIRMED
            assert answer.message.judgement.grade == common_pb2.SNAPSHOT_GRADE_CRASH
            assert "fence" in answer.message.judgement.evidence

    @staticmethod
    @in_loop
    async def test_caller_that_hangs_up_leaves_nobody_held(tmp_path: Path) -> None:
        async with Site(tmp_path) as site:
            await ready(site, "db")
            async with Agent(site, "db") as agent:
                request = quiescing("db", request_id="r")
                sending = site.api.SendMessage(request)
                hold = await agent.next("hold")
                sending.cancel()
                await agent.quiesced(hold.hold_id)
                await agent.next("resume")
                await agent.resumed(hold.hold_id)
                answer = await site.api.SendMessage(request)
                assert answer.message.outcome == CONFIRMED
                assert agent.asked() == 0

    @staticmethod
    @in_loop
    async def test_rounds_of_one_group_wait_for_each_other(tmp_path: Path) -> None:
        async with Site(tmp_path) as site:
            await ready(site, "db")
            async with Agent(site, "db") as agent:
                first = asyncio.ensure_future(site.api.SendMessage(quiescing("db")))
                hold = await agent.next("hold")
                text = await refused(
                    site.api.SendMessage(quiescing("db", timeout=0.05)), Code.DEADLINE_EXCEEDED
                )
                assert "earlier message" in text
                second = asyncio.ensure_future(site.api.SendMessage(quiescing("db")))
                await agent.quiesced(hold.hold_id)
                await agent.next("resume")
                assert agent.asked() == 0
                await agent.resumed(hold.hold_id)
                await first
                await agent.obey()
                assert (await second).message.outcome == CONFIRMED

    @staticmethod
    @in_loop
    async def test_watch_waits_for_the_outcome(tmp_path: Path) -> None:
        """C17: it follows whether or not the message is final by then."""
        async with Site(tmp_path) as site:
            await ready(site, "db")
            async with Agent(site, "db") as agent:
                sending = asyncio.ensure_future(site.api.SendMessage(quiescing("db")))
                hold = await agent.next("hold")
                await agent.quiesced(hold.hold_id)
                name = (await agent.next("resume")).message
                watching = site.api.WatchMessage(api.WatchMessageRequest(name=name))
                await watching.read()
                await site.api.DeleteLink(api.DeleteLinkRequest(name=LINK))
                assert (await watching.read()).message.final
                await agent.resumed(hold.hold_id)
                last = (await watching.read()).message
                assert last.final and last.outcome == CONFIRMED
                assert await watching.read() is grpc.aio.EOF
                await sending


Misdeed = Callable[[Agent, str], Any]


class TestNothingPlaced:
    """Quiesce, or its time-out: all agents resume, nothing sent."""

    @pytest.mark.parametrize(
        ("misdeed", "code", "said"),
        [
            pytest.param("fail", Code.FAILED_PRECONDITION, "no such disk", id="fails"),
            pytest.param("never", Code.DEADLINE_EXCEEDED, "'db'", id="never-answers"),
            pytest.param("die", Code.FAILED_PRECONDITION, "session", id="dies"),
            pytest.param("thaw", Code.FAILED_PRECONDITION, "before it was asked", id="thaws"),
            pytest.param("other", Code.DEADLINE_EXCEEDED, "'db'", id="answers-another-hold"),
        ],
    )
    def test_bad_agent_leaves_nothing_and_the_good_one_resumes(
        self, tmp_path: Path, misdeed: str, code: Code, said: str
    ) -> None:
        @in_loop
        async def run(path: Path) -> None:
            async with Site(path) as site:
                await ready(site, "db", "fs")
                before = site.node.group("demo").writer.log.end
                async with Agent(site, "db") as bad, Agent(site, "fs") as good:
                    limit = 1.0 if code is Code.DEADLINE_EXCEEDED else SECONDS
                    request = quiescing("db", "fs", timeout=limit)
                    sending = asyncio.ensure_future(site.api.SendMessage(request))
                    hold = (await bad.next("hold")).hold_id
                    if misdeed == "thaw":
                        await bad.quiesced(hold)
                        await bad.resumed(hold)
                    elif misdeed == "fail":
                        await bad.failed(hold, "no such disk")
                    elif misdeed == "die":
                        await bad.die()
                    elif misdeed == "other":
                        await bad.quiesced("another")
                    asked = await good.next("hold")
                    if misdeed != "thaw":  # two sessions have no order: it could come before that
                        await good.quiesced(asked.hold_id)
                    resume = await good.next("resume")
                    assert resume.message == ""
                    await good.resumed(resume.hold_id)
                    text = await refused(sending, code)
                    assert said in text
                    assert "db" in text
                    if misdeed != "die":
                        assert (await bad.next("resume")).message == ""
                    assert site.node.group("demo").writer.log.end == before
                    rounds = site.node.group("demo").quiesce.rounds_total
                    assert sum(rounds.values()) == 1
                    await site.write(b"writes go on")

        run(tmp_path)

    @staticmethod
    @in_loop
    async def test_hold_that_runs_out_while_another_is_waited_for(tmp_path: Path) -> None:
        async with Site(tmp_path) as site:
            await ready(site, "db", "fs")
            async with Agent(site, "db") as early, Agent(site, "fs") as late:
                sending = site.api.SendMessage(quiescing("db", "fs", max_hold=0.3))
                await early.quiesced((await early.next("hold")).hold_id)
                await late.next("hold")
                await early.resumed((await early.next("resume")).hold_id)
                text = await refused(sending, Code.DEADLINE_EXCEEDED)
                assert "'db'" in text
                assert records(site, record.KIND_IBC_MESSAGE) == []

    @staticmethod
    @in_loop
    async def test_failed_send_lets_the_agents_go_on(tmp_path: Path) -> None:
        """Fence or append: all agents resume, no message."""
        async with Site(tmp_path) as site:
            await ready(site, "db")
            async with Agent(site, "db") as agent:
                sending = site.api.SendMessage(quiescing("db"))
                hold = await agent.next("hold")
                await site.api.DeleteLink(api.DeleteLinkRequest(name=LINK))
                await agent.quiesced(hold.hold_id)
                assert (await agent.next("resume")).message == ""
                await agent.resumed(hold.hold_id)
                await refused(sending, Code.FAILED_PRECONDITION)
                assert records(site, record.KIND_IBC_MESSAGE) == []

    @pytest.mark.parametrize(
        ("fields", "code", "said"),
        [
            ({"applications": []}, Code.INVALID_ARGUMENT, "quiesce.applications"),
            ({"applications": ["db", "db"]}, Code.INVALID_ARGUMENT, "twice"),
            ({"applications": ["nobody"]}, Code.FAILED_PRECONDITION, "ibc register demo nobody"),
            ({"applications": ["fs"]}, Code.FAILED_PRECONDITION, "slackwater agent"),
            ({"applications": ["db", "fs"]}, Code.FAILED_PRECONDITION, "'fs'"),
            ({"timeout": 0.0}, Code.INVALID_ARGUMENT, "quiesce.timeout"),
            ({"timeout": -1.0}, Code.INVALID_ARGUMENT, "quiesce.timeout"),
            ({"timeout": 3601.0}, Code.INVALID_ARGUMENT, "quiesce.timeout"),
            ({"max_hold": 0.0}, Code.INVALID_ARGUMENT, "quiesce.max_hold"),
            ({"max_hold": -0.5}, Code.INVALID_ARGUMENT, "quiesce.max_hold"),
            ({"max_hold": 3601.0}, Code.INVALID_ARGUMENT, "quiesce.max_hold"),
            ({"links": ["site-z"]}, Code.INVALID_ARGUMENT, "links"),
            ({"data": bytes((128 << 10) + 1)}, Code.INVALID_ARGUMENT, "body"),
        ],
    )
    def test_request_that_cannot_be_quiesces_nobody(
        self, tmp_path: Path, fields: dict[str, Any], code: Code, said: str
    ) -> None:
        @in_loop
        async def run(path: Path) -> None:
            async with Site(path) as site:
                await ready(site, "db", "fs")
                before = site.node.group("demo").writer.log.end
                given = {"applications": ["db"], **fields}
                names = given.pop("applications")
                if "data" in given:
                    given["text"] = None
                async with Agent(site, "db") as agent:
                    request = quiescing(*names, **given)
                    assert said in await refused(site.api.SendMessage(request), code)
                    assert agent.asked() == 0
                assert site.node.group("demo").writer.log.end == before

        run(tmp_path)


class TestRevoked:
    """Resume, or the hold broke: Outcome REVOKED, grade crash."""

    @pytest.mark.parametrize("misdeed", ["broken", "fail", "die", "silent", "late", "again"])
    def test_bad_end_of_a_hold_revokes(self, tmp_path: Path, misdeed: str) -> None:
        @in_loop
        async def run(path: Path) -> None:
            async with Site(path, agent_grace_seconds=1.0) as site:
                await ready(site, "db")
                async with Agent(site, "db") as agent:
                    max_hold = 0.5 if misdeed == "late" else 2.0
                    sending = asyncio.ensure_future(
                        site.api.SendMessage(quiescing("db", max_hold=max_hold))
                    )
                    hold = (await agent.next("hold")).hold_id
                    await agent.quiesced(hold)
                    await agent.next("resume")
                    if misdeed == "broken":
                        await agent.resumed(hold, unbroken=False)
                    elif misdeed == "fail":
                        await agent.failed(hold, "thaw: EIO")
                    elif misdeed == "die":
                        await agent.die()
                    elif misdeed == "silent":
                        agent.fall_silent()
                        assert await agent.end() is Code.UNAVAILABLE
                    elif misdeed == "late":
                        await asyncio.sleep(0.7)
                        await agent.resumed(hold)
                    else:  # what it says second is never better
                        await agent.resumed(hold, unbroken=False)
                        await agent.resumed(hold, unbroken=True)
                    answer = await sending
                judgement = answer.message.judgement
                assert judgement.state == REVOKED
                assert judgement.grade == common_pb2.SNAPSHOT_GRADE_CRASH
                assert judgement.reports[0].problem
                assert not judgement.reports[0].unbroken
                assert [one.state for one in records(site, record.KIND_OUTCOME)] == [REVOKED]
                assert site.node.group("demo").quiesce.rounds_total["revoked"] == 1

        run(tmp_path)

    @staticmethod
    @in_loop
    async def test_agent_that_never_says_it_goes_on_is_not_waited_for_for_ever(
        tmp_path: Path,
    ) -> None:
        async with Site(tmp_path, agent_grace_seconds=1.0) as site:
            await ready(site, "db")
            async with Agent(site, "db") as agent:
                sending = asyncio.ensure_future(site.api.SendMessage(quiescing("db", max_hold=0.2)))
                await agent.quiesced((await agent.next("hold")).hold_id)
                answer = await sending
            assert "in time" in answer.message.judgement.evidence


class TestSessions:
    @staticmethod
    @in_loop
    async def test_second_agent_of_one_name_waits_for_the_end_of_the_first(tmp_path: Path) -> None:
        async with Site(tmp_path) as site:
            await ready(site, "db")
            async with Agent(site, "db"):
                text = await refused(Agent(site, "db").begin(), Code.ALREADY_EXISTS)
                assert "here" in text
            desk = site.node.group("demo").quiesce
            while desk.core.sessions():
                await asyncio.sleep(0.01)
            async with Agent(site, "db"):
                assert len(desk.core.sessions()) == 1

    @pytest.mark.parametrize(
        ("fields", "code", "said"),
        [
            ({"application": "nobody"}, Code.NOT_FOUND, "nobody"),
            ({"kind": "magic"}, Code.INVALID_ARGUMENT, "kind"),
            ({"group": "groups/none"}, Code.NOT_FOUND, "none"),
            ({"group": "demo"}, Code.INVALID_ARGUMENT, "open.group"),
        ],
    )
    def test_session_that_cannot_be_is_refused(
        self, tmp_path: Path, fields: dict[str, str], code: Code, said: str
    ) -> None:
        @in_loop
        async def run(path: Path) -> None:
            async with Site(path) as site:
                await ready(site, "db")
                assert said in await refused(Agent(site, **fields).begin(), code)

        run(tmp_path)

    def test_agent_of_other_groups_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The group comes in the first message, so the servicer looks at the certificate."""
        agent = roles.Identity(
            "agent", (roles.Grant(roles.Role.QUIESCE, ("other",)), roles.Grant(roles.Role.VIEW))
        )

        @in_loop
        async def run(path: Path) -> None:
            async with Site(path) as site:
                await ready(site, "db")
                monkeypatch.setattr(tls, "identity_of_call", lambda _context: agent)
                text = await refused(Agent(site, "db").begin(), Code.PERMISSION_DENIED)
                assert "quiesce" in text

        run(tmp_path)

    @staticmethod
    @in_loop
    async def test_stream_that_does_not_open_first_is_refused(tmp_path: Path) -> None:
        async with Site(tmp_path) as site:
            call = site.api.HoldQuiesce()
            await call.write(api.HoldQuiesceRequest(heartbeat=api.HoldQuiesceRequest.Heartbeat()))
            assert "open" in await refused(call.read(), Code.INVALID_ARGUMENT)

    @staticmethod
    @in_loop
    async def test_both_sides_give_signs_of_life_and_status_shows_the_hold(tmp_path: Path) -> None:
        async with Site(tmp_path) as site:
            await ready(site, "db")
            async with Agent(site, "db", "command") as agent:
                while not agent.heartbeats:
                    await asyncio.sleep(0.01)
                shown = (await status(site)).agents
                assert [(one.application, one.kind, one.host) for one in shown] == [
                    ("db", "command", "here")
                ]
                assert not shown[0].HasField("held_for")
                sending = asyncio.ensure_future(site.api.SendMessage(quiescing("db")))
                hold = (await agent.next("hold")).hold_id
                await agent.quiesced(hold)
                await agent.next("resume")
                desk = site.node.group("demo").quiesce
                assert (await status(site)).agents[0].HasField("held_for")
                assert desk.holding == 1
                await agent.resumed(hold)
                await sending
                assert desk.holding == 0
                assert sum(desk.window_seconds.counts) == 1
                text = await refused(
                    site.api.UnregisterApplication(
                        api.PrimaryServiceUnregisterApplicationRequest(
                            group=GROUP, application="db"
                        )
                    ),
                    Code.FAILED_PRECONDITION,
                )
                assert "agent" in text

    @staticmethod
    @in_loop
    async def test_what_happens_is_told(tmp_path: Path) -> None:
        async with Site(tmp_path) as site:
            await ready(site, "db")
            kinds: list[str] = []
            with site.node.events.subscribe() as watching:
                async with Agent(site, "db") as agent:
                    await sent(site, quiescing("db"), agent)
                while "AGENT_GONE" not in kinds:
                    event = await watching.get(SECONDS)
                    assert event is not None
                    kinds.append(event.kind)
            assert kinds == [
                "AGENT_CONNECTED",
                "QUIESCE_BEGAN",
                "MESSAGE_SENT",
                "QUIESCE_ENDED",
                "OUTCOME",
                "AGENT_GONE",
            ]

    @staticmethod
    @in_loop
    async def test_stop_of_the_service_sees_the_round_through(tmp_path: Path) -> None:
        async with Site(tmp_path) as site:
            await ready(site, "db")
            async with Agent(site, "db") as agent:
                sending = asyncio.ensure_future(site.api.SendMessage(quiescing("db")))
                hold = await agent.next("hold")
                stopping = asyncio.ensure_future(site.node.end_agents(SECONDS))
                await agent.quiesced(hold.hold_id)
                await agent.next("resume")
                await agent.resumed(hold.hold_id)
                assert (await sending).message.outcome == CONFIRMED
                await stopping
                assert await agent.end() is Code.UNAVAILABLE
            await refused(site.api.SendMessage(quiescing("db")), Code.UNAVAILABLE)
            await refused(Agent(site, "db").begin(), Code.UNAVAILABLE)
