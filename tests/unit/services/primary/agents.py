"""Agents made by hand: they say exactly what a test tells them to."""

import asyncio
from contextlib import suppress
from typing import Any, Self

import grpc

from slackwater.v1 import primary_pb2 as api
from tests.unit.services.primary.primary_site import GROUP, SECONDS, Site

SIGN = api.HoldQuiesceRequest(heartbeat=api.HoldQuiesceRequest.Heartbeat())


class Agent:
    """A session that lives, and answers only when it is told to."""

    def __init__(
        self, site: Site, application: str = "db", kind: str = "fsfreeze", group: str = GROUP
    ) -> None:
        self.application = application
        self.heard: list[api.HoldQuiesceResponse] = []
        self.heartbeats = 0
        self._open = api.HoldQuiesceRequest.Open(
            group=group, application=application, kind=kind, host="here"
        )
        self._call = site.api.HoldQuiesce()
        self._one_write = asyncio.Lock()  # gRPC takes one at a time
        self._is_silent = False
        self._alive: asyncio.Task[None] | None = None
        self._queue: asyncio.Queue[api.HoldQuiesceResponse] = asyncio.Queue()
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        opened = await self.begin()
        assert opened.WhichOneof("message") == "opened"
        return self

    async def __aexit__(self, *about: object) -> None:
        await self.die()

    async def begin(self) -> Any:
        """Open the session; return its first answer, or raise what refuses it."""
        await self._call.write(api.HoldQuiesceRequest(open=self._open))
        opened = await self._call.read()
        if opened is grpc.aio.EOF:
            await self._call
        self._alive = asyncio.create_task(self._live())
        self._reading = asyncio.create_task(self._read())
        return opened

    async def die(self) -> None:
        """Be gone, as a process that is killed."""
        self.fall_silent()
        if self._reading is not None:
            self._reading.cancel()
        self._call.cancel()

    def fall_silent(self) -> None:
        """Give no sign of life any more."""
        self._is_silent = True  # to cancel a write would end the call

    async def end(self) -> grpc.StatusCode:
        """Wait for the Primary to end the session; return the status."""
        code = await asyncio.wait_for(self._call.code(), SECONDS)
        assert isinstance(code, grpc.StatusCode)
        return code

    async def _live(self) -> None:
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, asyncio.CancelledError):
            while not self._is_silent:
                async with self._one_write:
                    await self._call.write(SIGN)
                await asyncio.sleep(0.2)

    async def _read(self) -> None:
        while True:
            response = await self._call.read()
            if response is grpc.aio.EOF:
                return
            if response.HasField("heartbeat"):
                self.heartbeats += 1
            else:
                self._queue.put_nowait(response)

    async def next(self, kind: str) -> Any:
        """Return the next thing the Primary asks, which has to be of this kind."""
        response = await asyncio.wait_for(self._queue.get(), SECONDS)
        assert response.WhichOneof("message") == kind, response
        return getattr(response, kind)

    def asked(self) -> int:
        """Return how many questions wait to be read."""
        return self._queue.qsize()

    async def say(self, **message: Any) -> None:
        """Say one thing."""
        async with self._one_write:
            await self._call.write(api.HoldQuiesceRequest(**message))

    async def quiesced(self, hold_id: str, answer: str = "held") -> None:
        said = api.HoldQuiesceRequest.Quiesced(hold_id=hold_id, answer=answer)
        await self.say(quiesced=said)

    async def resumed(self, hold_id: str, answer: str = "on", *, unbroken: bool = True) -> None:
        said = api.HoldQuiesceRequest.Resumed(hold_id=hold_id, answer=answer, unbroken=unbroken)
        await self.say(resumed=said)

    async def failed(self, hold_id: str, problem: str) -> None:
        said = api.HoldQuiesceRequest.Failed(hold_id=hold_id, problem=problem)
        await self.say(failed=said)

    async def obey(self, *, unbroken: bool = True) -> Any:
        """Go through one round as a good agent does; return what it was asked."""
        hold = await self.next("hold")
        await self.quiesced(hold.hold_id, f"{self.application} held")
        resume = await self.next("resume")
        assert resume.hold_id == hold.hold_id
        await self.resumed(hold.hold_id, f"{self.application} on", unbroken=unbroken)
        return resume


def quiescing(
    *applications: str, timeout: float = 10.0, max_hold: float = 10.0, **fields: Any
) -> api.SendMessageRequest:
    """Return a request that asks for a quiesce."""
    given = {"group": GROUP, "application": "backup", "text": "now", **fields}
    request = api.SendMessageRequest(**given)
    request.quiesce.applications.extend(applications)
    request.quiesce.timeout.FromNanoseconds(int(timeout * 1e9))
    request.quiesce.max_hold.FromNanoseconds(int(max_hold * 1e9))
    return request


async def ready(site: Site, *applications: str) -> None:
    """Make a group with a link and these names."""
    await site.with_group()
    await site.with_link()
    for name in ("backup", *applications):
        await site.api.RegisterApplication(
            api.PrimaryServiceRegisterApplicationRequest(group=GROUP, application=name)
        )
