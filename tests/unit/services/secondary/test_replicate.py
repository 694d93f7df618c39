"""The Replicate call over a real server, driven by hand."""

import asyncio
import threading
import uuid
from pathlib import Path

import grpc
import pytest

from services.secondary import translate
from services.secondary.replication import ReplicateStream
from slackwater import errors, record
from slackwater.apply.status import ReplicaState
from slackwater.clock import SystemClock
from slackwater.group.directory import DataDirectory
from slackwater.group.opening import GroupSettings, create_group
from slackwater.link.receiver_actions import HelloInfo
from slackwater.link.wire import from_wire, to_wire
from slackwater.position import LogPoint, Position, origin
from slackwater.runtime import roles
from slackwater.storage.real import RealStorage
from slackwater.v1 import common_pb2, replication_pb2
from tests.unit.apply.stream import SETTINGS, UID, Stream, live
from tests.unit.services.secondary.secondary_site import (
    GROUP,
    SECONDS,
    SIZE,
    PrimaryEnd,
    Site,
    in_loop,
    refused,
    two_volumes,
    until,
)

Reject = replication_pb2.Reject


@in_loop
async def test_hello_makes_a_replica_and_appends_are_acked_durable_and_applied(
    tmp_path: Path,
) -> None:
    stream = two_volumes()
    async with Site(tmp_path) as site, PrimaryEnd(site) as primary:
        welcome = await primary.hello()
        assert from_wire(welcome.durable) == origin(UID)
        assert set(welcome.kinds) == record.KNOWN_KINDS
        await primary.replicate(stream)
        ack = await primary.until_ack(stream.position.lsn, applied=True)
        replica = site.group().replica
        assert from_wire(ack.durable) == stream.position == replica.durable
        assert live(replica) == stream.states[stream.position.lsn]
        assert site.group().is_connected and site.group().is_healthy


@in_loop
async def test_ack_never_claims_what_is_not_synced(tmp_path: Path) -> None:
    stream = two_volumes()
    async with Site(tmp_path) as site, PrimaryEnd(site) as primary:
        await primary.hello()
        group = site.group()
        synced = group.replica.durable.lsn
        sync = group.replica.receiver.log.sync

        def slow_sync() -> object:
            nonlocal synced
            point = sync()
            synced = point.position.lsn
            return point

        group.replica.receiver.log.sync = slow_sync  # type: ignore[assignment, method-assign]
        for _ in range(40):
            stream.write(1, 0, b"x" * 512)
            await primary.replicate(stream)
            ack = await primary.until_ack(stream.position.lsn)
            assert ack.durable.lsn <= synced


@in_loop
async def test_idle_stream_shows_a_sign_of_life(tmp_path: Path) -> None:
    async with Site(tmp_path) as site, PrimaryEnd(site) as primary:
        await primary.hello()
        ack = (await primary.until("ack")).ack
        assert ack.replica_state == common_pb2.REPLICA_STATE_CONSISTENT


@in_loop
async def test_gap_is_rejected_with_what_was_expected_and_the_stream_lives_on(
    tmp_path: Path,
) -> None:
    stream = two_volumes()
    async with Site(tmp_path) as site, PrimaryEnd(site) as primary:
        await primary.hello()
        await primary.replicate(stream, 2)
        here = stream.records[1][1]
        await primary.append(stream.records[2][1], stream.run_after(3))
        reject = (await primary.until("reject")).reject
        assert reject.reason == Reject.REASON_GAP
        assert from_wire(reject.expected) == here
        await primary.replicate(stream)
        await primary.until_ack(stream.position.lsn)


@in_loop
async def test_append_of_another_history_is_rejected_as_diverged(tmp_path: Path) -> None:
    stream, other = two_volumes(), two_volumes()
    async with Site(tmp_path) as site, PrimaryEnd(site) as primary:
        await primary.hello()
        await primary.replicate(stream)
        stream.write(1, 0, b"ours")
        other.write(1, 0, b"theirs")
        await primary.replicate(stream)
        await primary.until_ack(stream.position.lsn)
        before = other.position
        other.write(1, 0, b"more of theirs")
        await primary.append(before, other.run_after(before.lsn))
        reject = (await primary.until("reject")).reject
        assert reject.reason == Reject.REASON_DIVERGED
        assert from_wire(reject.expected) == stream.position
        assert site.group().replica.durable == stream.position


