"""A primary service on loopback without its process, and a Secondary's end made by hand."""

import asyncio
import functools
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Self

import grpc

from services.primary.node import PrimaryNode
from services.primary.sender import control
from services.primary.senders import CarriedLink
from services.primary.servicer import PrimaryServicer
from slackwater.clock import Clock, SystemClock
from slackwater.group.directory import DataDirectory
from slackwater.link.wire import from_wire, to_wire
from slackwater.log.marks import SharedMarks
from slackwater.names import SECTOR_BYTES
from slackwater.nbd.server import Server
from slackwater.position import Position, origin
from slackwater.record import KNOWN_KINDS
from slackwater.runtime import grpcserver, logs
from slackwater.runtime.config import PrimaryConfig, parse_arguments
from slackwater.runtime.health import Health
from slackwater.runtime.limits import ServerLimits
from slackwater.runtime.metrics import Metrics
from slackwater.storage.real import RealStorage
from slackwater.v1 import (
    common_pb2,
    primary_pb2,
    primary_pb2_grpc,
    replication_pb2,
    replication_pb2_grpc,
)

GROUP = "groups/demo"
VOLUME = f"{GROUP}/volumes/data"
LINK = f"{GROUP}/links/site-b"
SIZE = 1 << 20
SECONDS = 20.0
# The generated stubs' types know only blocking channels.
Stub: Any = primary_pb2_grpc.PrimaryServiceStub
# What is not read must soon hold up who writes.
OPTIONS = (("grpc.so_reuseport", 0), ("grpc.http2.bdp_probe", 0))
Response = replication_pb2.ReplicateResponse


def in_loop(test: Callable[[Path], Awaitable[None]]) -> Callable[[Path], None]:
    """Run an asynchronous test in a loop of its own, bounded in time."""

    @functools.wraps(test)
    def run(tmp_path: Path) -> None:
        async def bounded() -> None:
            await asyncio.wait_for(test(tmp_path), 3 * SECONDS)

        asyncio.run(bounded())

    return run


class SilentSender:
    """A sender process that is told everything and says nothing; also the pool of it."""

    def __init__(self) -> None:
        self.links: dict[str, CarriedLink] = {}
        self.restarts = 0
        self.told: list[control.Message] = []
        self.dropped: dict[str, Callable[[], None]] = {}

    def choose(self) -> "SilentSender":
        return self

    def carry(self, link: CarriedLink) -> None:
        self.links[link.key] = link
        self.told.append({"do": "link", **link.specification()})

    def drop(self, key: str, stopped: Callable[[], None]) -> None:
        del self.links[key]
        self.dropped[key] = stopped

    def tell(self, message: control.Message) -> None:
        self.told.append(message)

    def wake(self) -> None:
        """Nobody sleeps."""

    def stop(self) -> None:
        """There is no process."""

    def operations(self) -> list[str]:
        return [one["do"] for one in self.told]


