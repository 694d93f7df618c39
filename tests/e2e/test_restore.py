"""`slackwater snapshot restore`: volumes become what a snapshot holds, and every Secondary too."""

import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import grpc
import pytest

from slackwater.runtime import status
from slackwater.v1 import primary_pb2, secondary_pb2
from tests.support.processes import CALL_SECONDS, DATA, GROUP, MIB, WAL, Cluster, wait_until

pytestmark = pytest.mark.timeout(180)

SIZES = {"data": 16 * MIB, "wal": 4 * MIB}
Restore = primary_pb2.Restore


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Two sites, replicating."""
    with Cluster(tmp_path) as running:
        yield running.replicate(**SIZES)


def write(cluster: Cluster, volume: int, offset: int, length: int) -> None:
    client = cluster.device(volume)
    client.write(offset, os.urandom(length))
    client.close()


def images(cluster: Cluster, role: str = "primary") -> dict[str, bytes]:
    return {name: cluster.read_volume(name, role) for name in SIZES}


def change_much(cluster: Cluster) -> None:
    """What is overwritten, newly written, and made zero: all of it differs afterwards."""
    write(cluster, DATA, 0, 3 * MIB)
    write(cluster, DATA, 11 * MIB + 4096, 65536)
    write(cluster, WAL, 512, 512)
    cluster.primary_api.WriteVolume(
        primary_pb2.WriteVolumeRequest(
            name=f"{GROUP}/volumes/data", offset=8 * MIB, zero_bytes=MIB
        ),
        timeout=CALL_SECONDS,
    )


def prepared(cluster: Cluster) -> dict[str, bytes]:
    """A snapshot `s1`, its content, and much that was written since."""
    write(cluster, DATA, MIB, 9 * MIB)
    write(cluster, WAL, 0, MIB)
    cluster.wait_no_lag()
    cluster.take_snapshot("s1")
    before = images(cluster)
    change_much(cluster)
    cluster.wait_no_lag()
    assert images(cluster) != before
    return before


def cli(cluster: Cluster, *words: str) -> subprocess.CompletedProcess[str]:
    addresses = [
        word
        for role in ("primary", "secondary", "snapshot")
        for word in (f"--{role}", getattr(cluster, role).endpoints.grpc)
    ]
    return subprocess.run(
        [sys.executable, "-m", "slackwater.cli", *words, *addresses],
        capture_output=True,
        text=True,
        timeout=120,
    )


def begin(cluster: Cluster, *volumes: str) -> Restore:
    request = primary_pb2.CreateRestoreRequest(
        snapshot=f"{GROUP}/snapshots/s1", volumes=volumes, request_id="restore-1"
    )
    return cluster.primary_api.CreateRestore(request, timeout=CALL_SECONDS).restore


def look(cluster: Cluster, name: str) -> Restore:
    request = primary_pb2.GetRestoreRequest(name=name)
    return cluster.primary_api.GetRestore(request, timeout=CALL_SECONDS).restore


def finished(cluster: Cluster, name: str) -> Restore:
    wait_until("the restore is done", lambda: look(cluster, name).state == Restore.STATE_DONE)
    return look(cluster, name)


def refusal(call: grpc.RpcError) -> tuple[str, str]:
    found = status.decode(call)
    return found.code.name, found.reason


def held(cluster: Cluster) -> bool:
    request = secondary_pb2.GetSnapshotRequest(name=f"{GROUP}/snapshots/s1")
    return cluster.secondary_api.GetSnapshot(request, timeout=CALL_SECONDS).snapshot.held


def test_volumes_become_what_the_snapshot_holds_on_both_sides(cluster: Cluster) -> None:
    before = prepared(cluster)

    told = cli(cluster, "snapshot", "restore", "demo", "s1", "--dry-run")
    assert told.returncode == 0, told.stderr
    assert "'data'" in told.stderr + told.stdout and images(cluster) != before

    done = cli(cluster, "snapshot", "restore", "demo/s1", "--yes", "--output", "json")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert row["state"] == "STATE_DONE" and len(row["sha256"]) == 64
    # 64 KiB grains that differ, and nothing besides.
    assert 0 < int(row["writtenBytes"]) <= 5 * MIB

    assert images(cluster) == before
    cluster.wait_no_lag()
    assert images(cluster, "secondary") == before
    assert cluster.link().sync.sync_id == "", "no sync was needed"
    write(cluster, DATA, 0, 4096)  # the volumes are open again
    wait_until("the snapshot is let go of", lambda: not held(cluster))
    assert "000001" in cli(cluster, "restore", "list", "demo").stdout


def test_some_volumes_are_restored_and_the_others_are_written_on(cluster: Cluster) -> None:
    before = prepared(cluster)
    stop = threading.Event()

    def keep_writing() -> None:
        while not stop.is_set():
            write(cluster, WAL, 0, 4096)

    writer = threading.Thread(target=keep_writing)
    writer.start()
    try:
        finished(cluster, begin(cluster, "data").name)
    finally:
        stop.set()
        writer.join()
    assert cluster.read_volume("data") == before["data"]
    assert cluster.read_volume("wal") != before["wal"]


def test_snapshot_that_leaves_a_volume_out_restores_the_others(cluster: Cluster) -> None:
    write(cluster, DATA, 0, MIB)
    cluster.wait_no_lag()
    made = cli(cluster, "snapshot", "create", "demo", "s1", "--exclude", "wal")
    assert made.returncode == 0, made.stderr
    before = images(cluster)
    write(cluster, DATA, 0, 65536)
    write(cluster, WAL, 0, 4096)
    with pytest.raises(grpc.RpcError) as refused:
        begin(cluster, "wal")
    assert refused.value.code().name == "NOT_FOUND" and "has: data" in str(refused.value.details())
    row = finished(cluster, begin(cluster).name)
    assert list(row.volumes) == ["data"]
    after = images(cluster)
    assert after["data"] == before["data"] and after["wal"] != before["wal"]


def test_nothing_else_writes_while_it_waits_and_it_survives_sigkill(cluster: Cluster) -> None:
    before = prepared(cluster)
    # A replica that stands still holds the restore at its first step.
    message = cluster.send()
    assert cluster.receive() is not None
    write(cluster, WAL, 4096, 4096)
    name = begin(cluster).name
    wait_until("it says what it waits for", lambda: "frozen" in look(cluster, name).state_reason)
    shown = cli(cluster, "status", "demo").stdout
    assert "000001 from s1: WAITING" in shown and "are being restored from" in shown
    for attempt in range(2):
        with pytest.raises(grpc.RpcError) as refused:
            cluster.primary_api.WriteVolume(
                primary_pb2.WriteVolumeRequest(name=f"{GROUP}/volumes/data", data=bytes(512)),
                timeout=CALL_SECONDS,
            )
        assert refusal(refused.value) == ("FAILED_PRECONDITION", "RESTORING")
        with pytest.raises(Exception, match=r"being restored|closed|refused|Unknown export|errno"):
            cluster.device(DATA)
        with pytest.raises(grpc.RpcError) as refused:
            cluster.primary_api.DeleteVolume(
                primary_pb2.DeleteVolumeRequest(name=f"{GROUP}/volumes/wal"), timeout=CALL_SECONDS
            )
        assert refusal(refused.value) == ("FAILED_PRECONDITION", "RESTORING")
        if not attempt:
            cluster.primary.restart(kill=True)
    assert begin(cluster).name == name, "the same request finds the same restore"
    assert look(cluster, name).state == Restore.STATE_WAITING
    cluster.unfreeze(message.name)
    finished(cluster, name)
    assert images(cluster) == before
    cluster.wait_no_lag()
    assert images(cluster, "secondary") == before


def test_killed_while_it_copies_it_goes_on_and_stays_closed(cluster: Cluster) -> None:
    before = prepared(cluster)
    name = begin(cluster).name
    for _ in range(3):
        wait_until(
            "it has begun",
            lambda: look(cluster, name).state not in (Restore.STATE_WAITING,),
        )
        cluster.primary.restart(kill=True)
        cluster.wait_streaming()
    finished(cluster, name)
    assert images(cluster) == before
    cluster.wait_no_lag()
    assert images(cluster, "secondary") == before


def test_what_cannot_be_restored_is_refused_and_closes_nothing(cluster: Cluster) -> None:
    prepared(cluster)
    client = cluster.device(DATA)
    with pytest.raises(grpc.RpcError) as refused:
        begin(cluster)
    assert refusal(refused.value) == ("FAILED_PRECONDITION", "EXPORT_IN_USE")
    client.write(0, bytes(512))
    client.close()
    requests = [
        ({"snapshot": f"{GROUP}/snapshots/none"}, "NOT_FOUND"),
        ({"snapshot": f"{GROUP}/snapshots/s1", "volumes": ["nothing"]}, "NOT_FOUND"),
        ({"snapshot": f"{GROUP}/snapshots/s1", "link": f"{GROUP}/links/none"}, "NOT_FOUND"),
        ({"snapshot": f"{GROUP}/snapshots/s1", "link": "groups/b/links/x"}, "INVALID_ARGUMENT"),
        ({"snapshot": "demo/s1"}, "INVALID_ARGUMENT"),
    ]
    for fields, code in requests:
        with pytest.raises(grpc.RpcError) as refused:
            cluster.primary_api.CreateRestore(
                primary_pb2.CreateRestoreRequest(**fields),  # type: ignore[arg-type]
                timeout=CALL_SECONDS,
            )
        assert refused.value.code().name == code, fields
    write(cluster, DATA, 0, 512)
    assert "no restores" in cli(cluster, "restore", "list", "demo").stderr


def test_restore_is_cancelled_before_it_writes_and_not_without_force_after(
    cluster: Cluster,
) -> None:
    prepared(cluster)
    message = cluster.send()
    assert cluster.receive() is not None
    write(cluster, WAL, 4096, 4096)
    now = images(cluster)
    name = begin(cluster).name
    ended = cli(cluster, "restore", "cancel", "demo", "000001", "--yes")
    assert ended.returncode == 0, ended.stderr
    assert look(cluster, name).state == Restore.STATE_CANCELLED
    assert images(cluster) == now
    write(cluster, DATA, 0, 4096)
    cluster.unfreeze(message.name)
    again = cli(cluster, "restore", "cancel", "demo", "000001", "--yes")
    assert again.returncode != 0 and "CANCELLED" in again.stderr
    wait_until("the snapshot is let go of", lambda: not held(cluster))


def test_restore_that_has_begun_to_write_is_abandoned_only_by_force(cluster: Cluster) -> None:
    prepared(cluster)
    cluster.send()
    assert cluster.receive() is not None
    write(cluster, WAL, 4096, 4096)
    name = begin(cluster).name
    wait_until("the snapshot is held", lambda: held(cluster))
    cluster.primary.kill()
    cluster.secondary.stop()
    # As if it had died a moment later, after the first write.
    with closing(sqlite3.connect(cluster.primary.data_dir / GROUP / "group.db")) as database:
        database.execute("UPDATE restores SET detail = replace(detail, 'WAITING', 'COPYING')")
        database.commit()
    cluster.primary.start(same_ports=True)
    wait_until("it says what is missing", lambda: look(cluster, name).state_reason != "")

    refused = cli(cluster, "restore", "cancel", "demo", "000001", "--yes")
    assert refused.returncode != 0 and "--force" in refused.stderr
    assert look(cluster, name).state == Restore.STATE_COPYING
    told = cli(cluster, "restore", "cancel", "demo", "000001", "--force", "--dry-run")
    assert "mixture" in told.stderr and look(cluster, name).state == Restore.STATE_COPYING
    ended = cli(cluster, "restore", "cancel", "demo", "000001", "--force", "--yes")
    assert ended.returncode == 0, ended.stderr
    assert look(cluster, name).state == Restore.STATE_ABANDONED
    write(cluster, DATA, 0, 4096)
    cluster.secondary.start(same_ports=True)
    wait_until("the snapshot is let go of", lambda: not held(cluster))
