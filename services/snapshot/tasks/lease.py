"""A lease on the next message of an application: waited for, held, given back.

One HoldMessage stream at a time, with a heartbeat every second both ways. A stream that breaks is
opened again, naming the message if there is one, for as long as the Secondary may be restarting; so
the freeze lives on if its grace has not run out. When this process dies, the heartbeats end and the
Secondary thaws by itself (C13).
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import grpc

from services.snapshot import steps
from services.snapshot.peers import GONE, Peer, sentence
from slackwater.errors import FailedPrecondition, SlackwaterError
from slackwater.v1 import common_pb2, secondary_pb2, secondary_pb2_grpc

HEARTBEAT_SECONDS = 1.0
SILENCE_SECONDS = 5.0
"""Without a sign of life for so long a stream is broken."""

OPEN_SECONDS = 15.0
COME_BACK_SECONDS = 60.0
"""So long a held message is asked for again: a restarting Secondary counts the grace later."""

_AGAIN = GONE | {grpc.StatusCode.INTERNAL}
"""Codes after which a stream is opened again. INTERNAL is gRPC's own when a write of ours meets the
end of the stream; the next stream then tells why it ended."""

Request = secondary_pb2.HoldMessageRequest
Delivered = secondary_pb2.DeliveredMessage
Thawed = secondary_pb2.HoldMessageResponse.Thawed
Stream = "grpc.aio.StreamStreamCall[Request, secondary_pb2.HoldMessageResponse]"
Spawn = Callable[[Coroutine[Any, Any, None], str], None]


class Lease:
    """One lease.

    Attributes:
        delivered: The message, once the replica stands at it.
        over: How the freeze ended, or why nobody knows: set once, with a result or an error.
    """

    def __init__(self, peer: Peer, group: str, application: str, holder: str) -> None:
        """Nothing is open yet."""
        self.delivered: asyncio.Future[Delivered] = asyncio.Future()
        self.over: asyncio.Future[Thawed] = asyncio.Future()
        self._peer = peer
        self._open = Request.Open(group=group, application=application, holder=holder)
        self._waits = asyncio.Event()
        self._unfreeze = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        for future in (self.delivered, self.over):
            future.add_done_callback(_seen)

    async def start(self, spawn: Spawn) -> None:
        """Open the stream; returns when the Secondary waits for us.

        Raises:
            SlackwaterError: it refused, or did not answer.
        """
        spawn(self._run(), f"lease on {self._open.application}")
        waits = asyncio.ensure_future(self._waits.wait())
        await first_of(waits, self.over, seconds=OPEN_SECONDS)
        waits.cancel()
        if self.over.done():
            self.over.result()
        if not self._waits.is_set():
            self.close()
            raise self._peer.unavailable()

    def close(self) -> None:
        """Let go of it; a freeze it holds ends when the grace has run out."""
        if self._task is not None:
            self._task.cancel()
        self._end(FailedPrecondition("LEASE_CLOSED", "the lease was given up"))

    async def unfreeze(self, seconds: float) -> Thawed | None:
        """Give the message back; None if there was no answer in time.

        Raises:
            SlackwaterError: the lease was lost.
        """
        self._unfreeze.set()
        await asyncio.wait({self.over}, timeout=seconds)
        return self.over.result() if self.over.done() else None

    async def _run(self) -> None:
        self._task = asyncio.current_task()
        last_sign = time.monotonic()
        while not self.over.done():
            try:
                last_sign = await self._one_stream(last_sign)
            except grpc.aio.AioRpcError as error:
                if error.code() not in _AGAIN:
                    self._end(FailedPrecondition("LEASE_REFUSED", sentence(error, self._peer)))
                    return
            if time.monotonic() - last_sign > COME_BACK_SECONDS:
                self._end(self._peer.unavailable())
                return
            if not self.over.done():
                await asyncio.sleep(steps.FIRST_RETRY_SECONDS)

    async def _one_stream(self, last_sign: float) -> float:
        """Follow one stream to its end; returns when the Secondary last gave a sign of life."""
        secondary: secondary_pb2_grpc.SecondaryServiceAsyncStub = (
            secondary_pb2_grpc.SecondaryServiceStub(self._peer.channel)
        )
        call = secondary.HoldMessage()
        beats: asyncio.Task[None] | None = None
        try:
            await call.write(Request(open=self._open))
            async with asyncio.timeout(SILENCE_SECONDS):
                await call.initial_metadata()
            beats = asyncio.ensure_future(self._beat(call))
            last_sign = time.monotonic()
            self._waits.set()
            while True:
                async with asyncio.timeout(SILENCE_SECONDS):
                    answer: Any = await call.read()
                if answer is grpc.aio.EOF:
                    return last_sign
                last_sign = time.monotonic()
                if self._take(answer):
                    return last_sign
        except (TimeoutError, asyncio.InvalidStateError, grpc.aio.UsageError):
            return last_sign  # half open, or ended under our hands: again
        finally:
            if beats is not None:
                beats.cancel()
            call.cancel()

    async def _beat(self, call: Any) -> None:
        """Show that we live; then that the work is done."""
        try:
            while not self._unfreeze.is_set():
                await call.write(Request(heartbeat=Request.Heartbeat()))
                waiting = asyncio.ensure_future(self._unfreeze.wait())
                await asyncio.wait({waiting}, timeout=HEARTBEAT_SECONDS)
                waiting.cancel()
            await call.write(Request(unfreeze=Request.Unfreeze()))
            while True:
                await asyncio.sleep(HEARTBEAT_SECONDS)
                await call.write(Request(heartbeat=Request.Heartbeat()))
        except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
            return  # the reader learns why

    def _take(self, answer: secondary_pb2.HoldMessageResponse) -> bool:
        """Take one answer in; True after the last."""
        kind = answer.WhichOneof("message")
        if kind == "thawed":
            if not self.over.done():
                self.over.set_result(answer.thawed)
            return True
        if kind != "delivered":
            return False
        message = answer.delivered
        if message.behaviour != common_pb2.MESSAGE_BEHAVIOUR_FREEZE:
            return False  # handed over without a lease; the stream waits on
        if not self.delivered.done():
            self._open.message = message.name
            self.delivered.set_result(message)
        elif self.delivered.result().name != message.name:
            self._end(
                FailedPrecondition(
                    "LEASE_LOST", f"the replica stands at {message.name} now: the freeze had ended"
                )
            )
            return True
        return False

    def _end(self, error: SlackwaterError) -> None:
        if not self.over.done():
            self.over.set_exception(error)


async def first_of(*futures: "asyncio.Future[Any]", seconds: float | None = None) -> None:
    """Wait until one is done, or for so long; cancels none."""
    await asyncio.wait(futures, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)


def _seen(future: "asyncio.Future[Any]") -> None:
    """Look at an error that nobody may be waiting for."""
    if not future.cancelled():
        future.exception()
