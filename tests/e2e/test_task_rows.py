"""The failure table of the task runner, row by row, with real services."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from slackwater.v1 import common_pb2, primary_pb2, record_pb2, snapshot_pb2
from tests.support.oracle import Journal
from tests.support.oracle_load import Load
from tests.support.processes import CALL_SECONDS, DATA, GROUP, MIB, wait_until
from tests.support.task_site import Agent, TaskSite

Run = snapshot_pb2.Run
TRIES = 30
REVOKED = record_pb2.Outcome.STATE_REVOKED
QUIESCE = {"applications": ["db"], "timeout": "5s", "max_hold": "5s"}

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[TaskSite]:
    """Planned services; the test starts them."""
    with TaskSite(tmp_path) as site:
        yield site


def test_row_prefreeze(cluster: TaskSite) -> None:
    """Prefreeze fails: abort; nothing quiesced, nothing sent."""
    cluster.begin()
    agent = Agent(cluster)
    cluster.program("before.sh", "echo no room >&2; exit 3")
    cluster.write_task(
        quiesce=QUIESCE, prefreeze=[{"command": ["before.sh"]}], onfreeze=["snapshot"]
    )
    run = cluster.run_to_end()
    assert run.state == Run.STATE_FAILED
    assert "before.sh ended with status 3" in run.error
    assert run.steps[0].output == "no room\n"
    assert not agent.asked
    assert not cluster.messages()
    cluster.check_nothing_left()
    agent.close()


@pytest.mark.parametrize("case", ["failed", "time-out", "no-agent"])
def test_row_quiesce_or_its_time_out(cluster: TaskSite, case: str) -> None:
    """The quiesce fails, or its time-out: all agents resume, nothing sent."""
    cluster.begin()
    agent = Agent(cluster)
    other = Agent(cluster, "web") if case != "no-agent" else None
    agent.refuses = "the database is down" if case == "failed" else ""
    agent.answers_hold = case != "time-out"
    cluster.write_task(
        quiesce={"applications": ["db", "web"], "timeout": "1s"}, onfreeze=["snapshot"]
    )
    run = cluster.run_to_end()
    assert run.state == Run.STATE_FAILED
    assert ("web" if case == "no-agent" else "db") in run.error
    if other is not None:
        other.wait("resume")
        other.close()
    assert not cluster.messages()
    assert not run.message
    assert not cluster.snapshots()
    cluster.check_nothing_left()
    agent.close()


def test_row_fence_or_append(cluster: TaskSite) -> None:
    """The fence fails: all agents resume, the task fails, no freeze happens."""
    cluster.begin()
    agent = Agent(cluster)
    # Less than any write takes: with writers about, the fence does not come about in time.
    cluster.write_task(quiesce=QUIESCE, fence_timeout="0.001ms", onfreeze=["snapshot"])
    with Load(Journal(), cluster.device, {DATA: 4 * MIB}, connections=4) as load:
        load.wait_for(100)
        placed, run = _run_until_the_fence_fails(cluster, agent)
    assert run.state == Run.STATE_FAILED
    assert "fence" in run.error
    assert agent.asked == ["hold", "resume"]
    assert len(cluster.messages()) == placed
    assert "receive" not in [step.step for step in run.steps]
    cluster.check_nothing_left()
    agent.close()


def _run_until_the_fence_fails(cluster: TaskSite, agent: Agent) -> tuple[int, Run]:
    """Return the run that failed, and how many messages there were before it."""
    for _ in range(TRIES):
        placed = len(cluster.messages())
        agent.asked.clear()
        run = cluster.run_to_end()
        if not run.message:
            return placed, run
    raise AssertionError("the fence never failed")


def test_row_resume_or_the_hold_broke(cluster: TaskSite) -> None:
    """The hold broke: Outcome REVOKED; the Secondary side is finished, grade crash."""
    cluster.begin()
    agent = Agent(cluster)
    agent.unbroken = False
    cluster.program("after.sh", "echo done")
    cluster.write_task(
        quiesce=QUIESCE, onfreeze=["snapshot"], postfreeze=[{"command": ["after.sh"]}]
    )
    run = cluster.run_to_end()
    assert run.state == Run.STATE_FAILED
    assert run.error.startswith("QUIESCE_REVOKED")
    assert run.judgement.state == REVOKED
    (replica,) = run.replicas
    assert replica.state == Run.STATE_SUCCEEDED
    assert replica.verdict == common_pb2.VERDICT_STATE_UNFROZEN
    assert (replica.grade, replica.confirmed) == (common_pb2.SNAPSHOT_GRADE_CRASH, False)
    assert "done\n" in [step.output for step in run.steps]
    cluster.check_nothing_left()
    agent.close()


@pytest.mark.parametrize("case", ["fails", "hangs", "floods", "dies"])
def test_row_onfreeze_or_its_time_out(cluster: TaskSite, case: str) -> None:
    """Onfreeze fails, or its time-out: unfreeze; postfreeze is skipped; it failed there."""
    cluster.begin()
    text = {
        "fails": "exit 1",
        "hangs": "trap '' TERM; sleep 100 & sleep 100",
        "floods": "yes",
        "dies": "kill -KILL $$",
    }[case]
    cluster.program("at.sh", text)
    cluster.write_task(
        onfreeze=["snapshot", {"command": ["at.sh"], "timeout": "2s"}], postfreeze=["export"]
    )
    run = cluster.run_to_end()
    assert run.state == Run.STATE_FAILED
    words = {"fails": "status 1", "dies": "signal 9"}.get(case, "longer than 2 s")
    assert words in run.error
    assert "export" not in [step.step for step in run.steps]
    (replica,) = run.replicas
    assert replica.verdict == common_pb2.VERDICT_STATE_UNFROZEN
    assert replica.snapshot == cluster.snapshots()[0].name
    cluster.check_nothing_left()


def test_row_one_secondary_of_several(cluster: TaskSite) -> None:
    """One Secondary of several: its own verdict; the others are not touched."""
    cluster.begin(both=True)
    cluster.program("at.sh", 'test "$SLACKWATER_LINK" = site-b')
    cluster.write_task(onfreeze=["snapshot", {"command": ["at.sh"]}], postfreeze=["export"])
    run = cluster.run_to_end(all_links=True)
    assert run.state == Run.STATE_FAILED
    well, ill = run.replicas
    assert (well.link, well.state, well.error) == ("site-b", Run.STATE_SUCCEEDED, "")
    assert (ill.link, ill.state) == ("site-c", Run.STATE_FAILED)
    assert "at.sh" in ill.error
    assert well.position == ill.position
    for link in ("site-b", "site-c"):
        assert [row.position for row in cluster.snapshots(link)] == [well.position]
    cluster.check_nothing_left("site-b", "site-c")


def test_row_one_secondary_of_several_is_away(cluster: TaskSite) -> None:
    """One Secondary does not answer, its link is not connected: the other is not touched."""
    cluster.begin(both=True)
    cluster.second.kill()
    cluster.write_task(onfreeze=["snapshot"])
    run = cluster.run_to_end("site-b", "site-c")
    assert run.state == Run.STATE_FAILED
    well, ill = run.replicas
    assert (well.state, ill.state) == (Run.STATE_SUCCEEDED, Run.STATE_FAILED)
    assert "is not available" in ill.error
    assert well.verdict == common_pb2.VERDICT_STATE_UNFROZEN
    assert [row.link for row in cluster.messages()[0].verdicts] == ["site-b"]


@pytest.mark.slow
def test_row_one_secondary_of_several_is_paused(cluster: TaskSite) -> None:
    """One link is held: its Secondary has its own verdict once the time for it is over."""
    cluster.begin(both=True)
    cluster.primary_api.UpdateLink(
        primary_pb2.UpdateLinkRequest(name=f"{GROUP}/links/site-c", paused=True),
        timeout=CALL_SECONDS,
    )
    cluster.write_task(onfreeze=["snapshot"], deliver_timeout="1s")
    started = cluster.start_task(all_links=True)
    wait_until("the run is over", lambda: cluster.run(started.name).state > Run.STATE_RUNNING)
    run = cluster.run(started.name)
    well, ill = run.replicas
    assert (well.state, ill.state) == (Run.STATE_SUCCEEDED, Run.STATE_FAILED)
    assert "the message's way to site-c" in ill.error
    assert not cluster.frozen("site-b")


def test_row_the_runner_dies_while_it_holds(cluster: TaskSite) -> None:
    """The runner dies: the lease thaws the Secondary; nothing is left after the next start."""
    cluster.begin()
    mark = cluster.directory / "mark"
    cluster.program("at.sh", f"echo $$ > {mark}.new; mv {mark}.new {mark}; sleep 300")
    cluster.write_task(onfreeze=["snapshot", "export", {"command": ["at.sh"]}])
    started = cluster.start_task()
    wait_until("the command runs", mark.exists)
    assert cluster.frozen()
    cluster.snapshot.kill()
    wait_until("the lease thaws", lambda: not cluster.frozen(), 30)
    wait_until(
        "the command is gone", lambda: not Path(f"/proc/{mark.read_text().strip()}").exists()
    )
    assert cluster.snapshots()[0].exported
    wait_until("the verdict came", lambda: cluster.messages()[0].final)
    assert cluster.messages()[0].verdicts[0].state == common_pb2.VERDICT_STATE_LEASE_LOST
    cluster.snapshot.start(same_ports=True)
    run = cluster.wait_over(started.name)
    assert run.state == Run.STATE_FAILED
    assert run.error.startswith("INTERRUPTED")
    cluster.check_nothing_left()


def test_row_the_runner_dies_in_the_quiesce(cluster: TaskSite) -> None:
    """The runner dies: the Primary's call ends by itself, and the application goes on."""
    cluster.begin()
    agent = Agent(cluster)
    agent.answers_hold = False
    cluster.write_task(
        quiesce={"applications": ["db"], "timeout": "4s", "max_hold": "4s"}, onfreeze=["snapshot"]
    )
    started = cluster.start_task()
    agent.wait("hold")
    cluster.snapshot.kill()
    agent.wait("resume")
    cluster.snapshot.start(same_ports=True)
    run = cluster.run(started.name)
    assert run.state == Run.STATE_FAILED
    assert run.error.startswith("INTERRUPTED")
    assert not cluster.messages()
    assert not cluster.frozen()
    agent.close()


