"""Group commit: one leader writes what all threads have queued (D1).

A thread hands in a `Batch` and comes back when the batch is in the log, synced and in its volumes.
The first to arrive leads: it takes everything queued, writes it in one gathered write, syncs once,
writes the volumes in lsn order and wakes the rest. Those who arrive meanwhile queue; when the
leader is done it makes the first of them the next leader. At depth 1 nothing changes hands.

The gate (D8) stands before the queue: `Committer.fence` closes it, waits until what was admitted is
in the log, and lets only the fencing thread's own batch pass until it opens again.

Locks: ``_mutex`` guards the queue, the gate and the counters and is held for moments only. Being
the leader is a flag under ``_mutex``, not a lock; only the leader touches the log and the volumes.
"""

import errno
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from slackwater import record
from slackwater.clock import Clock
from slackwater.errors import (
    DeadlineExceeded,
    GroupFailed,
    NoSpace,
    SlackwaterError,
    StorageFailed,
    Unavailable,
)
from slackwater.group.batch import RECORD_OVERHEAD_BYTES, Batch, Change
from slackwater.group.pending import Pending
from slackwater.histogram import Histogram
from slackwater.log.log import Log
from slackwater.log.run import Run
from slackwater.position import LogPoint, Position
from slackwater.storage.seam import Buffer
from slackwater.v1 import record_pb2

PENDING_LIMIT_BYTES = 64 << 20
"""What writeback may hold back from the volumes; past it a writer waits for a sync (D7)."""