@in_loop
async def test_damaged_record_is_rejected_and_nothing_of_it_is_kept(tmp_path: Path) -> None:
    stream = two_volumes()
    async with Site(tmp_path) as site, PrimaryEnd(site) as primary:
        await primary.hello()
        run = bytearray(stream.run_after(0))
        run[-1] ^= 1
        await primary.append(origin(UID), bytes(run))
        assert (await primary.until("reject")).reject.reason == Reject.REASON_CORRUPT
        assert site.group().replica.durable == origin(UID)
        await primary.replicate(stream)
        await primary.until_ack(stream.position.lsn)


@in_loop
async def test_unknown_kind_fails_the_replica_with_its_position_kept(tmp_path: Path) -> None:
    stream = two_volumes()
    async with Site(tmp_path) as site, PrimaryEnd(site) as primary:
        await primary.hello()
        end = stream.position
        framed, _ = record.frame(end.chain, 1, end.lsn + 1, 1, None, 25, b"")
        await primary.append(origin(UID), stream.run_after(0) + framed)
        reject = (await primary.until("reject")).reject
        assert reject.reason == Reject.REASON_UNKNOWN_RECORD
        assert from_wire(reject.expected) == end
        await until(lambda: site.group().replica.state is ReplicaState.FAILED)
        assert "25" in site.group().reason
        assert not site.group().is_healthy
        async with PrimaryEnd(site) as again:
            said = await refused(again.hello(), grpc.StatusCode.FAILED_PRECONDITION)
            assert "25" in said


@in_loop
async def test_new_hello_cancels_the_older_stream_after_its_last_append(tmp_path: Path) -> None:
    stream = two_volumes()
    async with Site(tmp_path) as site, PrimaryEnd(site) as older:
        await older.hello()
        await older.replicate(stream)
        await until(lambda: site.group().replica.receiver.received == stream.position)
        async with PrimaryEnd(site) as newer:
            welcome = await newer.hello()
            assert from_wire(welcome.durable) == stream.position  # D15
            assert (await older.ended()).code() is grpc.StatusCode.CANCELLED
            stream.write(2, 5, b"more")
            await newer.replicate(stream)
            await newer.until_ack(stream.position.lsn)
            assert site.group().is_connected


@in_loop
async def test_welcome_waits_for_the_last_append_of_the_older_stream(tmp_path: Path) -> None:
    stream = two_volumes()
    async with Site(tmp_path) as site, PrimaryEnd(site) as older:
        await older.hello()
        replica, go_on = site.group().replica, threading.Event()
        sync = replica.receiver.log.sync

        def held_sync() -> LogPoint:
            go_on.wait(SECONDS)
            return sync()

        replica.receiver.log.sync = held_sync  # type: ignore[method-assign]
        await older.replicate(stream)
        await until(lambda: replica.receiver.received == stream.position)
        async with PrimaryEnd(site) as newer:
            waiting = asyncio.ensure_future(newer.hello())
            assert (await older.ended()).code() is grpc.StatusCode.CANCELLED
            assert replica.durable != stream.position and not waiting.done()
            go_on.set()
            assert from_wire((await waiting).durable) == stream.position  # D15


@in_loop
async def test_restart_keeps_what_was_acked(tmp_path: Path) -> None:
    stream = two_volumes()
    async with Site(tmp_path) as site:
        for clean in (False, True):
            async with PrimaryEnd(site) as primary:
                await primary.hello()
                stream.write(1, 512, bytes([clean + 1]) * 3000)
                await primary.replicate(stream)
                await primary.until_ack(stream.position.lsn)
            await site.restart(clean=clean)
            replica = site.group().replica
            assert replica.durable == stream.position
            await until(lambda replica=replica: replica.applied == stream.position)  # type: ignore[misc]
            assert live(replica) == stream.states[stream.position.lsn]


@in_loop
async def test_older_epoch_is_fenced(tmp_path: Path) -> None:
    async with Site(tmp_path) as site, PrimaryEnd(site) as good:
        await good.hello(epoch=5)
        async with PrimaryEnd(site) as stale:
            await refused(stale.hello(epoch=4), grpc.StatusCode.ABORTED)
        await good.until("ack")  # a fenced caller does not cut the good stream


