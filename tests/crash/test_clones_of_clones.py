"""Clones of clones crashed at every storage call: the parent at one instant, then their own."""

import errno
import threading
import uuid
from dataclasses import replace
from typing import Any

import pytest

from slackwater import errors
from slackwater.clones import catalogue
from slackwater.clones.catalogue import Clones
from slackwater.group.rows import CloneRow
from slackwater.storage.simulated import Policy, SimulatedStorage
from tests.crash.test_clones import (
    CHUNK,
    CLONES,
    SECTOR,
    SIZE,
    SNAPSHOT,
    Snapshot,
    disk,
    make,
    opened,
    split,
)
from tests.support.simulation import every_crash


def fill(letter: bytes) -> bytes:
    return letter * SECTOR


def remove(clones: Clones, name: str) -> None:
    row = clones.let_go(name)
    clones.remove_files(row)
    clones.forget(row)


def workload(storage: SimulatedStorage, journal: list[Any]) -> None:
    """c1 is cloned twice, each time with a write that nobody flushed; then the parents go."""
    clones = opened(storage)
    c1 = make(clones, "c1")
    journal.append(("made", "c1", {}))
    journal.append(("may", "c1", SECTOR, fill(b"a")))
    c1.write(SECTOR, fill(b"a"))
    c1.flush()
    journal.append(("holds", "c1", {SECTOR: fill(b"a")}))
    journal.append(("may", "c1", CHUNK, fill(b"b")))
    c1.write(CHUNK, fill(b"b"))  # answered, not flushed
    c2 = split(clones, "c2", "c1")
    both = {SECTOR: fill(b"a"), CHUNK: fill(b"b")}
    journal.append(("made", "c2", both))
    journal.append(("holds", "c1", both))  # it was frozen, so it is durable
    journal.append(("may", "c1", SECTOR, fill(b"c")))
    c1.write(SECTOR, fill(b"c"))
    c1.flush()
    journal.append(("holds", "c1", both | {SECTOR: fill(b"c")}))
    journal.append(("may", "c2", 2 * SECTOR, fill(b"d")))
    c2.write(2 * SECTOR, fill(b"d"))
    c2.flush()
    journal.append(("holds", "c2", both | {2 * SECTOR: fill(b"d")}))
    split(clones, "c3", "c2")
    journal.append(("made", "c3", both | {2 * SECTOR: fill(b"d")}))
    for name in ("c1", "c2"):
        journal.append(("going", name))
        remove(clones, name)
        journal.append(("gone", name))


def verify(storage: SimulatedStorage, journal: list[Any]) -> None:
    clones = opened(storage)
    names = {row.name for row in clones.ready()}
    going = {note[1] for note in journal if note[0] == "going"}
    made = {note[1] for note in journal if note[0] == "made"}
    assert names >= made - going
    assert not names & {note[1] for note in journal if note[0] == "gone"}
    for name in sorted(names & made):
        check(clones.open_volume(name, "data").read(SIZE, 0), name, journal)
    if "c2" in names - made:  # nobody was told of it, but it is whole
        shown = clones.open_volume("c2", "data").read(SIZE, 0)
        assert shown[CHUNK : CHUNK + SECTOR] == fill(b"b")
    needed = {uid.hex for row in clones.ready() for uid in (*row.layers, row.top)}
    assert set(storage.listing(CLONES)) == needed, "no more and no less than is read"


def check(shown: bytes, name: str, journal: list[Any]) -> None:
    expected = bytearray(Snapshot.data)
    may: dict[int, bytes] = {}
    for note in journal:
        if note[0] in ("made", "holds") and note[1] == name:
            for at, data in note[2].items():
                expected[at : at + SECTOR] = data
            may.clear()
        elif note[0] == "may" and note[1] == name:
            may[note[2]] = note[3]
    for at in range(0, SIZE, SECTOR):
        allowed = (bytes(expected[at : at + SECTOR]), may.get(at))
        assert shown[at : at + SECTOR] in allowed, f"sector at {at} of {name}"


def test_clone_of_a_clone_is_its_parent_at_one_instant_through_a_crash_at_every_call() -> None:
    assert every_crash(workload, verify, make=disk) > 100


def test_write_answered_while_the_files_were_made_is_in_the_clone_and_durable() -> None:
    storage = disk()
    clones = opened(storage)
    volume = make(clones, "c1")
    volume.write(0, fill(b"a"))
    make_layer = clones._layers.make

    def interrupted(uid: uuid.UUID, row: CloneRow) -> None:
        make_layer(uid, row)
        if row.name == "c1":  # its next top: after what was written out beforehand
            volume.write(SECTOR, fill(b"b"))

    clones._layers.make = interrupted  # type: ignore[method-assign]
    assert split(clones, "c2", "c1").read(SECTOR, SECTOR) == fill(b"b")
    clones = opened(storage.after_crash(Policy.DROP))
    for name in ("c1", "c2"):
        assert read(clones, name)[: 2 * SECTOR] == fill(b"a") + fill(b"b")


def test_write_begun_while_the_parent_stands_is_the_parents_alone() -> None:
    storage = disk()
    clones = opened(storage)
    volume = make(clones, "c1")
    volume.write(0, fill(b"a"))
    late = threading.Thread(target=lambda: volume.write(0, fill(b"b")))
    commit = clones._commit_split

    def interrupted(*arguments: Any) -> Any:
        late.start()
        late.join(0.2)  # ends at once where nothing holds it up
        return commit(*arguments)

    clones._commit_split = interrupted  # type: ignore[method-assign,assignment]
    split(clones, "c2", "c1")
    late.join()
    assert (read(clones, "c1")[:SECTOR], read(clones, "c2")[:SECTOR]) == (fill(b"b"), fill(b"a"))
    clones = opened(storage.after_crash(Policy.DROP))
    assert read(clones, "c2")[:SECTOR] == fill(b"a")


