"""What must hold of both sites, whatever happens; each check names its invariant.

Checked after every event: (positions) applied <= durable <= the Primary's durable end, all of them
places of the Primary's history (chain equality), nothing acked taken back. Checked now and then and
at quiet points, since it reads whole volumes: (prefix) a replica that says CONSISTENT or FROZEN
equals the history at its applied position, a frozen one stands at its message; (snapshots) each
equals the history at its position, for ever; (verdicts) final once, on both sides.

Not checked: content of an INCONSISTENT or RECOVERING replica, except through what it becomes.
"""

from typing import TYPE_CHECKING

from slackwater.apply.replica import Replica
from slackwater.apply.status import ReplicaState
from slackwater.position import LogPoint
from tests.simulation.history import History, State

if TYPE_CHECKING:
    from tests.simulation.world import World

_FINAL_LINK_STATES = ("DIVERGED", "FAILED", "DETACHED")


class Checkers:
    """Remembers what was seen, and compares."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._history = world.history
        self.snapshots: dict[str, LogPoint] = {}
        """Snapshots that were answered and not deleted since."""
        self.handed: list[int] = []
        """Messages handed over for the first time, by lsn, per life of the replica."""
        self.finals: dict[str, str] = {}
        """Final verdicts seen on the Primary, by message."""

    # -- after every event

    def positions(self) -> None:
        replica, primary = self._world.replica, self._world.primary
        if replica is None:
            return
        applied, durable = replica.applied, replica.durable
        assert applied.lsn <= durable.lsn, "applied is past durable"
        for place in (durable, applied):
            if place.lsn > self._history.lsn:
                # Durable, sent, and not answered when the Primary stopped: it will find it again.
                assert primary is None or primary.writer.failure is not None
                assert place.lsn <= self._history.lsn + len(self._history.pending)
            else:
                assert self._history.holds(place), f"the Secondary is at {place} of another history"
        assert durable.lsn >= self._world.promised.durable_lsn, "what was acked is not durable"
        if primary is not None:
            assert durable.lsn <= primary.writer.log.durable.position.lsn, (
                "the Secondary holds what is not durable on the Primary"
            )
            if not self._world.expects_trouble:
                state = primary.link.status.state
                assert state not in _FINAL_LINK_STATES, (
                    f"the link is {state}: {primary.link.status.reason}"
                )
        if not self._world.expects_trouble and replica.failure is not None:
            raise AssertionError(f"the replica has failed: {replica.failure}")

    # -- now and then

    def contents(self) -> None:
        """Compare volumes and snapshots with the history."""
        primary, replica = self._world.primary, self._world.replica
        if primary is not None and primary.writer.failure is None and not primary.is_busy:
            found = {}
            for number, volume in primary.writer.volumes.items():
                target = bytearray(volume.size)
                primary.writer.read_into(volume, 0, memoryview(target))
                found[number] = bytes(target)
            same(found, self._history, self._history.lsn, "the Primary's volumes")
        if replica is None or replica.failure is not None:
            return
        if (
            replica.state in (ReplicaState.CONSISTENT, ReplicaState.FROZEN)
            and replica.applier.is_at_boundary
        ):
            what = f"the {replica.state.value} replica"
            same(live(replica), self._history, replica.applied.lsn, what)
        info = replica.freeze()
        if info is not None:
            assert replica.applied == info.message.position, "frozen elsewhere than at the message"
        for name in self.snapshots:
            self.snapshot(replica, name)
        self._verdicts(replica)

    def snapshot(self, replica: Replica, name: str) -> None:
        """A snapshot shows the group's volumes as they were at its place."""
        row = replica.snapshot(name)
        assert row.point == self.snapshots[name], "a snapshot has moved"
        if replica.snapshot_is_readable(name):
            what = f"snapshot {name}"
            same(shown(replica, name), self._history, row.point.position.lsn, what)

    def _verdicts(self, replica: Replica) -> None:
        for message_id in self._world.sent:
            finals = [row.state for row in replica.verdicts_of(message_id) if row.final]
            assert len(finals) <= 1, f"{message_id} ended more than once here: {finals}"
            primary = self._world.primary
            if primary is None:
                continue
            arrived = [row.state for row in primary.database.verdicts(message_id) if row.final]
            assert len(arrived) <= 1, f"{message_id} ended more than once: {arrived}"
            if arrived:
                assert finals == arrived, f"{message_id}: {arrived} arrived, {finals} is so"
                known = self.finals.setdefault(message_id, arrived[0])
                assert known == arrived[0], "a final verdict has changed"
            else:
                assert message_id not in self.finals, "a final verdict is gone"
        made = [row.message_id for row in replica.snapshots() if row.message_id and not row.guard]
        auto = [one for one in made if one.startswith("auto-")]
        assert len(auto) == len(set(auto)), "a message made more than one snapshot"

    # -- events

    def handed_over(self, message_lsn: int, message_id: str, again: bool) -> None:
        """A receiver got a message: in order, but for what it gets again."""
        place = self._history.changes[message_lsn : message_lsn + 1]
        assert place in ([], [("message", message_id)]), "a message is elsewhere than it was sent"
        if message_lsn in self.handed:
            return
        assert not self.handed or message_lsn > self.handed[-1], (
            f"message at {message_lsn} came after one at {self.handed[-1]}"
        )
        self.handed.append(message_lsn)

    def frozen(self, replica: Replica, message_lsn: int) -> None:
        """A FREEZE was handed over: every volume is exactly at the message."""
        same(live(replica), self._history, message_lsn, "the replica frozen at a message")


def live(replica: Replica) -> State:
    """Return the replica's volumes as they are now."""
    return {volume.id: volume.read(0, volume.size) for volume in replica.volumes.active()}


def shown(replica: Replica, name: str) -> State:
    """Return the volumes of a snapshot."""
    found = {}
    for number, volume_name, size in replica.snapshot(name).volumes:
        found[number] = replica.open_snapshot_volume(name, volume_name).read(size, 0)
    return found


def same(found: State, history: History, lsn: int, what: str) -> None:
    """Compare volumes with the history at an lsn; says where they differ."""
    if lsn > history.lsn:
        return  # of calls under way when the Primary died
    expected = history.state(lsn)
    if found == expected:
        return
    assert sorted(found) == sorted(expected), (
        f"{what} at {lsn} has volumes {sorted(found)}, not {sorted(expected)}"
    )
    for number, data in found.items():
        model = expected[number]
        assert len(data) == len(model), f"{what} at {lsn}: volume {number} has {len(data)} bytes"
        for at in range(0, len(data), 512):
            if data[at : at + 512] != model[at : at + 512]:
                owners = [
                    known
                    for known, change in enumerate(history.changes)
                    if change[:2] == ("write", number)
                    and at in range(int(str(change[2])), int(str(change[2])) + len(change[3]))  # type: ignore[arg-type]
                    and change[3][at - int(str(change[2])) :][:512] == data[at : at + 512]  # type: ignore[index]
                ]
                raise AssertionError(
                    f"{what} at {lsn}: volume {number} differs at byte {at}:"
                    f" holds what records {owners or 'none'} wrote (or zeroes)"
                )
