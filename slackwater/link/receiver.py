"""The Secondary's side of one Replicate stream.

Contract with the shell, in this order:

1. `receive` takes the raw bytes of each request; drain `actions()` after each input and carry them
   out in order.
2. `OpenReplica`: cancel the group's older stream and wait until its last append is in the log
   (D15), open or make the replica, then call `opened`. Nothing else is taken before.
3. `AppendRun` is written in order; `progress` reports what is durable, never what is only written
   (an ack is a promise). The run is a view of the request's bytes.
4. `StartSync`: guard snapshot (D27), INCONSISTENT durable, log reset, then `sync_started`.
5. `ApplyRegions` and `FinishSync` go through the applier, after everything received before them
   (D25); `progress` names a region sequence only when the volumes are synced and the checkpoint
   stands at or past its place.
6. An error raised by `receive` or `opened` ends the call with its status.
"""

from dataclasses import replace

from google.protobuf.message import DecodeError

from slackwater import errors, record
from slackwater.link.actions import Cursor, Region
from slackwater.link.greeting import read_hello, read_volumes
from slackwater.link.receiver_actions import (
    AppendRun,
    ApplyRegions,
    EndStream,
    FailReplica,
    FinishSync,
    HelloInfo,
    Opened,
    OpenReplica,
    PrimaryHeard,
    Progress,
    ReceiverAction,
    SendResponse,
    StartSync,
    VerdictsConfirmed,
)
from slackwater.link.wire import (
    APPEND,
    MAX_APPEND,
    Buffer,
    from_wire,
    peek_kind,
    split_append,
    to_wire,
)
from slackwater.position import Position
from slackwater.v1 import common_pb2, replication_pb2

Request = replication_pb2.ReplicateRequest
Response = replication_pb2.ReplicateResponse
_Reject = replication_pb2.Reject
HEARTBEAT_SECONDS = 1.0
SILENCE_SECONDS = 15.0
MAX_REQUEST_BYTES = MAX_APPEND + (64 << 10)