@in_loop
async def test_another_groups_uid_is_refused_naming_both_and_the_good_stream_stays(
    tmp_path: Path,
) -> None:
    other = uuid.uuid4()
    async with Site(tmp_path) as site, PrimaryEnd(site) as good:
        await good.hello()
        for uid, name in ((other, "demo"), (UID, "renamed")):
            async with PrimaryEnd(site) as stranger:
                said = await refused(
                    stranger.hello(uid=uid, group=name), grpc.StatusCode.FAILED_PRECONDITION
                )
            assert str(uid) in said and name in said
        stream = two_volumes()
        await good.replicate(stream)
        await good.until_ack(stream.position.lsn)
        assert list(site.node.groups) == ["demo"]


@in_loop
async def test_name_of_a_primarys_group_is_refused(tmp_path: Path) -> None:
    storage, uid = RealStorage(), uuid.uuid4()
    data = DataDirectory.open(storage, tmp_path, "primary")
    create_group(storage, data, "demo", uid, GroupSettings(SETTINGS), SystemClock())
    data.close()
    async with Site(tmp_path) as site, PrimaryEnd(site) as primary:
        assert not site.node.groups and not site.node.broken
        said = await refused(primary.hello(), grpc.StatusCode.FAILED_PRECONDITION)
        assert str(uid) in said and str(UID) in said and "PRIMARY" in said


@in_loop
async def test_role_replicate_is_needed_for_the_group(tmp_path: Path) -> None:
    hello = HelloInfo(UID, "demo", "site-b", 1, origin(UID), (), 0, b"", False)
    async with Site(tmp_path) as site:
        roles.set_caller(
            roles.Identity("someone", (roles.Grant(roles.Role.REPLICATE, ("other-*",)),))
        )
        stream = ReplicateStream(site.node, None)  # type: ignore[arg-type]  # it comes to no call
        with pytest.raises(errors.PermissionDenied, match="demo"):
            await site.node.admit(stream, hello)
        roles.set_caller(roles.EVERYTHING)
        assert not site.node.groups


@in_loop
async def test_what_is_no_hello_is_refused_and_makes_nothing(tmp_path: Path) -> None:
    stream = two_volumes()
    async with Site(tmp_path) as site:
        async with PrimaryEnd(site) as primary:
            await primary.append(origin(UID), stream.run_after(0))
            assert (await primary.ended()).code() is grpc.StatusCode.INVALID_ARGUMENT
        async with PrimaryEnd(site) as primary:
            await primary.call.write(b"\xff\xff\xff")
            assert (await primary.ended()).code() is grpc.StatusCode.INVALID_ARGUMENT
        async with PrimaryEnd(site) as primary:
            await primary.call.done_writing()
            assert (await primary.ended()).code() is grpc.StatusCode.OK
        assert not site.node.groups and not site.node.streams


@in_loop
async def test_replica_that_has_all_the_primary_has_is_not_behind_d19(tmp_path: Path) -> None:
    stream = two_volumes()
    async with Site(tmp_path) as site, PrimaryEnd(site) as primary:
        await primary.hello()
        await primary.replicate(stream)
        group = site.group()
        await until(lambda: group.replica.applied == stream.position)
        applied_ns = group.replica.status().applied_time_ns

        async def lag_at(seconds: int, durable: Position | None) -> float:
            heard_ns = applied_ns + seconds * 1_000_000_000
            beat = replication_pb2.Heartbeat(time_unix_nanos=heard_ns)
            if durable is not None:
                beat.durable.CopyFrom(to_wire(durable))
            await primary.send(heartbeat=beat)
            await until(lambda: group.primary_time_ns == heard_ns)
            shown = translate.replica(group).apply_lag
            return shown.seconds + shown.nanos / 1e9

        assert await lag_at(60, stream.position) == 0
        assert await lag_at(61, None) == 61  # there is more than it was sent
        assert await lag_at(62, Position(1, stream.position.lsn + 1, 0)) == 62
        assert await lag_at(63, Position(1, stream.position.lsn - 1, 0)) == 0  # an older end


@in_loop
async def test_second_link_of_a_group_leaves_the_first_its_stream(tmp_path: Path) -> None:
    async with Site(tmp_path) as site, PrimaryEnd(site) as first:
        await first.hello(link="first")
        async with PrimaryEnd(site) as second:
            said = await refused(second.hello(link="second"), grpc.StatusCode.UNAVAILABLE)
            assert "link 'first' feeds" in said
        async with PrimaryEnd(site) as again:  # D15: the same link's newer stream takes over
            await again.hello(link="first")
            assert (await first.ended()).code() is grpc.StatusCode.CANCELLED


