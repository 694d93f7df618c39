"""SecondaryService: replicas and status; messages, snapshots, clones, budget are modules below."""

import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError

import slackwater
from services.secondary import translate
from services.secondary.budget_servicer import BudgetServicer
from services.secondary.group import SecondaryGroup
from services.secondary.node import SecondaryNode
from services.secondary.snapshot_servicer import MAX_DATA_BYTES, Endpoints
from slackwater import names
from slackwater.errors import InvalidRequest, OutOfRange
from slackwater.link.wire import to_wire
from slackwater.log.reader import LogReader, Trimmed
from slackwater.runtime import wire
from slackwater.runtime.calls import (
    Remembered,
    in_thread,
    page,
)
from slackwater.storage.seam import Storage
from slackwater.v1 import resources_pb2
from slackwater.v1 import secondary_pb2 as api

STATUS_LIMIT = 1000
WATCH_SECONDS = 1.0
LATER = "comes with a later release"
Context = grpc.aio.ServicerContext[Any, Any]


class SecondaryServicer(BudgetServicer):
    """Serves `slackwater.v1.SecondaryService`; errors are turned into statuses by the runtime."""

    def __init__(self, node: SecondaryNode, storage: Storage, endpoints: Endpoints) -> None:
        """Serve a node."""
        super().__init__(node, endpoints)
        self._storage = storage
        self._remembered = Remembered()
        self._started = time.monotonic()

    # -- replicas -----------------------------------------------------------------------------

    async def GetReplica(
        self, request: api.GetReplicaRequest, context: Context
    ) -> api.GetReplicaResponse:
        """Return one replica."""
        name = names.group("name", request.name)
        return api.GetReplicaResponse(replica=await in_thread(self._replica, name))

    async def ListReplicas(
        self, request: api.ListReplicasRequest, context: Context
    ) -> api.ListReplicasResponse:
        """List the replicas."""
        chosen, token = page(
            sorted({*self._node.groups, *self._node.broken}),
            lambda name: name,
            request.page_size,
            request.page_token,
        )
        return api.ListReplicasResponse(
            replicas=await in_thread(self._replicas, chosen), next_page_token=token
        )

    def _replica(self, name: str) -> resources_pb2.Replica:
        if name in self._node.broken:
            return translate.failed_replica(name, self._node.broken[name].error)
        return translate.replica(self._node.group(name))

    def _replicas(self, wanted: list[str]) -> list[resources_pb2.Replica]:
        return [self._replica(name) for name in wanted]

    async def DeleteReplica(
        self, request: api.DeleteReplicaRequest, context: Context
    ) -> api.DeleteReplicaResponse:
        """Remove a replica with all it holds."""
        method = "DeleteReplica"
        known = self._remembered.get(method, request.request_id, api.DeleteReplicaResponse)
        if known is not None:
            return known
        name = names.group("name", request.name)
        act = self._node.check_delete if request.validate_only else self._node.delete
        answer = api.DeleteReplicaResponse(losses=await in_thread(act, name))
        if not request.validate_only:
            self._remembered.put(method, request.request_id, answer)
        return answer

    # -- what later releases bring --------------------------------------------------------------

    async def MirrorReplica(
        self, request: api.MirrorReplicaRequest, context: Context
    ) -> AsyncIterator[api.MirrorReplicaResponse]:
        """Refuse: mirrors come with a later release."""
        yield await self._refuse_mirror(context)

    async def _refuse_mirror(self, context: Context) -> api.MirrorReplicaResponse:
        await context.abort(
            grpc.StatusCode.UNIMPLEMENTED, f"mirroring a replica {LATER}; take a snapshot instead"
        )

    async def Promote(self, request: api.PromoteRequest, context: Context) -> api.PromoteResponse:
        """Refuse: promotion comes with a later release."""
        await context.abort(
            grpc.StatusCode.UNIMPLEMENTED,
            f"promotion {LATER}; nothing was changed, and the replica goes on following",
        )

    # -- log and status -----------------------------------------------------------------------

    async def ReadLog(
        self, request: api.SecondaryServiceReadLogRequest, context: Context
    ) -> api.SecondaryServiceReadLogResponse:
        """Return records of the replica's log, typed."""
        group = self._group("group", request.group)
        if not 0 <= request.max_records <= 1000:
            raise InvalidRequest("max_records", f"{request.max_records} is not from 0 to 1000")
        return await in_thread(self._read_log, group, request)

    def _read_log(
        self, group: SecondaryGroup, request: api.SecondaryServiceReadLogRequest
    ) -> api.SecondaryServiceReadLogResponse:
        log = group.replica.receiver.log
        durable = log.durable
        previous = log.position_before(request.first_lsn or log.oldest_lsn + 1)
        if previous is None:
            raise OutOfRange(
                "first_lsn",
                f"the log holds records {log.oldest_lsn + 1} to {durable.position.lsn}",
                "Ask for one of these",
            )
        reader = LogReader(
            self._storage, group.replica.directory.log, group.replica.uid, log.settings
        )
        try:
            found = reader.read(previous.offset, durable.offset, MAX_DATA_BYTES)
        except Trimmed:
            raise OutOfRange("first_lsn", "the log has moved on", "Ask again") from None
        finally:
            reader.close()
        answer = api.SecondaryServiceReadLogResponse(
            previous=to_wire(previous.position),
            durable=to_wire(durable.position),
        )
        held = api.SecondaryServiceReadLogResponse()
        try:
            held.ParseFromString(bytes(found.data))
        except DecodeError as error:
            raise OutOfRange("first_lsn", "does not parse", "Read the service's log") from error
        for record in held.records[: request.max_records or 100]:
            if request.omit_payloads and record.HasField("write"):
                record.write.payload = b""
            answer.records.append(record)
        return answer

    async def GetStatus(
        self, request: api.SecondaryServiceGetStatusRequest, context: Context
    ) -> api.SecondaryServiceGetStatusResponse:
        """Return one picture of everything."""
        wanted = sorted({*self._node.groups, *self._node.broken})[:STATUS_LIMIT]
        if request.group:
            wanted = [names.group("group", request.group)]
        return api.SecondaryServiceGetStatusResponse(
            replicas=await in_thread(self._replicas, wanted),
            version=slackwater.__version__,
            uptime=wire.duration(time.monotonic() - self._started),
            site=socket.gethostname(),
            nbd_uris=self._endpoints.uris(),
        )

    async def WatchEvents(
        self, request: api.SecondaryServiceWatchEventsRequest, context: Context
    ) -> AsyncIterator[api.SecondaryServiceWatchEventsResponse]:
        """Stream events from now on."""
        chosen = f"groups/{names.group('group', request.group)}" if request.group else ""
        with self._node.events.subscribe() as subscription:
            while not subscription.overflowed:
                event = await subscription.get(WATCH_SECONDS)
                self._node.check_going_on()
                if event is None:
                    continue
                if not chosen or f"{event.resource}/".startswith(f"{chosen}/"):
                    yield api.SecondaryServiceWatchEventsResponse(event=event)
        await context.abort(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "the watcher fell behind by more than 1000 events; look at the status and watch again",
        )
