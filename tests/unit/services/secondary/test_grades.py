"""SNAPSHOT messages, what a grade rests on, and holds, over the API (C7, C17, C20)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from slackwater.position import Position
from slackwater.record import KIND_OUTCOME
from slackwater.v1 import common_pb2, record_pb2, resources_pb2
from slackwater.v1 import secondary_pb2 as api
from tests.unit.apply.stream import APPLICATION, Stream
from tests.unit.services.secondary.secondary_site import (
    GROUP,
    PrimaryEnd,
    Site,
    in_loop,
    refused,
    two_volumes,
    until,
)
from tests.unit.services.secondary.test_servicer import M1, S1, frozen, receive, snapshot

Code = grpc.StatusCode
SNAPSHOT = common_pb2.MESSAGE_BEHAVIOUR_SNAPSHOT
CONFIRMED = record_pb2.Outcome.STATE_CONFIRMED
REVOKED = record_pb2.Outcome.STATE_REVOKED
CRASH, APPLICATION_GRADE = (
    common_pb2.SNAPSHOT_GRADE_CRASH,
    common_pb2.SNAPSHOT_GRADE_APPLICATION,
)


def judged(stream: Stream, message_id: str, state: Any, **fields: Any) -> Position:
    """Add the outcome of a message."""
    body = record_pb2.Outcome(
        message_id=message_id,
        state=state,
        grade=APPLICATION_GRADE,
        evidence="db was held for 40 ms",
        window_seconds=0.05,
        reports=[
            record_pb2.QuiesceReport(
                application="db", kind="postgres", answer="ready", unbroken=True, held_seconds=0.04
            )
        ],
        **fields,
    )
    return stream.control(KIND_OUTCOME, body)


@asynccontextmanager
async def asked(path: Path, **fields: Any) -> AsyncIterator[tuple[Site, PrimaryEnd, Stream]]:
    """A site that was asked for a snapshot by message s1, and has passed it."""
    stream = two_volumes()
    stream.message("s1", SNAPSHOT, **fields)
    stream.write(1, 0, b"after the message" * 100)
    async with Site(path) as site, PrimaryEnd(site) as primary:
        await primary.hello()
        site.register()
        await primary.replicate(stream)
        await until(lambda: site.group().replica.applied == stream.position)
        yield site, primary, stream


async def only(site: Site) -> resources_pb2.Snapshot:
    request = api.SecondaryServiceListSnapshotsRequest(group=GROUP)
    (found,) = (await site.api.ListSnapshots(request)).snapshots
    assert isinstance(found, resources_pb2.Snapshot)
    return found


@in_loop
async def test_snapshot_message_takes_one_and_tells_receivers_afterwards_c7(
    tmp_path: Path,
) -> None:
    fields = {"quiesced": ["db"], "fenced": True, "fence_held_seconds": 0.002, "task": "tasks/t"}
    async with asked(tmp_path, **fields) as (site, _, _):
        row = await only(site)
        assert row.name == f"{GROUP}/snapshots/ibc-s1" and row.message == f"{GROUP}/messages/s1"
        assert (row.grade, row.grade_reason) == (CRASH, "unconfirmed")
        assert row.awaits_outcome and not row.HasField("judgement")
        assert row.fence_held.ToMilliseconds() == 2 and not row.HasField("frozen_for")
        assert row.create_duration.ToNanoseconds() > 0
        await site.restart(clean=False)
        got = (await site.api.ReceiveMessage(receive(wait=5))).message
        assert (got.behaviour, got.snapshot, got.task) == (SNAPSHOT, row.name, "tasks/t")
        assert not (await site.api.ReceiveMessage(receive())).HasField("message"), "told once"
        request = api.SecondaryServiceListMessagesRequest(group=GROUP)
        (shown,) = (await site.api.ListMessages(request)).messages
        assert shown.verdicts[0].state == common_pb2.VERDICT_STATE_SNAPSHOTTED
        assert shown.verdicts[0].detail.snapshot_id == "ibc-s1" and shown.final
        assert list(shown.quiesced) == ["db"]


@in_loop
async def test_messages_are_kept_for_a_time_and_their_snapshots_longer(tmp_path: Path) -> None:
    async with asked(tmp_path) as (site, _, _):
        replica = site.group().replica
        listing = api.SecondaryServiceListMessagesRequest(group=GROUP)
        await asyncio.to_thread(replica.checkpoint)
        replica.keep_messages(100, 1e-3)
        await site.api.ReceiveMessage(receive())
        assert (await site.api.ListMessages(listing)).messages, "its verdict is not confirmed yet"
        await asyncio.to_thread(replica.database.confirm_verdicts, 100)
        while (await site.api.ListMessages(listing)).messages:
            await asyncio.sleep(0.01)
        assert (await only(site)).message == f"{GROUP}/messages/s1"


@in_loop
async def test_name_not_registered_gets_its_snapshot_and_nobody_is_told(tmp_path: Path) -> None:
    async with asked(tmp_path, application="other", snapshot_id="chosen") as (site, _, _):
        assert (await only(site)).name == f"{GROUP}/snapshots/chosen"
        site.register("other")
        request = receive()
        request.application = "other"
        assert not (await site.api.ReceiveMessage(request)).HasField("message")


@in_loop
async def test_taken_name_gets_a_suffix(tmp_path: Path) -> None:
    async with asked(tmp_path, snapshot_id="nightly") as (site, primary, stream):
        at = stream.message("s2", SNAPSHOT, snapshot_id="nightly")
        await primary.replicate(stream)
        await until(lambda: len(site.group().replica.snapshots()) == 2)
        names = [row.name for row in site.group().replica.snapshots()]
        assert names == ["nightly", f"nightly-{at.lsn}"]


@pytest.mark.parametrize(
    ("state", "grade", "reason"),
    [(CONFIRMED, APPLICATION_GRADE, "confirmed"), (REVOKED, CRASH, "revoked")],
)
def test_outcome_grades_the_snapshot_durably_and_shows_why_c17(
    tmp_path: Path, state: Any, grade: Any, reason: str
) -> None:
    @in_loop
    async def run(path: Path) -> None:
        async with asked(path, quiesced=["db"]) as (site, primary, stream):
            with site.node.events.subscribe() as events:
                judged(stream, "s1", state)
                judged(stream, "s1", CONFIRMED)  # the first one stands
                await primary.replicate(stream)
                await until(lambda: site.group().replica.applied == stream.position)
                event = await events.get(5)
                while event is not None and event.kind != "SNAPSHOT_GRADED":
                    event = await events.get(5)
            assert event is not None and reason in event.text
            for _ in range(2):
                row = await only(site)
                assert (row.grade, row.grade_reason) == (grade, reason)
                assert not row.awaits_outcome
                assert row.judgement.state == state
                assert row.judgement.reports[0].answer == "ready"
                assert row.judgement.window_seconds == 0.05
                await site.restart(clean=False)

    run(tmp_path)


@in_loop
async def test_outcome_of_a_message_without_a_quiesce_raises_nothing(tmp_path: Path) -> None:
    async with asked(tmp_path) as (site, primary, stream):
        judged(stream, "s1", CONFIRMED)
        await primary.replicate(stream)
        await until(lambda: site.group().replica.applied == stream.position)
        row = await only(site)
        assert (row.grade, row.grade_reason) == (CRASH, "nothing was quiesced")
        assert not row.awaits_outcome


@in_loop
async def test_snapshot_taken_in_the_freeze_says_how_long_it_had_stood_c20(tmp_path: Path) -> None:
    async with frozen(tmp_path) as (site, _, _):
        await site.api.ReceiveMessage(receive())
        made = await snapshot(site, at_message=M1)
        assert made.HasField("frozen_for") and not made.HasField("fence_held")
        assert made.grade_reason == "nothing was quiesced"
        await site.api.Unfreeze(api.UnfreezeRequest(message=M1))
        late = await snapshot(site, "late")
        assert not late.message and late.grade_reason == "taken without a message"


# ---- holds


@in_loop
async def test_held_snapshot_cannot_be_deleted_until_it_is_released(tmp_path: Path) -> None:
    async with frozen(tmp_path) as (site, primary, _):
        await snapshot(site)
        hold = api.HoldSnapshotRequest(name=S1, note="for the audit", request_id="h")
        for _ in range(2):
            held = (await site.api.HoldSnapshot(hold)).snapshot
            assert held.held and held.hold_note == "for the audit"
        await site.restart(clean=False)
        await until(lambda: site.group().replica.freeze() is not None)
        assert (await only(site)).hold_note == "for the audit"
        delete = api.SecondaryServiceDeleteSnapshotRequest(name=S1, validate_only=True)
        assert "held" in (await site.api.DeleteSnapshot(delete)).losses[-1]
        delete.validate_only = False
        said = await refused(site.api.DeleteSnapshot(delete), Code.FAILED_PRECONDITION)
        assert "for the audit" in said and "slackwater snapshot release demo s1" in said
        primary.call.cancel()
        await until(lambda: site.group().stream is None)
        whole = api.DeleteReplicaRequest(name=GROUP)
        assert "held" in await refused(site.api.DeleteReplica(whole), Code.FAILED_PRECONDITION)
        release = api.ReleaseSnapshotRequest(name=S1)
        for _ in range(2):
            free = (await site.api.ReleaseSnapshot(release)).snapshot
            assert not free.held and not free.hold_note
        assert (await site.api.DeleteSnapshot(delete)).losses


@in_loop
async def test_bad_holds_are_refused(tmp_path: Path) -> None:
    async with frozen(tmp_path) as (site, _, _):
        await snapshot(site)
        for note in ("x" * 201, "two\nlines"):
            call = site.api.HoldSnapshot(api.HoldSnapshotRequest(name=S1, note=note))
            assert (await refused(call, Code.INVALID_ARGUMENT)).startswith("note:")
        none = f"{GROUP}/snapshots/none"
        await refused(site.api.HoldSnapshot(api.HoldSnapshotRequest(name=none)), Code.NOT_FOUND)
        release = site.api.ReleaseSnapshot(api.ReleaseSnapshotRequest(name=none))
        await refused(release, Code.NOT_FOUND)
        await refused(
            site.api.HoldSnapshot(api.HoldSnapshotRequest(name=APPLICATION)), Code.INVALID_ARGUMENT
        )
        assert not (await only(site)).held
