"""A peer that breaks the link's rules: refused by name, position kept, nothing skipped."""

import queue
import time
import uuid
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import grpc
import pytest

from slackwater import position, record
from slackwater.v1 import common_pb2, record_pb2, replication_pb2, secondary_pb2
from tests.support.processes import CALL_SECONDS, MIB, Cluster, wait_until

pytestmark = pytest.mark.timeout(120)

Reason = replication_pb2.Reject
UNKNOWN_KIND = 25
_REPLICATE = "/slackwater.v1.ReplicationService/Replicate"


class FakePrimary:
    """The Primary's end of a stream, in our hands down to the bytes."""

    def __init__(self, cluster: Cluster, uid: uuid.UUID, epoch: int = 1) -> None:
        self.uid = uid
        self.epoch = epoch
        self.end = position.origin(uid)
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._channel = grpc.insecure_channel(cluster.secondary.endpoints.grpc)
        replicate = self._channel.stream_stream(
            _REPLICATE,
            request_serializer=bytes,
            response_deserializer=replication_pb2.ReplicateResponse.FromString,
        )
        self._responses = replicate(self._outgoing(), timeout=60)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._requests.put(None)
        self._channel.close()

    def hello(self) -> replication_pb2.Welcome:
        hello = replication_pb2.Hello(
            group_uid=self.uid.bytes,
            group="demo",
            link="site-b",
            epoch=self.epoch,
            durable=common_pb2.Position(epoch=self.epoch, lsn=1 << 20),
            kinds=[*sorted(record.KNOWN_KINDS), UNKNOWN_KIND],
            log_bytes=64 * MIB,
            protocol_version=1,
        )
        self._requests.put(replication_pb2.ReplicateRequest(hello=hello).SerializeToString())
        return self.until("welcome").welcome

    def frame(self, kind: int, body: bytes) -> bytes:
        """The next record, and the stream's end moved past it."""
        lsn = self.end.lsn + 1
        framed, chain = record.frame(
            self.end.chain, self.epoch, lsn, time.time_ns(), self.end.lsn, kind, body
        )
        self.end = position.Position(self.epoch, lsn, chain)
        return framed

    def append(self, previous: position.Position, *framed: bytes) -> None:
        """Send records as they are."""
        head = common_pb2.Position(
            epoch=previous.epoch, lsn=previous.lsn, chain_crc32c=previous.chain
        )
        body = replication_pb2.Append(previous=head).SerializeToString() + b"".join(framed)
        message = bytearray(b"\x12")
        size = len(body)
        while size > 0x7F:
            message.append(size & 0x7F | 0x80)
            size >>= 7
        message.append(size)
        self._requests.put(bytes(message) + body)

    def until(self, kind: str) -> replication_pb2.ReplicateResponse:
        """The next response of a kind."""
        for response in self._responses:
            if response.WhichOneof("message") == kind:
                return response
        raise AssertionError(f"the stream ended without {kind}")

    def until_acked(self) -> None:
        """Wait until all that was sent is durable there."""
        while self.until("ack").ack.durable.lsn < self.end.lsn:
            pass

    def _outgoing(self) -> Iterator[bytes]:
        while (request := self._requests.get()) is not None:
            yield request


def start_body() -> bytes:
    return record_pb2.Start(incarnation=7).SerializeToString()


@pytest.fixture
def fake(cluster: Cluster) -> Iterator[FakePrimary]:
    """A stream that stands, with one good record on it."""
    cluster.secondary.start()
    with FakePrimary(cluster, uuid.uuid4()) as peer:
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
    with FakePrimary(cluster, uuid.uuid4()) as other:
        with pytest.raises(grpc.RpcError) as caught:
            other.hello()
        assert caught.value.code().name == "FAILED_PRECONDITION"
    replica = cluster.replica()
    assert uuid.UUID(replica.group_uid) == fake.uid


def test_lower_epoch_is_fenced(cluster: Cluster) -> None:
    cluster.secondary.start()
    uid = uuid.uuid4()
    with FakePrimary(cluster, uid, epoch=5) as newer:
        newer.hello()
    with FakePrimary(cluster, uid, epoch=4) as older:
        with pytest.raises(grpc.RpcError) as caught:
            older.hello()
        assert caught.value.code().name == "ABORTED"


def test_stream_that_does_not_begin_with_hello_is_refused(cluster: Cluster) -> None:
    cluster.secondary.start()
    with FakePrimary(cluster, uuid.uuid4()) as peer:
        peer.append(peer.end, peer.frame(record.KIND_START, start_body()))
        with pytest.raises(grpc.RpcError) as caught:
            peer.until("welcome")
        assert caught.value.code().name == "INVALID_ARGUMENT"
    request = secondary_pb2.ListReplicasRequest()
    assert not cluster.secondary_api.ListReplicas(request, timeout=CALL_SECONDS).replicas
