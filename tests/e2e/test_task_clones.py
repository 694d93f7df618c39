"""Tasks with the steps `clone` and `refresh`, on real services."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from slackwater.nbd.client import Client
from slackwater.v1 import secondary_pb2, snapshot_pb2
from tests.support.processes import CALL_SECONDS, DATA, GROUP, connect, wait_until
from tests.support.task_site import TaskSite

Run = snapshot_pb2.Run

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[TaskSite]:
    """Planned services; the test starts them."""
    with TaskSite(tmp_path) as site:
        yield site


def clones(cluster: TaskSite) -> list[str]:
    request = secondary_pb2.SecondaryServiceListClonesRequest(group=GROUP)
    answer = cluster.secondary_api.ListClones(request, timeout=CALL_SECONDS)
    return [row.name for row in answer.clones]


def write(cluster: TaskSite, text: bytes) -> None:
    client = cluster.device(DATA)
    client.write(0, text.ljust(512))
    client.close()


def waiting_run(cluster: TaskSite) -> snapshot_pb2.Run:
    """A run that made its clone and waits in a command; `gate` lets it go."""
    gate = cluster.directory / "gate"
    cluster.program(
        "use.sh",
        'echo "$SLACKWATER_CLONE $SLACKWATER_CLONE_NBD_URIS"\n'
        f"until [ -e {gate} ]; do sleep 0.1; done",
    )
    cluster.write_task(onfreeze=["snapshot"], postfreeze=["clone", {"command": ["use.sh"]}])
    started = cluster.start_task()
    wait_until(
        "the clone is exported",
        lambda: bool(cluster.run(started.name).replicas[0].clone_nbd_uris),
    )
    return cluster.run(started.name)


def clone_client(cluster: TaskSite, run: snapshot_pb2.Run) -> Client:
    return connect(cluster, "secondary", f"{run.replicas[0].clone}/volumes/data")


def test_clone_is_written_while_the_run_lasts_and_goes_with_it(cluster: TaskSite) -> None:
    cluster.begin()
    write(cluster, b"at the message")
    run = waiting_run(cluster)
    client = clone_client(cluster, run)
    assert client.read(0, 512).rstrip() == b"at the message"
    client.write(0, b"on trial".ljust(512))
    client.close()
    (snapshot,) = cluster.snapshots()
    assert snapshot.clones == [run.replicas[0].clone] == clones(cluster)
    (cluster.directory / "gate").touch()
    over = cluster.wait_over(run.name)
    assert (over.state, over.error) == (Run.STATE_SUCCEEDED, "")
    said = next(step.output for step in over.steps if step.output)
    assert run.replicas[0].clone.rpartition("/")[2] in said and "nbd" in said
    assert "unclone" in [step.step for step in over.steps]
    assert not clones(cluster) and not over.replicas[0].clone
    assert cluster.read_volume("data")[:512].rstrip() == b"at the message"


def test_row_the_runner_is_killed_with_a_clone_and_the_next_one_removes_it(
    cluster: TaskSite,
) -> None:
    cluster.begin()
    run = waiting_run(cluster)
    assert clones(cluster)
    client = clone_client(cluster, run)  # a client does not keep it
    cluster.snapshot.restart(kill=True)
    over = cluster.wait_over(run.name)
    assert over.state == Run.STATE_FAILED
    wait_until("the clone is gone", lambda: not clones(cluster))
    assert len(cluster.snapshots()) == 1, "the snapshot stays"
    client.close()


def test_named_snapshot_moves_on_with_each_run_and_is_left_when_it_is_relied_on(
    cluster: TaskSite,
) -> None:
    cluster.begin()
    cluster.write_task(onfreeze=[{"refresh": {"snapshot": "reporting"}}], postfreeze=["export"])
    plan = cluster.snapshot_api.StartTask(
        snapshot_pb2.StartTaskRequest(name="tasks/nightly", validate_only=True),
        timeout=CALL_SECONDS,
    ).plan
    (planned,) = [step for step in plan if step.step == "refresh"]
    assert planned.where == "secondary" and "reporting" in planned.detail and planned.holds
    run = Run()
    for text in (b"first", b"second"):
        write(cluster, text)
        run = cluster.run_to_end()
        assert (run.state, run.error) == (Run.STATE_SUCCEEDED, "")
        (snapshot,) = cluster.snapshots()
        assert snapshot.name == f"{GROUP}/snapshots/reporting" == run.snapshot
        assert snapshot.message == run.message and snapshot.position == run.position
        read = secondary_pb2.ReadSnapshotRequest(name=snapshot.name, volume="data", length=512)
        answer = cluster.secondary_api.ReadSnapshot(read, timeout=CALL_SECONDS)
        assert answer.data.rstrip() == text
    hold = secondary_pb2.HoldSnapshotRequest(name=f"{GROUP}/snapshots/reporting", note="audit")
    cluster.secondary_api.HoldSnapshot(hold, timeout=CALL_SECONDS)
    write(cluster, b"third")
    failed = cluster.run_to_end()
    assert failed.state == Run.STATE_FAILED and "SNAPSHOT_HELD" in failed.error
    (snapshot,) = cluster.snapshots()
    assert snapshot.message == run.message, "it is where it was"
