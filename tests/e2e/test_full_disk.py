"""A file system that fills up: said while it is so, nothing answered lost, and it goes on."""

import errno
from pathlib import Path

import grpc
import pytest

from slackwater.v1 import common_pb2, primary_pb2, resources_pb2, secondary_pb2
from tests.support.disks import filled
from tests.support.oracle_cycle import SIZES
from tests.support.processes import (
    APPLICATION,
    CALL_SECONDS,
    DATA,
    GROUP,
    MIB,
    WAL,
    Cluster,
    flood,
    pause,
    wait_until,
)
from tests.support.processes_refusals import refusal, refused

pytestmark = pytest.mark.timeout(240)

THIN_BYTES = 64 * MIB


def replicate(cluster: Cluster) -> None:
    """Two volumes that have all their blocks, and one that has none."""
    cluster.replicate(log_bytes=64 * MIB, data=SIZES[DATA], wal=SIZES[WAL], thin=THIN_BYTES)
    for volume in SIZES:
        flood(cluster, volume, SIZES[volume])
    cluster.wait_no_lag()


def write(cluster: Cluster, volume: str, number: int) -> None:
    """Write one MiB that can be told from every other."""
    data = (number.to_bytes(8, "little") + volume.encode().ljust(8)) * (MIB // 16)
    slots = (THIN_BYTES if volume == "thin" else SIZES[DATA]) // MIB
    request = primary_pb2.WriteVolumeRequest(
        name=f"{GROUP}/volumes/{volume}", offset=number % slots * MIB, data=data
    )
    cluster.primary_api.WriteVolume(request, timeout=CALL_SECONDS)


def write_until_refused(cluster: Cluster, volume: str, most: int) -> list[int]:
    """Write on until there is no room; the numbers of what was answered."""
    for number in range(most):
        try:
            write(cluster, volume, number)
        except grpc.RpcError as error:
            found = refusal(error)
            assert (found.code, found.reason) == ("RESOURCE_EXHAUSTED", "NO_SPACE"), found
            assert "space" in found.text.lower()
            return list(range(number))
    raise AssertionError(f"{most} MiB were taken by a full disk")


def is_there(cluster: Cluster, volume: str, numbers: list[int]) -> bool:
    """Whether what was answered can be read."""
    content = cluster.read_volume(volume)
    head = volume.encode().ljust(8)
    slots = len(content) // MIB
    newest = {number % slots: number for number in numbers}
    return all(
        content[slot * MIB : (slot + 1) * MIB]
        == (number.to_bytes(8, "little") + head) * (MIB // 16)
        for slot, number in newest.items()
    )


def says(cluster: Cluster, *words: str) -> None:
    """Wait until the replica and the link say these words; only the group is unhealthy."""
    wait_until(
        f"the replica says {words}",
        lambda: all(word in cluster.replica().state_reason for word in words),
    )
    seen: list[resources_pb2.Link] = []

    def link_says() -> bool:
        """In one answer: a Secondary that cannot store even a Welcome breaks streams off."""
        seen[:] = [cluster.link()]
        reason = seen[0].state_reason
        return reason.startswith("the Secondary says: ") and all(word in reason for word in words)

    wait_until(f"the link says {words}", link_says)
    assert seen[0].state not in {common_pb2.LINK_STATE_FAILED, common_pb2.LINK_STATE_DIVERGED}
    wait_until("so does its health", lambda: cluster.secondary.health("groups/demo") != "SERVING")
    assert cluster.secondary.health("readiness") == "SERVING"


def is_over(cluster: Cluster) -> None:
    """Wait until the replica has everything and nothing is the matter any more."""
    cluster.wait_streaming()
    wait_until("all is said to be well", lambda: not cluster.replica().state_reason)
    wait_until("on the link too", lambda: not cluster.link().state_reason)
    wait_until("it is healthy", lambda: cluster.secondary.health("groups/demo") == "SERVING")
    for volume in ("data", "wal", "thin"):
        assert cluster.read_volume(volume, "secondary") == cluster.read_volume(volume), volume


def trouble(cluster: Cluster, *words: str) -> None:
    """Wait until the group says these words; it goes on serving what it can."""
    wait_until(
        f"the group says {words}",
        lambda: all(word in cluster.group_status().group.state_reason for word in words),
    )
    assert cluster.group_status().group.state == resources_pb2.GROUP_STATE_READY
    wait_until("so does its health", lambda: cluster.primary.health("groups/demo") != "SERVING")
    assert cluster.primary.health("readiness") == "SERVING"


def trouble_is_over(cluster: Cluster) -> None:
    """Wait until the group takes writes again and says nothing."""

    def takes_writes() -> bool:
        write(cluster, "wal", 0)
        return not cluster.group_status().group.state_reason

    wait_until("the group takes writes again", takes_writes)
    wait_until("it is healthy", lambda: cluster.primary.health("groups/demo") == "SERVING")


def test_full_disk_under_a_replicas_volume_and_then_its_log(
    small_disk: Path, cluster: Cluster
) -> None:
    cluster.secondary.data_dir = small_disk / "secondary"
    replicate(cluster)
    with filled(small_disk):
        for number in range(2):
            write(cluster, "thin", number)
        says(cluster, "cannot be applied now", "write", "No space left")
        # Received until the log needs another segment; far from what makes the link DIRTY.
        flood(cluster, DATA, 24 * MIB)
        says(cluster, "cannot be applied now", "the file system of the log")
        assert cluster.link().lag_bytes > 0
        write(cluster, "thin", 2)  # the Primary is not held up
    is_over(cluster)
    assert is_there(cluster, "thin", [0, 1, 2])


def test_full_disk_under_a_snapshots_overlay(small_disk: Path, cluster: Cluster) -> None:
    cluster.secondary.data_dir = small_disk / "secondary"
    replicate(cluster)
    message = cluster.send()
    assert cluster.receive() is not None
    cluster.take_snapshot("kept", at_message=message.name)
    held = cluster.read_snapshot("kept", "data")
    cluster.unfreeze(message.name)
    with filled(small_disk):
        for number in range(4):
            write(cluster, "data", number)
        says(cluster, "cannot be applied now", "preserve", "No space left")
        assert cluster.read_snapshot("kept", "data") == held
    is_over(cluster)
    assert cluster.read_snapshot("kept", "data") == held


def test_full_disk_under_a_replicas_group_db(small_disk: Path, cluster: Cluster) -> None:
    cluster.secondary.data_dir = small_disk / "secondary"
    replicate(cluster)
    sent = []
    with filled(small_disk):
        for number in range(24):  # each leaves a row, with its body in it
            request = primary_pb2.SendMessageRequest(
                group=GROUP,
                application=APPLICATION,
                data=bytes([number]) * (128 << 10),
                behaviour=common_pb2.MESSAGE_BEHAVIOUR_NOTIFY,
            )
            sent.append(cluster.primary_api.SendMessage(request, timeout=CALL_SECONDS).message)
        write(cluster, "wal", 1)
        says(cluster, "cannot be applied now", "control", "No space left")
        register = secondary_pb2.SecondaryServiceRegisterApplicationRequest(
            group=GROUP, application="another"
        )
        # SQLite may still have room for so little in its log: then it is taken, for good.
        try:
            cluster.secondary_api.RegisterApplication(register, timeout=CALL_SECONDS)
            is_registered = True
        except grpc.RpcError as error:
            found = refusal(error)
            assert (found.code, found.reason) == ("RESOURCE_EXHAUSTED", "NO_SPACE"), found
            is_registered = False
    listing = secondary_pb2.SecondaryServiceListApplicationsRequest(group=GROUP)
    cluster.secondary.restart(kill=True)
    listed = cluster.secondary_api.ListApplications(listing, timeout=CALL_SECONDS).applications
    assert ("another" in [row.application for row in listed]) == is_registered
    is_over(cluster)
    for message in sent:  # each once, in order
        delivered = cluster.receive()
        assert delivered is not None
        assert (delivered.name, delivered.redelivered) == (message.name, False)


def test_full_disk_under_a_primarys_volume(small_disk: Path, cluster: Cluster) -> None:
    cluster.primary.data_dir = small_disk / "primary"
    replicate(cluster)
    with filled(small_disk):
        answered = write_until_refused(cluster, "thin", 8)
        trouble(cluster, "a volume takes no writes", "No space left")
        with pytest.raises(OSError) as caught, cluster.device(DATA) as device:
            device.write(0, bytes(512))  # held back before the log, so nothing overtakes it
        assert caught.value.errno == errno.ENOSPC
    trouble_is_over(cluster)
    assert is_there(cluster, "thin", answered)
    is_over(cluster)


def test_full_disk_under_a_primarys_log(small_disk: Path, cluster: Cluster) -> None:
    cluster.primary.data_dir = small_disk / "primary"
    replicate(cluster)
    pause(cluster, paused=True)  # the log is kept for it, so no segment comes free
    with filled(small_disk):
        answered = write_until_refused(cluster, "data", 64)
        trouble(cluster, "the file system of the log")
        assert is_there(cluster, "data", answered)  # reads go on
        with pytest.raises(OSError) as caught, cluster.device(DATA) as device:
            for _ in range(32):  # what room is left in the segment is used
                device.write(0, bytes(MIB))
        assert caught.value.errno == errno.ENOSPC
    trouble_is_over(cluster)
    pause(cluster, paused=False)
    is_over(cluster)


def test_full_disk_under_a_primarys_group_db(small_disk: Path, cluster: Cluster) -> None:
    cluster.primary.data_dir = small_disk / "primary"
    replicate(cluster)
    with filled(small_disk):
        for number in range(64):
            request = primary_pb2.SendMessageRequest(
                group=GROUP,
                application=APPLICATION,
                data=bytes([number]) * (128 << 10),
                behaviour=common_pb2.MESSAGE_BEHAVIOUR_NOTIFY,
                request_id=f"message-{number}",
            )
            try:
                cluster.primary_api.SendMessage(request, timeout=CALL_SECONDS)
            except grpc.RpcError as error:
                found = refusal(error)
                assert (found.code, found.reason) == ("RESOURCE_EXHAUSTED", "NO_SPACE"), found
                break
        else:
            raise AssertionError("group.db took every message")
        trouble(cluster, "group.db")
        create = primary_pb2.CreateGroupRequest(group_id="another")
        assert (
            refused(lambda: cluster.primary_api.CreateGroup(create, timeout=CALL_SECONDS)).code
            == "RESOURCE_EXHAUSTED"
        )
    trouble_is_over(cluster)
    repeated = cluster.primary_api.SendMessage(request, timeout=CALL_SECONDS).message
    is_over(cluster)
    names = []
    for _ in range(number + 1):
        delivered = cluster.receive()
        assert delivered is not None
        names.append(delivered.name)
    assert names[-1] == repeated.name and len(set(names)) == number + 1  # each once
    assert cluster.receive(wait_seconds=0) is None
    groups = cluster.primary_api.ListGroups(primary_pb2.ListGroupsRequest(), timeout=CALL_SECONDS)
    assert [group.name for group in groups.groups] == [GROUP]
