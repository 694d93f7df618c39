"""A full sync crashed at every storage call: the guard holds, the sync ends right (D25, D27)."""

from typing import Any

from slackwater.apply.regions import Cursor, Region
from slackwater.apply.replica import Replica
from slackwater.apply.status import ReplicaState
from slackwater.apply.syncing import VolumeSpec
from slackwater.clock import ManualClock
from slackwater.position import Position
from slackwater.storage.simulated import SimulatedStorage
from tests.support.simulation import every_crash
from tests.unit.apply.stream import (
    CHUNK,
    Stream,
    apply_all,
    live,
    make_replica,
    open_replica,
    receive,
    shown,
)

SIZE = 4 * CHUNK
PIECE = 2 * CHUNK
SYNC = "ab" * 16


def old_history() -> Stream:
    stream = Stream()
    stream.start()
    stream.add_volume(1, "data", SIZE)
    stream.add_volume(2, "gone", CHUNK)
    stream.write(1, 300, b"old" * 4000)
    stream.write(2, 0, b"old" * 700)
    return stream


def new_history() -> Stream:
    """The Primary went on without us: its log does not reach back to what the replica holds."""
    stream = Stream()
    stream.volumes = {1: bytearray(b"n" * SIZE), 3: bytearray(CHUNK)}
    stream.position = Position(1, 1000, 0xABCDEF)
    stream.states = {1000: {number: bytes(data) for number, data in stream.volumes.items()}}
    return stream


def specs() -> list[VolumeSpec]:
    return [VolumeSpec(1, "data", SIZE), VolumeSpec(3, "added", CHUNK)]


def places() -> list[tuple[int, int, int]]:
    return [(1, 0, PIECE), (1, PIECE, PIECE), (3, 0, CHUNK)]


def send_regions(
    replica: Replica, stream: Stream, cursor: tuple[int, int] | None, step: Any
) -> None:
    """Send what is past the cursor, each region as the Primary's volumes are by then."""
    sequence = 0
    for volume, offset, length in places():
        if cursor is not None and (volume, offset) < cursor:
            continue
        sequence += 1
        data = stream.states[replica.receiver.received.lsn][volume][offset : offset + length]
        region = Region(volume, offset, length, data if any(data) else None)
        replica.add_regions(SYNC, sequence, [region], Cursor(volume, offset + length))
        step(sequence)
    replica.finish_sync(SYNC, replica.receiver.received.lsn)


def workload(storage: SimulatedStorage, journal: list[Any]) -> None:
    clock = ManualClock()
    old, new = old_history(), new_history()
    journal.append((old, new))
    replica = make_replica(storage, clock)
    receive(replica, old)
    apply_all(replica)
    replica.create_snapshot("one", chunk_bytes=CHUNK)
    journal.append("snapshot")
    at = old.position.lsn
    old.write(1, CHUNK, b"older" * 900)
    receive(replica, old)
    journal.append(("guarded", old.position.lsn, at))
    replica.begin_sync(SYNC, new.position, specs())
    journal.append("begun")
    assert replica.failure is None

    def between(sequence: int) -> None:
        new.write(1, 100 * sequence, bytes([sequence]) * 5000)
        new.write(1, PIECE + 100 * sequence, bytes([sequence]) * 3000)
        receive(replica, new)
        if sequence != 1:  # once, records on both sides of a region's place wait together
            apply_all(replica)
        if sequence == 2:
            replica.checkpoint()
        new.write(3, sequence, b"tail")
        receive(replica, new)

    send_regions(replica, new, None, between)
    apply_all(replica)
    replica.maintain()
    replica.checkpoint()
    assert replica.state is ReplicaState.CONSISTENT, replica.status()
    replica.maintain()
    journal.append("consistent")
    replica.close()


def verify(storage: SimulatedStorage, journal: list[Any]) -> None:
    if "snapshot" not in journal:
        return
    old, new = journal[0]
    guarded = [note for note in journal if isinstance(note, tuple) and note[0] == "guarded"]
    replica = open_replica(storage, ManualClock())
    apply_all(replica)
    assert replica.failure is None, replica.failure
    at = guarded[0][2] if guarded else old.position.lsn - (old.position.lsn > 5)
    assert shown(replica, "one") == old.states[at]
    row = replica.syncing.row
    if row is None and replica.durable.lsn < 1000:
        assert "begun" not in journal
        assert live(replica) == old.states[replica.applied.lsn]
        if replica.durable != old.position:
            return
        replica.begin_sync(SYNC, Position(1, 1000, 0xABCDEF), specs())
        row = replica.syncing.row
    if row is not None:
        guards = [one for one in replica.snapshots() if one.guard]
        assert len(guards) == 1
        assert replica.state is ReplicaState.INCONSISTENT
        check_guard(replica, old, guards[0].name)
        replica.new_stream("link")
        assert replica.durable in [position for _, position in new.records] or (
            replica.durable.lsn == 1000
        )
        receive(replica, new)
        if row.consistent_lsn is None:
            send_regions(replica, new, row.cursor, lambda sequence: apply_all(replica))
        apply_all(replica)
        check_guard(replica, old, guards[0].name)
        replica.checkpoint()
        replica.checkpoint()
    assert replica.state is ReplicaState.CONSISTENT
    receive(replica, new)
    apply_all(replica)
    assert live(replica) == new.states[new.position.lsn]
    assert shown(replica, "one") == old.states[at]
    replica.maintain()
    assert not [one for one in replica.snapshots() if one.guard]
    replica.close()


def check_guard(replica: Replica, old: Stream, name: str) -> None:
    """The guard shows the last consistent state: everything that was durable before the sync."""
    row = replica.snapshot(name)
    assert shown(replica, name) == old.states[row.point.position.lsn]
    assert row.point.position == old.position


def test_sync_survives_a_crash_at_every_call() -> None:
    assert every_crash(workload, verify) > 100
