"""Clones over a real server: written over NBD, in the way of what they stand on."""

import asyncio
import errno
from pathlib import Path

import grpc
import pytest

from slackwater.errors import FailedPrecondition, NotFound
from slackwater.group.rows import CloneRow
from slackwater.nbd.client import Client
from slackwater.nbd.wire import CMD_FLAG_FAST_ZERO
from slackwater.v1 import resources_pb2
from slackwater.v1 import secondary_pb2 as api
from tests.unit.services.secondary.secondary_site import GROUP, SIZE, Site, in_loop, refused, until
from tests.unit.services.secondary.test_servicer import S1, frozen, read, snapshot

Code = grpc.StatusCode
C1 = f"{GROUP}/clones/c1"
DATA = f"{C1}/volumes/data"


async def clone(site: Site, *, validate_only: bool = False) -> resources_pb2.Clone:
    request = api.SecondaryServiceCreateCloneRequest(
        snapshot=S1, clone_id="c1", validate_only=validate_only
    )
    answer = await site.api.CreateClone(request)
    assert isinstance(answer, api.SecondaryServiceCreateCloneResponse)
    return answer.clone


async def clone_of_clone(site: Site, clone_id: str) -> resources_pb2.Clone:
    request = api.SecondaryServiceCreateCloneRequest(parent=C1, clone_id=clone_id)
    answer = await site.api.CreateClone(request)
    assert isinstance(answer, api.SecondaryServiceCreateCloneResponse)
    return answer.clone


async def export(site: Site) -> Client:
    answer = await site.api.ExportClone(api.SecondaryServiceExportCloneRequest(name=C1))
    assert answer.nbd_uris[0] == f"nbd://127.0.0.1:{site.nbd_address[1]}/{DATA}"
    return await asyncio.to_thread(Client, site.nbd_address, DATA)


def use(client: Client) -> bytes:
    """Write in every way; return what the volume should hold from the first byte changed on."""
    before = client.read(0, SIZE)
    shown = bytearray(before)
    client.write(512, b"w" * 1024, fua=True)
    shown[512:1536] = b"w" * 1024
    client.trim(4096, 512)
    client.zero(8192, 1024)
    shown[4096:4608], shown[8192:9216] = bytes(512), bytes(1024)
    with pytest.raises(OSError, match="not supported"):
        client.zero(512, 512, flags=CMD_FLAG_FAST_ZERO)
    client.flush()
    assert sum(extent.length for extent in client.block_status(0, SIZE)) == SIZE
    assert client.read(0, SIZE) == shown
    return bytes(shown)


@in_loop
async def test_clone_is_written_over_nbd_and_its_snapshot_never_changes(tmp_path: Path) -> None:
    async with frozen(tmp_path) as (site, _, _):
        await snapshot(site)
        before = await read(site, "data")
        planned = await clone(site, validate_only=True)
        assert (planned.name, planned.uid) == (C1, "")
        made = await clone(site)
        assert (made.name, made.snapshot, made.exported) == (C1, S1, False)
        assert made.state == resources_pb2.CLONE_STATE_READY
        client = await export(site)
        try:
            shown = await asyncio.to_thread(use, client)
        finally:
            await asyncio.to_thread(client.close)
        assert await read(site, "data") == before != shown
        get = api.SecondaryServiceGetCloneRequest(name=C1)
        row = (await site.api.GetClone(get)).clone
        assert row.exported and row.volumes[0].own_bytes > 0
        listed = api.SecondaryServiceListClonesRequest(group=GROUP)
        assert list((await site.api.ListClones(listed)).clones) == [row]
        assert DATA in {one.name for one in site.node.access.listing()}
        unexport = api.SecondaryServiceUnexportCloneRequest(name=C1)
        assert not (await site.api.UnexportClone(unexport)).clone.exported
        with pytest.raises(NotFound):
            await asyncio.to_thread(Client, site.nbd_address, DATA)
        client = await export(site)  # what was written stayed
        try:
            assert await asyncio.to_thread(client.read, 0, SIZE) == shown
        finally:
            await asyncio.to_thread(client.close)


