"""SecondaryService: replicas, snapshots, status. Messages are in `message_servicer`."""

import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError

import slackwater
from services.secondary import translate
from services.secondary.group import SecondaryGroup
from services.secondary.message_servicer import MessageServicer
from services.secondary.node import SecondaryNode
from slackwater import names
from slackwater.apply.replica_snapshots import MAX_CHUNK_BYTES, MIN_CHUNK_BYTES
from slackwater.errors import InvalidRequest, OutOfRange
from slackwater.link.wire import to_wire
from slackwater.log.reader import LogReader, Trimmed
from slackwater.runtime import wire
from slackwater.runtime.calls import (
    Remembered,
    check_request_id,
    in_thread,
    newest_first,
    page,
)
from slackwater.storage.seam import Storage
from slackwater.v1 import resources_pb2
from slackwater.v1 import secondary_pb2 as api

MAX_DATA_BYTES = 1 << 20
STATUS_LIMIT = 1000
WATCH_SECONDS = 1.0
LATER = "comes with a later release"
Context = grpc.aio.ServicerContext[Any, Any]


class Endpoints:
    """Where this service's NBD is reached; filled in when the listeners are bound."""

    def __init__(self) -> None:
        """Know of no listener yet."""
        self.bases: list[tuple[str, str]] = []

    def add_tcp(self, address: str, *, secure: bool) -> None:
        """Note a TCP listener."""
        self.bases.append((f"{'nbds' if secure else 'nbd'}://{address}/", ""))

    def add_unix(self, path: str) -> None:
        """Note a unix socket."""
        self.bases.append(("nbd+unix:///", f"?socket={path}"))

    def uris(self, export: str = "") -> list[str]:
        """Return the URIs of an export, one for each listener."""
        return [f"{head}{export}{tail}" for head, tail in self.bases]


