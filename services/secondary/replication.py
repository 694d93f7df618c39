"""ReplicationService.Replicate: one stream, and the shell that runs its sans-I/O core.

Requests come in as raw bytes and go to the replica's log as they are: no protobuf object of a
record is made. The core (`LinkReceiver`) belongs to the event loop; the replica's threads write and
apply, and poke the loop when something is durable, which becomes an ack. A stream reads on only
while the replica's queues have room, so memory is bounded whatever the Primary sends.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc

from services.secondary import translate
from services.secondary.group import SecondaryGroup
from slackwater import errors, record
from slackwater.apply import regions
from slackwater.apply.syncing import VolumeSpec
from slackwater.histogram import Histogram
from slackwater.link.actions import Region
from slackwater.link.receiver import LinkReceiver
from slackwater.link.receiver_actions import (
    AppendRun,
    ApplyRegions,
    EndStream,
    FailReplica,
    FinishSync,
    HelloInfo,
    OpenReplica,
    PrimaryHeard,
    Progress,
    ReceiverAction,
    Response,
    SendResponse,
    StartSync,
    VerdictsConfirmed,
)
from slackwater.position import Position
from slackwater.runtime import roles
from slackwater.v1 import record_pb2, replication_pb2

if TYPE_CHECKING:
    from services.secondary.node import SecondaryNode

SERVICE = "slackwater.v1.ReplicationService"
TICK_SECONDS = 0.25
APPLIED_ACK_SECONDS = 0.02
"""News of applying alone waits so long, so that a busy applier does not cost an ack per step."""
OUTBOX_LIMIT = 1000
Context = grpc.aio.ServicerContext[Any, Any]


def handlers(node: "SecondaryNode") -> grpc.GenericRpcHandler:
    """Return the service: requests stay raw bytes, responses are serialised already."""

    async def replicate(requests: AsyncIterator[bytes], context: Context) -> None:
        del requests  # read one by one from the context
        await ReplicateStream(node, context).run()

    handler: grpc.RpcMethodHandler[Any, Any]
    handler = grpc.stream_stream_rpc_method_handler(replicate, None, None)
    return grpc.method_handlers_generic_handler(SERVICE, {"Replicate": handler})


class ReplicateStream:
    """One call of Replicate, from Hello to its end. Belongs to the event loop.

    Attributes:
        finished: Set when the call has nothing more to do with the replica, but for work in a
            thread, which the group knows of.
    """

    def __init__(self, node: "SecondaryNode", context: Context) -> None:
        """Wait for Hello."""
        self.finished = asyncio.Event()
        self._node = node
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._core = LinkReceiver(self._loop.time())
        self._group: SecondaryGroup | None = None
        self.link = ""
        self._tasks: list[asyncio.Task[None]] = []
        self._sizes: dict[int, int] = {}
        self._outbox: deque[Response] = deque()
        self._to_send = asyncio.Event()
        self._changed = asyncio.Event()
        self._verdicts_due = asyncio.Event()
        self._verdicts_seen = -1
        self._told: Progress | None = None
        self._told_at = 0.0
        self._told_reason = ""
        self._later: asyncio.TimerHandle | None = None
        self._is_held = False  # the replica is between two logs: its figures mean nothing
        self._is_busy = False  # we do not read: the Primary's silence is our doing
        self._end: tuple[grpc.StatusCode, str] | None = None
        self._error: errors.SlackwaterError | None = None

    @property
    def is_open(self) -> bool:
        """Whether Welcome was answered and the call goes on."""
        return self._told is not None and not self.finished.is_set()

    # -- life ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve the call; its errors go to the caller as a status."""
        self._node.streams.add(self)
        try:
            async with asyncio.TaskGroup() as tasks:
                for work in (self._read, self._write, self._keep_time, self._report_verdicts):
                    self._tasks.append(tasks.create_task(self._guard(work())))
        finally:
            self._node.streams.discard(self)
            if self._later is not None:
                self._later.cancel()
            if self._group is not None:
                self._group.leave(self)
            self.finished.set()
        if self._error is not None:
            raise self._error
        if self._end is not None:
            await self._context.abort(*self._end)

    async def _guard(self, work: Any) -> None:
        """Let one of our errors end the stream as that error, not as a group of errors."""
        try:
            await work
        except errors.SlackwaterError as error:
            self.fail(error)

    def fail(self, error: errors.SlackwaterError) -> None:
        """End the call with the status of an error."""
        self._error = self._error or error
        self._stop()

    def supersede(self) -> None:
        """A new Hello of the group came in (D15)."""
        self._end = (grpc.StatusCode.CANCELLED, "a new stream of this group has taken over")
        self._stop()

    def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()  # also the one that says so: it ends at its next wait

    # -- from the Primary ---------------------------------------------------------------------

    async def _read(self) -> None:
        core = self._core
        while True:
            request = await self._context.read()
            if request is grpc.aio.EOF:
                self._stop()
                return
            if self._group is not None:
                self._group.heard()
            core.receive(request)
            for action in core.actions():
                await self._carry_out(action)
            await self._wait_for_room()

    async def _carry_out(self, action: ReceiverAction) -> None:
        match action:
            case SendResponse() | EndStream():
                self._send(action)
            case OpenReplica(hello):
                await self._open(hello)
            case AppendRun():
                await self._append(action)
            case StartSync():
                await self._start_sync(action)
            case _:
                await self._carry_out_rarer(action)

    async def _carry_out_rarer(self, action: ReceiverAction) -> None:
        group = self._group
        assert group is not None, "the core asks for nothing before Welcome"
        match action:
            case ApplyRegions(sequence, parts, cursor):
                row = group.replica.syncing.row
                if row is not None:  # else it was over before this came, and needs no part of it
                    group.replica.add_regions(
                        row.sync_id,
                        sequence,
                        [_region(one) for one in parts],
                        regions.Cursor(cursor.volume, cursor.offset),
                    )
            case FinishSync(sync_id, consistent_lsn):
                group.finish_sync(sync_id.hex(), consistent_lsn)
            case VerdictsConfirmed(sequence):
                await group.alone(group.replica.confirm_verdicts, sequence)
            case PrimaryHeard(time_ns, durable):
                group.primary_time_ns, group.primary_end = time_ns, durable
            case FailReplica(reason, detail):
                group.replica.fail(
                    errors.FailedPrecondition(
                        reason, detail, "Upgrade this service; Secondaries are upgraded first"
                    )
                )
            case _:
                raise AssertionError(f"{action} is carried out elsewhere")

    async def _open(self, hello: HelloInfo) -> None:
        self._is_busy = self._is_held = True
        try:
            group, opened = await self._node.admit(self, hello)
            self._sizes = {one.volume: one.size_bytes for one in hello.volumes}
            self._core.opened(opened)
            self._told = opened.progress
            self._core.log_room_bytes = group.replica.log_room_bytes
            self._flush()  # Welcome comes first
            group.joined(hello)
        finally:
            self._is_busy = self._is_held = False
        self.refresh()

    def adopt(self, group: SecondaryGroup, link: str) -> None:
        """The node made this the group's stream, along the link of that name."""
        self._group, self.link = group, link

    async def _append(self, action: AppendRun) -> None:
        group = self._group
        assert group is not None, "records follow Welcome"
        if any(view.kind == record.KIND_VOLUME_CHANGE for view in action.views):
            self._plan_volumes(group, action)
        on_durable = partial(_note_durable, group.tally.durable_seconds, time.monotonic())
        append = partial(group.replica.append_run, action.run, action.views, on_durable)
        if any(view.kind == record.KIND_IBC_MESSAGE for view in action.views):
            await group.alone(append)  # starts writing the volumes back (D24), which may take long
        else:
            append()

    def _plan_volumes(self, group: SecondaryGroup, action: AppendRun) -> None:
        """Refuse what takes the group's volumes past the caller's quota, before it is received.

        What lies before the Hello is in the volumes that the Hello named, or undone since.
        """
        hello = self._core.hello
        assert hello is not None, "records follow Hello"
        quotas = self._node.quotas
        for view in action.views:
            if view.kind == record.KIND_VOLUME_CHANGE and view.lsn > hello.durable.lsn:
                body = bytes(action.run[view.body_start : view.body_end])
                change = record_pb2.VolumeChange.FromString(body)
                if change.kind == record_pb2.VolumeChange.KIND_REMOVE:
                    self._sizes.pop(change.volume, None)
                    quotas.note(group.name, sum(self._sizes.values()))
                else:
                    self._sizes[change.volume] = change.size_bytes
                    size = sum(self._sizes.values())
                    quotas.plan(roles.caller(), group.name, size, "volume_change.size_bytes")

    async def _start_sync(self, action: StartSync) -> None:
        group = self._group
        assert group is not None, "a sync follows Welcome"
        specs = [VolumeSpec(one.volume, one.name, one.size_bytes) for one in action.volumes]
        self._sizes = {one.volume: one.size_bytes for one in action.volumes}
        size = sum(self._sizes.values())
        self._node.quotas.plan(roles.caller(), group.name, size, "sync_start.volumes")
        self._is_busy = self._is_held = True
        try:
            await group.alone(
                group.begin_sync,
                action.sync_id.hex(),
                action.position,
                specs,
                action.total_bytes,
                action.last_start,
            )
        except errors.NoSpace as error:
            group.replica.check_alive()
            self._core.sync_refused(action, str(error))
        except (errors.FailedPrecondition, errors.Unavailable) as error:
            # It froze meanwhile, or cannot apply what it holds; the Primary tries again by itself.
            reason = replication_pb2.Reject.REASON_FROZEN
            self._core.sync_refused(action, str(error), reason)
        else:
            self._core.sync_started(action)
            if self._told is not None:
                self._told = replace(self._told, durable=action.position)
        finally:
            self._is_busy = self._is_held = False
        self._flush()
        self.refresh()

    async def _wait_for_room(self) -> None:
        """Read no further while the log, the regions or the outbox are behind."""
        while not self._has_room():
            self._is_busy = True
            self._changed.clear()
            await self._changed.wait()
        self._is_busy = False

    def _has_room(self) -> bool:
        if len(self._outbox) >= OUTBOX_LIMIT:
            return False
        group = self._group
        return group is None or (group.replica.receiver.has_room and group.replica.regions.has_room)

    # -- to the Primary -----------------------------------------------------------------------

    def refresh(self) -> None:
        """The replica changed: tell the Primary, at once if something is durable."""
        self._changed.set()
        group, told = self._group, self._told
        if group is None or told is None or self._is_held:
            return
        if group.verdicts != self._verdicts_seen:
            self._verdicts_due.set()
        self._core.log_room_bytes = group.replica.log_room_bytes
        now, reason = group.progress(), group.reason
        if (now.replica_state, reason) != (told.replica_state, self._told_reason):
            self._told_reason = reason
            self._core.replica_state_changed(now.replica_state, reason)
        only_applied = replace(
            told,
            applied_lsn=now.applied_lsn,
            applied_time_ns=now.applied_time_ns,
            log_used_bytes=now.log_used_bytes,
        )
        time_left = self._told_at + APPLIED_ACK_SECONDS - self._loop.time()
        if now == only_applied and now != told and time_left > 0:
            if self._later is None:
                self._later = self._loop.call_later(time_left, self._refresh_later)
            return
        if now != told:
            self._told, self._told_at = now, self._loop.time()
            self._core.progress(now)
        self._flush()

    def _refresh_later(self) -> None:
        self._later = None
        self.refresh()

    def _flush(self) -> None:
        """Send what the core answers to news of the replica and to time."""
        for action in self._core.actions():
            assert isinstance(action, SendResponse | EndStream), "only requests ask for more"
            self._send(action)

    def _send(self, action: SendResponse | EndStream) -> None:
        if isinstance(action, EndStream):
            if not self._is_busy:
                self.fail(errors.Unavailable("the Primary", action.reason))
            return
        outbox, message = self._outbox, action.message
        if outbox and message.HasField("ack") and outbox[-1].HasField("ack"):
            outbox[-1] = message  # acks are cumulative
        else:
            outbox.append(message)
        if message.HasField("reject") and self._group is not None:
            self._group.tally.rejects += 1
        self._to_send.set()

    async def _write(self) -> None:
        outbox = self._outbox
        while True:
            while outbox:
                await self._context.write(outbox.popleft().SerializeToString())
            self._changed.set()
            self._to_send.clear()
            await self._to_send.wait()

    async def _keep_time(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self.refresh()
            self._core.tick(self._loop.time())
            self._flush()

    async def _report_verdicts(self) -> None:
        """Repeat after Welcome what the Primary has not confirmed, then report what comes (D17)."""
        reported = 0
        while True:
            await self._verdicts_due.wait()
            self._verdicts_due.clear()
            group = self._group
            assert group is not None, "verdicts are due after Welcome"
            self._verdicts_seen = group.verdicts
            rows = await asyncio.to_thread(group.replica.unconfirmed_verdicts)
            for row in rows:
                if row.sequence > reported:
                    reported = row.sequence
                    self._core.verdict(translate.verdict_report(row))
            self._flush()


def _region(one: Region) -> regions.Region:
    return regions.Region(one.volume, one.offset, one.length, one.data)


def _note_durable(seconds: Histogram, received: float, position: Position) -> None:
    """Note how long records waited for their sync; called by the thread that writes the log."""
    del position
    seconds.observe(time.monotonic() - received)