@in_loop
async def test_cloned_snapshot_is_neither_deleted_nor_refreshed_unless_forced(
    tmp_path: Path,
) -> None:
    async with frozen(tmp_path) as (site, _, _):
        await snapshot(site)
        await clone(site)
        got = (await site.api.GetSnapshot(api.GetSnapshotRequest(name=S1))).snapshot
        assert list(got.clones) == [C1]
        delete = api.SecondaryServiceDeleteSnapshotRequest(name=S1)
        error = await refused(site.api.DeleteSnapshot(delete), Code.FAILED_PRECONDITION)
        assert "slackwater snapshot clone delete demo c1" in str(error)
        refresh = api.SecondaryServiceRefreshSnapshotRequest(name=S1)
        await refused(site.api.RefreshSnapshot(refresh), Code.FAILED_PRECONDITION)
        client = await export(site)
        try:
            delete.force = delete.validate_only = True
            planned = (await site.api.DeleteSnapshot(delete)).losses
            assert "clone 'c1'" in planned[1] and "exported now" in planned[1]
            assert site.nbd.export_names()
            delete.validate_only = False
            assert len((await site.api.DeleteSnapshot(delete)).losses) == 2
            await until(lambda: not site.nbd.export_names())
        finally:
            await asyncio.to_thread(client.close)
        get = api.SecondaryServiceGetCloneRequest(name=C1)
        await refused(site.api.GetClone(get), Code.NOT_FOUND)
        await refused(site.api.GetSnapshot(api.GetSnapshotRequest(name=S1)), Code.NOT_FOUND)


@in_loop
async def test_clone_is_refused_what_makes_no_sense_and_exported_ones_stay(tmp_path: Path) -> None:
    async with frozen(tmp_path) as (site, _, _):
        create = api.SecondaryServiceCreateCloneRequest(snapshot=S1, clone_id="c1")
        await refused(site.api.CreateClone(create), Code.NOT_FOUND)
        await snapshot(site)
        create.request_id = "r"
        first = await site.api.CreateClone(create)
        assert await site.api.CreateClone(create) == first
        create.request_id = ""
        await refused(site.api.CreateClone(create), Code.ALREADY_EXISTS)
        create.clone_id = "No Label"
        await refused(site.api.CreateClone(create), Code.INVALID_ARGUMENT)
        client = await export(site)
        await asyncio.to_thread(client.close)
        delete = api.SecondaryServiceDeleteCloneRequest(name=C1, validate_only=True)
        assert len((await site.api.DeleteClone(delete)).losses) == 2
        delete.validate_only = False
        await refused(site.api.DeleteClone(delete), Code.FAILED_PRECONDITION)
        delete.force = True
        assert "its export ends" in (await site.api.DeleteClone(delete)).losses[1]
        await refused(site.api.DeleteClone(delete), Code.NOT_FOUND)
        await clone(site)  # its name is free


@in_loop
async def test_snapshot_stays_while_a_clone_of_it_comes_even_if_forced(tmp_path: Path) -> None:
    async with frozen(tmp_path) as (site, _, _):
        await snapshot(site)
        replica = site.group().replica
        make, refusals = replica.clones.make_files, []

        def interrupted(row: CloneRow) -> None:
            with pytest.raises(FailedPrecondition) as caught:
                replica.delete_snapshot("s1", force=True)
            refusals.append(caught.value.reason)
            make(row)

        replica.clones.make_files = interrupted  # type: ignore[method-assign]
        made = await clone(site)
        assert refusals == ["CLONE_COMES"]
        assert made.state == resources_pb2.CLONE_STATE_READY
        client = await export(site)
        await asyncio.to_thread(client.close)


