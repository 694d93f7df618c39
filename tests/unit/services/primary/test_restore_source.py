"""What a restore believes of the Secondary: its own word, and of one snapshot only."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import cast

import pytest

from services.primary.links import PrimaryLink
from services.primary.restores.source import HOLD_NOTE, SnapshotReplaced, SnapshotSource
from slackwater.errors import Unavailable
from slackwater.v1 import common_pb2, resources_pb2
from slackwater.v1 import secondary_pb2 as api
from tests.unit.cli.fakes import DESCRIPTORS, FakeService

NAME = "groups/g/snapshots/s1"
LSN = 7


class Secondary:
    """Has one snapshot, and has applied what a test says."""

    def __init__(self) -> None:
        self.uid = "one"
        self.applied_lsn = LSN
        self.note = ""
        self.service = FakeService(DESCRIPTORS["secondary"])
        self.service.answers.update(
            GetSnapshot=self._snapshot,
            HoldSnapshot=self._hold,
            ReleaseSnapshot=self._release,
            GetReplica=self._replica,
            DiffSnapshots=api.DiffSnapshotsResponse(
                ranges=[api.ChangedRange(offset=4096, length=512)]
            ),
        )

    def _snapshot(self, request: api.GetSnapshotRequest) -> api.GetSnapshotResponse:
        found = resources_pb2.Snapshot(
            name=request.name, uid=self.uid, held=bool(self.note), hold_note=self.note
        )
        return api.GetSnapshotResponse(snapshot=found)

    def _hold(self, request: api.HoldSnapshotRequest) -> api.HoldSnapshotResponse:
        self.note = request.note
        return api.HoldSnapshotResponse()

    def _release(self, _request: api.ReleaseSnapshotRequest) -> api.ReleaseSnapshotResponse:
        self.note = ""
        return api.ReleaseSnapshotResponse()

    def _replica(self, _request: api.GetReplicaRequest) -> api.GetReplicaResponse:
        applied = common_pb2.Position(lsn=self.applied_lsn)
        return api.GetReplicaResponse(replica=resources_pb2.Replica(applied=applied))


class Read:
    """A source that reads a Secondary along a link that streams."""

    def __init__(self, secondary: Secondary) -> None:
        self.secondary = secondary
        self.waits: list[str] = []
        self.link = SimpleNamespace(
            name="l",
            endpoint=secondary.service.address,
            status=SimpleNamespace(state="STREAMING", reason=""),
            marks=SimpleNamespace(applied_lsn=LSN + 100),  # of before, or of another Secondary
        )
        self.source = SnapshotSource(
            NAME, "one", cast(PrimaryLink, self.link), None, self._is_stopped, self.waits.append
        )

    def _is_stopped(self) -> bool:
        return len(self.waits) == 2


@pytest.fixture
def read() -> Iterator[Read]:
    """Over a real channel."""
    secondary = Secondary()
    made = Read(secondary)
    yield made
    made.source.close()
    secondary.service.stop()


def test_what_is_applied_is_asked_of_the_secondary_that_is_read(read: Read) -> None:
    read.secondary.applied_lsn = LSN - 2
    read.source.wait_applied(LSN)  # until it is stopped
    assert read.waits == ["the replica has 2 records to apply; it may be frozen"] * 2
    read.waits.clear()
    read.secondary.applied_lsn = LSN
    read.source.wait_applied(LSN)
    assert not read.waits
    assert list(read.source.changed("data")) == [(4096, 512)]


def test_link_that_does_not_stream_is_waited_for(read: Read) -> None:
    read.link.status = SimpleNamespace(state="SYNCING", reason="3 of 4 MiB")
    read.source.wait_applied(LSN)
    assert read.waits == ["link 'l' is SYNCING: 3 of 4 MiB"] * 2


def test_secondary_that_lost_what_it_had_applied_is_not_asked_what_changed(read: Read) -> None:
    read.source.wait_applied(LSN)
    read.secondary.applied_lsn = LSN - 1
    with pytest.raises(Unavailable, match="restarted"):
        list(read.source.changed("data"))


def test_link_that_leads_elsewhere_ends_the_reading(read: Read) -> None:
    read.source.wait_applied(LSN)
    read.link.endpoint = "127.0.0.1:1"
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1 now"):
        list(read.source.changed("data"))
    with pytest.raises(Unavailable):
        read.source.wait_applied(LSN)


def test_another_snapshot_of_the_same_name_is_neither_read_nor_let_go_of(read: Read) -> None:
    read.source.hold()
    assert read.secondary.note == HOLD_NOTE
    read.secondary.uid = "two"
    with pytest.raises(SnapshotReplaced, match=NAME):
        read.source.hold()
    read.source.release()
    assert read.secondary.note == HOLD_NOTE
    read.secondary.uid = "one"
    read.source.release()
    assert not read.secondary.note


def test_call_under_way_ends_when_it_is_interrupted_and_none_follows(read: Read) -> None:
    entered = threading.Event()

    def slow(_request: api.GetSnapshotRequest) -> api.GetSnapshotResponse:
        entered.set()
        read.secondary.service.stopping.wait()
        return api.GetSnapshotResponse()

    read.secondary.service.answers["GetSnapshot"] = slow
    with ThreadPoolExecutor(max_workers=1) as pool:
        asking = pool.submit(read.source.hold)
        assert entered.wait(30)
        read.source.interrupt()
        with pytest.raises(Unavailable, match="told to stop"):
            asking.result(30)
    with pytest.raises(Unavailable, match="told to stop"):
        list(read.source.changed("data"))
    with pytest.raises(Unavailable, match="told to stop"):
        read.source.release()
    read.secondary.service.stopping.set()
