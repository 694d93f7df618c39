"""Leases and SNAPSHOT messages on a whole replica: durable, in every clock, on a full disk."""

import errno
from typing import Any

import pytest

from slackwater import errors
from slackwater.apply.replica import Replica
from slackwater.apply.status import ReplicaState
from slackwater.clock import ManualClock
from slackwater.ibc.actions import Answer, EndHold
from slackwater.storage.simulated import SimulatedStorage
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


class Held:
    """A replica whose message m1 a lease holds, and what the lease was told."""

    def __init__(self, clock: ManualClock | None = None, **fields: Any) -> None:
        self.storage, self.clock = SimulatedStorage(), clock or ManualClock()
        self.replica = make_replica(self.storage, self.clock)
        self.replica.register_application(APPLICATION)
        self.stream = Stream()
        self.stream.start()
        self.stream.add_volume(1, "data", 2 * CHUNK)
        self.at = self.stream.message("m1", **fields)
        self.stream.write(1, 0, b"after")
        receive(self.replica, self.stream)
        apply_all(self.replica)
        self.told: list[Answer | EndHold] = []
        self.receiver = self.replica.hold(APPLICATION, "me", "", self.told.append)

    def pass_time(self, seconds: float, *, lives: bool) -> None:
        for _ in range(round(seconds / 0.25)):
            self.clock.advance(0.25)
            if lives:
                self.replica.heartbeat(self.receiver)
            self.replica.maintain()

    def restart(self) -> Replica:
        self.replica = open_replica(self.storage.kill(), self.clock)
        apply_all(self.replica)
        return self.replica

    @property
    def states(self) -> list[str]:
        return [row.state for row in self.replica.verdicts_of("m1")]


def test_lost_lease_lets_applying_go_on_and_is_told_after_it_is_durable_c13() -> None:
    held = Held()
    held.pass_time(700, lives=True)
    assert held.replica.state is ReplicaState.FROZEN, "longer than the freeze timeout"
    held.pass_time(5.25, lives=False)
    apply_all(held.replica)
    assert held.replica.applied == held.stream.position
    assert held.states == ["DELIVERED", "LEASE_LOST"]
    assert isinstance(held.told[-1], EndHold) and held.told[-1].verdict is not None


def test_snapshot_begun_after_the_lease_was_lost_is_not_at_the_message_c12() -> None:
    held = Held()
    held.pass_time(6, lives=False)
    with pytest.raises(errors.FailedPrecondition) as caught:
        held.replica.create_snapshot("s", at_message="m1")
    assert caught.value.reason == "NOT_FROZEN"
    row = held.replica.create_snapshot("s")
    assert row is not None and not row.message_id


@pytest.mark.parametrize("jump", [-(10**18), 10**18])
def test_wall_clock_that_jumps_moves_no_timer_c13(jump: int) -> None:
    clock = ManualClock(time_ns=2 * 10**18)
    held = Held(clock)
    held.pass_time(2, lives=False)
    clock._time_ns += jump
    held.pass_time(2.5, lives=False)
    assert held.replica.state is ReplicaState.FROZEN
    held.pass_time(0.5, lives=False)
    assert held.states[-1] == "LEASE_LOST"


def test_downtime_does_not_count_and_the_grace_begins_anew_c15() -> None:
    held = Held()
    held.pass_time(4, lives=False)
    held.clock.advance(10_000)
    held.restart()
    info = held.replica.freeze()
    assert info is not None and info.leased and info.holder == "me"
    assert held.replica.applied == held.at
    held.pass_time(4.75, lives=False)
    assert held.replica.state is ReplicaState.FROZEN
    held.pass_time(0.25, lives=False)
    assert held.states[-1] == "LEASE_LOST"


