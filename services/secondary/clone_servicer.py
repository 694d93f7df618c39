"""The part of `slackwater.v1.SecondaryService` that is about writable clones."""

from typing import Any

import grpc

from services.secondary import translate, translate_checks, translate_clones
from services.secondary.group import SecondaryGroup
from services.secondary.snapshot_servicer import EXPORT_ENDS, SnapshotServicer
from slackwater import names
from slackwater.errors import FailedPrecondition, InvalidRequest
from slackwater.runtime.calls import check_request_id, in_thread, newest_first, page
from slackwater.v1 import resources_pb2
from slackwater.v1 import secondary_pb2 as api

Context = grpc.aio.ServicerContext[Any, Any]


class CloneServicer(SnapshotServicer):
    """Makes, shows, exports and removes clones; keeps what checks found on them."""

    async def CreateClone(
        self, request: api.SecondaryServiceCreateCloneRequest, context: Context
    ) -> api.SecondaryServiceCreateCloneResponse:
        """Make a writable clone of all volumes of a snapshot, or of another clone."""
        del context
        if bool(request.snapshot) == bool(request.parent):
            raise InvalidRequest(
                "snapshot", "neither or both of snapshot and parent are given", "Give one"
            )
        field, given = ("parent", "clones") if request.parent else ("snapshot", "snapshots")
        owner, source = names.child(field, request.parent or request.snapshot, given)
        group = self._node.group(owner)
        make = group.replica.create_clone_of_clone if request.parent else group.replica.create_clone
        clone_id = names.check_label("clone_id", request.clone_id)

        def create() -> api.SecondaryServiceCreateCloneResponse:
            row = make(clone_id, source, validate_only=request.validate_only)
            if row is None:
                planned = resources_pb2.Clone(
                    name=translate_clones.name(owner, clone_id),
                    snapshot=request.snapshot,
                    parent=request.parent,
                )
                return api.SecondaryServiceCreateCloneResponse(clone=planned)
            self._tell_clone(
                group, "CLONE_CREATED", clone_id, f"of {given.removesuffix('s')} {source}"
            )
            return api.SecondaryServiceCreateCloneResponse(clone=translate_clones.clone(group, row))

        if request.validate_only:
            check_request_id(request.request_id)
            return await in_thread(create)
        return await self._once(group, "CreateClone", request.request_id, create)

    async def GetClone(
        self, request: api.SecondaryServiceGetCloneRequest, context: Context
    ) -> api.SecondaryServiceGetCloneResponse:
        """Return one clone."""
        del context
        group, name = self._clone(request.name)
        row = group.replica.clones.get(name)
        shown = await in_thread(translate_clones.clone, group, row)
        return api.SecondaryServiceGetCloneResponse(clone=shown)

    async def ListClones(
        self, request: api.SecondaryServiceListClonesRequest, context: Context
    ) -> api.SecondaryServiceListClonesResponse:
        """List the clones of a group, newest first."""
        del context
        group = self._group("group", request.group)
        rows, token = page(
            group.replica.clones.ready(),
            lambda row: newest_first(row.id),
            request.page_size,
            request.page_token,
        )

        def show() -> list[resources_pb2.Clone]:
            return [translate_clones.clone(group, row) for row in rows]

        return api.SecondaryServiceListClonesResponse(
            clones=await in_thread(show), next_page_token=token
        )

    async def DeleteClone(
        self, request: api.SecondaryServiceDeleteCloneRequest, context: Context
    ) -> api.SecondaryServiceDeleteCloneResponse:
        """Remove a clone with all that was written to it."""
        del context
        group, name = self._clone(request.name)

        def delete() -> api.SecondaryServiceDeleteCloneResponse:
            row = group.replica.clones.get(name)
            losses = [translate_clones.loss(group, row)]
            if row.exported and request.force:
                losses.append(EXPORT_ENDS)
            elif row.exported and request.validate_only:
                losses.append("it is exported now: that has to end before it can be deleted")
            if not request.validate_only:
                group.replica.delete_clone(name, force=request.force)
                self._node.disconnect(f"{request.name}/")
                ended = EXPORT_ENDS if row.exported else ""
                self._tell_clone(group, "CLONE_DELETED", name, ended)
            return api.SecondaryServiceDeleteCloneResponse(losses=losses)

        if request.validate_only:
            check_request_id(request.request_id)
            return await in_thread(delete)
        return await self._once(group, "DeleteClone", request.request_id, delete)

    async def ExportClone(
        self, request: api.SecondaryServiceExportCloneRequest, context: Context
    ) -> api.SecondaryServiceExportCloneResponse:
        """Export the volumes of a clone over NBD, for reading and writing."""
        del context
        group, name = self._clone(request.name)

        def export() -> resources_pb2.Clone:
            return translate_clones.clone(group, group.replica.export_clone(name))

        check_request_id(request.request_id)
        clone = await in_thread(export)
        self._tell_clone(group, "CLONE_EXPORTED", name, "")
        uris = [self._endpoints.uris(one.export_name)[:1] for one in clone.volumes]
        return api.SecondaryServiceExportCloneResponse(
            clone=clone, nbd_uris=[uri for found in uris for uri in found]
        )

    async def UnexportClone(
        self, request: api.SecondaryServiceUnexportCloneRequest, context: Context
    ) -> api.SecondaryServiceUnexportCloneResponse:
        """End the export; connected clients are disconnected."""
        del context
        group, name = self._clone(request.name)

        def unexport() -> resources_pb2.Clone:
            return translate_clones.clone(group, group.replica.unexport_clone(name))

        check_request_id(request.request_id)
        clone = await in_thread(unexport)
        self._node.disconnect(f"{request.name}/")
        self._tell_clone(group, "CLONE_UNEXPORTED", name, "")
        return api.SecondaryServiceUnexportCloneResponse(clone=clone)

    async def RecordCheck(
        self, request: api.RecordCheckRequest, context: Context
    ) -> api.RecordCheckResponse:
        """Keep with a snapshot what a check of it found."""
        del context
        owner, snapshot = names.child("snapshot", request.snapshot, "snapshots")
        group = self._node.group(owner)

        def record() -> api.RecordCheckResponse:
            row = group.replica.snapshot(snapshot)
            if str(row.uid) != request.snapshot_uid:
                raise FailedPrecondition(
                    "SNAPSHOT_REPLACED",
                    f"snapshot {snapshot!r} has uid {row.uid}, not {request.snapshot_uid!r}",
                    "Check the one that is there now",
                )
            found = translate_checks.row(request.result, row.uid)
            group.replica.record_check(found)
            text = f"{found.check}: {found.verdict}" + (found.reason and f", {found.reason}")
            self._tell(group, "SNAPSHOT_CHECKED", snapshot, text)
            return api.RecordCheckResponse(snapshot=translate.snapshot(group, row))

        return await self._once(group, "RecordCheck", request.request_id, record)

    def _clone(self, name: str) -> tuple[SecondaryGroup, str]:
        owner, clone = names.child("name", name, "clones")
        return self._node.group(owner), clone

    def _tell_clone(self, group: SecondaryGroup, kind: str, clone: str, text: str) -> None:
        self._node.events.publish(translate_clones.name(group.name, clone), kind, text)
