"""A replica against bytes: any order of writes, snapshots, messages, checkpoints and crashes."""

import random
from itertools import pairwise
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from slackwater.apply.replica import Replica
from slackwater.apply.status import ReplicaState
from slackwater.clock import ManualClock
from slackwater.snapshots.copying import FULL, SPACE_OPTIMIZED
from slackwater.storage.simulated import Policy, SimulatedCrash, SimulatedStorage
from slackwater.v1 import common_pb2
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

SIZE = 5 * CHUNK + 512
POLICIES = st.sampled_from([*Policy, "kill", "kill then power loss"])


class ReplicaMachine(RuleBasedStateMachine):
    """Invariants a1 (volumes are the prefix), a2 (applied <= durable), a4 (snapshots never change),
    a5 (effects once), a6 (frozen exactly at the message)."""

    def __init__(self) -> None:
        super().__init__()
        self.storage = SimulatedStorage()
        self.clock = ManualClock()
        self.replica: Replica = make_replica(self.storage, self.clock)
        self.replica.register_application(APPLICATION)
        self.stream = Stream()
        self.stream.start()
        self.stream.add_volume(1, "data", SIZE)
        self.stream.add_volume(2, "wal", CHUNK)
        self.names = 0
        self.snapshots: dict[str, int] = {}
        self.excluded: dict[str, list[str]] = {}
        self.going: set[str] = set()
        self.durable = 0

    # -- the Primary

    @rule(volume=st.sampled_from([1, 2]), data=st.data())
    def write(self, volume: int, data: Any) -> None:
        size = len(self.stream.volumes[volume])
        offset = data.draw(st.integers(0, size - 1))
        length = data.draw(st.integers(1, min(2 * CHUNK, size - offset)))
        fill = data.draw(st.integers(0, 255))
        self.stream.write(volume, offset, bytes([fill]) * length)

    @rule(data=st.data())
    def zero(self, data: Any) -> None:
        offset = data.draw(st.integers(0, SIZE - 1))
        self.stream.zero(1, offset, data.draw(st.integers(1, SIZE - offset)))

    @rule(
        behaviour=st.sampled_from(
            [
                common_pb2.MESSAGE_BEHAVIOUR_FREEZE,
                common_pb2.MESSAGE_BEHAVIOUR_NOTIFY,
                common_pb2.MESSAGE_BEHAVIOUR_SNAPSHOT,
            ]
        )
    )
    def message(self, behaviour: int) -> None:
        self.names += 1
        self.stream.message(f"m{self.names}", behaviour, snapshot_id=f"auto-{self.names}")

    # -- the link and the applier

    @rule()
    def receive(self) -> None:
        receive(self.replica, self.stream)
        self.durable = self.replica.durable.lsn

    @rule(steps=st.integers(1, 5))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            self.replica.step()

    @rule()
    def checkpoint(self) -> None:
        self.replica.checkpoint()

    @rule()
    def maintain(self) -> None:
        self.clock.advance(6.0)
        self.replica.maintain()

    # -- receivers and operators

    @rule()
    def take(self) -> None:
        self.replica.receive_message(APPLICATION)

    @precondition(lambda self: self.frozen() is not None)
    @rule()
    def unfreeze(self) -> None:
        info = self.frozen()
        assert info is not None
        if info.phase != "FROZEN":
            while self.replica.receive_message(APPLICATION):
                pass
        self.replica.unfreeze(info.message.message_id, "me")

    def frozen(self) -> Any:
        return self.replica.freeze()

    @precondition(lambda self: self.replica.state is not ReplicaState.RECOVERING)
    @rule(
        left_out=st.sampled_from(["", "", "data", "wal"]),
        kind=st.sampled_from([SPACE_OPTIMIZED, FULL]),
    )
    def snapshot(self, left_out: str, kind: str) -> None:
        self.names += 1
        name = f"s{self.names}"
        there = {volume.name for volume in self.replica.volumes.active()}
        exclude = [left_out] if {"data", "wal"} <= there and left_out else []
        info = self.frozen()
        at_message = "" if info is None else info.message.message_id
        self.replica.create_snapshot(
            name,
            at_message=at_message,
            chunk_bytes=0 if self.replica.snapshots() else CHUNK,
            exclude=exclude,
            kind=kind,
        )
        self.excluded[name] = exclude
        self.snapshots[name] = self.replica.applied.lsn

    @precondition(lambda self: self.snapshots and self.replica.state is not ReplicaState.RECOVERING)
    @rule(data=st.data())
    def refresh(self, data: Any) -> None:
        name = data.draw(st.sampled_from(sorted(self.snapshots)))
        info = self.frozen()
        at_message = "" if info is None else info.message.message_id
        self.replica.refresh_snapshot(name, at_message=at_message)
        self.snapshots[name] = self.replica.applied.lsn

    @precondition(lambda self: self.snapshots)
    @rule(data=st.data())
    def delete(self, data: Any) -> None:
        name = data.draw(st.sampled_from(sorted(self.snapshots)))
        del self.snapshots[name]
        self.going.add(name)
        self.replica.delete_snapshot(name)

    # -- the world

    def reopen(self, survivor: SimulatedStorage) -> None:
        self.storage = survivor
        self.replica = open_replica(survivor, self.clock)
        assert self.replica.durable.lsn >= self.durable

    def lost(self, policy: Any, seed: int) -> SimulatedStorage:
        if isinstance(policy, Policy):
            return self.storage.after_crash(policy, random.Random(seed))
        survivor = self.storage.kill()
        if policy == "kill":
            return survivor
        return survivor.after_crash(Policy.TEAR, random.Random(seed))

    @rule(policy=POLICIES, seed=st.integers(0, 99))
    def crash(self, policy: Any, seed: int) -> None:
        self.reopen(self.lost(policy, seed))

    @rule(policy=POLICIES, seed=st.integers(0, 99), calls=st.integers(1, 30))
    def crash_at_work(self, policy: Any, seed: int, calls: int) -> None:
        self.storage.crash_at = self.storage.calls + calls
        try:
            receive(self.replica, self.stream)
            self.durable = self.replica.durable.lsn
            apply_all(self.replica)
            self.replica.maintain()
            self.replica.checkpoint()
        except SimulatedCrash:
            self.reopen(self.lost(policy, seed))
        self.storage.crash_at = None

    @rule()
    def stop_and_start(self) -> None:
        self.replica.close()
        self.reopen(self.storage.kill())

    # -- what is always so

    @invariant()
    def volumes_are_the_prefix(self) -> None:
        replica = self.replica
        assert replica.failure is None, replica.failure
        assert replica.applied.lsn <= replica.durable.lsn
        if replica.state is not ReplicaState.RECOVERING:
            assert live(replica) == self.stream.states[replica.applied.lsn]
        info = self.frozen()
        if info is not None:
            assert info.message.position == replica.applied

    @invariant()
    def snapshots_never_change(self) -> None:
        kept = {row.name: row for row in self.replica.snapshots()}
        for name, lsn in self.snapshots.items():
            assert kept[name].point.position.lsn == lsn
        assert not self.going & kept.keys()
        for name, row in kept.items():
            named = {number: volume for number, volume, _ in row.volumes}
            assert not set(self.excluded.get(name, ())) & set(named.values())
            if self.replica.snapshot_is_readable(name):
                then = self.stream.states[row.point.position.lsn]
                assert shown(self.replica, name) == {number: then[number] for number in named}

    @invariant()
    def differences_leave_nothing_out(self) -> None:
        """Each byte that differs is in a range, and a range said to be zeroes is."""
        replica = self.replica
        rows = [row.name for row in replica.snapshots() if replica.snapshot_is_readable(row.name)]
        pairs = list(pairwise(rows)) + [("", name) for name in rows]
        if rows:
            pairs.append((rows[0], rows[-1]))
            if replica.state is not ReplicaState.RECOVERING:
                pairs += [(rows[0], ""), (rows[-1], "")]
        for older, newer in pairs:
            before = shown(replica, older) if older else {}
            after = shown(replica, newer) if newer else live(replica)
            for number, name in ((1, "data"), (2, "wal")):
                if number not in after:
                    continue
                expected = bytearray(before.get(number, b""))
                expected.extend(bytes(len(after[number]) - len(expected)))
                found = replica.differences(older, newer, name)
                at = 0
                while at < found.size:
                    ranges, at = found.page(at, 2)
                    for one in ranges:
                        data = after[number][one.offset : one.next_offset]
                        assert one.data or not any(data)
                        expected[one.offset : one.next_offset] = data
                assert expected == after[number], (older, newer, name)

    @invariant()
    def effects_happen_once(self) -> None:
        for message in self.replica.list_messages():
            finals = [row for row in self.replica.verdicts_of(message.id) if row.final]
            assert len(finals) <= 1
            if message.position.lsn < self.replica.applied.lsn:
                if self.replica.state is not ReplicaState.RECOVERING:
                    assert len(finals) == 1
        automatic = [row.message_id for row in self.replica.snapshots() if row.name[:4] == "auto"]
        assert len(automatic) == len(set(automatic))

    def teardown(self) -> None:
        apply_all(self.replica)
        assert self.replica.failure is None
        assert live(self.replica) == self.stream.states[self.replica.applied.lsn]


TestReplica = ReplicaMachine.TestCase
TestReplica.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
