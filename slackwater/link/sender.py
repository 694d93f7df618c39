"""The Primary's view of one link.

Contract with the shell, in this order:

1. Every input may append actions; drain `actions()` after each and carry them out in order.
2. `StoreLink` is durable before anything after it is carried out (D26); `VerdictReceived` is
   durable before `verdict_stored` is called (D17).
3. `log_advanced` never names an offset that is not durable (D13).
4. Answers carry the action they answer; an answer to anything but the latest request is dropped.
5. `tick` is called at least every quarter of a second. Time is a number that never goes back.

A stream goes through CLOSED, DIALLING, GREETING (Hello sent), PLACING (a place to go on from is
being looked up), OPEN. What an operator sees is `state`:

    CONNECTING -> SYNCING | CATCHING_UP | STREAMING     the stream is open
    any of these -> CONNECTING                          it broke
    any of these -> DIRTY                               the log moved on without the link
    DIRTY -> SYNCING                                    by itself, when the peer is back
    -> DIVERGED | FAILED | PAUSED | DETACHED            left only by the operator
"""

from collections.abc import Callable, Sequence

from slackwater import errors
from slackwater.link import actions as act
from slackwater.link.actions import LinkAction, LinkState, VolumeInfo
from slackwater.link.connection import Connection
from slackwater.link.placing import Placing
from slackwater.link.records import RecordSender
from slackwater.link.settings import (
    STANDING_STILL,
    LinkIdentity,
    LinkRow,
    SenderSettings,
    Stream,
)
from slackwater.link.sync import SyncSender
from slackwater.link.wire import from_wire, to_wire
from slackwater.position import LogPoint, Position
from slackwater.v1 import common_pb2, replication_pb2

Request = replication_pb2.ReplicateRequest
Response = replication_pb2.ReplicateResponse
_Reject = replication_pb2.Reject
_GO_BACK = frozenset({_Reject.REASON_GAP, _Reject.REASON_LOG_FULL, _Reject.REASON_CORRUPT})


