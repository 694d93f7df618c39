"""A group's directory and group.db, crashed at every storage call: whole, or not at all."""

import contextlib
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from slackwater.errors import FailedPrecondition
from slackwater.group.database import GroupDatabase
from slackwater.group.directory import DataDirectory, GroupDirectory
from slackwater.group.rows import (
    SECONDARY,
    DeliveryRow,
    Identity,
    LinkRow,
    MessageRow,
    SnapshotRow,
    VerdictRow,
    VolumeRow,
)
from slackwater.position import LogPoint, Position, origin
from slackwater.storage.simulated import SimulatedCrash, SimulatedStorage
from tests.support.simulation import every_crash

ROOT = Path("/srv/data")
UID = uuid.UUID(int=42)
IDENTITY = Identity(UID, "g", SECONDARY, 1, 1000, {}, "CONSISTENT")
START = LogPoint(0, origin(UID))


def point(lsn: int) -> LogPoint:
    return LogPoint(1000 * lsn, Position(1, lsn, 7 * lsn))


def create(storage: SimulatedStorage, data: DataDirectory, name: str) -> GroupDirectory:
    """Make a group with a group.db and one file in its log."""

    def fill(building: GroupDirectory) -> None:
        GroupDatabase.create(storage, building.database, IDENTITY, START).close()
        file = storage.open(building.log / "segment", create=True)
        file.write([b"log of " + name.encode()], 0)
        file.sync()
        file.close()
        storage.sync_directory(building.log)

    return data.create_group(name, fill)


def check_whole(storage: SimulatedStorage, group: GroupDirectory) -> None:
    assert set(storage.listing(group.path)) - {"LOCK"} == {
        "group.db",
        "log",
        "maps",
        "snapshots",
        "volumes",
    }
    database = GroupDatabase.open(storage, group.database)
    assert database.identity() == IDENTITY
    assert database.log_state().start == START
    database.close()
    assert storage.open(group.log / "segment").read(100, 0) == b"log of " + group.name.encode()


def test_group_is_there_whole_or_not_at_all_after_a_crash_at_every_call() -> None:
    def workload(storage: SimulatedStorage, journal: list[Any]) -> None:
        data = DataDirectory.open(storage, ROOT, "primary")
        for name in ("a", "b"):
            journal.append(("begin", name))
            create(storage, data, name)
            journal.append(("created", name))
        journal.append(("begin", "a"))
        data.remove_group("a")
        journal.append(("removed", "a"))
        journal.append(("begin", "a"))
        create(storage, data, "a")
        journal.append(("created", "a"))
        data.close()

    def verify(storage: SimulatedStorage, journal: list[Any]) -> None:
        data = DataDirectory.open(storage, ROOT, "primary")
        assert not [one for one in storage.listing(data.groups_path) if one.startswith(".")]
        last = {name: event for event, name in journal}
        found = {group.name for group in data.groups()}
        for name, event in last.items():
            assert event == "begin" or (name in found) == (event == "created")
        assert found <= last.keys()
        for group in data.groups():
            check_whole(storage, group)
            group.lock(storage).close()
        data.close()
        go_on(storage.kill(), found)

    def go_on(storage: SimulatedStorage, found: set[str]) -> None:
        data = DataDirectory.open(storage, ROOT, "primary")
        for name in ("a", "b"):
            if name not in found:
                create(storage, data, name)
            check_whole(storage, data.group(name))
            data.remove_group(name)
        assert data.groups() == []

    assert every_crash(workload, verify) > 150


def test_two_roles_starting_at_once_make_one_directory_whatever_call_one_dies_at() -> None:
    call = 0
    while True:
        call += 1
        dying = SimulatedStorage()
        other = dying.beside()
        dying.crash_at = call
        with contextlib.suppress(SimulatedCrash):
            DataDirectory.open(dying, ROOT, "primary")
        DataDirectory.open(other, ROOT, "secondary")
        if not dying.is_dead:
            break
        DataDirectory.open(other.beside(), ROOT, "primary")  # the dead one holds nothing
    assert call > 8


