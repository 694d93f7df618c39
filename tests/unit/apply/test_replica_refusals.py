"""What a replica refuses, what it waits out, and what stops it."""

import errno

import pytest

from slackwater import errors, record
from slackwater.apply.regions import Cursor, Region
from slackwater.apply.status import ReplicaState
from slackwater.apply.syncing import VolumeSpec
from slackwater.clock import ManualClock
from slackwater.log.log import LogSettings
from slackwater.position import Position
from slackwater.storage.simulated import SimulatedStorage
from tests.unit.apply.stream import (
    APPLICATION,
    CHUNK,
    Stream,
    apply_all,
    live,
    make_replica,
    open_replica,
    receive,
    shown,
)

SIZE = 10 * CHUNK


def one_volume() -> Stream:
    stream = Stream()
    stream.start()
    stream.add_volume(1, "data", SIZE)
    stream.write(1, 0, b"base" * 8000)
    return stream


def test_large_zero_is_preserved_and_applied_in_bounded_steps() -> None:
    replica = make_replica(SimulatedStorage(), ManualClock())
    replica.applier._zero_step_bytes = 2 * CHUNK
    stream = one_volume()
    receive(replica, stream)
    apply_all(replica)
    at = stream.position.lsn
    replica.create_snapshot("one", chunk_bytes=CHUNK)
    stream.zero(1, 100, SIZE - 200)
    receive(replica, stream)
    steps = 0
    while replica.applied != stream.position:
        assert replica.step()
        steps += 1
    assert steps == 5
    assert live(replica) == stream.states[stream.position.lsn]
    assert shown(replica, "one") == stream.states[at]


def test_snapshot_in_the_middle_of_a_large_zero_lies_between_records() -> None:
    replica = make_replica(SimulatedStorage(), ManualClock())
    replica.applier._zero_step_bytes = CHUNK
    stream = one_volume()
    stream.zero(1, 0, SIZE)
    zeroed = stream.position.lsn
    stream.write(1, 0, b"later")
    receive(replica, stream)
    while not replica.applier._zeroing:
        replica.step()
    row = replica.create_snapshot("one", chunk_bytes=CHUNK)
    assert row is not None and row.point.position.lsn == zeroed
    apply_all(replica)
    assert shown(replica, "one") == stream.states[zeroed]


def test_no_snapshot_is_taken_of_half_a_record() -> None:
    storage = SimulatedStorage()
    replica = make_replica(storage, ManualClock())
    stream = one_volume()
    receive(replica, stream)
    storage.fail("write", "data.raw", errno.ENOSPC, times=3)
    apply_all(replica)
    with pytest.raises(errors.Unavailable):
        replica.create_snapshot("one")
    storage.heal()
    apply_all(replica)
    assert replica.create_snapshot("one") is not None


def test_full_group_db_delays_and_loses_nothing() -> None:
    storage = SimulatedStorage()
    replica = make_replica(storage, ManualClock())
    replica.register_application(APPLICATION)
    stream = one_volume()
    stream.message("m1")
    stream.write(1, 5, b"after")
    receive(replica, stream)
    storage.fail("commit", "group.db", errno.ENOSPC, times=1000)
    apply_all(replica)
    replica.maintain()
    assert replica.failure is None
    stall = replica.status().stall
    assert stall is not None and stall.errno == errno.ENOSPC
    storage.heal()
    apply_all(replica)
    assert replica.freeze() is not None
    assert replica.receive_message(APPLICATION) is not None
    storage.fail("commit", "group.db", errno.ENOSPC, times=1000)
    with pytest.raises(OSError, match="No space"):
        replica.unfreeze("m1", "me")
    apply_all(replica)
    assert replica.applied.lsn == stream.position.lsn - 1, "nothing goes on before it is durable"
    storage.heal()
    replica.maintain()
    apply_all(replica)
    assert replica.applied == stream.position
    assert [row.state for row in replica.verdicts_of("m1")] == ["DELIVERED", "UNFROZEN"]


