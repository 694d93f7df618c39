"""One link in a sender: the shell around `slackwater.link.sender.LinkSender`.

One task does everything the core asks, in order; what happens elsewhere is posted to it as steps.
Nothing of the core is touched anywhere else.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

from services.primary.sender import control
from services.primary.sender.line import Dial, Line, Step
from services.primary.sender.regions import RegionReader, SyncVolume
from services.primary.sender.showing import Showing
from slackwater import record
from slackwater.errors import LogCorrupt
from slackwater.link import actions as act
from slackwater.link.sender import LinkSender
from slackwater.link.settings import LinkIdentity, LinkRow, SenderSettings, Stream
from slackwater.log.marks import GroupMarks, LinkMarks
from slackwater.log.reader import LogReader, Trimmed
from slackwater.log.segment import LogSettings
from slackwater.position import LogPoint
from slackwater.storage.seam import Storage

TICK_SECONDS = 0.2
VOLUMES_SECONDS = 0.005
"""How soon a sync looks again whether the volumes have caught up with what was sent."""

ASK_AGAIN_SECONDS = 1.0
BACKOFF_SECONDS = 5.0
"""A Secondary that is back is found again within this."""

Ask = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]


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
        self.generation: int = spec["generation"]
        self._storage = storage
        self._marks = group_marks
        self._link = link_marks
        self._ask_once = ask
        self._tell = tell
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
            SenderSettings(window_bytes=spec["window_bytes"], backoff_max_seconds=BACKOFF_SECONDS),
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
        self._inbox: asyncio.Queue[Step] = asyncio.Queue()
        self._awake = asyncio.Event()
        self._line = Line(dial, self.post, self._opened, self.core.receive, self._ended)
        self._showing = Showing(self.key, self.core, link_marks, tell)

    # -- what the process does with it ---------------------------------------------------------

    def post(self, step: Step) -> None:
        """Let the link's task run a step of the core."""
        self._inbox.put_nowait(step)
        self._awake.set()

    def wake(self) -> None:
        """Say that the log may have grown."""
        self._awake.set()

    def move(self, endpoint: str) -> None:
        """Dial another endpoint from now on."""
        if endpoint != self.endpoint:
            self.endpoint = endpoint
            if self.core.connection.stream is not Stream.CLOSED:
                self.core.break_off("the endpoint was changed")

    def set_volumes(self, volumes: list[dict[str, Any]]) -> None:
        """Take the group's volumes as they are now."""
        self._volumes = [
            SyncVolume(one["id"], one["name"], one["size"], Path(one["path"]), one["lsn"])
            for one in volumes
        ]

    async def run(self) -> None:
        """Carry the link until the task is cancelled, which may be at any place.

        What is durable is the main process's, so nothing is lost with what was under way.
        """
        try:
            while True:
                self._awake.clear()
                while not self._inbox.empty():
                    waiting = self._inbox.get_nowait()()
                    if waiting is not None:
                        await waiting
                    await self._perform()
                self._advance()
                await self._perform()
                if not self.core.sync.is_running:
                    self._regions.close()
                self._showing.show()
                await self._sleep()
        finally:
            self._reader.close()
            self._regions.close()
            await self._line.hang_up()

    def _advance(self) -> None:
        if self._marks.failed:
            if self.core.connection.stream is not Stream.CLOSED:
                self.core.break_off("the group has failed on the Primary")
            return  # no time passes for the core, so it does not dial either (D3)
        self.core.tick(time.monotonic(), time.time_ns())
        # in_volumes first: the durable mark only grows, so it is never below what was read.
        in_volumes = self._marks.in_volumes_offset
        durable = self._marks.durable_offset
        self.core.log_advanced(max(durable, in_volumes), in_volumes, self._marks.trim_offset)

    async def _sleep(self) -> None:
        if self._awake.is_set() or not self._inbox.empty():
            await asyncio.sleep(0)
            return
        # Say that we sleep, then look again: the main process stores the mark before it looks.
        self._marks.sleepers = 1
        records = self.core.records
        grown = self._marks.durable_offset > records.durable_offset
        if grown and not self._marks.failed:  # of a failed group nothing more is taken
            await asyncio.sleep(0)
            return
        # Nobody wakes us when the volumes have caught up, which only a sync waits for.
        behind = self.core.sync.is_running and records.in_volumes_offset < records.durable_offset
        with suppress(TimeoutError):
            async with asyncio.timeout(VOLUMES_SECONDS if behind else TICK_SECONDS):
                await self._awake.wait()

    # -- what the core asks for ----------------------------------------------------------------

    async def _perform(self) -> None:
        while actions := self.core.actions():
            for action in actions:
                await self._do(action)

    async def _do(self, action: act.LinkAction) -> None:
        if isinstance(action, act.SendAppend):
            await self._line.write(b"".join((action.prefix, action.run)))
            self._link.sent_bytes += len(action.run)
        elif isinstance(action, act.SendMessage):
            await self._line.write(action.message.SerializeToString())
        elif isinstance(action, act.ReadLog):
            self._read_log(action)
        elif isinstance(action, act.ReadRegions):
            await self._read_regions(action)
        elif isinstance(action, act.Acked):
            self._acked(action)
        elif isinstance(action, act.Dial):
            await self._line.dial(self.endpoint)
        elif isinstance(action, act.Disconnect):
            await self._line.hang_up()
        else:
            await self._do_by_main(action)

    async def _do_by_main(
        self, action: act.FindPosition | act.FindSyncPoint | act.StoreLink | act.VerdictReceived
    ) -> None:
        """What only the main process can do: it has the log's index and group.db."""
        if isinstance(action, act.FindPosition):
            found = await self._ask("find", {"position": control.position_json(action.position)})
            point = None if found["point"] is None else control.json_point(found["point"])
            start = control.start_of(found)
            self.core.placing.position_found(action, point, found["oldest_lsn"], start)
        elif isinstance(action, act.FindSyncPoint):
            found = await self._ask("sync_point", {})
            self.set_volumes(found["volumes"])
            total = sum(volume.size for volume in self._volumes)
            point = control.json_point(found["point"])
            start = control.start_of(found)
            self.core.sync.point_found(action, point, self._infos(), total, start)
        elif isinstance(action, act.StoreLink):
            await self._store(action)
        else:
            self._store_verdict(action)

    async def _ask(self, what: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Ask the main process until it can answer: its disk may be full for a while."""
        while True:
            answer = await self._ask_once(what, arguments)
            if "error" not in answer:
                return answer
            await asyncio.sleep(ASK_AGAIN_SECONDS)

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
        problem, found = "", None
        try:
            found = self._reader.read(action.start.offset, action.limit, action.max_bytes)
        except Trimmed:
            self.core.records.slice_trimmed(action)
            return
        except LogCorrupt as corrupt:
            problem = str(corrupt)
        except OSError as error:
            problem = f"the log cannot be read: {error}"
        if action.start.offset < self._marks.trim_offset:
            # Recycled while it was read (D14), which may look like damage.
            self.core.records.slice_trimmed(action)
            return
        if found is None:
            self.core.fail(problem)
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
        except FileNotFoundError:
            # Removed meanwhile: the next stream is told the volumes anew, and the sync goes on.
            self.core.break_off("a volume was removed during the sync")
            return
        except OSError as error:
            self.core.fail(f"a volume cannot be read for the sync: {error}")
            return
        durable_lsn = self._marks.durable_lsn
        self.core.sync.regions_read(
            action, read.regions, read.cursor, read.covered_bytes, read.done, durable_lsn
        )
        await asyncio.sleep(0)

    def _acked(self, action: act.Acked) -> None:
        self._showing.acked = action.point
        self._link.acked_lsn = action.point.position.lsn
        self._link.acked_offset = action.point.offset
        self._link.applied_lsn = action.applied_lsn
        self._link.applied_time_ns = action.applied_time_ns
        self._link.last_ack_time_ns = time.time_ns()

    # -- the stream ----------------------------------------------------------------------------

    async def _opened(self) -> None:
        answer = await self._ask("durable", {})
        self.set_volumes(answer["volumes"])
        self._link.reconnects += 1
        self.core.connected(control.json_point(answer["point"]), self._infos())

    def _ended(self, reason: str, fatal: bool) -> None:
        self.core.disconnected(reason, fatal)
        # Nothing else is to be heard on it, and a channel kept is a connection kept.
        self.core.emit(act.Disconnect(reason))
