"""A replica and a storage that is full or fails: nothing lost, nothing retried that is final."""

import errno
import sys
import threading

import pytest

from slackwater import errors, record
from slackwater.apply import applier as applier_module
from slackwater.apply.receiving import QUEUE_BYTES
from slackwater.apply.regions import Cursor, Region
from slackwater.apply.replica import Replica
from slackwater.apply.status import ReplicaState
from slackwater.apply.syncing import VolumeSpec
from slackwater.clock import ManualClock
from slackwater.log.log import LogSettings
from slackwater.log.run import Run
from slackwater.record import KNOWN_KINDS
from slackwater.storage.simulated import Policy, SimulatedStorage
from slackwater.v1 import common_pb2, record_pb2
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
SYNC = "ab" * 16


def one_volume(size: int = SIZE) -> Stream:
    stream = Stream()
    stream.start()
    stream.add_volume(1, "data", size)
    stream.write(1, 0, b"base" * 8000)
    return stream


def with_volume(storage: SimulatedStorage, size: int = SIZE) -> tuple[Replica, Stream]:
    replica, stream = make_replica(storage, ManualClock()), one_volume(size)
    receive(replica, stream)
    apply_all(replica)
    return replica, stream


# -- a failed sync is final (D3) -------------------------------------------------------------


def test_volume_sync_that_failed_is_never_tried_again() -> None:
    storage = SimulatedStorage()
    replica, _ = with_volume(storage)
    before = replica.database.log_state().checkpoint
    storage.fail("sync", "data.raw")
    with pytest.raises(errors.StorageFailed):
        replica.checkpoint()
    assert replica.state is ReplicaState.FAILED
    with pytest.raises(errors.StorageFailed):
        replica.volumes.sync()  # the pages are clean now: a second sync would report success
    with pytest.raises(errors.StorageFailed):
        replica.checkpoint()
    assert replica.database.log_state().checkpoint == before


def test_sync_that_failed_while_a_volume_grew_is_final() -> None:
    storage = SimulatedStorage()
    replica, stream = with_volume(storage)
    stream.grow(1, "data", 2 * SIZE)
    receive(replica, stream)
    storage.fail("sync", "data.raw")
    apply_all(replica)
    assert replica.state is ReplicaState.FAILED


@pytest.mark.parametrize("match", ["data.raw", "volumes"])
def test_sync_that_failed_while_a_volume_was_made_is_final(match: str) -> None:
    storage = SimulatedStorage()
    replica = make_replica(storage, ManualClock())
    receive(replica, one_volume())
    storage.fail("sync" if match == "data.raw" else "sync_directory", match)
    apply_all(replica)
    assert replica.state is ReplicaState.FAILED


def test_failure_met_by_a_call_stops_the_replica_at_once() -> None:
    for operation, match in (("commit", "group.db"), ("sync_directory", "/snapshots")):
        storage = SimulatedStorage()
        replica, _ = with_volume(storage)
        storage.fail(operation, match)
        with pytest.raises(errors.StorageFailed):
            replica.create_snapshot("one")
        assert replica.state is ReplicaState.FAILED


@pytest.mark.parametrize(
    ("operation", "match"),
    [("sync", "/log/"), ("sync", "data.raw"), ("sync", ".overlay"), ("commit", "group.db")],
)
def test_failed_replica_recovers_when_it_is_opened_again(operation: str, match: str) -> None:
    storage, clock = SimulatedStorage(), ManualClock()
    replica, stream = with_volume(storage)
    at = stream.position.lsn
    replica.create_snapshot("one", chunk_bytes=CHUNK)
    stream.write(1, 100, b"second" * 3000)
    storage.fail(operation, match)
    receive(replica, stream)
    apply_all(replica)
    if replica.failure is None:
        with pytest.raises(errors.StorageFailed):
            replica.checkpoint()
    assert replica.state is ReplicaState.FAILED
    replica.close()
    storage = storage.kill()
    replica = open_replica(storage, clock)
    receive(replica, stream)
    apply_all(replica)
    replica.checkpoint()
    # What the failed sync dropped was written again: it survives a power loss now.
    replica = open_replica(storage.after_crash(Policy.DROP), clock)
    apply_all(replica)
    assert replica.applied == stream.position
    assert live(replica) == stream.states[stream.position.lsn]
    assert shown(replica, "one") == stream.states[at]


# -- full disks ------------------------------------------------------------------------------


