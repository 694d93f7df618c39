"""PrimaryService over a real server and real groups: each rpc, and what it refuses."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest

from slackwater.errors import SlackwaterError
from slackwater.nbd.client import Client
from slackwater.runtime import calls
from slackwater.v1 import common_pb2, resources_pb2
from slackwater.v1 import primary_pb2 as api
from tests.unit.services.primary.primary_site import (
    GROUP,
    LINK,
    SIZE,
    VOLUME,
    Site,
    in_loop,
    refused,
    until,
)

Code = grpc.StatusCode


def client(site: Site, export: str = VOLUME) -> Client:
    return Client(site.nbd_address, export)


# -- groups ---------------------------------------------------------------------------------------


@in_loop
async def test_operator_makes_a_group_looks_at_it_and_removes_it(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        made = (await site.api.CreateGroup(api.CreateGroupRequest(group_id="demo"))).group
        assert made.state == resources_pb2.GROUP_STATE_READY
        assert made == (await site.api.GetGroup(api.GetGroupRequest(name=GROUP))).group
        assert [
            one.name for one in (await site.api.ListGroups(api.ListGroupsRequest())).groups
        ] == [GROUP]
        losses = (await site.api.DeleteGroup(api.DeleteGroupRequest(name=GROUP))).losses
        assert losses
        await refused(site.api.GetGroup(api.GetGroupRequest(name=GROUP)), Code.NOT_FOUND)
        assert not (tmp_path / "groups" / "demo").exists()


@pytest.mark.parametrize(
    ("fields", "code", "said"),
    [
        ({"group_id": ""}, Code.INVALID_ARGUMENT, "group_id"),
        ({"group_id": "Not_a_label"}, Code.INVALID_ARGUMENT, "group_id"),
        ({"group_id": "a" * 64}, Code.INVALID_ARGUMENT, "group_id"),
        ({"group_id": "../up"}, Code.INVALID_ARGUMENT, "group_id"),
        ({"group_id": "demo", "log_bytes": 1 << 20}, Code.INVALID_ARGUMENT, "log_bytes"),
        ({"group_id": "demo", "durability": 9}, Code.INVALID_ARGUMENT, "durability"),
        ({"group_id": "demo", "request_id": "r" * 129}, Code.INVALID_ARGUMENT, "request_id"),
    ],
)
def test_a_group_that_cannot_be_is_refused_by_field(
    tmp_path: Path, fields: dict[str, Any], code: Code, said: str
) -> None:
    @in_loop
    async def run(path: Path) -> None:
        async with Site(path) as site:
            text = await refused(site.api.CreateGroup(api.CreateGroupRequest(**fields)), code)
            assert said in text
            assert not site.node.groups

    run(tmp_path)


@in_loop
async def test_a_repeated_request_gets_the_first_answer_even_after_a_restart(
    tmp_path: Path,
) -> None:
    async with Site(tmp_path) as site:
        group = api.CreateGroupRequest(group_id="demo", request_id="r1")
        volume = api.CreateVolumeRequest(
            group=GROUP, volume_id="data", size_bytes=SIZE, request_id="r2"
        )
        link = api.CreateLinkRequest(
            group=GROUP, link_id="site-b", endpoint="127.0.0.1:1", request_id="r3"
        )
        first = [
            await site.api.CreateGroup(group),
            await site.api.CreateVolume(volume),
            await site.api.CreateLink(link),
        ]
        await site.restart()
        again = [
            await site.api.CreateGroup(group),
            await site.api.CreateVolume(volume),
            await site.api.CreateLink(link),
        ]
        assert first == again
        another = api.CreateVolumeRequest(group=GROUP, volume_id="data", size_bytes=SIZE)
        assert "data" in await refused(site.api.CreateVolume(another), Code.ALREADY_EXISTS)


@in_loop
async def test_the_same_request_twice_at_once_is_done_once(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        await site.with_group()
        request = api.CreateVolumeRequest(
            group=GROUP, volume_id="wal", size_bytes=SIZE, request_id="r1"
        )
        answers = await asyncio.gather(*(site.api.CreateVolume(request) for _ in range(4)))
        assert len({answer.volume.volume_number for answer in answers}) == 1


class _Watched:
    """A lock that says when somebody comes for it."""

    def __init__(self, lock: Any, wanted: threading.Event) -> None:
        self._lock, self._wanted = lock, wanted

    def __enter__(self) -> None:
        self._wanted.set()
        self._lock.acquire()

    def __exit__(self, *about: object) -> None:
        self._lock.release()


@in_loop
async def test_a_change_is_remembered_though_its_caller_went_away(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        await site.with_group()
        request = api.CreateVolumeRequest(
            group=GROUP, volume_id="wal", size_bytes=SIZE, request_id="r1"
        )
        group = site.node.group("demo")
        waiting = threading.Event()
        group.admin = _Watched(group.admin, waiting)  # type: ignore[assignment]
        with group.admin:
            waiting.clear()
            call = site.api.CreateVolume(request)
            await until(waiting.is_set)
            call.cancel()
        await until(lambda: any(one.name == "wal" for one in group.writer.volumes.values()))
        answer = await site.api.CreateVolume(request)
        assert answer.volume.name == f"{GROUP}/volumes/wal"


@in_loop
async def test_validate_only_changes_nothing(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        await site.api.CreateGroup(api.CreateGroupRequest(group_id="demo", validate_only=True))
        assert not site.node.groups
        await site.with_group()
        await site.with_link()
        group = site.node.group("demo")
        before = group.writer.log.end
        told = list(site.senders.told)
        calls = [
            site.api.CreateVolume(
                api.CreateVolumeRequest(
                    group=GROUP, volume_id="wal", size_bytes=512, validate_only=True
                )
            ),
            site.api.DeleteVolume(api.DeleteVolumeRequest(name=VOLUME, validate_only=True)),
            site.api.CreateLink(
                api.CreateLinkRequest(
                    group=GROUP, link_id="site-c", endpoint="h:1", validate_only=True
                )
            ),
            site.api.UpdateLink(
                api.UpdateLinkRequest(name=LINK, paused=True, endpoint="h:2", validate_only=True)
            ),
            site.api.DeleteLink(api.DeleteLinkRequest(name=LINK, validate_only=True)),
        ]
        for call in calls:
            await call
        text = await refused(
            site.api.DeleteGroup(api.DeleteGroupRequest(name=GROUP, validate_only=True)),
            Code.FAILED_PRECONDITION,
        )
        assert "slackwater link delete demo/site-b" in text
        assert group.writer.log.end == before
        assert site.senders.told == told
        assert list(group.links) == ["site-b"]
        assert not group.link("site-b").paused


@in_loop
async def test_pages_of_a_list_hold_each_entry_once(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        await site.with_group()
        for name in ("a", "b", "c"):
            await site.api.CreateVolume(
                api.CreateVolumeRequest(group=GROUP, volume_id=name, size_bytes=512)
            )
        seen, token = [], ""
        while True:
            request = api.ListVolumesRequest(group=GROUP, page_size=3, page_token=token)
            answer = await site.api.ListVolumes(request)
            seen += [one.name.rpartition("/")[2] for one in answer.volumes]
            token = answer.next_page_token
            if not token:
                break
        assert seen == ["a", "b", "c", "data"]
        negative = api.ListVolumesRequest(group=GROUP, page_size=-1)
        assert "page_size" in await refused(site.api.ListVolumes(negative), Code.INVALID_ARGUMENT)


@in_loop
async def test_a_group_that_cannot_be_opened_is_shown_and_the_others_serve(
    tmp_path: Path,
) -> None:
    async with Site(tmp_path) as site:
        await site.with_group()
        await site.api.CreateGroup(api.CreateGroupRequest(group_id="other"))
        await site.stop()
        (tmp_path / "groups" / "other" / "group.db").write_bytes(b"no database" * 1000)
        await site.start()
        other = (await site.api.GetGroup(api.GetGroupRequest(name="groups/other"))).group
        assert other.state == resources_pb2.GROUP_STATE_FAILED
        assert other.state_reason
        status = await site.api.GetStatus(api.PrimaryServiceGetStatusRequest())
        assert [one.group.state for one in status.groups] == [
            resources_pb2.GROUP_STATE_READY,
            resources_pb2.GROUP_STATE_FAILED,
        ]
        listing = api.ListVolumesRequest(group="groups/other")
        await refused(site.api.ListVolumes(listing), Code.FAILED_PRECONDITION)
        await site.write(b"goes on")


@in_loop
async def test_a_group_that_recovers_says_so(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        site.node.opening.add("demo")
        request = api.ListVolumesRequest(group=GROUP)
        text = await refused(site.api.ListVolumes(request), Code.FAILED_PRECONDITION)
        assert "recovering" in text
        site.node.opening.clear()


# -- volumes --------------------------------------------------------------------------------------


@in_loop
async def test_bytes_written_are_read_back_and_zeroed(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        await site.with_group()
        await site.write(b"01" * 1024, 512)
        read = api.ReadVolumeRequest(name=VOLUME, offset=511, length=2051)
        assert (await site.api.ReadVolume(read)).data == b"\0" + b"01" * 1024 + b"\0\0"
        zero = api.WriteVolumeRequest(name=VOLUME, offset=1024, zero_bytes=1024)
        position = (await site.api.WriteVolume(zero)).position
        assert position.lsn == site.node.group("demo").writer.log.durable.position.lsn
        left = b"01" * 256
        assert (await site.api.ReadVolume(read)).data == b"\0" + left + bytes(1024) + left + b"\0\0"


@pytest.mark.parametrize(
    ("fields", "code", "said"),
    [
        ({"volume_id": "UPPER"}, Code.INVALID_ARGUMENT, "volume_id"),
        ({"size_bytes": 0}, Code.INVALID_ARGUMENT, "size_bytes"),
        ({"size_bytes": -512}, Code.INVALID_ARGUMENT, "size_bytes"),
        ({"size_bytes": 513}, Code.INVALID_ARGUMENT, "size_bytes"),
        ({"size_bytes": (64 << 40) + 512}, Code.INVALID_ARGUMENT, "size_bytes"),
        ({"group": "groups/nope"}, Code.NOT_FOUND, "nope"),
        ({"group": "demo"}, Code.INVALID_ARGUMENT, "group"),
    ],
)
def test_a_volume_that_cannot_be_is_refused_by_field(
    tmp_path: Path, fields: dict[str, Any], code: Code, said: str
) -> None:
    @in_loop
    async def run(path: Path) -> None:
        async with Site(path) as site:
            await site.with_group()
            given = {"group": GROUP, "volume_id": "wal", "size_bytes": 512, **fields}
            text = await refused(site.api.CreateVolume(api.CreateVolumeRequest(**given)), code)
            assert said in text

    run(tmp_path)


@pytest.mark.parametrize(
    ("fields", "code", "said"),
    [
        ({"offset": SIZE - 512, "data": bytes(1024)}, Code.OUT_OF_RANGE, "past the end"),
        ({"offset": 1 << 63, "data": bytes(512)}, Code.OUT_OF_RANGE, "past the end"),
        ({"offset": 1, "data": bytes(512)}, Code.INVALID_ARGUMENT, "offset: 1 is not"),
        ({"offset": 512, "data": b"x"}, Code.INVALID_ARGUMENT, "data: 1 is not"),
        ({"data": bytes(513)}, Code.INVALID_ARGUMENT, "data: 513 is not"),
        ({"offset": 256, "zero_bytes": 512}, Code.INVALID_ARGUMENT, "offset: 256 is not"),
        ({"zero_bytes": 4097}, Code.INVALID_ARGUMENT, "zero_bytes: 4097 is not"),
        ({"data": bytes((1 << 20) + 1)}, Code.INVALID_ARGUMENT, "data"),
        ({"data": b""}, Code.INVALID_ARGUMENT, "data"),
        ({"zero_bytes": 0}, Code.INVALID_ARGUMENT, "zero_bytes"),
        ({"zero_bytes": SIZE + 512}, Code.OUT_OF_RANGE, "past the end"),
        ({}, Code.INVALID_ARGUMENT, "content"),
        ({"name": f"{GROUP}/volumes/nope", "data": b"x"}, Code.NOT_FOUND, "nope"),
        ({"name": "groups/demo/volume/data", "data": b"x"}, Code.INVALID_ARGUMENT, "name"),
    ],
)
def test_a_write_that_cannot_be_is_refused_and_leaves_no_record(
    tmp_path: Path, fields: dict[str, Any], code: Code, said: str
) -> None:
    @in_loop
    async def run(path: Path) -> None:
        async with Site(path) as site:
            await site.with_group()
            before = site.node.group("demo").writer.log.end
            request = api.WriteVolumeRequest(**{"name": VOLUME, **fields})
            assert said in await refused(site.api.WriteVolume(request), code)
            assert site.node.group("demo").writer.log.end == before

    run(tmp_path)


@in_loop
async def test_a_volume_in_use_stays_and_one_of_a_like_name_goes(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        await site.with_group()
        await site.api.CreateVolume(
            api.CreateVolumeRequest(group=GROUP, volume_id="dat", size_bytes=512)
        )
        with await asyncio.to_thread(client, site) as nbd:
            await asyncio.to_thread(nbd.write, 0, b"x" * 512)
            request = api.DeleteVolumeRequest(name=VOLUME)
            text = await refused(site.api.DeleteVolume(request), Code.FAILED_PRECONDITION)
            assert "Disconnect" in text
            await refused(
                site.api.DeleteGroup(api.DeleteGroupRequest(name=GROUP)), Code.FAILED_PRECONDITION
            )
            await site.api.DeleteVolume(api.DeleteVolumeRequest(name=f"{GROUP}/volumes/dat"))
        await until(lambda: not site.nbd.export_names())
        await site.api.DeleteVolume(request)
        await refused(site.api.GetVolume(api.GetVolumeRequest(name=VOLUME)), Code.NOT_FOUND)


@in_loop
async def test_no_write_follows_the_removal_of_its_volume(tmp_path: Path) -> None:
    """D28: a replica stops at a record that names a volume that is gone."""
    async with Site(tmp_path) as site:
        await site.with_group()
        group = site.node.group("demo")
        volume = group.volumes.by_name("data")
        with group.uses.use(volume):
            deleting = site.api.DeleteVolume(api.DeleteVolumeRequest(name=VOLUME))

            async def is_refused() -> bool:
                try:
                    await site.write(b"early")
                except grpc.aio.AioRpcError as error:
                    return error.code() is Code.NOT_FOUND
                return False

            await until(is_refused)
        await deleting
        await refused(site.write(b"later"), Code.NOT_FOUND)


@in_loop
async def test_a_volume_whose_writes_do_not_end_is_not_removed(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        await site.with_group()
        group = site.node.group("demo")
        group.uses.drain_seconds = 0.0
        with group.uses.use(group.volumes.by_name("data")):
            request = api.DeleteVolumeRequest(name=VOLUME)
            text = await refused(site.api.DeleteVolume(request), Code.FAILED_PRECONDITION)
            assert "does not end" in text
        await site.write(b"goes on")


@in_loop
async def test_growing_is_refused_in_words(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        await site.with_group()
        request = api.GrowVolumeRequest(name=VOLUME, size_bytes=2 * SIZE)
        assert "later release" in await refused(site.api.GrowVolume(request), Code.UNIMPLEMENTED)


# -- NBD ------------------------------------------------------------------------------------------


@in_loop
async def test_writeback_is_not_served_over_tcp_unasked(tmp_path: Path) -> None:
    """D7."""
    writeback = resources_pb2.DURABILITY_WRITEBACK
    async with Site(tmp_path) as site:
        await site.with_group(durability=writeback)
        with pytest.raises(SlackwaterError, match="--nbd-writeback-tcp"):
            await asyncio.to_thread(client, site)
        local = await asyncio.to_thread(Client, site.path / "nbd.sock", VOLUME)
        await asyncio.to_thread(local.close)
    async with Site(tmp_path, writeback_tcp=True) as site:
        remote = await asyncio.to_thread(client, site)
        await asyncio.to_thread(remote.close)


# -- links ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "code", "said"),
    [
        ({"link_id": "Site B"}, Code.INVALID_ARGUMENT, "link_id"),
        ({"endpoint": "nowhere"}, Code.INVALID_ARGUMENT, "endpoint"),
        ({"endpoint": "host:0"}, Code.INVALID_ARGUMENT, "endpoint"),
        ({"mode": 2}, Code.UNIMPLEMENTED, "later release"),
        ({"mode": 77}, Code.INVALID_ARGUMENT, "mode"),
        ({"group": "groups/nope"}, Code.NOT_FOUND, "nope"),
    ],
)
def test_a_link_that_cannot_be_is_refused_by_field(
    tmp_path: Path, fields: dict[str, Any], code: Code, said: str
) -> None:
    @in_loop
    async def run(path: Path) -> None:
        async with Site(path) as site:
            await site.with_group()
            given = {"group": GROUP, "link_id": "site-b", "endpoint": "127.0.0.1:1", **fields}
            assert said in await refused(site.api.CreateLink(api.CreateLinkRequest(**given)), code)
            assert not site.node.group("demo").links

    run(tmp_path)


@in_loop
async def test_a_deleted_link_is_gone_and_its_name_is_free(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        await site.with_group()
        await site.with_link()
        answer = await site.api.DeleteLink(api.DeleteLinkRequest(name=LINK))
        assert "behind" in answer.losses[0]
        await refused(site.api.GetLink(api.GetLinkRequest(name=LINK)), Code.NOT_FOUND)
        await site.with_link()
        assert [
            one.name for one in (await site.api.ListLinks(api.ListLinksRequest(group=GROUP))).links
        ] == [LINK]


@in_loop
async def test_second_link_to_an_endpoint_is_refused(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        await site.with_group()
        await site.with_link("127.0.0.1:2", "first")
        await site.with_link("127.0.0.1:3", "other")
        again = api.CreateLinkRequest(group=GROUP, link_id="again", endpoint="127.0.0.1:2")
        error = await refused(site.api.CreateLink(again), Code.FAILED_PRECONDITION)
        assert "link 'first'" in error
        moved = api.UpdateLinkRequest(name=f"{GROUP}/links/other", endpoint="127.0.0.1:2")
        for moved.validate_only in (True, False):
            await refused(site.api.UpdateLink(moved), Code.FAILED_PRECONDITION)
        same = api.UpdateLinkRequest(name=f"{GROUP}/links/other", endpoint="127.0.0.1:3")
        await site.api.UpdateLink(same)
        assert [row.name for row in site.node.group("demo").database.links()] == ["first", "other"]


@in_loop
async def test_repeated_write_does_nothing(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        await site.with_group()

        def write(letter: bytes, request_id: str) -> api.WriteVolumeRequest:
            return api.WriteVolumeRequest(name=VOLUME, data=letter * 512, request_id=request_id)

        before = site.node.group("demo").writer.log.durable.position.lsn
        first, twin = await asyncio.gather(
            site.api.WriteVolume(write(b"a", "r1")), site.api.WriteVolume(write(b"a", "r1"))
        )
        second = await site.api.WriteVolume(write(b"b", "r2"))
        again = await site.api.WriteVolume(write(b"a", "r1"))
        assert first == twin == again
        assert first.position.lsn == before + 1, "the two at once are one write"
        assert second.position.lsn == before + 2
        read = await site.api.ReadVolume(api.ReadVolumeRequest(name=VOLUME, length=512))
        assert read.data == b"b" * 512


@in_loop
async def test_writes_do_not_make_the_end_of_a_group_forgotten(tmp_path: Path) -> None:
    kept, calls.REMEMBERED = calls.REMEMBERED, 2
    try:
        async with Site(tmp_path) as site:
            await site.with_group()
            await site.api.CreateGroup(api.CreateGroupRequest(group_id="other"))
            delete = api.DeleteGroupRequest(name="groups/other", request_id="d")
            first = await site.api.DeleteGroup(delete)
            for number in range(4):
                await site.api.WriteVolume(
                    api.WriteVolumeRequest(name=VOLUME, zero_bytes=512, request_id=f"w{number}")
                )
            assert await site.api.DeleteGroup(delete) == first
    finally:
        calls.REMEMBERED = kept


@in_loop
async def test_log_of_an_impossible_size_is_refused(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        for size in (1, (64 << 20) - 1, (1 << 40) + 1, (1 << 63) - 1):
            for only in (False, True):
                request = api.CreateGroupRequest(
                    group_id="demo", log_bytes=size, validate_only=only
                )
                error = await refused(site.api.CreateGroup(request), Code.INVALID_ARGUMENT)
                assert "log_bytes" in error
        assert not site.node.groups


@in_loop
async def test_links_beyond_what_the_page_holds_are_refused_and_leave_nothing(
    tmp_path: Path,
) -> None:
    async with Site(tmp_path) as site:
        await site.with_group()
        for number in range(4):
            await site.with_link(f"127.0.0.1:{number + 2}", f"site-{number}")
        request = api.CreateLinkRequest(group=GROUP, link_id="more", endpoint="127.0.0.1:1")
        await refused(site.api.CreateLink(request), Code.FAILED_PRECONDITION)
        assert len(site.node.group("demo").database.links()) == 4
        # A slot is given out again only when its sender has let go of it.
        await site.api.DeleteLink(api.DeleteLinkRequest(name=f"{GROUP}/links/site-0"))
        await refused(site.api.CreateLink(request), Code.FAILED_PRECONDITION)
        for stopped in list(site.senders.dropped.values()):
            stopped()
        await site.api.CreateLink(request)


@in_loop
async def test_a_groups_slot_outlives_it_until_its_senders_let_go(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        for name in ("a", "b", "c"):
            await site.api.CreateGroup(api.CreateGroupRequest(group_id=name))
        await site.with_group()
        await site.with_link()
        await site.api.DeleteLink(api.DeleteLinkRequest(name=LINK))
        await site.api.DeleteGroup(api.DeleteGroupRequest(name=GROUP))
        more = api.CreateGroupRequest(group_id="more")
        text = await refused(site.api.CreateGroup(more), Code.FAILED_PRECONDITION)
        assert "holds" in text
        assert not (tmp_path / "groups" / "more").exists()
        for stopped in list(site.senders.dropped.values()):
            stopped()
        await site.api.CreateGroup(more)


# -- messages -------------------------------------------------------------------------------------


async def ready_to_send(site: Site) -> None:
    await site.with_group()
    await site.with_link()
    await site.api.RegisterApplication(
        api.PrimaryServiceRegisterApplicationRequest(group=GROUP, application="backup")
    )


@in_loop
async def test_a_message_is_placed_once_however_often_it_is_sent(tmp_path: Path) -> None:
    """C3."""
    async with Site(tmp_path) as site:
        await ready_to_send(site)
        request = api.SendMessageRequest(
            group=GROUP, application="backup", text="now", fence=True, request_id="r1"
        )
        first = (await site.api.SendMessage(request)).message
        assert first.fenced
        assert first.text == "now"
        await site.restart()
        assert (await site.api.SendMessage(request)).message.position == first.position
        got = (await site.api.GetMessage(api.GetMessageRequest(name=first.name))).message
        assert got.text == "now"
        assert [one.state for one in got.verdicts] == [common_pb2.VERDICT_STATE_QUEUED]
        listed = await site.api.ListMessages(api.PrimaryServiceListMessagesRequest(group=GROUP))
        assert [one.name for one in listed.messages] == [first.name]
        text = await refused(
            site.api.UnregisterApplication(
                api.PrimaryServiceUnregisterApplicationRequest(group=GROUP, application="backup")
            ),
            Code.FAILED_PRECONDITION,
        )
        assert "not final" in text


@pytest.mark.parametrize(
    ("fields", "code", "said"),
    [
        ({"application": "nobody"}, Code.NOT_FOUND, "nobody"),
        ({"data": bytes((128 << 10) + 1)}, Code.INVALID_ARGUMENT, "body"),
        ({"text": "é" * (64 << 10) + "x"}, Code.INVALID_ARGUMENT, "body"),
        ({"links": ["site-z"]}, Code.INVALID_ARGUMENT, "links"),
        ({"behaviour": 9}, Code.INVALID_ARGUMENT, "behaviour"),
        ({"snapshot_id": "s1"}, Code.INVALID_ARGUMENT, "snapshot_id"),
        ({"behaviour": 3, "snapshot_id": "No Label"}, Code.INVALID_ARGUMENT, "snapshot_id"),
        ({"task": "nightly"}, Code.INVALID_ARGUMENT, "tasks/<task>"),
        ({"request_id": "r" * 129}, Code.INVALID_ARGUMENT, "request_id"),
        ({"fence": True, "fence_timeout": 0}, Code.INVALID_ARGUMENT, "fence_timeout"),
        ({"fence": True, "fence_timeout": 3600}, Code.INVALID_ARGUMENT, "fence_timeout"),
        ({"fence_timeout": 1}, Code.INVALID_ARGUMENT, "Set fence"),
        ({"fence": False, "fence_timeout": 1}, Code.INVALID_ARGUMENT, "Set fence"),
        ({"behaviour": 2, "freeze_timeout": 1}, Code.INVALID_ARGUMENT, "freeze_timeout"),
        ({"application": "UPPER"}, Code.INVALID_ARGUMENT, "application"),
        ({"freeze_timeout": -1}, Code.INVALID_ARGUMENT, "freeze_timeout"),
        ({"group": "groups/nope"}, Code.NOT_FOUND, "nope"),
    ],
)
def test_a_message_that_cannot_be_is_refused_and_nothing_is_inserted(
    tmp_path: Path, fields: dict[str, Any], code: Code, said: str
) -> None:
    @in_loop
    async def run(path: Path) -> None:
        async with Site(path) as site:
            await ready_to_send(site)
            before = site.node.group("demo").writer.log.end
            given = {"group": GROUP, "application": "backup", **fields}
            seconds = {name: given.pop(name) for name in list(given) if name.endswith("_timeout")}
            request = api.SendMessageRequest(**given)
            for name, value in seconds.items():
                getattr(request, name).FromSeconds(value)
            assert said in await refused(site.api.SendMessage(request), code)
            assert site.node.group("demo").writer.log.end == before

    run(tmp_path)


@in_loop
async def test_an_unknown_message_is_not_found(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        await site.with_group()
        name = f"{GROUP}/messages/nope"
        await refused(site.api.GetMessage(api.GetMessageRequest(name=name)), Code.NOT_FOUND)
        watching = site.api.WatchMessage(api.WatchMessageRequest(name=name))
        await refused(watching.read(), Code.NOT_FOUND)


@in_loop
async def test_a_watched_message_ends_with_its_link(tmp_path: Path) -> None:
    """C16."""
    async with Site(tmp_path) as site:
        await ready_to_send(site)
        request = api.SendMessageRequest(group=GROUP, application="backup")
        name = (await site.api.SendMessage(request)).message.name
        watching = site.api.WatchMessage(api.WatchMessageRequest(name=name))
        first = (await watching.read()).message
        assert not first.final
        await site.api.DeleteLink(api.DeleteLinkRequest(name=LINK))
        last = (await watching.read()).message
        assert last.final
        assert last.verdicts[0].state == common_pb2.VERDICT_STATE_LINK_DETACHED
        assert await watching.read() is grpc.aio.EOF


@in_loop
async def test_names_are_registered_once_and_listed(tmp_path: Path) -> None:
    """C9."""
    async with Site(tmp_path) as site:
        await ready_to_send(site)
        request = api.PrimaryServiceRegisterApplicationRequest(group=GROUP, application="backup")
        await site.api.RegisterApplication(request)
        listing = api.PrimaryServiceListApplicationsRequest(group=GROUP)
        names = [one.application for one in (await site.api.ListApplications(listing)).applications]
        assert names == ["backup"]
        request.application = "Not A Label"
        text = await refused(site.api.RegisterApplication(request), Code.INVALID_ARGUMENT)
        assert "application" in text
        gone = api.PrimaryServiceUnregisterApplicationRequest(group=GROUP, application="backup")
        await site.api.UnregisterApplication(gone)
        await refused(site.api.UnregisterApplication(gone), Code.NOT_FOUND)


# -- looking --------------------------------------------------------------------------------------


@in_loop
async def test_the_log_is_read_typed(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        await site.with_group()
        position = await site.write(b"here")
        request = api.PrimaryServiceReadLogRequest(group=GROUP, first_lsn=position.lsn)
        answer = await site.api.ReadLog(request)
        assert answer.records[0].write.payload == b"here".ljust(512, b"\0")
        assert answer.previous.lsn == position.lsn - 1
        request.omit_payloads = True
        assert not (await site.api.ReadLog(request)).records[0].write.payload
        request.first_lsn = position.lsn + 1
        assert "first_lsn" in await refused(site.api.ReadLog(request), Code.OUT_OF_RANGE)
        request.max_records = -1
        assert "max_records" in await refused(site.api.ReadLog(request), Code.INVALID_ARGUMENT)


@in_loop
async def test_status_is_one_picture_of_everything(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        await ready_to_send(site)
        await site.api.SendMessage(api.SendMessageRequest(group=GROUP, application="backup"))
        status = (await site.api.GetStatus(api.PrimaryServiceGetStatusRequest(group=GROUP))).groups[
            0
        ]
        assert status.pending_messages == 1
        assert list(status.applications) == ["backup"]
        assert [one.name for one in status.links] == [LINK]
        assert [one.name for one in status.volumes] == [VOLUME]
        assert status.links[0].lag_bytes > 0
        request = api.PrimaryServiceGetStatusRequest(group="groups/nope")
        await refused(site.api.GetStatus(request), Code.NOT_FOUND)


@in_loop
async def test_events_of_one_group_are_watched(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        await ready_to_send(site)
        await site.api.CreateGroup(api.CreateGroupRequest(group_id="other"))
        watching = site.api.WatchEvents(api.PrimaryServiceWatchEventsRequest(group=GROUP))
        hub = site.node.events

        async def heard() -> bool:
            hub.publish("groups/other", "NOISE", "")
            hub.publish(GROUP, "NEWS", "")
            await asyncio.sleep(0.01)
            return bool(hub._subscriptions)

        await until(heard)
        hub.publish("groups/other", "NOISE", "")
        hub.publish(GROUP, "NEWS", "")
        event = (await watching.read()).event
        assert event.resource == GROUP
        watching.cancel()
