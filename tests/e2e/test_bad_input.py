"""Bad input from outside: a clear refusal with the right code, the field by name, no change."""

import errno
import random
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from demo.sites import REPOSITORY, ServiceError
from slackwater.nbd import wire
from slackwater.v1 import common_pb2, primary_pb2, secondary_pb2, snapshot_pb2
from tests.support.processes import (
    APPLICATION,
    CALL_SECONDS,
    DATA,
    GROUP,
    MIB,
    Cluster,
    wait_until,
)
from tests.support.processes_refusals import Refusal, refused
from tests.support.raw_sockets import exactly

pytestmark = pytest.mark.timeout(180)

VOLUME = f"{GROUP}/volumes/data"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One running cluster for all requests that change nothing."""
    with Cluster(tmp_path_factory.mktemp("bad-input")) as services:
        yield services.replicate(data=MIB)


@pytest.fixture(autouse=True)
def nothing_changes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever was refused left no trace."""
    if "shared" not in request.fixturenames:
        yield
        return
    services: Cluster = request.getfixturevalue("shared")
    before = services.group_status()
    yield
    after = services.group_status()
    assert after.group == before.group
    assert list(after.volumes) == list(before.volumes)
    assert [link.name for link in after.links] == [link.name for link in before.links]


NO_GROUP = "groups/nowhere"


