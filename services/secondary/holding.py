"""One HoldMessage call: a lease on a message, carried by a stream (C13).

The stream's end says nothing about the freeze: the grace runs from the holder's last sign of life,
and another stream may come back to the message. Every stream here ends with Thawed, with a message
that was handed over without a lease, or with a status that says what to do.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from functools import partial
from typing import Any

import grpc

from services.secondary import translate
from services.secondary.group import SecondaryGroup
from services.secondary.node import SecondaryNode
from slackwater import names
from slackwater.errors import DeadlineExceeded, InvalidRequest, NoSpace, SlackwaterError
from slackwater.ibc.actions import Answer, Delivered, EndHold, Receiver
from slackwater.ibc.messages import Behaviour, Verdict
from slackwater.runtime import roles, wire
from slackwater.runtime.calls import in_thread
from slackwater.v1 import secondary_pb2 as api

HEARTBEAT_SECONDS = 1.0
OPEN_SECONDS = 10.0
HOLDER_LIMIT = 200
Context = grpc.aio.ServicerContext[Any, Any]
Request = api.HoldMessageRequest
Response = api.HoldMessageResponse


def person(field: str, text: str) -> str:
    """Return who somebody says they are.

    Raises:
        InvalidRequest: it is too long, or not printable.
    """
    if len(text) > HOLDER_LIMIT or not text.isprintable():
        raise InvalidRequest(
            field, f"is longer than {HOLDER_LIMIT} characters or not printable", "Give a short name"
        )
    return text


class _Gone:
    """The holder's side of the stream has ended, or the service is ending."""


_GONE = _Gone()
News = Answer | EndHold | SlackwaterError | _Gone


class HoldStream:
    """Serves one call. The event loop's; the replica tells its news from any thread."""

    def __init__(
        self, node: SecondaryNode, requests: AsyncIterator[Request], context: Context
    ) -> None:
        """Nothing is read yet."""
        self._node = node
        self._requests = requests
        self._context = context
        self._news: asyncio.Queue[News] = asyncio.Queue()
        self._has_message = self._released = False

    async def responses(self) -> AsyncGenerator[Response, None]:
        """Follow the stream to its end.

        Raises:
            InvalidRequest, PermissionDenied, NotFound, FailedPrecondition: the Open is no good.
            Unavailable: the service is ending, or no heartbeat came while the holder waited.
        """
        group, opening, message_id = await self._opening()
        holder = person("open.holder", opening.holder) or self._context.peer()
        loop = asyncio.get_running_loop()

        def told(news: Answer | EndHold) -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._news.put_nowait, news)

        replica = group.replica
        call = partial(replica.hold, opening.application, holder, message_id, told)
        asking = asyncio.ensure_future(in_thread(call))
        try:
            receiver = await asyncio.shield(asking)
            listening = asyncio.ensure_future(self._listen(group, receiver))
            try:
                with self._node.until_ending(partial(self._news.put_nowait, _GONE)):
                    async for response in self._follow(group):
                        yield response
            finally:
                listening.cancel()
        finally:
            asking.add_done_callback(partial(_leave, group))

    # -- from the holder ----------------------------------------------------------------------

    async def _opening(self) -> tuple[SecondaryGroup, Request.Open, str]:
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                first = await anext(self._requests)
        except TimeoutError:
            raise DeadlineExceeded("waiting for open", OPEN_SECONDS) from None
        except StopAsyncIteration:
            first = Request()
        if first.WhichOneof("message") != "open":
            raise InvalidRequest(
                "open", "has to be the first message of the stream", "Say what to hold first"
            )
        opening = first.open
        name = names.group("open.group", opening.group)
        roles.caller().check(roles.Role.MESSAGE, name)
        names.check_label("open.application", opening.application)
        message_id = ""
        if opening.message:
            owner, message_id = names.child("open.message", opening.message, "messages")
            if owner != name:
                raise InvalidRequest("open.message", f"is of group {owner!r}, not of {name!r}")
        return self._node.group(name), opening, message_id

    async def _listen(self, group: SecondaryGroup, receiver: Receiver) -> None:
        """Take what the holder says; whatever it is shows that it lives."""
        try:
            async for request in self._requests:
                group.replica.heartbeat(receiver)
                match request.WhichOneof("message"):
                    case "heartbeat":
                        pass
                    case "unfreeze":
                        await self._release(group, receiver)
                    case "open":
                        raise InvalidRequest("open", "comes once, as the first message")
                    case _:
                        raise InvalidRequest("message", "is not set", "Send a heartbeat")
            if not self._released:
                self._news.put_nowait(_GONE)
        except SlackwaterError as error:
            self._news.put_nowait(error)
        except grpc.aio.UsageError:
            self._news.put_nowait(_GONE)  # the call ended under our hands

    async def _release(self, group: SecondaryGroup, receiver: Receiver) -> None:
        if not self._has_message:
            raise InvalidRequest(
                "unfreeze", "nothing has been handed over yet", "Wait for the message"
            )
        self._released = True
        with suppress(NoSpace):  # it is ended as soon as there is room, and Thawed follows
            await in_thread(group.replica.release_hold, receiver)

    # -- to the holder ------------------------------------------------------------------------

    async def _follow(self, group: SecondaryGroup) -> AsyncIterator[Response]:
        yield _beat()  # says that the lease waits
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    news = await self._news.get()
            except TimeoutError:
                yield _beat()
                continue
            match news:
                case Answer(delivered=None):
                    await self._context.abort(
                        grpc.StatusCode.CANCELLED, "receiving for this application was stopped"
                    )
                case Answer(delivered=Delivered() as delivered):
                    self._has_message = True
                    yield Response(delivered=translate.delivered(group.name, delivered))
                    if delivered.message.behaviour is not Behaviour.FREEZE:
                        return
                case EndHold(verdict=Verdict() as verdict):
                    yield _thawed(verdict)
                    return
                case EndHold(error=SlackwaterError() as error) | (SlackwaterError() as error):
                    raise error
                case _:
                    self._node.check_going_on()
                    return


def _beat() -> Response:
    return Response(heartbeat=Response.Heartbeat())


def _thawed(verdict: Verdict) -> Response:
    return Response(
        thawed=Response.Thawed(
            state=translate.verdict_state(verdict.state.value),
            frozen_for=wire.duration(verdict.frozen_seconds or 0.0),
        )
    )


def _leave(group: SecondaryGroup, asking: "asyncio.Future[Receiver]") -> None:
    """The stream is gone: a wait is forgotten, a lease goes on for its grace."""
    if asking.cancelled() or asking.exception() is not None:
        return
    loop = asyncio.get_running_loop()
    loop.run_in_executor(None, group.replica.cancel_receive, asking.result())