def test_failed_commit_is_final() -> None:
    storage = SimulatedStorage()
    replica = make_replica(storage, ManualClock())
    stream = one_volume()
    receive(replica, stream)
    storage.fail("commit", "group.db", errno.EIO)
    apply_all(replica)
    assert replica.state is ReplicaState.FAILED
    with pytest.raises(errors.GroupFailed):
        replica.append_run(b"", [], lambda _: None)


def test_failed_log_sync_acks_nothing() -> None:
    storage = SimulatedStorage()
    replica = make_replica(storage, ManualClock())
    stream = one_volume()
    run = stream.run_after(0)
    views, _, _ = record.scan(run, 0, len(run), replica.receiver.received)
    acked: list[Position] = []
    replica.append_run(run, views, acked.append)
    storage.fail("sync", "/log/")
    assert not replica.write_some()
    assert not replica.write_some()
    assert acked == [] and replica.durable.lsn == 0
    assert replica.state is ReplicaState.FAILED


def test_records_that_do_not_continue_are_refused_with_what_is_expected() -> None:
    replica = make_replica(SimulatedStorage(), ManualClock())
    stream = one_volume()
    receive(replica, stream)
    stream.write(1, 0, b"lost")
    lost = stream.position
    stream.write(1, 0, b"next")
    run = stream.run_after(lost.lsn)
    views, _, _ = record.scan(run, 0, len(run), lost)
    with pytest.raises(errors.OutOfOrder) as caught:
        replica.append_run(run, views, lambda _: None)
    assert caught.value.expected == replica.receiver.received


def test_exported_snapshot_is_not_deleted_and_stays_exported() -> None:
    storage, clock = SimulatedStorage(), ManualClock()
    replica = make_replica(storage, clock)
    stream = one_volume()
    receive(replica, stream)
    apply_all(replica)
    replica.create_snapshot("one")
    replica.export_snapshot("one")
    replica = open_replica(storage.kill(), clock)
    with pytest.raises(errors.FailedPrecondition) as caught:
        replica.delete_snapshot("one")
    assert caught.value.reason == "SNAPSHOT_EXPORTED"
    replica.unexport_snapshot("one")
    replica.delete_snapshot("one")
    with pytest.raises(errors.NotFound):
        replica.snapshot("one")


def test_recovering_replica_takes_and_serves_no_snapshot_past_what_is_applied() -> None:
    storage, clock = SimulatedStorage(), ManualClock()
    replica = make_replica(storage, clock)
    stream = one_volume()
    receive(replica, stream)
    apply_all(replica)
    replica.create_snapshot("one", chunk_bytes=CHUNK)
    stream.write(1, 0, b"more")
    receive(replica, stream)
    apply_all(replica)
    replica = open_replica(storage.kill(), clock)
    assert replica.state is ReplicaState.RECOVERING
    for call in (
        lambda: replica.create_snapshot("two"),
        lambda: replica.export_snapshot("one"),
        lambda: replica.open_snapshot_volume("one", "data"),
    ):
        with pytest.raises(errors.FailedPrecondition):
            call()
    apply_all(replica)
    replica.create_snapshot("two", chunk_bytes=CHUNK)
    assert shown(replica, "one") == stream.states[stream.position.lsn - 1]


def test_snapshots_of_a_group_share_one_chunk_size() -> None:
    replica = make_replica(SimulatedStorage(), ManualClock())
    stream = one_volume()
    receive(replica, stream)
    apply_all(replica)
    replica.create_snapshot("one", chunk_bytes=CHUNK)
    with pytest.raises(errors.FailedPrecondition) as caught:
        replica.create_snapshot("two", chunk_bytes=2 * CHUNK)
    assert caught.value.reason == "CHUNK_BYTES"
    row = replica.create_snapshot("two")
    assert row is not None and row.chunk_bytes == CHUNK
    with pytest.raises(errors.InvalidRequest):
        replica.create_snapshot("three", chunk_bytes=3 * CHUNK)
    with pytest.raises(errors.AlreadyExists):
        replica.create_snapshot("two")
    assert replica.create_snapshot("four", validate_only=True) is None
    assert len(replica.snapshots()) == 2


