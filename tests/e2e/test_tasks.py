"""Tasks as an operator meets them: files, grpcurl, real services."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from slackwater.v1 import common_pb2, record_pb2, snapshot_pb2
from tests.support.grpcurl import Grpcurl, GrpcurlError
from tests.support.oracle import Journal, check
from tests.support.oracle_load import Load
from tests.support.processes import DATA, MIB, wait_until
from tests.support.task_site import TASK, Agent, TaskSite

Run = snapshot_pb2.Run

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[TaskSite]:
    """Planned services; the test starts them."""
    with TaskSite(tmp_path) as site:
        yield site


def test_task_of_a_file_is_planned_and_run_with_grpcurl(cluster: TaskSite) -> None:
    cluster.begin()
    cluster.receive_nightly()
    cluster.program("before.sh", 'echo "before $SLACKWATER_LINK"')
    cluster.program("after.sh", 'echo "after $SLACKWATER_MESSAGE_ID $1"')
    cluster.write_task(
        behaviour="NOTIFY",
        prefreeze=[{"command": ["before.sh"]}],
        postfreeze=[{"name": "tell", "command": ["after.sh", "a b"], "timeout": "30s"}],
    )
    grpcurl = Grpcurl(cluster.snapshot.endpoints.grpc)
    (task,) = grpcurl.call("SnapshotService/ListTasks")["tasks"]
    assert task["source"] == str(cluster.home / "task.yaml")
    request = {"name": TASK, "allLinks": True}
    plan = grpcurl.call("SnapshotService/StartTask", {**request, "validateOnly": True})["plan"]
    assert [step["step"] for step in plan] == [
        *("command", "register", "send", "notify", "tell", "unregister"),
    ]
    assert plan[-2] == {
        "step": "tell",
        "where": "manager",
        "timeout": "30s",
        "detail": "after.sh 'a b'",
        "link": "site-b",
    }
    assert not cluster.messages()
    name = grpcurl.call("SnapshotService/StartTask", request)["run"]["name"]
    run = cluster.wait_over(name)
    assert (run.state, run.error) == (Run.STATE_SUCCEEDED, "")
    assert run.replicas[0].verdict == common_pb2.VERDICT_STATE_NOTIFIED
    outputs = [step.output for step in run.steps if step.output]
    assert outputs == ["before site-b\n", f"after {run.message.rpartition('/')[2]} a b\n"]
    assert [message.task for message in cluster.messages()] in ([TASK], [""])
    assert not cluster.names()


def test_whole_cycle_under_writers_ends_confirmed(cluster: TaskSite) -> None:
    cluster.begin(both=True)
    agent = Agent(cluster)
    gate = cluster.directory / "gate"
    cluster.program("at.sh", 'test -n "$SLACKWATER_SNAPSHOT" && test -n "$SLACKWATER_POSITION"')
    cluster.program(
        "after.sh", f'echo "$SLACKWATER_NBD_URIS"; until [ -e {gate} ]; do sleep 0.1; done'
    )
    cluster.write_task(
        quiesce={"applications": ["db"]},
        onfreeze=["snapshot", {"command": ["at.sh"]}],
        postfreeze=["export", {"command": ["after.sh"]}],
    )
    journal = Journal()
    with Load(journal, cluster.device, {DATA: 4 * MIB}) as load:
        load.wait_for(200)
        before = journal.tick()
        started = cluster.start_task(all_links=True)
        wait_until("both are exported", lambda: _exported(cluster, started))
        after = journal.tick()
        load.wait_for(200)
        (snapshot,) = cluster.snapshots()
        image = {DATA: cluster.read_snapshot(snapshot.name.rpartition("/")[2], "data")}
    check(journal, image, everything_answered_before=before, nothing_issued_after=after)
    gate.touch()
    run = cluster.wait_over(started.name)
    assert (run.state, run.error) == (Run.STATE_SUCCEEDED, "")
    assert agent.asked == ["hold", "resume"]
    assert run.judgement.state == record_pb2.Outcome.STATE_CONFIRMED
    assert run.HasField("quiesce_window")
    assert run.HasField("fence_held")
    for replica in run.replicas:
        assert replica.verdict == common_pb2.VERDICT_STATE_UNFROZEN
        assert replica.grade == common_pb2.SNAPSHOT_GRADE_APPLICATION
        assert replica.confirmed
        assert replica.position == run.position
        assert not replica.nbd_uris
    cluster.check_nothing_left("site-b", "site-c")
    agent.close()


def test_task_without_onfreeze_lets_the_secondary_take_the_snapshot(cluster: TaskSite) -> None:
    cluster.begin()
    agent = Agent(cluster)
    cluster.write_task(quiesce={"applications": ["db"]})
    run = cluster.run_to_end()
    assert (run.state, run.error) == (Run.STATE_SUCCEEDED, "")
    assert [step.step for step in run.steps][:3] == ["register", "send", "snapshot"]
    (replica,) = run.replicas
    assert replica.verdict == common_pb2.VERDICT_STATE_SNAPSHOTTED
    assert (replica.grade, replica.confirmed) == (common_pb2.SNAPSHOT_GRADE_APPLICATION, True)
    (snapshot,) = cluster.snapshots()
    assert snapshot.name == run.snapshot
    assert snapshot.name.startswith("groups/demo/snapshots/nightly-")
    assert cluster.messages()[0].task == TASK
    cluster.check_nothing_left()
    agent.close()


def _exported(cluster: TaskSite, run: snapshot_pb2.Run) -> bool:
    return all(row.nbd_uris for row in cluster.run(run.name).replicas)


def test_bad_task_file_is_shown_and_stops_nothing_else(cluster: TaskSite) -> None:
    cluster.begin()
    cluster.receive_nightly()
    cluster.write_task(behaviour="NOTIFY")
    bad = cluster.home.parent / "weekly" / "task.yaml"
    bad.parent.mkdir(mode=0o755)
    bad.write_text("group: groups/demo\nonfreeze:\n  - snapshoot\n")
    bad.chmod(0o644)
    grpcurl = Grpcurl(cluster.snapshot.endpoints.grpc)
    (problem,) = grpcurl.call("SnapshotService/GetStatus")["problems"]
    assert (problem["file"], problem["line"]) == (str(bad), 3)
    assert problem["field"] == "onfreeze[0].snapshoot"
    assert "Did you mean snapshot?" in problem["problem"]
    with pytest.raises(GrpcurlError, match=f"{bad}:3") as caught:
        grpcurl.call("SnapshotService/StartTask", {"name": "tasks/weekly"})
    assert caught.value.code == "FailedPrecondition"
    assert cluster.run_to_end().state == Run.STATE_SUCCEEDED
    with pytest.raises(GrpcurlError, match="Edit that file") as caught:
        grpcurl.call("SnapshotService/DeleteTask", {"name": TASK})
    assert caught.value.code == "FailedPrecondition"


def test_service_that_is_killed_takes_its_commands_with_it(cluster: TaskSite) -> None:
    cluster.begin()
    cluster.receive_nightly()
    mark = cluster.directory / "mark"
    cluster.program(
        "after.sh", f"setsid sleep 300 & echo $$ $! > {mark}.new; mv {mark}.new {mark}; wait"
    )
    cluster.write_task(behaviour="NOTIFY", postfreeze=[{"command": ["after.sh"]}])
    started = cluster.start_task()
    wait_until("the command runs", mark.exists)
    cluster.snapshot.kill()
    processes = [Path("/proc") / word for word in mark.read_text().split()]
    wait_until("they are gone", lambda: not any(path.exists() for path in processes), 30)
    assert cluster.names() == ["nightly"]
    cluster.snapshot.start(same_ports=True)
    run = cluster.wait_over(started.name)
    assert run.state == Run.STATE_FAILED
    assert run.error.startswith("INTERRUPTED")
    assert [row.state for row in run.replicas] == [Run.STATE_CANCELLED]
    assert not cluster.names()
    assert cluster.start_task().name != started.name
    assert "fork" not in cluster.snapshot.log_path.read_text()
