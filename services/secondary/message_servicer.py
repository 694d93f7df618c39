"""The half of `slackwater.v1.SecondaryService` that is about messages."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from services.secondary import translate
from services.secondary.group import SecondaryGroup
from services.secondary.holding import HoldStream, person
from services.secondary.node import SecondaryNode
from slackwater import names
from slackwater.apply.replica import Replica
from slackwater.errors import FailedPrecondition, InvalidRequest
from slackwater.group.rows import MessageRow, VerdictRow
from slackwater.ibc.actions import Delivered, Receiver
from slackwater.link.wire import to_wire
from slackwater.runtime import wire
from slackwater.runtime.calls import check_request_id, in_thread, page, page_size
from slackwater.v1 import secondary_pb2 as api
from slackwater.v1 import secondary_pb2_grpc

WAIT_LIMIT_SECONDS = 3600.0
Context = grpc.aio.ServicerContext[Any, Any]
M = TypeVar("M", bound=Message)

# Bodies are large and not asked for: rows are found by id first.
_MESSAGES = (
    "SELECT id, lsn FROM messages WHERE lsn < ? AND (? = '' OR application = ?)"
    " ORDER BY lsn DESC LIMIT ?"
)


class MessageServicer(secondary_pb2_grpc.SecondaryServiceServicer):
    """Names, receiving, the ends of freezes."""

    def __init__(self, node: SecondaryNode) -> None:
        """Serve a node."""
        self._node = node

    # -- names --------------------------------------------------------------------------------

    async def RegisterApplication(
        self, request: api.SecondaryServiceRegisterApplicationRequest, context: Context
    ) -> api.SecondaryServiceRegisterApplicationResponse:
        """Register a name for receiving (C9); repeated, it answers the same."""
        check_request_id(request.request_id)
        group = self._group("group", request.group)
        names.check_label("application", request.application)
        made = await in_thread(group.replica.register_application, request.application)
        return api.SecondaryServiceRegisterApplicationResponse(
            application=translate.application(group.name, made)
        )

    async def UnregisterApplication(
        self, request: api.SecondaryServiceUnregisterApplicationRequest, context: Context
    ) -> api.SecondaryServiceUnregisterApplicationResponse:
        """Take a name back (C9)."""
        group = self._group("group", request.group)
        names.check_label("application", request.application)

        def unregister() -> api.SecondaryServiceUnregisterApplicationResponse:
            group.replica.unregister_application(request.application)
            return api.SecondaryServiceUnregisterApplicationResponse()

        return await self._once(group, "UnregisterApplication", request.request_id, unregister)

    async def ListApplications(
        self, request: api.SecondaryServiceListApplicationsRequest, context: Context
    ) -> api.SecondaryServiceListApplicationsResponse:
        """List the registered names of a group."""
        group = self._group("group", request.group)
        rows = await in_thread(group.replica.applications)
        chosen, token = page(rows, lambda row: row.name, request.page_size, request.page_token)
        return api.SecondaryServiceListApplicationsResponse(
            applications=[translate.application(group.name, row) for row in chosen],
            next_page_token=token,
        )

    # -- receiving ----------------------------------------------------------------------------

    async def ReceiveMessage(
        self, request: api.ReceiveMessageRequest, context: Context
    ) -> api.ReceiveMessageResponse:
        """Take the next message of a name, waiting for it if need be (C10)."""
        check_request_id(request.request_id)
        group = self._group("group", request.group)
        names.check_label("application", request.application)
        seconds = _wait_seconds(request)
        holder = person("holder", request.holder) or context.peer()
        delivered, stopped = await self._receive(
            group.replica, request.application, holder, request.request_id, seconds
        )
        if stopped:
            await context.abort(
                grpc.StatusCode.CANCELLED, f"receiving for {request.application!r} was stopped"
            )
        if delivered is None:
            self._node.check_going_on()
            return api.ReceiveMessageResponse()
        return api.ReceiveMessageResponse(message=translate.delivered(group.name, delivered))

    async def _receive(
        self, replica: Replica, application: str, holder: str, request_id: str, seconds: float
    ) -> tuple[Delivered | None, bool]:
        """Wait without a thread: the replica answers into a future; who is gone is forgotten."""
        loop = asyncio.get_running_loop()
        answers: list[tuple[Delivered | None, bool]] = []
        answered = asyncio.Event()

        def answer(delivered: Delivered | None, stopped: bool) -> None:
            answers.append((delivered, stopped))
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(answered.set)

        call = partial(replica.receive, application, holder, request_id, seconds, answer)
        asking = asyncio.ensure_future(in_thread(call))
        try:
            await asyncio.shield(asking)
            with self._node.until_ending(answered.set):
                await answered.wait()
            return answers[0] if answers else (None, False)
        finally:
            if not answers:
                asking.add_done_callback(partial(_forget, replica))

    async def StopReceive(
        self, request: api.StopReceiveRequest, context: Context
    ) -> api.StopReceiveResponse:
        """End the waiting receives of a name."""
        group = self._group("group", request.group)

        def stop() -> api.StopReceiveResponse:
            stopped = group.replica.stop_receive(request.application)
            return api.StopReceiveResponse(stopped=stopped)

        return await self._once(group, "StopReceive", request.request_id, stop)

    async def HoldMessage(
        self, request_iterator: AsyncIterator[api.HoldMessageRequest], context: Context
    ) -> AsyncIterator[api.HoldMessageResponse]:
        """Take a message and own its freeze by a lease (C13)."""
        stream = HoldStream(self._node, request_iterator, context)
        responses = stream.responses()
        try:
            async for response in responses:
                yield response
        finally:
            await responses.aclose()

    # -- the end of a freeze ------------------------------------------------------------------

    async def Unfreeze(
        self, request: api.UnfreezeRequest, context: Context
    ) -> api.UnfreezeResponse:
        """End the freeze at a message."""
        owner, message_id = names.child("message", request.message, "messages")
        group = self._node.group(owner)
        by = person("by", request.by) or context.peer()

        def unfreeze() -> api.UnfreezeResponse:
            try:
                ended = group.replica.unfreeze(message_id, by)
            except FailedPrecondition as error:
                raise _why_not_frozen(group, message_id, error) from None
            return api.UnfreezeResponse(
                frozen_for=wire.duration(ended.stood_seconds),
                position=to_wire(ended.position),
                backlog_bytes=ended.backlog_bytes,
            )

        return await self._once(group, "Unfreeze", request.request_id, unfreeze)

    async def ListMessages(
        self, request: api.SecondaryServiceListMessagesRequest, context: Context
    ) -> api.SecondaryServiceListMessagesResponse:
        """List the messages this replica has come to, newest first, without bodies."""
        group = self._group("group", request.group)
        return await in_thread(_messages, group, request)

    # -- shared -------------------------------------------------------------------------------

    def _group(self, field: str, name: str) -> SecondaryGroup:
        return self._node.group(names.group(field, name))

    async def _once(
        self, group: SecondaryGroup, method: str, request_id: str, work: Callable[[], M]
    ) -> M:
        """Do what changes a replica, in a thread; a repeated request id gets the first answer."""
        check_request_id(request_id)
        return await in_thread(_remembered, group, method, request_id, work)


def _remembered(group: SecondaryGroup, method: str, request_id: str, work: Callable[[], M]) -> M:
    if not request_id:
        return work()
    database = group.replica.database
    with group.admin:
        known = database.remembered(request_id, method)
        if known is None:
            answer = work()
            now_ns = group.replica.clock.time_ns()
            database.remember(request_id, method, answer.SerializeToString(), now_ns)
            return answer
    kind = api.DESCRIPTOR.services_by_name["SecondaryService"].methods_by_name[method].output_type
    answer = getattr(api, kind.name)()
    answer.ParseFromString(known)
    return answer


def _forget(replica: Replica, asking: "asyncio.Future[Receiver]") -> None:
    """The caller of a receive is gone: so is its place in the queue."""
    if asking.cancelled() or asking.exception() is not None:
        return
    loop = asyncio.get_running_loop()
    loop.run_in_executor(None, replica.cancel_receive, asking.result())


def _wait_seconds(request: api.ReceiveMessageRequest) -> float:
    seconds = request.wait_timeout.seconds + request.wait_timeout.nanos / 1e9
    if not 0 <= seconds <= WAIT_LIMIT_SECONDS:
        raise InvalidRequest(
            "wait_timeout",
            f"{seconds:g} s is not from 0 s to {WAIT_LIMIT_SECONDS:g} s",
            "Call again when it is over; 0 returns at once",
        )
    return seconds


def _why_not_frozen(
    group: SecondaryGroup, message_id: str, error: FailedPrecondition
) -> FailedPrecondition:
    """Say how a freeze ended also when that was before a restart (C12)."""
    if error.reason != "NOT_FROZEN":
        return error
    final = next((row for row in group.replica.verdicts_of(message_id) if row.final), None)
    if final is None:
        freeze = group.replica.freeze()
        where = f"it stands at {group.replica.applied}"
        if freeze is not None:
            where = f"{where}, message {freeze.message.message_id!r}"
        return FailedPrecondition(
            error.reason,
            f"the replica has not come to message {message_id!r} yet, or there is none: {where}",
            f"See where it stands: slackwater ibc status {group.name}",
        )
    by = f" by {final.detail['by']}" if "by" in final.detail else ""
    return FailedPrecondition(
        final.state,
        f"the freeze at message {message_id!r} is over already: {final.state}{by}",
        "What was done after the thaw is not at the message",
    )


def _messages(
    group: SecondaryGroup, request: api.SecondaryServiceListMessagesRequest
) -> api.SecondaryServiceListMessagesResponse:
    size = page_size(request.page_size)
    if request.application:
        names.check_label("application", request.application)
    if request.page_token and not request.page_token.isdecimal():
        raise InvalidRequest("page_token", "is not one that a list gave", "Leave it out")
    before = min(int(request.page_token or (1 << 63) - 1), (1 << 63) - 1)
    answer = api.SecondaryServiceListMessagesResponse()
    database = group.replica.database
    while len(answer.messages) < size:
        wanted = size - len(answer.messages)
        found = database.query(
            _MESSAGES, (before, request.application, request.application, wanted)
        )
        for row in found:
            before = row["lsn"]
            shown = translate.message(group, *_with_verdicts(group, row["id"]))
            if not (request.pending_only and shown.final):
                answer.messages.append(shown)
        if len(found) < wanted:
            return answer
    answer.next_page_token = str(before)
    return answer


def _with_verdicts(group: SecondaryGroup, message_id: str) -> tuple[MessageRow, list[VerdictRow]]:
    database = group.replica.database
    return database.message(message_id), database.verdicts(message_id)
