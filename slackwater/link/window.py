"""What a sender has in flight on one stream: appends and regions, counted in bytes."""

from collections import deque
from dataclasses import dataclass

from slackwater import errors
from slackwater.link.actions import Cursor
from slackwater.position import LogPoint, Position


@dataclass(frozen=True, slots=True)
class _Slice:
    end: LogPoint
    size: int
    first_time_ns: int


class Window:
    """Appends sent and not yet acked, oldest first.

    Invariants: `acked.offset <= sent.offset`; the slices are contiguous from `acked` (or from a
    place inside the first slice that an ack fell into) to `sent`.
    """

    def __init__(self, start: LogPoint, window_bytes: int, small_bytes: int, messages: int) -> None:
        """Start with nothing in flight after `start`.

        Args:
            start: The place both sides agree on.
            window_bytes: Bytes in flight at most; one slice always fits.
            small_bytes: Below this the last slice counts as small.
            messages: Small slices in flight at most, so that slices grow instead of queueing up.
        """
        self.acked = start
        self.sent = start
        self._window_bytes = window_bytes
        self._small_bytes = small_bytes
        self._messages = messages
        self._slices: deque[_Slice] = deque()
        self._bytes = 0
        self._last_size = 0

    @property
    def in_flight_bytes(self) -> int:
        """Bytes sent and not acked."""
        return self._bytes

    @property
    def oldest_time_ns(self) -> int | None:
        """The Primary's clock in the first record in flight, or None."""
        return self._slices[0].first_time_ns if self._slices else None

    def has_room(self) -> bool:
        """Tell whether another slice may be sent."""
        if not self._slices:
            return True
        if self._bytes >= self._window_bytes:
            return False
        return self._last_size >= self._small_bytes or len(self._slices) < self._messages

    def push(self, end: LogPoint, size: int, first_time_ns: int) -> None:
        """Note a slice sent right after everything before it."""
        assert end.position.lsn > self.sent.position.lsn, "a slice holds at least one record"
        self._slices.append(_Slice(end, size, first_time_ns))
        self._bytes += size
        self._last_size = size
        self.sent = end

    def ack(self, durable: Position) -> bool:
        """Take an ack; tell whether it moved `acked`.

        Raises:
            Diverged: The other side claims what was never sent, or another history.
        """
        if durable.lsn > self.sent.position.lsn:
            raise errors.Diverged(self.sent.position, durable)
        moved = False
        while self._slices and self._slices[0].end.position.lsn <= durable.lsn:
            done = self._slices.popleft()
            self._bytes -= done.size
            self.acked = done.end
            moved = True
        if durable.lsn == self.acked.position.lsn and durable != self.acked.position:
            raise errors.Diverged(self.acked.position, durable)
        return moved

    def rewind(self, expected: Position) -> int:
        """Forget slices past `expected`; return how many were forgotten."""
        forgotten = 0
        while self._slices and self._slices[-1].end.position.lsn > expected.lsn:
            self._bytes -= self._slices.pop().size
            forgotten += 1
        self.sent = self._slices[-1].end if self._slices else self.acked
        return forgotten


class SyncWindow:
    """A running sync: where it reads, and what of it is in flight."""

    def __init__(self, sync_id: bytes, cursor: Cursor, total_bytes: int) -> None:
        """Go on from `cursor`."""
        self.sync_id = sync_id
        self.cursor = cursor
        self.total_bytes = total_bytes
        self.done_bytes = 0
        self.sequence = 0
        self.consistent_lsn = 0
        self.all_read = False
        self.done_sent = False
        self.in_flight_bytes = 0
        self._in_flight: deque[tuple[int, int, int]] = deque()

    def push(self, cursor: Cursor, data_bytes: int, covered_bytes: int) -> int:
        """Note regions sent; return their sequence."""
        self.sequence += 1
        self.cursor = cursor
        self.in_flight_bytes += data_bytes
        self._in_flight.append((self.sequence, data_bytes, covered_bytes))
        return self.sequence

    def ack(self, sequence: int) -> None:
        """Take an ack of all regions up to `sequence`; later ones than were sent mean nothing."""
        while self._in_flight and self._in_flight[0][0] <= sequence:
            _, data_bytes, covered_bytes = self._in_flight.popleft()
            self.in_flight_bytes -= data_bytes
            self.done_bytes += covered_bytes