@in_loop
async def test_clone_whose_files_cannot_be_removed_now_holds_its_snapshot_no_longer(
    tmp_path: Path,
) -> None:
    async with frozen(tmp_path) as (site, _, _):
        await snapshot(site)
        await clone(site)
        replica = site.group().replica

        def stuck(row: CloneRow) -> None:
            raise OSError(errno.EIO, f"Input/output error: {row.name}")

        replica.clones.remove_files = stuck  # type: ignore[method-assign]
        await site.api.DeleteClone(api.SecondaryServiceDeleteCloneRequest(name=C1))
        got = (await site.api.GetSnapshot(api.GetSnapshotRequest(name=S1))).snapshot
        assert not got.clones
        await site.api.DeleteSnapshot(api.SecondaryServiceDeleteSnapshotRequest(name=S1))
        await site.restart(clean=False)
        assert site.group().replica.clones.ready() == []
        assert list(tmp_path.rglob("*.bits")) == [], "what was left went at the start"


@in_loop
async def test_clone_of_a_clone_has_what_a_connected_writer_was_answered_and_outlives_it(
    tmp_path: Path,
) -> None:
    async with frozen(tmp_path) as (site, _, _):
        await snapshot(site)
        await clone(site)
        client = await export(site)
        try:
            await asyncio.to_thread(client.write, 512, b"a" * 512)
            made = await clone_of_clone(site, "c2")
            assert (made.parent, made.snapshot, made.layers) == (C1, S1, 1)
            assert made.volumes[0].own_bytes == 0 < made.volumes[0].shared_bytes
            await asyncio.to_thread(client.write, 512, b"b" * 512)
            assert await asyncio.to_thread(client.read, 512, 512) == b"b" * 512
            replica = site.group().replica
            assert replica.open_clone_volume("c2", "data").read(512, 512) == b"a" * 512
        finally:
            await asyncio.to_thread(client.close)
        got = (await site.api.GetSnapshot(api.GetSnapshotRequest(name=S1))).snapshot
        assert list(got.clones) == [C1, f"{GROUP}/clones/c2"]
        await site.api.DeleteClone(api.SecondaryServiceDeleteCloneRequest(name=C1, force=True))
        get = api.SecondaryServiceGetCloneRequest(name=f"{GROUP}/clones/c2")
        left = (await site.api.GetClone(get)).clone
        assert (left.parent, left.volumes[0].shared_bytes) == ("", 0)
        assert left.volumes[0].own_bytes > 0
        assert replica.open_clone_volume("c2", "data").read(512, 512) == b"a" * 512
        delete = api.SecondaryServiceDeleteSnapshotRequest(name=S1, force=True)
        assert "clone 'c2'" in (await site.api.DeleteSnapshot(delete)).losses[1]
        await refused(site.api.GetClone(get), Code.NOT_FOUND)


@in_loop
async def test_clone_of_a_clone_is_refused_what_makes_no_sense(tmp_path: Path) -> None:
    async with frozen(tmp_path) as (site, _, _):
        await snapshot(site)
        create = api.SecondaryServiceCreateCloneRequest(parent=C1, clone_id="c2")
        await refused(site.api.CreateClone(create), Code.NOT_FOUND)
        await clone(site)
        create.snapshot = S1
        await refused(site.api.CreateClone(create), Code.INVALID_ARGUMENT)
        create.snapshot, create.parent = "", ""
        await refused(site.api.CreateClone(create), Code.INVALID_ARGUMENT)
        create.parent, create.clone_id = C1, "c1"
        await refused(site.api.CreateClone(create), Code.ALREADY_EXISTS)
        create.clone_id, create.validate_only = "c2", True
        assert (await site.api.CreateClone(create)).clone.parent == C1
        listed = api.SecondaryServiceListClonesRequest(group=GROUP)
        assert len((await site.api.ListClones(listed)).clones) == 1
