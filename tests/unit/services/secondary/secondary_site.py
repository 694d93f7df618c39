"""A secondary service on loopback, and a Primary's end of a stream made by hand, byte for byte."""

import asyncio
import functools
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import grpc

from services.secondary import replication
from services.secondary.group import SecondaryGroup
from services.secondary.limits import Limits
from services.secondary.node import SecondaryNode
from services.secondary.servicer import SecondaryServicer
from services.secondary.snapshot_servicer import Endpoints
from slackwater.clock import SystemClock
from slackwater.group.directory import DataDirectory
from slackwater.link.wire import append_prefix, from_wire, to_wire
from slackwater.log.log import LogSettings
from slackwater.nbd.server import Server
from slackwater.position import Position
from slackwater.record import KNOWN_KINDS
from slackwater.runtime import grpcserver, logs
from slackwater.runtime.health import Health
from slackwater.runtime.limits import ServerLimits
from slackwater.runtime.metrics import Metrics
from slackwater.storage.real import RealStorage
from slackwater.v1 import replication_pb2, secondary_pb2_grpc
from tests.unit.apply.stream import APPLICATION, SETTINGS, UID, Stream

GROUP = "groups/demo"
SIZE = 64 << 10
SECONDS = 20.0
Request = replication_pb2.ReplicateRequest
# The generated stubs' types know only blocking channels.
Stub: Any = secondary_pb2_grpc.SecondaryServiceStub


def in_loop(test: Callable[[Path], Awaitable[None]]) -> Callable[[Path], None]:
    """Run an asynchronous test in a loop of its own, bounded in time."""

    @functools.wraps(test)
    def run(tmp_path: Path) -> None:
        async def bounded() -> None:
            await asyncio.wait_for(test(tmp_path), 2 * SECONDS)

        asyncio.run(bounded())

    return run


class SmallLimits(Limits):
    """Logs small enough to be filled by a test."""

    def log_settings(self, log_bytes: int) -> LogSettings:
        del log_bytes
        return SETTINGS


class Site:
    """The service in this process, without its process."""

    def __init__(self, path: Path, lease_grace: float = 5.0) -> None:
        self.path = path
        self.lease_grace = lease_grace
        self.node: SecondaryNode
        self.nbd: Server
        self.address = ""
        self.nbd_address = ("", 0)
        self.api: Any = None
        self._channel: grpc.aio.Channel
        self._data: DataDirectory
        self._server: grpc.aio.Server

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *about: object) -> None:
        await self.stop()

    async def start(self) -> None:
        storage = RealStorage()
        self._data = DataDirectory.open(storage, self.path, "secondary")
        limits = SmallLimits(freeze_log_limit=0.5, lease_grace=self.lease_grace)
        self.node = SecondaryNode(storage, self._data, SystemClock(), limits, logs.get("test"))
        await asyncio.to_thread(self.node.open_all)
        await asyncio.to_thread(self.node.wait_recovered)
        self.nbd = self.node.server = Server(self.node.access)
        self.nbd_address = self.nbd.listen_tcp("127.0.0.1", 0)
        endpoints = Endpoints()
        endpoints.add_tcp(f"127.0.0.1:{self.nbd_address[1]}", secure=False)
        servicer = SecondaryServicer(self.node, storage, endpoints)
        self._server = grpcserver.make_server(
            Metrics("secondary"), Health(), [replication.SERVICE], ServerLimits(calls=64)
        )
        secondary_pb2_grpc.add_SecondaryServiceServicer_to_server(servicer, self._server)
        self._server.add_generic_rpc_handlers((replication.handlers(self.node),))
        self.address = grpcserver.bind(self._server, "127.0.0.1:0")
        await self._server.start()
        self.node.listen()
        self._channel = grpc.aio.insecure_channel(self.address)
        self.api = Stub(self._channel)

    async def stop(self, *, clean: bool = True) -> None:
        """End in order, or let go of everything as it is, as a SIGKILL does."""
        await self.node.drain()
        await self._channel.close()
        await self._server.stop(0)
        await asyncio.to_thread(self.nbd.stop, 1.0)
        if not clean:
            for group in self.node.groups.values():
                await asyncio.to_thread(functools.partial(group.replica.close, clean=False))
        await asyncio.to_thread(self.node.close)
        self._data.close()

    async def restart(self, *, clean: bool = True) -> None:
        await self.stop(clean=clean)
        await self.start()

    def group(self) -> SecondaryGroup:
        return self.node.group("demo")

    def register(self, application: str = APPLICATION) -> None:
        self.group().replica.register_application(application)


