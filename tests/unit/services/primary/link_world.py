"""One link with everything real but the processes: group, log, task, stream, and a fake replica."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Self

import grpc

from services.primary.links import PrimaryLink
from services.primary.sender import control
from services.primary.sender.link_task import LinkTask
from slackwater.clock import SystemClock
from slackwater.group.batch import write_change
from slackwater.group.changes import VolumeSet
from slackwater.group.directory import DataDirectory
from slackwater.group.opening import GroupSettings, create_group, open_group
from slackwater.group.rows import LinkRow
from slackwater.log.marks import SharedMarks
from slackwater.log.segment import LogSettings
from slackwater.names import SECTOR_BYTES
from slackwater.runtime.client import open_channel
from slackwater.storage.real import RealStorage
from tests.unit.services.primary.primary_site import FakeSecondary, SilentSender, in_loop, until

NAME = "site-b"
SIZE = 4 << 20


class TaskSender(SilentSender):
    """A sender process in this one: it hands the task what the main process says."""

    task: LinkTask | None = None

    def tell(self, message: control.Message) -> None:
        super().tell(message)
        task = self.task
        if task is None:
            return
        match message["do"]:
            case "volumes":
                task.set_volumes(message["volumes"])
            case "overflow":
                task.generation = message["generation"]
                task.post(lambda: task.core.overflow(message["reason"]))
            case "pause":
                task.post(task.core.pause)
            case "retry":
                task.post(task.core.retry)
            case "discard":
                task.post(task.core.allow_discard)
            case "endpoint":
                task.post(lambda: task.move(message["endpoint"]))


class World:
    """A group with one volume, a link of it, and the task that carries the link."""

    def __init__(self, path: Path, endpoint: str) -> None:
        storage = RealStorage()
        self._loop = asyncio.get_running_loop()
        self.data = DataDirectory.open(storage, path, "primary")
        settings = GroupSettings(LogSettings(4 << 20, 128 << 10, 64 << 10))
        create_group(storage, self.data, "demo", uuid.uuid4(), settings, SystemClock())
        self.marks = SharedMarks.create(1, 1)
        group_marks, link_marks = self.marks.new_group(), self.marks.new_link()
        assert group_marks is not None
        assert link_marks is not None
        self.group_marks, self.link_marks = group_marks, link_marks
        self.task: LinkTask
        directory = self.data.group("demo")
        self.group = open_group(
            storage, directory, SystemClock(), marks=group_marks, wake=self._wake
        )
        self.writer = self.group.writer
        self.writer.database.add_link(
            LinkRow(NAME, uuid.uuid4(), endpoint, "CONNECTING", "", False, None, "", 0)
        )
        self.volumes = VolumeSet(storage, directory, self.writer)
        self.volumes.add("data", SIZE)
        self.sender = TaskSender()
        self.link = PrimaryLink(
            self.group,
            self.row(),
            group_marks,
            link_marks,
            self.sender,  # type: ignore[arg-type]
            1 << 20,
            lambda *_event: None,
        )
        self.writer.links_floor = lambda: self.link.floor
        self.writer.log_pressure = lambda _offset: self.link.let_go("the log is full")
        self.channels: list[grpc.aio.Channel] = []
        self.broken_asks = 0
        self.verdicts_kept: list[int] = []
        self.begin()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *about: object) -> None:
        await self.end()
        await asyncio.to_thread(self.group.close)
        self.marks.close()
        self.data.close()

    def row(self) -> LinkRow:
        return self.group.writer.database.link(NAME)

    def begin(self) -> None:
        """Carry the link, as a sender that has just started does."""
        self.task = LinkTask(
            self.link.specification(),
            RealStorage(),
            self.marks.group(0),
            self.marks.link(0),
            self._ask,
            self._tell,
            self._dial,
        )
        self.sender.task = self.task
        self.running = self._loop.create_task(self.task.run())

    async def end(self) -> None:
        """Let go of the link, wherever its task is."""
        self.sender.task = None
        self.running.cancel()
        await asyncio.wait([self.running])
        assert self.running.cancelled(), self.running.exception()

    async def _ask(self, what: str, arguments: dict[str, Any]) -> control.Message:
        if self.broken_asks:
            self.broken_asks -= 1
            return {"error": "group.db is full"}
        message = {"ask": 1, "what": what, **arguments}
        answer = await asyncio.to_thread(self.link.handle, message)
        assert answer is not None
        return answer

    def _tell(self, message: control.Message) -> None:
        answer = self.link.handle(message)
        if answer is not None:
            sequence = answer["sequence"]
            self.verdicts_kept.append(sequence)
            task = self.task
            task.post(lambda: task.core.verdict_stored(sequence))

    def _dial(self, endpoint: str) -> grpc.aio.Channel:
        channel = open_channel(endpoint)
        self.channels.append(channel)
        return channel

    def _wake(self) -> None:
        if self.group_marks.sleepers:
            self.group_marks.sleepers = 0
            self._loop.call_soon_threadsafe(self.task.wake)

    async def write(self, data: bytes, offset: int = 0) -> int:
        """Write to the volume from a writer's thread, its last sector filled; returns the lsn."""
        data = data.ljust(-(-len(data) // SECTOR_BYTES) * SECTOR_BYTES, b"\0")
        volume = self.volumes.by_name("data")
        await asyncio.to_thread(self.writer.submit, [write_change(volume, offset, data)])
        return self.writer.log.durable.position.lsn

    async def fill_log(self) -> None:
        """Write more than the log holds."""
        for number in range(80):
            await self.write(bytes([number]) * (60 << 10), (number % 60) * (60 << 10))

    async def become(self, state: str) -> None:
        await until(lambda: self.link.status.state == state)

    async def fall_behind(self, secondary: FakeSecondary) -> None:
        """Be let go of while the Secondary is away."""
        await self.caught_up(secondary)
        await secondary.hang_up()
        await self.become("CONNECTING")
        await self.fill_log()
        await self.become("DIRTY")

    async def caught_up(self, secondary: FakeSecondary) -> None:
        await until(lambda: secondary.durable == self.writer.log.durable.position)
        await until(lambda: not secondary.sync_id and self.link.status.state == "STREAMING")
        await until(lambda: self.link_marks.acked_offset == self.writer.log.durable.offset)

    def content(self) -> bytes:
        volume = self.volumes.by_name("data")
        content = bytearray(volume.size)
        self.writer.read_into(volume, 0, memoryview(content))
        return bytes(content)


def linked(
    test: Callable[[World, FakeSecondary], Awaitable[None]],
) -> Callable[[Path], None]:
    """Run a test with both sides."""

    @in_loop
    async def run(tmp_path: Path) -> None:
        async with FakeSecondary() as secondary, World(tmp_path, secondary.address) as world:
            await test(world, secondary)

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run
