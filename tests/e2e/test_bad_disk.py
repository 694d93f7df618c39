"""Disks that rot or are rolled back: clear states, nothing cut or overwritten."""

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import pytest

from slackwater.v1 import common_pb2, primary_pb2, resources_pb2, secondary_pb2
from tests.support.oracle_cycle import SIZES, live_images
from tests.support.processes import (
    CALL_SECONDS,
    DATA,
    GROUP,
    LINK,
    MIB,
    WAL,
    Cluster,
    flood,
    wait_until,
)
from tests.support.processes_refusals import refused

pytestmark = pytest.mark.timeout(180)


@pytest.mark.parametrize("role", ["primary", "secondary"])
def test_flipped_bit_in_the_middle_of_the_log_is_refused_by_name_and_nothing_is_cut(
    cluster: Cluster, role: str
) -> None:
    cluster.replicate(data=SIZES[DATA], wal=SIZES[WAL])
    service = cluster.primary if role == "primary" else cluster.secondary
    if role == "secondary":  # its checkpoint stands at the freeze, before all that follows
        cluster.send()
        assert cluster.receive() is not None
    with cluster.device(DATA) as device:
        for number in range(40):
            device.write(number * 4096, b"the needle in the log".ljust(4096, bytes([number + 1])))
    if role == "secondary":  # the next segment proves that this one was synced to its end (D6)
        flood(cluster, DATA, 80 * MIB)
        wait_until("all is received", lambda: not cluster.link().lag_bytes)
    else:
        cluster.wait_no_lag()
    service.kill()
    segment = first_with(service.data_dir, b"the needle in the log")
    content = bytearray(segment.read_bytes())
    content[content.index(b"the needle in the log") + 5] ^= 1
    segment.write_bytes(content)
    service.start(same_ports=True)  # one bad group does not take the service down
    wait_until("its health says so", lambda: service.health("groups/demo") == "NOT_SERVING")
    assert service.health("readiness") == "SERVING"
    reason = (
        cluster.group_status().group.state_reason
        if role == "primary"
        else cluster.replica().state_reason
    )
    assert segment.name in reason or segment.stem in reason, reason
    assert segment.read_bytes() == content
    if role == "primary":
        assert cluster.group_status().group.state == resources_pb2.GROUP_STATE_FAILED
        with pytest.raises(OSError), cluster.device(DATA) as device:
            device.read(0, 512)


def first_with(data_dir: Path, needle: bytes) -> Path:
    for segment in sorted((data_dir / "groups" / "demo" / "log").glob("*.seg")):
        if needle in segment.read_bytes():
            return segment
    raise AssertionError(f"no segment below {data_dir} holds {needle!r}")


def test_primary_rolled_back_to_an_older_copy_is_diverged_and_overwrites_nothing(
    cluster: Cluster,
) -> None:
    cluster.replicate(data=SIZES[DATA], wal=SIZES[WAL])
    flood(cluster, DATA, MIB)
    cluster.wait_no_lag()
    assert cluster.primary.stop() == 0
    copy = cluster.directory / "copy"
    shutil.copytree(cluster.primary.data_dir, copy)
    cluster.primary.start(same_ports=True)
    with cluster.device(DATA) as device:
        device.write(0, b"only on the newer history".ljust(512))
    cluster.wait_no_lag()
    cluster.primary.kill()
    shutil.rmtree(cluster.primary.data_dir)
    copy.rename(cluster.primary.data_dir)
    held = live_images(cluster)
    cluster.primary.start(same_ports=True)
    with cluster.device(DATA) as device:
        device.write(0, b"another history".ljust(512))
    wait_until("DIVERGED", lambda: cluster.link().state == common_pb2.LINK_STATE_DIVERGED)
    link = cluster.link()
    assert link.HasField("diverged_secondary")  # both histories are shown
    assert str(link.diverged_secondary.lsn) in link.state_reason
    assert live_images(cluster) == held
    request = primary_pb2.UpdateLinkRequest(name=LINK, discard_secondary=True, validate_only=True)
    answer = cluster.primary_api.UpdateLink(request, timeout=CALL_SECONDS)
    assert answer.losses
    assert live_images(cluster) == held
    request.validate_only = False
    cluster.primary_api.UpdateLink(request, timeout=CALL_SECONDS)
    cluster.wait_streaming()
    assert live_images(cluster) == live_images(cluster, "primary")


