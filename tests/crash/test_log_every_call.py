"""Crash at every storage call of a log's life: what is found is a prefix with all that was synced.

Journal entries: ("appended", frame) before the append, ("synced", lsn) after the sync returned,
("start", LogPoint, count) and ("checkpoint", LogPoint) as group.db would have committed them.
"""

import errno
import random
from pathlib import Path
from typing import Any

import pytest

from slackwater.errors import StorageFailed
from slackwater.log import segment
from slackwater.log.log import Log
from slackwater.position import LogPoint
from slackwater.storage.simulated import Policy, SimulatedCrash, SimulatedStorage
from tests.support.simulation import calls_of, every_crash, survivors
from tests.unit.log.history import (
    CAPACITY,
    DIRECTORY,
    GROUP,
    SETTINGS,
    START,
    History,
    content,
    create,
    disk,
    reopen,
)


class Writer:
    """Drives a log and keeps the journal."""

    def __init__(self, storage: SimulatedStorage, journal: list[Any]) -> None:
        self.storage = storage
        self.journal = journal
        self.history = History()
        self.begin(START)

    def begin(self, start: LogPoint) -> None:
        self.journal.append(("start", start))
        self.log = create(self.storage, start=start)

    def append(self, *sizes: int) -> None:
        run = self.history.run(sizes, self.log.durable.position.lsn)
        self.journal += [("appended", frame) for frame in self.history.frames[-len(sizes) :]]
        self.log.append([run])
        # What append itself had to sync, at a segment's end or for the window, counts as well.
        self.journal.append(("synced", self.log.durable.position.lsn))

    def sync(self) -> None:
        self.journal.append(("synced", self.log.sync().position.lsn))

    def checkpoint(self) -> None:
        self.journal.append(("checkpoint", self.log.durable))
        self.log.trim(self.log.durable.offset)

    def reset(self) -> None:
        """Begin anew at a position, as a full sync does, on older segments."""
        self.log.close()
        start = segment.fresh_start(SETTINGS, self.log.end.offset, self.history.position)
        self.history = History(self.history.position)
        self.begin(start)


def single_commits(storage: SimulatedStorage, journal: list[Any]) -> None:
    writer = Writer(storage, journal)
    for size in (100, 700, 30, 1400):
        writer.append(size)
        writer.sync()


def rolling(storage: SimulatedStorage, journal: list[Any]) -> None:
    """Many records before a sync, over segments, with and without padding between them."""
    writer = Writer(storage, journal)
    writer.append(600, 500, 400)
    writer.append(900, 900)
    writer.sync()
    writer.append(700, 800, 900, 1000)
    exact = 2 * CAPACITY - writer.log.end.offset
    if exact > 200:  # fill a segment to its last byte
        overhead = len(History().add(exact - 100)[0])
        writer.append(exact - overhead)
    writer.sync()
    writer.append(300)
    writer.append(1500)
    writer.sync()


def recycling(storage: SimulatedStorage, journal: list[Any]) -> None:
    """Round the log more than once, so that segments hold records of earlier laps."""
    writer = Writer(storage, journal)
    for turn in range(14):
        writer.append(900, 800 + 37 * turn, 700)
        writer.log.prepare()
        writer.sync()
        writer.append(60)
        if turn % 2:
            writer.checkpoint()
    writer.sync()


def resetting(storage: SimulatedStorage, journal: list[Any]) -> None:
    writer = Writer(storage, journal)
    writer.append(900, 900, 900)
    writer.sync()
    writer.log.prepare()
    writer.append(900, 900, 900)
    writer.reset()
    writer.append(800)
    writer.sync()
    writer.append(500, 500)


WORKLOADS = (single_commits, rolling, recycling, resetting)


class Promise:
    """What a journal promises."""

    def __init__(self, journal: list[Any]) -> None:
        self.start = self.checkpoint = START
        self.frames: list[bytes] = []
        self.synced = 0
        for kind, value in journal:
            if kind == "start":
                self.start = self.checkpoint = value
                self.frames, self.synced = [], value.position.lsn
            elif kind == "appended":
                self.frames.append(value)
            elif kind == "synced":
                self.synced = max(self.synced, value)
            else:
                self.checkpoint = value

    def frames_after(self, lsn: int, end_lsn: int) -> bytes:
        first = self.start.position.lsn
        return b"".join(self.frames[lsn - first : end_lsn - first])


def recover(storage: SimulatedStorage, promise: Promise, *, trust: bool) -> Log:
    """Open the log and hold it against the promise."""
    log, recovery = reopen(storage, start=promise.start, checkpoint=promise.checkpoint, trust=trust)
    end = log.end
    assert log.durable == end == recovery.end
    assert promise.synced <= end.position.lsn <= promise.start.position.lsn + len(promise.frames)
    assert recovery.proven_lsn <= end.position.lsn
    after = promise.checkpoint.position.lsn
    assert recovery.records_after_checkpoint == end.position.lsn - after
    found = content(storage, promise.checkpoint, end)
    assert found == promise.frames_after(after, end.position.lsn)
    return log