@in_loop
async def test_drain_tells_the_stream_and_a_later_hello_is_unavailable(tmp_path: Path) -> None:
    async with Site(tmp_path) as site, PrimaryEnd(site) as primary:
        await primary.hello()
        await site.node.drain()
        assert (await primary.ended()).code() is grpc.StatusCode.UNAVAILABLE
        async with PrimaryEnd(site) as late:
            await refused(late.hello(), grpc.StatusCode.UNAVAILABLE)


@in_loop
async def test_verdicts_are_repeated_after_welcome_until_confirmed(tmp_path: Path) -> None:
    stream = two_volumes()
    stream.message("m1", common_pb2.MESSAGE_BEHAVIOUR_NOTIFY)
    async with Site(tmp_path) as site:
        async with PrimaryEnd(site) as primary:
            await primary.hello()
            site.register()
            await primary.replicate(stream)
            first = (await primary.until("verdict")).verdict
            assert first.message_id == "m1"
            assert first.state == common_pb2.VERDICT_STATE_NOTIFIED
        async with PrimaryEnd(site) as primary:
            await primary.hello()
            assert (await primary.until("verdict")).verdict == first  # D17
            await primary.send(
                verdicts_confirmed=replication_pb2.VerdictsConfirmed(sequence=first.sequence)
            )
            await until(lambda: not site.group().replica.unconfirmed_verdicts())


@in_loop
async def test_full_log_under_a_freeze_thaws_first_and_then_takes_everything(
    tmp_path: Path,
) -> None:
    stream = two_volumes()
    stream.message("m1")
    async with Site(tmp_path) as site, PrimaryEnd(site) as primary:
        await primary.hello()
        site.register()
        for number in range(40):  # more than the whole log holds
            stream.write(1, 0, bytes([number]) * (40 << 10))
        reasons = await carry(primary, stream)
        assert reasons == {Reject.REASON_LOG_FULL}
        verdict = site.group().replica.verdicts_of("m1")[-1]
        assert verdict.state == "FREEZE_LOG_LIMIT"  # C8
        await until(lambda: site.group().replica.applied == stream.position)
        assert live(site.group().replica) == stream.states[stream.position.lsn]


async def carry(primary: PrimaryEnd, stream: Stream) -> set[int]:
    """Send everything record by record; what is not taken is sent again after the next ack."""
    reasons: set[int] = set()
    while primary.sent.lsn < stream.position.lsn:
        before = primary.sent
        await primary.replicate(stream, before.lsn + 1)
        while True:
            response = await primary.call.read()
            if response.HasField("reject"):
                reasons.add(response.reject.reason)
                primary.sent = before
                await primary.until("ack")
                break
            if response.HasField("ack") and response.ack.durable.lsn >= primary.sent.lsn:
                break
    return reasons


async def start_sync(primary: PrimaryEnd, at: Position) -> None:
    volumes = [replication_pb2.VolumeInfo(volume=1, name="data", size_bytes=SIZE)]
    await primary.send(
        sync_start=replication_pb2.SyncStart(
            sync_id=b"s" * 16, position=to_wire(at), volumes=volumes, total_bytes=SIZE
        )
    )


