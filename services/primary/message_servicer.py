"""PrimaryService: application names, messages, and looking at the log."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from services.primary import translate
from services.primary.checks import check_known
from services.primary.group import PrimaryGroup
from services.primary.node import PrimaryNode
from services.primary.once import once
from slackwater import names
from slackwater.errors import InvalidRequest, OutOfRange
from slackwater.ibc.messages import (
    DELIVER_TIMEOUT_SECONDS,
    FREEZE_TIMEOUT_SECONDS,
    UNREGISTERED_TIMEOUT_SECONDS,
    Behaviour,
    Send,
)
from slackwater.log.reader import LogReader, Trimmed
from slackwater.runtime import wire
from slackwater.runtime.calls import in_thread, newest_first, page
from slackwater.storage.real import RealStorage
from slackwater.v1 import common_pb2, primary_pb2_grpc, record_pb2, resources_pb2
from slackwater.v1 import primary_pb2 as api

FENCE_SECONDS = 1.0
FENCE_LIMIT_SECONDS = 60.0
LOG_BYTES = 1 << 20
Context = grpc.aio.ServicerContext[Any, Any]


class MessageServicer(primary_pb2_grpc.PrimaryServiceServicer):
    """The half of `slackwater.v1.PrimaryService` that is about messages."""

    def __init__(self, node: PrimaryNode, fence_limit: float) -> None:
        """Serve a node; no fence holds writes longer than `fence_limit` seconds."""
        self._node = node
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
        if request.HasField("quiesce"):
            await context.abort(
                grpc.StatusCode.UNIMPLEMENTED,
                "quiesce: agents come with a later release; quiesce the application yourself and"
                " leave quiesce out",
            )
        if request.behaviour == common_pb2.MESSAGE_BEHAVIOUR_SNAPSHOT:
            await context.abort(
                grpc.StatusCode.UNIMPLEMENTED,
                "behaviour: SNAPSHOT comes with a later release; use FREEZE and take a snapshot"
                " while frozen",
            )
        check_known("behaviour", request.behaviour, common_pb2.MessageBehaviour.values())
        send, record = self._message(request)
        fence = self._fence(request)

        def place() -> api.SendMessageResponse:
            sent = group.messages.send(send, record, fence)
            answer = api.SendMessageResponse(
                message=translate.message(group, sent.row, with_body=True)
            )
            if answer.message.fenced:
                answer.fence_held.CopyFrom(answer.message.fence_held)
            return answer

        return await in_thread(place)

    def _message(self, request: api.SendMessageRequest) -> tuple[Send, record_pb2.IbcMessage]:
        body = request.text.encode() if request.WhichOneof("body") == "text" else request.data
        send = Send(
            application=request.application,
            behaviour=Behaviour.NOTIFY
            if request.behaviour == common_pb2.MESSAGE_BEHAVIOUR_NOTIFY
            else Behaviour.FREEZE,
            body=body,
            links=tuple(request.links),
            request_id=request.request_id,
            deliver_timeout_seconds=_seconds(request, "deliver_timeout", DELIVER_TIMEOUT_SECONDS),
            freeze_timeout_seconds=_seconds(request, "freeze_timeout", FREEZE_TIMEOUT_SECONDS),
            unregistered_timeout_seconds=_seconds(
                request, "unregistered_timeout", UNREGISTERED_TIMEOUT_SECONDS
            ),
        )
        record = record_pb2.IbcMessage(
            application=send.application,
            behaviour=request.behaviour or common_pb2.MESSAGE_BEHAVIOUR_FREEZE,
            request_id=send.request_id,
            deliver_timeout_seconds=send.deliver_timeout_seconds,
            freeze_timeout_seconds=send.freeze_timeout_seconds,
            unregistered_timeout_seconds=send.unregistered_timeout_seconds,
        )
        if request.WhichOneof("body") == "text":
            record.text = request.text
        elif request.WhichOneof("body") == "data":
            record.data = request.data
        return send, record

    def _fence(self, request: api.SendMessageRequest) -> float | None:
        if not request.fence:
            return None
        seconds = _seconds(request, "fence_timeout", min(FENCE_SECONDS, self._fence_limit))
        if not 0 < seconds <= self._fence_limit:
            raise InvalidRequest(
                "fence_timeout",
                f"{seconds:g} s is not more than 0 s and at most {self._fence_limit:g} s",
                "Writers wait that long; the limit is the service's --fence-seconds",
            )
        return seconds

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
        """Stream the message now and at every change, until all verdicts are final."""
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
                if now.message.final:
                    return
                event = await subscription.get(0.5)
                while event is not None and event.resource != request.name:
                    event = await subscription.get(0.5)

    async def HoldQuiesce(
        self, request_iterator: AsyncIterator[api.HoldQuiesceRequest], context: Context
    ) -> AsyncIterator[api.HoldQuiesceResponse]:
        """Refuse: agents come with a later release."""
        yield await self._refuse_agent(context)

    async def _refuse_agent(self, context: Context) -> api.HoldQuiesceResponse:
        await context.abort(
            grpc.StatusCode.UNIMPLEMENTED, "agents that quiesce come with a later release"
        )

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

    # -- shared -------------------------------------------------------------------------------

    def _group(self, field: str, name: str) -> PrimaryGroup:
        return self._node.group(names.group(field, name))


def _seconds(request: Message, field: str, default: float) -> float:
    """Return a Duration field in seconds, or the default if it is unset."""
    if not request.HasField(field):
        return default
    value = getattr(request, field)
    assert isinstance(value, Duration)
    return value.seconds + value.nanos / 1e9
