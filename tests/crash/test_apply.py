"""A replica crashed at every storage call of applying, snapshots, messages and syncs, then again.

What must be so after every reopening (the numbers are cited by docs/failure-model.md):

* a1: the volumes equal the log's prefix at `applied`, once recovery is over.
* a2: applied <= durable; what was reported durable still is.
* a4: a snapshot that was made, and was not deleted, shows exactly the prefix at its position.
* a5: what the replica does itself at a message happened once.
* a6: a frozen replica stands at its message, and nothing after it is in a volume.
"""

from typing import Any

from slackwater.apply.replica import Replica
from slackwater.apply.status import ReplicaState
from slackwater.clock import ManualClock
from slackwater.storage.simulated import SimulatedStorage
from slackwater.v1 import common_pb2, record_pb2
from tests.support.simulation import every_crash
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

SIZE = 6 * CHUNK + 512


class Run:
    """A workload's script: notes in the journal what was promised, before and after each step."""

    def __init__(self, storage: SimulatedStorage, journal: list[Any]) -> None:
        self.journal = journal
        self.stream = Stream()
        journal.append(("stream", self.stream))
        self.replica = make_replica(storage, ManualClock())
        journal.append(("made",))
        self.replica.register_application(APPLICATION)
        journal.append(("registered",))

    def send(self) -> None:
        receive(self.replica, self.stream)
        self.journal.append(("durable", self.replica.durable))

    def apply(self) -> None:
        apply_all(self.replica)
        assert self.replica.failure is None, self.replica.failure

    def snapshot(self, name: str, at_message: str = "") -> None:
        chunk_bytes = 0 if self.replica.snapshots() else CHUNK
        self.replica.create_snapshot(name, at_message=at_message, chunk_bytes=chunk_bytes)
        self.journal.append(("snapshot", name, self.replica.applied.lsn))

    def delete(self, name: str) -> None:
        self.journal.append(("deleting", name))
        self.replica.delete_snapshot(name)
        self.replica.maintain()
        assert self.replica.failure is None

    def refresh(self, name: str) -> None:
        self.journal.append(("refreshing", name, self.replica.applied.lsn))
        self.replica.refresh_snapshot(name)
        self.journal.append(("snapshot", name, self.replica.applied.lsn))
        self.replica.maintain()
        assert self.replica.failure is None

    def unfreeze(self, message_id: str) -> None:
        self.journal.append(("unfreezing", message_id))
        self.replica.unfreeze(message_id, "me")
        self.journal.append(("unfrozen", message_id))


def base(run: Run) -> None:
    stream = run.stream
    stream.start()
    stream.add_volume(1, "data", SIZE)
    stream.add_volume(2, "wal", 2 * CHUNK)
    stream.write(1, 300, b"first" * 900)
    stream.write(2, 0, b"log" * 700)
    run.send()
    run.apply()


def snapshots(storage: SimulatedStorage, journal: list[Any]) -> None:
    run = Run(storage, journal)
    base(run)
    run.snapshot("one")
    run.stream.write(1, 10, b"second" * 1000)
    run.stream.write(1, 4 * CHUNK, b"second" * 200)
    run.stream.write(2, 9, b"second")
    run.send()
    run.apply()
    run.snapshot("two")
    run.stream.zero(1, 0, 5 * CHUNK)
    run.send()
    run.apply()
    run.replica.checkpoint()
    run.snapshot("three")
    run.stream.write(1, 5 * CHUNK, b"third" * 300)
    run.stream.write(1, 0, b"third" * 2000)
    run.send()
    run.apply()
    run.delete("two")
    run.stream.write(2, CHUNK, b"fourth" * 500)
    run.send()
    run.apply()
    run.delete("three")
    run.replica.checkpoint()
    run.replica.close()


def refreshes(storage: SimulatedStorage, journal: list[Any]) -> None:
    """A snapshot takes another's place, with older and newer ones beside it."""
    run = Run(storage, journal)
    base(run)
    for name in ("one", "two"):
        run.snapshot(name)
        run.stream.write(1, 10, name.encode() * 1000)
        run.send()
        run.apply()
    run.refresh("one")
    run.stream.zero(1, 0, 5 * CHUNK)
    run.stream.write(2, 9, b"third")
    run.send()
    run.apply()
    run.refresh("one")
    run.stream.write(1, CHUNK, b"fourth" * 900)
    run.send()
    run.apply()
    run.refresh("two")
    run.replica.checkpoint()
    run.replica.close()