def test_frozen_replica_is_never_overwritten() -> None:
    replica = make_replica(SimulatedStorage(), ManualClock())
    replica.register_application(APPLICATION)
    stream = one_volume()
    message = stream.message("m1")
    stream.write(1, 0, b"after")
    receive(replica, stream)
    with pytest.raises(errors.FailedPrecondition) as caught:
        replica.begin_sync("ab" * 16, Position(1, 900, 7), [VolumeSpec(1, "data", SIZE)])
    assert caught.value.reason == "FROZEN"
    assert live(replica) == stream.states[message.lsn]
    assert replica.snapshots() == [] and replica.durable == stream.position


def test_sync_without_room_for_its_guard_changes_nothing() -> None:
    storage = SimulatedStorage()
    replica = make_replica(storage, ManualClock())
    stream = one_volume()
    receive(replica, stream)
    storage.fail("open", "/snapshots/", errno.ENOSPC)
    with pytest.raises(errors.NoSpace):
        replica.begin_sync("ab" * 16, Position(1, 900, 7), [VolumeSpec(1, "data", SIZE)])
    assert replica.state is ReplicaState.CONSISTENT
    assert replica.durable == stream.position
    assert live(replica) == stream.states[stream.position.lsn]


def test_inconsistent_replica_delivers_nothing_and_snapshots_nothing() -> None:
    replica = make_replica(SimulatedStorage(), ManualClock())
    replica.register_application(APPLICATION)
    stream = one_volume()
    receive(replica, stream)
    sync_id = "ab" * 16
    replica.begin_sync(sync_id, stream.position, [VolumeSpec(1, "data", SIZE)])
    assert replica.state is ReplicaState.INCONSISTENT
    guard = replica.snapshots()[0]
    assert guard.guard
    with pytest.raises(errors.FailedPrecondition):
        replica.delete_snapshot(guard.name)
    stream.message("m1")
    receive(replica, stream)
    apply_all(replica)
    assert [row.state for row in replica.verdicts_of("m1")] == ["SKIPPED_INCONSISTENT"]
    with pytest.raises(errors.FailedPrecondition):
        replica.create_snapshot("two")
    replica.add_regions(sync_id, 1, [Region(1, 0, SIZE, None)], Cursor(1, SIZE))
    assert replica.status().region_sequence == 0
    apply_all(replica)
    assert replica.status().region_sequence == 0, "not acked before a checkpoint"
    replica.checkpoint()
    assert replica.status().region_sequence == 1
    replica.finish_sync(sync_id, stream.position.lsn)
    apply_all(replica)
    replica.maintain()
    replica.maintain()
    assert replica.status().state is ReplicaState.CONSISTENT
    assert live(replica) == {1: bytes(SIZE)}
    assert replica.snapshots() == []


def test_snapshot_that_somebody_relies_on_is_not_refreshed() -> None:
    replica = make_replica(SimulatedStorage(), ManualClock())
    stream = one_volume()
    receive(replica, stream)
    apply_all(replica)
    first = replica.create_snapshot("one", chunk_bytes=CHUNK)
    replica.export_snapshot("one")
    with pytest.raises(errors.FailedPrecondition) as caught:
        replica.refresh_snapshot("one")
    assert caught.value.reason == "SNAPSHOT_EXPORTED"
    replica.unexport_snapshot("one")
    replica.hold_snapshot("one", "audit")
    with pytest.raises(errors.FailedPrecondition) as caught:
        replica.refresh_snapshot("one")
    assert caught.value.reason == "SNAPSHOT_HELD"
    replica.release_snapshot("one")
    with pytest.raises(errors.FailedPrecondition) as caught:
        replica.refresh_snapshot("one", at_message="m1")
    assert caught.value.reason == "NOT_FROZEN"
    with pytest.raises(errors.NotFound):
        replica.refresh_snapshot("two")
    assert replica.refresh_snapshot("one", validate_only=True) is None
    assert replica.snapshots() == [first]


