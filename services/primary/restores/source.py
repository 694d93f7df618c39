"""A snapshot on the Secondary of a link, as a restore reads it."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import grpc

from services.primary.links import PrimaryLink
from slackwater.errors import FailedPrecondition, SlackwaterError, Unavailable
from slackwater.link.actions import LinkState
from slackwater.runtime import client, status
from slackwater.runtime.tls import CertificateStore
from slackwater.v1 import resources_pb2, secondary_pb2, secondary_pb2_grpc

LOOK_SECONDS = 0.1
HOLD_NOTE = "read by a restore of the Primary"
_STREAM_SECONDS = 7 * 86_400.0
T = TypeVar("T")


class SecondaryRefused(FailedPrecondition):
    """The Secondary refused what a restore asked for.

    Attributes:
        code: The status it answered with.
    """

    def __init__(self, error: grpc.RpcError, address: str) -> None:
        """Keep what it said."""
        found = status.decode(error)
        self.code = found.code
        advice = found.next_step
        if found.code == grpc.StatusCode.PERMISSION_DENIED:
            advice = "Give this service's certificate the role operate for the group, too"
        sentence = f"the Secondary at {address} says: {found.message or found.code.name}"
        super().__init__(found.reason, sentence, advice)


class SnapshotSource:
    """Implements `slackwater.group.restoring.Source` over gRPC; used by one thread."""

    def __init__(
        self,
        snapshot: str,
        link: PrimaryLink,
        certificates: CertificateStore | None,
        is_stopped: Callable[[], bool],
        waits: Callable[[str], None] = lambda _reason: None,
    ) -> None:
        """Read `snapshot`; `waits` is told what `wait_applied` waits for."""
        self._name = snapshot
        self._link = link
        self._is_stopped = is_stopped
        self._waits = waits
        self._channel = client.open_blocking_channel(link.endpoint, certificates)
        self._api = secondary_pb2_grpc.SecondaryServiceStub(self._channel)

    def close(self) -> None:
        """End what is under way."""
        self._channel.close()

    def snapshot(self) -> resources_pb2.Snapshot:
        """Return what the Secondary says about the snapshot.

        Raises:
            SecondaryRefused: there is none, or it may not be told.
            Unavailable: there was no answer.
        """
        request = secondary_pb2.GetSnapshotRequest(name=self._name)
        return self._ask(lambda: self._api.GetSnapshot(request)).snapshot

    def group_uid(self) -> str:
        """Return the identity of the group that the replica is of; raises as `snapshot`."""
        request = secondary_pb2.GetReplicaRequest(name=self._name.partition("/snapshots/")[0])
        return str(self._ask(lambda: self._api.GetReplica(request)).replica.group_uid)

    def hold(self) -> None:
        """Keep the snapshot from being removed; one that is held by somebody is left as it is."""
        if not self.snapshot().held:
            request = secondary_pb2.HoldSnapshotRequest(name=self._name, note=HOLD_NOTE)
            self._ask(lambda: self._api.HoldSnapshot(request))

    def release(self) -> None:
        """Take our hold off, if it is there."""
        try:
            found = self.snapshot()
        except SecondaryRefused as refused:
            if refused.code == grpc.StatusCode.NOT_FOUND:
                return
            raise
        if found.held and found.hold_note == HOLD_NOTE:
            request = secondary_pb2.ReleaseSnapshotRequest(name=self._name)
            self._ask(lambda: self._api.ReleaseSnapshot(request))

    def wait_applied(self, lsn: int) -> None:
        """Return once the link streams and its replica has applied the record."""
        while True:
            state = self._link.status.state
            if state != LinkState.STREAMING.value:
                self._waits(f"link {self._link.name!r} is {state}: {self._link.status.reason}")
            elif self._link.marks.applied_lsn < lsn:
                behind = lsn - self._link.marks.applied_lsn
                self._waits(f"the replica has {behind} records to apply; it may be frozen")
            else:
                return
            if self._is_stopped():
                return
            time.sleep(LOOK_SECONDS)

    def changed(self, volume: str) -> Iterator[tuple[int, int]]:
        """Yield the ranges in which the replica may differ from the snapshot, in order."""
        request = secondary_pb2.DiffSnapshotsRequest(older=self._name, volume=volume)
        stream = self._api.DiffSnapshots(request, timeout=_STREAM_SECONDS)
        try:
            for part in stream:
                for one in part.ranges:
                    yield one.offset, one.length
        except grpc.RpcError as error:
            raise self._translated(error) from error
        finally:
            stream.cancel()

    def read(self, volume: str, offset: int, length: int) -> bytes:
        """Return bytes of the snapshot."""
        request = secondary_pb2.ReadSnapshotRequest(
            name=self._name, volume=volume, offset=offset, length=length
        )
        return bytes(self._ask(lambda: self._api.ReadSnapshot(request)).data)

    def _ask(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except grpc.RpcError as error:
            raise self._translated(error) from error
        except ValueError as error:  # the channel was closed under it
            raise Unavailable(f"the Secondary at {self._link.endpoint}", str(error)) from error

    def _translated(self, error: grpc.RpcError) -> SlackwaterError:
        if error.code() in (
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.DEADLINE_EXCEEDED,
            grpc.StatusCode.CANCELLED,
        ):
            where = f"the Secondary at {self._link.endpoint}"
            return Unavailable(where, "Look at it: slackwater status")
        return SecondaryRefused(error, self._link.endpoint)


def sizes(snapshot: resources_pb2.Snapshot) -> Mapping[str, int]:
    """Return the bytes of each volume of a snapshot, by name."""
    return {one.volume: one.size_bytes for one in snapshot.volumes}