@pytest.mark.parametrize(
    ("request_", "name"),
    [
        (primary_pb2.GetGroupRequest(name=NO_GROUP), "nowhere"),
        (primary_pb2.ListVolumesRequest(group=NO_GROUP), "nowhere"),
        (primary_pb2.GetVolumeRequest(name=f"{GROUP}/volumes/gone"), "gone"),
        (primary_pb2.ReadVolumeRequest(name=f"{GROUP}/volumes/gone", length=512), "gone"),
        (primary_pb2.GetLinkRequest(name=f"{GROUP}/links/gone"), "gone"),
        (primary_pb2.UpdateLinkRequest(name=f"{GROUP}/links/gone", paused=True), "gone"),
        (primary_pb2.GetMessageRequest(name=f"{GROUP}/messages/gone"), "gone"),
        (primary_pb2.SendMessageRequest(group=NO_GROUP, application=APPLICATION), "nowhere"),
        (primary_pb2.SendMessageRequest(group=GROUP, application="stranger"), "stranger"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_unknown_names_are_not_found(shared: Cluster, request_: object, name: str) -> None:
    found = refused(lambda: call(shared, request_))
    assert found.code == "NOT_FOUND"
    assert name in found.text


@pytest.mark.parametrize(
    ("request_", "name"),
    [
        (secondary_pb2.GetReplicaRequest(name=NO_GROUP), "nowhere"),
        (
            secondary_pb2.ReceiveMessageRequest(group=GROUP, application="stranger"),
            "stranger",
        ),
        (secondary_pb2.GetSnapshotRequest(name=f"{GROUP}/snapshots/gone"), "gone"),
        (secondary_pb2.ReadSnapshotRequest(name=f"{GROUP}/snapshots/gone", length=512), "gone"),
        (
            secondary_pb2.SecondaryServiceExportSnapshotRequest(name=f"{GROUP}/snapshots/gone"),
            "gone",
        ),
        (secondary_pb2.StopReceiveRequest(group=GROUP, application="stranger"), "stranger"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_unknown_names_are_not_found_on_the_secondary(
    shared: Cluster, request_: object, name: str
) -> None:
    found = refused(lambda: call(shared, request_))
    assert found.code == "NOT_FOUND"
    assert name in found.text


@pytest.mark.parametrize(
    "bad", ["", "UPPER", "with space", "-dash", "dash-", "a/b", "..", "x" * 64]
)
def test_names_that_are_no_dns_label_are_refused(shared: Cluster, bad: str) -> None:
    for field, request in (
        ("group_id", primary_pb2.CreateGroupRequest(group_id=bad)),
        ("volume_id", primary_pb2.CreateVolumeRequest(group=GROUP, volume_id=bad, size_bytes=512)),
        (
            "link_id",
            primary_pb2.CreateLinkRequest(group=GROUP, link_id=bad, endpoint="127.0.0.1:1"),
        ),
        (
            "application",
            primary_pb2.PrimaryServiceRegisterApplicationRequest(group=GROUP, application=bad),
        ),
        ("snapshot_id", secondary_pb2.CreateSnapshotRequest(group=GROUP, snapshot_id=bad)),
    ):
        found = refused(partial(call, shared, request))
        assert_names(found, field)


@pytest.mark.parametrize("size", [0, -512, 511, 513, (64 << 40) + 512, 1 << 62])
def test_sizes_that_no_volume_can_have_are_refused(shared: Cluster, size: int) -> None:
    request = primary_pb2.CreateVolumeRequest(group=GROUP, volume_id="new", size_bytes=size)
    assert_names(refused(lambda: call(shared, request)), "size_bytes")


def test_size_past_the_file_systems_limit_is_refused(small_disk: Path, cluster: Cluster) -> None:
    cluster.primary.data_dir = small_disk / "primary"
    cluster.start()
    cluster.create_group(log_bytes=64 * MIB, data=MIB)
    size = 64 << 40  # ext4 with blocks of 4 KiB ends at 16 TiB a file
    request = primary_pb2.CreateVolumeRequest(group=GROUP, volume_id="new", size_bytes=size)
    found = refused(lambda: call(cluster, request))
    assert_names(found, "size_bytes")
    assert "file system" in found.text
    request.validate_only = True
    assert refused(lambda: call(cluster, request)) == found
    assert len(cluster.group_status().volumes) == 1
    volumes = cluster.primary.data_dir / "groups" / "demo" / "volumes"
    assert [path.name for path in volumes.iterdir()] == ["data.raw"]


@pytest.mark.parametrize(
    ("offset", "data", "code"),
    [
        (MIB, b"x" * 512, "OUT_OF_RANGE"),
        (MIB - 512, b"x" * 1024, "OUT_OF_RANGE"),
        (1 << 63, b"x" * 512, "OUT_OF_RANGE"),
        (0, b"x" * (MIB + 512), "INVALID_ARGUMENT"),
        (0, b"", "INVALID_ARGUMENT"),
    ],
    ids=["past-the-end", "over-the-end", "far-out", "over-the-bound", "nothing"],
)
def test_writes_out_of_bounds_are_refused(
    shared: Cluster, offset: int, data: bytes, code: str
) -> None:
    request = primary_pb2.WriteVolumeRequest(name=VOLUME, offset=offset, data=data)
    assert refused(lambda: call(shared, request)).code == code


@pytest.mark.parametrize(
    ("content", "offset", "field"),
    [
        ({"data": bytes(512)}, 1, "offset"),
        ({"data": bytes(511)}, 0, "data"),
        ({"data": bytes(MIB - 256)}, 512, "data"),
        ({"zero_bytes": 512}, 511, "offset"),
        ({"zero_bytes": 513}, 512, "zero_bytes"),
    ],
)
def test_misaligned_writes_are_refused_by_field_and_not_logged(
    shared: Cluster, content: dict[str, Any], offset: int, field: str
) -> None:
    request = primary_pb2.WriteVolumeRequest(name=VOLUME, offset=offset, **content)
    found = refused(lambda: call(shared, request))
    assert found.code == "INVALID_ARGUMENT"
    assert found.fields == (field,)
    assert "512" in found.text


def test_reads_begin_and_end_anywhere(shared: Cluster) -> None:
    with shared.device(DATA) as device:
        assert device.read(511, 258) == bytes(258)
        assert not any(one.data for one in device.block_status(1, 513))
    request = primary_pb2.ReadVolumeRequest(name=VOLUME, offset=511, length=3)
    assert shared.primary_api.ReadVolume(request, timeout=CALL_SECONDS).data == bytes(3)


def test_nbd_write_past_the_end_is_refused_and_the_connection_lives(shared: Cluster) -> None:
    with shared.device(DATA) as device:
        for offset in (MIB, MIB - 512):
            with pytest.raises(OSError) as caught:
                device.write(offset, b"x" * 1024)
            assert caught.value.errno == errno.ENOSPC
        device.read(0, 512)


def test_misaligned_nbd_changes_are_refused_before_the_log_and_the_connection_lives(
    shared: Cluster,
) -> None:
    with shared.device(DATA) as device:
        changes: list[Callable[[], None]] = [
            partial(device.write, 1, b"x" * 512),
            partial(device.write, 512, b"x" * 100),
            partial(device.trim, 256, 512),
            partial(device.trim, 0, 4097),
            partial(device.zero, 4095, 512),
            partial(device.zero, 4096, 1),
        ]
        for change in changes:
            with pytest.raises(OSError) as caught:
                change()
            assert caught.value.errno == errno.EINVAL
        assert device.read(0, 512) == bytes(512)


@pytest.mark.parametrize("body", [{"data": bytes((128 << 10) + 1)}, {"text": "\u00e4" * 65537}])
def test_body_over_its_bound_is_refused(shared: Cluster, body: dict[str, Any]) -> None:
    request = primary_pb2.SendMessageRequest(group=GROUP, application=APPLICATION, **body)
    found = refused(lambda: call(shared, request))  # C5
    assert found.code == "INVALID_ARGUMENT"
    assert set(found.fields) <= {"data", "text", "body"} and found.fields


def test_message_to_an_unknown_link_is_refused_with_its_name(shared: Cluster) -> None:
    request = primary_pb2.SendMessageRequest(
        group=GROUP, application=APPLICATION, links=["site-b", "site-x"]
    )
    found = refused(lambda: call(shared, request))  # C4
    assert found.code == "INVALID_ARGUMENT"
    assert "site-x" in found.text


def test_unfreeze_of_an_unknown_message_says_where_the_replica_stands(shared: Cluster) -> None:
    request = secondary_pb2.UnfreezeRequest(message=f"{GROUP}/messages/none")
    found = refused(lambda: call(shared, request))
    assert (found.code, found.reason) == ("FAILED_PRECONDITION", "NOT_FROZEN")
    assert "none" in found.text and "stands at 1/" in found.text


def test_snapshot_at_a_message_the_replica_does_not_stand_at_is_refused(shared: Cluster) -> None:
    request = secondary_pb2.CreateSnapshotRequest(
        group=GROUP, snapshot_id="wrong", at_message=f"{GROUP}/messages/none"
    )
    found = refused(lambda: call(shared, request))
    assert found.code in {"FAILED_PRECONDITION", "NOT_FOUND"}


def test_names_already_taken_are_refused(shared: Cluster) -> None:
    for request in (
        primary_pb2.CreateGroupRequest(group_id="demo"),
        primary_pb2.CreateVolumeRequest(group=GROUP, volume_id="data", size_bytes=MIB),
        primary_pb2.CreateLinkRequest(group=GROUP, link_id="site-b", endpoint="127.0.0.1:1"),
    ):
        found = refused(partial(call, shared, request))
        assert found.code == "ALREADY_EXISTS"


def test_what_a_later_release_brings_is_unimplemented(shared: Cluster) -> None:
    for request in (
        primary_pb2.GrowVolumeRequest(name=VOLUME, size_bytes=2 * MIB),
        secondary_pb2.PromoteRequest(name=GROUP),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call(shared, request)
        assert caught.value.code().name == "UNIMPLEMENTED"


def test_second_unfreeze_says_how_the_freeze_ended(cluster: Cluster) -> None:
    cluster.replicate(data=MIB)
    message = cluster.send()
    assert cluster.receive() is not None
    cluster.unfreeze(message.name)
    found = refused(lambda: cluster.unfreeze(message.name))
    assert found.code == "FAILED_PRECONDITION"
    assert "unfrozen" in found.text.lower()


def raw_nbd(cluster: Cluster) -> socket.socket:
    """A connection to the Primary's NBD port, with nothing said yet."""
    host, _, port = cluster.primary.endpoints.nbd.rpartition(":")
    sock = socket.create_connection((host, int(port)), timeout=30)
    assert exactly(sock, 18).startswith(b"NBDMAGIC")
    return sock


def in_transmission(cluster: Cluster) -> socket.socket:
    """The same, past the handshake."""
    sock, name = raw_nbd(cluster), VOLUME.encode()
    sock.sendall(struct.pack(">I8sII", 3, b"IHAVEOPT", wire.OPT_EXPORT_NAME, len(name)) + name)
    exactly(sock, 10)
    return sock


def write_head(length: int) -> bytes:
    return wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, wire.CMD_WRITE, 1, 0, length)


def test_hostile_nbd_clients_harm_nobody_and_leave_nothing(cluster: Cluster) -> None:
    cluster.start()
    cluster.create_group(data=MIB)
    with cluster.device(DATA) as good, ExitStack() as bad:
        good.write(0, b"good".ljust(4096))
        end = cluster.group_status().group.durable
        garbage = bad.enter_context(raw_nbd(cluster))
        garbage.sendall(b"GET / HTTP/1.1\r\n\r\n" * 100)
        oversized = bad.enter_context(raw_nbd(cluster))
        oversized.sendall(struct.pack(">I8sII", 3, b"IHAVEOPT", wire.OPT_GO, 0xFFFFFFFF))
        noise = bad.enter_context(in_transmission(cluster))
        noise.sendall(b"\xff" * 1000)
        for sock in (garbage, oversized, noise):  # hung up on
            with suppress(ConnectionResetError):
                while sock.recv(4096):
                    pass
        for _ in range(8):  # who begin a request and do not end it
            slow = bad.enter_context(in_transmission(cluster))
            slow.sendall(write_head(4096) + b"half of it")
        with in_transmission(cluster) as gone:
            gone.sendall(write_head(4096) + bytes(2048))
        assert good.read(0, 4096) == b"good".ljust(4096)
        assert cluster.group_status().group.durable == end
        good.write(4096, b"still good".ljust(512))
        assert good.read(4096, 10) == b"still good"
    assert cluster.primary.health("readiness") == "SERVING"
    wait_until("it is healthy", lambda: cluster.primary.health("groups/demo") == "SERVING")


@pytest.mark.parametrize("kind", ["data", "text"])
def test_body_of_exactly_its_bound_is_delivered_whole(cluster: Cluster, kind: str) -> None:
    cluster.replicate(data=MIB)
    body: Any = (
        random.Random(5).randbytes(128 << 10) if kind == "data" else "\u00e4b" * 43690 + "xy"
    )
    request = primary_pb2.SendMessageRequest(group=GROUP, application=APPLICATION, **{kind: body})
    cluster.primary_api.SendMessage(request, timeout=CALL_SECONDS)
    delivered = cluster.receive()
    assert delivered is not None
    assert getattr(delivered, kind) == body
    assert delivered.WhichOneof("body") == kind


def test_unfreeze_of_a_message_that_does_not_freeze_says_what_it_is(cluster: Cluster) -> None:
    cluster.replicate(data=MIB)
    first = cluster.send()
    second = cluster.send()

    def unfreeze(message: str) -> Refusal:
        found = refused(lambda: cluster.unfreeze(message))
        assert found.code == "FAILED_PRECONDITION"
        return found

    wait_until("the replica stands at the first", lambda: cluster.replica().HasField("freeze"))
    found = unfreeze(first.name)  # there, and nobody has taken it
    assert (found.reason, "received" in found.text) == ("NOT_DELIVERED", True)
    found = unfreeze(second.name)  # behind the first
    assert found.reason == "NOT_FROZEN"
    assert "not come to" in found.text and first.name.rpartition("/")[2] in found.text
    assert cluster.receive() is not None
    assert unfreeze(second.name).reason == "NOT_FROZEN"
    cluster.unfreeze(first.name)
    assert cluster.receive() is not None
    assert unfreeze(first.name).reason == "UNFROZEN"  # over, while another freezes
    cluster.unfreeze(second.name)
    request = primary_pb2.SendMessageRequest(
        group=GROUP,
        application=APPLICATION,
        text="no freeze",
        behaviour=common_pb2.MESSAGE_BEHAVIOUR_NOTIFY,
    )
    told = cluster.primary_api.SendMessage(request, timeout=CALL_SECONDS).message
    wait_until("it is told", lambda: verdict(cluster, told.name) != 0)
    found = unfreeze(told.name)
    assert (found.reason, "NOTIFIED" in found.text) == ("NOTIFIED", True)
    assert cluster.replica().state == common_pb2.REPLICA_STATE_CONSISTENT


def test_freeze_ends_by_itself_when_the_secondarys_log_fills(cluster: Cluster) -> None:
    cluster.replicate(log_bytes=64 * MIB, data=8 * MIB)
    message = cluster.send()
    assert cluster.receive() is not None
    stop = threading.Event()

    def write_on() -> None:
        with cluster.device(DATA) as device:
            number = 0
            while not stop.is_set():
                device.write(number % 8 * MIB, bytes([number % 251]) * MIB)
                number += 1

    writer = threading.Thread(target=write_on)
    writer.start()
    try:  # C8
        wait_until("the verdict is there", lambda: verdict(cluster, message.name) != 0, 60)
    finally:
        stop.set()
        writer.join()
    assert verdict(cluster, message.name) == common_pb2.VERDICT_STATE_FREEZE_LOG_LIMIT
    found = refused(lambda: cluster.unfreeze(message.name))
    assert found.code == "FAILED_PRECONDITION"
    cluster.wait_streaming()
    assert cluster.read_volume("data", "secondary") == cluster.read_volume("data")


def verdict(cluster: Cluster, message: str) -> int:
    """The final verdict of a message on the link, 0 while there is none."""
    request = primary_pb2.GetMessageRequest(name=message)
    answer = cluster.primary_api.GetMessage(request, timeout=CALL_SECONDS).message.verdicts[0]
    return answer.state if answer.final else 0


def test_second_process_on_a_data_directory_is_refused_by_name(cluster: Cluster) -> None:
    cluster.start(snapshot=False)
    for service in (cluster.primary, cluster.secondary):
        second = type(service)(service.role, service.data_dir, cluster.directory / "second")
        second.log_path.parent.mkdir(exist_ok=True)
        with pytest.raises(ServiceError, match=r"DIRECTORY_IN_USE|in use|another process"):
            second.start()
        assert service.health("readiness") == "SERVING"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("holiday.txt", "mine", r"slackwater\.json|not a .*data directory|not ours"),
        ("slackwater.json", '{"format": 99, "kind": "slackwater-data"}', r"newer|format 99"),
        ("slackwater.json", '{"format": 1, "kind": "something-else"}', r"something-else|not"),
        ("slackwater.json", "{", r"slackwater\.json"),
    ],
    ids=["other-files", "newer-format", "other-kind", "no-json"],
)
def test_directory_that_is_not_ours_is_refused_and_kept(
    cluster: Cluster, name: str, content: str, says: str
) -> None:
    directory = cluster.primary.data_dir
    directory.mkdir(parents=True)
    (directory / name).write_text(content)
    with pytest.raises(ServiceError, match=says):
        cluster.primary.start()
    assert (directory / name).read_text() == content
    assert sorted(path.name for path in directory.iterdir() if path.suffix != ".lock") == [name]


@pytest.mark.parametrize("role", ["primary", "secondary", "snapshot"])
@pytest.mark.parametrize("below", ["", "deeper"])
def test_data_directory_that_is_a_file_is_refused_in_words(
    tmp_path: Path, role: str, below: str
) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    done = subprocess.run(
        [sys.executable, "-m", f"services.{role}", "--data-dir", str(file / below)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert f"{file / below} cannot be a data directory" in done.stderr
    assert "Traceback" not in done.stderr
    assert file.read_text() == "mine"


def test_link_to_a_replica_of_another_group_stops_and_overwrites_nothing(
    cluster: Cluster, tmp_path: Path
) -> None:
    cluster.replicate(data=MIB)
    with cluster.device(DATA) as device:
        device.write(0, b"first".ljust(512))
    cluster.wait_no_lag()
    held = cluster.read_volume("data", "secondary")
    cluster.primary.kill()
    with Cluster(tmp_path / "other") as other:
        other.primary.start()
        other.create_group(data=MIB)
        with other.device(DATA) as device:
            device.write(0, b"second".ljust(512))
        request = primary_pb2.CreateLinkRequest(
            group=GROUP, link_id="site-b", endpoint=cluster.secondary.endpoints.grpc
        )
        other.primary_api.CreateLink(request, timeout=CALL_SECONDS)
        wait_until(
            "the link stops",
            lambda: (
                other.link().state in {common_pb2.LINK_STATE_FAILED, common_pb2.LINK_STATE_DIVERGED}
            ),
        )
        assert other.link().state_reason
        assert cluster.read_volume("data", "secondary") == held


def call(cluster: Cluster, request: object) -> object:
    """Send a request to the one method that takes its type."""
    for api, module in (
        (cluster.primary_api, primary_pb2),
        (cluster.secondary_api, secondary_pb2),
        (cluster.snapshot_api, snapshot_pb2),
    ):
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                if method.input_type.full_name == request.DESCRIPTOR.full_name:  # type: ignore[attr-defined]
                    return getattr(api, method.name)(request, timeout=CALL_SECONDS)
    raise AssertionError(f"no method takes {type(request).__name__}")


def assert_names(found: Refusal, field: str) -> None:
    """The refusal is INVALID_ARGUMENT and blames this field."""
    assert found.code in {"INVALID_ARGUMENT", "OUT_OF_RANGE"}, found
    assert field in (*found.fields, found.text.split(":")[0]), found