@pytest.mark.slow
def test_row_the_runner_dies_after_the_send(cluster: TaskSite) -> None:
    """The runner dies with its message under way: the next start takes it and thaws."""
    cluster.begin()
    agent = Agent(cluster)
    agent.answers_resume = False  # the send's answer waits for it
    cluster.write_task(
        quiesce={"applications": ["db"], "timeout": "4s", "max_hold": "4s"}, onfreeze=["snapshot"]
    )
    started = cluster.start_task()
    agent.wait("resume")
    cluster.snapshot.kill()
    wait_until("the call ended", lambda: bool(cluster.messages()))
    wait_until(
        "it is judged",
        lambda: cluster.messages()[0].outcome == REVOKED,
    )
    cluster.snapshot.start(same_ports=True)
    wait_until("all is final", lambda: cluster.messages()[0].final)
    assert not cluster.frozen()
    assert cluster.run(started.name).state == Run.STATE_FAILED
    agent.close()


def test_row_the_primary_dies_in_the_quiesce(cluster: TaskSite) -> None:
    """The Primary dies before the append: nothing was sent, no replica stands."""
    cluster.begin()
    agent = Agent(cluster)
    agent.answers_hold = False
    cluster.write_task(quiesce={**QUIESCE, "timeout": "30s"}, onfreeze=["snapshot"])
    started = cluster.start_task()
    agent.wait("hold")
    cluster.primary.kill()
    agent.close()
    cluster.primary.start(same_ports=True)
    run = cluster.wait_over(started.name)
    assert run.state == Run.STATE_FAILED
    assert "db" in run.error
    assert not cluster.messages()
    assert not cluster.snapshots()
    cluster.check_nothing_left()


