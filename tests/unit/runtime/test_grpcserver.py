"""A real server on loopback: what every rpc gets, whatever the servicer does."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from slackwater.errors import FailedPrecondition, InvalidRequest
from slackwater.runtime import client, grpcserver, roles, status
from slackwater.runtime.health import Health
from slackwater.runtime.limits import ServerLimits
from slackwater.runtime.metrics import Metrics
from slackwater.runtime.tls import CertificateStore
from slackwater.v1 import primary_pb2, primary_pb2_grpc
from tests.support.certificates import Authority

SERVICE = "slackwater.v1.PrimaryService"
# The generated stubs' types know only blocking channels.
Stub: Any = primary_pb2_grpc.PrimaryServiceStub
HealthStub: Any = health_pb2_grpc.HealthStub


# The stubs want every rpc; gRPC answers for those that are not there.
Base: Any = primary_pb2_grpc.PrimaryServiceServicer


class Servicer(Base):  # type: ignore[misc]  # see above
    """Does one thing per rpc that tests ask for."""

    async def GetGroup(self, request: Any, context: Any) -> primary_pb2.GetGroupResponse:
        raise InvalidRequest("name", "is bad", "Give another")

    async def ListGroups(self, request: Any, context: Any) -> primary_pb2.ListGroupsResponse:
        return primary_pb2.ListGroupsResponse(next_page_token=roles.caller().name)

    async def DeleteGroup(self, request: Any, context: Any) -> primary_pb2.DeleteGroupResponse:
        return primary_pb2.DeleteGroupResponse()

    async def GetVolume(self, request: Any, context: Any) -> primary_pb2.GetVolumeResponse:
        await asyncio.Event().wait()  # until the caller's deadline
        raise AssertionError("nobody sets the event")

    async def WatchEvents(self, request: Any, context: Any) -> AsyncIterator[Any]:
        yield primary_pb2.PrimaryServiceWatchEventsResponse()
        raise FailedPrecondition("FROZEN", "the group is frozen")

    async def HoldQuiesce(self, requests: Any, context: Any) -> Any:
        async for _ in requests:
            await context.write(primary_pb2.HoldQuiesceResponse())


class Running:
    """The server's address and what it counted."""

    def __init__(self, address: str, metrics: Metrics) -> None:
        self.address = address
        self.metrics = metrics

    async def counted(self, times: int, rpc: str, code: str, kind: str = "unary") -> None:
        """Wait until so many were counted, which is after the caller has its answer."""
        labels = {
            "grpc_type": kind,
            "grpc_service": SERVICE,
            "grpc_method": rpc,
            "grpc_code": code,
        }
        value = self.metrics.registry.get_sample_value
        async with asyncio.timeout(30):
            while value("grpc_server_handled_total", labels) != times:
                await asyncio.sleep(0.001)


@asynccontextmanager
async def running(certificates: CertificateStore | None = None) -> AsyncIterator[Running]:
    metrics, health = Metrics("primary"), Health()
    await health.start()
    server = grpcserver.make_server(metrics, health, [SERVICE], ServerLimits(calls=8))
    primary_pb2_grpc.add_PrimaryServiceServicer_to_server(Servicer(), server)
    address = grpcserver.bind(server, "127.0.0.1:0", certificates)
    await server.start()
    try:
        yield Running(address, metrics)
    finally:
        await server.stop(0)


def against(
    scenario: Callable[[Running, Any], Awaitable[None]],
) -> None:
    """Run a scenario against a plaintext server."""

    async def run() -> None:
        async with running() as server, client.open_channel(server.address) as channel:
            await scenario(server, Stub(channel))

    asyncio.run(run())


async def failure(call: Any) -> status.RemoteError:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return status.decode(failed.value)


def test_servicers_error_reaches_the_client_with_its_details_and_is_counted() -> None:
    async def scenario(server: Running, stub: Any) -> None:
        error = await failure(stub.GetGroup(primary_pb2.GetGroupRequest(name="groups/g")))
        assert (error.reason, error.field, error.next_step) == (
            "INVALID_REQUEST",
            "name",
            "Give another",
        )
        await server.counted(1, "GetGroup", "INVALID_ARGUMENT")

    against(scenario)


def test_rpc_of_a_later_release_is_unimplemented() -> None:
    async def scenario(server: Running, stub: Any) -> None:
        error = await failure(stub.CreateGroup(primary_pb2.CreateGroupRequest(group_id="g")))
        assert error.code is grpc.StatusCode.UNIMPLEMENTED
        await server.counted(1, "CreateGroup", "UNIMPLEMENTED")

    against(scenario)


def test_stream_of_responses_ends_with_the_servicers_error() -> None:
    async def scenario(server: Running, stub: Any) -> None:
        call = stub.WatchEvents(primary_pb2.PrimaryServiceWatchEventsRequest())
        assert await call.read() == primary_pb2.PrimaryServiceWatchEventsResponse()
        error = await failure(call.read())
        assert error.reason == "FROZEN"
        await server.counted(1, "WatchEvents", "FAILED_PRECONDITION", "server_stream")

    against(scenario)


def test_servicer_may_write_its_stream_through_the_context() -> None:
    async def scenario(server: Running, stub: Any) -> None:
        call = stub.HoldQuiesce()
        for _ in range(3):
            await call.write(primary_pb2.HoldQuiesceRequest())
            assert await call.read() == primary_pb2.HoldQuiesceResponse()
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        await server.counted(1, "HoldQuiesce", "OK", "bidi_stream")

    against(scenario)


