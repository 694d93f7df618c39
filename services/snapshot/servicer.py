"""SnapshotService on the wire: checks what comes, forwards what is the Secondary's to say."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc

import slackwater
from services.snapshot.checks.servicer import CheckCalls, CheckParts
from services.snapshot.clones import CloneCalls
from services.snapshot.events import Events
from services.snapshot.live import brief
from services.snapshot.runs import Runs
from services.snapshot.schedules.servicer import Parts, ScheduleServicer
from slackwater import names
from slackwater.errors import AlreadyExists, InvalidRequest
from slackwater.v1 import resources_pb2, secondary_pb2
from slackwater.v1 import snapshot_pb2 as api

CALL_SECONDS = 20.0
CANCEL_SECONDS = 10.0
DEFAULT_WAIT_SECONDS, MAX_WAIT_SECONDS = 600, 86_400
PAGE_DEFAULT, PAGE_LIMIT = 100, 1000
REQUEST_ID_LIMIT = 128
SHOWN_RUNS = 100
VOLUMES_LIMIT = 1000

Context = grpc.aio.ServicerContext[Any, Any]


class SnapshotServicer(CheckCalls, CloneCalls, ScheduleServicer):
    """The service; mirrors come later."""

    def __init__(self, parts: Parts, checks: CheckParts, runs: Runs, events: Events) -> None:
        """Serve these runs, tasks, schedules and checks."""
        super().__init__(parts)
        self._check_parts = checks
        self._runs = runs
        self._peers = parts.peers
        self._events = events
        self._began = time.monotonic()

    async def StartSnapshot(
        self, request: api.StartSnapshotRequest, context: Context
    ) -> api.StartSnapshotResponse:
        """Check the request and the replica, then start a run."""
        _check_start(request)
        known = self._runs.started_by(request.request_id)
        if known is not None:
            return api.StartSnapshotResponse(run=known.run)
        await self._check_there(request, context)
        if request.validate_only:
            return api.StartSnapshotResponse()
        return api.StartSnapshotResponse(run=self._runs.start(request))

    async def GetRun(self, request: api.GetRunRequest, context: Context) -> api.GetRunResponse:
        """Return one run."""
        del context
        return api.GetRunResponse(run=self._runs.get(request.name))

    async def ListRuns(
        self, request: api.ListRunsRequest, context: Context
    ) -> api.ListRunsResponse:
        """List runs, newest first."""
        del context
        if request.group:
            names.group("group", request.group)
        task = names.parse("task", request.task, "tasks")[0] if request.task else ""
        if request.page_size < 0:
            raise InvalidRequest("page_size", f"{request.page_size} is negative")
        size = min(request.page_size or PAGE_DEFAULT, PAGE_LIMIT)
        runs, token = self._runs.page(task, request.group, size, request.page_token)
        return api.ListRunsResponse(runs=runs, next_page_token=token)

    async def WatchRun(
        self, request: api.WatchRunRequest, context: Context
    ) -> AsyncIterator[api.WatchRunResponse]:
        """Stream a run until it is over."""
        del context
        async for run in self._runs.watch(request.name):
            yield api.WatchRunResponse(run=run)

    async def CancelRun(
        self, request: api.CancelRunRequest, context: Context
    ) -> api.CancelRunResponse:
        """End a run."""
        del context
        _check_request_id(request.request_id)
        return api.CancelRunResponse(run=await self._runs.cancel(request.name, CANCEL_SECONDS))

    async def ListSnapshots(
        self, request: api.SnapshotServiceListSnapshotsRequest, context: Context
    ) -> api.SnapshotServiceListSnapshotsResponse:
        """List snapshots as the Secondary has them."""
        asked = secondary_pb2.SecondaryServiceListSnapshotsRequest(
            group=request.group, page_size=request.page_size, page_token=request.page_token
        )
        rpc = self._peers.secondary_api.ListSnapshots
        answer = await self._peers.secondary.forward(rpc(asked, timeout=CALL_SECONDS), context)
        return api.SnapshotServiceListSnapshotsResponse(
            snapshots=answer.snapshots, next_page_token=answer.next_page_token
        )

    async def DeleteSnapshot(
        self, request: api.SnapshotServiceDeleteSnapshotRequest, context: Context
    ) -> api.SnapshotServiceDeleteSnapshotResponse:
        """Have the Secondary remove a snapshot."""
        asked = secondary_pb2.SecondaryServiceDeleteSnapshotRequest(
            name=request.name,
            request_id=request.request_id,
            validate_only=request.validate_only,
            force=request.force,
        )
        rpc = self._peers.secondary_api.DeleteSnapshot
        answer = await self._peers.secondary.forward(rpc(asked, timeout=CALL_SECONDS), context)
        return api.SnapshotServiceDeleteSnapshotResponse(losses=answer.losses)

    async def RefreshSnapshot(
        self, request: api.SnapshotServiceRefreshSnapshotRequest, context: Context
    ) -> api.SnapshotServiceRefreshSnapshotResponse:
        """Have the Secondary take a snapshot in the place of the one of that name."""
        asked = secondary_pb2.SecondaryServiceRefreshSnapshotRequest(
            name=request.name,
            at_message=request.at_message,
            request_id=request.request_id,
            validate_only=request.validate_only,
        )
        rpc = self._peers.secondary_api.RefreshSnapshot
        answer = await self._peers.secondary.forward(rpc(asked, timeout=CALL_SECONDS), context)
        response = api.SnapshotServiceRefreshSnapshotResponse(losses=answer.losses)
        if answer.HasField("snapshot"):
            response.snapshot.CopyFrom(answer.snapshot)
        return response

    async def ExportSnapshot(
        self, request: api.SnapshotServiceExportSnapshotRequest, context: Context
    ) -> api.SnapshotServiceExportSnapshotResponse:
        """Have the Secondary export a snapshot."""
        asked = secondary_pb2.SecondaryServiceExportSnapshotRequest(
            name=request.name, request_id=request.request_id
        )
        rpc = self._peers.secondary_api.ExportSnapshot
        answer = await self._peers.secondary.forward(rpc(asked, timeout=CALL_SECONDS), context)
        return api.SnapshotServiceExportSnapshotResponse(
            snapshot=answer.snapshot, nbd_uris=answer.nbd_uris
        )

    async def UnexportSnapshot(
        self, request: api.SnapshotServiceUnexportSnapshotRequest, context: Context
    ) -> api.SnapshotServiceUnexportSnapshotResponse:
        """Have the Secondary end an export."""
        asked = secondary_pb2.SecondaryServiceUnexportSnapshotRequest(
            name=request.name, request_id=request.request_id
        )
        rpc = self._peers.secondary_api.UnexportSnapshot
        answer = await self._peers.secondary.forward(rpc(asked, timeout=CALL_SECONDS), context)
        return api.SnapshotServiceUnexportSnapshotResponse(snapshot=answer.snapshot)

    async def DiffSnapshots(
        self, request: api.SnapshotServiceDiffSnapshotsRequest, context: Context
    ) -> AsyncIterator[api.SnapshotServiceDiffSnapshotsResponse]:
        """Have the Secondary tell what differs between two snapshots."""
        asked = secondary_pb2.DiffSnapshotsRequest(
            older=request.older,
            newer=request.newer,
            volume=request.volume,
            page_size=request.page_size,
            offset=request.offset,
        )
        try:
            async for part in self._peers.secondary_api.DiffSnapshots(asked):
                yield api.SnapshotServiceDiffSnapshotsResponse(
                    ranges=part.ranges,
                    volume=part.volume,
                    next_offset=part.next_offset,
                    volume_bytes=part.volume_bytes,
                )
        except grpc.aio.AioRpcError as error:
            await self._peers.secondary.relay(error, context)

    async def GetStatus(
        self, request: api.SnapshotServiceGetStatusRequest, context: Context
    ) -> api.SnapshotServiceGetStatusResponse:
        """Ask both others, and show what is under way."""
        del request, context
        await asyncio.gather(self._catalogue.refresh(), *(peer.ask() for peer in self._peers.all))
        answer = api.SnapshotServiceGetStatusResponse(
            primary=self._peers.primary.as_status(),
            secondary=self._peers.secondary.as_status(),
            runs=[brief(run) for run in self._runs.live[:SHOWN_RUNS]],
            version=slackwater.__version__,
            problems=[
                *self._catalogue.problems,
                *self._schedules.problems,
                *self._check_parts.checks.problems,
            ],
        )
        answer.uptime.FromNanoseconds(round((time.monotonic() - self._began) * 1e9))
        return answer

    async def WatchEvents(
        self, request: api.SnapshotServiceWatchEventsRequest, context: Context
    ) -> AsyncIterator[api.SnapshotServiceWatchEventsResponse]:
        """Stream what happens to runs."""
        if request.group:
            names.group("group", request.group)
        with self._events.subscription() as queue:
            await context.send_initial_metadata(())  # from here on nothing is missed
            async for event in self._events.follow(queue, request.group):
                yield api.SnapshotServiceWatchEventsResponse(event=event)

    async def _check_there(self, request: api.StartSnapshotRequest, context: Context) -> None:
        """Refuse at once what the Secondary would refuse later."""
        replica = secondary_pb2.GetReplicaRequest(name=request.group)
        secondary = self._peers.secondary_api
        await self._peers.secondary.forward(
            secondary.GetReplica(replica, timeout=CALL_SECONDS), context
        )
        if not request.snapshot_id:
            return
        name = f"{request.group}/snapshots/{request.snapshot_id}"
        try:
            wanted = secondary_pb2.GetSnapshotRequest(name=name)
            await secondary.GetSnapshot(wanted, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return
            await self._peers.secondary.relay(error, context)
        raise AlreadyExists("snapshot", name, "Choose another name, or delete that one")


def _check_start(request: api.StartSnapshotRequest) -> None:
    """Refuse a malformed request; fill in what was left out."""
    names.group("group", request.group)
    if request.snapshot_id:
        names.check_label("snapshot_id", request.snapshot_id)
    if request.kind == resources_pb2.SNAPSHOT_KIND_MIRROR:
        raise InvalidRequest(
            "kind",
            "this release makes no mirrors",
            "Ask for space-optimized, or for full, a copy that outlives the volumes",
        )
    if request.kind not in resources_pb2.SnapshotKind.values():
        raise InvalidRequest(
            "kind", f"{request.kind} is no kind", "Ask for space-optimized or full"
        )
    _check_request_id(request.request_id)
    if len(request.exclude_volumes) > VOLUMES_LIMIT:
        raise InvalidRequest(
            "exclude_volumes",
            f"has {len(request.exclude_volumes)} entries, at most {VOLUMES_LIMIT}",
            "Name each volume once",
        )
    for volume in request.exclude_volumes:
        names.check_label("exclude_volumes", volume)
    if request.WhichOneof("when") != "at_next_message":
        return
    when = request.at_next_message
    names.check_label("at_next_message.application", when.application)
    if not when.HasField("wait_timeout"):
        when.wait_timeout.FromSeconds(DEFAULT_WAIT_SECONDS)
    seconds = when.wait_timeout.ToNanoseconds() / 1e9
    if not 0 < seconds <= MAX_WAIT_SECONDS:
        raise InvalidRequest(
            "at_next_message.wait_timeout",
            f"{seconds:g} s is not more than 0 and at most 24 hours",
            "Leave it out for 600 s",
        )


def _check_request_id(request_id: str) -> None:
    if len(request_id) > REQUEST_ID_LIMIT:
        raise InvalidRequest("request_id", f"is longer than {REQUEST_ID_LIMIT} characters")
