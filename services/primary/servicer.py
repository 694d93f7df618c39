"""PrimaryService: groups, volumes, links, status; the rest is in the modules it inherits from."""

import time
from collections.abc import AsyncIterator
from typing import Any

import grpc

import slackwater
from services.primary import translate
from services.primary.checks import (
    check_change,
    check_endpoint,
    check_known,
    check_mode,
    check_range,
)
from services.primary.group import PrimaryGroup
from services.primary.node import PrimaryNode
from services.primary.once import once
from services.primary.restore_servicer import RestoreServicer
from slackwater import names, record
from slackwater.errors import InvalidRequest
from slackwater.group.batch import Change, write_change, zero_change
from slackwater.group.opening import WRITEBACK, WRITETHROUGH, GroupSettings
from slackwater.group.volume import Volume
from slackwater.log.segment import MAX_LOG_BYTES, MIN_LOG_BYTES, LogSettings
from slackwater.runtime import roles, wire
from slackwater.runtime.calls import Remembered, check_request_id, in_thread, page
from slackwater.runtime.config import PrimaryConfig
from slackwater.v1 import primary_pb2 as api
from slackwater.v1 import resources_pb2

MAX_DATA_BYTES = 1 << 20
Context = grpc.aio.ServicerContext[Any, Any]


