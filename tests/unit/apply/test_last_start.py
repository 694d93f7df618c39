"""The newest Start at or below the durable end is known after anything: Welcome says it (D16)."""

from slackwater.apply.replica import Replica
from slackwater.apply.syncing import VolumeSpec
from slackwater.clock import ManualClock
from slackwater.position import Position, origin
from slackwater.storage.simulated import SimulatedStorage
from tests.unit.apply.stream import (
    APPLICATION,
    UID,
    Stream,
    apply_all,
    make_replica,
    open_replica,
    receive,
)

SIZE = 64 << 10
SYNC = "5e" * 16


def last_start(replica: Replica) -> Position | None:
    return replica.receiver.last_start


def reopened(storage: SimulatedStorage, replica: Replica, *, clean: bool) -> Replica:
    if clean:
        replica.close()
    return open_replica(storage.kill(), ManualClock())


def test_new_replica_stands_at_the_origin() -> None:
    storage = SimulatedStorage()
    replica = make_replica(storage, ManualClock())
    assert last_start(replica) == origin(UID)
    assert last_start(reopened(storage, replica, clean=True)) == origin(UID)


def test_start_counts_once_it_is_durable_and_not_before() -> None:
    replica = make_replica(SimulatedStorage(), ManualClock())
    stream = Stream()
    stream.add_volume(1, "data", SIZE)
    began = stream.start()
    stream.write(1, 0, b"x" * 512)
    write_some = replica.receiver.write_some
    replica.receiver.write_some = lambda: False  # type: ignore[method-assign]
    receive(replica, stream)
    assert last_start(replica) == origin(UID)
    write_some()
    assert last_start(replica) == began
    replica.receiver.forget()
    assert last_start(replica) == began


def test_start_of_a_run_that_is_forgotten_does_not_count() -> None:
    replica = make_replica(SimulatedStorage(), ManualClock())
    stream = Stream()
    stream.start()
    replica.receiver.write_some = lambda: False  # type: ignore[method-assign]
    receive(replica, stream)
    replica.receiver.forget()
    assert last_start(replica) == origin(UID)


def test_start_that_is_not_applied_is_found_in_the_log() -> None:
    """Frozen, the replica receives on: the Start is durable long before it is applied (C8)."""
    for clean in (False, True):
        storage = SimulatedStorage()
        replica = make_replica(storage, ManualClock())
        replica.register_application(APPLICATION)
        stream = Stream()
        stream.start()
        stream.add_volume(1, "data", SIZE)
        stream.message("m1")
        stream.write(1, 0, b"x" * 512)
        began = stream.start()
        stream.write(1, 512, b"y" * 512)
        receive(replica, stream)
        apply_all(replica)
        assert replica.applied.lsn < began.lsn
        replica = reopened(storage, replica, clean=clean)
        assert last_start(replica) == began


def test_start_that_the_log_holds_no_more_has_its_row() -> None:
    for clean in (False, True):
        storage = SimulatedStorage()
        replica = make_replica(storage, ManualClock())
        stream = Stream()
        stream.add_volume(1, "data", SIZE)
        stream.start()
        began = stream.start()
        for index in range(60):
            stream.write(1, 0, bytes([index]) * 32768)
            receive(replica, stream)
            apply_all(replica)
            replica.checkpoint()
        assert replica.receiver.log.oldest_lsn > began.lsn
        replica = reopened(storage, replica, clean=clean)
        assert last_start(replica) == began


def test_sync_brings_the_start_of_its_place_and_forgets_the_old_ones() -> None:
    storage = SimulatedStorage()
    replica = make_replica(storage, ManualClock())
    stream = Stream()
    stream.start()
    receive(replica, stream)
    apply_all(replica)
    began, place = Position(1, 900, 5), Position(1, 1000, 7)
    replica.begin_sync(SYNC, place, [VolumeSpec(1, "data", SIZE)], 0, began)
    assert last_start(replica) == began
    replica = reopened(storage, replica, clean=False)
    assert last_start(replica) == began
    replica.begin_sync("6f" * 16, place, [VolumeSpec(1, "data", SIZE)])
    assert last_start(replica) is None, "the Primary did not say: nothing may follow from it"
    stream = Stream()
    stream.position, stream.volumes = place, {1: bytearray(SIZE)}
    newer = stream.start()
    receive(replica, stream)
    assert last_start(replica) == newer
