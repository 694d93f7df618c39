"""A Primary's group against bytes: any order of writes, checkpoints, deaths and openings.

After SIGKILL nothing answered may be missing in either mode; after power loss nothing durable may;
and what is found is always the group after some record: one prefix over all volumes at once.
"""

import random
from contextlib import suppress

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from slackwater.group import opening
from slackwater.group.batch import Change, write_change, zero_change
from slackwater.group.opening import OpenGroup
from slackwater.storage.simulated import Policy, SimulatedCrash, SimulatedStorage
from tests.unit.group.engine import SIZE, open_group, read, send, volumes_of

NAMES = ("data", "wal", "extra")
BLOCKS = 24

Content = dict[str, bytes]
Wanted = tuple[str, bool, tuple[int, int]]

ranges = st.tuples(st.integers(0, BLOCKS - 1), st.integers(1, 9))
"""(first block, blocks) of 512 bytes"""
seeds = st.integers(0, 1 << 16)
changes = st.lists(
    st.tuples(st.sampled_from(NAMES), st.booleans(), ranges), min_size=1, max_size=24
)


class WriterMachine(RuleBasedStateMachine):
    """`states[n]` is the group after the n-th record; `durable` counts those that are safe."""

    durability = opening.WRITETHROUGH

    def __init__(self) -> None:
        super().__init__()
        self.storage = SimulatedStorage()
        self.states: list[Content] = [{}]
        self.durable = 0
        self.counter = 0
        self.messages: list[str] = []
        self.group = self.open()

    def open(self) -> OpenGroup:
        group = open_group(self.storage, durability=self.durability)
        self.volumes = volumes_of(self.storage, group)
        return group

    @property
    def now(self) -> Content:
        return self.states[-1]

    @property
    def answered(self) -> int:
        return len(self.states) - 1

    @initialize()
    def start(self) -> None:
        for name in NAMES[:2]:
            self.add(name)

    # -- what a client does -------------------------------------------------------------------

    def issue(self, wanted: list[Wanted]) -> list[Change]:
        """Make changes, and note the group after each."""
        made: list[Change] = []
        for name, is_write, (first, blocks) in wanted:
            if name not in self.now:
                continue
            volume, offset, length = self.volumes.by_name(name), first * 512, blocks * 512
            self.counter += 1
            data = self.counter.to_bytes(4, "big") * (length // 4) if is_write else bytes(length)
            if is_write:
                made.append(write_change(volume, offset, data))
            else:
                made.append(zero_change(volume, offset, length))
            old = self.now[name]
            self.states.append({**self.now, name: old[:offset] + data + old[offset + length :]})
        return made

    @rule(wanted=changes, sync=st.booleans())
    def write(self, wanted: list[Wanted], sync: bool) -> None:
        self.group.writer.submit(self.issue(wanted), sync=sync)
        if sync or self.durability == opening.WRITETHROUGH:
            self.durable = self.answered
        for name, content in self.now.items():
            assert read(self.group, self.volumes.by_name(name)) == content

    @rule()
    def flush(self) -> None:
        self.group.writer.submit((), sync=True)
        self.durable = self.answered

    @rule()
    def checkpoint(self) -> None:
        self.group.writer.checkpoint()

    @rule()
    def maintain(self) -> None:
        self.group.writer.maintain()
        self.durable = self.answered  # in writeback it is the timer

    @rule(fence=st.sampled_from([None, 1.0]))
    def message(self, fence: float | None) -> None:
        name = f"m{len(self.messages)}"
        send(self.group.writer, name, fence)
        self.messages.append(name)
        self.durable = self.answered

    @precondition(lambda self: len(self.now) < len(NAMES))
    @rule(data=st.data())
    def add_volume(self, data: st.DataObject) -> None:
        self.add(data.draw(st.sampled_from([one for one in NAMES if one not in self.now])))

    def add(self, name: str) -> None:
        self.volumes.add(name, SIZE)
        self.states.append({**self.now, name: bytes(SIZE)})
        self.durable = self.answered

    @precondition(lambda self: len(self.now) > 1)
    @rule(data=st.data())
    def remove_volume(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.now)))
        self.volumes.remove(name)
        self.states.append({one: held for one, held in self.now.items() if one != name})
        self.durable = self.answered

    # -- how it ends --------------------------------------------------------------------------

    @rule()
    def close_and_open(self) -> None:
        self.group.close()
        self.check_reopened(at_least=self.answered)

    @rule()
    def sigkill(self) -> None:
        self.die(None, 0)
        self.check_reopened(at_least=self.answered)

    @rule(policy=st.sampled_from(Policy), seed=seeds)
    def power_loss(self, policy: Policy, seed: int) -> None:
        self.die(policy, seed)
        self.check_reopened(at_least=self.durable)

    @rule(policy=st.sampled_from(Policy), seed=seeds)
    def power_loss_after_recovery_from_sigkill(self, policy: Policy, seed: int) -> None:
        """What a recovered group shows is durable (D5)."""
        self.sigkill()
        self.power_loss(policy, seed)

    @rule(
        wanted=changes,
        calls=st.integers(1, 14),
        policy=st.sampled_from([None, *Policy]),
        seed=seeds,
        again=st.integers(0, 30),
    )
    def die_in_a_write_and_in_recovery(
        self, wanted: list[Wanted], calls: int, policy: Policy | None, seed: int, again: int
    ) -> None:
        safe = self.answered if policy is None else self.durable
        self.storage.crash_at = self.storage.calls + calls
        with suppress(SimulatedCrash):
            self.group.writer.submit(self.issue(wanted))
            if policy is None or self.durability == opening.WRITETHROUGH:
                safe = self.answered
            self.group.writer.checkpoint()
        self.die(policy, seed)
        if again:
            self.storage.crash_at = again
            with suppress(SimulatedCrash):
                self.open()
            self.die(policy, seed + 1)
        self.check_reopened(at_least=safe)

    def die(self, policy: Policy | None, seed: int) -> None:
        """SIGKILL, or power loss."""
        if policy is None:
            self.storage = self.storage.kill()
        else:
            self.storage = self.storage.after_crash(policy, random.Random(seed))

    def check_reopened(self, at_least: int) -> None:
        self.group = self.open()
        found = {
            volume.name: read(self.group, volume) for volume in self.group.writer.volumes.values()
        }
        assert found in self.states[at_least:], "no prefix that holds what was promised"
        for name in self.messages:
            assert self.group.writer.database.message(name).request_id == name
        self.states, self.durable = [found], 0

    def teardown(self) -> None:
        self.group.close()
        self.check_reopened(at_least=self.answered)


class WritebackMachine(WriterMachine):
    """The same with answers before the sync (D7)."""

    durability = opening.WRITEBACK


TestWritethrough = WriterMachine.TestCase
TestWritethrough.settings = settings(stateful_step_count=25)
TestWriteback = WritebackMachine.TestCase
TestWriteback.settings = settings(stateful_step_count=25)
