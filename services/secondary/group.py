"""One replica in the secondary service: the engine, the stream that feeds it, what it counts."""

import asyncio
import errno
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import structlog

from services.secondary import translate
from slackwater import errors
from slackwater.apply.replica import Replica
from slackwater.apply.replica_budget import Expired
from slackwater.apply.status import ReplicaState
from slackwater.apply.syncing import VolumeSpec
from slackwater.group.rows import SnapshotRow
from slackwater.histogram import Histogram
from slackwater.ibc.messages import Behaviour, Message, Verdict, VerdictState
from slackwater.link.actions import Cursor
from slackwater.link.receiver_actions import HelloInfo, Opened, Progress, RunningSync
from slackwater.link.wire import MAX_APPEND
from slackwater.position import Position
from slackwater.runtime.calls import in_words
from slackwater.runtime.events import EventHub
from slackwater.snapshots.budget import OK

if TYPE_CHECKING:
    from services.secondary.replication import ReplicateStream

P = ParamSpec("P")
T = TypeVar("T")

FREEZE_BOUNDS = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
RESULTS = tuple(
    state.value
    for state in VerdictState
    if state.is_final and state is not VerdictState.LINK_DETACHED
)


class Tally:
    """What happened to messages and streams since the service started."""

    def __init__(self) -> None:
        """Begin with every figure at 0, so that an alert sees the first step."""
        self.messages = {(kind.value, result): 0 for kind in Behaviour for result in RESULTS}
        self.freeze_seconds = Histogram(FREEZE_BOUNDS)
        self.durable_seconds = Histogram()
        self.streams = 0
        self.rejects = 0
        self.stalls = 0

    def verdict(self, message: Message, verdict: Verdict) -> None:
        """Count what became of a message."""
        key = (message.behaviour.value, verdict.state.value)
        if verdict.state.is_final:
            self.messages[key] = self.messages.get(key, 0) + 1
        if verdict.frozen_seconds is not None:
            self.freeze_seconds.observe(verdict.frozen_seconds)


