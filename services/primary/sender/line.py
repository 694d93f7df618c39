"""The gRPC stream under a link: dialled, written, read, hung up."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

import grpc
import grpc.aio

from slackwater.errors import QuotaExceeded
from slackwater.runtime import status
from slackwater.v1 import replication_pb2

METHOD = "/slackwater.v1.ReplicationService/Replicate"
DIAL_SECONDS = 10.0
SILENCE_SECONDS = 10.0
"""A write that the peer does not take is given up when nothing was heard for so long."""

UNHANDLED_LIMIT = 10_000
"""Responses not looked at yet; an honest Secondary answers what it was sent and stays far below."""

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
"""Dialling again cannot help: fenced, another group, the wrong role, the wrong service."""

_FATAL_REASONS = frozenset({QuotaExceeded.reason})
"""Nor here, though another error of that code, such as no room, may pass by itself."""

_SETTLED = frozenset({grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.TRANSIENT_FAILURE})

Dial = Callable[[str], grpc.aio.Channel]
Step = Callable[[], Awaitable[None] | None]
_Call = grpc.aio.StreamStreamCall[bytes, Any]


class Line:
    """One stream at a time; news of an earlier one is dropped.

    Everything it has to say is posted as a step to the link's task, in order.
    """

    def __init__(
        self,
        dial: Dial,
        post: Callable[[Step], None],
        opened: Step,
        received: Callable[[replication_pb2.ReplicateResponse], None],
        ended: Callable[[str, bool], None],
    ) -> None:
        """Be hung up.

        Args:
            dial: opens a channel to an endpoint.
            post: lets the link's task run a step.
            opened: the step for a stream that can be written to.
            received: told of each response.
            ended: told why a stream ended or could not be opened, and whether for good.
        """
        self._dial = dial
        self._post = post
        self._opened = opened
        self._received = received
        self._ended = ended
        self._channel: grpc.aio.Channel | None = None
        self._call: _Call | None = None
        self._reading: asyncio.Task[None] | None = None
        self._patience: asyncio.Timeout | None = None
        self._unhandled = 0

    async def dial(self, endpoint: str) -> None:
        """Begin to open a stream, in place of the one there is."""
        await self.hang_up()
        self._channel = self._dial(endpoint)
        self._reading = asyncio.create_task(self._carry(self._channel, endpoint))

    async def write(self, data: bytes) -> None:
        """Write a message; on a stream that is gone it is dropped."""
        call, channel = self._call, self._channel
        if call is None:
            return
        try:
            # The reading task learns why a stream ended, and says so.
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, grpc.aio.UsageError):
                async with asyncio.timeout(SILENCE_SECONDS) as self._patience:
                    await call.write(data)
        except TimeoutError:
            self._call = None
            reason = f"the Secondary has taken nothing for {SILENCE_SECONDS:g} s"
            self._say(channel, partial(self._ended, reason, False))
        finally:
            self._patience = None

    async def hang_up(self) -> None:
        """End the stream, or the attempt; nothing more is heard of it."""
        call, self._call = self._call, None
        reading, self._reading = self._reading, None
        channel, self._channel = self._channel, None
        self._unhandled = 0
        if reading is not None:
            reading.cancel()
        if call is not None:
            call.cancel()
        if channel is not None:
            await channel.close()

    # -- the reading task ---------------------------------------------------------------------

    async def _carry(self, channel: grpc.aio.Channel, endpoint: str) -> None:
        """Open a stream and post what comes out of it, to its end."""
        if not await _is_ready(channel):
            reason = f"cannot reach {endpoint}: {await _why(channel)}"
            self._say(channel, partial(self._ended, reason, False))
            return
        call = _open(channel)
        self._say(channel, partial(self._take, call))
        reason, fatal = await self._read(channel, call)
        self._say(channel, partial(self._over, reason, fatal))

    def _take(self, call: _Call) -> Awaitable[None] | None:
        self._call = call
        return self._opened()

    def _over(self, reason: str, fatal: bool) -> None:
        self._call = None
        self._ended(reason, fatal)

    async def _read(self, channel: grpc.aio.Channel, call: _Call) -> tuple[str, bool]:
        """Post each response; return why there are no more, and whether dialling again helps."""
        details: str | None
        try:
            async for response in call:
                if self._patience is not None:
                    when = asyncio.get_running_loop().time() + SILENCE_SECONDS
                    self._patience.reschedule(when)
                self._unhandled += 1
                if self._unhandled > UNHANDLED_LIMIT:
                    call.cancel()
                    return "the Secondary sends more than can be looked at", False
                self._say(channel, partial(self._receive, response))
            code, details = await call.code(), await call.details()
        except grpc.aio.AioRpcError as error:
            if status.decode(error).reason in _FATAL_REASONS:
                return f"{error.code().name}: {error.details()}", True
            code, details = error.code(), error.details()
        if code is grpc.StatusCode.OK:
            return "the Secondary ended the stream", False
        return f"{code.name}: {details}", code in _FATAL

    def _receive(self, response: replication_pb2.ReplicateResponse) -> None:
        self._unhandled -= 1
        self._received(response)

    def _say(self, channel: grpc.aio.Channel | None, step: Step) -> None:
        def unless_outdated() -> Awaitable[None] | None:
            return step() if channel is self._channel else None

        self._post(unless_outdated)


def _open(channel: grpc.aio.Channel) -> _Call:
    call: _Call = channel.stream_stream(
        METHOD,
        request_serializer=None,
        response_deserializer=replication_pb2.ReplicateResponse.FromString,
    )()
    return call


async def _is_ready(channel: grpc.aio.Channel) -> bool:
    """Connect; False when that failed, or takes too long."""
    state = channel.get_state(try_to_connect=True)
    with suppress(TimeoutError):
        async with asyncio.timeout(DIAL_SECONDS):
            while state not in _SETTLED:
                await channel.wait_for_state_change(state)
                state = channel.get_state()
    return state is grpc.ChannelConnectivity.READY


async def _why(channel: grpc.aio.Channel) -> str:
    """What a call says on a channel that does not get through."""
    call = _open(channel)
    try:
        async with asyncio.timeout(1.0):
            return str(await call.details())
    except (TimeoutError, asyncio.CancelledError):
        return "no answer"
    finally:
        call.cancel()
