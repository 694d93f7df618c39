"""Whoever dies while an application is held, the application goes on, and nobody calls it unbroken.

The Primary is scripted here; `test_agent_quiesce` does the same with the real one.
"""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import agents
from tests.support.agents import AgentProcess
from tests.support.commands import AT_ONCE_SECONDS, Pair
from tests.support.scripted_primary import Conversation, ScriptedPrimary, eventually

GUARD_SECONDS = 1.0
"""What a guard leaves its agent after `max_hold`."""
RETRY_SECONDS = 30.0
"""The longest pause between two tries of a resume."""


@pytest.fixture
def primary() -> Iterator[ScriptedPrimary]:
    with ScriptedPrimary() as serving:
        yield serving


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path / "scripts")


@pytest.fixture
def agent(primary: ScriptedPrimary, pair: Pair, tmp_path: Path) -> Iterator[AgentProcess]:
    with agents.running(primary.address, tmp_path, *pair.words) as process:
        yield process


def hold(primary: ScriptedPrimary, pair: Pair, *, max_hold: float = 300.0) -> Conversation:
    """A session whose application is held."""
    session = primary.session()
    session.hold(max_hold=max_hold)
    assert session.answer().answer.startswith("held 4")
    assert pair.is_held()
    return session


def test_agent_holds_and_resumes(primary: ScriptedPrimary, agent: AgentProcess, pair: Pair) -> None:
    session = primary.session()
    assert (session.opening.group, session.opening.application) == ("groups/demo", "backup")
    assert session.opening.kind == "command"
    session.hold(task="tasks/nightly", links=("site-b", "site-c"))
    assert session.answer().answer == "held 4: nightly"
    assert pair.is_held() and agent.record.exists() and agent.guard()
    session.resume()
    answer = session.answer()
    assert (answer.hold_id, answer.unbroken) == ("h1", True)
    assert answer.answer == "goes on nightly"
    assert pair.calls.read_text().splitlines() == [
        "quiesce demo demo nightly site-b site-c",
        "resume demo demo nightly site-b site-c",
    ]
    assert not agent.record.exists()
    eventually("the guard ends", lambda: not agent.guards)
    assert agent.end() == 0
    assert session.is_over.wait(30)


def test_killed_agent_leaves_the_resume_to_its_guard(
    primary: ScriptedPrimary, agent: AgentProcess, pair: Pair
) -> None:
    session = hold(primary, pair)
    agent.kill()
    pair.goes_on()
    assert session.is_over.wait(30), "the Primary learns by the end of the stream"
    eventually("the record says so", lambda: "gone" in agent.record.read_text())
    assert json.loads(agent.record.read_text())["resumed_by"] == "guard"
    assert pair.count("resume") == 1


def test_killed_guard_ends_the_hold(
    primary: ScriptedPrimary, agent: AgentProcess, pair: Pair
) -> None:
    session = hold(primary, pair)
    os.kill(agent.guard(), signal.SIGKILL)
    pair.goes_on()
    answer = session.answer()
    assert not answer.unbroken and "the guard ended" in answer.answer
    assert not pair.is_held()
    session.hold("h2")
    assert session.answer().hold_id == "h2", "the next hold has a guard of its own"
    session.resume("h2")
    assert session.answer().unbroken


def test_both_killed_the_next_agent_resumes_at_its_start(
    primary: ScriptedPrimary, agent: AgentProcess, pair: Pair, tmp_path: Path
) -> None:
    hold(primary, pair)
    guard = agent.guard()
    agent.signal(signal.SIGSTOP)  # so that it cannot act on its guard's death
    os.kill(guard, signal.SIGKILL)
    agent.kill()
    assert pair.is_held() and agent.record.exists()
    with agents.running(primary.address, tmp_path, *pair.words) as second:
        primary.session()
        assert not pair.is_held(), "before it opens a session"
        assert second.says("was recorded as held")
        assert not second.record.exists()
    assert pair.count("resume") == 1


def test_hung_agent_is_overtaken_by_its_guard_at_the_deadline(
    primary: ScriptedPrimary, agent: AgentProcess, pair: Pair
) -> None:
    session = hold(primary, pair, max_hold=1.0)
    agent.signal(signal.SIGSTOP)
    pair.goes_on(within=1.0 + GUARD_SECONDS)
    session.resume()
    agent.signal(signal.SIGCONT)
    answer = session.answer()
    assert not answer.unbroken
    assert "max_hold" in answer.answer or "guard" in answer.answer
    assert pair.count("resume") == 1, "once, by the guard"