def test_layers_stay_as_long_as_a_clone_reads_them_in_any_order_of_deletes() -> None:
    for order in (("c1", "c2", "c3"), ("c3", "c2", "c1"), ("c2", "c1", "c3")):
        storage = disk()
        clones = opened(storage)
        make(clones, "c1").write(0, fill(b"a"))
        for name, parent, at in (("c2", "c1", CHUNK), ("c3", "c2", 2 * CHUNK)):
            split(clones, name, parent).write(at, fill(b"b"))
        shown = {row.name: read(clones, row.name) for row in clones.ready()}
        assert shown["c1"] != shown["c2"] != shown["c3"]
        for gone in order:
            remove(clones, gone)
            del shown[gone]
            assert {row.name: read(clones, row.name) for row in clones.ready()} == shown
        assert storage.listing(CLONES) == []


def test_bytes_that_two_share_are_the_others_own_when_one_goes() -> None:
    clones = opened(disk())
    make(clones, "c1").write(0, fill(b"a"))
    split(clones, "c2", "c1")
    for name in ("c1", "c2"):
        assert clones.bytes_of(clones.get(name)) == {1: (0, CHUNK)}
    remove(clones, "c1")
    assert clones.bytes_of(clones.get("c2")) == {1: (CHUNK, 0)}


def test_clone_of_an_unwritten_clone_adds_no_layer() -> None:
    storage = disk()
    clones = opened(storage)
    make(clones, "c1")
    split(clones, "c2", "c1").write(0, fill(b"a"))
    assert [row.layers for row in clones.ready()] == [(), ()]
    assert read(clones, "c1") == Snapshot.data
    assert len(storage.listing(CLONES)) == 2


def test_clone_is_its_parent_at_one_instant_on_all_volumes_while_it_is_written() -> None:
    both = replace(SNAPSHOT, volumes=((1, "data", SIZE), (2, "wal", SIZE)))
    clones = opened(disk())
    source = clones.begin("c1", both)
    clones.make_files(source)
    source = clones.finish(source)
    data, wal = (clones.open_volume("c1", name) for name in ("data", "wal"))
    answered, stop = [0], threading.Event()

    def use() -> None:
        """Number a sector of `data`, then of `wal`: at no instant is `wal` ahead."""
        while not stop.is_set():
            number = (answered[0] + 1).to_bytes(SECTOR, "big")
            data.write(0, number)
            wal.write(0, number)
            answered[0] += 1

    writer = threading.Thread(target=use)
    writer.start()
    try:
        for index in range(20):
            before = answered[0]
            row = clones.begin(f"d{index}", both, clones.get("c1"))
            clones.make_files(row)
            clones.split(row, clones.get("c1"))
            seen = [
                int.from_bytes(clones.open_volume(row.name, name).read(SECTOR, 0), "big")
                for name in ("data", "wal")
                if before
            ]
            assert not seen or before <= seen[1] <= seen[0] <= seen[1] + 1
    finally:
        stop.set()
        writer.join()


def test_clone_that_would_read_through_too_many_layers_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(catalogue, "LAYERS_LIMIT", 1)
    storage = disk()
    clones = opened(storage)
    make(clones, "c1").write(0, fill(b"a"))
    split(clones, "c2", "c1").write(0, fill(b"b"))
    row = clones.begin("c3", SNAPSHOT, clones.get("c2"))
    clones.make_files(row)
    with pytest.raises(errors.FailedPrecondition, match="layers"):
        clones.split(row, clones.get("c2"))
    clones.abandon(row)
    assert {one.name for one in clones.ready()} == {"c1", "c2"}
    assert len(storage.listing(CLONES)) == 3


def test_full_disk_while_cloning_leaves_the_parent_as_it_was_and_nothing_else() -> None:
    storage = disk()
    clones = opened(storage)
    volume = make(clones, "c1")
    volume.write(0, fill(b"a"))
    before = storage.listing(CLONES)
    row = clones.begin("c2", SNAPSHOT, clones.get("c1"))
    clones.make_files(row)
    storage.fail("write", ".bits", errno.ENOSPC)
    with pytest.raises(OSError, match="No space"):
        clones.split(row, clones.get("c1"))
    clones.abandon(row)
    assert storage.listing(CLONES) == before
    volume.write(CHUNK, fill(b"b"))
    volume.flush()
    storage = storage.after_crash(Policy.DROP)
    shown = read(opened(storage), "c1")
    assert (shown[:SECTOR], shown[CHUNK : CHUNK + SECTOR]) == (fill(b"a"), fill(b"b"))


def test_parent_whose_sync_fails_is_not_cloned() -> None:
    storage = disk()
    clones = opened(storage)
    make(clones, "c1").write(0, fill(b"a"))
    row = clones.begin("c2", SNAPSHOT, clones.get("c1"))
    clones.make_files(row)
    storage.fail("sync", ".data")
    with pytest.raises(errors.StorageFailed):
        clones.split(row, clones.get("c1"))
    clones.abandon(row)
    assert [(one.name, one.state) for one in clones.ready()] == [("c1", catalogue.FAILED)]


def read(clones: Clones, name: str) -> bytes:
    return clones.open_volume(name, "data").read(SIZE, 0)
