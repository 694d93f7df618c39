"""The receiving half of a replica: records into its own log, durable, in order.

Runs are queued and written by one thread (or by `write_some`, called from anywhere, in tests and
simulation): all that is queued in one append, one sync, then the callbacks. Receiving never waits
for applying (C8); when the log is full it stops acking and says so.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from slackwater import errors
from slackwater.histogram import Histogram
from slackwater.log.log import Log
from slackwater.log.recovery import newest_start
from slackwater.log.run import Run
from slackwater.position import Position
from slackwater.record import Buffer, RecordView

QUEUE_BYTES: Final = 16 << 20
RECORD_BYTES: Final = 512
"""What a queued record takes at most beside its bytes: its view."""
OnDurable = Callable[[Position], None]
_Waiting = tuple[Run, OnDurable, Position | None]


class Receiver:
    """The queue before a replica's log. One thread at a time appends, one at a time writes.

    Invariants: `received` >= the log's end >= its durable end; `held_bytes` is what is queued;
    `last_start` is the newest `Start` record at or below the durable end, None if not known.
    """

    def __init__(
        self, log: Log, wake: Callable[[], None], last_start: Position | None = None
    ) -> None:
        """Receive into `log`; `wake` is called when there is something to write."""
        self.log = log
        self.last_start = last_start
        self.received = log.end.position
        self.held_bytes = 0
        self.is_full = False
        self.shortage = ""  # why it is full, if it is not the log's own size
        self.received_bytes = 0
        self.received_records = 0
        self.sync_seconds = Histogram()
        self._queue: deque[_Waiting] = deque()
        self._lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._wake = wake

    @property
    def has_room(self) -> bool:
        """Tell whether the queue takes another run; the shell stops reading when it does not."""
        records = self.received.lsn - self.log.durable.position.lsn
        return self.held_bytes + records * RECORD_BYTES < QUEUE_BYTES

    def append(self, data: Buffer, views: Sequence[RecordView], on_durable: OnDurable) -> bool:
        """Queue whole records, which `record.scan` proved to continue `received`.

        Returns `has_room`. The buffer must not change until `on_durable` is called.

        Raises:
            OutOfOrder: they do not continue what was received.
        """
        if not views:
            return self.has_room
        with self._lock:
            if views[0].lsn != self.received.lsn + 1:
                first = views[0]
                raise errors.OutOfOrder(
                    self.received, Position(first.epoch, first.lsn - 1, first.chain)
                )
            run = Run.of_views(data, views)
            self._queue.append((run, on_durable, newest_start(views)))
            self.held_bytes += run.size
            self.received = run.last
            self.received_records += len(views)
        self._wake()
        return self.has_room

    def write_some(self) -> bool:
        """Make what is queued durable, as much as fits; False: nothing queued, or the log is full.

        Raises:
            StorageFailed: a write or sync failed, which is final (D3).
        """
        with self._write_lock:
            batch = self._take()
            if not batch:
                return False
            try:
                self.log.append([run for run, _, _ in batch])
            except errors.NoSpace as error:
                self._put_back(batch)
                self.shortage = str(error)
                return False
            began = time.perf_counter()
            durable = self.log.sync().position
            self.sync_seconds.observe(time.perf_counter() - began)
            self.is_full, self.shortage = False, ""
            size = sum(run.size for run, _, _ in batch)
            for _, _, start in batch:
                self.last_start = start or self.last_start
            with self._lock:
                self.held_bytes -= size
            self.received_bytes += size
        for _, on_durable, _ in batch:
            on_durable(durable)
        return True

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size = 0
        with self._lock:
            while self._queue:
                run = self._queue[0][0]
                if batch and size + run.size > self.log.settings.max_commit_bytes:
                    break
                if not self.log.has_room(size + run.size):
                    self.is_full, self.shortage = not batch, ""
                    break
                size += run.size
                batch.append(self._queue.popleft())
        return batch

    def _put_back(self, batch: Sequence[_Waiting]) -> None:
        with self._lock:
            self._queue.extendleft(reversed(batch))
            self.is_full = True

    def forget(self) -> None:
        """Drop what is queued and not written: the stream it came on has ended.

        A run that is being written is kept; `received` becomes the log's end.
        """
        with self._write_lock, self._lock:
            self._queue.clear()
            self.held_bytes = 0
            self.received = self.log.end.position
            self.is_full, self.shortage = False, ""  # nothing waits for room any more

    def replace_log(self, log: Log, last_start: Position | None) -> None:
        """Receive into another log from now on: it was reset for a sync."""
        with self._write_lock, self._lock:
            assert not self._queue, "the stream stands still during a reset"
            self.log = log
            self.last_start = last_start
            self.received = log.end.position
            self.is_full, self.shortage = False, ""