def test_agent_resumes_by_itself_at_max_hold(
    primary: ScriptedPrimary, agent: AgentProcess, pair: Pair
) -> None:
    session = hold(primary, pair, max_hold=0.5)
    pair.goes_on(within=0.5 + AT_ONCE_SECONDS)
    answer = session.answer()
    assert not answer.unbroken and "max_hold" in answer.answer
    assert not pair.is_held()
    session.resume()
    assert session.answer() == answer, "asked late it says the same"


def test_agent_resumes_when_the_primary_is_gone(
    primary: ScriptedPrimary, agent: AgentProcess, pair: Pair
) -> None:
    session = hold(primary, pair)
    session.end()
    pair.goes_on()
    again = primary.session()
    again.hold("h2")
    assert again.answer().hold_id == "h2"


def test_agent_resumes_when_the_primary_is_silent(tmp_path: Path, pair: Pair) -> None:
    """The network between is gone: no stream ends, nothing is heard."""
    with (
        ScriptedPrimary(grace=1.0) as primary,
        agents.running(primary.address, tmp_path, *pair.words) as agent,
    ):
        session = hold(primary, pair)
        session.is_silent.set()
        pair.goes_on(within=1.0 + AT_ONCE_SECONDS)
        agent.wait_says("silent for 1 s")
        session.end()


def test_ended_agent_resumes_first_and_exits_0(
    primary: ScriptedPrimary, agent: AgentProcess, pair: Pair
) -> None:
    session = hold(primary, pair)
    assert agent.end() == 0
    assert not pair.is_held() and not agent.record.exists()
    answer = session.answer()
    assert not answer.unbroken and "ending" in answer.answer
    assert session.is_over.wait(30)


def test_agent_that_cannot_resume_keeps_trying(primary: ScriptedPrimary, tmp_path: Path) -> None:
    pair = Pair(tmp_path / "scripts", resume=f"test -e {tmp_path}/mended || exit 7")
    with agents.running(primary.address, tmp_path, *pair.words) as agent:
        session = hold(primary, pair)
        session.resume()
        assert "ended with 7" in session.answer().problem
        session.hold("h2")
        assert "not over" in session.answer().problem, "no other hold meanwhile"
        assert agent.record.exists()
        (tmp_path / "mended").touch()
        pair.goes_on(within=RETRY_SECONDS)
        answer = session.answer()
        assert answer.hold_id == "h1" and not answer.unbroken


def test_agent_that_ends_before_it_could_resume_says_so(
    primary: ScriptedPrimary, tmp_path: Path
) -> None:
    """Its guard, and then the next agent, go on trying."""
    pair = Pair(tmp_path / "scripts", resume=f"test -e {tmp_path}/mended || exit 7")
    with agents.running(primary.address, tmp_path, "--resume-timeout", "1s", *pair.words) as agent:
        session = hold(primary, pair)
        session.resume()
        session.answer()
        guard = agent.guard()
        assert agent.end() == 1
        assert agent.says("ended while held")
        os.kill(guard, signal.SIGKILL)
    (tmp_path / "mended").touch()
    with agents.running(primary.address, tmp_path, *pair.words):
        primary.session()
        assert not pair.is_held()


def test_second_agent_of_a_name_is_told_and_keeps_trying(
    primary: ScriptedPrimary, agent: AgentProcess, pair: Pair, tmp_path: Path
) -> None:
    session = hold(primary, pair)
    (tmp_path / "elsewhere").mkdir()
    with agents.running(primary.address, tmp_path / "elsewhere", *pair.words) as second:
        second.wait_says("ALREADY_EXISTS")
        eventually("it tries again", lambda: primary.refused > 1)
        session.resume()
        assert session.answer().unbroken, "the first one does not notice"
        assert agent.end() == 0
        primary.session()


def test_second_agent_on_the_same_host_leaves_the_hold_of_the_first_alone(
    primary: ScriptedPrimary, agent: AgentProcess, pair: Pair, tmp_path: Path
) -> None:
    """It would otherwise resume what the record says is held."""
    session = hold(primary, pair)
    with agents.running(primary.address, tmp_path, *pair.words) as second:
        second.wait_says("another agent of this name runs here")
        assert pair.is_held()
        session.resume()
        assert session.answer().unbroken
        assert agent.end() == 0
        primary.session()
