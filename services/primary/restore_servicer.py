"""PrimaryService: restores."""

from typing import Any

import grpc

from services.primary import translate_restores as translate
from services.primary.message_servicer import MessageServicer
from services.primary.once import once
from slackwater import names
from slackwater.errors import InvalidRequest
from slackwater.runtime.calls import in_thread, page
from slackwater.v1 import primary_pb2 as api

Context = grpc.aio.ServicerContext[Any, Any]


class RestoreServicer(MessageServicer):
    """The part of `slackwater.v1.PrimaryService` that is about restores."""

    async def CreateRestore(
        self, request: api.CreateRestoreRequest, context: Context
    ) -> api.CreateRestoreResponse:
        """Begin to give volumes the content of a snapshot."""
        owner, _ = names.child("snapshot", request.snapshot, "snapshots")
        group = self._node.group(owner)
        link = ""
        if request.link:
            of_group, link = names.child("link", request.link, "links")
            if of_group != owner:
                raise InvalidRequest("link", f"is of group {of_group!r}, the snapshot of {owner!r}")
        for volume in request.volumes:
            names.check_label("volumes", volume)
        kind = api.CreateRestoreResponse

        def known() -> api.CreateRestoreResponse | None:
            data = group.database.remembered(request.request_id, "CreateRestore")
            return None if data is None else kind.FromString(data)

        if request.request_id and (answer := await in_thread(known)) is not None:
            return answer
        plan = await in_thread(group.restores.plan, request.snapshot, link, list(request.volumes))

        def change() -> api.CreateRestoreResponse:
            row = group.restores.begin(plan, lambda volume: self._node.check_unused(volume=volume))
            return kind(restore=translate.restore(group, row), losses=plan.losses())

        if request.validate_only:
            for name in plan.volumes:
                self._node.check_unused(volume=f"groups/{owner}/volumes/{name}")
            return kind(restore=translate.planned(group, plan), losses=plan.losses())
        return await once(group, request, kind, change)

    async def GetRestore(
        self, request: api.GetRestoreRequest, context: Context
    ) -> api.GetRestoreResponse:
        """Return one restore."""
        owner, name = names.child("name", request.name, "restores")
        group = self._node.group(owner)
        row = await in_thread(group.restores.get, name)
        return api.GetRestoreResponse(restore=translate.restore(group, row))

    async def ListRestores(
        self, request: api.ListRestoresRequest, context: Context
    ) -> api.ListRestoresResponse:
        """List the restores of a group that are kept."""
        group = self._group("group", request.group)
        rows = await in_thread(group.restores.rows)
        shown = [translate.restore(group, row) for row in rows]
        chosen, token = page(shown, lambda one: one.name, request.page_size, request.page_token)
        return api.ListRestoresResponse(restores=chosen, next_page_token=token)

    async def CancelRestore(
        self, request: api.CancelRestoreRequest, context: Context
    ) -> api.CancelRestoreResponse:
        """End a restore that is under way."""
        owner, name = names.child("name", request.name, "restores")
        group = self._node.group(owner)
        kind = api.CancelRestoreResponse

        def look() -> api.CancelRestoreResponse:
            row = group.restores.get(name)
            losses = group.restores.cancel_losses(row, force=request.force)
            return kind(restore=translate.restore(group, row), losses=losses)

        def change() -> api.CancelRestoreResponse:
            row, losses = group.restores.cancel(name, force=request.force)
            return kind(restore=translate.restore(group, row), losses=losses)

        if request.validate_only:
            return await in_thread(look)
        return await once(group, request, kind, change)
