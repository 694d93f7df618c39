"""A replica without threads: apply, snapshots, messages, syncs."""

import pytest

from slackwater import errors
from slackwater.apply.status import ReplicaState
from slackwater.clock import ManualClock
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

SIZE = 10 * CHUNK + 512


def two_volumes() -> Stream:
    stream = Stream()
    stream.start()
    stream.add_volume(1, "data", SIZE)
    stream.add_volume(2, "wal", 4 * CHUNK)
    stream.write(1, 100, b"first" * 100)
    stream.write(2, 0, b"log" * 1000)
    return stream


def test_replica_applies_the_stream() -> None:
    replica = make_replica(SimulatedStorage(), ManualClock())
    stream = two_volumes()
    receive(replica, stream)
    assert live(replica) == {}
    apply_all(replica)
    assert live(replica) == stream.states[stream.position.lsn]
    assert replica.applied == replica.durable == stream.position
    assert replica.state is ReplicaState.CONSISTENT


def test_snapshot_stays_while_the_replica_goes_on() -> None:
    replica = make_replica(SimulatedStorage(), ManualClock())
    stream = two_volumes()
    receive(replica, stream)
    apply_all(replica)
    at = stream.position.lsn
    row = replica.create_snapshot("one", chunk_bytes=CHUNK)
    assert row is not None and row.point.position == stream.position and row.grade == "crash"
    stream.write(1, 50, b"x" * 9000)
    stream.zero(1, 0, SIZE)
    stream.write(2, 5, b"y")
    receive(replica, stream)
    apply_all(replica)
    assert shown(replica, "one") == stream.states[at]
    assert live(replica) == stream.states[stream.position.lsn]


def test_snapshots_are_deleted_in_any_order() -> None:
    for order in ("abc", "cba", "bac", "bca"):
        replica = make_replica(SimulatedStorage(), ManualClock())
        stream = two_volumes()
        at = {}
        for name in "abc":
            stream.write(1, 3 * CHUNK + ord(name), name.encode() * 5000)
            receive(replica, stream)
            apply_all(replica)
            at[name] = stream.position.lsn
            replica.create_snapshot(name, chunk_bytes=CHUNK)
        stream.zero(1, 0, 8 * CHUNK)
        receive(replica, stream)
        apply_all(replica)
        left = set("abc")
        for name in order:
            replica.delete_snapshot(name)
            left.discard(name)
            stream.write(1, CHUNK, name.encode() * 3000)
            receive(replica, stream)
            apply_all(replica)
            replica.maintain()
            assert {row.name for row in replica.database.snapshots()} == left  # none half gone
            for other in left:
                assert shown(replica, other) == stream.states[at[other]]
        assert replica.snapshots() == []


def test_frozen_replica_receives_and_stands_exactly_at_the_message() -> None:
    storage, clock = SimulatedStorage(), ManualClock()
    replica = make_replica(storage, clock)
    replica.register_application(APPLICATION)
    stream = two_volumes()
    message = stream.message("m1", text="body")
    stream.write(1, 0, b"after" * 1000)
    receive(replica, stream)
    apply_all(replica)
    assert replica.state is ReplicaState.FROZEN
    assert replica.applied == message and replica.durable == stream.position
    assert live(replica) == stream.states[message.lsn]
    delivered = replica.receive_message(APPLICATION)
    assert delivered is not None and delivered.message.body == b"body"
    row = replica.create_snapshot("at", at_message="m1", chunk_bytes=CHUNK)
    assert row is not None and row.message_id == "m1" and row.point.position == message
    info = replica.freeze()
    assert info is not None and info.backlog_bytes > 0 and info.phase == "FROZEN"
    unfrozen = replica.unfreeze("m1", "me")
    assert unfrozen.position == message
    apply_all(replica)
    assert live(replica) == stream.states[stream.position.lsn]
    assert shown(replica, "at") == stream.states[message.lsn]
    with pytest.raises(errors.FailedPrecondition) as caught:
        replica.create_snapshot("late", at_message="m1")
    assert caught.value.reason == "NOT_FROZEN"
    with pytest.raises(errors.FailedPrecondition):
        replica.unfreeze("m1", "me")
    assert [row.state for row in replica.verdicts_of("m1")] == ["DELIVERED", "UNFROZEN"]


