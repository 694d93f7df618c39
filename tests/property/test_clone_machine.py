"""Clones against byte arrays: writes, zeroes, flushes, clones of clones, deletes, power losses."""

from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from slackwater.clones.volume import CloneVolume
from slackwater.storage.simulated import Policy
from tests.crash.test_clones import CLONES, SECTOR, SIZE, Snapshot, disk, make, opened, split

SECTORS = SIZE // SECTOR
RANGES = st.tuples(st.integers(0, SECTORS - 1), st.integers(1, 24))
WHICH = st.integers(0, 9)
CLONES_LIMIT = 5


@dataclass
class Model:
    """The bytes of a clone now, and for each sector what a power loss may leave of it."""

    now: bytearray = field(default_factory=lambda: bytearray(Snapshot.data))
    may: dict[int, set[bytes]] = field(default_factory=dict)

    def note(self, at: int, data: bytes) -> None:
        """Take a change that is not durable yet."""
        for start in range(at, at + len(data), SECTOR):
            self.may.setdefault(start, {bytes(self.now[start : start + SECTOR])})
            self.may[start].add(data[start - at : start - at + SECTOR])
        self.now[at : at + len(data)] = data

    def find(self, shown: bytes) -> None:
        """Take what a power loss left."""
        for start in range(0, SIZE, SECTOR):
            found = shown[start : start + SECTOR]
            assert found in self.may.get(start, {bytes(self.now[start : start + SECTOR])})
        self.now[:] = shown
        self.may.clear()


class CloneMachine(RuleBasedStateMachine):
    """A model for each clone there is."""

    @initialize()
    def begin(self) -> None:
        self.storage = disk()
        self.clones = opened(self.storage)
        self.models: dict[str, Model] = {}
        self.made = 0
        self.clone_snapshot()

    def _pick(self, which: int) -> str:
        return sorted(self.models)[which % len(self.models)]

    def _volume(self, name: str) -> CloneVolume:
        return self.clones.open_volume(name, "data")

    @precondition(lambda self: len(self.models) < CLONES_LIMIT)
    @rule()
    def clone_snapshot(self) -> None:
        self.made += 1
        make(self.clones, f"c{self.made}")
        self.models[f"c{self.made}"] = Model()

    @precondition(lambda self: 0 < len(self.models) < CLONES_LIMIT)
    @rule(which=WHICH)
    def clone_clone(self, which: int) -> None:
        parent = self._pick(which)
        self.made += 1
        split(self.clones, f"c{self.made}", parent)
        self.models[parent].may.clear()  # what it was at that instant is durable
        self.models[f"c{self.made}"] = Model(bytearray(self.models[parent].now))

    @precondition(lambda self: self.models)
    @rule(which=WHICH)
    def delete(self, which: int) -> None:
        name = self._pick(which)
        row = self.clones.let_go(name)
        self.clones.remove_files(row)
        self.clones.forget(row)
        del self.models[name]

    @precondition(lambda self: self.models)
    @rule(which=WHICH, place=RANGES, fill=st.integers(1, 255))
    def write(self, which: int, place: tuple[int, int], fill: int) -> None:
        name, at = self._pick(which), place[0] * SECTOR
        data = bytes([fill]) * min(place[1] * SECTOR, SIZE - at)
        self._volume(name).write(at, data)
        self.models[name].note(at, data)

    @precondition(lambda self: self.models)
    @rule(which=WHICH, place=RANGES)
    def zero(self, which: int, place: tuple[int, int]) -> None:
        name, at = self._pick(which), place[0] * SECTOR
        length = min(place[1] * SECTOR, SIZE - at)
        self._volume(name).zero(at, length)
        self.models[name].note(at, bytes(length))

    @precondition(lambda self: self.models)
    @rule(which=WHICH)
    def flush(self, which: int) -> None:
        name = self._pick(which)
        self._volume(name).flush()
        self.models[name].may.clear()

    @rule(policy=st.sampled_from([Policy.DROP, Policy.KEEP, Policy.TEAR]))
    def lose_power(self, policy: Policy) -> None:
        self.storage = self.storage.after_crash(policy)
        self.clones = opened(self.storage)
        assert {row.name for row in self.clones.ready()} == set(self.models)
        for name, model in self.models.items():
            model.find(self._volume(name).read(SIZE, 0))

    @rule()
    def restart(self) -> None:
        self.clones.close(clean=True)
        for model in self.models.values():
            model.may.clear()
        self.clones = opened(self.storage)

    @invariant()
    def reads_what_was_written(self) -> None:
        for name, model in getattr(self, "models", {}).items():
            volume = self._volume(name)
            assert volume.read(SIZE, 0) == model.now
            extents = list(volume.extents(0, SIZE))
            assert sum(extent.length for extent in extents) == SIZE
            for extent in extents:
                if not extent.data:
                    end = extent.offset + extent.length
                    assert not any(model.now[extent.offset : end])

    @invariant()
    def keeps_the_layers_that_are_read_and_no_other(self) -> None:
        if hasattr(self, "models"):
            needed = {uid.hex for row in self.clones.ready() for uid in (*row.layers, row.top)}
            assert set(self.storage.listing(CLONES)) == needed


TestCloneMachine = CloneMachine.TestCase
TestCloneMachine.settings = settings(
    max_examples=40,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
