"""Snapshots that leave volumes out: of each volume the newest that has it keeps the old bytes."""

import pytest

from slackwater import errors
from slackwater.apply.replica import Replica
from slackwater.clock import ManualClock
from slackwater.storage.simulated import SimulatedStorage
from tests.unit.apply.stream import CHUNK, Stream, apply_all, make_replica, receive, shown

SIZE = 4 * CHUNK


def made() -> tuple[SimulatedStorage, Replica, Stream]:
    storage = SimulatedStorage()
    replica, stream = make_replica(storage, ManualClock()), Stream()
    stream.start()
    stream.add_volume(1, "data", SIZE)
    stream.add_volume(2, "wal", SIZE)
    write(replica, stream, 1)
    return storage, replica, stream


def write(replica: Replica, stream: Stream, fill: int) -> None:
    for volume in (1, 2):
        stream.write(volume, 0, bytes([fill + volume]) * SIZE)
    receive(replica, stream)
    apply_all(replica)
    assert replica.failure is None and replica.applier.stall is None


def take(replica: Replica, name: str, *exclude: str) -> None:
    chunk_bytes = 0 if replica.snapshots() else CHUNK
    replica.create_snapshot(name, chunk_bytes=chunk_bytes, exclude=exclude)


def test_older_snapshot_keeps_what_a_newer_one_leaves_out() -> None:
    _, replica, stream = made()
    take(replica, "all")
    first = shown(replica, "all")
    write(replica, stream, 20)
    take(replica, "data-only", "wal")
    second = shown(replica, "data-only")
    write(replica, stream, 40)
    assert shown(replica, "all") == first
    assert shown(replica, "data-only") == second
    assert second.keys() == {1}
    assert replica.catalogue.preserved_bytes("data-only").keys() == {1}


def test_what_goes_leaves_each_volume_to_the_next_older_that_has_it() -> None:
    _, replica, stream = made()
    take(replica, "all")
    first = shown(replica, "all")
    take(replica, "wal-only", "data")
    take(replica, "last")
    write(replica, stream, 20)
    replica.delete_snapshot("last")
    for _ in range(20):
        replica.maintain()
    assert shown(replica, "all") == first
    assert shown(replica, "wal-only") == {2: first[2]}
    kept = replica.catalogue.preserved_bytes("all")
    assert kept[1] and not kept[2], "of the WAL the one between keeps the chunks"


def test_what_the_one_that_goes_preserved_and_did_not_sync_is_synced_before_the_volume() -> None:
    storage, replica, _ = made()
    take(replica, "old")
    take(replica, "new")
    feed = replica.catalogue.feed(replica.applier.applied.offset)
    assert feed is not None
    feed.preserve([(1, 0, CHUNK)])  # and the step was broken off before its sync
    replica.delete_snapshot("new")
    again = replica.catalogue.feed(replica.applier.applied.offset)
    assert again is not None
    start = len(storage.call_log)
    again.preserve([(1, 0, CHUNK)])
    again.sync()
    synced = [path for _, kind, path in storage.call_log[start:] if kind == "sync"]
    assert any(path.endswith(".overlay") for path in synced)


def test_refresh_leaves_out_the_same_volumes() -> None:
    _, replica, stream = made()
    take(replica, "data-only", "wal")
    write(replica, stream, 20)
    replica.refresh_snapshot("data-only")
    assert shown(replica, "data-only") == {1: bytes([21]) * SIZE}


@pytest.mark.parametrize(
    ("exclude", "said"),
    [
        (["nothing"], "exclude_volumes: there is no volume 'nothing'"),
        (["data", "wal"], "no volume"),
    ],
)
def test_what_cannot_be_left_out_is_refused(exclude: list[str], said: str) -> None:
    _, replica, _ = made()
    with pytest.raises(errors.InvalidRequest, match=said):
        replica.create_snapshot("s", exclude=exclude)
    assert not replica.snapshots()