class PrimaryEnd:
    """One call of Replicate."""

    def __init__(self, site: Site) -> None:
        self._channel = grpc.aio.insecure_channel(site.address)
        self.call: Any = self._channel.stream_stream(
            f"/{replication.SERVICE}/Replicate",
            response_deserializer=replication_pb2.ReplicateResponse.FromString,
        )()
        self.sent = Position(1, 0, 0)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *about: object) -> None:
        self.call.cancel()
        await self._channel.close()

    async def send(self, **message: Any) -> None:
        await self.call.write(Request(**message).SerializeToString())

    async def hello(
        self, epoch: int = 1, uid: uuid.UUID = UID, group: str = "demo", link: str = "site-b"
    ) -> replication_pb2.Welcome:
        hello = replication_pb2.Hello(
            group_uid=uid.bytes,
            group=group,
            link=link,
            epoch=epoch,
            durable=to_wire(Position(epoch, 1 << 30, 0)),
            kinds=sorted(KNOWN_KINDS),
            log_bytes=64 << 20,
            protocol_version=1,
        )
        await self.send(hello=hello)
        welcome = (await self.until("welcome")).welcome
        self.sent = from_wire(welcome.durable)
        return welcome

    async def append(self, previous: Position, run: bytes) -> None:
        await self.call.write(append_prefix(previous, len(run)) + run)

    async def replicate(
        self, stream: Stream, limit: int | None = None, *, records: int = 8
    ) -> None:
        """Send what follows what was sent last, so many records an append."""
        last = stream.position.lsn if limit is None else limit
        while self.sent.lsn < last:
            end = min(self.sent.lsn + records, last)
            run = stream.run_after(self.sent.lsn, end)
            await self.append(self.sent, run)
            self.sent = stream.records[end - stream.records[0][1].lsn][1]

    async def until(self, kind: str) -> replication_pb2.ReplicateResponse:
        """Return the next response of a kind."""
        while True:
            response = await self.call.read()
            assert response is not grpc.aio.EOF, f"the stream ended without {kind}"
            if response.WhichOneof("message") == kind:
                return response  # type: ignore[no-any-return]  # the stub knows no type

    async def until_ack(self, lsn: int, *, applied: bool = False) -> replication_pb2.Ack:
        """Return the first ack at or past an lsn."""
        while True:
            ack = (await self.until("ack")).ack
            if (ack.applied_lsn if applied else ack.durable.lsn) >= lsn:
                return ack

    async def ended(self) -> grpc.aio.AioRpcError:
        """Return how the call ended."""
        try:
            while await self.call.read() is not grpc.aio.EOF:
                pass
            return grpc.aio.AioRpcError(
                await self.call.code(),
                await self.call.initial_metadata(),
                await self.call.trailing_metadata(),
                await self.call.details(),
            )
        except grpc.aio.AioRpcError as error:
            return error


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that threads do."""
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.005)


async def refused(call: Awaitable[object], code: grpc.StatusCode) -> str:
    """Return what a refusal says."""
    with suppress(grpc.aio.AioRpcError):
        try:
            await call
        except grpc.aio.AioRpcError as error:
            assert error.code() is code, f"{error.code()}: {error.details()}"
            return error.details() or ""
    raise AssertionError("it was not refused")


def two_volumes() -> Stream:
    """A stream that has two volumes and some bytes in them."""
    stream = Stream()
    stream.start()
    stream.add_volume(1, "data", SIZE)
    stream.add_volume(2, "wal", SIZE)
    stream.write(1, 100, b"first" * 100)
    stream.write(2, 0, b"log" * 1000)
    return stream
