"""Agents with the real Primary: whoever dies, the application goes on and no grade is made up.

Two moments matter. While an application is held for another that is still asked, nothing is
placed yet: whatever breaks the hold leaves no message. While it resumes the message is in the log:
whatever breaks the session leaves the Outcome REVOKED.
"""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import cast

import grpc
import pytest

from slackwater.v1 import common_pb2, primary_pb2, record_pb2, resources_pb2
from tests.support import agents
from tests.support.agents import AgentProcess
from tests.support.commands import AT_ONCE_SECONDS, Pair
from tests.support.cut_wire import CutWire
from tests.support.processes import GROUP, Cluster
from tests.support.scripted_primary import eventually

CALL_SECONDS = 60.0
GRACE_SECONDS = 2.0
GUARD_SECONDS = 1.0
"""What a guard leaves its agent after `max_hold`."""
SLOW = "slow"
CONFIRMED = record_pb2.Outcome.STATE_CONFIRMED
REVOKED = record_pb2.Outcome.STATE_REVOKED

_NUMBERS = itertools.count(1)

Answer = Future[primary_pb2.SendMessageResponse]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One pair of sites for all tests; the Primary takes a silent agent for dead after 2 s."""
    arguments = {"primary": ["--agent-grace-seconds", f"{GRACE_SECONDS:g}"]}
    with Cluster(tmp_path_factory.mktemp("sites"), arguments=arguments) as services:
        yield services.replicate(data=8 << 20)


@pytest.fixture
def sender() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


class Stage:
    """An application with its agent, a second that is slow to hold, and the sends of a test."""

    def __init__(
        self, site: Cluster, directory: Path, sender: ThreadPoolExecutor, name: str
    ) -> None:
        self.site, self.directory, self.name = site, directory, name
        self._sender = sender
        self.resume_gate = directory / "resume-gate"
        self.slow_gate = directory / "slow-gate"
        self.pair = Pair(directory / "scripts", resume=_gate(self.resume_gate))
        self.slow = Pair(directory / "slow", quiesce=_gate(self.slow_gate))
        self.resume_gate.touch()
        for application in (name, SLOW):
            site.primary_api.RegisterApplication(
                primary_pb2.PrimaryServiceRegisterApplicationRequest(
                    group=GROUP, application=application
                ),
                timeout=CALL_SECONDS,
            )

    def agent(self, primary: str = "", *words: str) -> AbstractContextManager[AgentProcess]:
        address = primary or self.site.primary.endpoints.grpc
        return agents.running(
            address, self.directory, *words, *self.pair.words, application=self.name
        )

    def slow_agent(self) -> AbstractContextManager[AgentProcess]:
        (self.directory / SLOW).mkdir(exist_ok=True)
        address = self.site.primary.endpoints.grpc
        return agents.running(address, self.directory / SLOW, *self.slow.words, application=SLOW)

    def status(self) -> list[primary_pb2.AgentStatus]:
        return list(self.site.group_status().agents)

    def wait_sessions(self, *names: str) -> None:
        eventually(
            f"sessions of {names}", lambda: {row.application for row in self.status()} >= set(names)
        )

    def send(self, *names: str, timeout: float = 30.0, max_hold: float = 60.0) -> Answer:
        request = primary_pb2.SendMessageRequest(
            group=GROUP, application=self.name, text="at this point",
            behaviour=common_pb2.MESSAGE_BEHAVIOUR_NOTIFY,
        )  # fmt: skip
        request.quiesce.applications.extend(names)
        request.quiesce.timeout.FromNanoseconds(int(timeout * 1e9))
        request.quiesce.max_hold.FromNanoseconds(int(max_hold * 1e9))
        return self._sender.submit(self.site.primary_api.SendMessage, request, timeout=CALL_SECONDS)

    def messages(self) -> list[resources_pb2.Message]:
        request = primary_pb2.PrimaryServiceListMessagesRequest(group=GROUP)
        rows = self.site.primary_api.ListMessages(request, timeout=CALL_SECONDS).messages
        return [row for row in rows if row.application == self.name]

    def hold_while_slow(self) -> Answer:
        """A send whose first application is held, and whose second one takes its time."""
        self.wait_sessions(self.name, SLOW)
        answer = self.send(self.name, SLOW)
        eventually("the application is held", self.pair.is_held)
        return answer

    def placed_while_resuming(self) -> Answer:
        """A send whose message is placed, and whose application is slow to resume."""
        self.resume_gate.unlink()
        self.wait_sessions(self.name)
        answer = self.send(self.name)
        eventually("the message is placed", lambda: bool(self.messages()))
        assert self.pair.is_held()
        return answer

    def judged(self) -> resources_pb2.Message:
        """The one message, once it is judged."""
        eventually("the message is judged", lambda: bool(self.messages()[0].outcome))
        (message,) = self.messages()
        return message


@pytest.fixture
def stage(site: Cluster, tmp_path: Path, sender: ThreadPoolExecutor) -> Stage:
    return Stage(site, tmp_path, sender, f"app-{next(_NUMBERS)}")


def _gate(path: Path) -> str:
    return f"while [ ! -e {path} ]; do sleep 0.05; done"


def refused(answer: Answer) -> grpc.Call:
    with pytest.raises(grpc.RpcError) as error:
        answer.result(CALL_SECONDS)
    return cast(grpc.Call, error.value)


def kill_agent(agent: AgentProcess) -> None:
    agent.kill()


def kill_guard(agent: AgentProcess) -> None:
    os.kill(agent.guard(), signal.SIGKILL)


def kill_both(agent: AgentProcess) -> None:
    guard = agent.guard()
    agent.signal(signal.SIGSTOP)
    os.kill(guard, signal.SIGKILL)
    agent.kill()


def end_agent(agent: AgentProcess) -> None:
    assert agent.end() == 0


def hang_agent(agent: AgentProcess) -> None:
    agent.signal(signal.SIGSTOP)


def test_confirmed_hold_makes_the_grade_application(stage: Stage) -> None:
    with stage.agent():
        stage.wait_sessions(stage.name)
        (row,) = [row for row in stage.status() if row.application == stage.name]
        assert (row.kind, bool(row.host)) == ("command", True)
        answer = stage.send(stage.name).result(CALL_SECONDS)
        judgement = answer.message.judgement
        assert answer.message.outcome == CONFIRMED, judgement
        assert judgement.grade == common_pb2.SNAPSHOT_GRADE_APPLICATION
        (report,) = judgement.reports
        assert report.unbroken and not report.problem
        assert report.answer.startswith("held 4") and report.resume_answer.startswith("goes on")
        assert not stage.pair.is_held()
        listed = subprocess.run(
            [sys.executable, "-m", "slackwater.cli", "agent", "list", "demo", "-o", "json",
             "--primary", stage.site.primary.endpoints.grpc],
            capture_output=True, check=True, timeout=60,
        )  # fmt: skip
        rows = json.loads(listed.stdout)["agents"]
        assert [row["kind"] for row in rows if row["application"] == stage.name] == ["command"]


def test_application_without_an_agent_is_refused(stage: Stage) -> None:
    error = refused(stage.send(stage.name))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert stage.name in str(error) and not stage.messages()


@pytest.mark.parametrize(
    "end", [kill_agent, kill_guard, kill_both, end_agent], ids=lambda end: str(end.__name__)
)
def test_hold_that_breaks_before_the_message_leaves_none(
    stage: Stage, end: Callable[[AgentProcess], None]
) -> None:
    with stage.agent() as agent, stage.slow_agent():
        answer = stage.hold_while_slow()
        end(agent)
        if end is not kill_both:
            stage.pair.goes_on()
        error = refused(answer)
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert stage.name in str(error), error
        assert not stage.messages()
        if end is not kill_both:
            return
    assert stage.pair.is_held()
    with stage.agent():
        stage.wait_sessions(stage.name)
        assert not stage.pair.is_held(), "thawed at the start, before the session"


@pytest.mark.parametrize(
    "end", [kill_agent, kill_both, hang_agent], ids=lambda end: str(end.__name__)
)
def test_agent_that_dies_while_it_resumes_revokes_the_point(
    stage: Stage, end: Callable[[AgentProcess], None]
) -> None:
    with stage.agent() as agent:
        answer = stage.placed_while_resuming()
        end(agent)
        message = answer.result(CALL_SECONDS).message
        assert message.outcome == REVOKED
        assert message.judgement.grade == common_pb2.SNAPSHOT_GRADE_CRASH
        assert stage.pair.is_held()
        stage.resume_gate.touch()
        if end is not kill_both:
            stage.pair.goes_on()  # by its guard, or the program that the hung one had begun
    with stage.agent():
        stage.wait_sessions(stage.name)
        assert not stage.pair.is_held()
        assert stage.judged().outcome == REVOKED, "for ever"


def test_guard_that_dies_while_the_agent_resumes_leaves_the_point_confirmed(stage: Stage) -> None:
    """It was held until then: a guard is there for what its agent cannot do."""
    with stage.agent() as agent:
        answer = stage.placed_while_resuming()
        kill_guard(agent)
        stage.resume_gate.touch()
        assert answer.result(CALL_SECONDS).message.outcome == CONFIRMED
        assert not stage.pair.is_held()


def test_agent_that_hangs_before_the_message_leaves_none_and_its_guard_resumes(
    stage: Stage,
) -> None:
    with stage.agent() as agent, stage.slow_agent():
        stage.wait_sessions(stage.name, SLOW)
        # It may hang before it could tell its guard that the hold began: then both times count.
        answer = stage.send(stage.name, SLOW, timeout=10.0, max_hold=4.0)
        eventually("the application is held", stage.pair.is_held)
        hang_agent(agent)
        error = refused(answer)
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert not stage.messages()
        stage.pair.goes_on(within=4.0 + GUARD_SECONDS)


def test_killed_primary_lets_the_application_go_and_places_nothing(stage: Stage) -> None:
    with stage.agent(), stage.slow_agent():
        answer = stage.hold_while_slow()
        stage.site.primary.kill()
        refused(answer)
        stage.pair.goes_on()
        stage.site.primary.start(same_ports=True)
        assert not stage.messages()
        stage.wait_sessions(stage.name, SLOW)


def test_killed_primary_revokes_what_it_had_placed_once_it_is_back(stage: Stage) -> None:
    with stage.agent():
        answer = stage.placed_while_resuming()
        stage.site.primary.kill()
        refused(answer)
        stage.resume_gate.touch()
        stage.pair.goes_on()
        stage.site.primary.start(same_ports=True)
        assert stage.judged().outcome == REVOKED
        stage.wait_sessions(stage.name)


def test_network_that_is_gone_ends_a_hold_on_both_sides(stage: Stage) -> None:
    with (
        CutWire(stage.site.primary.endpoints.grpc) as wire,
        stage.agent(wire.address) as agent,
        stage.slow_agent(),
    ):
        answer = stage.hold_while_slow()
        wire.cut()
        stage.pair.goes_on(within=GRACE_SECONDS + AT_ONCE_SECONDS)
        agent.wait_says("silent for 2 s")
        error = refused(answer)
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert not stage.messages()
        wire.mend()
        eventually("it comes back", lambda: agent.log.read_text().count("event=session") == 2)


def test_network_that_is_gone_during_the_resume_revokes_the_point(stage: Stage) -> None:
    with CutWire(stage.site.primary.endpoints.grpc) as wire, stage.agent(wire.address):
        answer = stage.placed_while_resuming()
        wire.cut()
        assert answer.result(CALL_SECONDS).message.outcome == REVOKED
        stage.resume_gate.touch()
        stage.pair.goes_on()
        wire.mend()
        assert stage.judged().outcome == REVOKED, "a late answer does not better it"


def test_hold_past_max_hold_is_ended_by_the_agent(stage: Stage) -> None:
    with stage.agent(), stage.slow_agent():
        stage.wait_sessions(stage.name, SLOW)
        answer = stage.send(stage.name, SLOW, max_hold=0.5)
        refused(answer)
        stage.pair.goes_on()
        assert stage.pair.count("quiesce") == 1 and not stage.messages()


@pytest.mark.parametrize("end", [kill_agent, kill_both], ids=lambda end: str(end.__name__))
def test_quiesce_that_still_runs_does_not_outlive_its_agent(
    stage: Stage, end: Callable[[AgentProcess], None]
) -> None:
    """Else it would come to its end after the resume, and the application stand for ever."""
    program = str(stage.directory / SLOW / "quiesce")
    with stage.agent(), stage.slow_agent() as slow:
        answer = stage.hold_while_slow()
        eventually("the slow one has begun", lambda: bool(running_programs(program)))
        end(slow)
        refused(answer)
    with contextlib.ExitStack() as stack:
        if end is kill_both:  # then the next agent ends it
            stack.enter_context(stage.slow_agent())
        eventually("it is ended", lambda: not running_programs(program))
        eventually("it is undone", lambda: stage.slow.count("resume") == 1)
    stage.slow_gate.touch()
    assert not stage.slow.is_held()


def running_programs(path: str) -> list[int]:
    """Processes that run a script; its agent names it further behind."""
    found = []
    for listed in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.encode() in listed.read_bytes().split(b"\0")[:2]:
                found.append(int(listed.parent.name))
    return found


def test_quiesce_that_hangs_times_out_and_is_undone(stage: Stage) -> None:
    with stage.agent(), stage.slow_agent() as slow:
        stage.wait_sessions(stage.name, SLOW)
        error = refused(stage.send(stage.name, SLOW, timeout=1.0))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert not stage.messages()
        stage.pair.goes_on()
        eventually("the other is undone", lambda: stage.slow.count("resume") == 1)
        slow.wait_says("was ended")
        slow.wait_says("verdict=broken")
        stage.slow_gate.touch()
        answer = stage.send(stage.name, SLOW).result(CALL_SECONDS)
        assert answer.message.outcome == CONFIRMED, "the next one has nothing to suffer"


def test_second_agent_of_a_name_waits_for_the_first(stage: Stage) -> None:
    with stage.agent() as first:
        stage.wait_sessions(stage.name)
        other = stage.directory / "other"
        other.mkdir()
        with agents.running(
            stage.site.primary.endpoints.grpc, other, *stage.pair.words, application=stage.name
        ) as second:
            second.wait_says("ALREADY_EXISTS")
            assert stage.send(stage.name).result(CALL_SECONDS).message.outcome == CONFIRMED
            assert first.end() == 0
            second.wait_says("event=session")


def test_agent_waits_for_its_name_to_be_registered(site: Cluster, tmp_path: Path) -> None:
    pair = Pair(tmp_path / "scripts")
    with agents.running(
        site.primary.endpoints.grpc, tmp_path, *pair.words, application="later"
    ) as agent:
        agent.wait_says("NOT_FOUND")
        agent.wait_says("slackwater ibc register demo later")
        site.primary_api.RegisterApplication(
            primary_pb2.PrimaryServiceRegisterApplicationRequest(group=GROUP, application="later"),
            timeout=CALL_SECONDS,
        )
        agent.wait_says("event=session")