def messages(storage: SimulatedStorage, journal: list[Any]) -> None:
    run = Run(storage, journal)
    base(run)
    stream = run.stream
    stream.message("n1", common_pb2.MESSAGE_BEHAVIOUR_NOTIFY)
    stream.write(1, 0, b"noted" * 100)
    at = stream.message(
        "s1", common_pb2.MESSAGE_BEHAVIOUR_SNAPSHOT, snapshot_id="snap", quiesced=["db"]
    )
    journal.append(("asked for", at.lsn))
    stream.write(1, 0, b"snapped" * 900)
    stream.message("f1")
    stream.write(1, 0, b"after" * 1500)
    stream.write(2, 0, b"after" * 500)
    run.send()
    run.apply()
    got = [run.replica.receive_message(APPLICATION) for _ in range(3)]
    assert [one and one.message.message_id for one in got] == ["n1", "s1", "f1"]
    run.snapshot("at", "f1")
    run.unfreeze("f1")
    run.apply()
    judged = stream.outcome(
        "s1", record_pb2.Outcome.STATE_CONFIRMED, common_pb2.SNAPSHOT_GRADE_APPLICATION
    )
    journal.append(("judged", judged.lsn))
    stream.write(1, CHUNK, b"more" * 1200)
    run.send()
    run.apply()
    run.replica.close()


def leases(storage: SimulatedStorage, journal: list[Any]) -> None:
    """A lease is taken, its stream breaks, its holder comes back and lets go (C13, C15)."""
    run = Run(storage, journal)
    base(run)
    stream = run.stream
    stream.message("f1")
    stream.write(1, 0, b"after" * 1500)
    run.send()
    run.apply()
    told: list[Any] = []
    first = run.replica.hold(APPLICATION, "me", "", told.append)
    assert told
    journal.append(("leased", "f1"))
    run.replica.cancel_receive(first)
    back = run.replica.hold(APPLICATION, "me", "f1", told.append)
    run.snapshot("at", "f1")
    journal.append(("unfreezing", "f1"))
    run.replica.release_hold(back)
    journal.append(("unfrozen", "f1"))
    run.apply()
    run.replica.close()


def verify_leases(storage: SimulatedStorage, journal: list[Any]) -> None:
    """A lease outlives a crash until its holder unfreezes; then the rest holds too."""
    notes = [note for note in journal if note[0] != "stream"]
    if ("leased", "f1") in notes and ("unfrozen", "f1") not in notes:
        replica = open_replica(storage.kill(), ManualClock())
        apply_all(replica)
        info = replica.freeze()
        if info is None:
            assert ("unfreezing", "f1") in notes, "only the holder ended it"
        else:
            assert info.leased and info.holder == "me"
            told: list[Any] = []
            replica.hold(APPLICATION, "me", "f1", told.append)
            assert told[0].delivered.redelivered
        assert replica.failure is None
    verify(storage, journal)


def volumes(storage: SimulatedStorage, journal: list[Any]) -> None:
    """Volumes grow, go, and come again under the same name (D28)."""
    run = Run(storage, journal)
    base(run)
    stream = run.stream
    stream.grow(1, "data", SIZE + 2 * CHUNK)
    stream.write(1, SIZE + CHUNK, b"grown" * 100)
    stream.remove(2, "wal")
    run.send()
    run.apply()
    run.replica.checkpoint()
    stream.add_volume(3, "wal", CHUNK)
    stream.write(3, 5, b"again" * 300)
    run.send()
    run.apply()
    run.replica.checkpoint()
    run.replica.close()


def verify(storage: SimulatedStorage, journal: list[Any]) -> None:
    notes = [note for note in journal if note[0] != "stream"]
    if ("made",) not in notes:
        return
    stream: Stream = journal[0][1]
    clock = ManualClock()
    replica = open_replica(storage, clock)
    assert replica.applied.lsn <= replica.durable.lsn
    promised = [note[1] for note in notes if note[0] == "durable"]
    if promised:
        assert replica.durable.lsn >= promised[-1].lsn
    apply_all(replica)
    assert replica.failure is None, replica.failure
    check_frozen(replica, stream, notes)
    check_volumes(replica, stream, notes)
    go_on(replica, stream)
    check_volumes(replica, stream, notes)
    replica.close()


