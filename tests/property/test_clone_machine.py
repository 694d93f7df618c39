"""A clone's volume against a byte array: writes, zeroes, flushes, restarts, power losses."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from slackwater.storage.simulated import Policy
from tests.crash.test_clones import SECTOR, SIZE, Snapshot, disk, make, opened

SECTORS = SIZE // SECTOR
RANGES = st.tuples(st.integers(0, SECTORS - 1), st.integers(1, 24))


class CloneMachine(RuleBasedStateMachine):
    """The model: the bytes now, and for each sector what a power loss may leave of it."""

    @initialize()
    def begin(self) -> None:
        self.storage = disk()
        self.volume = make(opened(self.storage), "c1")
        self.now = bytearray(Snapshot.data)
        self.may: dict[int, set[bytes]] = {}

    def _note(self, at: int, data: bytes) -> None:
        for start in range(at, at + len(data), SECTOR):
            self.may.setdefault(start, {bytes(self.now[start : start + SECTOR])})
            self.may[start].add(data[start - at : start - at + SECTOR])
        self.now[at : at + len(data)] = data

    @rule(place=RANGES, fill=st.integers(1, 255))
    def write(self, place: tuple[int, int], fill: int) -> None:
        at = place[0] * SECTOR
        data = bytes([fill]) * min(place[1] * SECTOR, SIZE - at)
        self.volume.write(at, data)
        self._note(at, data)

    @rule(place=RANGES)
    def zero(self, place: tuple[int, int]) -> None:
        at = place[0] * SECTOR
        length = min(place[1] * SECTOR, SIZE - at)
        self.volume.zero(at, length)
        self._note(at, bytes(length))

    @rule()
    def flush(self) -> None:
        self.volume.flush()
        self.may.clear()

    @rule(policy=st.sampled_from([Policy.DROP, Policy.KEEP, Policy.TEAR]))
    def lose_power(self, policy: Policy) -> None:
        self.storage = self.storage.after_crash(policy)
        self.volume = opened(self.storage).open_volume("c1", "data")
        shown = self.volume.read(SIZE, 0)
        for start in range(0, SIZE, SECTOR):
            found = shown[start : start + SECTOR]
            assert found in self.may.get(start, {bytes(self.now[start : start + SECTOR])})
        self.now[:] = shown
        self.may.clear()

    @invariant()
    def reads_what_was_written(self) -> None:
        if hasattr(self, "volume"):
            assert self.volume.read(SIZE, 0) == self.now
            extents = list(self.volume.extents(0, SIZE))
            assert sum(extent.length for extent in extents) == SIZE
            for extent in extents:
                if not extent.data:
                    end = extent.offset + extent.length
                    assert not any(self.now[extent.offset : end])


TestCloneMachine = CloneMachine.TestCase
TestCloneMachine.settings = settings(
    max_examples=25,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
