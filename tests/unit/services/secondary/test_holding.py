"""HoldMessage over the API: leases, their loss, coming back (C13, C14, C15)."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from slackwater.ibc.messages import VerdictState
from slackwater.v1 import common_pb2, resources_pb2
from slackwater.v1 import secondary_pb2 as api
from tests.unit.apply.stream import APPLICATION
from tests.unit.services.secondary.secondary_site import (
    GROUP,
    PrimaryEnd,
    Site,
    Stub,
    in_loop,
    refused,
    two_volumes,
    until,
)
from tests.unit.services.secondary.test_servicer import frozen, receive

Code = grpc.StatusCode
M1 = f"{GROUP}/messages/m1"
Request = api.HoldMessageRequest
Response = api.HoldMessageResponse


class Holder:
    """One HoldMessage call, over a connection of its own."""

    def __init__(self, site: Site, **fields: Any) -> None:
        self.channel = grpc.aio.insecure_channel(site.address)
        self.call: Any = Stub(self.channel).HoldMessage()
        self.opening = Request.Open(
            **{"group": GROUP, "application": APPLICATION, "holder": "me", **fields}
        )
        self.one_write = asyncio.Lock()
        self.beating: asyncio.Task[None] | None = None

    async def write(self, request: Request) -> None:
        """Say one thing; gRPC takes one at a time."""
        async with self.one_write:
            await self.call.write(request)

    async def open(self) -> "Holder":
        await self.write(Request(open=self.opening))
        return self

    async def beat(self) -> None:
        await self.write(Request(heartbeat=Request.Heartbeat()))

    async def live(self) -> "Holder":
        """Open it, and show signs of life from now on."""

        async def beats() -> None:
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                while True:
                    await self.beat()
                    await asyncio.sleep(0.05)

        await self.open()
        self.beating = asyncio.ensure_future(beats())
        return self

    async def until(self, kind: str) -> Response:
        """Return the next response of a kind."""
        while True:
            response = await self.call.read()
            assert response is not grpc.aio.EOF, f"the stream ended without {kind}"
            if response.WhichOneof("message") == kind:
                assert isinstance(response, Response)
                return response

    async def ends(self) -> Code:
        """Read to the end and return how it ended."""
        try:
            while await self.call.read() is not grpc.aio.EOF:
                pass
        except grpc.aio.AioRpcError as error:
            return error.code()
        return await self.call.code()  # type: ignore[no-any-return]  # the stub knows no type

    def hang_up(self) -> None:
        if self.beating is not None:
            self.beating.cancel()
        self.call.cancel()


async def freeze(site: Site) -> resources_pb2.Freeze:
    got = await site.api.GetReplica(api.GetReplicaRequest(name=GROUP))
    found = got.replica.freeze
    assert isinstance(found, resources_pb2.Freeze)
    return found


def has_stream(site: Site) -> bool:
    standing = site.group().replica.messages.delivery.standing
    return standing is not None and standing.stream is not None


@in_loop
async def test_lease_gets_the_message_and_its_unfreeze_thaws(tmp_path: Path) -> None:
    async with frozen(tmp_path) as (site, _, stream):
        holder = await Holder(site).live()
        await holder.until("heartbeat")
        got = (await holder.until("delivered")).delivered
        assert (got.name, got.text, got.redelivered) == (M1, "now", False)
        assert not got.HasField("remaining"), "no timeout was chosen"
        shown = await freeze(site)
        assert shown.leased and shown.holder == "me" and not shown.HasField("deadline")
        await holder.until("heartbeat")
        await holder.write(Request(unfreeze=Request.Unfreeze()))
        thawed = (await holder.until("thawed")).thawed
        assert thawed.state == common_pb2.VERDICT_STATE_UNFROZEN
        assert thawed.frozen_for.ToNanoseconds() > 0
        assert await holder.ends() is Code.OK
        await until(lambda: site.group().replica.applied == stream.position)


@in_loop
async def test_holder_that_is_silent_loses_its_lease_and_is_told_c13(tmp_path: Path) -> None:
    async with frozen(tmp_path, 0.5) as (site, _, stream):
        holder = await Holder(site).open()
        await holder.until("delivered")
        thawed = (await holder.until("thawed")).thawed
        assert thawed.state == common_pb2.VERDICT_STATE_LEASE_LOST
        await until(lambda: site.group().replica.applied == stream.position)
        rows = site.group().replica.verdicts_of("m1")
        assert [row.state for row in rows] == ["DELIVERED", "LEASE_LOST"]


@in_loop
async def test_holder_that_hung_up_loses_its_lease_unless_it_comes_back_c13(
    tmp_path: Path,
) -> None:
    async with frozen(tmp_path, 1.0) as (site, _, _):
        first = await Holder(site).live()
        name = (await first.until("delivered")).delivered.name
        first.hang_up()
        second = await Holder(site, message=name).live()
        got = (await second.until("delivered")).delivered
        assert got.name == M1 and got.redelivered
        await asyncio.sleep(1.5)
        assert (await freeze(site)).leased, "it lives in the second stream"
        second.hang_up()
        await until(lambda: site.group().replica.freeze() is None)
        assert site.group().replica.verdicts_of("m1")[-1].state == "LEASE_LOST"


@in_loop
async def test_coming_back_after_the_end_is_told_how_it_ended_c12(tmp_path: Path) -> None:
    async with frozen(tmp_path, 0.5) as (site, _, _):
        holder = await Holder(site).open()
        await holder.until("thawed")
        for _ in range(2):
            back = await Holder(site, message=M1).open()
            thawed = (await back.until("thawed")).thawed
            assert thawed.state == common_pb2.VERDICT_STATE_LEASE_LOST
            assert thawed.frozen_for.ToNanoseconds() > 0
            assert await back.ends() is Code.OK
            await site.restart()
        call = site.api.Unfreeze(api.UnfreezeRequest(message=M1))
        assert "LEASE_LOST" in await refused(call, Code.FAILED_PRECONDITION)


@in_loop
async def test_lease_lives_through_a_restart_of_the_secondary_c15(tmp_path: Path) -> None:
    async with frozen(tmp_path, 2.0) as (site, _, _):
        for clean in (True, False):
            holder = await Holder(site, message=M1 if not clean else "").live()
            await holder.until("delivered")
            ending = asyncio.ensure_future(holder.ends())
            await site.restart(clean=clean)
            assert await ending is Code.UNAVAILABLE
            await until(lambda: site.group().replica.freeze() is not None)
            assert (await freeze(site)).leased
        back = await Holder(site, message=M1).live()
        assert (await back.until("delivered")).delivered.redelivered
        await back.write(Request(unfreeze=Request.Unfreeze()))
        assert (await back.until("thawed")).thawed.state == common_pb2.VERDICT_STATE_UNFROZEN


@in_loop
async def test_lease_that_nobody_comes_back_to_is_lost_after_a_restart_c15(tmp_path: Path) -> None:
    async with frozen(tmp_path, 1.0) as (site, _, stream):
        holder = await Holder(site).live()
        await holder.until("delivered")
        await site.restart(clean=False)
        await until(lambda: site.group().replica.applied == stream.position)
        assert site.group().replica.verdicts_of("m1")[-1].state == "LEASE_LOST"


@in_loop
async def test_two_holders_one_message(tmp_path: Path) -> None:
    async with frozen(tmp_path) as (site, _, _):
        first = await Holder(site, holder="a").live()
        await first.until("delivered")
        second = await Holder(site, holder="b").live()
        await second.until("heartbeat")
        third = await Holder(site, holder="c", message=M1).open()
        assert await third.ends() is Code.FAILED_PRECONDITION
        again = await Holder(site, holder="a", message=M1).live()
        await again.until("delivered")
        assert await first.ends() is Code.FAILED_PRECONDITION, "its lease went on in another stream"
        nothing = await site.api.ReceiveMessage(receive(holder="a"))
        assert not nothing.HasField("message"), "a lease has it"
        stop = api.StopReceiveRequest(group=GROUP, application=APPLICATION)
        assert (await site.api.StopReceive(stop)).stopped == 1
        assert await second.ends() is Code.CANCELLED
        await site.api.Unfreeze(api.UnfreezeRequest(message=M1, by="operator"))
        thawed = (await again.until("thawed")).thawed
        assert thawed.state == common_pb2.VERDICT_STATE_UNFROZEN


@in_loop
async def test_lease_does_not_take_over_a_unary_receive(tmp_path: Path) -> None:
    async with frozen(tmp_path) as (site, _, _):
        await site.api.ReceiveMessage(receive(holder="me"))
        holder = await Holder(site, message=M1).open()
        assert await holder.ends() is Code.FAILED_PRECONDITION
        shown = await freeze(site)
        assert not shown.leased and shown.HasField("deadline")


@in_loop
async def test_holder_that_died_waiting_does_not_get_the_message(tmp_path: Path) -> None:
    async with Site(tmp_path, 0.5) as site, PrimaryEnd(site) as primary:
        await primary.hello()
        site.register()
        silent = await Holder(site, holder="silent").open()
        assert await silent.ends() is Code.UNAVAILABLE
        living = await Holder(site, holder="living").live()
        stream = two_volumes()
        stream.message("m1")
        await primary.replicate(stream)
        assert (await living.until("delivered")).delivered.name == M1


@in_loop
async def test_message_that_does_not_freeze_is_handed_over_without_a_lease(tmp_path: Path) -> None:
    async with Site(tmp_path) as site, PrimaryEnd(site) as primary:
        await primary.hello()
        site.register()
        holder = await Holder(site).live()
        await holder.until("heartbeat")
        stream = two_volumes()
        stream.message("n1", common_pb2.MESSAGE_BEHAVIOUR_NOTIFY)
        await primary.replicate(stream)
        assert (await holder.until("delivered")).delivered.name.endswith("n1")
        assert await holder.ends() is Code.OK
        await until(lambda: site.group().replica.applied == stream.position)


BAD: list[tuple[str, list[Request], Code]] = [
    ("open", [], Code.INVALID_ARGUMENT),
    ("open", [Request(heartbeat=Request.Heartbeat())], Code.INVALID_ARGUMENT),
    ("open", [Request(unfreeze=Request.Unfreeze())], Code.INVALID_ARGUMENT),
    ("open", [Request()], Code.INVALID_ARGUMENT),
    ("open.group", [Request(open=Request.Open(application="app"))], Code.INVALID_ARGUMENT),
    (
        "open.application",
        [Request(open=Request.Open(group=GROUP, application="No Label"))],
        Code.INVALID_ARGUMENT,
    ),
    (
        "application",
        [Request(open=Request.Open(group=GROUP, application="unknown"))],
        Code.NOT_FOUND,
    ),
    (
        "replica",
        [Request(open=Request.Open(group="groups/unknown", application="app"))],
        Code.NOT_FOUND,
    ),
    (
        "open.holder",
        [Request(open=Request.Open(group=GROUP, application="app", holder="x" * 201))],
        Code.INVALID_ARGUMENT,
    ),
    (
        "open.message",
        [Request(open=Request.Open(group=GROUP, application="app", message="m1"))],
        Code.INVALID_ARGUMENT,
    ),
    (
        "open.message",
        [
            Request(
                open=Request.Open(
                    group=GROUP, application="app", message="groups/other/messages/m1"
                )
            )
        ],
        Code.INVALID_ARGUMENT,
    ),
    (
        "none",
        [
            Request(
                open=Request.Open(group=GROUP, application="app", message=f"{GROUP}/messages/none")
            )
        ],
        Code.FAILED_PRECONDITION,
    ),
]


@pytest.mark.parametrize(("said", "requests", "code"), BAD)
def test_bad_beginnings_are_refused_and_change_nothing(
    tmp_path: Path, said: str, requests: list[Request], code: Code
) -> None:
    @in_loop
    async def run(path: Path) -> None:
        async with frozen(path) as (site, _, _):
            call = site.api.HoldMessage(iter(requests))
            assert said in await refused(call.read(), code)
            shown = await freeze(site)
            assert shown.phase == resources_pb2.Freeze.PHASE_AWAITING_RECEIVER

    run(tmp_path)


@in_loop
async def test_bad_words_in_the_middle_end_the_stream_not_the_freeze(tmp_path: Path) -> None:
    async with frozen(tmp_path) as (site, _, _):
        for bad in (Request(open=Request.Open(group=GROUP, application=APPLICATION)), Request()):
            holder = await Holder(site).open()
            await holder.until("delivered")
            await holder.write(bad)
            assert await holder.ends() is Code.INVALID_ARGUMENT
            await until(lambda: not has_stream(site))
            assert (await freeze(site)).leased, "its holder may come back within the grace"


@in_loop
async def test_unfreeze_before_the_message_is_refused(tmp_path: Path) -> None:
    async with Site(tmp_path) as site, PrimaryEnd(site) as primary:
        await primary.hello()
        site.register()
        holder = await Holder(site).open()
        await holder.until("heartbeat")
        await holder.write(Request(unfreeze=Request.Unfreeze()))
        assert await holder.ends() is Code.INVALID_ARGUMENT


@in_loop
async def test_half_closed_stream_after_the_unfreeze_still_hears_the_end(tmp_path: Path) -> None:
    async with frozen(tmp_path) as (site, _, _):
        holder = await Holder(site).open()
        await holder.until("delivered")
        await holder.write(Request(unfreeze=Request.Unfreeze()))
        await holder.call.done_writing()
        assert (await holder.until("thawed")).thawed.state == common_pb2.VERDICT_STATE_UNFROZEN


@in_loop
async def test_half_closed_stream_without_an_unfreeze_is_gone(tmp_path: Path) -> None:
    async with frozen(tmp_path, 0.5) as (site, _, _):
        holder = await Holder(site).open()
        await holder.until("delivered")
        await holder.call.done_writing()
        assert await holder.ends() is Code.OK
        await until(lambda: site.group().replica.freeze() is None)
        assert site.group().replica.verdicts_of("m1")[-1].state == VerdictState.LEASE_LOST.value