class SecondaryServicer(MessageServicer):
    """Serves `slackwater.v1.SecondaryService`; errors are turned into statuses by the runtime."""

    def __init__(self, node: SecondaryNode, storage: Storage, endpoints: Endpoints) -> None:
        """Serve a node."""
        super().__init__(node)
        self._storage = storage
        self._endpoints = endpoints
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

    # -- snapshots ----------------------------------------------------------------------------

    async def CreateSnapshot(
        self, request: api.CreateSnapshotRequest, context: Context
    ) -> api.CreateSnapshotResponse:
        """Take an instant snapshot of all volumes where the replica stands."""
        group = self._group("group", request.group)
        names.check_label("snapshot_id", request.snapshot_id)
        at_message = ""
        if request.at_message:
            owner, at_message = names.child("at_message", request.at_message, "messages")
            if owner != group.name:
                raise InvalidRequest(
                    "at_message", f"is of group {owner!r}, the snapshot of {group.name!r}"
                )
        _check_chunk_bytes(request.chunk_bytes)

        def create() -> api.CreateSnapshotResponse:
            chunk_bytes = request.chunk_bytes
            if not chunk_bytes and not group.replica.snapshots():
                chunk_bytes = self._node.limits.chunk_bytes  # later ones follow the first
            row = group.replica.create_snapshot(
                request.snapshot_id,
                at_message=at_message,
                chunk_bytes=chunk_bytes,
                validate_only=request.validate_only,
            )
            if row is None:
                planned = resources_pb2.Snapshot(
                    name=f"{request.group}/snapshots/{request.snapshot_id}"
                )
                return api.CreateSnapshotResponse(snapshot=planned)
            self._tell(group, "SNAPSHOT_CREATED", request.snapshot_id, f"at {row.point.position}")
            return api.CreateSnapshotResponse(snapshot=translate.snapshot(group, row))

        if request.validate_only:
            return await in_thread(create)
        return await self._once(group, "CreateSnapshot", request.request_id, create)

    async def GetSnapshot(
        self, request: api.GetSnapshotRequest, context: Context
    ) -> api.GetSnapshotResponse:
        """Return one snapshot."""
        group, name = self._snapshot(request.name)
        row = group.replica.snapshot(name)
        return api.GetSnapshotResponse(snapshot=translate.snapshot(group, row))

    async def ListSnapshots(
        self, request: api.SecondaryServiceListSnapshotsRequest, context: Context
    ) -> api.SecondaryServiceListSnapshotsResponse:
        """List the snapshots of a group, newest first."""
        group = self._group("group", request.group)
        rows, token = page(
            group.replica.snapshots(),
            lambda row: newest_first(row.id),
            request.page_size,
            request.page_token,
        )
        return api.SecondaryServiceListSnapshotsResponse(
            snapshots=[translate.snapshot(group, row) for row in rows], next_page_token=token
        )

    async def DeleteSnapshot(
        self, request: api.SecondaryServiceDeleteSnapshotRequest, context: Context
    ) -> api.SecondaryServiceDeleteSnapshotResponse:
        """Remove a snapshot."""
        group, name = self._snapshot(request.name)

        def delete() -> api.SecondaryServiceDeleteSnapshotResponse:
            row = group.replica.snapshot(name)
            losses = [f"snapshot {name!r} at {row.point.position}, grade {row.grade}"]
            group.replica.delete_snapshot(name)
            self._tell(group, "SNAPSHOT_DELETED", name, "")
            return api.SecondaryServiceDeleteSnapshotResponse(losses=losses)

        if not request.validate_only:
            return await self._once(group, "DeleteSnapshot", request.request_id, delete)
        check_request_id(request.request_id)
        row = group.replica.snapshot(name)
        losses = [f"snapshot {name!r} at {row.point.position}, grade {row.grade}"]
        if row.exported:
            losses.append("it is exported now: that has to end before it can be deleted")
        return api.SecondaryServiceDeleteSnapshotResponse(losses=losses)

    async def ExportSnapshot(
        self, request: api.SecondaryServiceExportSnapshotRequest, context: Context
    ) -> api.SecondaryServiceExportSnapshotResponse:
        """Export the volumes of a snapshot read-only over NBD."""
        check_request_id(request.request_id)
        group, name = self._snapshot(request.name)
        row = await in_thread(group.replica.export_snapshot, name)
        snapshot = translate.snapshot(group, row)
        self._tell(group, "SNAPSHOT_EXPORTED", name, "")
        uris = [self._endpoints.uris(one.export_name)[:1] for one in snapshot.volumes]
        return api.SecondaryServiceExportSnapshotResponse(
            snapshot=snapshot, nbd_uris=[uri for found in uris for uri in found]
        )

    async def UnexportSnapshot(
        self, request: api.SecondaryServiceUnexportSnapshotRequest, context: Context
    ) -> api.SecondaryServiceUnexportSnapshotResponse:
        """End the export; connected clients are disconnected."""
        check_request_id(request.request_id)
        group, name = self._snapshot(request.name)
        row = await in_thread(group.replica.unexport_snapshot, name)
        self._node.disconnect(f"{request.name}/")
        self._tell(group, "SNAPSHOT_UNEXPORTED", name, "")
        return api.SecondaryServiceUnexportSnapshotResponse(snapshot=translate.snapshot(group, row))

    async def ReadSnapshot(
        self, request: api.ReadSnapshotRequest, context: Context
    ) -> api.ReadSnapshotResponse:
        """Read up to 1 MiB of a snapshot."""
        group, name = self._snapshot(request.name)
        group.replica.snapshot(name)
        names.check_label("volume", request.volume)
        if not 1 <= request.length <= MAX_DATA_BYTES:
            raise InvalidRequest("length", f"{request.length} is not from 1 to {MAX_DATA_BYTES}")
        volume = group.replica.open_snapshot_volume(name, request.volume)
        data = await in_thread(volume.read, request.length, request.offset)
        return api.ReadSnapshotResponse(data=data)

    def _snapshot(self, name: str) -> tuple[SecondaryGroup, str]:
        owner, snapshot = names.child("name", name, "snapshots")
        return self._node.group(owner), snapshot

    def _tell(self, group: SecondaryGroup, kind: str, snapshot: str, text: str) -> None:
        self._node.events.publish(f"groups/{group.name}/snapshots/{snapshot}", kind, text)

    # -- what later releases bring --------------------------------------------------------------

    async def DiffSnapshots(
        self, request: api.DiffSnapshotsRequest, context: Context
    ) -> api.DiffSnapshotsResponse:
        """Refuse: differences come with a later release."""
        await context.abort(
            grpc.StatusCode.UNIMPLEMENTED,
            f"comparing snapshots {LATER}; export both and compare their volumes over NBD",
        )

    async def HoldSnapshot(
        self, request: api.HoldSnapshotRequest, context: Context
    ) -> api.HoldSnapshotResponse:
        """Refuse: holds come with a later release."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"holding a snapshot {LATER}")

    async def ReleaseSnapshot(
        self, request: api.ReleaseSnapshotRequest, context: Context
    ) -> api.ReleaseSnapshotResponse:
        """Refuse: holds come with a later release."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"holding a snapshot {LATER}")

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


def _check_chunk_bytes(size: int) -> None:
    if size and (not MIN_CHUNK_BYTES <= size <= MAX_CHUNK_BYTES or size & size - 1):
        raise InvalidRequest(
            "chunk_bytes", f"{size} is not a power of two from 4 KiB to 1 MiB", "0 means 64 KiB"
        )