class LinkReceiver:
    """One stream, seen from its Secondary.

    Attributes:
        hello: Who calls; None before Hello.
        end: The end of what was received in order; durable <= end.
        log_room_bytes: Bytes of records the log can take now; the shell keeps it up to date.
    """

    def __init__(self, now: float, kinds: frozenset[int] = record.KNOWN_KINDS) -> None:
        """Wait for Hello.

        Args:
            now: The monotonic time at which the stream was opened.
            kinds: Field numbers of the record bodies known here.
        """
        self.hello: HelloInfo | None = None
        self.end: Position | None = None
        self.log_room_bytes = 1 << 62
        self._kinds = kinds
        self._progress: Progress | None = None
        self._sync_id = b""
        self._next_sequence = 1
        self._starting: StartSync | None = None
        self._failed = False
        self._heard_at = self._acked_at = self._now = now
        self._actions: list[ReceiverAction] = []

    def actions(self) -> list[ReceiverAction]:
        """Return what to do, in order, and forget it."""
        drained, self._actions = self._actions, []
        return drained

    # ---- from the Primary

    def receive(self, request: Buffer) -> None:
        """Take the bytes of a ReplicateRequest.

        Raises:
            InvalidRequest: They are malformed or out of order.
        """
        self._heard_at = self._now
        if len(request) > MAX_REQUEST_BYTES:
            raise errors.InvalidRequest("message", f"is larger than {MAX_REQUEST_BYTES} bytes")
        if peek_kind(request) == APPEND:
            self._append(request)
            return
        message = Request()
        try:
            message.ParseFromString(bytes(request))
        except DecodeError as error:
            raise errors.InvalidRequest("message", "is no ReplicateRequest") from error
        kind = message.WhichOneof("message")
        if kind == "hello":
            self._greeted(message.hello)
            return
        self._check_open(kind or "unknown")
        if kind == "heartbeat":
            beat = message.heartbeat
            heard = from_wire(beat.durable) if beat.HasField("durable") else None
            self._actions.append(PrimaryHeard(beat.time_unix_nanos, heard))
        elif kind == "sync_start":
            self._sync_start(message.sync_start)
        elif kind == "sync_regions":
            self._sync_regions(message.sync_regions)
        elif kind == "sync_done":
            self._sync_done(message.sync_done)
        elif kind == "verdicts_confirmed":
            self._actions.append(VerdictsConfirmed(message.verdicts_confirmed.sequence))
        else:
            raise errors.InvalidRequest("message", "is of a kind not known here")

    def _check_open(self, kind: str) -> Position:
        if self.end is None:
            raise errors.InvalidRequest("message", f"{kind} came before Hello and Welcome")
        return self.end

    def _greeted(self, hello: replication_pb2.Hello) -> None:
        if self.hello is not None:
            raise errors.InvalidRequest("hello", "comes once")
        self.hello = read_hello(hello)
        self._actions.append(OpenReplica(self.hello))

    def opened(self, opened: Opened) -> None:
        """The replica is open and the older stream is gone: answer Welcome.

        Raises:
            Fenced: A higher epoch is known here than the caller's.
        """
        hello, progress = self.hello, opened.progress
        assert hello is not None, "a replica is opened for a Hello"
        assert self.end is None, "a replica is opened once"
        if hello.epoch < opened.epoch:
            raise errors.Fenced(opened.epoch, hello.epoch)
        self.end = progress.durable
        self._progress = progress
        self._acked_at = self._now
        welcome = replication_pb2.Welcome(
            durable=to_wire(progress.durable),
            applied_lsn=progress.applied_lsn,
            replica_state=progress.replica_state,  # type: ignore[arg-type]  # an open enum
            kinds=sorted(self._kinds),
            replica_uid=opened.replica_uid.bytes,
            log_capacity_bytes=progress.log_capacity_bytes,
            last_start=None if opened.last_start is None else to_wire(opened.last_start),
        )
        running = opened.running_sync
        if running is not None:
            self._sync_id = running.sync_id
            welcome.running_sync.sync_id = running.sync_id
            welcome.running_sync.done = running.done
            welcome.running_sync.cursor.volume = running.cursor.volume
            welcome.running_sync.cursor.offset = running.cursor.offset
        self._actions.append(SendResponse(Response(welcome=welcome)))

    # ---- records

    def _append(self, request: Buffer) -> None:
        end = self._check_open("append")
        previous, run = split_append(request)
        if self._failed:
            self._reject(_Reject.REASON_FAILED, "the replica has failed")
        elif self._starting is not None:
            self._reject(_Reject.REASON_SYNC_MISMATCH, "the sync has not been started yet")
        elif previous != end:
            if previous.lsn == end.lsn:
                self._reject(_Reject.REASON_DIVERGED, f"the log ends in another {end}")
            else:
                self._reject(_Reject.REASON_GAP, f"the log ends at {end}, not {previous}")
        elif len(run) > self.log_room_bytes:
            self._reject(_Reject.REASON_LOG_FULL, "the log is full")
        else:
            self._take_run(run, end)

    def _take_run(self, run: memoryview, end: Position) -> None:
        views, stop, why = record.scan(run, 0, len(run), end)
        if why == "padding" and record.parse_padding(run, stop, len(run)) == len(run):
            why = "end"
        refused = next((view for view in views if view.kind not in self._kinds), None)
        if refused is not None:
            # What comes before it is history and is kept; it is never skipped itself.
            views, stop = views[: views.index(refused)], refused.start
        elif why != "end":
            self._reject(
                _Reject.REASON_CORRUPT, f"byte {stop} of the append does not continue the log"
            )
            return
        if views:
            self.end = views[-1].position
            self.log_room_bytes -= stop
            self._actions.append(AppendRun(run[:stop], views, self.end))
        if refused is not None:
            detail = f"record {refused.position} is of kind {refused.kind}"
            self._failed = True
            self._actions.append(FailReplica("UNKNOWN_RECORD", detail))
            self._reject(_Reject.REASON_UNKNOWN_RECORD, detail)

    # ---- sync

    def _sync_start(self, start: replication_pb2.SyncStart) -> None:
        end, progress = self.end, self._progress
        assert end is not None and progress is not None, "checked by the caller"
        position = from_wire(start.position)
        if len(start.sync_id) != 16:
            raise errors.InvalidRequest("sync_start.sync_id", "is not 16 bytes long")
        if progress.replica_state == common_pb2.REPLICA_STATE_FROZEN:
            self._reject(_Reject.REASON_FROZEN, "the replica stands at a message")
            return
        ahead = end.lsn > position.lsn and not self._sync_id
        if ahead and not start.discard_secondary:
            self._reject(_Reject.REASON_DIVERGED, "the replica is ahead of the sync")
            return
        self._starting = StartSync(
            sync_id=start.sync_id,
            position=position,
            volumes=read_volumes("sync_start.volumes", start.volumes),
            total_bytes=start.total_bytes,
            discard_secondary=start.discard_secondary,
            last_start=from_wire(start.last_start) if start.HasField("last_start") else None,
        )
        self._actions.append(self._starting)

    def sync_started(self, request: StartSync) -> None:
        """The replica is INCONSISTENT, durably, and its log begins at the sync's position."""
        if request is not self._starting:
            return
        assert self._progress is not None, "a sync starts on an open stream"
        self._starting = None
        self._sync_id = request.sync_id
        self._next_sequence = 1
        self.end = request.position
        self.progress(
            replace(
                self._progress,
                durable=request.position,
                applied_lsn=request.position.lsn,
                region_sequence=0,
                replica_state=common_pb2.REPLICA_STATE_INCONSISTENT,
                sync_id=request.sync_id,
            )
        )

    def sync_refused(
        self,
        request: StartSync,
        detail: str,
        reason: replication_pb2.Reject.Reason.ValueType = _Reject.REASON_NO_SPACE,
    ) -> None:
        """The sync cannot begin, by default for want of room for the guard (D27): nothing changed.

        REASON_FROZEN lets the Primary try again by itself, REASON_NO_SPACE waits for an operator.
        """
        if request is self._starting:
            self._starting = None
            self._reject(reason, detail)

    def _sync_regions(self, message: replication_pb2.SyncRegions) -> None:
        if message.sync_id != self._sync_id or message.sequence != self._next_sequence:
            expected = f"expected {self._next_sequence} of {self._sync_id.hex() or 'no sync'}"
            self._reject(_Reject.REASON_SYNC_MISMATCH, f"regions {message.sequence}: {expected}")
            return
        self._next_sequence += 1
        regions = tuple(_region(region) for region in message.regions)
        cursor = Cursor(message.cursor.volume, message.cursor.offset)
        self._actions.append(ApplyRegions(message.sequence, regions, cursor))

    def _sync_done(self, message: replication_pb2.SyncDone) -> None:
        if message.sync_id != self._sync_id or message.last_sequence != self._next_sequence - 1:
            self._reject(_Reject.REASON_SYNC_MISMATCH, "regions are missing before SyncDone")
            return
        self._actions.append(FinishSync(message.sync_id, message.consistent_lsn))

    # ---- to the Primary

    def progress(self, progress: Progress) -> None:
        """Ack what is durable and applied, if it is news."""
        if self.end is None or progress == self._progress:
            return
        assert progress.durable.lsn <= self.end.lsn, "only what was received can be durable"
        if self._starting is None:
            self._sync_id = progress.sync_id
        self._progress = progress
        self._ack()

    def verdict(self, report: replication_pb2.VerdictReport) -> None:
        """Report what became of a message; durable here before."""
        if self.end is not None:
            self._actions.append(SendResponse(Response(verdict=report)))

    def replica_state_changed(self, state: int, reason: str) -> None:
        """Report a change of the replica's state at once."""
        if self._progress is not None:
            self._progress = replace(self._progress, replica_state=state)
            change = replication_pb2.ReplicaStateChange(
                state=state,  # type: ignore[arg-type]  # an open enum
                reason=reason,
                applied_lsn=self._progress.applied_lsn,
            )
            self._actions.append(SendResponse(Response(state=change)))

    def tick(self, now: float) -> None:
        """Let time pass: a sign of life each second, and an end to a silent stream."""
        self._now = now
        if now - self._heard_at > SILENCE_SECONDS:
            self._heard_at = now
            self._actions.append(EndStream(f"no sign of life for {SILENCE_SECONDS:g} s"))
        elif self._progress is not None and now - self._acked_at >= HEARTBEAT_SECONDS:
            self._ack()

    def _ack(self) -> None:
        progress = self._progress
        assert progress is not None, "acks follow Welcome"
        self._acked_at = self._now
        ack = replication_pb2.Ack(
            durable=to_wire(progress.durable),
            applied_lsn=progress.applied_lsn,
            applied_time_unix_nanos=progress.applied_time_ns,
            region_sequence=progress.region_sequence,
            log_used_bytes=progress.log_used_bytes,
            log_capacity_bytes=progress.log_capacity_bytes,
            replica_state=progress.replica_state,  # type: ignore[arg-type]  # an open enum
            sync_id=progress.sync_id,
        )
        self._actions.append(SendResponse(Response(ack=ack)))

    def _reject(self, reason: replication_pb2.Reject.Reason.ValueType, detail: str) -> None:
        assert self.end is not None, "rejects follow Welcome"
        reject = replication_pb2.Reject(reason=reason, expected=to_wire(self.end), detail=detail)
        self._actions.append(SendResponse(Response(reject=reject)))


def _region(region: replication_pb2.Region) -> Region:
    """Return a region of the link, checked."""
    if not region.length:
        raise errors.InvalidRequest("sync_regions.length", "is 0")
    if region.WhichOneof("content") != "data":
        return Region(region.volume, region.offset, region.length, None)
    if len(region.data) != region.length:
        raise errors.InvalidRequest("sync_regions.data", "is not as long as its region")
    return Region(region.volume, region.offset, region.length, region.data)