def test_full_disk_under_a_log_is_said_and_passes() -> None:
    storage = SimulatedStorage()
    sizes = LogSettings(log_bytes=1 << 20, segment_bytes=128 << 10, max_commit_bytes=48 << 10)
    clock = ManualClock()
    replica = make_replica(storage, clock, sizes)
    stream = one_volume()
    storage.fail("write", ".tmp", errno.ENOSPC, times=1000)
    for index in range(8):
        stream.write(1, 0, bytes([index]) * 32768)
    receive(replica, stream)
    assert replica.durable.lsn < stream.position.lsn
    assert replica.receiver.is_full and replica.status().log_is_full
    assert "file system" in replica.receiver.shortage  # not the log's own size
    replica.maintain()
    assert replica.failure is None and "file system" in replica.shortage
    storage.heal()
    replica.maintain()
    assert replica.shortage  # a full disk is asked now and then only
    clock.advance(2.0)
    replica.maintain()
    assert not replica.shortage
    while replica.write_some():
        pass
    assert replica.durable == stream.position and not replica.status().log_is_full
    assert not replica.receiver.shortage
    apply_all(replica)
    assert live(replica) == stream.states[stream.position.lsn]


def test_full_disk_under_an_overlays_map_stops_applying_until_there_is_room() -> None:
    storage = SimulatedStorage()
    replica, stream = with_volume(storage, 2000 * CHUNK)
    at = stream.position.lsn
    replica.create_snapshot("one", chunk_bytes=CHUNK)
    stream.write(1, 1500 * CHUNK, b"far")  # its entry lies past the map's first page
    receive(replica, stream)
    storage.fail("write", ".map", errno.ENOSPC, times=1000)
    apply_all(replica)
    stall = replica.status().stall
    assert stall is not None and stall.errno == errno.ENOSPC and stall.doing == "preserve"
    assert live(replica) == stream.states[at]
    storage.heal()
    apply_all(replica)
    assert replica.applied == stream.position
    assert shown(replica, "one") == stream.states[at]