State = tuple[Any, ...]


def everything(database: GroupDatabase) -> State:
    """Return all that the rows say."""
    return (
        database.identity(),
        database.epochs(),
        database.log_state(),
        database.volumes(),
        database.sync(),
        database.links(),
        database.messages(),
        database.unconfirmed_verdicts(),
        database.snapshots(),
        database.delivery(),
        [database.effect(lsn) for lsn in range(12)],
        [database.newest_start(lsn) for lsn in range(12)],
        database.applications(),
        database.outcome("m5"),
        database.remembered("r", "M"),
    )


VERDICT = VerdictRow(0, "m5", "", 0, 5, "SNAPSHOTTED", {"snapshot": "s"}, 123, final=True)
SNAPSHOT = SnapshotRow(
    0, "s", UID, point(5), "CREATING", "crash", "m5", False, False, 65536, 7, ((1, "v", 512),), {}
)
STEPS: tuple[Callable[[GroupDatabase], object], ...] = (
    lambda db: db.put_volume(VolumeRow(1, "v", 512, "ACTIVE", "volumes/v.raw", 1)),
    lambda db: db.register_application("app", 5),
    lambda db: db.set_epoch(2, Position(1, 3, 21), 9),
    lambda db: db.put_start(Position(1, 3, 21)),
    lambda db: db.checkpoint(point(3)),
    lambda db: db.put_message(MessageRow("m5", Position(1, 5, 7), "app", "q", 9, b"r", ())),
    lambda db: db.set_delivery(DeliveryRow("m5", 5, "FROZEN", {"remaining_seconds": 3})),
    lambda db: db.add_snapshot(SNAPSHOT),
    lambda db: db.record_effect(
        5,
        "SNAPSHOTTED",
        {"snapshot": "s"},
        verdict=VERDICT,
        snapshot=replace(SNAPSHOT, id=1, state="READY"),
        end_delivery=True,
    ),
    lambda db: db.put_outcome("m5", 6, "CONFIRMED", {}),
    lambda db: db.confirm_verdicts(1),
    lambda db: db.add_link(LinkRow("l", UID, "h:1", "DETACHED", "", False, point(2), "", 5)),
    lambda db: db.store_link(
        "l", state="DIRTY", reason="", dirty=True, sync_id="ab", discard=False, forget_acked=True
    ),
    lambda db: db.remember("r", "M", b"answer", 5),
    lambda db: db.begin_sync(
        "aa",
        point(8),
        guard="s",
        volumes=[VolumeRow(2, "w", 512, "CREATING", "w", 0)],
        last_start=Position(1, 7, 49),
    ),
    lambda db: db.advance_sync((2, 256), point(9)),
    lambda db: db.sync_sent(10),
    lambda db: db.finish_sync(point(11)),
    lambda db: db.set_clean_end(11),
)


def test_every_transition_of_group_db_is_whole_after_a_crash_at_every_call() -> None:
    path = Path("/group.db")
    states: list[State] = []

    def workload(storage: SimulatedStorage, journal: list[Any]) -> None:
        database = GroupDatabase.create(storage, path, IDENTITY, START)
        journal.append(0)
        if not states:
            states.append(everything(database))
        for number, step in enumerate(STEPS, 1):
            step(database)
            journal.append(number)
            if len(states) == number:
                states.append(everything(database))

    def verify(storage: SimulatedStorage, journal: list[Any]) -> None:
        try:
            database = GroupDatabase.open(storage, path)
        except FailedPrecondition:
            assert not journal, "a database that was made is not there"
            return
        done = journal[-1] if journal else 0
        # A commit is durable when it returns: nothing promised is missing, and nothing is half.
        assert everything(database) in (states[done], states[min(done + 1, len(STEPS))])

    assert every_crash(workload, verify) == 4 * (len(STEPS) + 3)
    assert len(states) == len(STEPS) + 1
    assert len({repr(state) for state in states}) == len(states), "a step that changes nothing"