def test_refresh_that_finds_no_room_leaves_the_old_snapshot_and_can_be_tried_again() -> None:
    storage = SimulatedStorage()
    replica = make_replica(storage, ManualClock())
    stream = one_volume()
    receive(replica, stream)
    apply_all(replica)
    at = stream.position.lsn
    first = replica.create_snapshot("one", chunk_bytes=CHUNK)
    stream.write(1, 0, b"second" * 900)
    receive(replica, stream)
    apply_all(replica)
    storage.fail("open", "/snapshots/", errno.ENOSPC)
    with pytest.raises(errors.NoSpace):
        replica.refresh_snapshot("one")
    assert replica.snapshots() == [first] and shown(replica, "one") == stream.states[at]
    again = replica.refresh_snapshot("one")
    assert again is not None and first is not None and again.uid != first.uid
    replica.maintain()
    assert [row.name for row in replica.database.snapshots()] == ["one"]
    assert shown(replica, "one") == stream.states[stream.position.lsn]


def test_forced_delete_ends_the_export_and_not_a_hold() -> None:
    storage, clock = SimulatedStorage(), ManualClock()
    replica = make_replica(storage, clock)
    stream = one_volume()
    receive(replica, stream)
    apply_all(replica)
    replica.create_snapshot("one")
    replica.export_snapshot("one")
    replica.hold_snapshot("one", "audit")
    with pytest.raises(errors.FailedPrecondition) as caught:
        replica.delete_snapshot("one", force=True)
    assert caught.value.reason == "SNAPSHOT_HELD"
    replica.release_snapshot("one")
    replica.delete_snapshot("one", force=True)
    replica = open_replica(storage.kill(), clock)
    assert replica.snapshots() == []


def test_merge_that_ends_under_the_applier_does_not_disturb_it() -> None:
    replica = make_replica(SimulatedStorage(), ManualClock())
    stream = one_volume()
    receive(replica, stream)
    apply_all(replica)
    at = stream.position.lsn
    replica.create_snapshot("one", chunk_bytes=CHUNK)
    replica.create_snapshot("two")
    stream.write(1, 0, b"under two")
    receive(replica, stream)
    apply_all(replica)
    replica.delete_snapshot("two")
    feed = replica.catalogue.feed(replica.applier.applied.offset)
    assert feed is not None
    chain = [overlay for entry in replica.catalogue._chain for overlay in entry.overlays.values()]
    while replica.catalogue.merge_step():
        pass
    feed.preserve([(1, 0, 2 * CHUNK)])
    feed.sync()
    for overlay in chain:
        overlay.sync()
    stream.write(1, 0, b"after" * 1000)
    receive(replica, stream)
    apply_all(replica)
    assert replica.failure is None
    assert shown(replica, "one") == stream.states[at]


def test_freeze_ends_before_the_log_has_no_room_for_another_append() -> None:
    sizes = LogSettings(
        log_bytes=32 << 20, segment_bytes=(4 << 20) + 4096, max_commit_bytes=4 << 20
    )
    replica = make_replica(SimulatedStorage(), ManualClock(), sizes)
    replica.register_application(APPLICATION)
    stream = Stream()
    stream.start()
    stream.add_volume(1, "data", 1 << 20)
    stream.message("m1", freeze_timeout_seconds=0.0)
    receive(replica, stream)
    apply_all(replica)
    assert replica.receive_message(APPLICATION) is not None
    while replica.freeze() is not None:
        assert replica.log_room_bytes >= 2 << 20, "the Primary would stop while it is frozen"
        stream.write(1, 0, bytes(1 << 20))
        stream.records = stream.records[-1:]
        receive(replica, stream)
        replica.maintain()
    assert replica.verdicts_of("m1")[-1].state == "FREEZE_LOG_LIMIT"