@pytest.mark.parametrize("step", ["overlay", "map", "row", "row and its removal"])
def test_snapshot_that_found_no_room_leaves_nothing_and_can_be_asked_for_again(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = SimulatedStorage()
    replica, _ = with_volume(storage)
    database = replica.database

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        if step in {"overlay", "map"}:
            storage.fail("open", "1." + step, errno.ENOSPC)
        else:
            patch.setattr(database, "update_snapshot", full)
        if step == "row and its removal":
            patch.setattr(database, "remove_snapshot", full)
        with pytest.raises(errors.NoSpace):
            replica.create_snapshot("one", chunk_bytes=CHUNK)
    assert replica.state is ReplicaState.CONSISTENT and replica.snapshots() == []
    assert storage.listing(replica.directory.snapshots) == []
    row = replica.create_snapshot("one", chunk_bytes=CHUNK)
    assert row is not None and row.evidence["create_seconds"] == 0.0
    assert [one.state for one in database.snapshots()] == ["READY"]


def test_volume_grows_in_group_db_too_when_that_was_full() -> None:
    storage, clock = SimulatedStorage(), ManualClock()
    replica, stream = with_volume(storage)
    stream.grow(1, "data", 2 * SIZE)
    receive(replica, stream)
    storage.fail("commit", "group.db", errno.ENOSPC, times=3)
    for _ in range(5):
        apply_all(replica)
    assert replica.applied == stream.position
    stream.write(1, 2 * SIZE - 3, b"end")
    receive(replica, stream)
    replica.checkpoint()
    replica = open_replica(storage.kill(), clock)
    apply_all(replica)
    assert replica.failure is None
    assert live(replica) == stream.states[stream.position.lsn]


def test_message_is_handed_over_only_where_the_replica_stands_at_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage = SimulatedStorage()
    replica, stream = with_volume(storage)
    replica.register_application(APPLICATION)
    stream.message("m1")
    stream.write(1, 5, b"after")
    receive(replica, stream)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(replica.database, "checkpoint", full)
        apply_all(replica)
        assert replica.status().stall is not None
    got: list[object] = []
    replica.receive(APPLICATION, "me", "", 10.0, lambda delivered, _: got.append(delivered))
    replica.maintain()
    assert got == [] and replica.freeze() is None
    apply_all(replica)
    assert len(got) == 1 and replica.freeze() is not None
    assert replica.create_snapshot("at", at_message="m1") is not None


@pytest.mark.parametrize("is_new", [True, False], ids=["registered", "unregistered"])
def test_change_of_names_that_is_durable_is_not_refused_for_what_waits_for_room(
    monkeypatch: pytest.MonkeyPatch, is_new: bool
) -> None:
    """What is refused did not happen: the message that waits has nothing to do with the name."""
    storage = SimulatedStorage()
    replica, stream = with_volume(storage)
    for name in (APPLICATION, "old"):
        replica.register_application(name)
    stream.message("m1", common_pb2.MESSAGE_BEHAVIOUR_NOTIFY)
    receive(replica, stream)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(replica.database, "keep_notified", full)
        apply_all(replica)
        assert replica.status().stall is not None
        if is_new:
            replica.register_application("another")
        else:
            replica.unregister_application("old")
    names = [one.name for one in open_replica(storage.kill(), ManualClock()).applications()]
    assert ("another" in names, "old" in names) == (is_new, is_new)


# -- bounds ----------------------------------------------------------------------------------


def test_queue_of_tiny_records_is_bounded_by_what_they_take_in_memory() -> None:
    sizes = LogSettings(
        log_bytes=32 << 20, segment_bytes=(4 << 20) + 4096, max_commit_bytes=4 << 20
    )
    replica = make_replica(SimulatedStorage(), ManualClock(), sizes)
    stream = Stream()
    stream.start()
    views: list[record.RecordView] = []
    while replica.receiver.has_room:
        for _ in range(1000):
            stream.start()
        received = replica.receiver.received
        run = stream.run_after(received.lsn)
        views, _, _ = record.scan(run, 0, len(run), received)
        replica.append_run(run, views, lambda _: None)
    assert replica.receiver.held_bytes < QUEUE_BYTES // 4
    assert stream.position.lsn * sys.getsizeof(views[0]) < QUEUE_BYTES
    while replica.write_some():
        pass
    assert replica.receiver.has_room


def test_large_zero_region_is_applied_in_bounded_steps() -> None:
    replica, stream = with_volume(SimulatedStorage())
    replica.applier._zero_step_bytes = 2 * CHUNK
    replica.begin_sync(SYNC, stream.position, [VolumeSpec(1, "data", SIZE)])
    tail = Region(1, SIZE - CHUNK, CHUNK, b"t" * CHUNK)
    replica.add_regions(SYNC, 1, [Region(1, 0, SIZE - CHUNK, None), tail], Cursor(1, SIZE))
    steps = 0
    while len(replica.regions):
        assert replica.step()
        steps += 1
    assert steps == 5
    assert live(replica) == {1: bytes(SIZE - CHUNK) + b"t" * CHUNK}


def test_log_that_was_full_is_not_full_when_what_waited_is_dropped() -> None:
    replica, stream = with_volume(SimulatedStorage())
    replica.register_application(APPLICATION)
    for index in range(40):
        stream.write(1, 0, bytes([index]) * 32768)
    receive(replica, stream)
    assert replica.status().log_is_full
    replica.new_stream("link")
    assert not replica.receiver.is_full
    apply_all(replica)
    replica.checkpoint()
    assert replica.log_use < 0.8, "a freeze would end at once (C8)"


def test_wrapped_log_has_the_room_after_a_clean_stop_that_it_had_before() -> None:
    """No checkpoint is due after a start: what the last one freed must be free at once."""
    storage = SimulatedStorage()
    replica, stream = with_volume(storage)
    for index in range(90):
        stream.write(1, 0, bytes([index]) * 32768)
        receive(replica, stream)
        apply_all(replica)
        if replica.log_use > 0.7:
            replica.checkpoint()
    assert replica.receiver.log.end.offset > 2 * replica.receiver.log.capacity_bytes
    room = replica.log_room_bytes
    replica.close()
    again = open_replica(storage.kill(), ManualClock())
    assert again.status().state.value == "CONSISTENT"
    assert again.log_room_bytes >= room
    assert again.log_use < 0.3
    for index in range(again.log_room_bytes // (CHUNK + 512)):
        stream.write(1, 0, bytes([index % 255]) * CHUNK)
    receive(again, stream)
    assert again.durable == stream.position, "what was said to be room is room"


# -- syncs -----------------------------------------------------------------------------------


def synced(replica: Replica, stream: Stream) -> None:
    replica.begin_sync(SYNC, stream.position, [VolumeSpec(1, "data", SIZE)])
    replica.add_regions(SYNC, 1, [Region(1, 0, SIZE, None)], Cursor(1, SIZE))
    stream.volumes[1][:] = bytes(SIZE)


def test_checkpoint_frees_no_log_of_what_was_applied_while_it_synced() -> None:
    storage = SimulatedStorage()
    replica, stream = with_volume(storage)
    for index in range(20):
        stream.write(1, 0, bytes([index]) * 32768)
        receive(replica, stream)
    sync = replica.volumes.sync

    def sync_slowly() -> None:
        apply_all(replica)  # the applier's lock is free meanwhile
        sync()

    replica.step()
    replica.volumes.sync = sync_slowly  # type: ignore[method-assign]
    point = replica.checkpointer.run()
    assert point.position.lsn < replica.applied.lsn == stream.position.lsn
    assert replica.receiver.log.oldest <= point.offset
    again = open_replica(storage.kill(), ManualClock())
    apply_all(again)
    assert live(again) == stream.states[stream.position.lsn]


def test_checkpoint_that_began_before_a_new_stream_acks_none_of_its_regions() -> None:
    replica, stream = with_volume(SimulatedStorage())
    synced(replica, stream)
    apply_all(replica)
    sync = replica.volumes.sync
    comes = threading.Thread(target=replica.new_stream, args=("link",))

    def sync_slowly() -> None:
        comes.start()
        comes.join(0.2)  # a new Hello comes in the middle; it may have to wait
        sync()

    replica.volumes.sync = sync_slowly  # type: ignore[method-assign]
    replica.checkpoint()
    comes.join(20.0)
    assert not comes.is_alive()
    assert replica.status().region_sequence == 0, "numbers begin at 1 again (D25)"
    assert replica.database.sync() is not None


def test_message_past_the_consistent_position_of_a_sync_is_delivered() -> None:
    replica, stream = with_volume(SimulatedStorage())
    replica.register_application(APPLICATION)
    synced(replica, stream)
    stream.message("during")
    consistent = stream.write(1, 0, b"more").lsn
    receive(replica, stream)
    replica.finish_sync(SYNC, consistent)
    message = stream.message("after")
    stream.write(1, 0, b"later")
    receive(replica, stream)
    apply_all(replica)
    assert [row.state for row in replica.verdicts_of("during")] == ["SKIPPED_INCONSISTENT"]
    assert replica.state is ReplicaState.FROZEN and replica.applied == message
    assert live(replica) == stream.states[message.lsn]


def test_exported_guard_goes_when_it_is_let_go() -> None:
    for by_hand in (False, True):
        replica, stream = with_volume(SimulatedStorage())
        before = stream.states[stream.position.lsn]
        synced(replica, stream)
        guard = replica.snapshots()[0].name
        replica.export_snapshot(guard)
        replica.finish_sync(SYNC, stream.position.lsn)
        apply_all(replica)
        replica.maintain()
        assert replica.state is ReplicaState.CONSISTENT
        assert shown(replica, guard) == before
        replica.unexport_snapshot(guard)
        if by_hand:
            replica.delete_snapshot(guard)
        replica.maintain()
        assert replica.snapshots() == []


def test_guard_goes_later_when_group_db_has_no_room_for_that() -> None:
    storage, clock = SimulatedStorage(), ManualClock()
    replica, stream = with_volume(storage)
    synced(replica, stream)
    replica.finish_sync(SYNC, stream.position.lsn)
    apply_all(replica)
    finish = replica.database.finish_sync

    def finish_then_full(*arguments: object) -> None:
        finish(*arguments)  # type: ignore[arg-type]
        storage.fail("commit", "group.db", errno.ENOSPC, times=1000)

    replica.database.finish_sync = finish_then_full  # type: ignore[method-assign, assignment]
    replica.checkpoint()
    assert replica.state is ReplicaState.CONSISTENT and len(replica.snapshots()) == 1
    # A start without room does not fail over it either.
    full = storage.kill()
    full.fail("commit", "group.db", errno.ENOSPC, times=1000)
    replica = open_replica(full, clock)
    full.heal()
    replica.maintain()
    assert replica.snapshots() == []


# -- names and answers -----------------------------------------------------------------------


def test_snapshot_message_finds_a_name_that_is_free() -> None:
    replica, stream = with_volume(SimulatedStorage())
    lsn = stream.position.lsn + 1
    for name in ("nightly", f"nightly-{lsn}"):
        replica.create_snapshot(name, chunk_bytes=CHUNK)
    stream.message("s1", common_pb2.MESSAGE_BEHAVIOUR_SNAPSHOT, snapshot_id="nightly")
    receive(replica, stream)
    apply_all(replica)
    assert replica.failure is None
    assert [row.name for row in replica.snapshots() if row.message_id] == [f"nightly-{lsn}-2"]


def test_unfreeze_after_a_restart_still_says_how_the_freeze_ended() -> None:
    storage, clock = SimulatedStorage(), ManualClock()
    replica = make_replica(storage, clock)
    replica.register_application(APPLICATION)
    stream = one_volume()
    stream.message("m1", freeze_timeout_seconds=5.0)
    receive(replica, stream)
    apply_all(replica)
    assert replica.receive_message(APPLICATION) is not None
    clock.advance(6.0)
    replica.maintain()
    replica = open_replica(storage.kill(), clock)
    apply_all(replica)
    with pytest.raises(errors.FailedPrecondition) as caught:
        replica.unfreeze("m1", "me")
    assert caught.value.reason == "FREEZE_TIMED_OUT"
    with pytest.raises(errors.FailedPrecondition) as caught:
        replica.unfreeze("another", "me")
    assert caught.value.reason == "NOT_FROZEN"


def test_unknown_record_is_applied_after_an_upgrade_and_never_skipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage, clock = SimulatedStorage(), ManualClock()
    replica, stream = with_volume(storage)
    kept = stream.position
    unknown = stream.control(25, record_pb2.Start(incarnation=3))
    stream.write(1, 0, b"after")
    receive(replica, stream)
    for _ in range(2):
        apply_all(replica)
        assert replica.state is ReplicaState.FAILED
        assert replica.applied == kept and live(replica) == stream.states[kept.lsn]
        replica.close()
        storage = storage.kill()
        replica = open_replica(storage, clock)
    monkeypatch.setattr(applier_module, "KNOWN_KINDS", KNOWN_KINDS | {25})
    reached: list[int] = []

    def reach(_: memoryview, view: object, __: object) -> bool:
        reached.append(view.lsn)  # type: ignore[attr-defined]
        return True

    replica.controls.reach = reach  # type: ignore[method-assign, assignment]
    apply_all(replica)
    assert replica.state is ReplicaState.CONSISTENT and reached == [1, 2, unknown.lsn]
    assert live(replica) == stream.states[stream.position.lsn]


# -- order -----------------------------------------------------------------------------------


def test_nothing_is_applied_before_it_is_durable() -> None:
    replica, stream = with_volume(SimulatedStorage())
    before = stream.position
    stream.write(1, 0, b"not yet")
    run = stream.run_after(before.lsn)
    views, _, _ = record.scan(run, 0, len(run), before)
    log = replica.receiver.log
    log.append([Run.of_views(run, views)])
    assert not replica.step() and replica.applied == before
    log.sync()
    apply_all(replica)
    assert live(replica) == stream.states[stream.position.lsn]


def test_region_is_applied_at_its_place_in_the_stream() -> None:
    replica, stream = with_volume(SimulatedStorage())
    replica.begin_sync(SYNC, stream.position, [VolumeSpec(1, "data", SIZE)])
    stream.write(1, 0, b"before")
    place = stream.position
    receive(replica, stream)
    replica.add_regions(SYNC, 1, [Region(1, 0, CHUNK, b"r" * CHUNK)], Cursor(1, CHUNK))
    stream.write(1, 3, b"after")
    receive(replica, stream)
    assert replica.step()
    assert replica.applied == place and len(replica.regions) == 1
    assert live(replica)[1][:6] == b"before"
    assert replica.step()
    assert replica.applied == place and live(replica)[1][:6] == b"rrrrrr"
    apply_all(replica)
    assert live(replica)[1][:9] == b"rrrafterr"


def test_synced_replica_is_consistent_only_past_the_lsn_that_regions_may_hold() -> None:
    replica, stream = with_volume(SimulatedStorage())
    synced(replica, stream)
    replica.finish_sync(SYNC, stream.position.lsn + 1)
    apply_all(replica)
    replica.checkpoint()
    assert replica.state is ReplicaState.INCONSISTENT
    stream.write(1, 0, b"the record that a region holds already")
    receive(replica, stream)
    apply_all(replica)
    assert replica.state is ReplicaState.INCONSISTENT
    replica.checkpoint()
    assert replica.status().state is ReplicaState.CONSISTENT


def test_write_past_the_end_of_a_volume_stops_the_replica_and_writes_nothing() -> None:
    replica, stream = with_volume(SimulatedStorage())
    stream.write(1, SIZE - CHUNK, b"l" * CHUNK)
    stream.write(1, SIZE, b"past the end")
    receive(replica, stream)
    apply_all(replica)
    assert isinstance(replica.failure, errors.DataCorrupt)
    assert replica.volumes[1].file.size() == SIZE
