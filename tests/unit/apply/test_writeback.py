"""Write-back is handed over in the order of writing, a share at a time (D10)."""

from slackwater.apply.writeback import AREA_BITS, STEP_AREAS, Writeback
from slackwater.clock import ManualClock
from slackwater.storage.simulated import SimulatedStorage
from tests.unit.apply.stream import CHUNK, Stream, apply_all, make_replica, receive


def test_writeback_gives_the_oldest_areas_first_and_each_once() -> None:
    writeback = Writeback()
    writeback.note([(1, 90 - number) for number in range(STEP_AREAS + 2)])
    writeback.note([(1, 90)])
    first = writeback.take()
    assert first == sorted((1, 90 - number) for number in range(STEP_AREAS))
    assert writeback.take() == [(1, 90 - STEP_AREAS - 1), (1, 90 - STEP_AREAS)]
    assert writeback.take() == []


def test_writeback_takes_a_share_of_much_and_all_when_asked() -> None:
    writeback = Writeback()
    writeback.note([(1, number) for number in range(800)])
    assert len(writeback.take()) == 100
    assert len(writeback.take(everything=True)) == 700


def test_replica_writes_back_what_was_applied_and_all_of_it_when_a_message_arrives() -> None:
    replica = make_replica(SimulatedStorage(), ManualClock())
    stream = Stream()
    stream.start()
    size = 1 << 20
    stream.add_volume(1, "data", size)
    stream.write(1, 5, b"x")
    stream.write(1, size - 1, b"x")
    receive(replica, stream)
    apply_all(replica)
    assert replica.volumes.writeback.take() == [(1, 0), (1, size - 1 >> AREA_BITS)][:1]
    stream.write(1, CHUNK, b"x")
    receive(replica, stream)
    apply_all(replica)
    stream.message("m1")
    receive(replica, stream)
    assert replica.volumes.writeback.take(everything=True) == []


def test_records_that_go_on_where_others_end_are_one_write() -> None:
    storage = SimulatedStorage()
    replica = make_replica(storage, ManualClock())
    stream = Stream()
    stream.start()
    stream.add_volume(1, "data", 8 * CHUNK)
    stream.add_volume(2, "wal", 8 * CHUNK)
    for number in range(4):
        stream.write(1, number * CHUNK, bytes([number]) * CHUNK)
    stream.write(2, 4 * CHUNK, b"other volume")
    stream.write(1, 4 * CHUNK, b"again")
    stream.zero(1, 4 * CHUNK + 5, 7)
    receive(replica, stream)
    apply_all(replica)
    written = [path for _, name, path in storage.call_log if name == "write" and ".raw" in path]
    assert len(written) == 3
    assert replica.applier.applied_records == 7
    assert {
        volume.id: volume.read(0, volume.size) for volume in replica.volumes.active()
    } == stream.states[stream.position.lsn]