def go_on(storage: SimulatedStorage, promise: Promise, *, trust: bool) -> None:
    """After recovery: what it found survives power loss at once, and so does what is added."""
    log = recover(storage, promise, trust=trust)
    end = log.end
    bare = storage.after_crash(Policy.DROP)
    assert recover(bare, promise, trust=trust).end == end
    history = History(end.position)
    for size in (40, 1300, 700):
        log.append([history.run([size], log.durable.position.lsn)])
    log.sync()
    again, recovery = reopen(
        storage.after_crash(Policy.DROP),
        start=promise.start,
        checkpoint=promise.checkpoint,
        trust=trust,
    )
    assert again.end.position == history.position
    assert not recovery.was_torn


@pytest.mark.parametrize("trust", [True, False], ids=["primary", "secondary"])
@pytest.mark.parametrize("workload", WORKLOADS)
def test_log_holds_a_prefix_with_everything_synced_after_a_crash_at_every_call(
    workload: Any, trust: bool
) -> None:
    def verify(storage: SimulatedStorage, journal: list[Any]) -> None:
        promise = Promise(journal)
        if not journal:
            return
        recover(storage, promise, trust=trust).close()
        go_on(storage.kill(), promise, trust=trust)

    assert every_crash(workload, verify, make=disk) > 50


@pytest.mark.parametrize("workload", [rolling, recycling])
def test_recovery_crashed_at_each_of_its_calls_ends_where_an_undisturbed_one_does_or_before(
    workload: Any,
) -> None:
    """SIGKILL, recovery, power loss in every place of it, recovery (D5)."""
    total = calls_of(workload, disk)
    for call in range(total // 3, total + 1, max(total // 12, 1)):
        storage = disk()
        storage.crash_at = call
        journal: list[Any] = []
        with pytest.raises(SimulatedCrash):
            workload(storage, journal)
        promise = Promise(journal)
        killed = storage.kill()
        probe = killed.kill()
        undisturbed = recover(probe, promise, trust=True).end.position.lsn
        for inner in range(1, probe.calls + 1):
            dying = killed.kill()
            dying.crash_at = inner
            with pytest.raises(SimulatedCrash):
                recover(dying, promise, trust=True)
            for _, survivor in survivors(dying, inner):
                lsn = recover(survivor, promise, trust=True).end.position.lsn
                assert promise.synced <= lsn <= undisturbed


def test_recovery_is_idempotent() -> None:
    storage = disk()
    journal: list[Any] = []
    storage.crash_at = calls_of(recycling, disk) - 1
    with pytest.raises(SimulatedCrash):
        recycling(storage, journal)
    promise = Promise(journal)
    survivor = storage.after_crash(Policy.TEAR, random.Random(5))
    first = recover(survivor, promise, trust=True)
    first.close()
    second, recovery = reopen(survivor, start=promise.start, checkpoint=promise.checkpoint)
    assert second.end == first.end
    assert not recovery.was_torn


def test_writer_loses_nothing_synced_when_a_sync_fails_and_the_pages_are_marked_clean() -> None:
    """EIO, then clean: the visible bytes are not durable, and no later sync may say so (D3)."""
    storage = disk()
    log, history = create(storage), History()
    log.append([history.run([500])])
    log.sync()
    log.append([history.run([600], 1)])
    storage.fail("sync", ".seg")
    with pytest.raises(Exception, match="sync of"):
        log.sync()
    storage.heal()
    with pytest.raises(Exception, match="sync of"):
        log.sync()
    assert log.durable.position.lsn == 1
    # The process restarts on the same machine, sees record 2, proves it, then the power fails.
    killed = storage.kill()
    reopened, _ = reopen(killed)
    assert reopened.durable.position.lsn == 2
    found, _ = reopen(killed.after_crash(Policy.DROP))
    assert found.end.position == history.position


class FailingAt(SimulatedStorage):
    """A disk whose n-th call of a kind under the log fails once."""

    def __init__(self, operation: str, number: int) -> None:
        super().__init__()
        self.operation = operation
        self.left = number

    def check_fault(self, operation: str, path: Path) -> None:
        if operation == self.operation and DIRECTORY in (path, *path.parents):
            self.left -= 1
            if self.left == 0:
                raise OSError(errno.EIO, "injected", str(path))


@pytest.mark.parametrize("operation", ["write", "sync", "rename", "sync_directory", "open"])
def test_log_is_whole_after_a_failure_of_each_single_call(operation: str) -> None:
    """Whatever fails, and however the process then dies, all that was synced is found (D3)."""
    number = 0
    while True:
        number += 1
        storage = FailingAt(operation, number)
        journal: list[Any] = []
        storage.make_directory(GROUP)
        for directory in (*reversed(GROUP.parents), GROUP):
            storage.sync_directory(directory)
        try:
            recycling(storage, journal)
        except StorageFailed:
            pass
        else:
            break
        promise = Promise(journal)
        for _, survivor in survivors(storage, number):
            recover(survivor, promise, trust=True)
            go_on(survivor.kill(), promise, trust=True)
    assert number > 3
