"""The session with the Primary: opened, kept alive, opened again.

Each end sends a heartbeat every second. A session without one for the Primary's grace is dead, as
is one whose stream ended; either way the agent is told at once and resumes what it holds. A session
that cannot be opened is tried again for ever: a Primary that restarts, a name that is not
registered yet, another agent of the same name all pass.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

import grpc

from slackwater.agent import wire
from slackwater.agent.keeper import Answer, Request
from slackwater.runtime import client, logs, status
from slackwater.runtime.tls import CertificateStore
from slackwater.v1 import primary_pb2, primary_pb2_grpc

HEARTBEAT_SECONDS = 1.0
OPEN_SECONDS = 10.0
GRACE_SECONDS = 5.0
FIRST_BACKOFF_SECONDS = 0.2
MAX_BACKOFF_SECONDS = 5.0
FLUSH_SECONDS = 2.0

_HINTS = {
    grpc.StatusCode.ALREADY_EXISTS: "another agent holds this name; it goes on trying",
    grpc.StatusCode.UNAVAILABLE: "see that the Primary runs and --primary names it",
    grpc.StatusCode.PERMISSION_DENIED: "the certificate needs the role quiesce",
}

_log = logs.get("agent")
_Call = Any  # grpc.aio.StreamStreamCall; its stubs leave the message types open


@dataclass(frozen=True, slots=True)
class Introduction:
    """Who the agent is."""

    group: str
    application: str
    kind: str
    host: str


class Events(Protocol):
    """What a session tells its agent, all from the event loop."""

    def ask_hold(self, request: Request) -> None:
        """The Primary wants the application held."""
        ...

    def ask_resume(self, hold_id: str, message: str) -> None:
        """The Primary wants the application to go on."""
        ...

    def lose_session(self, why: str) -> None:
        """The session is over."""
        ...


class Session:
    """One application's session, for as long as `run` runs."""

    def __init__(
        self,
        address: str,
        certificates: CertificateStore | None,
        introduction: Introduction,
        events: Events,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """Open nothing yet."""
        self._address = address
        self._certificates = certificates
        self._introduction = introduction
        self._events = events
        self._uniform = uniform
        self._outbox: asyncio.Queue[Answer] | None = None
        self._call: _Call | None = None
        self._ended = asyncio.Event()

    def tell(self, answer: Answer) -> None:
        """Answer the Primary; without a session there is nobody to tell."""
        if self._outbox is not None:
            self._outbox.put_nowait(answer)

    async def flush(self) -> None:
        """Say that nothing more comes, and wait until the Primary has seen it, for a bounded time.

        Ending the call at once would take back what is on its way.
        """
        if self._outbox is None or self._call is None:
            return
        with contextlib.suppress(TimeoutError, asyncio.InvalidStateError):
            async with asyncio.timeout(FLUSH_SECONDS):
                await self._outbox.join()
                await self._call.done_writing()
                await self._ended.wait()

    async def run(self) -> None:
        """Keep a session until cancelled."""
        backoff = FIRST_BACKOFF_SECONDS
        said = ""
        while True:
            # A channel of its own for each: it takes newer certificates.
            async with client.open_channel(self._address, self._certificates) as channel:
                why, stood = await self._hold_session(channel)
            if stood:
                backoff, said = FIRST_BACKOFF_SECONDS, ""
            if why != said:
                _log.warning("no session", address=self._address, why=why)
                said = why
            await asyncio.sleep(self._uniform(0.5, 1.0) * backoff)
            backoff = min(2 * backoff, MAX_BACKOFF_SECONDS)

    async def _hold_session(self, channel: grpc.aio.Channel) -> tuple[str, bool]:
        """One session from its opening to its end: why it ended, and whether it ever stood."""
        stub = primary_pb2_grpc.PrimaryServiceStub(channel)
        call: _Call = stub.HoldQuiesce()
        is_open, why = False, "the agent ended the session"
        try:
            grace = await self._open(call)
            is_open = True
            _log.info("session", address=self._address, grace_seconds=grace)
            why = await self._converse(call, grace)
        except grpc.aio.AioRpcError as error:
            why = _sentence(error)
        except TimeoutError:
            why = f"the Primary did not answer within {OPEN_SECONDS:g} s"
        finally:
            self._outbox = None
            if is_open:  # at cancellation as well: at once, before anything is awaited
                self._events.lose_session(f"the session ended: {why}")
            call.cancel()
        return why, is_open

    async def _open(self, call: _Call) -> float:
        """Say who we are; returns the grace once the session stands."""
        about = self._introduction
        opening = primary_pb2.HoldQuiesceRequest.Open(
            group=f"groups/{about.group}",
            application=about.application,
            kind=about.kind,
            host=about.host,
        )
        async with asyncio.timeout(OPEN_SECONDS):
            with contextlib.suppress(asyncio.InvalidStateError):  # the read says why
                await call.write(primary_pb2.HoldQuiesceRequest(open=opening))
            answer = await call.read()
        if answer is grpc.aio.EOF:
            raise await _end_of(call)
        return wire.grace_seconds(answer) or GRACE_SECONDS

    async def _converse(self, call: _Call, grace: float) -> str:
        """Listen and speak until the session ends; returns why."""
        self._outbox, self._call = asyncio.Queue(), call
        self._ended.clear()
        speaking = asyncio.create_task(self._speak(call, self._outbox), name="speak")
        try:
            return await self._listen(call, grace)
        finally:
            self._call = None
            self._ended.set()
            speaking.cancel()
            await asyncio.gather(speaking, return_exceptions=True)

    async def _listen(self, call: _Call, grace: float) -> str:
        while True:
            try:
                async with asyncio.timeout(grace):
                    message = await call.read()
            except TimeoutError:
                return f"the Primary has been silent for {grace:g} s"
            if message is grpc.aio.EOF:
                return _sentence(await _end_of(call))
            match message.WhichOneof("message"):
                case "hold":
                    self._events.ask_hold(wire.request_of(message.hold))
                case "resume":
                    self._events.ask_resume(message.resume.hold_id, message.resume.message)
                case _:
                    pass  # a heartbeat, or a word of a later release

    async def _speak(self, call: _Call, outbox: asyncio.Queue[Answer]) -> None:
        """Send answers as they come, and a heartbeat whenever a second had none."""
        while True:
            try:
                answer = await asyncio.wait_for(outbox.get(), HEARTBEAT_SECONDS)
            except TimeoutError:
                beat = primary_pb2.HoldQuiesceRequest.Heartbeat()
                await call.write(primary_pb2.HoldQuiesceRequest(heartbeat=beat))
                continue
            await call.write(wire.from_answer(answer))
            outbox.task_done()


async def _end_of(call: _Call) -> grpc.aio.AioRpcError:
    """The status with which the Primary ended the stream."""
    return grpc.aio.AioRpcError(
        await call.code(),
        await call.initial_metadata(),
        await call.trailing_metadata(),
        await call.details(),
    )


def _sentence(error: grpc.aio.AioRpcError) -> str:
    """Why there is no session, for people."""
    remote = status.decode(cast(grpc.RpcError, error))
    step = remote.next_step or _HINTS.get(remote.code, "")
    message = remote.message or "the Primary ended the session"
    return f"{remote.code.name}: {message}{'. ' if step else ''}{step}"
