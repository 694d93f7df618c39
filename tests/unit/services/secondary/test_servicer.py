"""SecondaryService over a real server and real replicas."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from slackwater.errors import NotFound
from slackwater.nbd.client import Client
from slackwater.nbd.wire import ProtocolError
from slackwater.v1 import common_pb2, resources_pb2
from slackwater.v1 import secondary_pb2 as api
from tests.unit.apply.stream import APPLICATION, Stream
from tests.unit.services.secondary.secondary_site import (
    GROUP,
    SIZE,
    PrimaryEnd,
    Site,
    in_loop,
    refused,
    two_volumes,
    until,
)

Code = grpc.StatusCode
M1 = f"{GROUP}/messages/m1"
S1 = f"{GROUP}/snapshots/s1"


@asynccontextmanager
async def frozen(
    path: Path, lease_grace: float = 5.0
) -> AsyncIterator[tuple[Site, PrimaryEnd, Stream]]:
    """A site that stands at message m1, with something written after it."""
    stream = two_volumes()
    stream.message("m1", text="now")
    stream.write(1, 0, b"after the message" * 100)
    async with Site(path, lease_grace) as site, PrimaryEnd(site) as primary:
        await primary.hello()
        site.register()
        await primary.replicate(stream)
        await primary.until_ack(stream.position.lsn)
        await until(lambda: site.group().replica.freeze() is not None)
        yield site, primary, stream


def receive(**fields: Any) -> api.ReceiveMessageRequest:
    wait = fields.pop("wait", 0)
    request = api.ReceiveMessageRequest(group=GROUP, application=APPLICATION, **fields)
    request.wait_timeout.FromSeconds(wait)
    return request


async def snapshot(site: Site, name: str = "s1", **fields: Any) -> resources_pb2.Snapshot:
    request = api.CreateSnapshotRequest(group=GROUP, snapshot_id=name, **fields)
    answer = await site.api.CreateSnapshot(request)
    assert isinstance(answer, api.CreateSnapshotResponse)
    return answer.snapshot


async def read(site: Site, volume: str, name: str = S1, size: int = SIZE) -> bytes:
    request = api.ReadSnapshotRequest(name=name, volume=volume, length=size)
    answer = await site.api.ReadSnapshot(request)
    assert isinstance(answer.data, bytes)
    return answer.data


# ---- messages


@in_loop
async def test_receiver_gets_the_message_and_the_unfreeze_lets_applying_go_on(
    tmp_path: Path,
) -> None:
    async with frozen(tmp_path) as (site, _, stream):
        got = (await site.api.ReceiveMessage(receive(holder="me"))).message
        assert (got.name, got.text, got.redelivered) == (M1, "now", False)
        assert got.remaining.seconds > 500
        replica = (await site.api.GetReplica(api.GetReplicaRequest(name=GROUP))).replica
        assert replica.state == common_pb2.REPLICA_STATE_FROZEN
        assert replica.applied == got.position and replica.durable.lsn == stream.position.lsn
        assert replica.freeze.holder == "me"
        assert replica.freeze.phase == resources_pb2.Freeze.PHASE_FROZEN
        assert replica.freeze.next_command == f"slackwater ibc unfreeze {M1}"
        assert replica.freeze.backlog_bytes == replica.backlog_bytes > 0
        assert replica.freeze.deadline.seconds > replica.freeze.since.seconds
        ended = await site.api.Unfreeze(api.UnfreezeRequest(message=M1, by="me", request_id="u"))
        assert ended.position == got.position and ended.frozen_for.ToNanoseconds() > 0
        again = await site.api.Unfreeze(api.UnfreezeRequest(message=M1, by="me", request_id="u"))
        assert again == ended
        await until(lambda: site.group().replica.applied == stream.position)


@in_loop
async def test_message_that_waits_shows_the_command_that_moves_it_on(tmp_path: Path) -> None:
    stream = two_volumes()
    stream.message("m1")
    async with Site(tmp_path) as site, PrimaryEnd(site) as primary:
        await primary.hello()
        await primary.replicate(stream)
        await until(lambda: site.group().replica.freeze() is not None)
        get = api.GetReplicaRequest(name=GROUP)
        freeze = (await site.api.GetReplica(get)).replica.freeze
        assert freeze.phase == resources_pb2.Freeze.PHASE_UNREGISTERED
        assert freeze.next_command == f"slackwater ibc register demo {APPLICATION}"
        request = api.SecondaryServiceRegisterApplicationRequest(
            group=GROUP, application=APPLICATION
        )
        await site.api.RegisterApplication(request)
        freeze = (await site.api.GetReplica(get)).replica.freeze
        assert freeze.phase == resources_pb2.Freeze.PHASE_AWAITING_RECEIVER
        assert freeze.next_command == f"slackwater ibc receive demo {APPLICATION} --wait 60s"
        said = await refused(
            site.api.Unfreeze(api.UnfreezeRequest(message=M1)), Code.FAILED_PRECONDITION
        )
        assert "received" in said


@in_loop
async def test_second_unfreeze_says_how_the_freeze_ended_even_after_a_restart(
    tmp_path: Path,
) -> None:
    async with frozen(tmp_path) as (site, _, _):
        await site.api.ReceiveMessage(receive(holder="me"))
        await site.api.Unfreeze(api.UnfreezeRequest(message=M1, by="me"))
        for _ in range(2):
            call = site.api.Unfreeze(api.UnfreezeRequest(message=M1))
            assert "UNFROZEN by me" in await refused(call, Code.FAILED_PRECONDITION)
            await site.restart()
        call = site.api.Unfreeze(api.UnfreezeRequest(message=f"{GROUP}/messages/none"))
        assert "none" in await refused(call, Code.FAILED_PRECONDITION)


@in_loop
async def test_frozen_survives_a_restart_and_the_message_is_delivered_again(
    tmp_path: Path,
) -> None:
    async with frozen(tmp_path) as (site, _, _):
        first = (await site.api.ReceiveMessage(receive(holder="me"))).message
        for clean in (False, True):
            await site.restart(clean=clean)
            await until(lambda: site.group().replica.freeze() is not None)
            got = (await site.api.ReceiveMessage(receive(holder="other", wait=5))).message
            assert got.name == first.name and got.redelivered  # C14, C15
            assert site.group().replica.applied.lsn == first.position.lsn


@in_loop
async def test_waiting_receive_is_answered_when_the_message_comes(tmp_path: Path) -> None:
    stream = two_volumes()
    async with Site(tmp_path) as site, PrimaryEnd(site) as primary:
        await primary.hello()
        site.register()
        waiting = asyncio.ensure_future(site.api.ReceiveMessage(receive(wait=30)))
        nothing = await site.api.ReceiveMessage(receive(wait=0))
        assert not nothing.HasField("message")
        stream.message("m1")
        await primary.replicate(stream)
        assert (await waiting).message.name == M1


@in_loop
async def test_receive_whose_caller_is_gone_takes_nothing(tmp_path: Path) -> None:
    stream = two_volumes()
    async with Site(tmp_path) as site, PrimaryEnd(site) as primary:
        await primary.hello()
        site.register()
        gone = site.api.ReceiveMessage(receive(wait=30, holder="gone"))
        receivers = site.group().replica.messages.delivery._receivers
        await until(lambda: len(receivers) == 1)
        gone.cancel()
        await until(lambda: not receivers)
        stream.message("m1")
        await primary.replicate(stream)
        got = await site.api.ReceiveMessage(receive(wait=30, holder="next"))
        assert got.message.name == M1 and not got.message.redelivered


@in_loop
async def test_stop_receive_and_drain_end_waiting_calls(tmp_path: Path) -> None:
    async with Site(tmp_path) as site, PrimaryEnd(site) as primary:
        await primary.hello()
        site.register()
        receivers = site.group().replica.messages.delivery._receivers
        waiting = asyncio.ensure_future(site.api.ReceiveMessage(receive(wait=30)))
        await until(lambda: len(receivers) == 1)
        stop = api.StopReceiveRequest(group=GROUP, application=APPLICATION)
        assert (await site.api.StopReceive(stop)).stopped == 1
        await refused(waiting, Code.CANCELLED)
        waiting = asyncio.ensure_future(site.api.ReceiveMessage(receive(wait=3600)))
        await until(lambda: len(receivers) == 1)
        await site.node.drain()
        await refused(waiting, Code.UNAVAILABLE)


@in_loop
async def test_messages_are_listed_newest_first_in_pages_without_bodies(tmp_path: Path) -> None:
    stream = two_volumes()
    for number in range(5):
        stream.message(f"m{number}", common_pb2.MESSAGE_BEHAVIOUR_NOTIFY, text="hello")
    stream.message("stands")
    async with Site(tmp_path) as site, PrimaryEnd(site) as primary:
        await primary.hello()
        site.register()
        await primary.replicate(stream)
        await until(lambda: site.group().replica.freeze() is not None)
        request = api.SecondaryServiceListMessagesRequest(group=GROUP, page_size=4)
        first = await site.api.ListMessages(request)
        request.page_token = first.next_page_token
        second = await site.api.ListMessages(request)
        assert not second.next_page_token
        shown = [*first.messages, *second.messages]
        assert [one.name.split("/")[-1] for one in shown] == [
            "stands", "m4", "m3", "m2", "m1", "m0",
        ]  # fmt: skip
        assert [one.final for one in shown] == [False] + [True] * 5
        assert shown[1].verdicts[0].state == common_pb2.VERDICT_STATE_NOTIFIED
        assert shown[1].WhichOneof("body") is None and shown[1].body_bytes == 5
        pending = api.SecondaryServiceListMessagesRequest(group=GROUP, pending_only=True)
        listed = (await site.api.ListMessages(pending)).messages
        assert [one.name for one in listed] == [f"{GROUP}/messages/stands"]


@in_loop
async def test_name_with_a_pending_message_cannot_be_unregistered(tmp_path: Path) -> None:
    async with frozen(tmp_path) as (site, _, _):
        request = api.SecondaryServiceUnregisterApplicationRequest(
            group=GROUP, application=APPLICATION, request_id="x"
        )
        await refused(site.api.UnregisterApplication(request), Code.FAILED_PRECONDITION)  # C9
        await site.api.ReceiveMessage(receive())
        await site.api.Unfreeze(api.UnfreezeRequest(message=M1))
        await site.api.UnregisterApplication(request)
        await site.api.UnregisterApplication(request)  # repeated: the first answer
        listed = await site.api.ListApplications(
            api.SecondaryServiceListApplicationsRequest(group=GROUP)
        )
        assert not listed.applications
        await refused(site.api.ReceiveMessage(receive()), Code.NOT_FOUND)


# ---- snapshots


@in_loop
async def test_snapshot_at_the_message_keeps_exactly_that_point(tmp_path: Path) -> None:
    async with frozen(tmp_path) as (site, primary, stream):
        await site.api.ReceiveMessage(receive())
        planned = await snapshot(site, at_message=M1, validate_only=True)
        assert planned.name == S1 and not site.group().replica.snapshots()
        made = await snapshot(site, at_message=M1, request_id="r")
        assert (made.message, made.grade) == (M1, common_pb2.SNAPSHOT_GRADE_CRASH)
        assert made.grade_reason == "nothing was quiesced" and made.create_duration.nanos > 0
        assert await snapshot(site, at_message=M1, request_id="r") == made
        await site.api.Unfreeze(api.UnfreezeRequest(message=M1))
        await until(lambda: site.group().replica.applied == stream.position)
        at = stream.states[made.position.lsn]
        assert {1: await read(site, "data"), 2: await read(site, "wal")} == at
        assert (
            (await site.api.GetSnapshot(api.GetSnapshotRequest(name=S1)))
            .snapshot.volumes[0]
            .preserved_bytes
        )
        call = snapshot(site, "late", at_message=M1)
        assert "does not stand" in await refused(call, Code.FAILED_PRECONDITION)  # C12
        await refused(snapshot(site), Code.ALREADY_EXISTS)
        del primary


@in_loop
async def test_snapshots_are_listed_newest_first_in_pages(tmp_path: Path) -> None:
    async with frozen(tmp_path) as (site, _, _):
        for name in ("s1", "s2", "s3"):
            await snapshot(site, name)
        request = api.SecondaryServiceListSnapshotsRequest(group=GROUP, page_size=2)
        first = await site.api.ListSnapshots(request)
        request.page_token = first.next_page_token
        second = await site.api.ListSnapshots(request)
        names = [one.name.split("/")[-1] for one in (*first.snapshots, *second.snapshots)]
        assert names == ["s3", "s2", "s1"] and not second.next_page_token


@in_loop
async def test_exported_snapshot_is_served_and_cannot_be_deleted_until_it_is_not(
    tmp_path: Path,
) -> None:
    async with frozen(tmp_path) as (site, _, stream):
        made = await snapshot(site)
        export = f"{S1}/volumes/data"
        with pytest.raises(NotFound):
            await asyncio.to_thread(Client, site.nbd_address, export)
        answer = await site.api.ExportSnapshot(api.SecondaryServiceExportSnapshotRequest(name=S1))
        assert answer.snapshot.volumes[0].export_name == export
        assert answer.nbd_uris[0] == f"nbd://127.0.0.1:{site.nbd_address[1]}/{export}"
        client = await asyncio.to_thread(Client, site.nbd_address, export)
        try:
            data = await asyncio.to_thread(client.read, 0, SIZE)
            assert data == stream.states[made.position.lsn][1]
            delete = api.SecondaryServiceDeleteSnapshotRequest(name=S1, validate_only=True)
            assert len((await site.api.DeleteSnapshot(delete)).losses) == 2
            delete.validate_only = False
            await refused(site.api.DeleteSnapshot(delete), Code.FAILED_PRECONDITION)
            unexport = api.SecondaryServiceUnexportSnapshotRequest(name=S1)
            assert not (await site.api.UnexportSnapshot(unexport)).snapshot.exported
            await until(lambda: not site.nbd.export_names())
        finally:
            await asyncio.to_thread(client.close)
        assert (await site.api.DeleteSnapshot(delete)).losses
        await refused(site.api.GetSnapshot(api.GetSnapshotRequest(name=S1)), Code.NOT_FOUND)


@in_loop
async def test_forced_delete_says_that_the_export_ends_and_ends_it(tmp_path: Path) -> None:
    async with frozen(tmp_path) as (site, _, _):
        await snapshot(site)
        await site.api.ExportSnapshot(api.SecondaryServiceExportSnapshotRequest(name=S1))
        client = await asyncio.to_thread(Client, site.nbd_address, f"{S1}/volumes/data")
        try:
            delete = api.SecondaryServiceDeleteSnapshotRequest(
                name=S1, validate_only=True, force=True
            )
            planned = (await site.api.DeleteSnapshot(delete)).losses
            assert "its export ends" in planned[1]
            assert site.nbd.export_names()
            delete.validate_only = False
            assert (await site.api.DeleteSnapshot(delete)).losses == planned
            await until(lambda: not site.nbd.export_names())
        finally:
            await asyncio.to_thread(client.close)
        await refused(site.api.GetSnapshot(api.GetSnapshotRequest(name=S1)), Code.NOT_FOUND)


@in_loop
async def test_refreshed_snapshot_has_the_name_once_also_when_asked_again(tmp_path: Path) -> None:
    async with frozen(tmp_path) as (site, _, _):
        made = await snapshot(site)
        refresh = api.SecondaryServiceRefreshSnapshotRequest(name=S1, validate_only=True)
        planned = await site.api.RefreshSnapshot(refresh)
        assert "s1" in planned.losses[0] and not planned.HasField("snapshot")
        refresh.validate_only, refresh.request_id = False, "r"
        first = await site.api.RefreshSnapshot(refresh)
        again = await site.api.RefreshSnapshot(refresh)
        assert first == again and first.losses == planned.losses
        assert first.snapshot.name == S1 and first.snapshot.uid != made.uid
        listed = api.SecondaryServiceListSnapshotsRequest(group=GROUP)
        assert [one.uid for one in (await site.api.ListSnapshots(listed)).snapshots] == [
            first.snapshot.uid
        ]
        refresh.request_id, refresh.at_message = "", "groups/other/messages/m"
        await refused(site.api.RefreshSnapshot(refresh), Code.INVALID_ARGUMENT)
        refresh.name, refresh.at_message = f"{GROUP}/snapshots/none", ""
        await refused(site.api.RefreshSnapshot(refresh), Code.NOT_FOUND)


@in_loop
async def test_live_volume_is_read_only_and_says_when_it_is_stable(tmp_path: Path) -> None:
    async with frozen(tmp_path) as (site, _, stream):
        name = f"{GROUP}/volumes/data"
        listed = {one.name: one.description for one in site.node.access.listing()}
        assert "stable only while the replica is frozen" in listed[name]
        client = await asyncio.to_thread(Client, site.nbd_address, name)
        try:
            at = site.group().replica.applied.lsn
            assert await asyncio.to_thread(client.read, 0, SIZE) == stream.states[at][1]
            with pytest.raises((OSError, ProtocolError)):
                await asyncio.to_thread(client.write, 0, b"x" * 512)
        finally:
            await asyncio.to_thread(client.close)


# ---- replicas


@in_loop
async def test_replica_is_deleted_only_when_nobody_needs_it(tmp_path: Path) -> None:
    request = api.DeleteReplicaRequest(name=GROUP, validate_only=True)
    async with frozen(tmp_path) as (site, primary, _):
        await refused(site.api.DeleteReplica(request), Code.FAILED_PRECONDITION)
        primary.call.cancel()
        await until(lambda: not site.group().is_connected and site.group().stream is None)
        losses = (await site.api.DeleteReplica(request)).losses
        assert any("'data'" in one for one in losses) and site.group()
        request.validate_only, request.request_id = False, "once"
        deleted = await site.api.DeleteReplica(request)
        assert deleted == await site.api.DeleteReplica(request)
        assert not (tmp_path / "groups" / "demo").exists()
        await refused(site.api.GetReplica(api.GetReplicaRequest(name=GROUP)), Code.NOT_FOUND)
        async with PrimaryEnd(site) as again:
            assert (await again.hello()).durable.lsn == 0


@in_loop
async def test_corrupt_group_is_shown_and_touches_no_other(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        async with PrimaryEnd(site) as primary:
            await primary.hello()
        await site.stop()
        (tmp_path / "groups" / "bad").mkdir()
        (tmp_path / "groups" / "bad" / "group.db").write_bytes(b"no database" * 100)
        await site.start()
        status = await site.api.GetStatus(api.SecondaryServiceGetStatusRequest())
        shown = {one.name: one.state for one in status.replicas}
        assert shown == {
            "groups/bad": common_pb2.REPLICA_STATE_FAILED,
            GROUP: common_pb2.REPLICA_STATE_CONSISTENT,
        }
        assert status.nbd_uris and status.version
        replicas = await site.api.ListReplicas(api.ListReplicasRequest(page_size=1))
        assert replicas.replicas[0].state_reason and replicas.next_page_token == "bad"
        call = site.api.ListMessages(api.SecondaryServiceListMessagesRequest(group="groups/bad"))
        await refused(call, Code.FAILED_PRECONDITION)


@in_loop
async def test_events_tell_of_freezes_snapshots_and_verdicts(tmp_path: Path) -> None:
    async with Site(tmp_path) as site, PrimaryEnd(site) as primary:
        watch = site.api.WatchEvents(api.SecondaryServiceWatchEventsRequest(group=GROUP))
        await until(lambda: bool(site.node.events._subscriptions))
        await primary.hello()
        site.register()
        stream = two_volumes()
        stream.message("m1")
        await primary.replicate(stream)
        await until(lambda: site.group().replica.freeze() is not None)
        await snapshot(site)
        seen: set[str] = set()
        wanted = {"REPLICA_CREATED", "STREAM_OPENED", "REPLICA_STATE_CHANGED", "SNAPSHOT_CREATED"}
        while not wanted <= seen:
            seen.add((await watch.read()).event.kind)
        watch.cancel()


@in_loop
async def test_log_is_shown_as_typed_records(tmp_path: Path) -> None:
    async with frozen(tmp_path) as (site, _, stream):
        request = api.SecondaryServiceReadLogRequest(group=GROUP, omit_payloads=True)
        answer = await site.api.ReadLog(request)
        assert [one.lsn for one in answer.records] == list(range(1, stream.position.lsn + 1))
        assert answer.records[5].ibc_message.text == "now"
        assert not answer.records[3].write.payload and answer.previous.lsn == 0
        request.first_lsn = 999
        await refused(site.api.ReadLog(request), Code.OUT_OF_RANGE)


# ---- what is refused


@in_loop
async def test_bad_input_names_the_field_and_changes_nothing(tmp_path: Path) -> None:
    async with frozen(tmp_path) as (site, _, _):
        bad: list[tuple[Any, str]] = [
            (site.api.GetReplica(api.GetReplicaRequest(name="demo")), "name"),
            (site.api.ReceiveMessage(receive(wait=3601)), "wait_timeout"),
            (site.api.ReceiveMessage(receive(wait=-1)), "wait_timeout"),
            (site.api.ReceiveMessage(receive(holder="x" * 300)), "holder"),
            (site.api.ReceiveMessage(receive(request_id="x" * 300)), "request_id"),
            (site.api.Unfreeze(api.UnfreezeRequest(message="m1")), "message"),
            (snapshot(site, "BAD"), "snapshot_id"),
            (snapshot(site, chunk_bytes=5000), "chunk_bytes"),
            (snapshot(site, at_message="groups/other/messages/m1"), "at_message"),
            (site.api.ListReplicas(api.ListReplicasRequest(page_size=-1)), "page_size"),
            (
                site.api.ListMessages(
                    api.SecondaryServiceListMessagesRequest(group=GROUP, page_token="?")
                ),
                "page_token",
            ),
            (
                site.api.ReadLog(api.SecondaryServiceReadLogRequest(group=GROUP, max_records=-1)),
                "max_records",
            ),
        ]
        for call, field in bad:
            assert (await refused(call, Code.INVALID_ARGUMENT)).startswith(f"{field}:")
        await snapshot(site)
        await refused(read(site, "data", size=0), Code.INVALID_ARGUMENT)
        await refused(read(site, "gone"), Code.NOT_FOUND)
        request = api.ReadSnapshotRequest(name=S1, volume="data", offset=SIZE, length=1)
        await refused(site.api.ReadSnapshot(request), Code.OUT_OF_RANGE)
        assert site.group().replica.freeze() is not None


@in_loop
async def test_differences_are_told_volume_by_volume_to_their_ends(tmp_path: Path) -> None:
    async with frozen(tmp_path) as (site, _, stream):
        await snapshot(site)
        await site.api.ReceiveMessage(receive(holder="me"))
        await site.api.Unfreeze(api.UnfreezeRequest(message=M1, by="me", request_id="u"))
        await until(lambda: site.group().replica.applied == stream.position)
        await snapshot(site, "s2")
        s2 = f"{GROUP}/snapshots/s2"
        for newer in (s2, ""):
            request = api.DiffSnapshotsRequest(older=S1, newer=newer, page_size=1)
            parts = [part async for part in site.api.DiffSnapshots(request)]
            assert {part.volume for part in parts} == {"data", "wal"}
            last = {part.volume: part for part in parts}
            assert all(part.next_offset == part.volume_bytes for part in last.values())
            ranges = [one for part in parts for one in part.ranges]
            assert {one.volume for one in ranges} == {"data"}
            assert (ranges[0].offset, ranges[0].zero) == (0, False)
        for fields in (
            {},
            {"older": s2, "newer": S1},
            {"older": S1, "newer": "groups/other/snapshots/s1"},
            {"older": S1, "offset": 1},
            {"older": S1, "page_size": -1},
        ):
            bad = api.DiffSnapshotsRequest(**fields)
            await refused(site.api.DiffSnapshots(bad).read(), Code.INVALID_ARGUMENT)
        gone = api.DiffSnapshotsRequest(older=f"{GROUP}/snapshots/gone")
        await refused(site.api.DiffSnapshots(gone).read(), Code.NOT_FOUND)


@in_loop
async def test_what_a_later_release_brings_is_unimplemented_and_says_what_to_do(
    tmp_path: Path,
) -> None:
    async with Site(tmp_path) as site:
        for call in (
            site.api.Promote(api.PromoteRequest(name=GROUP)),
            site.api.MirrorReplica(api.MirrorReplicaRequest(group=GROUP)).read(),
        ):
            assert "later release" in await refused(call, Code.UNIMPLEMENTED)