class PrimaryServicer(RestoreServicer):
    """Serves `slackwater.v1.PrimaryService`; errors are turned into statuses by the runtime."""

    def __init__(self, node: PrimaryNode, config: PrimaryConfig) -> None:
        """Serve a node."""
        super().__init__(node, config.fence_seconds)
        self._config = config
        self._remembered = Remembered()
        self._written = Remembered()  # apart: many writes must not push the end of a group out
        self._started = time.monotonic()

    # -- groups -------------------------------------------------------------------------------

    async def CreateGroup(
        self, request: api.CreateGroupRequest, context: Context
    ) -> api.CreateGroupResponse:
        """Make a group without volumes."""
        known = self._remembered.get("CreateGroup", request.request_id, api.CreateGroupResponse)
        if known is not None:
            return known
        names.check_label("group_id", request.group_id)
        settings = self._group_settings(request)
        if request.validate_only:
            self._node.check_new(request.group_id)
            return api.CreateGroupResponse(
                group=resources_pb2.Group(name=f"groups/{request.group_id}")
            )
        return await in_thread(self._create_group, request, settings)

    def _create_group(
        self, request: api.CreateGroupRequest, settings: GroupSettings
    ) -> api.CreateGroupResponse:
        there = self._node.groups.get(request.group_id)
        if there is not None and request.request_id:
            # Made before the service was started again, for the same request.
            data = there.database.remembered(request.request_id, "CreateGroup")
            if data is not None:
                return api.CreateGroupResponse.FromString(data)
        made = self._node.create(request.group_id, settings)
        answer = api.CreateGroupResponse(group=translate.group(made))
        self._remembered.put("CreateGroup", request.request_id, answer)
        data, now = answer.SerializeToString(), made.writer.clock.time_ns()
        made.database.remember(request.request_id, "CreateGroup", data, now)
        return answer

    def _group_settings(self, request: api.CreateGroupRequest) -> GroupSettings:
        check_known("durability", request.durability, resources_pb2.Durability.values())
        log_bytes = request.log_bytes or int(self._config.log_bytes)
        if log_bytes < MIN_LOG_BYTES:
            raise InvalidRequest("log_bytes", f"{log_bytes} is less than 64 MiB", "Give 64MiB")
        if log_bytes > MAX_LOG_BYTES:
            raise InvalidRequest(
                "log_bytes", f"{log_bytes} is more than 1 TiB", "Give 1TiB or less"
            )
        segment = min(int(self._config.segment_bytes), log_bytes // 8 // 4096 * 4096)
        log = LogSettings(log_bytes, segment, min(8 << 20, log_bytes // 8))
        log.validate()
        writeback = request.durability == resources_pb2.DURABILITY_WRITEBACK
        return GroupSettings(log, WRITEBACK if writeback else WRITETHROUGH)

    async def GetGroup(
        self, request: api.GetGroupRequest, context: Context
    ) -> api.GetGroupResponse:
        """Return one group."""
        name = names.group("name", request.name)
        if name in self._node.broken:
            return api.GetGroupResponse(group=translate.broken_group(self._node.broken[name]))
        return api.GetGroupResponse(group=translate.group(self._node.group(name)))

    async def ListGroups(
        self, request: api.ListGroupsRequest, context: Context
    ) -> api.ListGroupsResponse:
        """List the groups."""
        groups = [translate.group(one) for one in self._node.groups.values()]
        groups += [translate.broken_group(one) for one in self._node.broken.values()]
        chosen, token = page(groups, lambda one: one.name, request.page_size, request.page_token)
        return api.ListGroupsResponse(groups=chosen, next_page_token=token)

    async def DeleteGroup(
        self, request: api.DeleteGroupRequest, context: Context
    ) -> api.DeleteGroupResponse:
        """Remove a group with all it holds."""
        known = self._remembered.get("DeleteGroup", request.request_id, api.DeleteGroupResponse)
        if known is not None:
            return known
        group = self._group("name", request.name)
        if request.validate_only:
            return api.DeleteGroupResponse(losses=self._node.check_delete(group))

        def delete() -> api.DeleteGroupResponse:
            answer = api.DeleteGroupResponse(losses=self._node.delete(group))
            self._remembered.put("DeleteGroup", request.request_id, answer)
            return answer

        answer = await in_thread(delete)
        await group.quiesce.stop("the group was deleted", 0.0)
        return answer

    # -- volumes ------------------------------------------------------------------------------

    async def CreateVolume(
        self, request: api.CreateVolumeRequest, context: Context
    ) -> api.CreateVolumeResponse:
        """Make a volume of zeroes."""
        group = self._group("group", request.group)
        names.check_label("volume_id", request.volume_id)
        size = names.check_volume_size("size_bytes", request.size_bytes)
        quota = self._node.quotas.adding(roles.caller(), group.name, size, "size_bytes")

        def check() -> api.CreateVolumeResponse:
            with group.admin, quota:
                group.volumes.check_new(request.volume_id)
                group.volumes.check_size(size)
            made = resources_pb2.Volume(
                name=f"{request.group}/volumes/{request.volume_id}", size_bytes=size
            )
            return api.CreateVolumeResponse(volume=made)

        def change() -> api.CreateVolumeResponse:
            with quota:
                made = group.add_volume(request.volume_id, size)
            return api.CreateVolumeResponse(volume=translate.volume(group.name, made))

        if request.validate_only:
            return await in_thread(check)
        return await once(group, request, api.CreateVolumeResponse, change)

    async def GetVolume(
        self, request: api.GetVolumeRequest, context: Context
    ) -> api.GetVolumeResponse:
        """Return one volume."""
        group, volume = self._volume(request.name)
        return api.GetVolumeResponse(volume=translate.volume(group.name, volume))

    async def ListVolumes(
        self, request: api.ListVolumesRequest, context: Context
    ) -> api.ListVolumesResponse:
        """List the volumes of a group."""
        group = self._group("group", request.group)
        volumes = [translate.volume(group.name, one) for one in group.writer.volumes.values()]
        chosen, token = page(volumes, lambda one: one.name, request.page_size, request.page_token)
        return api.ListVolumesResponse(volumes=chosen, next_page_token=token)

    async def DeleteVolume(
        self, request: api.DeleteVolumeRequest, context: Context
    ) -> api.DeleteVolumeResponse:
        """Remove a volume, here and on every Secondary."""
        owner, _ = names.child("name", request.name, "volumes")
        group = self._node.group(owner)

        def change() -> api.DeleteVolumeResponse:
            _, volume = self._volume(request.name)
            self._node.check_unused(volume=request.name)
            if not request.validate_only:
                group.remove_volume(volume.name)
            losses = [f"volume {volume.name!r} with {volume.size} bytes, on every Secondary too"]
            return api.DeleteVolumeResponse(losses=losses)

        if request.validate_only:
            return await in_thread(change)
        return await once(group, request, api.DeleteVolumeResponse, change)

    async def GrowVolume(
        self, request: api.GrowVolumeRequest, context: Context
    ) -> api.GrowVolumeResponse:
        """Refuse: growing comes with a later release."""
        await context.abort(
            grpc.StatusCode.UNIMPLEMENTED, "volumes that grow come with a later release"
        )

    async def ReadVolume(
        self, request: api.ReadVolumeRequest, context: Context
    ) -> api.ReadVolumeResponse:
        """Read up to 1 MiB."""
        group, volume = self._volume(request.name)
        if not 1 <= request.length <= MAX_DATA_BYTES:
            raise InvalidRequest("length", f"{request.length} is not from 1 to {MAX_DATA_BYTES}")
        check_range(volume, request.offset, request.length)
        target = bytearray(request.length)
        await in_thread(group.writer.read_into, volume, request.offset, memoryview(target))
        return api.ReadVolumeResponse(data=bytes(target))

    async def WriteVolume(
        self, request: api.WriteVolumeRequest, context: Context
    ) -> api.WriteVolumeResponse:
        """Write up to 1 MiB, or zeroes."""
        group, volume = self._volume(request.name)
        content = request.WhichOneof("content")
        if content == "data":
            length = len(request.data)
            if not 1 <= length <= record.MAX_PAYLOAD:
                raise InvalidRequest("data", f"{length} bytes are not from 1 to {MAX_DATA_BYTES}")
            check_change(volume, content, request.offset, length)
            change = write_change(volume, request.offset, request.data)
        elif content == "zero_bytes":
            length = request.zero_bytes
            if length < 1:
                raise InvalidRequest("zero_bytes", "is 0", "Give at least 512")
            check_change(volume, content, request.offset, length)
            change = zero_change(volume, request.offset, length)
        else:
            raise InvalidRequest("content", "is not set", "Give data or zero_bytes")

        async def write() -> api.WriteVolumeResponse:
            await in_thread(_write, group, volume, change)
            at = group.writer.log.durable.position
            return api.WriteVolumeResponse(position=wire.position(at))

        method, kind = "WriteVolume", api.WriteVolumeResponse
        return await self._written.once(method, request.request_id, kind, write)

    # -- links --------------------------------------------------------------------------------

    async def CreateLink(
        self, request: api.CreateLinkRequest, context: Context
    ) -> api.CreateLinkResponse:
        """Attach a Secondary."""
        group = self._group("group", request.group)
        check_endpoint(request.endpoint)
        await check_mode(request.mode, context)

        def change() -> api.CreateLinkResponse:
            made = group.add_link(request.link_id, request.endpoint, time.time_ns())
            return api.CreateLinkResponse(link=translate.link(made, group))

        if request.validate_only:
            group.check_link(request.link_id, request.endpoint)
            link = resources_pb2.Link(
                name=f"{request.group}/links/{request.link_id}", endpoint=request.endpoint
            )
            return api.CreateLinkResponse(link=link)
        names.check_label("link_id", request.link_id)
        return await once(group, request, api.CreateLinkResponse, change)

    async def GetLink(self, request: api.GetLinkRequest, context: Context) -> api.GetLinkResponse:
        """Return one link."""
        owner, name = names.child("name", request.name, "links")
        group = self._node.group(owner)
        link = await in_thread(translate.link, group.link(name), group)
        return api.GetLinkResponse(link=link)

    async def ListLinks(
        self, request: api.ListLinksRequest, context: Context
    ) -> api.ListLinksResponse:
        """List the links of a group."""
        group = self._group("group", request.group)
        links = list(group.links.values())
        chosen, token = page(links, lambda one: one.name, request.page_size, request.page_token)
        shown = await in_thread(lambda: [translate.link(one, group) for one in chosen])
        return api.ListLinksResponse(links=shown, next_page_token=token)

    async def UpdateLink(
        self, request: api.UpdateLinkRequest, context: Context
    ) -> api.UpdateLinkResponse:
        """Change a link, or move it out of a state that waits for an operator."""
        check_request_id(request.request_id)
        owner, name = names.child("name", request.name, "links")
        group = self._node.group(owner)
        link = group.link(name)
        if request.HasField("endpoint"):
            check_endpoint(request.endpoint)
        await check_mode(request.mode, context)
        losses: list[str] = []
        if request.discard_secondary and link.status.diverged is not None:
            losses.append(
                f"the Secondary's history up to {link.status.diverged}, which differs from this"
                " side's; the Secondary keeps a snapshot of it until the sync is done"
            )

        def change() -> api.UpdateLinkResponse:
            changed = link
            if not request.validate_only:
                changed = group.update_link(
                    name,
                    endpoint=request.endpoint if request.HasField("endpoint") else None,
                    paused=request.paused if request.HasField("paused") else None,
                    retry=request.retry,
                    discard=request.discard_secondary,
                )
            elif request.HasField("endpoint"):
                group.check_endpoint_free(name, request.endpoint)
            return api.UpdateLinkResponse(link=translate.link(changed, group), losses=losses)

        if request.validate_only:
            return await in_thread(change)
        return await once(group, request, api.UpdateLinkResponse, change)

    async def DeleteLink(
        self, request: api.DeleteLinkRequest, context: Context
    ) -> api.DeleteLinkResponse:
        """Detach a Secondary."""
        owner, name = names.child("name", request.name, "links")
        group = self._node.group(owner)

        def change() -> api.DeleteLinkResponse:
            link = group.link(name)
            behind = max(group.writer.log.durable.offset - link.marks.acked_offset, 0)
            if not request.validate_only:
                group.remove_link(name)
            return api.DeleteLinkResponse(
                losses=[f"the Secondary stays where it is, {behind} bytes of log behind"]
            )

        if request.validate_only:
            return await in_thread(change)
        return await once(group, request, api.DeleteLinkResponse, change)

    # -- status -------------------------------------------------------------------------------

    async def GetStatus(
        self, request: api.PrimaryServiceGetStatusRequest, context: Context
    ) -> api.PrimaryServiceGetStatusResponse:
        """Return one picture of everything."""
        chosen = names.group("group", request.group) if request.group else ""
        if chosen and chosen not in self._node.broken:
            self._node.group(chosen)
        statuses = [
            await in_thread(self._status, group)
            for name, group in sorted(self._node.groups.items())
            if not chosen or name == chosen
        ]
        statuses += [
            api.GroupStatus(group=translate.broken_group(broken))
            for name, broken in sorted(self._node.broken.items())
            if not chosen or name == chosen
        ]
        return api.PrimaryServiceGetStatusResponse(
            groups=statuses,
            version=slackwater.__version__,
            uptime=wire.duration(time.monotonic() - self._started),
        )

    def _status(self, group: PrimaryGroup) -> api.GroupStatus:
        return translate.status(group, self._node.connections(group=f"groups/{group.name}"))

    async def WatchEvents(
        self, request: api.PrimaryServiceWatchEventsRequest, context: Context
    ) -> AsyncIterator[api.PrimaryServiceWatchEventsResponse]:
        """Stream events from now on."""
        chosen = names.group("group", request.group) if request.group else ""
        with self._node.events.subscribe() as subscription:
            while not subscription.overflowed:
                event = await subscription.get(1.0)
                if event is None:
                    continue
                owner = event.resource.split("/")[1]
                if not chosen or owner == chosen:
                    yield api.PrimaryServiceWatchEventsResponse(event=event)
        await context.abort(
            grpc.StatusCode.RESOURCE_EXHAUSTED, "the client fell behind by more than 1000 events"
        )

    # -- shared -------------------------------------------------------------------------------

    def _volume(self, name: str) -> tuple[PrimaryGroup, Volume]:
        owner, volume = names.child("name", name, "volumes")
        group = self._node.group(owner)
        return group, group.volumes.by_name(volume)


def _write(group: PrimaryGroup, volume: Volume, change: Change) -> None:
    with group.uses.use(volume):
        group.writer.submit([change], sync=True)
