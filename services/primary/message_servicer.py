"""PrimaryService: application names, messages, and looking at the log."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import grpc

from services.primary import translate
from services.primary.agent_servicer import AgentServicer
from services.primary.group import PrimaryGroup
from services.primary.node import PrimaryNode
from services.primary.once import once
from services.primary.quiesce import Quiesced
from services.primary.sending import FENCE_LIMIT_SECONDS, SendOrder
from slackwater import names
from slackwater.errors import InvalidRequest, OutOfRange
from slackwater.group.rows import MessageRow
from slackwater.ibc.judging import Asked, check_asked
from slackwater.log.reader import LogReader, Trimmed
from slackwater.runtime import wire
from slackwater.runtime.calls import in_thread, newest_first, page
from slackwater.storage.real import RealStorage
from slackwater.v1 import primary_pb2 as api
from slackwater.v1 import resources_pb2

LOG_BYTES = 1 << 20
Context = grpc.aio.ServicerContext[Any, Any]


class MessageServicer(AgentServicer):
    """The half of `slackwater.v1.PrimaryService` that is about messages."""

    def __init__(self, node: PrimaryNode, fence_limit: float) -> None:
        """Serve a node; no fence holds writes longer than `fence_limit` seconds."""
        super().__init__(node)
        self._fence_limit = min(fence_limit, FENCE_LIMIT_SECONDS)

    # -- names --------------------------------------------------------------------------------

    async def RegisterApplication(
        self, request: api.PrimaryServiceRegisterApplicationRequest, context: Context
    ) -> api.PrimaryServiceRegisterApplicationResponse:
        """Register a name for sending."""
        group = self._group("group", request.group)
        kind = api.PrimaryServiceRegisterApplicationResponse

        def change() -> api.PrimaryServiceRegisterApplicationResponse:
            row = group.messages.register(request.application)
            return kind(application=translate.application(group.name, row))

        return await once(group, request, kind, change)

    async def UnregisterApplication(
        self, request: api.PrimaryServiceUnregisterApplicationRequest, context: Context
    ) -> api.PrimaryServiceUnregisterApplicationResponse:
        """Take a name back."""
        group = self._group("group", request.group)
        kind = api.PrimaryServiceUnregisterApplicationResponse

        def change() -> api.PrimaryServiceUnregisterApplicationResponse:
            group.messages.unregister(request.application)
            return kind()

        return await once(group, request, kind, change)

    async def ListApplications(
        self, request: api.PrimaryServiceListApplicationsRequest, context: Context
    ) -> api.PrimaryServiceListApplicationsResponse:
        """List the registered names of a group."""
        group = self._group("group", request.group)
        rows, token = page(
            await in_thread(group.database.applications),
            lambda row: row.name,
            request.page_size,
            request.page_token,
        )
        return api.PrimaryServiceListApplicationsResponse(
            applications=[translate.application(group.name, row) for row in rows],
            next_page_token=token,
        )

    # -- messages -----------------------------------------------------------------------------

    async def SendMessage(
        self, request: api.SendMessageRequest, context: Context
    ) -> api.SendMessageResponse:
        """Place a message in the stream."""
        group = self._group("group", request.group)
        order = SendOrder.of(request, self._fence_limit)
        if order.asked is None:
            sent = await in_thread(group.messages.send, order.send, order.record, order.fence)
            quiesced = Quiesced(sent.row, None)
        else:
            quiesced = await self._quiesce(group, order, order.asked)
        return await in_thread(_answer, group, quiesced)

    async def _quiesce(self, group: PrimaryGroup, order: SendOrder, asked: Asked) -> Quiesced:
        """Send in a quiesce round; what is refused without one is refused before it."""

        def find() -> MessageRow | None:
            return group.messages.known(order.send.request_id)

        def check() -> tuple[str, ...]:
            check_asked(asked, group.messages.applications())
            return group.messages.check(order.send)

        def place(check_held: Callable[[], None]) -> MessageRow:
            return group.messages.send(order.send, order.record, order.fence, check_held).row

        known = await in_thread(find)
        if known is not None and group.database.outcome(known.id) is not None:
            return Quiesced(known, None)
        links = order.send.links if known is not None else await in_thread(check)
        return await group.quiesce.run(
            replace(asked, links=links), find, place, is_fenced=order.fence is not None
        )

    async def GetMessage(
        self, request: api.GetMessageRequest, context: Context
    ) -> api.GetMessageResponse:
        """Return one message with its body and verdicts."""
        owner, message_id = names.child("name", request.name, "messages")
        group = self._node.group(owner)

        def look() -> resources_pb2.Message:
            return translate.message(group, group.database.message(message_id), with_body=True)

        return api.GetMessageResponse(message=await in_thread(look))

    async def ListMessages(
        self, request: api.PrimaryServiceListMessagesRequest, context: Context
    ) -> api.PrimaryServiceListMessagesResponse:
        """List the messages of a group, newest first, without bodies."""
        group = self._group("group", request.group)
        if request.application:
            names.check_label("application", request.application)
        return await in_thread(self._list_messages, group, request)

    def _list_messages(
        self, group: PrimaryGroup, request: api.PrimaryServiceListMessagesRequest
    ) -> api.PrimaryServiceListMessagesResponse:
        rows = group.messages.pending() if request.pending_only else group.messages.all()
        chosen, token = page(
            [one for one in rows if request.application in ("", one.application)],
            lambda row: newest_first(row.position.lsn),
            request.page_size,
            request.page_token,
        )
        return api.PrimaryServiceListMessagesResponse(
            messages=[translate.message(group, row) for row in chosen], next_page_token=token
        )

    async def WatchMessage(
        self, request: api.WatchMessageRequest, context: Context
    ) -> AsyncIterator[api.WatchMessageResponse]:
        """Stream the message now and at every change, until nothing more can come."""
        owner, message_id = names.child("name", request.name, "messages")
        group = self._node.group(owner)
        last: api.WatchMessageResponse | None = None

        def look() -> resources_pb2.Message:
            return translate.message(group, group.database.message(message_id))

        with self._node.events.subscribe() as subscription:
            while True:
                now = api.WatchMessageResponse(message=await in_thread(look))
                if now != last:
                    last = now
                    yield now
                awaits = now.message.quiesced and not now.message.HasField("judgement")
                if now.message.final and not awaits:
                    return
                event = await subscription.get(0.5)
                while event is not None and event.resource != request.name:
                    event = await subscription.get(0.5)

    # -- the log ------------------------------------------------------------------------------

    async def ReadLog(
        self, request: api.PrimaryServiceReadLogRequest, context: Context
    ) -> api.PrimaryServiceReadLogResponse:
        """Return records of the group's log, typed."""
        group = self._group("group", request.group)
        if not 0 <= request.max_records <= 1000:
            raise InvalidRequest("max_records", f"{request.max_records} is not from 0 to 1000")
        return await in_thread(self._read_log, group, request)

    def _read_log(
        self, group: PrimaryGroup, request: api.PrimaryServiceReadLogRequest
    ) -> api.PrimaryServiceReadLogResponse:
        log = group.writer.log
        durable = log.durable
        first = request.first_lsn or log.oldest_lsn + 1
        previous = log.position_before(first)
        if previous is None:
            raise OutOfRange(
                "first_lsn",
                f"the log holds records {log.oldest_lsn + 1} to {durable.position.lsn}",
                "Ask for one of these",
            )
        answer = api.PrimaryServiceReadLogResponse(
            previous=wire.position(previous.position),
            durable=wire.position(durable.position),
        )
        reader = LogReader(
            RealStorage(), group.open.directory.log, group.open.identity.uid, log.settings
        )
        try:
            found = reader.read(previous.offset, durable.offset, LOG_BYTES)
        except Trimmed:
            raise OutOfRange("first_lsn", "the log has moved on", "Ask again") from None
        finally:
            reader.close()
        append = api.PrimaryServiceReadLogResponse.FromString(bytes(found.data))
        for record in append.records[: request.max_records or 100]:
            if request.omit_payloads and record.HasField("write"):
                record.write.payload = b""
            answer.records.append(record)
        return answer


def _answer(group: PrimaryGroup, quiesced: Quiesced) -> api.SendMessageResponse:
    answer = api.SendMessageResponse(message=translate.message(group, quiesced.row, with_body=True))
    if quiesced.outcome is not None:  # its row may be owed still
        answer.message.outcome = quiesced.outcome.state
        answer.message.judgement.CopyFrom(quiesced.outcome)
    if answer.message.fenced:
        answer.fence_held.CopyFrom(answer.message.fence_held)
    if answer.message.HasField("judgement"):
        answer.quiesce_window.CopyFrom(wire.duration(answer.message.judgement.window_seconds))
    return answer
