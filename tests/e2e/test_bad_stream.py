"""A peer that breaks the link's rules: refused by name, position kept, nothing skipped."""

import uuid
from collections.abc import Iterator

import grpc
import pytest

from slackwater import record
from slackwater.v1 import common_pb2, replication_pb2, secondary_pb2
from tests.support.fake_primary import UNKNOWN_KIND, FakePrimary, start_body
from tests.support.processes import CALL_SECONDS, Cluster, wait_until

pytestmark = pytest.mark.timeout(120)

Reason = replication_pb2.Reject


@pytest.fixture
def fake(cluster: Cluster) -> Iterator[FakePrimary]:
    """A stream that stands, with one good record on it."""
    cluster.secondary.start()
    with FakePrimary(cluster.secondary.endpoints.grpc, uuid.uuid4()) as peer:
        welcome = peer.hello()
        assert welcome.durable.lsn == 0
        previous = peer.end
        peer.append(previous, peer.frame(record.KIND_START, start_body()))
        peer.until_acked()
        yield peer


def test_unknown_kind_stops_the_replica_with_its_position_kept(
    cluster: Cluster, fake: FakePrimary
) -> None:
    before = fake.end
    fake.append(before, fake.frame(UNKNOWN_KIND, b""))
    reject = fake.until("reject").reject
    assert reject.reason == Reason.REASON_UNKNOWN_RECORD
    assert reject.expected.lsn == before.lsn
    wait_until(
        "the replica has failed",
        lambda: cluster.replica().state == common_pb2.REPLICA_STATE_FAILED,
    )
    replica = cluster.replica()
    assert replica.durable.lsn == before.lsn
    assert str(UNKNOWN_KIND) in replica.state_reason
    assert cluster.secondary.health("readiness") == "SERVING"
    wait_until(
        "its health says so", lambda: cluster.secondary.health("groups/demo") == "NOT_SERVING", 10
    )


def test_gap_is_rejected_with_what_was_expected_and_the_stream_lives_on(
    fake: FakePrimary,
) -> None:
    here = fake.end
    skipped = fake.frame(record.KIND_START, start_body())
    after_skipped = fake.end
    late = fake.frame(record.KIND_START, start_body())
    fake.append(after_skipped, late)
    reject = fake.until("reject").reject
    assert reject.reason == Reason.REASON_GAP
    assert reject.expected.lsn == here.lsn
    assert reject.expected.chain_crc32c == here.chain
    fake.append(here, skipped, late)
    fake.until_acked()


def test_record_with_a_flipped_bit_is_rejected(fake: FakePrimary) -> None:
    here = fake.end
    good = fake.frame(record.KIND_START, start_body())
    bad = bytearray(good)
    bad[-1] ^= 1
    fake.append(here, bytes(bad))
    assert fake.until("reject").reject.reason in {Reason.REASON_CORRUPT, Reason.REASON_GAP}
    fake.append(here, good)
    fake.until_acked()


def test_another_groups_uid_is_refused(cluster: Cluster, fake: FakePrimary) -> None:
    assert fake.end.lsn == 1
    with FakePrimary(cluster.secondary.endpoints.grpc, uuid.uuid4()) as other:
        with pytest.raises(grpc.RpcError) as caught:
            other.hello()
        assert caught.value.code().name == "FAILED_PRECONDITION"
    replica = cluster.replica()
    assert uuid.UUID(replica.group_uid) == fake.uid


def test_lower_epoch_is_fenced(cluster: Cluster) -> None:
    cluster.secondary.start()
    uid = uuid.uuid4()
    with FakePrimary(cluster.secondary.endpoints.grpc, uid, epoch=5) as newer:
        newer.hello()
    with FakePrimary(cluster.secondary.endpoints.grpc, uid, epoch=4) as older:
        with pytest.raises(grpc.RpcError) as caught:
            older.hello()
        assert caught.value.code().name == "ABORTED"


def test_stream_that_does_not_begin_with_hello_is_refused(cluster: Cluster) -> None:
    cluster.secondary.start()
    with FakePrimary(cluster.secondary.endpoints.grpc, uuid.uuid4()) as peer:
        peer.append(peer.end, peer.frame(record.KIND_START, start_body()))
        with pytest.raises(grpc.RpcError) as caught:
            peer.until("welcome")
        assert caught.value.code().name == "INVALID_ARGUMENT"
    request = secondary_pb2.ListReplicasRequest()
    assert not cluster.secondary_api.ListReplicas(request, timeout=CALL_SECONDS).replicas