class LinkSender:
    """One link, seen from its Primary.

    Attributes:
        state: What an operator sees.
        reason: Why, as one sentence; empty if it needs none.
        dirty: The log is not held for this link: a sync must come.
        acked_position: What the Secondary holds durably as far as known; None if not known.
        replica_state: What the Secondary last said about its replica.
        replica_reason: What it last said is the matter; empty if nothing is, or it is not heard.
        applied_lsn: applied_lsn <= acked lsn; may fall when the Secondary restarts.
        diverged_secondary: In state DIVERGED, where the Secondary's history ends.
        durable_position: The durable end of our log when the stream was opened.
        placing: Answers to `FindPosition` go here.
        records: Answers to `ReadLog` go here.
        sync: Answers to `FindSyncPoint` and `ReadRegions` go here.
    """

    def __init__(
        self,
        identity: LinkIdentity,
        row: LinkRow,
        settings: SenderSettings,
        jitter: Callable[[], float],
        new_id: Callable[[], bytes],
    ) -> None:
        """Take up a link as group.db has it.

        Args:
            identity: Who calls.
            row: The link's durable state.
            settings: Sizes and times.
            jitter: Returns a random number from 0 to 1 at each call.
            new_id: Returns 16 random bytes at each call.
        """
        self.identity = identity
        self.settings = settings
        self.state = row.state
        if row.state not in STANDING_STILL:
            self.state = LinkState.DIRTY if row.dirty else LinkState.CONNECTING
        self.reason = row.reason
        self.dirty = row.dirty
        self.acked_position = row.acked
        self.discard_secondary = row.discard_secondary
        self.replica_state: int = common_pb2.REPLICA_STATE_UNSPECIFIED
        self.replica_reason = ""
        self.applied_lsn = 0
        self.applied_time_ns = 0
        self.secondary_log_used_bytes = 0
        self.secondary_log_capacity_bytes = 0
        self.diverged_secondary: Position | None = None
        self.new_id = new_id
        self.connection = Connection(settings, jitter)
        self.records = RecordSender(self)
        self.sync = SyncSender(self, row.sync_id)
        self.placing = Placing(self)
        self._actions: list[LinkAction] = []
        self.durable_position: Position | None = None

    # ---- what comes out

    def actions(self) -> list[LinkAction]:
        """Return what to do, in order, and forget it."""
        drained, self._actions = self._actions, []
        return drained

    def emit(self, action: LinkAction) -> None:
        """Append something to do."""
        self._actions.append(action)

    @property
    def hold_offset(self) -> int | None:
        """The log is needed from here on; None: not known in this stream, or not needed."""
        window = self.records.window
        return None if self.dirty or window is None else window.acked.offset

    @property
    def lag_bytes(self) -> int | None:
        """Durable bytes of log the Secondary does not hold; None if not known in this stream."""
        window = self.records.window
        return None if window is None else self.records.durable_offset - window.acked.offset

    # ---- time, and the log

    def tick(self, now: float, time_ns: int) -> None:
        """Let time pass: dial, heartbeat, and give a silent peer up."""
        self.connection.advance(now, time_ns)
        if self.state in STANDING_STILL:
            return
        if self.connection.is_dial_due:
            self.connection.dial()
            self.emit(act.Dial())
        elif self.connection.silence:
            self.break_off(self.connection.silence)
        elif self.connection.is_beat_due:
            self._beat()
            self.records.pump()

    def log_advanced(self, durable: int, in_volumes: int, oldest: int) -> None:
        """Learn how far the log is durable, in the volumes, and trimmed.

        Args:
            durable: Log offset of the durable end.
            in_volumes: Log offset below which every record is in its volume (D2).
            oldest: Log offset of the oldest byte kept.
        """
        self.records.advance(durable, in_volumes)
        window = self.records.window
        if window is not None and window.sent.offset < oldest:
            self.overflow("the log moved on without this link")
        else:
            self.records.pump()

    def overflow(self, reason: str = "the log is full") -> None:
        """The log is about to be trimmed, or was, past what the Secondary holds."""
        if not self.dirty and self.state is not LinkState.DETACHED:
            self._hang_up(reason)
            self.become_dirty(reason)

    # ---- the stream

    def connected(self, durable: LogPoint, volumes: Sequence[VolumeInfo]) -> None:
        """The stream is open: greet. `durable` and `volumes` are those of this moment."""
        if self.connection.stream is Stream.DIALLING:
            self.connection.greet()
            self.durable_position = durable.position
            self.records.advance(
                max(durable.offset, self.records.durable_offset), self.records.in_volumes_offset
            )
            self.placing.greet(volumes)

    def disconnected(self, reason: str, fatal: bool = False) -> None:
        """The stream ended, or could not be opened.

        Args:
            reason: Why, as one sentence.
            fatal: Dialling again cannot help: fenced, another group, the wrong role.
        """
        if self.connection.stream is Stream.CLOSED:
            return
        self._close()
        if fatal:
            self._become_failed(reason)
        elif self.state is LinkState.DIRTY:
            self.reason = reason
        else:
            self._become_connecting(reason)

    def receive(self, response: Response) -> None:
        """Take a message of the Secondary."""
        stream = self.connection.stream
        if stream in (Stream.CLOSED, Stream.DIALLING):
            return
        self.connection.heard()
        kind = response.WhichOneof("message")
        if kind is None:
            return  # From a later version of the Secondary.
        if (kind == "welcome") != (stream is Stream.GREETING):
            self.break_off(f"the Secondary sent {kind} out of order")
        elif kind == "welcome":
            self.placing.welcomed(response.welcome)
        elif kind == "ack":
            self._acked(response.ack)
        elif kind == "verdict":
            self.emit(act.VerdictReceived(response.verdict))
        elif kind == "state":
            self.replica_reason = response.state.reason
            self._note_replica_state(response.state.state, response.state.reason)
        else:
            self._rejected(response.reject)

    def verdict_stored(self, sequence: int) -> None:
        """Every verdict up to `sequence` is durable here (D17)."""
        if self.connection.stream in (Stream.OPEN, Stream.PLACING):
            confirmed = replication_pb2.VerdictsConfirmed(sequence=sequence)
            self.emit(act.SendMessage(Request(verdicts_confirmed=confirmed)))

    def start_sending(self, point: LogPoint) -> None:
        """Both sides agree on `point`, or will once SyncStart is carried out."""
        self.records.start(point)
        self.connection.stream = Stream.OPEN
        if not self.sync.is_running:
            self.become_catching_up()
        self._beat()
        self.records.pump()

    def _acked(self, ack: replication_pb2.Ack) -> None:
        self.secondary_log_used_bytes = ack.log_used_bytes
        self.secondary_log_capacity_bytes = ack.log_capacity_bytes
        if self.sync.take_ack(ack):
            self.applied_lsn = ack.applied_lsn
            self.applied_time_ns = ack.applied_time_unix_nanos
            self.records.acked(ack)
        if self.connection.stream is not Stream.CLOSED:
            self._note_replica_state(ack.replica_state, "")

    def _note_replica_state(self, state: int, reason: str) -> None:
        self.replica_state = state
        if state == common_pb2.REPLICA_STATE_FAILED:
            self.fail(f"the replica has failed: {reason}" if reason else "the replica has failed")
        else:
            self.sync.replica_state_changed()

    def _rejected(self, reject: replication_pb2.Reject) -> None:
        expected = from_wire(reject.expected)
        if reject.reason in _GO_BACK:
            self.records.go_back(reject.reason, expected)
        elif reject.reason == _Reject.REASON_DIVERGED:
            self.diverge(expected)
        elif reject.reason == _Reject.REASON_FROZEN:
            self.sync.refused_frozen()
        elif reject.reason == _Reject.REASON_SYNC_MISMATCH:
            self.break_off(f"the Secondary refused part of the sync: {reject.detail}")
        else:
            name = _Reject.Reason.Name(reject.reason).removeprefix("REASON_")
            self.fail(f"{name}: {reject.detail}" if reject.detail else name)

    # ---- the operator

    def pause(self) -> None:
        """Hold the link; the log is kept for it as long as there is room."""
        if self.state not in (LinkState.DETACHED, LinkState.PAUSED):
            self._hang_up("paused by the operator")
            self._become(LinkState.PAUSED, "paused by the operator")
            self.store()

    def retry(self) -> None:
        """Leave PAUSED, FAILED or DIVERGED and connect again."""
        if self.state in STANDING_STILL and self.state is not LinkState.DETACHED:
            self.connection.hurry()
            self.diverged_secondary = None
            self._become(LinkState.DIRTY if self.dirty else LinkState.CONNECTING, "")
            self.store()

    def allow_discard(self) -> None:
        """Leave DIVERGED by giving up the Secondary's differing history (D16)."""
        self.discard_secondary = True
        self.retry()

    def detach(self) -> None:
        """End the link for good."""
        self._hang_up("detached by the operator")
        self._become(LinkState.DETACHED, "detached by the operator")
        self.store()

    # ---- transitions

    def _become(self, state: LinkState, reason: str) -> None:
        """The one place where `state` changes."""
        self.state, self.reason = state, reason

    def _become_connecting(self, reason: str) -> None:
        self._become(LinkState.CONNECTING, reason)

    def become_catching_up(self) -> None:
        """Records are being sent from further back than a window."""
        self._become(LinkState.CATCHING_UP, "")

    def become_streaming(self) -> None:
        """Records are sent as they become durable."""
        self._become(LinkState.STREAMING, "")

    def become_syncing(self, reason: str) -> None:
        """Regions and records are being sent."""
        self._become(LinkState.SYNCING, reason)

    def become_dirty(self, reason: str) -> None:
        """The log is not held for this link any more; a state of the operator's stays as it is."""
        self.dirty = True
        if self.state not in STANDING_STILL:
            self._become(LinkState.DIRTY, reason)
        self.store()

    def _become_failed(self, reason: str) -> None:
        self._become(LinkState.FAILED, reason)
        self.store()

    def fail(self, reason: str) -> None:
        """Stop until the operator acts."""
        self._hang_up(reason)
        self._become_failed(reason)

    def diverge(self, theirs: Position) -> None:
        """Stop with both histories shown, or give theirs up if the operator allowed it (D16)."""
        if self.discard_secondary and self.connection.stream is Stream.PLACING:
            self.sync.require("the Secondary's differing history is given up")
            return
        ours = self.acked_position or self.durable_position
        assert ours is not None, "a stream begins with a durable end"
        error = errors.Diverged(ours, theirs)
        self._hang_up(str(error))
        self.diverged_secondary = theirs
        self._become(LinkState.DIVERGED, str(error))
        self.store()

    def store(self, sync_point: LogPoint | None = None) -> None:
        """Ask for the link's row to be made durable; a new sync forgets what was acked."""
        if sync_point is not None:
            self.acked_position = None
        self.emit(
            act.StoreLink(
                state=self.state,
                reason=self.reason,
                dirty=self.dirty,
                sync_id=self.sync.sync_id,
                forget_acked=sync_point is not None,
                discard_secondary=self.discard_secondary,
                sync_point=sync_point,
            )
        )

    # ---- the stream's ends

    def break_off(self, reason: str) -> None:
        """End the stream from this side, to dial again later."""
        self.emit(act.Disconnect(reason))
        self.disconnected(reason)

    def _hang_up(self, reason: str) -> None:
        if self.connection.stream is not Stream.CLOSED:
            self.emit(act.Disconnect(reason))
            self._close()

    def _close(self) -> None:
        self.replica_reason = ""
        self.connection.close()
        self.placing.stream_closed()
        self.records.stream_closed()
        self.sync.stream_closed()

    def _beat(self) -> None:
        self.connection.beaten()
        beat = replication_pb2.Heartbeat(time_unix_nanos=self.connection.time_ns)
        window = self.records.window
        if window is not None and window.sent.offset >= self.records.durable_offset:
            beat.durable.CopyFrom(to_wire(window.sent.position))
        self.emit(act.SendMessage(Request(heartbeat=beat)))