class Committer:
    """The one way into a group's log on the Primary.

    Invariants: ``in_volumes.offset <= log.durable.offset <= log.end.offset``; every record at or
    below ``in_volumes`` is in its volume (D2); nothing above ``log.durable`` is published or, in
    writethrough, answered (D1).
    """

    def __init__(
        self,
        group: str,
        log: Log,
        epoch: int,
        clock: Clock,
        *,
        writeback: bool,
        published: Callable[[LogPoint, LogPoint], None],
        relieve: Callable[[int], None],
        stopped: Callable[[], None],
    ) -> None:
        """Commit into ``log``.

        Args:
            group: name, for errors.
            log: an open log; everything in it is already in the volumes.
            epoch: stamped on each record.
            clock: times of records and of the histograms.
            writeback: answer before the sync (D7).
            published: told (durable, in_volumes) after each change of either; must not block.
            relieve: asked by a waiting writer for that much log space, no lock held (D9).
            stopped: told once that the group has failed (D3); must not block.
        """
        self.log = log
        self.epoch = epoch
        self.writeback = writeback
        self.pending = Pending()
        self.in_volumes = log.end
        self.failure: GroupFailed | None = None
        self.stalled: OSError | None = None
        self.sync_seconds = Histogram()
        self.commits_total = 0
        self.records_total = 0
        self.payload_bytes_total = 0
        self._group = group
        self._clock = clock
        self._published = published
        self._relieve = relieve
        self._stopped = stopped
        self._mutex = threading.Lock()
        self._changed = threading.Condition(self._mutex)
        self._queue: deque[Batch] = deque()
        self._queued_bytes = 0
        self._leading = False
        self._gate_closed = False
        self._in_flight = 0

    # -- the way in ---------------------------------------------------------------------------

    def commit(self, batch: Batch, *, through_gate: bool = False) -> None:
        """Commit a batch; returns when it may be answered.

        Raises:
            GroupFailed: the log or a volume failed for good; nothing after it is durable.
            NoSpace: the disk under the log or a volume is full; nothing of the batch was logged,
                or, past the first 8 MiB of a batch, only a prefix of it.
            Unavailable: a volume fails what the log already holds (D4); nothing was logged.
        """
        if not self._admit(batch, through_gate):
            assert batch.wake is not None
            batch.wake.acquire()
            if not batch.finished:
                self._lead()
        else:
            self._lead()
        if batch.error is not None:
            raise batch.error

    def _admit(self, batch: Batch, through_gate: bool) -> bool:
        """Queue the batch; True when the calling thread leads."""
        with self._mutex:
            while True:
                if self.failure is not None:
                    raise self.failure
                if self.stalled is not None and batch.changes and not batch.control:
                    raise self._refusal(self.stalled)
                if self._gate_closed and not through_gate:
                    self._changed.wait()
                elif batch.control or self._has_room(batch.size):
                    break
                else:
                    self._wait_for_room(batch.size)
            self._in_flight += 1
            self._queued_bytes += batch.size
            self._queue.append(batch)
            if self._leading:
                batch.wake = threading.Lock()
                batch.wake.acquire()
                return False
            self._leading = True
            return True

    def _has_room(self, size: int) -> bool:
        return self.log.has_room(self._queued_bytes + size)

    def _wait_for_room(self, size: int) -> None:
        """Ask for space and wait a moment for it; called with the mutex held."""
        needed = self._queued_bytes + size
        self._mutex.release()
        try:
            self._relieve(needed)
        finally:
            self._mutex.acquire()
        if self.failure is None and not self._has_room(size):
            self._changed.wait(0.05)

    def _refusal(self, stalled: OSError) -> SlackwaterError:
        """Say why a write is not taken while a volume refuses an earlier one (D4)."""
        next_step = "Writes go on by themselves once the volume takes them"
        if stalled.errno in (errno.ENOSPC, errno.EDQUOT):
            return NoSpace(f"a volume of group {self._group!r}", f"Free space. {next_step}")
        return Unavailable(f"a volume of group {self._group!r}: {stalled}", next_step)

    def room_made(self) -> None:
        """Wake writers that wait for log space, the gate, or a volume."""
        with self._mutex:
            self._changed.notify_all()

    # -- the fence ----------------------------------------------------------------------------

    @contextmanager
    def fence(self, timeout_seconds: float) -> Iterator[None]:
        """Admit no new batch, wait until the admitted ones are logged, then run the body (D8, C2).

        Raises:
            DeadlineExceeded: they were not logged in time; the gate is open again.
        """
        deadline = self._clock.monotonic() + timeout_seconds
        with self._mutex:
            while self._gate_closed:
                self._wait_until(deadline, timeout_seconds)
            self._gate_closed = True
            try:
                while self._in_flight:
                    self._wait_until(deadline, timeout_seconds)
            except BaseException:
                self._open_gate()
                raise
        try:
            yield
        finally:
            with self._mutex:
                self._open_gate()

    def _wait_until(self, deadline: float, timeout_seconds: float) -> None:
        left = deadline - self._clock.monotonic()
        if left <= 0 or not self._changed.wait(left):
            raise DeadlineExceeded("the fence", timeout_seconds)

    def _open_gate(self) -> None:
        self._gate_closed = False
        self._changed.notify_all()

    # -- the leader ---------------------------------------------------------------------------

    def _lead(self) -> None:
        with self._mutex:
            taken = self._take()
        error: SlackwaterError | None = None
        try:
            self._round(taken)
        except NoSpace as no_space:
            error = no_space
        except StorageFailed as failed:
            error = self.fail(str(failed))
        except BaseException as unexpected:
            # A programmer's error or a simulated crash: nobody may wait for ever on a dead leader.
            self._finish(taken, self.fail(repr(unexpected)))
            raise
        self._finish(taken, error)

    def _take(self) -> list[Batch]:
        """Take what fits one commit; a control batch goes alone, so that its point is its own."""
        taken = [self._queue.popleft()]
        size = taken[0].size
        while self._queue and not (taken[0].control or self._queue[0].control):
            size += self._queue[0].size
            if size > self._commit_bytes:
                break
            taken.append(self._queue.popleft())
        return taken

    @property
    def _commit_bytes(self) -> int:
        return self.log.settings.max_commit_bytes

    def _finish(self, taken: list[Batch], error: SlackwaterError | None) -> None:
        with self._mutex:
            self._in_flight -= len(taken)
            for batch in taken:
                self._queued_bytes -= batch.size
                batch.error = batch.error or error
                batch.finished = True
            successor: Batch | None = None
            if self.failure is not None:
                for batch in self._queue:
                    batch.error, batch.finished = self.failure, True
                taken = [*taken, *self._queue]
                self._in_flight -= len(self._queue)
                self._queue.clear()
                self._queued_bytes = 0
            if self._queue:
                successor = self._queue[0]
            else:
                self._leading = False
            if self._gate_closed:
                self._changed.notify_all()
        for batch in taken:
            if batch.wake is not None:
                batch.wake.release()
        if successor is not None:
            assert successor.wake is not None
            successor.wake.release()

    def fail(self, cause: str) -> GroupFailed:
        """Stop the group for good (D3) and wake who waits; the first cause stays."""
        with self._mutex:
            if self.failure is None:
                self.failure = GroupFailed(self._group, cause)
                self._stopped()
                self._changed.notify_all()
            return self.failure

    def _round(self, taken: list[Batch]) -> None:
        """Log, sync and write through the batches taken, in pieces of at most one commit."""
        changes: list[Change] = []
        size = 0
        sync = not self.writeback or any(batch.sync for batch in taken)
        control = all(batch.control for batch in taken)
        for batch in taken:
            for change in batch.changes:
                change_size = RECORD_OVERHEAD_BYTES + (0 if change[4] is None else change[3])
                if changes and size + change_size > self._commit_bytes:
                    self._commit(changes, sync=sync, control=control)
                    changes, size = [], 0
                changes.append(change)
                size += change_size
        if changes or (sync and self.is_behind):
            self._commit(changes, sync=sync, control=control)
        for batch in taken:
            batch.last = self.log.end

    @property
    def is_behind(self) -> bool:
        """Tell whether something answered is not yet durable, or not yet in a volume."""
        return self.log.durable.offset < self.log.end.offset or len(self.pending) > 0

    def _commit(self, changes: list[Change], *, sync: bool, control: bool) -> None:
        if changes:
            self.log.append([self._build(changes)], control=control)
            self.commits_total += 1
            self.records_total += len(changes)
        if not sync and self.pending.held_bytes < PENDING_LIMIT_BYTES:
            self._hold_back(changes)
            return
        started = self._clock.monotonic()
        durable = self.log.sync()
        self.sync_seconds.observe(self._clock.monotonic() - started)
        self._published(durable, self.in_volumes)
        if self._write_volumes(changes):
            self.in_volumes = durable
            self._published(durable, durable)

    def _build(self, changes: list[Change]) -> Run:
        """Make the records: heads by struct, payloads as they are."""
        position = self.log.end.position
        lsn, chain, epoch = position.lsn, position.chain, self.epoch
        synced: int | None = self.log.durable.position.lsn
        time_ns = self._clock.time_ns()
        pieces: list[Buffer] = []
        records: list[tuple[int, Position]] = []
        for kind, volume, offset, length, payload in changes:
            lsn += 1
            if kind == record.KIND_WRITE:
                assert volume is not None and payload is not None
                head, chain = record.write_head(
                    chain, epoch, lsn, time_ns, synced, volume.id, offset, payload
                )
                pieces.append(head)
                pieces.append(payload)
                size = len(head) + length
                self.payload_bytes_total += length
            else:
                if kind == record.KIND_ZERO:
                    assert volume is not None
                    body = record_pb2.Zero(
                        volume=volume.id, offset=offset, length=length
                    ).SerializeToString()
                else:
                    assert payload is not None
                    body = bytes(payload)
                framed, chain = record.frame(chain, epoch, lsn, time_ns, synced, kind, body)
                pieces.append(framed)
                size = len(framed)
            synced = None
            records.append((size, Position(epoch, lsn, chain)))
        return Run(pieces, records)

    # -- volumes ------------------------------------------------------------------------------

    def _hold_back(self, changes: Sequence[Change]) -> None:
        for _, volume, offset, length, payload in changes:
            if volume is not None:
                self.pending.add(volume, offset, length, payload)

    def _write_volumes(self, changes: Sequence[Change]) -> bool:
        """Write held-back changes, then these, in lsn order; False when a volume refused (D4).

        A refused change is durable history: it and all after it are held, readers see them, and
        `retry_volumes` tries again until the volume takes them.
        """
        done = 0
        try:
            if self.pending:
                self.pending.drain()
            for _, volume, offset, length, payload in changes:
                if volume is None:
                    pass
                elif payload is None:
                    volume.zero(offset, length)
                else:
                    volume.write(offset, payload)
                done += 1
        except OSError as error:
            self._hold_back(changes[done:])
            self.stalled = error
            return False
        self.stalled = None
        return True

    def retry_volumes(self) -> bool:
        """Try again what a volume refused; True when nothing is held any more.

        Writes stay refused while it is tried: each that slipped in would be held in memory.
        """
        if self.stalled is not None:
            self.commit(Batch((), sync=True, control=True), through_gate=True)
        return self.stalled is None
