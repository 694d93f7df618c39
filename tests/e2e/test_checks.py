"""Named checks of snapshots: what they find stays with the snapshot, whatever dies on the way."""

import subprocess
from pathlib import Path

import pytest

from slackwater.v1 import resources_pb2, snapshot_pb2
from tests.support.processes import (
    CALL_SECONDS,
    DATA,
    GROUP,
    MIB,
    Cluster,
    wait_until,
)
from tests.support.tools import require

pytestmark = pytest.mark.timeout(180)

SNAPSHOT = f"{GROUP}/snapshots/s1"
KEPT = """#!/bin/sh
echo looks at $SLACKWATER_NBD_URIS of $SLACKWATER_SNAPSHOT
exit 3
"""
LONG = """#!/bin/sh
sleep 600
"""


def run(cluster: Cluster, check: str) -> str:
    request = snapshot_pb2.RunCheckRequest(check=f"checks/{check}", snapshot=SNAPSHOT)
    answer = cluster.snapshot_api.RunCheck(request, timeout=CALL_SECONDS)
    assert isinstance(answer, snapshot_pb2.RunCheckResponse)
    return answer.run.id


def results(cluster: Cluster) -> dict[str, resources_pb2.CheckResult]:
    request = snapshot_pb2.SnapshotServiceListSnapshotsRequest(group=GROUP)
    answer = cluster.snapshot_api.ListSnapshots(request, timeout=CALL_SECONDS)
    return {found.id: found for row in answer.snapshots for found in row.checks}


def over(cluster: Cluster, number: str) -> resources_pb2.CheckResult:
    wait_until("the check is over", lambda: number in results(cluster))
    return results(cluster)[number]


def clones(cluster: Cluster) -> list[str]:
    request = snapshot_pb2.SnapshotServiceListClonesRequest(group=GROUP)
    answer = cluster.snapshot_api.ListClones(request, timeout=CALL_SECONDS)
    return [row.name for row in answer.clones]


def file_check(cluster: Cluster, name: str, program: str) -> None:
    """A check in a file, whose program is beside it."""
    directory = cluster.snapshot.data_dir / "tasks" / name
    directory.mkdir(parents=True)
    (directory / "look").write_text(program)
    (directory / "look").chmod(0o755)
    (directory / "check.yaml").write_text("kind: command\ncommand: look\n")


def test_checks_leave_a_verdict_on_the_snapshot_and_nothing_else(
    cluster: Cluster, tmp_path: Path
) -> None:
    mkfs = require("mkfs.ext4")
    cluster.replicate(data=8 * MIB)
    image = tmp_path / "image"
    image.write_bytes(bytes(8 * MIB))
    subprocess.run([mkfs, "-qF", str(image)], check=True)
    with cluster.device(DATA) as device:
        data = image.read_bytes()
        for offset in range(0, len(data), MIB):
            device.write(offset, data[offset : offset + MIB])
    cluster.wait_no_lag()
    cluster.take_snapshot("s1")
    for name, kind in (
        ("fsck", snapshot_pb2.CHECK_KIND_E2FSCK),
        ("xfs", snapshot_pb2.CHECK_KIND_XFS_REPAIR),
    ):
        made = snapshot_pb2.Check(name=f"checks/{name}", kind=kind)
        request = snapshot_pb2.CreateCheckRequest(check=made)
        cluster.snapshot_api.CreateCheck(request, timeout=CALL_SECONDS)
    file_check(cluster, "strict", KEPT)
    file_check(cluster, "long", LONG)
    passed = over(cluster, run(cluster, "fsck"))
    assert passed.verdict == resources_pb2.CHECK_VERDICT_PASSED, passed
    assert "e2fsck -fn" in passed.output
    other = over(cluster, run(cluster, "xfs"))
    assert other.verdict == resources_pb2.CHECK_VERDICT_ERROR and "xfs" in other.reason
    failed = over(cluster, run(cluster, "strict"))
    assert failed.verdict == resources_pb2.CHECK_VERDICT_FAILED, failed
    assert "nbd" in failed.output and "status 3" in failed.reason
    assert clones(cluster) == []
    number = run(cluster, "long")
    wait_until("its clone is there", lambda: len(clones(cluster)) == 1)
    cluster.snapshot.restart(kill=True)
    cut = over(cluster, number)
    assert cut.verdict == resources_pb2.CHECK_VERDICT_INTERRUPTED
    wait_until("its clone is gone", lambda: clones(cluster) == [])
