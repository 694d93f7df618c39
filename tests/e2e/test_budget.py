"""The snapshot budget on real services: applying waits, or the oldest goes, and both are told."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from slackwater.v1 import secondary_pb2
from tests.support.processes import CALL_SECONDS, DATA, GROUP, MIB, Cluster, wait_until

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Two sites, replicating."""
    with Cluster(tmp_path) as running:
        yield running.replicate(data=16 * MIB)


def write(cluster: Cluster, offset: int, length: int) -> None:
    client = cluster.device(DATA)
    client.write(offset, os.urandom(length))
    client.close()


def cli(cluster: Cluster, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable, "-m", "slackwater.cli", *words,
            "--secondary", cluster.secondary.endpoints.grpc,
            "--snapshot", cluster.snapshot.endpoints.grpc,
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )  # fmt: skip


def set_budget(cluster: Cluster, *words: str) -> None:
    done = cli(cluster, "replica", "budget", "demo", *words)
    assert done.returncode == 0, done.stderr


def test_applying_waits_at_the_limit_over_a_restart_until_there_is_more(cluster: Cluster) -> None:
    write(cluster, 0, 8 * MIB)
    cluster.wait_no_lag()
    set_budget(cluster, "--bytes", "2MiB")
    cluster.take_snapshot("s1")
    before = cluster.read_volume("data", "secondary")
    write(cluster, 0, 6 * MIB)
    wait_until("it waits for room", lambda: "budget" in cluster.replica().state_reason)
    refused = cli(cluster, "snapshot", "create", "demo", "s2")
    assert refused.returncode != 0 and "snapshot budget" in refused.stderr
    # Received and durable all the same.
    wait_until(
        "all is received", lambda: cluster.replica().durable == cluster.group_status().group.durable
    )
    cluster.secondary.restart(kill=True)
    wait_until("it waits again", lambda: "budget" in cluster.replica().state_reason)
    assert cluster.replica().snapshot_bytes <= 2 * MIB
    cli(cluster, "snapshot", "export", "demo", "s1")
    assert cluster.read_snapshot("s1", "data") == before
    set_budget(cluster, "--bytes", "64MiB")
    cluster.wait_streaming()
    assert cluster.read_volume("data", "secondary") == cluster.read_volume("data")
    assert cluster.read_snapshot("s1", "data") == before


def test_oldest_goes_and_says_so(cluster: Cluster) -> None:
    write(cluster, 0, 8 * MIB)
    cluster.wait_no_lag()
    set_budget(cluster, "--bytes", "2MiB", "--at-limit", "expire-oldest-unheld")
    made = cli(cluster, "snapshot", "create", "demo", "s1")  # and not exported
    assert made.returncode == 0, made.stderr
    write(cluster, 0, 6 * MIB)
    cluster.wait_no_lag()
    request = secondary_pb2.ListExpiredSnapshotsRequest(group=GROUP)
    gone = cluster.secondary_api.ListExpiredSnapshots(request, timeout=CALL_SECONDS).snapshots
    assert [row.name for row in gone] == [f"{GROUP}/snapshots/s1"]
    assert "s1" in cli(cluster, "replica", "expired", "demo").stdout
    assert "snapshot_expired" in cluster.secondary.log_path.read_text()
    shown = cli(cluster, "replica", "budget", "demo")
    assert "expire-oldest-unheld" in shown.stdout, shown.stderr
