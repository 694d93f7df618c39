"""PrimaryService: the sessions of agents that quiesce applications."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from services.primary.group import PrimaryGroup
from services.primary.node import PrimaryNode
from services.primary.quiesce import AgentSession, QuiesceDesk
from slackwater import names
from slackwater.errors import DeadlineExceeded, InvalidRequest, Unavailable
from slackwater.runtime import roles, wire
from slackwater.runtime.calls import in_thread
from slackwater.v1 import primary_pb2 as api
from slackwater.v1 import primary_pb2_grpc

HEARTBEAT_SECONDS = 1.0
OPEN_SECONDS = 10.0
CLOSED = "the agent ended its stream"
Context = grpc.aio.ServicerContext[Any, Any]


class AgentServicer(primary_pb2_grpc.PrimaryServiceServicer):
    """The part of `slackwater.v1.PrimaryService` that agents call."""

    def __init__(self, node: PrimaryNode) -> None:
        """Serve a node."""
        self._node = node

    async def HoldQuiesce(
        self, request_iterator: AsyncIterator[api.HoldQuiesceRequest], context: Context
    ) -> AsyncIterator[api.HoldQuiesceResponse]:
        """Hold a session: ask the agent when a message wants it, and hear that it lives."""
        desk, agent = await self._open(request_iterator)
        opened = api.HoldQuiesceResponse.Opened(grace=wire.duration(desk.core.grace_seconds))
        reading = asyncio.create_task(_read(desk, agent, request_iterator))
        try:
            yield api.HoldQuiesceResponse(opened=opened)
            while (response := await _next(desk, agent)) is not None:
                yield response
        finally:
            desk.close(agent, CLOSED)
            reading.cancel()
        if agent.end != CLOSED:
            raise Unavailable(
                f"the session of application {agent.session.application!r}",
                f"It is over: {agent.end}. Open it again",
            )

    async def _open(
        self, requests: AsyncIterator[api.HoldQuiesceRequest]
    ) -> tuple[QuiesceDesk, AgentSession]:
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                first = await anext(aiter(requests), api.HoldQuiesceRequest())
        except TimeoutError:
            raise DeadlineExceeded("the agent's first message", OPEN_SECONDS) from None
        if first.WhichOneof("message") != "open":
            raise InvalidRequest("open", "is not the first of the stream", "Open the session first")
        name = names.group("open.group", first.open.group)
        roles.caller().check(roles.Role.QUIESCE, name)
        desk = self._node.group(name).quiesce
        await in_thread(desk.check_open, first.open.application)
        return desk, desk.open(first.open)

    def _group(self, field: str, name: str) -> PrimaryGroup:
        return self._node.group(names.group(field, name))


async def _read(
    desk: QuiesceDesk, agent: AgentSession, requests: AsyncIterator[api.HoldQuiesceRequest]
) -> None:
    """Take what the agent says until its stream ends, in order or not."""
    try:
        async for request in requests:
            desk.take(agent, request)
    finally:
        desk.close(agent, CLOSED)


async def _next(desk: QuiesceDesk, agent: AgentSession) -> api.HoldQuiesceResponse | None:
    """Return what the agent is to be told next, at the latest a sign of life; None at the end."""
    try:
        async with asyncio.timeout(HEARTBEAT_SECONDS):
            return await agent.outbox.get()
    except TimeoutError:
        desk.tick()
        return api.HoldQuiesceResponse(heartbeat=api.HoldQuiesceResponse.Heartbeat())
