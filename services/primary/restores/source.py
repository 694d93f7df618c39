"""A snapshot on the Secondary of a link, as a restore reads it."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, TypeVar

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
T = TypeVar("T", covariant=True)


class Cancellable(Protocol):
    """A call that is under way."""

    def cancel(self) -> object:
        """End it."""


class Call(Cancellable, Protocol[T]):
    """One with one answer."""

    def result(self) -> T:
        """Wait for the answer."""
        ...


C = TypeVar("C", bound=Cancellable)


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


class SnapshotReplaced(FailedPrecondition):
    """The snapshot's name is another snapshot's now."""

    def __init__(self, name: str) -> None:
        """Say so of the snapshot's resource name."""
        super().__init__(
            "SNAPSHOT_REPLACED",
            f"{name} is another snapshot than the one that was to be restored",
            f"End it; see which it is: slackwater restore list {name.split('/')[1]}",
        )


class SnapshotSource:
    """Implements `slackwater.group.restoring.Source` over gRPC; used by one thread.

    What the replica has applied is asked of the Secondary that is read, not taken from the link's
    marks: those are of before a restart of the Secondary until its first acknowledgement, and of
    another Secondary once the link leads elsewhere.
    """

    def __init__(
        self,
        snapshot: str,
        uid: str,
        link: PrimaryLink,
        certificates: CertificateStore | None,
        is_stopped: Callable[[], bool],
        waits: Callable[[str], None] = lambda _reason: None,
    ) -> None:
        """Read `snapshot`, which must have the identity `uid`, if one is given.

        `waits` is told what `wait_applied` waits for.
        """
        self._name = snapshot
        self._uid = uid
        self._link = link
        self._endpoint = link.endpoint
        self._needed: int | None = None
        self._lock = threading.Lock()
        self._calls: list[Cancellable] = []
        self._is_interrupted = False
        self._is_stopped = is_stopped
        self._waits = waits
        self._channel = client.open_blocking_channel(self._endpoint, certificates)
        self._api = secondary_pb2_grpc.SecondaryServiceStub(self._channel)

    def close(self) -> None:
        """Let the channel go; by the thread that uses it, as gRPC may crash if it is used after."""
        self._channel.close()

    def interrupt(self) -> None:
        """End the calls that are under way, and refuse further ones; for any thread."""
        with self._lock:
            self._is_interrupted = True
            for call in self._calls:
                call.cancel()

    def snapshot(self) -> resources_pb2.Snapshot:
        """Return what the Secondary says about the snapshot.

        Raises:
            SecondaryRefused: there is none, or it may not be told.
            SnapshotReplaced: it has another identity.
            Unavailable: there was no answer.
        """
        request = secondary_pb2.GetSnapshotRequest(name=self._name)
        found = self._ask(lambda: self._api.GetSnapshot.future(request)).snapshot
        if self._uid and found.uid != self._uid:
            raise SnapshotReplaced(self._name)
        return found

    def replica(self) -> resources_pb2.Replica:
        """Return what the Secondary says about its replica; raises as `snapshot`."""
        request = secondary_pb2.GetReplicaRequest(name=self._name.partition("/snapshots/")[0])
        return self._ask(lambda: self._api.GetReplica.future(request)).replica

    def hold(self) -> None:
        """Keep the snapshot from being removed; one that is held by somebody is left as it is."""
        if not self.snapshot().held:
            request = secondary_pb2.HoldSnapshotRequest(name=self._name, note=HOLD_NOTE)
            self._ask(lambda: self._api.HoldSnapshot.future(request))

    def release(self) -> None:
        """Take our hold off, if it is there."""
        try:
            found = self.snapshot()
        except SnapshotReplaced:
            return
        except SecondaryRefused as refused:
            if refused.code == grpc.StatusCode.NOT_FOUND:
                return
            raise
        if found.held and found.hold_note == HOLD_NOTE:
            request = secondary_pb2.ReleaseSnapshotRequest(name=self._name)
            self._ask(lambda: self._api.ReleaseSnapshot.future(request))

    def wait_applied(self, lsn: int) -> None:
        """Return once the link streams and its replica has applied the record."""
        self._needed = None
        while not self._is_stopped():
            state = self._link.status.state
            if state != LinkState.STREAMING.value:
                lacks = f"link {self._link.name!r} is {state}: {self._link.status.reason}"
            else:
                lacks = self._lacks(lsn)
            if not lacks:
                self._needed = lsn
                return
            self._waits(lacks)
            time.sleep(LOOK_SECONDS)

    def _lacks(self, lsn: int) -> str:
        """Say what the replica lacks to have applied a record; empty: it has."""
        if self._link.endpoint != self._endpoint:
            raise Unavailable(
                f"the Secondary at {self._endpoint}",
                f"Link {self._link.name!r} leads to {self._link.endpoint} now, which is tried",
            )
        behind = lsn - self.replica().applied.lsn
        return f"the replica has {behind} records to apply; it may be frozen" if behind > 0 else ""

    def changed(self, volume: str) -> Iterator[tuple[int, int]]:
        """Yield the ranges in which the replica may differ from the snapshot, in order.

        A Secondary that lost its memory since `wait_applied` would tell too little until it has
        replayed its log; the stream itself does not outlive the Secondary.
        """
        if self._needed is not None and (lacks := self._lacks(self._needed)):
            raise Unavailable(f"the Secondary at {self._endpoint}", f"It was restarted: {lacks}")
        request = secondary_pb2.DiffSnapshotsRequest(older=self._name, volume=volume)
        stream = self._begun(lambda: self._api.DiffSnapshots(request, timeout=_STREAM_SECONDS))
        try:
            for part in stream:
                for one in part.ranges:
                    yield one.offset, one.length
        except grpc.RpcError as error:
            raise self._translated(error) from error
        finally:
            stream.cancel()
            self._ended(stream)

    def read(self, volume: str, offset: int, length: int) -> bytes:
        """Return bytes of the snapshot."""
        request = secondary_pb2.ReadSnapshotRequest(
            name=self._name, volume=volume, offset=offset, length=length
        )
        return bytes(self._ask(lambda: self._api.ReadSnapshot.future(request)).data)

    def _ask(self, begin: Callable[[], "Call[T]"]) -> T:
        call = self._begun(begin)
        try:
            return call.result()
        except grpc.FutureCancelledError as error:
            raise self._interrupted() from error
        except grpc.RpcError as error:
            raise self._translated(error) from error
        finally:
            self._ended(call)

    def _begun(self, begin: Callable[[], C]) -> C:
        with self._lock:
            if self._is_interrupted:
                raise self._interrupted()
            call = begin()
            self._calls.append(call)
            return call

    def _ended(self, call: Cancellable) -> None:
        with self._lock:
            self._calls.remove(call)

    def _interrupted(self) -> Unavailable:
        return Unavailable(f"the Secondary at {self._endpoint}", "The restore was told to stop")

    def _translated(self, error: grpc.RpcError) -> SlackwaterError:
        if error.code() in (
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.DEADLINE_EXCEEDED,
            grpc.StatusCode.CANCELLED,
        ):
            where = f"the Secondary at {self._endpoint}"
            return Unavailable(where, "Look at it: slackwater status")
        return SecondaryRefused(error, self._endpoint)


def sizes(snapshot: resources_pb2.Snapshot) -> Mapping[str, int]:
    """Return the bytes of each volume of a snapshot, by name."""
    return {one.volume: one.size_bytes for one in snapshot.volumes}