class Site:
    """The service in this process; its senders are what `pool` makes of the page of marks."""

    def __init__(
        self,
        path: Path,
        *,
        pool: Callable[[SharedMarks], Any] = lambda _marks: SilentSender(),
        writeback_tcp: bool = False,
        clock: Clock | None = None,
        **settings: Any,
    ) -> None:
        self.path = path
        self._settings = settings
        self._clock = clock or SystemClock()
        self.node: PrimaryNode
        self.senders: Any
        self.nbd: Server
        self.nbd_address = ("", 0)
        self.api: Any = None
        self._pool = pool
        self._writeback_tcp = writeback_tcp

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *about: object) -> None:
        await self.stop()

    async def start(self) -> None:
        storage = RealStorage()
        self._data = DataDirectory.open(storage, self.path, "primary")
        self._marks = SharedMarks.create(4, 4)
        self.senders = self._pool(self._marks)
        self.node = PrimaryNode(
            storage,
            self._data,
            self.senders,
            self._marks,
            self._clock,
            4 << 20,
            logs.get("test"),
            writeback_tcp=self._writeback_tcp,
            **self._settings,
        )
        await asyncio.to_thread(self.node.open_all)
        self.nbd = self.node.server = Server(self.node.access)
        self.nbd_address = self.nbd.listen_tcp("127.0.0.1", 0)
        self.nbd.listen_unix(self.path / "nbd.sock")
        given = ["--data-dir", str(self.path), "--log-bytes", "64MiB", "--segment-bytes", "8MiB"]
        config = parse_arguments(PrimaryConfig, given)
        self._server = grpcserver.make_server(
            Metrics("primary"), Health(), ["slackwater.v1.PrimaryService"], ServerLimits(calls=64)
        )
        servicer = PrimaryServicer(self.node, config)
        primary_pb2_grpc.add_PrimaryServiceServicer_to_server(servicer, self._server)
        address = grpcserver.bind(self._server, "127.0.0.1:0")
        await self._server.start()
        self._channel = grpc.aio.insecure_channel(address)
        self.api = Stub(self._channel)

    async def stop(self) -> None:
        await self._channel.close()
        await self._server.stop(0)
        await asyncio.to_thread(self.nbd.stop, 1.0)
        await asyncio.to_thread(self.senders.stop)
        await asyncio.to_thread(self.node.close)
        self._data.close()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def with_group(self, **fields: Any) -> "Site":
        """Make the group with one volume."""
        await self.api.CreateGroup(primary_pb2.CreateGroupRequest(group_id="demo", **fields))
        await self.api.CreateVolume(
            primary_pb2.CreateVolumeRequest(group=GROUP, volume_id="data", size_bytes=SIZE)
        )
        return self

    async def with_link(self, endpoint: str = "127.0.0.1:1", name: str = "site-b") -> "Site":
        request = primary_pb2.CreateLinkRequest(group=GROUP, link_id=name, endpoint=endpoint)
        await self.api.CreateLink(request)
        return self

    async def write(self, data: bytes, offset: int = 0) -> common_pb2.Position:
        """Write to the volume, zeroes added to fill the last sector."""
        data = data.ljust(-(-len(data) // SECTOR_BYTES) * SECTOR_BYTES, b"\0")
        request = primary_pb2.WriteVolumeRequest(name=VOLUME, offset=offset, data=data)
        answer = await self.api.WriteVolume(request)
        assert isinstance(answer, primary_pb2.WriteVolumeResponse)
        return answer.position

    async def link(self) -> Any:
        return (await self.api.GetLink(primary_pb2.GetLinkRequest(name=LINK))).link


class FakeSecondary(replication_pb2_grpc.ReplicationServiceServicer):
    """A replica in memory that does what the link asks, and what a test tells it to do amiss."""

    def __init__(self) -> None:
        self.volumes: dict[int, bytearray] = {}
        self.durable: Position | None = None
        self.hellos: list[replication_pb2.Hello] = []
        self.records: list[int] = []
        self.confirmed: list[int] = []
        self.syncs: list[replication_pb2.SyncStart] = []
        self.sync_id = b""
        self.cursor = replication_pb2.SyncCursor()
        self.sequence = 0
        self.verdicts: list[replication_pb2.VerdictReport] = []
        self.kinds = sorted(KNOWN_KINDS)
        self.refusal: tuple[grpc.StatusCode, str] | None = None
        self.break_after_regions = 0
        self.is_reading = asyncio.Event()
        self.is_reading.set()
        self.address = ""
        self._server: grpc.aio.Server

    async def __aenter__(self) -> Self:
        await self.listen("127.0.0.1:0")
        return self

    async def __aexit__(self, *about: object) -> None:
        self.is_reading.set()
        await self._server.stop(0)

    async def listen(self, address: str) -> None:
        self._server = grpc.aio.server(options=OPTIONS)
        replication_pb2_grpc.add_ReplicationServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port(address)}"
        await self._server.start()

    async def hang_up(self) -> None:
        """Break every stream and be gone."""
        await self._server.stop(0)

    async def come_back(self) -> None:
        """Listen again where it was."""
        await self.listen(self.address)

    async def Replicate(
        self, request_iterator: AsyncIterator[replication_pb2.ReplicateRequest], context: Any
    ) -> AsyncIterator[Response]:
        if self.refusal is not None:
            await context.abort(*self.refusal)
        async for request in request_iterator:
            kind = str(request.WhichOneof("message"))
            if kind == "hello":
                yield Response(welcome=self.welcome(request.hello))
                for verdict in self.verdicts:
                    yield Response(verdict=verdict)
            elif kind == "verdicts_confirmed":
                self.confirmed.append(request.verdicts_confirmed.sequence)
            else:
                answer = getattr(self, f"take_{kind}")(getattr(request, kind))
                if answer is None:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "broken off by the test")
                yield answer
            await self.is_reading.wait()

    def welcome(self, hello: replication_pb2.Hello) -> replication_pb2.Welcome:
        self.hellos.append(hello)
        if self.durable is None:
            self.durable = origin(uuid.UUID(bytes=hello.group_uid))
        welcome = replication_pb2.Welcome(
            durable=to_wire(self.durable),
            kinds=self.kinds,
            replica_state=common_pb2.REPLICA_STATE_CONSISTENT,
            log_capacity_bytes=1 << 30,
        )
        if self.sync_id:
            welcome.replica_state = common_pb2.REPLICA_STATE_INCONSISTENT
            welcome.running_sync.sync_id = self.sync_id
            welcome.running_sync.cursor.CopyFrom(self.cursor)
        return welcome

    def ack(self) -> Response:
        assert self.durable is not None
        return Response(
            ack=replication_pb2.Ack(
                durable=to_wire(self.durable),
                applied_lsn=self.durable.lsn,
                region_sequence=self.sequence,
                log_capacity_bytes=1 << 30,
                replica_state=common_pb2.REPLICA_STATE_INCONSISTENT
                if self.sync_id
                else common_pb2.REPLICA_STATE_CONSISTENT,
                sync_id=self.sync_id,
            )
        )

    def take_heartbeat(self, beat: replication_pb2.Heartbeat) -> Response:
        del beat
        return self.ack()

    def take_append(self, append: replication_pb2.Append) -> Response:
        assert self.durable is not None
        if from_wire(append.previous) != self.durable:
            reject = replication_pb2.Reject(
                reason=replication_pb2.Reject.REASON_GAP, expected=to_wire(self.durable)
            )
            return Response(reject=reject)
        for record in append.records:
            assert record.lsn == self.durable.lsn + 1
            self.durable = Position(record.epoch, record.lsn, record.chain_crc32c)
            self.records.append(record.lsn)
            if record.HasField("volume_change"):
                size = record.volume_change.size_bytes
                self.volumes.setdefault(record.volume_change.volume, bytearray(size))
            elif record.HasField("write"):
                data = record.write.payload
                at = record.write.offset
                self.volumes[record.write.volume][at : at + len(data)] = data
            elif record.HasField("zero"):
                at, length = record.zero.offset, record.zero.length
                self.volumes[record.zero.volume][at : at + length] = bytes(length)
        return self.ack()

    def take_sync_start(self, start: replication_pb2.SyncStart) -> Response:
        self.syncs.append(start)
        self.sync_id, self.durable = start.sync_id, from_wire(start.position)
        self.cursor, self.sequence = replication_pb2.SyncCursor(), 0
        self.volumes = {one.volume: bytearray(one.size_bytes) for one in start.volumes}
        return self.ack()

    def take_sync_regions(self, regions: replication_pb2.SyncRegions) -> Response | None:
        if self.break_after_regions:
            self.break_after_regions -= 1
            if not self.break_after_regions:
                return None
        assert regions.sync_id == self.sync_id
        for one in regions.regions:
            data = bytes(one.length) if one.HasField("zero") else one.data
            self.volumes[one.volume][one.offset : one.offset + one.length] = data
        self.sequence, self.cursor = regions.sequence, regions.cursor
        return self.ack()

    def take_sync_done(self, done: replication_pb2.SyncDone) -> Response:
        assert done.sync_id == self.sync_id
        self.sync_id = b""
        return self.ack()


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Wait for something that threads or processes do."""
    async with asyncio.timeout(SECONDS):
        while True:
            found = condition()
            if found if isinstance(found, bool) else await found:
                return
            await asyncio.sleep(0.01)


async def refused(call: Awaitable[object], code: grpc.StatusCode) -> str:
    """Return what a refusal says."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        assert error.code() is code, f"{error.code()}: {error.details()}"
        return error.details() or ""
    raise AssertionError("it was not refused")
