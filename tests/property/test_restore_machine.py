"""A Primary and its replica against bytes: writes, snapshots, restores, and deaths of both sides.

A restore runs over the real log, the real replica and its real differences; only the wire between
them is missing. The replica applies what the restore writes while the restore reads.
"""

import random
from collections.abc import Iterator
from contextlib import suppress
from unittest.mock import patch

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from slackwater import record
from slackwater.apply.replica import Replica
from slackwater.apply.status import ReplicaState
from slackwater.clock import ManualClock
from slackwater.group import restoring
from slackwater.group.batch import write_change, zero_change
from slackwater.group.opening import OpenGroup
from slackwater.group.restoring import ACTIVE, DONE, WAITING, Restoring
from slackwater.group.rows import RestoreRow
from slackwater.log.reader import LogReader, find_from
from slackwater.storage.simulated import Policy, SimulatedCrash, SimulatedStorage
from tests.crash.test_writer import SIZE, contents, make, volumes_of
from tests.unit.apply.stream import CHUNK, apply_all, live, make_replica, open_replica, shown

NAMES = ("data", "wal")
BLOCK = 512
SEND_BYTES = 32 << 10
PLACES = st.tuples(st.integers(0, SIZE // BLOCK - 1), st.integers(1, 24))
CHANGES = st.lists(
    st.tuples(st.sampled_from(NAMES), PLACES, st.integers(0, 255)), min_size=1, max_size=6
)
WHICH = st.integers(0, 9)
SNAPSHOTS_LIMIT = 4
POLICIES = st.sampled_from([Policy.DROP, Policy.KEEP, Policy.TEAR])
Content = dict[str, bytes]


class Wire:
    """Implements `restoring.Source` over a replica in this process; sends it the log besides."""

    def __init__(self, machine: "RestoreMachine", snapshot: str) -> None:
        self._machine = machine
        self._snapshot = snapshot

    def hold(self) -> None:
        """Nobody deletes it."""

    def wait_applied(self, lsn: int) -> None:
        self._machine.follow()
        assert self._machine.replica.applied.lsn >= lsn

    def changed(self, volume: str) -> Iterator[tuple[int, int]]:
        found = self._machine.replica.differences(self._snapshot, "", volume)
        at = 0
        while at < found.size:
            ranges, at = found.page(at, 1)
            for one in ranges:
                yield one.offset, one.length

    def read(self, volume: str, offset: int, length: int) -> bytes:
        data = self._machine.replica.open_snapshot_volume(self._snapshot, volume).read(
            length, offset
        )
        self._machine.send()
        self._machine.replica.step()
        return data


class RestoreMachine(RuleBasedStateMachine):
    """`now` is what the Primary holds; `snapshots` what the replica held when each was made."""

    def __init__(self) -> None:
        super().__init__()
        # As small as the logs and the volumes here.
        self.sizes = patch.multiple(
            restoring, GRAIN_BYTES=CHUNK, PIECE_BYTES=2 * CHUNK, NOTE_BYTES=4 * CHUNK
        )
        self.sizes.start()

    def teardown(self) -> None:
        self.sizes.stop()

    @initialize()
    def begin(self) -> None:
        self.storage, self.far_storage = SimulatedStorage(), SimulatedStorage()
        self.clock = ManualClock()
        self.replica: Replica = make_replica(self.far_storage, self.clock)
        self.group: OpenGroup = make(self.storage)
        volumes = volumes_of(self.storage, self.group)
        self.now: Content = {}
        for name in NAMES:
            volumes.add(name, SIZE)
            self.now[name] = bytes(SIZE)
        self.snapshots: dict[str, Content] = {}
        self.made = 0
        self.write([("data", (0, 24), 1), ("data", (40, 24), 2), ("wal", (3, 7), 3)])
        self.follow()
        self.snapshot()

    # -- between the two ----------------------------------------------------------------------

    def send(self) -> None:
        """Make durable on the replica what the Primary has and it lacks."""
        log = self.group.writer.log
        end, have = log.durable, self.replica.receiver.received
        if have.lsn == end.position.lsn:
            return
        reader = LogReader(
            self.storage, self.group.directory.log, self.group.identity.uid, log.settings
        )
        place = find_from(reader, log.oldest, end.offset, have.lsn) if have.lsn else None
        at = log.oldest if place is None else place.offset
        while at < end.offset:
            found = reader.read(at, end.offset, SEND_BYTES)
            previous = self.replica.receiver.received
            views, _, why = record.scan(found.data, 0, len(found.data), previous)
            assert why == "end", why
            self.replica.append_run(found.data, views, lambda _position: None)
            while self.replica.write_some():
                pass
            at = found.next_offset
        reader.close()

    def follow(self) -> None:
        self.send()
        apply_all(self.replica)

    def far(self) -> Content:
        names = {volume.id: volume.name for volume in self.replica.volumes.active()}
        return {names[number]: data for number, data in live(self.replica).items()}

    # -- clients and operators ----------------------------------------------------------------

    @rule(changes=CHANGES)
    def write(self, changes: list[tuple[str, tuple[int, int], int]]) -> None:
        for volume, place, fill in changes:
            target = volumes_of(self.storage, self.group).by_name(volume)
            at = place[0] * BLOCK
            data = bytes([fill]) * min(place[1] * BLOCK, SIZE - at)
            change = write_change(target, at, data) if fill else zero_change(target, at, len(data))
            self.group.writer.submit([change])
            before = self.now[volume]
            self.now[volume] = before[:at] + data + before[at + len(data) :]
        self.send()

    @rule(steps=st.integers(1, 6))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            self.replica.step()

    @precondition(
        lambda self: (
            len(self.snapshots) < SNAPSHOTS_LIMIT
            and self.replica.state is not ReplicaState.RECOVERING
        )
    )
    @rule()
    def snapshot(self) -> None:
        self.made += 1
        name = f"s{self.made}"
        self.replica.create_snapshot(name, chunk_bytes=0 if self.replica.snapshots() else CHUNK)
        self.snapshots[name] = self.far()

    @precondition(lambda self: self.snapshots)
    @rule(which=WHICH)
    def delete(self, which: int) -> None:
        name = self._pick(which)
        del self.snapshots[name]
        self.replica.delete_snapshot(name)

    def _pick(self, which: int) -> str:
        return sorted(self.snapshots)[which % len(self.snapshots)]

    # -- deaths -------------------------------------------------------------------------------

    def lose_primary(self, policy: Policy, seed: int) -> None:
        self.storage = self.storage.after_crash(policy, random.Random(seed))
        self.group = make(self.storage)

    def lose_replica(self, policy: Policy, seed: int) -> None:
        self.far_storage = self.far_storage.after_crash(policy, random.Random(seed))
        self.replica = open_replica(self.far_storage, self.clock)

    @rule(primary=st.booleans(), policy=POLICIES, seed=st.integers(0, 99))
    def lose_power(self, primary: bool, policy: Policy, seed: int) -> None:
        if primary:
            self.lose_primary(policy, seed)
            assert contents(self.storage, self.group) == self.now
        else:
            self.lose_replica(policy, seed)
        self.send()

    # -- restores -----------------------------------------------------------------------------

    @precondition(lambda self: self.snapshots)
    @rule(which=WHICH, chosen=st.sampled_from([NAMES, NAMES[:1], NAMES[1:]]))
    def restore(self, which: int, chosen: tuple[str, ...]) -> None:
        name = self._pick(which)
        self.run(self.begin_restore(name, chosen))
        self.check(name, chosen)

    @precondition(lambda self: self.snapshots)
    @rule(
        which=WHICH,
        chosen=st.sampled_from([NAMES, NAMES[:1]]),
        calls=st.integers(1, 60),
        far_calls=st.integers(1, 200),
        policy=POLICIES,
        seed=st.integers(0, 99),
    )
    def restore_and_die(
        self,
        which: int,
        chosen: tuple[str, ...],
        calls: int,
        far_calls: int,
        policy: Policy,
        seed: int,
    ) -> None:
        """Whoever dies first; the other lives on."""
        name = self._pick(which)
        row = self.begin_restore(name, chosen)
        self.storage.crash_at = self.storage.calls + calls
        self.far_storage.crash_at = self.far_storage.calls + far_calls
        with suppress(SimulatedCrash):
            self.run(row)
        primary_died = self.storage.calls >= self.storage.crash_at
        far_died = self.far_storage.calls >= self.far_storage.crash_at
        self.storage.crash_at = self.far_storage.crash_at = None
        if primary_died:
            self.lose_primary(policy, seed)
        if far_died:
            self.lose_replica(policy, seed)
        row = self.group.writer.database.restores()[-1]
        if row.state == WAITING:
            assert contents(self.storage, self.group) == self.now
        if row.state in ACTIVE:
            self.run(row)
        self.check(name, chosen)

    def begin_restore(self, name: str, chosen: tuple[str, ...]) -> RestoreRow:
        row = RestoreRow(0, f"groups/g/snapshots/{name}", "l", chosen, WAITING, 1)
        self.group.writer.database.add_restore(row)
        return self.group.writer.database.restores()[-1]

    def run(self, row: RestoreRow) -> None:
        name = row.snapshot.rpartition("/")[2]
        Restoring(self.group.writer, row, Wire(self, name), lambda: False).run()

    def check(self, name: str, chosen: tuple[str, ...]) -> None:
        assert self.group.writer.database.restores()[-1].state == DONE
        for volume in chosen:
            self.now[volume] = self.snapshots[name][volume]
        assert contents(self.storage, self.group) == self.now
        self.follow()
        assert self.far() == self.now
        for kept, content in self.snapshots.items():
            found = shown(self.replica, kept)
            assert dict(zip(NAMES, (found[one] for one in sorted(found)), strict=True)) == content


TestRestoreMachine = RestoreMachine.TestCase
TestRestoreMachine.settings = settings(
    max_examples=40,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
