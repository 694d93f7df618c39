"""A replica with a snapshot budget, crashed at every storage call: never above it, nothing lost."""

from typing import Any

from slackwater.clock import ManualClock
from slackwater.snapshots.budget import EXPIRE, BudgetSettings
from slackwater.storage.simulated import SimulatedStorage
from tests.support.simulation import every_crash
from tests.unit.apply.stream import (
    CHUNK,
    Stream,
    apply_all,
    live,
    make_replica,
    open_replica,
    receive,
    shown,
)

CHUNKS = 6
LIMIT = 3 * CHUNK + 512


def workload(storage: SimulatedStorage, journal: list[Any]) -> None:
    stream, replica = Stream(), make_replica(storage, ManualClock())
    journal.append(("made", stream))
    stream.start()
    stream.add_volume(1, "data", CHUNKS * CHUNK)
    for chunk in range(CHUNKS):
        stream.write(1, chunk * CHUNK, bytes([chunk + 1]) * CHUNK)
    receive(replica, stream)
    apply_all(replica)
    replica.set_budget(BudgetSettings(LIMIT, 100, EXPIRE))
    journal.append(("budget",))
    for number in range(3):
        replica.create_snapshot(f"s{number}", chunk_bytes=CHUNK)
        journal.append(("snapshot", f"s{number}", live(replica)))
        for chunk in range(2 * number, 2 * number + 2):
            stream.write(1, chunk * CHUNK, bytes([100 + number]) * CHUNK)
        receive(replica, stream)
        for _ in range(4):
            apply_all(replica)
            replica.maintain()


def verify(storage: SimulatedStorage, journal: list[Any]) -> None:
    if not journal:
        return
    stream = journal[0][1]
    replica = open_replica(storage, ManualClock())
    has_budget = ("budget",) in journal
    for _ in range(20):
        apply_all(replica)
        replica.maintain()
        if has_budget:
            assert replica.catalogue.used_bytes <= LIMIT
    assert replica.failure is None
    assert replica.applied == replica.durable, "it goes on by itself: the oldest may always go"
    assert live(replica) == stream.states[replica.applied.lsn]
    contents = {entry[1]: entry[2] for entry in journal if entry[0] == "snapshot"}
    there = {row.name for row in replica.snapshots()}
    gone = {row.name for row in replica.expired()}
    assert not there & gone
    assert contents.keys() <= there | gone, "a snapshot went and nothing says so"
    for name in there & contents.keys():
        assert shown(replica, name) == contents[name]


def test_budget_holds_over_a_crash_at_every_call_and_what_it_took_is_noted() -> None:
    assert every_crash(workload, verify) > 200
