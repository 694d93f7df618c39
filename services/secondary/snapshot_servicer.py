"""The half of `slackwater.v1.SecondaryService` that is about snapshots."""

from collections.abc import AsyncIterator
from typing import Any

import grpc

from services.secondary import translate, translate_clones, translate_kinds
from services.secondary.group import SecondaryGroup
from services.secondary.message_servicer import MessageServicer
from services.secondary.node import SecondaryNode
from slackwater import names
from slackwater.apply.replica_snapshots import MAX_CHUNK_BYTES, MIN_CHUNK_BYTES
from slackwater.errors import InvalidRequest
from slackwater.group.rows import SnapshotRow
from slackwater.runtime.calls import check_request_id, in_thread, newest_first, page
from slackwater.v1 import resources_pb2
from slackwater.v1 import secondary_pb2 as api

MAX_DATA_BYTES = 1 << 20
NOTE_LIMIT = 200
RANGES_DEFAULT, RANGES_LIMIT = 1000, 10_000
EXPORT_ENDS = "its export ends: connected clients are disconnected"
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


class SnapshotServicer(MessageServicer):
    """Snapshots of replicas: making, holding, exporting, reading."""

    def __init__(self, node: SecondaryNode, endpoints: Endpoints) -> None:
        """Serve a node."""
        super().__init__(node)
        self._endpoints = endpoints

    async def CreateSnapshot(
        self, request: api.CreateSnapshotRequest, context: Context
    ) -> api.CreateSnapshotResponse:
        """Take an instant snapshot of all volumes where the replica stands."""
        group = self._group("group", request.group)
        names.check_label("snapshot_id", request.snapshot_id)
        at_message = _message_of(group.name, request.at_message)
        _check_chunk_bytes(request.chunk_bytes)
        for volume in request.exclude_volumes:
            names.check_label("exclude_volumes", volume)
        kind = translate_kinds.kind(request.kind)

        def create() -> api.CreateSnapshotResponse:
            chunk_bytes = request.chunk_bytes
            if not chunk_bytes and not group.replica.snapshots():
                chunk_bytes = self._node.limits.chunk_bytes  # later ones follow the first
            row = group.replica.create_snapshot(
                request.snapshot_id,
                at_message=at_message,
                chunk_bytes=chunk_bytes,
                exclude=sorted(set(request.exclude_volumes)),
                kind=kind,
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
            losses = [_loss(row)]
            clones = group.replica.clones_of(row)
            losses += [translate_clones.loss(group, clone) for clone in clones]
            group.replica.delete_snapshot(name, force=request.force)
            if row.exported:
                losses.append(EXPORT_ENDS)
                self._node.disconnect(f"{request.name}/")
            for clone in clones:
                self._node.disconnect(f"{translate_clones.name(group.name, clone.name)}/")
            self._tell(group, "SNAPSHOT_DELETED", name, EXPORT_ENDS if row.exported else "")
            return api.SecondaryServiceDeleteSnapshotResponse(losses=losses)

        if not request.validate_only:
            return await self._once(group, "DeleteSnapshot", request.request_id, delete)
        check_request_id(request.request_id)
        row = group.replica.snapshot(name)
        losses = [_loss(row)]
        if row.exported:
            losses.append(
                EXPORT_ENDS
                if request.force
                else "it is exported now: that has to end before it can be deleted"
            )
        for clone in group.replica.clones_of(row):
            what = await in_thread(translate_clones.loss, group, clone)
            losses.append(what if request.force else f"{what} has to be deleted first")
        if row.held:
            losses.append("it is held: it has to be released before it can be deleted")
        return api.SecondaryServiceDeleteSnapshotResponse(losses=losses)

    async def RefreshSnapshot(
        self, request: api.SecondaryServiceRefreshSnapshotRequest, context: Context
    ) -> api.SecondaryServiceRefreshSnapshotResponse:
        """Take a snapshot in the place of the one of that name."""
        group, name = self._snapshot(request.name)
        at_message = _message_of(group.name, request.at_message)

        def refresh() -> api.SecondaryServiceRefreshSnapshotResponse:
            losses = [_loss(group.replica.snapshot(name))]
            row = group.replica.refresh_snapshot(
                name, at_message=at_message, validate_only=request.validate_only
            )
            if row is None:
                return api.SecondaryServiceRefreshSnapshotResponse(losses=losses)
            self._tell(group, "SNAPSHOT_REFRESHED", name, f"at {row.point.position}")
            return api.SecondaryServiceRefreshSnapshotResponse(
                snapshot=translate.snapshot(group, row), losses=losses
            )

        if request.validate_only:
            check_request_id(request.request_id)
            return await in_thread(refresh)
        return await self._once(group, "RefreshSnapshot", request.request_id, refresh)

    async def HoldSnapshot(
        self, request: api.HoldSnapshotRequest, context: Context
    ) -> api.HoldSnapshotResponse:
        """Hold a snapshot: it cannot be deleted until it is released."""
        group, name = self._snapshot(request.name)
        if len(request.note) > NOTE_LIMIT or not request.note.isprintable():
            raise InvalidRequest(
                "note", f"is longer than {NOTE_LIMIT} characters or not printable", "Shorten it"
            )

        def hold() -> api.HoldSnapshotResponse:
            row = group.replica.hold_snapshot(name, request.note)
            self._tell(group, "SNAPSHOT_HELD", name, request.note)
            return api.HoldSnapshotResponse(snapshot=translate.snapshot(group, row))

        return await self._once(group, "HoldSnapshot", request.request_id, hold)

    async def ReleaseSnapshot(
        self, request: api.ReleaseSnapshotRequest, context: Context
    ) -> api.ReleaseSnapshotResponse:
        """Take a hold back; a snapshot that is not held is returned as it is."""
        group, name = self._snapshot(request.name)

        def release() -> api.ReleaseSnapshotResponse:
            if group.replica.snapshot(name).held:
                self._tell(group, "SNAPSHOT_RELEASED", name, "")
            row = group.replica.release_snapshot(name)
            return api.ReleaseSnapshotResponse(snapshot=translate.snapshot(group, row))

        return await self._once(group, "ReleaseSnapshot", request.request_id, release)

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

    async def DiffSnapshots(
        self, request: api.DiffSnapshotsRequest, context: Context
    ) -> AsyncIterator[api.DiffSnapshotsResponse]:
        """Tell which ranges may differ between two snapshots."""
        group, older, newer = self._pair(request)
        if request.page_size < 0:
            raise InvalidRequest("page_size", f"{request.page_size} is negative")
        if request.volume:
            names.check_label("volume", request.volume)
        elif request.offset:
            raise InvalidRequest("offset", "is of no volume", "Name the volume it is of")
        limit = min(request.page_size or RANGES_DEFAULT, RANGES_LIMIT)
        replica = group.replica
        for volume in [request.volume] if request.volume else replica.volume_names(newer):
            found = await in_thread(replica.differences, older, newer, volume)
            at, is_first = request.offset, True
            while is_first or at < found.size:
                ranges, at = await in_thread(found.page, at, limit)
                is_first = False
                yield api.DiffSnapshotsResponse(
                    ranges=[
                        api.ChangedRange(
                            offset=one.offset, length=one.length, zero=not one.data, volume=volume
                        )
                        for one in ranges
                    ],
                    volume=volume,
                    next_offset=at,
                    volume_bytes=found.size,
                )

    def _pair(self, request: api.DiffSnapshotsRequest) -> tuple[SecondaryGroup, str, str]:
        """Return the group and the ids of what is compared; one of the two may be empty."""
        if not request.older and not request.newer:
            raise InvalidRequest("older", "neither snapshot is named", "Name one or both")
        given = [
            names.child(field, value, "snapshots")
            for field, value in (("older", request.older), ("newer", request.newer))
            if value
        ]
        if given[0][0] != given[-1][0]:
            raise InvalidRequest(
                "newer", f"is of group {given[-1][0]!r}, the other of {given[0][0]!r}"
            )
        group = self._node.group(given[0][0])
        older = given[0][1] if request.older else ""
        return group, older, given[-1][1] if request.newer else ""

    def _snapshot(self, name: str) -> tuple[SecondaryGroup, str]:
        owner, snapshot = names.child("name", name, "snapshots")
        return self._node.group(owner), snapshot

    def _tell(self, group: SecondaryGroup, kind: str, snapshot: str, text: str) -> None:
        self._node.events.publish(f"groups/{group.name}/snapshots/{snapshot}", kind, text)


def _loss(row: SnapshotRow) -> str:
    return f"snapshot {row.name!r} at {row.point.position}, grade {row.grade}"


def _message_of(group: str, name: str) -> str:
    """Return the id of a message that must be of this group; empty stays empty."""
    if not name:
        return ""
    owner, message_id = names.child("at_message", name, "messages")
    if owner != group:
        raise InvalidRequest("at_message", f"is of group {owner!r}, the snapshot of {group!r}")
    return message_id


def _check_chunk_bytes(size: int) -> None:
    if size and (not MIN_CHUNK_BYTES <= size <= MAX_CHUNK_BYTES or size & size - 1):
        raise InvalidRequest(
            "chunk_bytes", f"{size} is not a power of two from 4 KiB to 1 MiB", "0 means 64 KiB"
        )
