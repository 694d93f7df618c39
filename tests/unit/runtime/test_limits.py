"""Peers of a gRPC server that begin things and do not go on, and peers that are simply too many."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import pytest

from slackwater.runtime import client, grpcserver, roles, status
from slackwater.runtime.health import Health
from slackwater.runtime.limits import ServerLimits
from slackwater.runtime.metrics import Metrics
from slackwater.runtime.tls import CertificateStore
from slackwater.v1 import primary_pb2, primary_pb2_grpc
from tests.support import http2
from tests.support.certificates import Authority

pytestmark = pytest.mark.timeout(60)

SERVICE = "slackwater.v1.PrimaryService"
LIST = f"/{SERVICE}/ListGroups"
# The generated stubs' types know only blocking channels.
Stub: Any = primary_pb2_grpc.PrimaryServiceStub
Base: Any = primary_pb2_grpc.PrimaryServiceServicer


class Servicer(Base):  # type: ignore[misc]  # of no type, see above
    """Answers a list at once, and a volume when told to."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.entered = asyncio.Semaphore(0)

    async def ListGroups(self, request: Any, context: Any) -> primary_pb2.ListGroupsResponse:
        return primary_pb2.ListGroupsResponse(next_page_token=roles.caller().name)

    async def GetVolume(self, request: Any, context: Any) -> primary_pb2.GetVolumeResponse:
        self.entered.release()
        await self.go.wait()
        return primary_pb2.GetVolumeResponse()


@asynccontextmanager
async def serving(
    limits: ServerLimits, certificates: CertificateStore | None = None
) -> AsyncIterator[tuple[str, Servicer]]:
    health, servicer = Health(), Servicer()
    await health.start()
    server = grpcserver.make_server(Metrics("primary"), health, [SERVICE], limits)
    primary_pb2_grpc.add_PrimaryServiceServicer_to_server(servicer, server)
    address = grpcserver.bind(server, "127.0.0.1:0", certificates)
    await server.start()
    try:
        yield address, servicer
    finally:
        await server.stop(0)


def against(limits: ServerLimits, scenario: Callable[[str, Servicer], Awaitable[None]]) -> None:
    async def run() -> None:
        async with serving(limits) as (address, servicer):
            await scenario(address, servicer)

    asyncio.run(run())


def dial(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=30)


def drain(sock: socket.socket) -> None:
    """Read until the server hangs up."""
    with suppress(ConnectionResetError):
        while sock.recv(4096):
            pass


async def answered(address: str) -> None:
    """An honest client gets its answer."""
    async with client.open_channel(address) as channel:
        await Stub(channel).ListGroups(primary_pb2.ListGroupsRequest(), wait_for_ready=True)


async def failure(call: Any) -> status.RemoteError:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return status.decode(failed.value)


def test_call_above_the_limit_is_refused_with_a_next_step_and_there_is_room_again() -> None:
    async def scenario(address: str, servicer: Servicer) -> None:
        async with client.open_channel(address) as channel:
            stub = Stub(channel)
            held = [stub.GetVolume(primary_pb2.GetVolumeRequest(name="groups/g")) for _ in "ab"]
            for _ in held:
                await servicer.entered.acquire()
            error = await failure(stub.ListGroups(primary_pb2.ListGroupsRequest()))
            assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert error.reason == "LIMIT_REACHED"
            assert "--max-calls" in error.next_step
            servicer.go.set()
            for call in held:
                await call
            await stub.ListGroups(primary_pb2.ListGroupsRequest())

    against(ServerLimits(calls=2), scenario)


def test_call_that_its_client_gave_up_leaves_its_place() -> None:
    async def scenario(address: str, servicer: Servicer) -> None:
        async with client.open_channel(address) as channel:
            stub = Stub(channel)
            for _ in range(3):
                call = stub.GetVolume(primary_pb2.GetVolumeRequest(name="groups/g"))
                await servicer.entered.acquire()
                call.cancel()
                with suppress(asyncio.CancelledError):
                    await call
                await freed(stub)

    against(ServerLimits(calls=1), scenario)


async def freed(stub: Any) -> None:
    """Wait until a call finds a place; the server hears of a client's end a little later."""
    async with asyncio.timeout(30):
        while True:
            try:
                await stub.ListGroups(primary_pb2.ListGroupsRequest())
                return
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                await asyncio.sleep(0.01)


def test_call_whose_request_never_comes_is_ended_and_leaves_its_place() -> None:
    async def scenario(address: str, _servicer: Servicer) -> None:
        async with client.open_channel(address) as channel:
            silent: Any = channel.stream_stream(LIST)()
            code = await silent.code()
            assert code is grpc.StatusCode.DEADLINE_EXCEEDED
            assert "request" in await silent.details()
        await answered(address)

    against(ServerLimits(calls=1, request_seconds=0.2), scenario)


def test_call_without_its_request_is_refused_by_name() -> None:
    async def scenario(address: str, _servicer: Servicer) -> None:
        async with client.open_channel(address) as channel:
            empty: Any = channel.stream_stream(LIST)()
            await empty.done_writing()
            assert await empty.code() is grpc.StatusCode.INVALID_ARGUMENT
            raw: Any = channel.unary_unary(LIST)
            garbled = raw(b"\xff\xff")
            error = await failure(garbled)
            assert (error.code, "request" in error.message) == (
                grpc.StatusCode.INVALID_ARGUMENT,
                True,
            )

    against(ServerLimits(), scenario)


