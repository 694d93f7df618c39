"""A sync goes on in another stream: only what that stream was told of counts."""

from slackwater.apply.regions import Cursor, Region
from slackwater.apply.syncing import VolumeSpec
from slackwater.clock import ManualClock
from slackwater.storage.simulated import SimulatedStorage
from tests.unit.apply.stream import Stream, apply_all, make_replica

SIZE = 64 << 10
SYNC = "5e" * 16


def test_an_end_of_sync_that_no_checkpoint_holds_is_not_carried_into_a_new_stream() -> None:
    replica = make_replica(SimulatedStorage(), ManualClock())
    stream = Stream()
    position = stream.start()
    replica.begin_sync(SYNC, position, [VolumeSpec(1, "data", SIZE)])
    replica.add_regions(SYNC, 1, [Region(1, 0, 4096, b"a" * 4096)], Cursor(1, SIZE))
    replica.finish_sync(SYNC, position.lsn)
    apply_all(replica)

    replica.new_stream("east")  # is told that the sync goes on, and sends newer regions
    row = replica.database.sync()
    assert row is not None and row.consistent_lsn is None
    replica.add_regions(SYNC, 1, [Region(1, 0, 4096, b"b" * 4096)], Cursor(1, SIZE))
    apply_all(replica)
    replica.checkpoint()
    assert replica.state.value == "INCONSISTENT"

    replica.finish_sync(SYNC, position.lsn)
    apply_all(replica)
    replica.checkpoint()
    assert replica.state.value == "CONSISTENT"
    replica.close()


def test_an_end_of_sync_that_a_checkpoint_holds_stays() -> None:
    replica = make_replica(SimulatedStorage(), ManualClock())
    stream = Stream()
    position = stream.start()
    replica.begin_sync(SYNC, position, [VolumeSpec(1, "data", SIZE)])
    replica.add_regions(SYNC, 1, [Region(1, 0, 4096, b"a" * 4096)], Cursor(1, SIZE))
    replica.finish_sync(SYNC, position.lsn + 1)  # a record is still missing
    apply_all(replica)
    replica.checkpoint()

    replica.new_stream("east")
    row = replica.database.sync()
    assert row is not None and row.consistent_lsn == position.lsn + 1
    replica.checkpoint()
    row = replica.database.sync()
    assert row is not None and row.consistent_lsn == position.lsn + 1
    replica.close()