def test_rolled_back_primary_whose_log_lets_go_of_the_secondary_is_diverged_too(
    cluster: Cluster,
) -> None:
    """The log no longer tells the histories apart; a full sync by itself would be wrong (D16)."""
    cluster.replicate(log_bytes=64 * MIB, data=128 * MIB, wal=SIZES[WAL])
    flood(cluster, DATA, 128 * MIB)
    cluster.wait_streaming()  # it may have outrun the log, and synchronised
    assert cluster.primary.stop() == 0
    copy = cluster.directory / "copy"
    shutil.copytree(cluster.primary.data_dir, copy)
    cluster.primary.start(same_ports=True)
    with cluster.device(DATA) as device:
        device.write(0, b"only on the newer history".ljust(512))
    cluster.wait_streaming()
    held, theirs = live_images(cluster), cluster.replica().durable
    assert cluster.secondary.stop() == 0
    cluster.primary.kill()
    shutil.rmtree(cluster.primary.data_dir)
    copy.rename(cluster.primary.data_dir)
    cluster.primary.start(same_ports=True)
    flood(cluster, DATA, 3 * 64 * MIB)
    wait_until("DIRTY", lambda: cluster.link().state == common_pb2.LINK_STATE_DIRTY)
    cluster.secondary.start(same_ports=True)

    def is_diverged() -> bool:
        state = cluster.link().state
        assert state != common_pb2.LINK_STATE_SYNCING, "the Secondary is being overwritten"
        return state == common_pb2.LINK_STATE_DIVERGED

    wait_until("DIVERGED", is_diverged)
    link = cluster.link()
    assert link.diverged_secondary == theirs
    assert f"there {theirs.epoch}/{theirs.lsn}" in link.state_reason
    assert "here 1/" in link.state_reason
    cluster.primary.restart()  # it stays so
    assert cluster.link().state == common_pb2.LINK_STATE_DIVERGED
    assert cluster.replica().state == common_pb2.REPLICA_STATE_CONSISTENT
    assert cluster.replica().durable == theirs
    assert live_images(cluster) == held

    words = ["link", "update", "demo/site-b", "--discard-secondary", "--yes"]
    command = [sys.executable, "-m", "slackwater.cli", *words]
    command += ["--primary", cluster.primary.endpoints.grpc]
    with guard_kept(cluster) as kept_guards:
        subprocess.run(command, check=True, timeout=60, capture_output=True)
        wait_until("the guard is kept", lambda: bool(kept_guards))
    (guard,) = kept_guards
    cluster.wait_streaming()
    assert live_images(cluster) == live_images(cluster, "primary")
    kept = {DATA: cluster.read_snapshot(guard, "data"), WAL: cluster.read_snapshot(guard, "wal")}
    assert kept == held, "what was given up can still be read"


@contextmanager
def guard_kept(cluster: Cluster) -> Iterator[list[str]]:
    """Export the guard snapshot of a sync that begins in the body, so that it stays; its name.

    Looked for all the time from before the sync, which may be over in a moment, and the guard with
    it.
    """
    names: list[str] = []
    is_over = threading.Event()

    def keep() -> None:
        request = secondary_pb2.SecondaryServiceListSnapshotsRequest(group=GROUP)
        while not names and not is_over.is_set():
            with suppress(grpc.RpcError):
                listed = cluster.secondary_api.ListSnapshots(request, timeout=CALL_SECONDS)
                for one in [row for row in listed.snapshots if row.guard]:
                    export = secondary_pb2.SecondaryServiceExportSnapshotRequest(name=one.name)
                    cluster.secondary_api.ExportSnapshot(export, timeout=CALL_SECONDS)
                    names.append(one.name.rpartition("/")[2])

    keeper = threading.Thread(target=keep)
    keeper.start()
    try:
        yield names
    finally:
        is_over.set()
        keeper.join()


def test_group_without_a_link_refuses_messages_and_says_what_to_do(cluster: Cluster) -> None:
    cluster.start()
    cluster.create_group(data=MIB)
    cluster.primary_api.RegisterApplication(
        primary_pb2.PrimaryServiceRegisterApplicationRequest(group=GROUP, application="backup"),
        timeout=CALL_SECONDS,
    )
    request = primary_pb2.SendMessageRequest(group=GROUP, application="backup")
    found = refused(lambda: cluster.primary_api.SendMessage(request, timeout=CALL_SECONDS))
    assert found.code == "FAILED_PRECONDITION"
    assert "link" in found.text