def test_frozen_replica_comes_back_frozen_at_the_same_message() -> None:
    for way in ("close", "kill", "crash"):
        storage, clock = SimulatedStorage(), ManualClock()
        replica = make_replica(storage, clock)
        replica.register_application(APPLICATION)
        stream = two_volumes()
        message = stream.message("m1", freeze_timeout_seconds=100.0)
        stream.write(1, 0, b"after" * 1000)
        receive(replica, stream)
        apply_all(replica)
        assert replica.receive_message(APPLICATION, holder="me") is not None
        clock.advance(40.0)
        replica.maintain()
        if way == "close":
            replica.close()
        storage = storage.after_crash(Policy.DROP) if way == "crash" else storage.kill()
        replica = open_replica(storage, clock)
        clock.advance(1000.0)  # downtime does not count (D19)
        apply_all(replica)
        assert replica.freeze() is not None
        assert replica.applied == message
        assert live(replica) == stream.states[message.lsn]
        again = replica.receive_message(APPLICATION, holder="me")
        assert again is not None and again.redelivered
        assert again.remaining_seconds == pytest.approx(60.0)
        clock.advance(61.0)
        replica.maintain()
        apply_all(replica)
        assert replica.state is ReplicaState.CONSISTENT
        assert replica.verdicts_of("m1")[-1].state == "FREEZE_TIMED_OUT"
        assert live(replica) == stream.states[stream.position.lsn]


def test_notified_message_is_kept_and_applying_goes_on() -> None:
    replica = make_replica(SimulatedStorage(), ManualClock())
    replica.register_application(APPLICATION)
    stream = two_volumes()
    stream.message("n1", common_pb2.MESSAGE_BEHAVIOUR_NOTIFY, data=b"note")
    stream.write(1, 0, b"after")
    receive(replica, stream)
    apply_all(replica)
    assert replica.applied == stream.position
    delivered = replica.receive_message(APPLICATION)
    assert delivered is not None and delivered.message.body == b"note"
    assert replica.receive_message(APPLICATION) is None


def test_snapshot_message_takes_the_snapshot_and_confirmed_outcome_grades_it() -> None:
    replica = make_replica(SimulatedStorage(), ManualClock())
    stream = two_volumes()
    at = stream.message(
        "s1", common_pb2.MESSAGE_BEHAVIOUR_SNAPSHOT, snapshot_id="snap", quiesced=["app"]
    )
    stream.write(1, 0, b"after" * 500)
    receive(replica, stream)
    apply_all(replica)
    assert replica.applied == stream.position
    assert shown(replica, "snap") == stream.states[at.lsn]
    assert replica.snapshot("snap").grade == "crash"
    stream.outcome("s1", record_pb2.Outcome.STATE_CONFIRMED, common_pb2.SNAPSHOT_GRADE_FILESYSTEM)
    receive(replica, stream)
    apply_all(replica)
    assert replica.snapshot("snap").grade == "filesystem"
    assert [row.state for row in replica.verdicts_of("s1")] == ["SNAPSHOTTED"]


def test_unknown_record_stops_the_replica_with_its_position_kept() -> None:
    replica = make_replica(SimulatedStorage(), ManualClock())
    stream = two_volumes()
    kept = stream.position
    stream.control(25, record_pb2.Start(incarnation=3))
    stream.write(1, 0, b"never")
    receive(replica, stream)
    apply_all(replica)
    assert replica.state is ReplicaState.FAILED
    assert "UNKNOWN" in str(getattr(replica.failure, "reason", ""))
    assert replica.applied == kept
    assert live(replica) == stream.states[kept.lsn]