def check_frozen(replica: Replica, stream: Stream, notes: list[Any]) -> None:
    info = replica.freeze()
    if ("unfrozen", "f1") in notes:
        assert info is None, "an unfreeze that was answered stays"
    if info is not None:
        assert replica.state is ReplicaState.FROZEN
        assert info.message.position == replica.applied
    else:
        assert replica.applied == replica.durable


def check_volumes(replica: Replica, stream: Stream, notes: list[Any]) -> None:
    assert replica.state in {ReplicaState.CONSISTENT, ReplicaState.FROZEN}
    assert replica.applied.lsn <= replica.durable.lsn
    assert live(replica) == stream.states[replica.applied.lsn]
    kept = {row.name: row for row in replica.snapshots()}
    going = {note[1] for note in notes if note[0] == "deleting"}
    places: dict[str, set[int]] = {}
    for note in notes:
        if note[0] == "snapshot":
            places[note[1]] = {note[2]}
        elif note[0] == "refreshing":  # the old one or the new one, never neither
            places[note[1]].add(note[2])
    for name in places.keys() - going:
        assert name in kept, f"snapshot {name} is gone"
        assert kept[name].point.position.lsn in places[name]
    for name, row in kept.items():
        assert shown(replica, name) == stream.states[row.point.position.lsn], name
    check_asked_for(replica, notes)
    for message in replica.list_messages():
        finals = [row.state for row in replica.verdicts_of(message.id) if row.final]
        assert len(finals) <= 1, "one effect per message"


def check_asked_for(replica: Replica, notes: list[Any]) -> None:
    """The snapshot that a message asks for is there once, from when the message is passed (C7)."""
    places = [note[1] for note in notes if note[0] == "asked for"]
    made = [row for row in replica.snapshots() if row.message_id == "s1"]
    is_passed = bool(places) and replica.applied.lsn >= places[0]
    assert [row.name for row in made] == (["snap"] if is_passed else [])
    said = [row.detail.get("snapshot_id") for row in replica.verdicts_of("s1") if row.final]
    assert said == [row.name for row in made]
    judged = [note[1] for note in notes if note[0] == "judged"]
    is_judged = bool(judged) and replica.applied.lsn >= judged[0]
    grades = [(row.grade, "judgement" in row.evidence) for row in made]
    assert grades == [("application", True) if is_judged else ("crash", False)] * len(made)
    waiting = replica.messages.delivery._inbox._messages
    assert all(one.snapshot_id == "snap" for one in waiting if one.message_id == "s1")


def go_on(replica: Replica, stream: Stream) -> None:
    """The replica is not stuck: it thaws, takes what it lacks and more, and keeps its snapshots."""
    info = replica.freeze()
    if info is not None:
        if info.phase != "FROZEN":
            while True:
                delivered = replica.receive_message(APPLICATION)
                assert delivered is not None
                if delivered.message.message_id == info.message.message_id:
                    break
        replica.unfreeze(info.message.message_id, "me")
    more = stream.copy()
    if 1 in more.volumes:
        more.write(1, 2 * CHUNK, b"later" * 1000)
        more.zero(1, 0, 2 * CHUNK)
    receive(replica, more)
    stream.states.update(more.states)
    for _ in range(5):
        apply_all(replica)
        again = replica.freeze()
        if again is None:
            break
        while replica.receive_message(APPLICATION):
            pass
        replica.unfreeze(again.message.message_id, "me")
    assert replica.failure is None
    replica.maintain()
    replica.checkpoint()
    assert replica.applied == replica.durable == more.position


def test_replica_keeps_volumes_and_snapshots_through_a_crash_at_every_call() -> None:
    assert every_crash(snapshots, verify) > 100


def test_replica_keeps_volumes_that_come_and_go_through_a_crash_at_every_call() -> None:
    assert every_crash(volumes, verify) > 100


def test_replica_keeps_leases_through_a_crash_at_every_call() -> None:
    assert every_crash(leases, verify_leases) > 100


def test_replica_keeps_messages_through_a_crash_at_every_call() -> None:
    assert every_crash(messages, verify) > 100


def test_refreshed_snapshot_is_the_old_or_the_new_one_through_a_crash_at_every_call() -> None:
    assert every_crash(refreshes, verify) > 100
