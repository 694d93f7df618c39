"""A log against a list: whatever is done to it, it is a prefix with everything synced."""

import random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from slackwater.errors import NoSpace, StorageFailed
from slackwater.log import segment
from slackwater.position import LogPoint
from slackwater.storage.simulated import Policy, SimulatedCrash
from tests.unit.log.history import (
    SETTINGS,
    START,
    History,
    content,
    create,
    disk,
    reopen,
)

SIZES = st.lists(st.integers(1, 1500), min_size=1, max_size=4)


class LogMachine(RuleBasedStateMachine):
    """The model: all frames since `start`, how many of them are synced, the checkpoint."""

    @initialize(trust=st.booleans())
    def make(self, trust: bool) -> None:
        self.trust = trust
        self.storage = disk()
        self.log = create(self.storage)
        self.history = History()
        self.start = self.checkpoint = START
        self.synced_lsn = 0

    @rule(sizes=SIZES, foreign=st.booleans(), control=st.booleans())
    def append(self, sizes: list[int], foreign: bool, control: bool) -> None:
        saved = self.history.position
        make_run = self.history.slice if foreign else self.history.run
        run = make_run(sizes, self.log.durable.position.lsn)
        try:
            self.log.append([run], control=control)
        except NoSpace:
            assert not self.log.has_room(run.size, control=control)
            assert self.log.end.position == saved
            del self.history.frames[-len(sizes) :], self.history.positions[-len(sizes) :]
            self.history.position = saved
        self.synced_lsn = max(self.synced_lsn, self.log.durable.position.lsn)

    @rule()
    def sync(self) -> None:
        assert self.log.sync() == self.log.end
        self.synced_lsn = self.log.end.position.lsn

    @rule()
    def prepare(self) -> None:
        self.log.prepare()

    @rule()
    def checkpoint_here(self) -> None:
        self.checkpoint = self.log.durable

    @rule(back=st.integers(0, 9000))
    def trim(self, back: int) -> None:
        self.log.trim(self.checkpoint.offset - back)

    @rule(index=st.integers(0, 1 << 30))
    def find(self, index: int) -> None:
        if not self.history.positions:
            return
        position = self.history.positions[index % len(self.history.positions)]
        point = self.log.find(position)
        if point is None:
            assert self.log.oldest > self.start.offset
            return
        assert point.position == position
        first = self.history.first_lsn
        rest = b"".join(self.history.frames[position.lsn - first + 1 :])
        assert content(self.storage, point, self.log.end) == rest

    @rule()
    def reset(self) -> None:
        self.log.close()
        self.start = segment.fresh_start(SETTINGS, self.log.end.offset, self.history.position)
        self.checkpoint = self.start
        self.history = History(self.history.position)
        self.log = create(self.storage, start=self.start)
        self.synced_lsn = self.start.position.lsn

    @rule(
        calls=st.integers(1, 12),
        sizes=SIZES,
        deaths=st.lists(st.sampled_from([*Policy, None]), min_size=1, max_size=3),
        inner=st.integers(1, 12),
        seed=st.integers(0, 1 << 30),
    )
    def crash(
        self, calls: int, sizes: list[int], deaths: list[Policy | None], inner: int, seed: int
    ) -> None:
        """Die in an append or sync, and again in each recovery but the last."""
        rng = random.Random(seed)
        self.storage.crash_at = self.storage.calls + calls
        try:
            run = self.history.run(sizes, self.log.durable.position.lsn)
            self.log.append([run])
            self.synced_lsn = max(self.synced_lsn, self.log.sync().position.lsn)
        except (SimulatedCrash, NoSpace):
            self.synced_lsn = max(self.synced_lsn, self.log.durable.position.lsn)
        for number, death in enumerate(deaths):
            self.storage = (
                self.storage.kill() if death is None else self.storage.after_crash(death, rng)
            )
            if number + 1 < len(deaths):
                self.storage.crash_at = inner
            try:
                self._recover()
            except SimulatedCrash:
                continue
        self.storage.crash_at = None

    @rule(operation=st.sampled_from(["write", "sync"]), sizes=SIZES)
    def storage_failure(self, operation: str, sizes: list[int]) -> None:
        """A failed write or sync, then a restart on the same machine (D3)."""
        self.storage.fail(operation, times=1)
        try:
            run = self.history.run(sizes, self.log.durable.position.lsn)
            self.log.append([run])
            self.log.sync()
        except (StorageFailed, NoSpace):
            pass
        self.synced_lsn = max(self.synced_lsn, self.log.durable.position.lsn)
        self.storage.heal()
        self.storage = self.storage.kill()
        self._recover()

    def _recover(self) -> None:
        self.log, recovery = reopen(
            self.storage, start=self.start, checkpoint=self.checkpoint, trust=self.trust
        )
        end: LogPoint = recovery.end
        assert self.log.end == self.log.durable == end
        found = end.position.lsn - self.start.position.lsn
        assert self.synced_lsn <= end.position.lsn
        assert found <= len(self.history.frames)
        del self.history.frames[found:], self.history.positions[found:]
        self.history.position = end.position
        self.synced_lsn = end.position.lsn

    @invariant()
    def the_log_is_the_list(self) -> None:
        if not hasattr(self, "log"):
            return
        log = self.log
        assert log.oldest <= log.durable.offset <= log.end.offset
        assert log.end.position == self.history.position
        assert log.used_bytes <= log.capacity_bytes
        first = self.history.first_lsn
        after = self.checkpoint.position.lsn - first + 1
        expected = b"".join(self.history.frames[after:])
        assert content(self.storage, self.checkpoint, log.end) == expected


TestLogMachine = LogMachine.TestCase
TestLogMachine.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