def test_failed_sync_is_final() -> None:
    for match in ("data.raw", ".overlay"):
        storage = SimulatedStorage()
        replica = make_replica(storage, ManualClock())
        stream = two_volumes()
        receive(replica, stream)
        apply_all(replica)
        replica.create_snapshot("one", chunk_bytes=CHUNK)
        stream.write(1, 0, b"second" * 1000)
        receive(replica, stream)
        storage.fail("sync", match)
        apply_all(replica)
        if replica.failure is None:
            with pytest.raises(errors.StorageFailed):
                replica.checkpoint()
            replica.clock.advance(60.0)  # type: ignore[attr-defined]
            before = replica.database.log_state().checkpoint
            storage.fail("sync", match)
            replica.maintain()
            assert replica.database.log_state().checkpoint == before
        assert replica.state is ReplicaState.FAILED
        with pytest.raises(errors.GroupFailed):
            replica.create_snapshot("two")


@pytest.mark.parametrize(
    ("operation", "match", "number"),
    [
        ("write", "data.raw", 28),
        ("write", "data.raw", 5),
        ("write", ".overlay", 28),
        ("write", ".overlay", 5),
    ],
)
def test_refused_write_stops_applying_and_receiving_goes_on(
    operation: str, match: str, number: int
) -> None:
    storage = SimulatedStorage()
    replica = make_replica(storage, ManualClock())
    stream = two_volumes()
    receive(replica, stream)
    apply_all(replica)
    at = stream.position.lsn
    replica.create_snapshot("one", chunk_bytes=CHUNK)
    stream.write(2, 0, b"fine")
    fine = stream.position
    stream.write(1, 0, b"stuck")
    storage.fail(operation, match, number, times=100)
    # The first overlay write is for volume 2: let that one pass.
    if match == ".overlay":
        storage.heal()
        receive(replica, stream, fine.lsn)
        apply_all(replica)
        storage.fail(operation, match, number, times=100)
    receive(replica, stream)
    apply_all(replica)
    assert replica.state is ReplicaState.CONSISTENT
    assert replica.applied == fine
    stall = replica.status().stall
    assert stall is not None and stall.lsn == fine.lsn + 1 and stall.errno == number
    stream.write(2, 7, b"still received")
    receive(replica, stream)
    assert replica.durable == stream.position
    storage.heal()
    apply_all(replica)
    assert replica.applied == stream.position
    assert replica.status().stall is None
    assert live(replica) == stream.states[stream.position.lsn]
    assert shown(replica, "one") == stream.states[at]


def test_full_log_stops_receiving_until_the_freeze_ends() -> None:
    replica = make_replica(SimulatedStorage(), ManualClock())
    replica.register_application(APPLICATION)
    stream = two_volumes()
    stream.message("m1", freeze_timeout_seconds=0.0)
    for index in range(40):
        stream.write(1, 0, bytes([index]) * 32768)
    receive(replica, stream)
    apply_all(replica)
    assert replica.state is ReplicaState.FROZEN
    assert replica.receive_message(APPLICATION) is not None
    assert replica.receiver.is_full
    assert replica.durable.lsn < stream.position.lsn
    replica.maintain()
    for _ in range(20):
        apply_all(replica)
        replica.maintain()
        replica.write_some()
    assert replica.verdicts_of("m1")[-1].state == "FREEZE_LOG_LIMIT"
    assert replica.durable == replica.applied == stream.position
    assert live(replica) == stream.states[stream.position.lsn]


def test_volumes_grow_and_go() -> None:
    replica = make_replica(SimulatedStorage(), ManualClock())
    stream = two_volumes()
    receive(replica, stream)
    apply_all(replica)
    at = stream.position.lsn
    replica.create_snapshot("one", chunk_bytes=CHUNK)
    stream.grow(1, "data", SIZE + 3 * CHUNK)
    stream.write(1, SIZE, b"grown")
    stream.remove(2, "wal")
    stream.add_volume(3, "wal", CHUNK)
    stream.write(3, 0, b"another")
    receive(replica, stream)
    apply_all(replica)
    replica.checkpoint()
    assert live(replica) == stream.states[stream.position.lsn]
    assert shown(replica, "one") == stream.states[at]
    replica.delete_snapshot("one")
    replica.maintain()
    replica.clock.advance(60.0)  # type: ignore[attr-defined]
    stream.write(3, 0, b"more")
    receive(replica, stream)
    apply_all(replica)
    replica.checkpoint()
    assert sorted(volume.id for volume in replica.volumes.all()) == [1, 3]