def test_row_the_primary_dies_in_the_fence(cluster: TaskSite) -> None:
    """The Primary dies after the append: REVOKED after recovery; one message, grade crash."""
    cluster.begin()
    agent = Agent(cluster)
    agent.answers_resume = False
    cluster.write_task(quiesce={**QUIESCE, "max_hold": "60s"}, onfreeze=["snapshot"])
    started = cluster.start_task()
    agent.wait("resume")
    cluster.primary.kill()
    agent.close()
    cluster.primary.start(same_ports=True)
    run = cluster.wait_over(started.name)
    (message,) = cluster.messages()
    assert message.outcome == REVOKED
    assert run.message == message.name
    assert run.state == Run.STATE_FAILED
    assert run.error.startswith("QUIESCE_REVOKED")
    (replica,) = run.replicas
    assert (replica.state, replica.grade) == (Run.STATE_SUCCEEDED, common_pb2.SNAPSHOT_GRADE_CRASH)
    cluster.check_nothing_left()


def test_row_postfreeze(cluster: TaskSite) -> None:
    """Postfreeze fails: reported; the snapshot stays valid."""
    cluster.begin()
    cluster.program("after.sh", "echo not today; exit 9")
    cluster.write_task(postfreeze=["export", {"command": ["after.sh"]}])
    run = cluster.run_to_end()
    assert run.state == Run.STATE_FAILED
    assert "after.sh ended with status 9" in run.error
    (snapshot,) = cluster.snapshots()
    assert snapshot.name == run.snapshot
    assert run.replicas[0].verdict == common_pb2.VERDICT_STATE_SNAPSHOTTED
    assert "not today\n" in [step.output for step in run.steps]
    cluster.check_nothing_left()
