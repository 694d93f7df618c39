"""One link in a sender: the shell around `slackwater.link.sender.LinkSender`.

One task does everything the core asks, in order. A second task reads the stream's responses into a
queue. Nothing of the core is touched anywhere else.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
import grpc.aio

from services.primary.sender import control
from services.primary.sender.regions import RegionReader, SyncVolume
from services.primary.sender.showing import Showing
from slackwater import record
from slackwater.errors import LogCorrupt
from slackwater.link import actions as act
from slackwater.link.sender import LinkSender
from slackwater.link.settings import LinkIdentity, LinkRow, SenderSettings
from slackwater.log.marks import GroupMarks, LinkMarks
from slackwater.log.reader import LogReader, Trimmed
from slackwater.log.segment import LogSettings
from slackwater.position import LogPoint
from slackwater.storage.seam import Storage
from slackwater.v1 import replication_pb2

METHOD = "/slackwater.v1.ReplicationService/Replicate"
TICK_SECONDS = 0.2

_FATAL = frozenset(
    {
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.DATA_LOSS,
    }
)

Ask = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
Dial = Callable[[str], grpc.aio.Channel]


class LinkTask:
    """Carries one link until it is stopped."""

    def __init__(
        self,
        spec: dict[str, Any],
        storage: Storage,
        group_marks: GroupMarks,
        link_marks: LinkMarks,
        ask: Ask,
        tell: Callable[[control.Message], None],
        dial: Dial,
    ) -> None:
        """Take up a link.

        Args:
            spec: what the main process says of it: key, identity, row, log, volumes, endpoint.
            storage: where log and volumes are.
            group_marks: how far the log may be read.
            link_marks: where progress is shown.
            ask: asks the main process and returns its answer.
            tell: tells it something.
            dial: opens a channel to an endpoint.
        """
        self.key: str = spec["key"]
        self.endpoint: str = spec["endpoint"]
        self.generation = 0
        self._storage = storage
        self._marks = group_marks
        self._link = link_marks
        self._ask = ask
        self._tell = tell
        self._dial = dial
        self.set_volumes(spec["volumes"])
        identity = spec["identity"]
        row = spec["row"]
        self.core = LinkSender(
            LinkIdentity(
                bytes.fromhex(identity["uid"]),
                identity["group"],
                identity["link"],
                identity["epoch"],
                record.KNOWN_KINDS,
                identity["log_bytes"],
            ),
            LinkRow(
                act.LinkState(row["state"]),
                row["reason"],
                row["dirty"],
                bytes.fromhex(row["sync_id"]),
                None if row["acked"] is None else control.json_position(row["acked"]),
                row["discard"],
            ),
            SenderSettings(window_bytes=spec["window_bytes"]),
            random.random,
            control.new_id,
        )
        self._reader = LogReader(
            storage,
            Path(spec["log"]["directory"]),
            UUID(bytes=bytes.fromhex(identity["uid"])),
            LogSettings(
                spec["log"]["log_bytes"],
                spec["log"]["segment_bytes"],
                spec["log"]["max_commit_bytes"],
            ),
        )
        self._regions = RegionReader(storage)
        self._inbox: asyncio.Queue[Callable[[], None]] = asyncio.Queue()
        self._call: grpc.aio.StreamStreamCall[bytes, Any] | None = None
        self._channel: grpc.aio.Channel | None = None
        self._reading: asyncio.Task[None] | None = None
        self._awake = asyncio.Event()
        self._showing = Showing(self.key, self.core, link_marks, tell)
        self._stopping = False

    # -- what the process does with it ---------------------------------------------------------

    def post(self, step: Callable[[], None]) -> None:
        """Let the link's task run a step of the core."""
        self._inbox.put_nowait(step)
        self._awake.set()

    def wake(self) -> None:
        """Say that the log may have grown."""
        self._awake.set()

    def stop(self) -> None:
        """End the task after what it is doing."""
        self._stopping = True
        self._awake.set()

    def set_volumes(self, volumes: list[dict[str, Any]]) -> None:
        """Take the group's volumes as they are now."""
        self._volumes = [
            SyncVolume(one["id"], one["name"], one["size"], Path(one["path"]), one["lsn"])
            for one in volumes
        ]

    async def run(self) -> None:
        """Carry the link."""
        try:
            while not self._stopping:
                self._awake.clear()
                while not self._inbox.empty():
                    self._inbox.get_nowait()()
                    await self._perform()
                self._advance()
                await self._perform()
                self._showing.show()
                await self._sleep()
        finally:
            await self._hang_up()
            self._reader.close()
            self._regions.close()

    def _advance(self) -> None:
        self.core.tick(time.monotonic(), time.time_ns())
        if self._marks.failed:
            self._hang_up_soon()
            return
        # in_volumes first: the durable mark only grows, so it is never below what was read.
        in_volumes = self._marks.in_volumes_offset
        durable = self._marks.durable_offset
        self.core.log_advanced(max(durable, in_volumes), in_volumes, self._marks.trim_offset)

    def _hang_up_soon(self) -> None:
        if self._call is not None:
            self.core.disconnected("the group has failed on the Primary")

    async def _sleep(self) -> None:
        if self._awake.is_set() or not self._inbox.empty():
            await asyncio.sleep(0)
            return
        # Say that we sleep, then look again: the main process stores the mark before it looks.
        self._marks.sleepers = 1
        grown = self._marks.durable_offset > self.core.records.durable_offset
        if grown and not self._marks.failed:  # of a failed group nothing more is taken
            await asyncio.sleep(0)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(TICK_SECONDS):
                await self._awake.wait()

    # -- what the core asks for ----------------------------------------------------------------

    async def _perform(self) -> None:
        while actions := self.core.actions():
            for action in actions:
                await self._do(action)

    async def _do(self, action: act.LinkAction) -> None:
        if isinstance(action, act.SendAppend):
            await self._write(b"".join((action.prefix, action.run)))
            self._link.sent_bytes += len(action.run)
        elif isinstance(action, act.SendMessage):
            await self._write(action.message.SerializeToString())
        elif isinstance(action, act.ReadLog):
            self._read_log(action)
        elif isinstance(action, act.ReadRegions):
            await self._read_regions(action)
        elif isinstance(action, act.Acked):
            self._acked(action)
        elif isinstance(action, act.Dial):
            await self._open()
        elif isinstance(action, act.Disconnect):
            await self._hang_up()
        else:
            await self._do_by_main(action)

    async def _do_by_main(
        self, action: act.FindPosition | act.FindSyncPoint | act.StoreLink | act.VerdictReceived
    ) -> None:
        """What only the main process can do: it has the log's index and group.db."""
        if isinstance(action, act.FindPosition):
            found = await self._ask("find", {"position": control.position_json(action.position)})
            point = None if found["point"] is None else control.json_point(found["point"])
            self.core.placing.position_found(action, point, found["oldest_lsn"])
        elif isinstance(action, act.FindSyncPoint):
            found = await self._ask("sync_point", {})
            self.set_volumes(found["volumes"])
            total = sum(volume.size for volume in self._volumes)
            point = control.json_point(found["point"])
            self.core.sync.point_found(action, point, self._infos(), total)
        elif isinstance(action, act.StoreLink):
            await self._store(action)
        else:
            self._store_verdict(action)

    async def _store(self, action: act.StoreLink) -> None:
        await self._ask(
            "store",
            {
                "state": action.state.value,
                "reason": action.reason,
                "dirty": action.dirty,
                "sync_id": action.sync_id.hex(),
                "discard": action.discard_secondary,
                "forget_acked": action.forget_acked,
                "sync_point": None
                if action.sync_point is None
                else control.point_json(action.sync_point),
                "generation": self.generation,
            },
        )

    def _store_verdict(self, action: act.VerdictReceived) -> None:
        self._tell(
            {
                "event": "verdict",
                "key": self.key,
                "report": action.report.SerializeToString().hex(),
            }
        )

    def _infos(self) -> list[act.VolumeInfo]:
        return [act.VolumeInfo(one.id, one.name, one.size) for one in self._volumes]

    def _read_log(self, action: act.ReadLog) -> None:
        try:
            found = self._reader.read(action.start.offset, action.limit, action.max_bytes)
        except Trimmed:
            self.core.records.slice_trimmed(action)
            return
        except LogCorrupt as corrupt:
            self.core.fail(str(corrupt))
            return
        if action.start.offset < self._marks.trim_offset:
            self.core.records.slice_trimmed(action)  # recycled while it was read (D14)
            return
        assert found.last is not None, "the core asks below the durable end"
        self._link.sent_records += found.count
        self._link.reading_offset = action.start.offset
        first = record.parse(found.data, 0, len(found.data))
        assert first is not None, "a slice begins with a record"
        end = LogPoint(found.next_offset, found.last)
        self.core.records.slice_read(action, found.data, end, first.time_ns)

    async def _read_regions(self, action: act.ReadRegions) -> None:
        sent = self.core.records.sent.position.lsn
        volumes = [volume for volume in self._volumes if volume.lsn <= sent]
        try:
            read = self._regions.read(volumes, action.cursor, action.max_bytes)
        except OSError as error:
            self.core.fail(f"a volume cannot be read for the sync: {error}")
            return
        durable_lsn = self._marks.durable_lsn
        self.core.sync.regions_read(
            action, read.regions, read.cursor, read.covered_bytes, read.done, durable_lsn
        )
        await asyncio.sleep(0)

    def _acked(self, action: act.Acked) -> None:
        self._link.acked_lsn = action.point.position.lsn
        self._link.acked_offset = action.point.offset
        self._link.applied_lsn = action.applied_lsn
        self._link.applied_time_ns = action.applied_time_ns
        self._link.last_ack_time_ns = time.time_ns()

    # -- the stream ----------------------------------------------------------------------------

    async def _open(self) -> None:
        self._channel = self._dial(self.endpoint)
        try:
            async with asyncio.timeout(10):
                await self._channel.channel_ready()
            call: grpc.aio.StreamStreamCall[bytes, Any] = self._channel.stream_stream(
                METHOD,
                request_serializer=None,
                response_deserializer=replication_pb2.ReplicateResponse.FromString,
            )()
        except (TimeoutError, grpc.aio.AioRpcError):
            await self._hang_up()
            self.core.disconnected(f"cannot reach {self.endpoint}")
            return
        self._call = call
        self._reading = asyncio.create_task(self._read(call))
        answer = await self._ask("durable", {})
        self.set_volumes(answer["volumes"])
        self._link.reconnects += 1
        self.core.connected(control.json_point(answer["point"]), self._infos())

    async def _read(self, call: "grpc.aio.StreamStreamCall[bytes, Any]") -> None:
        """Hand each response to the link's task, until the stream ends."""
        reason, fatal = "the Secondary ended the stream", False
        try:
            async for response in call:
                self.post(partial(self._receive, call, response))
            code = await call.code()
            details = await call.details()
            if code is not grpc.StatusCode.OK:
                reason, fatal = f"{code.name}: {details}", code in _FATAL
        except grpc.aio.AioRpcError as error:
            reason, fatal = f"{error.code().name}: {error.details()}", error.code() in _FATAL
        except asyncio.CancelledError:
            if self._call is call:
                raise
        self.post(lambda: self._ended(call, reason, fatal))

    def _receive(self, call: object, response: replication_pb2.ReplicateResponse) -> None:
        if call is self._call:
            self.core.receive(response)

    def _ended(self, call: object, reason: str, fatal: bool) -> None:
        if call is self._call:
            self._call = None
            self.core.disconnected(reason, fatal)

    async def _write(self, data: bytes) -> None:
        call = self._call
        if call is None:
            return
        # The reading task learns why a stream ended, and says so.
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, grpc.aio.UsageError):
            await call.write(data)

    async def _hang_up(self) -> None:
        call, self._call = self._call, None
        reading, self._reading = self._reading, None
        channel, self._channel = self._channel, None
        if reading is not None:
            reading.cancel()
        if call is not None:
            call.cancel()
        if channel is not None:
            await channel.close()