class SecondaryGroup:
    """A replica and its stream. Unless it says otherwise, a method belongs to the event loop.

    Attributes:
        admin: Held in a thread by calls that change the replica and remember their answer.
        stream: The one stream that may feed the replica, from its Hello on.
        verdicts: Counts verdicts, so that the stream knows when to look.
        epoch: The highest epoch that a Hello or the log has shown.
        heard_ns: When the Primary was last heard, by this machine's clock; 0: never.
        primary_time_ns: The Primary's clock as last heard; 0: never.
        primary_end: The durable end of the Primary's log as last heard; None: past what it sent.
    """

    def __init__(
        self,
        replica: Replica,
        loop: asyncio.AbstractEventLoop,
        events: EventHub,
        log: structlog.BoundLogger,
    ) -> None:
        """Take an open replica; `start` lets it work. From any thread."""
        self.replica = replica
        self.name = replica.name
        self.admin = threading.Lock()
        self.tally = Tally()
        self.stream: ReplicateStream | None = None
        self.verdicts = 0
        self.epoch = replica.database.identity().epoch
        self.heard_ns = 0
        self.primary_time_ns = 0
        self.primary_end: Position | None = None
        self._loop = loop
        self._events = events
        self._log = log.bind(group=replica.name)
        self._state = replica.state
        self._stall = ""
        self._budget_state = OK
        self._is_poked = False
        self._work: asyncio.Future[object] | None = None

    def start(self) -> None:
        """Let the replica's threads work. From any thread."""
        self.replica.on_change = self._poke
        self.replica.messages.on_verdict = self._verdict
        self.replica.controls.on_judged = self._judged
        self.replica.on_expired = self._expired
        self.replica.on_copied = self._copied
        self.replica.start()

    def close(self) -> None:
        """Stop the replica in order: a clean end leaves nothing to replay. In a thread."""
        self.replica.on_change = lambda: None
        self.replica.close()

    # -- news of the replica ------------------------------------------------------------------

    def _poke(self) -> None:
        """Something changed; from the replica's threads, many times a second."""
        if not self._is_poked:
            self._is_poked = True
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._changed)

    def _verdict(self, message: Message, verdict: Verdict) -> None:
        """A verdict is durable; from any thread, under the replica's lock."""
        self.tally.verdict(message, verdict)
        self.verdicts += 1
        name = translate.message_name(self.name, message.message_id)
        text = f"{verdict.state.value} at {message.position}"
        self._events.publish(name, "MESSAGE_VERDICT", text)
        self._log.info(
            "message",
            message=message.message_id,
            position=message.position,
            application=message.application,
            verdict=verdict.state.value,
            by=verdict.by,
        )
        self._poke()

    def _judged(self, row: SnapshotRow) -> None:
        """The outcome of a snapshot's message was applied; from the applier's thread (C17)."""
        text = f"{row.grade} ({str(row.evidence['outcome']).lower()})"
        self._events.publish(
            f"groups/{self.name}/snapshots/{row.name}", "SNAPSHOT_GRADED", text, grade=row.grade
        )
        self._log.info(
            "snapshot_graded",
            snapshot=row.name,
            grade=row.grade,
            message=row.message_id,
            outcome=row.evidence["outcome"],
        )

    def _copied(self, row: SnapshotRow) -> None:
        """A full copy is whole and durable; from the replica's upkeep."""
        name = f"groups/{self.name}/snapshots/{row.name}"
        self._events.publish(name, "SNAPSHOT_COPIED", "it no longer needs the volumes")
        self._log.info("snapshot_copied", snapshot=row.name)

    def _expired(self, row: Expired) -> None:
        """The budget took a snapshot; from the replica's upkeep."""
        self._events.publish(
            f"groups/{self.name}/snapshots/{row.name}",
            "SNAPSHOT_EXPIRED",
            f"the snapshot budget is spent: the snapshot at {row.position} went with"
            f" {row.kept_bytes} bytes",
            grade=row.grade,
        )
        self._log.warning(
            "snapshot_expired",
            snapshot=row.name,
            position=row.position,
            grade=row.grade,
            message=row.message_id,
            kept_bytes=row.kept_bytes,
        )
        self._poke()

    def _changed(self) -> None:
        self._is_poked = False  # first: what changes from here on pokes again
        self.look()
        if self.stream is not None:
            self.stream.refresh()

    def look(self) -> None:
        """Tell who watches about a change of state; called at each change and now and then."""
        state, reason = self.replica.state, self.reason
        if state is not self._state:
            self._log.info(
                "replica_state",
                state=state.value,
                before=self._state.value,
                position=self.replica.applied,
                reason=reason,
            )
            self._events.publish(
                f"groups/{self.name}",
                "REPLICA_STATE_CHANGED",
                f"{self._state.value} -> {state.value} at {self.replica.applied}"
                + (f": {reason}" if reason else ""),
                state=state.value,
            )
            self._state = state
        self._look_at_budget()
        stall = self._stall_text()
        if stall != self._stall:
            self._stall = stall
            if stall:
                self.tally.stalls += 1
                self._log.warning("stalled", reason=stall)
                self._say("APPLYING_STALLED", stall)

    def _look_at_budget(self) -> None:
        now = self.replica.catalogue.budget.state()
        if now != self._budget_state:
            self._budget_state = now
            text = self._budget_text() or "below the soft mark again"
            self._log.warning("snapshot_budget", state=now, text=text)
            self._say("SNAPSHOT_BUDGET", f"{now}: {text}")

    def _budget_text(self) -> str:
        budget = self.replica.catalogue.budget
        if budget.settings is None or budget.state() == OK:
            return ""
        left = budget.seconds_left()
        when = "" if left is None else f"; spent in {left / 3600:.1f} h as it grows now"
        return (
            f"snapshots keep {budget.used_bytes} of {budget.settings.limit_bytes} bytes; no new"
            f" snapshot is taken{when}"
        )

    def _stall_text(self) -> str:
        stall = self.replica.applier.stall
        if stall is None:
            return ""
        budget = self.replica.catalogue.budget
        if budget.is_short and budget.settings is not None and stall.errno == errno.EDQUOT:
            return (
                f"record {stall.lsn} waits for room in the snapshot budget: {budget.used_bytes} of"
                f" {budget.settings.limit_bytes} bytes are used; delete snapshots, or: slackwater"
                f" replica budget {self.name} --bytes SIZE"
            )
        why = errors.StorageFailed("the replica", stall.doing, stall.errno)
        return f"record {stall.lsn} cannot be applied now ({why}); it is tried again by itself"

    def _log_text(self) -> str:
        if not self.replica.is_log_full:
            return ""
        shortage = self.replica.receiver.shortage
        if shortage:
            return shortage
        return "the log is full; nothing more is received until applying has made room"

    @property
    def reason(self) -> str:
        """Why the replica is in its state, or nothing. From any thread."""
        replica = self.replica
        if replica.failure is not None:
            return str(replica.failure)
        short = [text for text in (self._stall_text(), self._log_text(), replica.shortage) if text]
        if short:
            return "; ".join(dict.fromkeys(short))
        if replica.state is ReplicaState.RECOVERING:
            return "replaying the log after an unclean stop"
        if replica.state is ReplicaState.INCONSISTENT:
            return "being synchronised from the Primary's volumes"
        return self._budget_text()

    @property
    def is_healthy(self) -> bool:
        """Whether the replica is a past state of the group and follows it. From any thread."""
        replica = self.replica
        good = replica.state in (ReplicaState.CONSISTENT, ReplicaState.EMPTY)
        has_room = replica.applier.stall is None and not replica.is_log_full
        return good and has_room and not replica.shortage

    # -- the stream ---------------------------------------------------------------------------

    async def alone(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what the stream asks of the replica in a thread; the next stream waits for it."""
        work = self._loop.run_in_executor(None, partial(in_words, function, *args, **kwargs))
        self._work = work  # type: ignore[assignment]  # whatever it returns, only its end counts
        return await asyncio.shield(work)

    def begin_sync(
        self,
        sync_id: str,
        start: Position,
        volumes: Sequence[VolumeSpec],
        total_bytes: int,
        last_start: Position | None,
    ) -> None:
        """Start the replica over from its Primary's volumes, and say so; raises as the replica."""
        self.replica.begin_sync(sync_id, start, volumes, total_bytes, last_start)
        self._log.info("sync_begun", sync=sync_id, start=start, bytes=total_bytes)
        self._loop.call_soon_threadsafe(self._say, "SYNC_BEGUN", f"{total_bytes} bytes to copy")

    def finish_sync(self, sync_id: str, consistent_lsn: int) -> None:
        """Note that all of the Primary's volumes came; consistent from that lsn on."""
        self.replica.finish_sync(sync_id, consistent_lsn)
        self._log.info("sync_received", sync=sync_id, consistent_lsn=consistent_lsn)
        self._say("SYNC_RECEIVED", f"consistent from lsn {consistent_lsn} on")

    def _say(self, kind: str, text: str) -> None:
        self._events.publish(f"groups/{self.name}", kind, text)

    async def settle(self) -> None:
        """Wait for what an ended stream still had in hand (D15)."""
        if self._work is not None and not self._work.done():
            await asyncio.wait([self._work])

    def check_hello(self, uid: uuid.UUID, epoch: int) -> None:
        """Refuse who is not this replica's Primary. In a thread.

        Raises:
            FailedPrecondition: it is the replica of another group.
            Fenced: a higher epoch is known.
            GroupFailed: the replica has failed.
        """
        if uid != self.replica.uid:
            raise errors.FailedPrecondition(
                "GROUP_MISMATCH",
                f"replica {self.name!r} here is of group {self.replica.uid}, the caller's group"
                f" {self.name!r} is {uid}; nothing was changed",
                f"Give the group another name, or let the old replica go:"
                f" slackwater replica delete {self.name}",
            )
        self.epoch = max(self.epoch, self.replica.database.identity().epoch)
        if epoch < self.epoch:
            raise errors.Fenced(self.epoch, epoch)
        self.replica.check_alive()
        self.epoch = epoch

    def welcome(self, hello: HelloInfo) -> Opened:
        """Make the replica ready for a new stream and say where it stands. In a thread (D15)."""
        replica = self.replica
        if hello.epoch > replica.database.identity().epoch:
            # Durable before Welcome: a restart must not let the Primary before this one write.
            replica.database.raise_epoch(hello.epoch)
        replica.new_stream(hello.link)
        row = replica.database.sync()
        running = None
        if row is not None:
            cursor = Cursor(*row.cursor) if row.cursor else Cursor()
            done = row.consistent_lsn is not None
            running = RunningSync(bytes.fromhex(row.sync_id), cursor, done)
        last_start = replica.receiver.last_start
        return Opened(replica.replica_uid, self.epoch, self.progress(), running, last_start)

    def progress(self) -> Progress:
        """Return what is safe now, for an ack. From any thread."""
        replica = self.replica
        sequence = replica.checkpointer.durable_progress.sequence
        row = replica.syncing.row
        time_ns, applied = replica.applier.applied_time_ns, replica.applied
        log, room = replica.receiver.log, replica.log_room_bytes
        return Progress(
            durable=replica.durable,  # read after `applied`, which follows it
            applied_lsn=applied.lsn,
            applied_time_ns=time_ns,
            region_sequence=sequence,
            # What is kept for control records is not for the Primary to send into.
            log_used_bytes=log.used_bytes if room >= MAX_APPEND else log.capacity_bytes,
            log_capacity_bytes=log.capacity_bytes,
            replica_state=translate.replica_state(replica.state),
            sync_id=b"" if row is None else bytes.fromhex(row.sync_id),
        )

    def heard(self) -> None:
        """The Primary gave a sign of life."""
        self.heard_ns = time.time_ns()

    @property
    def is_connected(self) -> bool:
        """Whether the Primary's stream is open. From any thread."""
        stream = self.stream
        return stream is not None and stream.is_open

    def leave(self, stream: "ReplicateStream") -> None:
        """A stream has ended."""
        if self.stream is stream:
            self.stream = None
            self._say("STREAM_CLOSED", "")
            self._log.info("stream_closed", durable=self.replica.durable)

    def joined(self, hello: HelloInfo) -> None:
        """A stream is open."""
        self.tally.streams += 1
        self._say("STREAM_OPENED", f"link {hello.link}")
        self._log.info(
            "stream_open", link=hello.link, epoch=hello.epoch, durable=self.replica.durable
        )