@in_loop
async def test_sync_starts_over_applies_regions_in_order_and_ends_consistent(
    tmp_path: Path,
) -> None:
    stream = two_volumes()
    at = Position(1, 500, 77)
    image = bytes(range(256)) * (SIZE // 512)
    async with Site(tmp_path) as site, PrimaryEnd(site) as primary:
        await primary.hello()
        await primary.replicate(stream)
        await primary.until_ack(stream.position.lsn, applied=True)
        await start_sync(primary, at)
        while not (ack := (await primary.until("ack")).ack).sync_id:
            pass
        assert ack.sync_id == b"s" * 16 and from_wire(ack.durable) == at
        assert ack.replica_state == common_pb2.REPLICA_STATE_INCONSISTENT
        assert [row.guard for row in site.group().replica.snapshots()] == [True]  # D27
        half = replication_pb2.Region(volume=1, offset=0, length=SIZE // 2, data=image)
        rest = replication_pb2.Region(volume=1, offset=SIZE // 2, length=SIZE // 2, zero=True)
        for number, region in enumerate((half, rest), start=1):
            cursor = replication_pb2.SyncCursor(volume=1, offset=number * SIZE // 2)
            await primary.send(
                sync_regions=replication_pb2.SyncRegions(
                    sync_id=b"s" * 16, sequence=number, regions=[region], cursor=cursor
                )
            )
        while (await primary.until("ack")).ack.region_sequence < 2:
            pass
        done = replication_pb2.SyncDone(sync_id=b"s" * 16, consistent_lsn=500, last_sequence=2)
        await primary.send(sync_done=done)
        while (ack := (await primary.until("ack")).ack).sync_id:
            pass
        assert ack.replica_state == common_pb2.REPLICA_STATE_CONSISTENT
        assert live(site.group().replica) == {1: image + bytes(SIZE // 2)}
        await until(lambda: not site.group().replica.snapshots())


@in_loop
async def test_region_is_acked_only_with_the_checkpoint_at_its_place(tmp_path: Path) -> None:
    async with Site(tmp_path) as site, PrimaryEnd(site) as primary:
        await primary.hello()
        await start_sync(primary, Position(1, 500, 77))
        while not (await primary.until("ack")).ack.sync_id:
            pass
        group = site.group()
        checkpointer = group.replica.checkpointer
        is_due = checkpointer.is_due
        checkpointer.is_due = lambda: False  # type: ignore[method-assign]
        region = replication_pb2.Region(volume=1, offset=0, length=SIZE, zero=True)
        await primary.send(
            sync_regions=replication_pb2.SyncRegions(
                sync_id=b"s" * 16,
                sequence=1,
                regions=[region],
                cursor=replication_pb2.SyncCursor(volume=1, offset=SIZE),
            )
        )
        await until(lambda: group.replica.regions.applied.sequence == 1)
        assert group.progress().region_sequence == 0  # D25
        checkpointer.is_due = is_due  # type: ignore[method-assign]
        while (await primary.until("ack")).ack.region_sequence < 1:
            pass
        assert checkpointer.durable_progress.sequence == 1


@in_loop
async def test_sync_goes_on_in_the_next_stream_from_the_durable_cursor(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        async with PrimaryEnd(site) as primary:
            await primary.hello()
            await start_sync(primary, Position(1, 500, 77))
            region = replication_pb2.Region(volume=1, offset=0, length=512, data=b"r" * 512)
            while not (await primary.until("ack")).ack.sync_id:
                pass
            await primary.send(
                sync_regions=replication_pb2.SyncRegions(
                    sync_id=b"s" * 16,
                    sequence=1,
                    regions=[region],
                    cursor=replication_pb2.SyncCursor(volume=1, offset=512),
                )
            )
            while (await primary.until("ack")).ack.region_sequence < 1:
                pass
        await site.restart(clean=False)
        async with PrimaryEnd(site) as primary:
            running = (await primary.hello()).running_sync
            assert running.sync_id == b"s" * 16
            assert (running.cursor.volume, running.cursor.offset) == (1, 512)
            assert not running.done


@in_loop
async def test_sync_that_cannot_begin_is_rejected_and_the_stream_lives_on(tmp_path: Path) -> None:
    stream = two_volumes()
    frozen = errors.FailedPrecondition("FROZEN", "it froze meanwhile")
    cases = (
        (frozen, Reject.REASON_FROZEN),
        (errors.Unavailable("a sync"), Reject.REASON_FROZEN),
        (errors.NoSpace("the guard"), Reject.REASON_NO_SPACE),  # D27
    )
    async with Site(tmp_path) as site, PrimaryEnd(site) as primary:
        await primary.hello()
        for error, reason in cases:

            def refuse(*_: object, error: errors.SlackwaterError = error) -> None:
                raise error

            site.group().replica.begin_sync = refuse  # type: ignore[assignment, method-assign]
            await start_sync(primary, Position(1, 500, 77))
            assert (await primary.until("reject")).reject.reason == reason
        await primary.replicate(stream)
        await primary.until_ack(stream.position.lsn)


@in_loop
async def test_frozen_replica_is_not_overwritten_by_a_sync(tmp_path: Path) -> None:
    stream = two_volumes()
    stream.message("m1")
    async with Site(tmp_path) as site, PrimaryEnd(site) as primary:
        await primary.hello()
        site.register()
        await primary.replicate(stream)
        state = (await primary.until("state")).state
        assert state.state == common_pb2.REPLICA_STATE_FROZEN
        await start_sync(primary, Position(1, 500, 77))
        assert (await primary.until("reject")).reject.reason == Reject.REASON_FROZEN  # D25
        assert live(site.group().replica) == stream.states[stream.position.lsn]
        assert site.node.group("demo").name == GROUP.removeprefix("groups/")
