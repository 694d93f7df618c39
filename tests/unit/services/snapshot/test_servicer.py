"""The API of the snapshot service: what it refuses, forwards, lists and does not have yet."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.snapshot.planned import RELEASES, PlannedServicer, release_of
from services.snapshot.servicer import SnapshotServicer
from slackwater.errors import FailedPrecondition
from slackwater.runtime import status
from slackwater.v1 import resources_pb2, secondary_pb2
from slackwater.v1 import snapshot_pb2 as api
from tests.unit.cli.fakes import serving
from tests.unit.services.snapshot.world import GROUP, Secondary, World, play, world

SNAPSHOT = f"{GROUP}/snapshots/s1"
METHODS = api.DESCRIPTOR.services_by_name["SnapshotService"].methods


@pytest.fixture
def secondary() -> Secondary:
    return Secondary()


def refused(tmp_path: Path, secondary: Secondary, rpc: str, request: Any) -> status.RemoteError:
    """Make a call that has to be refused."""

    async def scene(found: World) -> status.RemoteError:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await getattr(found.api, rpc)(request, timeout=10)
        return status.decode(caught.value)

    answer: status.RemoteError = play(tmp_path, scene, secondary)
    return answer


def start(**fields: Any) -> api.StartSnapshotRequest:
    """A request that only differs in what a test is about."""
    return api.StartSnapshotRequest(**{"group": GROUP, **fields})


def at_next(application: str, seconds: int) -> api.StartSnapshotRequest:
    """A request for the next message."""
    request = start()
    request.at_next_message.application = application
    request.at_next_message.wait_timeout.FromSeconds(seconds)
    return request


@pytest.mark.parametrize(
    ("rpc", "request_", "code", "field"),
    [
        ("StartSnapshot", start(group="demo"), "INVALID_ARGUMENT", "group"),
        ("StartSnapshot", start(snapshot_id="No_Label"), "INVALID_ARGUMENT", "snapshot_id"),
        ("StartSnapshot", start(request_id="x" * 129), "INVALID_ARGUMENT", "request_id"),
        (
            "StartSnapshot",
            at_next("", 1),
            "INVALID_ARGUMENT",
            "at_next_message.application",
        ),
        (
            "StartSnapshot",
            at_next("backup", 0),
            "INVALID_ARGUMENT",
            "at_next_message.wait_timeout",
        ),
        (
            "StartSnapshot",
            at_next("backup", 90_000),
            "INVALID_ARGUMENT",
            "at_next_message.wait_timeout",
        ),
        ("StartSnapshot", start(group="groups/none"), "NOT_FOUND", ""),
        ("StartSnapshot", start(snapshot_id="s1"), "ALREADY_EXISTS", ""),
        ("GetRun", api.GetRunRequest(name="r1"), "INVALID_ARGUMENT", "name"),
        ("GetRun", api.GetRunRequest(name="tasks/snapshot/runs/r1"), "NOT_FOUND", ""),
        ("GetRun", api.GetRunRequest(name="tasks/other/runs/r1"), "NOT_FOUND", ""),
        ("CancelRun", api.CancelRunRequest(name="tasks/snapshot/runs/r1"), "NOT_FOUND", ""),
        ("ListRuns", api.ListRunsRequest(page_size=-1), "INVALID_ARGUMENT", "page_size"),
        ("ListRuns", api.ListRunsRequest(group="demo"), "INVALID_ARGUMENT", "group"),
        ("ListRuns", api.ListRunsRequest(task="snapshot"), "INVALID_ARGUMENT", "task"),
    ],
)
def test_bad_request_is_refused_and_changes_nothing(
    tmp_path: Path, secondary: Secondary, rpc: str, request_: Any, code: str, field: str
) -> None:
    secondary.snapshots[SNAPSHOT] = resources_pb2.Snapshot(name=SNAPSHOT)
    found = refused(tmp_path, secondary, rpc, request_)
    assert (found.code.name, found.field) == (code, field)
    assert secondary.calls == []


def test_nothing_starts_while_the_secondary_is_away(tmp_path: Path, secondary: Secondary) -> None:
    secondary.service.stop()
    found = refused(tmp_path, secondary, "StartSnapshot", start())
    assert found.code is grpc.StatusCode.UNAVAILABLE
    assert secondary.service.address in found.message
    assert "--secondary" in found.next_step


def test_request_id_gets_the_first_run_again_after_a_restart_too(
    tmp_path: Path, secondary: Secondary
) -> None:
    async def twice(found: World) -> set[str]:
        runs = [await found.start(request_id="mine") for _ in range(2)]
        await found.end(runs[0])
        return {run.name for run in runs}

    names = play(tmp_path, twice, secondary)
    assert len(names) == 1
    secondary.serve("127.0.0.1:0")
    again = play(tmp_path, lambda found: found.start(request_id="mine"), secondary)
    assert again.name in names
    assert secondary.calls == []


def test_validate_only_starts_nothing(tmp_path: Path, secondary: Secondary) -> None:
    async def scene(found: World) -> int:
        answer = await found.api.StartSnapshot(start(validate_only=True))
        assert not answer.HasField("run")
        return len((await found.api.ListRuns(api.ListRunsRequest())).runs)

    assert play(tmp_path, scene, secondary) == 0


def test_runs_are_listed_newest_first_in_pages(tmp_path: Path, secondary: Secondary) -> None:
    async def scene(found: World) -> None:
        names = []
        for _ in range(5):
            names.append((await found.run_to_end()).name)
            await asyncio.sleep(0.002)  # ids carry milliseconds
        listed: list[str] = []
        request = api.ListRunsRequest(page_size=2, task="tasks/snapshot", group=GROUP)
        while True:
            page = await found.api.ListRuns(request)
            listed += [run.name for run in page.runs]
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        assert listed == names[::-1]
        other = await found.api.ListRuns(api.ListRunsRequest(group="groups/other"))
        assert not other.runs
        assert not (await found.api.ListRuns(api.ListRunsRequest(task="tasks/other"))).runs

    play(tmp_path, scene, secondary)


def test_snapshots_are_the_secondarys_to_list_and_change(
    tmp_path: Path, secondary: Secondary
) -> None:
    row = resources_pb2.Snapshot(name=SNAPSHOT)
    secondary.service.answers |= {
        "ListSnapshots": secondary_pb2.SecondaryServiceListSnapshotsResponse(
            snapshots=[row], next_page_token="more"
        ),
        "DeleteSnapshot": secondary_pb2.SecondaryServiceDeleteSnapshotResponse(losses=["it"]),
        "RefreshSnapshot": secondary_pb2.SecondaryServiceRefreshSnapshotResponse(
            snapshot=row, losses=["it"]
        ),
        "ExportSnapshot": secondary_pb2.SecondaryServiceExportSnapshotResponse(
            snapshot=row, nbd_uris=["nbd://x"]
        ),
        "UnexportSnapshot": secondary_pb2.SecondaryServiceUnexportSnapshotResponse(snapshot=row),
    }

    async def scene(found: World) -> None:
        listed = await found.api.ListSnapshots(
            api.SnapshotServiceListSnapshotsRequest(group=GROUP, page_size=3, page_token="t")
        )
        assert (listed.snapshots[0].name, listed.next_page_token) == (SNAPSHOT, "more")
        asked = secondary.service.asked("ListSnapshots")[0]
        assert (asked.group, asked.page_size, asked.page_token) == (GROUP, 3, "t")
        gone = await found.api.DeleteSnapshot(
            api.SnapshotServiceDeleteSnapshotRequest(
                name=SNAPSHOT, request_id="r", validate_only=True, force=True
            )
        )
        assert list(gone.losses) == ["it"]
        asked = secondary.service.asked("DeleteSnapshot")[0]
        assert (asked.name, asked.request_id, asked.validate_only) == (SNAPSHOT, "r", True)
        assert asked.force
        message = f"{GROUP}/messages/m1"
        refreshed = await found.api.RefreshSnapshot(
            api.SnapshotServiceRefreshSnapshotRequest(
                name=SNAPSHOT, at_message=message, request_id="r", validate_only=True
            )
        )
        assert (refreshed.snapshot, list(refreshed.losses)) == (row, ["it"])
        asked = secondary.service.asked("RefreshSnapshot")[0]
        assert (asked.name, asked.at_message, asked.request_id) == (SNAPSHOT, message, "r")
        assert asked.validate_only
        exported = await found.api.ExportSnapshot(
            api.SnapshotServiceExportSnapshotRequest(name=SNAPSHOT, request_id="r")
        )
        assert list(exported.nbd_uris) == ["nbd://x"]
        ended = await found.api.UnexportSnapshot(
            api.SnapshotServiceUnexportSnapshotRequest(name=SNAPSHOT)
        )
        assert ended.snapshot.name == SNAPSHOT

    play(tmp_path, scene, secondary)


def test_differences_are_the_secondarys_to_tell(tmp_path: Path, secondary: Secondary) -> None:
    part = secondary_pb2.DiffSnapshotsResponse(
        ranges=[secondary_pb2.ChangedRange(offset=512, length=512, zero=True, volume="data")],
        volume="data",
        next_offset=1024,
        volume_bytes=2048,
    )
    secondary.service.answers["DiffSnapshots"] = part

    async def scene(found: World) -> None:
        request = api.SnapshotServiceDiffSnapshotsRequest(
            older=SNAPSHOT, newer=SNAPSHOT, volume="data", page_size=7, offset=3
        )
        told = [answer async for answer in found.api.DiffSnapshots(request)]
        asked = secondary.service.asked("DiffSnapshots")[0]
        assert asked.SerializeToString() == request.SerializeToString()
        assert [one.SerializeToString() for one in told] == [part.SerializeToString()]

    play(tmp_path, scene, secondary)


def test_clones_are_passed_on_field_by_field(tmp_path: Path, secondary: Secondary) -> None:
    clone = resources_pb2.Clone(name=f"{GROUP}/clones/c1", snapshot=SNAPSHOT)
    rpcs = {name for name in secondary_pb2_rpcs() if "Clone" in name}
    assert len(rpcs) == 6
    for rpc in rpcs:
        answer = getattr(secondary_pb2, f"SecondaryService{rpc}Response")()
        fields = answer.DESCRIPTOR.fields_by_name
        if "clone" in fields:
            answer.clone.CopyFrom(clone)
        if "clones" in fields:
            answer.clones.append(clone)
        if "losses" in fields:
            answer.losses.append("it")
        secondary.service.answers[rpc] = answer

    async def scene(found: World) -> None:
        for rpc in sorted(rpcs):
            request = getattr(api, f"SnapshotService{rpc}Request")()
            for field in request.DESCRIPTOR.fields:
                value = {field.TYPE_BOOL: True, field.TYPE_INT32: 7}.get(field.type, field.name)
                setattr(request, field.name, value)
            answer = await getattr(found.api, rpc)(request)
            asked = secondary.service.asked(rpc)[0]
            assert str(asked) == str(request)
            assert str(answer) == str(secondary.service.answers[rpc])

    play(tmp_path, scene, secondary)


def secondary_pb2_rpcs() -> list[str]:
    return list(secondary_pb2.DESCRIPTOR.services_by_name["SecondaryService"].methods_by_name)


def test_refusal_of_the_secondary_comes_through_with_its_details(
    tmp_path: Path, secondary: Secondary
) -> None:
    secondary.service.answers["DeleteSnapshot"] = FailedPrecondition(
        "EXPORTED", "the snapshot is exported", "Unexport it first"
    )
    request = api.SnapshotServiceDeleteSnapshotRequest(name=SNAPSHOT)
    found = refused(tmp_path, secondary, "DeleteSnapshot", request)
    assert (found.code, found.reason, found.next_step) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "EXPORTED",
        "Unexport it first",
    )


def test_status_says_who_can_be_reached(tmp_path: Path, secondary: Secondary) -> None:
    async def main() -> None:
        with serving("primary") as fakes:
            async with world(tmp_path, secondary, fakes["primary"].address) as found:
                answer = await found.api.GetStatus(api.SnapshotServiceGetStatusRequest())
                assert answer.primary.reachable
                assert answer.primary.endpoint == fakes["primary"].address
                assert answer.secondary.HasField("age")
                await asyncio.to_thread(fakes["primary"].stop)
                answer = await found.api.GetStatus(api.SnapshotServiceGetStatusRequest())
                assert not answer.primary.reachable
                assert answer.primary.problem
                assert answer.primary.HasField("age")  # of what was heard last
                assert answer.version

    asyncio.run(main())
    secondary.service.stop()


def test_events_of_a_group_are_streamed(tmp_path: Path, secondary: Secondary) -> None:
    async def scene(found: World) -> None:
        request = api.SnapshotServiceWatchEventsRequest(group=GROUP)
        stream = found.api.WatchEvents(request)
        await stream.wait_for_connection()
        run = await found.run_to_end()
        states = []
        async for answer in stream:
            assert answer.event.resource == run.name
            states.append(answer.event.attributes["state"])
            if states[-1] == "SUCCEEDED":
                break
        stream.cancel()

    play(tmp_path, scene, secondary)


@pytest.mark.parametrize("method", [row.name for row in METHODS if release_of(row.name)])
def test_planned_call_says_which_release_brings_it(
    tmp_path: Path, secondary: Secondary, method: str
) -> None:
    kind: Callable[[], Any] = getattr(api, f"{method}Request")
    found = refused(tmp_path, secondary, method, kind())
    assert found.code is grpc.StatusCode.UNIMPLEMENTED
    assert any(f"release {release}" in found.message for release in RELEASES.values())


def test_every_call_is_here_or_planned() -> None:
    ours = SnapshotServicer.__mro__[: SnapshotServicer.__mro__.index(PlannedServicer)]
    for method in METHODS:
        here = any(method.name in vars(kind) for kind in ours)
        assert here == (release_of(method.name) is None), method.name
