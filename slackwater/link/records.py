"""Sending records: what is read, in flight, acked and sent again."""

from typing import TYPE_CHECKING

from slackwater import errors
from slackwater.link import actions as act
from slackwater.link.actions import LinkState
from slackwater.link.settings import Stream
from slackwater.link.window import Window
from slackwater.link.wire import Buffer, from_wire
from slackwater.position import LogPoint, Position
from slackwater.v1 import replication_pb2

if TYPE_CHECKING:
    from slackwater.link.sender import LinkSender

_MAX_CORRUPT_REJECTS = 3


class RecordSender:
    """The records of one link's stream.

    Attributes:
        window: What is in flight in this stream; None until both sides agree on a place.
        durable_offset: Nothing past it is read (D13).
        in_volumes_offset: in_volumes_offset <= durable_offset (D2).
    """

    def __init__(self, link: "LinkSender") -> None:
        """Start without a stream."""
        self.window: Window | None = None
        self.durable_offset = 0
        self.in_volumes_offset = 0
        self._link = link
        self._reading: act.ReadLog | None = None
        self._stale_rejects = 0
        self._corrupt_rejects = 0
        self._blocked = False
        self._behind_since_ns: int | None = None

    @property
    def sent(self) -> LogPoint:
        """The place after the last record sent in this stream."""
        assert self.window is not None, "sending starts from a place"
        return self.window.sent

    def lag_seconds(self, time_ns: int) -> float:
        """Age of the oldest record the Secondary does not hold, in the Primary's clock (D19)."""
        oldest = self.window.oldest_time_ns if self.window else None
        if oldest is None:
            oldest = self._behind_since_ns
        return 0.0 if oldest is None else max(0.0, (time_ns - oldest) / 1e9)

    def advance(self, durable: int, in_volumes: int) -> None:
        """Learn how far the log is durable and in the volumes."""
        assert in_volumes <= durable, "a volume never holds what the log does not"
        if durable > self.durable_offset and self._behind_since_ns is None:
            self._behind_since_ns = self._link.connection.time_ns
        self.durable_offset, self.in_volumes_offset = durable, in_volumes

    def start(self, point: LogPoint) -> None:
        """Both sides agree on `point`: send what follows it."""
        s = self._link.settings
        if self.window is None:
            self.window = Window(
                point, s.window_bytes, s.small_slice_bytes, s.small_slices_in_flight
            )
        else:
            self.window.sent = point

    def pump(self) -> None:
        """Ask for whatever may be sent next: records and regions take turns (D25)."""
        link, window = self._link, self.window
        if link.connection.stream is not Stream.OPEN or window is None or self._reading:
            return
        if link.sync.holds_records:
            return
        behind = self.durable_offset - window.sent.offset
        records_wait = behind > 0 and window.has_room() and not self._blocked
        if link.sync.is_running:
            # Past half of the log records go first: the log must not overflow for a sync.
            pressed = self.durable_offset - window.acked.offset > link.identity.log_bytes // 2
            if not (pressed and behind > 0) and link.sync.take_turn(records_wait):
                return
        elif behind > 2 * link.settings.window_bytes and link.state is LinkState.STREAMING:
            link.become_catching_up()
        elif behind <= link.settings.window_bytes and link.state is LinkState.CATCHING_UP:
            link.become_streaming()
        if records_wait:
            self._reading = act.ReadLog(window.sent, self.durable_offset, link.settings.slice_bytes)
            link.emit(self._reading)

    def slice_read(
        self, request: act.ReadLog, run: Buffer, end: LogPoint, first_time_ns: int
    ) -> None:
        """Send whole records that were read.

        Args:
            request: The action answered.
            run: Framed records, back to back.
            end: The place after the last of them.
            first_time_ns: The Primary's clock in the first of them.
        """
        if request is not self._reading or self.window is None:
            return
        self._reading = None
        assert end.offset <= request.limit, "only durable bytes are sent (D13)"
        self._link.emit(act.SendAppend(request.start.position, run))
        self.window.push(end, len(run), first_time_ns)
        self._link.sync.records_sent()
        self.pump()

    def slice_trimmed(self, request: act.ReadLog) -> None:
        """The log no longer holds what should be sent next."""
        if request is self._reading:
            self._link.overflow("the log moved on without this link")

    def acked(self, ack: replication_pb2.Ack) -> None:
        """Take an ack of this stream."""
        if self.window is None:
            return
        try:
            moved = self.window.ack(from_wire(ack.durable))
        except errors.Diverged as error:
            self._link.diverge(error.theirs)
            return
        if moved:
            self._corrupt_rejects = 0
        room = ack.log_capacity_bytes - ack.log_used_bytes
        if room >= min(self._link.settings.slice_bytes, ack.log_capacity_bytes // 8):
            self._blocked = False
        self.note_acked()
        self.pump()

    def note_acked(self) -> None:
        """Pass on what the Secondary holds durably."""
        assert self.window is not None, "acks count from a place"
        link, point = self._link, self.window.acked
        link.acked_position = point.position
        if point.offset >= self.durable_offset:
            self._behind_since_ns = None
        link.emit(act.Acked(point, link.applied_lsn, link.applied_time_ns))

    def go_back(self, reason: int, expected: Position) -> None:
        """Send again from where the Secondary's log ends."""
        window = self.window
        if self._stale_rejects:
            # One for each append that was in flight behind the first one not taken.
            self._stale_rejects -= 1
            return
        if window is None:
            return
        if expected.lsn > window.sent.position.lsn:
            self._link.diverge(expected)
            return
        if reason == replication_pb2.Reject.REASON_CORRUPT:
            self._corrupt_rejects += 1
            if self._corrupt_rejects >= _MAX_CORRUPT_REJECTS:
                self._link.fail("CORRUPT: the same records arrive damaged again and again")
                return
        self._stale_rejects = max(0, window.rewind(expected) - 1)
        self._blocked = reason == replication_pb2.Reject.REASON_LOG_FULL
        self._reading = None
        if window.sent.position == expected:
            self.pump()
        else:
            self._link.placing.find(expected)

    def stream_closed(self) -> None:
        """Forget everything that belongs to one stream."""
        self.window = None
        self._reading = None
        self._stale_rejects = self._corrupt_rejects = 0
        self._blocked = False
