"""Who may hold a group's name on a Secondary: over mutual TLS, and by epoch."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from slackwater import record
from slackwater.runtime.tls import CertificateStore, channel_credentials
from slackwater.v1 import common_pb2, replication_pb2, secondary_pb2, secondary_pb2_grpc
from tests.support.fake_primary import FakePrimary, start_body
from tests.support.processes import CALL_SECONDS, MIB, Cluster, pause, wait_until
from tests.support.processes_refusals import Refusal, refused
from tests.support.secured import Secured

pytestmark = pytest.mark.timeout(120)

QUOTA = 8 * MIB


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[Secured]:
    """Services over mutual TLS, of which the Secondary runs."""
    with Secured(tmp_path) as services:
        services.secondary.start()
        yield services


def primary(sites: Secured, role: str, group: str, uid: uuid.UUID | None = None) -> FakePrimary:
    """A Primary with a certificate of this role, for this group."""
    files = sites.authority.issue("other-primary", role)
    credentials = channel_credentials(CertificateStore(files))
    return FakePrimary(
        sites.secondary.endpoints.grpc, uid or uuid.uuid4(), group=group, credentials=credentials
    )


def hello_refused(peer: FakePrimary, *volumes: replication_pb2.VolumeInfo) -> Refusal:
    with peer:
        return refused(lambda: peer.hello(*volumes))


def test_name_of_a_group_belongs_to_whoever_is_granted_it(sites: Secured) -> None:
    """Neither a name outside the certificate's patterns, nor one that another group has."""
    lab = "slackwater://role/replicate?groups=lab-*"
    found = hello_refused(primary(sites, lab, "demo"))
    assert found.code == "PERMISSION_DENIED"
    assert "demo" in found.text and "replicate" in found.text
    for role in ("view", "operate", "message", "quiesce"):
        found = hello_refused(primary(sites, f"slackwater://role/{role}", "demo"))
        assert found.code == "PERMISSION_DENIED"
    large = replication_pb2.VolumeInfo(volume=1, name="data", size_bytes=QUOTA + 512)
    found = hello_refused(primary(sites, f"{lab}&quota={QUOTA}", "lab-a"), large)
    assert (found.code, found.reason) == ("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED")
    # Nothing was made by any of them; the name is taken by the first that is let in, and stays so.
    uid = uuid.uuid4()
    with primary(sites, lab, "lab-a", uid) as first:
        first.hello()
        first.append(first.end, first.frame(record.KIND_START, start_body()))
        first.until_acked()
    found = hello_refused(primary(sites, lab, "lab-a"))
    assert found.code == "FAILED_PRECONDITION"
    assert str(uid) in found.text or "another group" in found.text
    with primary(sites, lab, "lab-a", uid) as again:
        assert again.hello().durable.lsn == 1
    operator = channel_credentials(CertificateStore(sites.operator))
    with grpc.secure_channel(sites.secondary.endpoints.grpc, operator) as channel:
        request = secondary_pb2.ListReplicasRequest()
        stub = secondary_pb2_grpc.SecondaryServiceStub(channel)
        shown = stub.ListReplicas(request, timeout=CALL_SECONDS).replicas
    assert [replica.name for replica in shown] == ["groups/lab-a"]


def test_primary_of_an_old_epoch_is_fenced_for_good_and_overwrites_nothing(
    cluster: Cluster,
) -> None:
    cluster.replicate(data=MIB)
    with cluster.device(1) as device:
        device.write(0, b"before".ljust(512))
    cluster.wait_no_lag()
    uid = uuid.UUID(cluster.replica().group_uid)
    pause(cluster, paused=True)
    before = cluster.replica().durable
    with FakePrimary(cluster.secondary.endpoints.grpc, uid, epoch=before.epoch + 1) as newer:
        newer.hello()
    with cluster.device(1) as device:
        device.write(0, b"after".ljust(512))
    pause(cluster, paused=False)
    wait_until("the link has failed", lambda: cluster.link().state == common_pb2.LINK_STATE_FAILED)
    link = cluster.link()
    assert "epoch" in link.state_reason
    replica = cluster.replica()
    assert (replica.durable, replica.state) == (before, common_pb2.REPLICA_STATE_CONSISTENT)
    cluster.secondary.restart(kill=True)  # the epoch it knows is durable
    with FakePrimary(cluster.secondary.endpoints.grpc, uid, epoch=before.epoch) as older:
        with pytest.raises(grpc.RpcError) as caught:
            older.hello()
    assert caught.value.code() is grpc.StatusCode.ABORTED
    assert cluster.read_volume("data", "secondary")[:6] == b"before"