def test_caller_without_the_role_is_refused_before_its_request_is_waited_for(
    tmp_path: Any,
) -> None:
    authority = Authority(tmp_path)
    ours, theirs = authority.issue("server"), authority.issue("nobody")

    async def run() -> None:
        async with (
            serving(ServerLimits(request_seconds=3600), CertificateStore(ours)) as (address, _),
            client.open_channel(address, CertificateStore(theirs)) as channel,
        ):
            silent: Any = channel.stream_stream(LIST)()
            assert await silent.code() is grpc.StatusCode.PERMISSION_DENIED

    asyncio.run(run())


@pytest.mark.parametrize(
    "sent",
    [b"", http2.PREFACE, http2.PREFACE[:10], b"GET / HTTP/1.1\r\n"],
    ids=["nothing", "a-preface-and-nothing", "part-of-a-preface", "another-protocol"],
)
def test_peer_that_does_not_finish_its_handshake_is_hung_up_on(sent: bytes) -> None:
    def slow(address: str) -> None:
        with dial(address) as sock:
            sock.sendall(sent)
            drain(sock)

    async def scenario(address: str, _servicer: Servicer) -> None:
        await asyncio.to_thread(slow, address)
        await answered(address)

    against(ServerLimits(handshake_seconds=0.3), scenario)


def drip(sock: socket.socket, data: bytes) -> None:
    """One byte at a time until the server has enough of it."""
    gone = threading.Event()

    def listen() -> None:
        drain(sock)
        gone.set()

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        for byte in data:
            if gone.wait(0.02):
                return
            with suppress(OSError):
                sock.sendall(bytes([byte]))
        assert gone.wait(30), "the server waits for ever"
    finally:
        sock.close()
        listener.join()


def test_handshake_byte_by_byte_has_no_longer_than_any_other() -> None:
    def slow(address: str) -> None:
        drip(dial(address), http2.PREFACE + http2.frame(http2.SETTINGS, body=bytes(6000)))

    async def scenario(address: str, _servicer: Servicer) -> None:
        await asyncio.to_thread(slow, address)
        await answered(address)

    against(ServerLimits(handshake_seconds=0.3), scenario)


def shaken(address: str) -> socket.socket:
    """A connection whose handshake is done as it should be."""
    sock = dial(address)
    sock.sendall(
        http2.PREFACE + http2.frame(http2.SETTINGS) + http2.frame(http2.SETTINGS, http2.ACK)
    )
    return sock


def test_connection_that_never_finishes_the_head_of_a_call_is_ended() -> None:
    def slow(address: str) -> None:
        drip(shaken(address), http2.request_head(LIST, 1)[:-1])

    async def scenario(address: str, _servicer: Servicer) -> None:
        await asyncio.to_thread(slow, address)
        await answered(address)

    against(ServerLimits(idle_seconds=0.3), scenario)


def test_request_byte_by_byte_has_no_longer_than_any_other() -> None:
    def slow(address: str) -> bytes:
        """The trailers of a call whose message is always about to be complete."""
        with shaken(address) as sock:
            sock.sendall(http2.request_head(LIST, 1))
            message = b"\x00" + (1000).to_bytes(4, "big") + bytes(999)
            stop = threading.Event()

            def feed() -> None:
                for byte in message:
                    with suppress(OSError):
                        sock.sendall(http2.frame(http2.DATA, stream=1, body=bytes([byte])))
                    if stop.wait(0.02):
                        return

            feeder = threading.Thread(target=feed)
            feeder.start()
            try:
                for kind, flags, stream, body in http2.frames(sock):
                    if stream == 1 and kind == http2.HEADERS and flags & http2.END_STREAM:
                        return body
                raise AssertionError("hung up without a status")
            finally:
                stop.set()
                feeder.join()

    async def scenario(address: str, _servicer: Servicer) -> None:
        trailers = await asyncio.to_thread(slow, address)
        assert b"grpc-status" in trailers
        await answered(address)

    against(ServerLimits(calls=1, request_seconds=0.3), scenario)


def test_connections_above_the_limit_are_hung_up_on() -> None:
    def crowd(address: str) -> list[socket.socket]:
        inside = [shaken(address) for _ in range(2)]
        for sock in inside:
            next(http2.frames(sock))  # it is let in: the server's own settings come
        with dial(address) as refused:
            refused.sendall(http2.PREFACE + http2.frame(http2.SETTINGS))
            drain(refused)
        return inside

    async def scenario(address: str, _servicer: Servicer) -> None:
        inside = await asyncio.to_thread(crowd, address)
        for sock in inside:
            sock.close()
        await answered(address)

    against(ServerLimits(connections=2), scenario)


def test_one_connection_gets_its_share_of_calls_and_no_more() -> None:
    def greedy(address: str) -> int:
        """The stream that the server refused."""
        with shaken(address) as sock:
            for stream in (1, 3, 5):
                sock.sendall(http2.request_head(LIST, stream))
            for kind, _flags, stream, body in http2.frames(sock):
                if kind == http2.SETTINGS and body:
                    assert http2.settings_of(body)[http2.MAX_CONCURRENT_STREAMS] == 2
                if kind == http2.RST_STREAM:
                    return stream
        raise AssertionError("hung up")

    async def scenario(address: str, _servicer: Servicer) -> None:
        assert await asyncio.to_thread(greedy, address) == 5
        await answered(address)

    against(ServerLimits(calls_per_connection=2), scenario)