def test_chosen_freeze_timeout_goes_on_where_it_was_after_a_restart_d19() -> None:
    held = Held(freeze_timeout_seconds=20.0, freeze_timeout_chosen=True)
    held.pass_time(10, lives=True)
    held.restart()
    back = held.replica.hold(APPLICATION, "me", "m1", held.told.append)
    held.receiver = back
    held.pass_time(9.75, lives=True)
    assert held.replica.state is ReplicaState.FROZEN
    held.pass_time(0.5, lives=True)
    assert held.states[-1] == "FREEZE_TIMED_OUT"


def test_holder_that_comes_back_after_a_crash_finds_how_it_ended_c12() -> None:
    held = Held()
    held.replica.release_hold(held.receiver)
    held.restart()
    told: list[Answer | EndHold] = []
    held.replica.hold(APPLICATION, "me", "m1", told.append)
    (end,) = told
    assert isinstance(end, EndHold) and end.verdict is not None
    assert (end.verdict.state.value, end.verdict.by) == ("UNFROZEN", "me")


def test_lease_on_a_full_disk_ends_when_there_is_room() -> None:
    held = Held()
    held.storage.fail("commit", "group.db", errno.ENOSPC, times=3)
    with pytest.raises(OSError, match="No space"):
        held.replica.release_hold(held.receiver)
    assert [type(one) for one in held.told] == [Answer], "not told before it is durable"
    held.storage.heal()
    held.pass_time(1, lives=True)
    assert [type(one) for one in held.told] == [Answer, EndHold]
    assert held.states == ["DELIVERED", "UNFROZEN"]


@pytest.mark.parametrize("times", range(1, 8))
@pytest.mark.parametrize("where", ["group.db", ".overlay", ".map"])
def test_asked_for_snapshot_is_made_once_on_a_disk_that_was_full_d4(where: str, times: int) -> None:
    storage, clock = SimulatedStorage(), ManualClock()
    replica = make_replica(storage, clock)
    replica.register_application(APPLICATION)
    stream = Stream()
    stream.start()
    stream.add_volume(1, "data", 2 * CHUNK)
    stream.write(1, 0, b"before")
    receive(replica, stream)
    apply_all(replica)
    at = stream.message("s1", common_pb2.MESSAGE_BEHAVIOUR_SNAPSHOT)
    stream.write(1, 0, b"after")
    receive(replica, stream)
    storage.fail("commit" if where == "group.db" else "open", where, errno.ENOSPC, times=times)
    replica.step()
    assert replica.failure is None
    stall = replica.status().stall
    assert stall is not None and stall.errno == errno.ENOSPC and stall.lsn == at.lsn
    for _ in range(times + 1):  # each try may meet one failure
        clock.advance(0.25)
        replica.maintain()
        apply_all(replica)
    assert replica.applied == stream.position and replica.failure is None
    (row,) = replica.snapshots()
    assert (row.name, row.message_id) == ("ibc-s1", "s1")
    assert shown(replica, "ibc-s1") == stream.states[at.lsn]
    assert live(replica) == stream.states[stream.position.lsn]
    assert [one.state for one in replica.verdicts_of("s1")] == ["SNAPSHOTTED"]
    got = replica.receive_message(APPLICATION)
    assert got is not None and got.message.snapshot_id == "ibc-s1"
    assert replica.receive_message(APPLICATION) is None


def test_message_in_a_sync_is_skipped_and_no_snapshot_is_taken_c18() -> None:
    replica = make_replica(SimulatedStorage(), ManualClock())
    stream = Stream()
    stream.start()
    at = stream.message("s1", common_pb2.MESSAGE_BEHAVIOUR_SNAPSHOT)
    receive(replica, stream)
    body = record_pb2.IbcMessage(
        message_id="s1", application="app", behaviour=common_pb2.MESSAGE_BEHAVIOUR_SNAPSHOT
    )
    point = replica.receiver.log.durable
    assert point.position == at
    replica.messages.reach(body, point, 0, consistent=False)
    assert replica.snapshots() == []
    assert [row.state for row in replica.verdicts_of("s1")] == ["SKIPPED_INCONSISTENT"]
