"""A Primary whose every byte on the stream is in the test's hands."""

import queue
import time
import uuid
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import grpc

from slackwater import position, record
from slackwater.v1 import common_pb2, record_pb2, replication_pb2

UNKNOWN_KIND = 25
_REPLICATE = "/slackwater.v1.ReplicationService/Replicate"


class FakePrimary:
    """The Primary's end of a stream, in our hands down to the bytes."""

    def __init__(
        self,
        address: str,
        uid: uuid.UUID,
        epoch: int = 1,
        *,
        group: str = "demo",
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        """Dial a Secondary; over plaintext without credentials."""
        self.uid = uid
        self.epoch = epoch
        self.group = group
        self.end = position.origin(uid)
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._channel = (
            grpc.insecure_channel(address)
            if credentials is None
            else grpc.secure_channel(address, credentials)
        )
        replicate = self._channel.stream_stream(
            _REPLICATE,
            request_serializer=bytes,
            response_deserializer=replication_pb2.ReplicateResponse.FromString,
        )
        self._responses = replicate(self._outgoing(), timeout=60)

    def __enter__(self) -> Self:
        """Be ready to say hello."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Hang up."""
        self._requests.put(None)
        self._channel.close()

    def hello(self, *volumes: replication_pb2.VolumeInfo) -> replication_pb2.Welcome:
        """Open the stream with these volumes."""
        hello = replication_pb2.Hello(
            group_uid=self.uid.bytes,
            group=self.group,
            link="site-b",
            epoch=self.epoch,
            durable=common_pb2.Position(epoch=self.epoch, lsn=1 << 20),
            kinds=[*sorted(record.KNOWN_KINDS), UNKNOWN_KIND],
            log_bytes=64 << 20,
            protocol_version=1,
            volumes=volumes,
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
    """The body of a record that any Primary may write."""
    return record_pb2.Start(incarnation=7).SerializeToString()