def test_unary_call_without_a_deadline_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "DEADLINE_SECONDS", 0.05)

    async def scenario(server: Running, stub: Any) -> None:
        error = await failure(stub.GetVolume(primary_pb2.GetVolumeRequest(name="groups/g")))
        assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED

    against(scenario)


def test_blocking_call_without_a_deadline_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "DEADLINE_SECONDS", 0.05)

    def call(address: str) -> status.RemoteError:
        with client.open_blocking_channel(address) as channel:
            with pytest.raises(grpc.RpcError) as failed:
                Stub(channel).GetVolume(primary_pb2.GetVolumeRequest(name="groups/g"))
            return status.decode(failed.value)

    async def scenario(server: Running, stub: Any) -> None:
        error = await asyncio.to_thread(call, server.address)
        assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED

    against(scenario)


def test_both_versions_of_reflection_list_the_service() -> None:
    async def scenario(server: Running, stub: Any) -> None:
        async with client.open_channel(server.address) as channel:
            for version in ("v1", "v1alpha"):
                call: Any = channel.stream_stream(
                    f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
                    reflection_pb2.ServerReflectionRequest.SerializeToString,
                    reflection_pb2.ServerReflectionResponse.FromString,
                )()
                await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
                answer = await call.read()
                names = [row.name for row in answer.list_services_response.service]
                assert SERVICE in names
                await call.done_writing()

    against(scenario)


def test_port_in_use_is_refused_with_the_address() -> None:
    async def scenario(server: Running, stub: Any) -> None:
        with pytest.raises(FailedPrecondition, match=server.address):
            grpcserver.bind(grpcserver.make_health_server(Health()), server.address)

    against(scenario)


def test_health_server_serves_health_and_nothing_else() -> None:
    async def scenario() -> None:
        health = Health()
        await health.start()
        server = grpcserver.make_health_server(health)
        address = grpcserver.bind(server, "127.0.0.1:0")
        await server.start()
        async with client.open_channel(address) as channel:
            stub = HealthStub(channel)
            answer = await stub.Check(health_pb2.HealthCheckRequest(service="liveness"))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            error = await failure(Stub(channel).ListGroups(primary_pb2.ListGroupsRequest()))
            assert error.code is grpc.StatusCode.UNIMPLEMENTED
        await server.stop(0)

    asyncio.run(scenario())


class TestTls:
    def call(self, tmp_path: Path, uris: list[str], rpc: str, request: Any) -> Any:
        """Make one call with a certificate of these URIs."""
        authority = Authority(tmp_path)
        ours = CertificateStore(authority.issue("server"))
        theirs = CertificateStore(authority.issue("caller", *uris))

        async def run() -> Any:
            async with (
                running(ours) as server,
                client.open_channel(server.address, theirs) as channel,
            ):
                try:
                    return await getattr(Stub(channel), rpc)(request)
                except grpc.aio.AioRpcError as error:
                    return status.decode(error)

        return asyncio.run(run())

    def test_role_in_the_certificate_opens_the_rpc_and_names_the_caller(
        self, tmp_path: Path
    ) -> None:
        answer = self.call(
            tmp_path, ["slackwater://role/view"], "ListGroups", primary_pb2.ListGroupsRequest()
        )
        assert answer.next_page_token == "caller"

    @pytest.mark.parametrize(
        "uris",
        [
            [],
            ["slackwater://role/replicate"],
            ["slackwater://role/view"],
            ["slackwater://role/operate?groups=other"],
            ["slackwater://role/operate?until=tomorrow"],
        ],
    )
    def test_rpc_is_refused_without_its_role_for_that_group(
        self, tmp_path: Path, uris: list[str]
    ) -> None:
        request = primary_pb2.DeleteGroupRequest(name="groups/g")
        error = self.call(tmp_path, uris, "DeleteGroup", request)
        assert error.code is grpc.StatusCode.PERMISSION_DENIED

    def test_caller_of_another_authority_is_not_let_in(self, tmp_path: Path) -> None:
        ours = Authority(tmp_path)
        stranger = Authority(tmp_path, "stranger").issue("caller", "slackwater://role/view")
        # It trusts our server; our server must not trust it.
        forged = type(stranger)(stranger.certificate, stranger.key, ours.path)

        async def run() -> None:
            store = CertificateStore(forged)
            async with (
                running(CertificateStore(ours.issue("server"))) as server,
                client.open_channel(server.address, store) as channel,
            ):
                call = Stub(channel).ListGroups(primary_pb2.ListGroupsRequest())
                assert (await failure(call)).code is grpc.StatusCode.UNAVAILABLE

        asyncio.run(run())

    def test_replaced_certificate_is_used_without_a_restart(self, tmp_path: Path) -> None:
        """The server gets a certificate of a new authority; old clients are out, new ones in."""
        old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
        served = old.issue("server")
        store = CertificateStore(served)

        async def reach(address: str, authority: Authority) -> grpc.StatusCode | None:
            files = authority.issue("caller", "slackwater://role/view")
            async with client.open_channel(address, CertificateStore(files)) as channel:
                try:
                    await Stub(channel).ListGroups(primary_pb2.ListGroupsRequest())
                except grpc.aio.AioRpcError as error:
                    return error.code()
            return None

        async def run() -> None:
            async with running(store) as server:
                assert await reach(server.address, old) is None
                new.issue("server", into="server")
                served.authority.write_bytes(new.path.read_bytes())
                assert await reach(server.address, new) is None
                assert store.material().authority == new.path.read_bytes()

        asyncio.run(run())
