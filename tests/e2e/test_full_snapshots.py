"""A snapshot of kind full on real services: it outlives the file of its volume."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from slackwater.v1 import common_pb2
from tests.support.processes import DATA, GROUP, MIB, Cluster, connect

pytestmark = pytest.mark.timeout(180)


def cli(cluster: Cluster, *words: str) -> str:
    done = subprocess.run(
        [
            sys.executable, "-m", "slackwater.cli", *words,
            "--secondary", cluster.secondary.endpoints.grpc,
            "--snapshot", cluster.snapshot.endpoints.grpc,
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def write(cluster: Cluster, offset: int, length: int) -> None:
    client = cluster.device(DATA)
    client.write(offset, os.urandom(length))
    client.close()


def test_full_snapshot_is_listed_read_exported_and_cloned_when_its_volume_is_lost(
    tmp_path: Path,
) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.replicate(data=16 * MIB)
        write(cluster, MIB // 2, 8 * MIB)
        cluster.wait_no_lag()
        cli(cluster, "snapshot", "create", "demo", "s1", "--kind", "full")
        write(cluster, 0, 2 * MIB)
        cluster.wait_no_lag()
        cli(cluster, "snapshot", "wait", "demo", "s1", "--copied")
        cli(cluster, "snapshot", "export", "demo", "s1")
        before = cluster.read_snapshot("s1", "data")
        cluster.secondary.stop()
        (volume,) = cluster.secondary.data_dir.glob("groups/demo/volumes/*")
        os.truncate(volume, MIB)
        cluster.secondary.start(same_ports=True)
        assert cluster.replica().state == common_pb2.REPLICA_STATE_FAILED
        assert "only complete snapshots of kind full" in cluster.replica().state_reason
        assert "full, 100 %" in cli(cluster, "snapshot", "list", "demo")
        assert cluster.read_snapshot("s1", "data") == before
        cli(cluster, "snapshot", "unexport", "demo", "s1")
        cli(cluster, "snapshot", "export", "demo", "s1")
        assert cluster.read_snapshot("s1", "data") == before
        cli(cluster, "snapshot", "clone", "create", "demo/s1", "c1", "--export")
        with connect(cluster, "secondary", f"{GROUP}/clones/c1/volumes/data") as client:
            assert client.read(0, MIB) == before[:MIB]
