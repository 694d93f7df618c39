"""A restore, crashed at every storage call: a mixture is always known, and always finished."""

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest

from slackwater.errors import FailedPrecondition
from slackwater.group import restoring
from slackwater.group.batch import write_change
from slackwater.group.opening import OpenGroup
from slackwater.group.restoring import COPYING, DONE, VERIFYING, WAITING, Mismatch, Restoring
from slackwater.group.rows import RestoreRow
from slackwater.storage.simulated import SimulatedStorage
from tests.crash.test_writer import SIZE, contents, make, volumes_of
from tests.support.simulation import every_crash

GRAIN = 4096
BEFORE = {
    "data": b"".join(bytes([number % 7 + 1]) * GRAIN for number in range(SIZE // GRAIN)),
    "wal": b"w" * SIZE,
}
WANTED = {
    # The same, other bytes, zeroes where there was data, in parts of a grain too.
    "data": BEFORE["data"][: 3 * GRAIN]
    + b"new!" * (GRAIN // 4)
    + bytes(4 * GRAIN)
    + b"x" * 512
    + BEFORE["data"][8 * GRAIN + 512 :],
    "wal": b"v" * 1024 + BEFORE["wal"][1024:],
}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a small volume takes many steps."""
    monkeypatch.setattr(restoring, "GRAIN_BYTES", GRAIN)
    monkeypatch.setattr(restoring, "PIECE_BYTES", 2 * GRAIN)
    monkeypatch.setattr(restoring, "NOTE_BYTES", 4 * GRAIN)


class Snapshot:
    """A Source that has applied everything; its difference is told too large, as it may be."""

    def __init__(self) -> None:
        self.held = 0
        self.waited: list[int] = []

    def hold(self) -> None:
        self.held += 1

    def wait_applied(self, lsn: int) -> None:
        self.waited.append(lsn)

    def changed(self, volume: str) -> Iterator[tuple[int, int]]:
        if volume == "wal":
            yield 0, GRAIN
        else:
            yield 2 * GRAIN, 3 * GRAIN
            yield 5 * GRAIN, 5 * GRAIN

    def read(self, volume: str, offset: int, length: int) -> bytes:
        return WANTED[volume][offset : offset + length]


def fill(storage: SimulatedStorage) -> OpenGroup:
    group = make(storage)
    volumes = volumes_of(storage, group)
    for name, data in BEFORE.items():
        volume = volumes.add(name, SIZE)
        for start in range(0, SIZE, 4 * GRAIN):
            group.writer.submit([write_change(volume, start, data[start : start + 4 * GRAIN])])
    return group


def begin(group: OpenGroup) -> RestoreRow:
    row = RestoreRow(0, "groups/g/snapshots/s1", "l", ("data", "wal"), WAITING, 1)
    number = group.writer.database.add_restore(row)
    (found,) = group.writer.database.restores()
    assert found.id == number and found.volumes == row.volumes
    return found


def run(group: OpenGroup, row: RestoreRow, source: Snapshot | None = None) -> Restoring:
    made = Restoring(group.writer, row, source or Snapshot(), lambda: False)
    made.run()
    return made


def workload(storage: SimulatedStorage, journal: list[Any]) -> None:
    group = fill(storage)
    journal.append("filled")
    run(group, begin(group))
    journal.append("done")


def verify(storage: SimulatedStorage, journal: list[Any]) -> None:
    if "filled" not in journal:
        return
    group = make(storage)
    rows = group.writer.database.restores()
    found = contents(storage, group)
    if not rows or rows[0].state == WAITING:
        assert "done" not in journal
        assert found == BEFORE, "something was written and nothing says so"
        if not rows:
            return
    elif rows[0].state == DONE:
        assert found == WANTED
        return
    else:
        assert rows[0].state in (COPYING, VERIFYING)
    assert run(group, rows[0]).row.state == DONE
    assert contents(storage, group) == WANTED
    (row,) = group.writer.database.restores()
    assert row.state == DONE and row.sha256


def test_restore_that_dies_anywhere_says_so_and_is_finished_by_the_next_start() -> None:
    assert every_crash(workload, verify) > 100


def test_only_what_differs_is_written_and_the_hash_is_of_both_sides() -> None:
    group, source = fill(SimulatedStorage()), Snapshot()
    records = group.writer.committer.records_total
    done = run(group, begin(group), source).row
    ranges = [(name, one) for name in ("data", "wal") for one in source.changed(name)]
    asked = b"".join(WANTED[name][at : at + length] for name, (at, length) in ranges)
    assert done.sha256 == hashlib.sha256(asked).hexdigest()
    assert done.total_bytes == done.done_bytes == len(asked)
    # One grain of new bytes, four of zeroes, one that changed in a part; one of the other volume.
    assert done.written_bytes == 7 * GRAIN
    assert group.writer.committer.records_total == records + 7
    assert source.held == 2 and source.waited == [group.writer.log.durable.position.lsn - 7]


class Changing(Snapshot):
    """A snapshot that reads otherwise each time, as a broken one may."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def read(self, volume: str, offset: int, length: int) -> bytes:
        self.reads += 1
        return self.reads.to_bytes(4) * (length // 4)


def test_what_reads_back_otherwise_is_never_called_done() -> None:
    group = fill(SimulatedStorage())
    made = Restoring(group.writer, begin(group), Changing(), lambda: False)
    with pytest.raises(Mismatch):
        made.run()
    assert made.row.state in (COPYING, VERIFYING)
    (row,) = group.writer.database.restores()
    assert row.state in (COPYING, VERIFYING) and not row.ended_ns


class Replaced(Snapshot):
    """A snapshot that somebody refreshes while it is read."""

    def hold(self) -> None:
        super().hold()
        if self.held > 1:
            raise FailedPrecondition("SNAPSHOT_REPLACED", "it is another one", "Cancel")


def test_snapshot_that_was_replaced_while_it_was_read_is_never_called_restored() -> None:
    group = fill(SimulatedStorage())
    with pytest.raises(FailedPrecondition):
        run(group, begin(group), Replaced())
    (row,) = group.writer.database.restores()
    assert row.state == VERIFYING and not row.ended_ns
