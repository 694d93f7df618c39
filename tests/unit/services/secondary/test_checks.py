"""Results of checks on the Secondary: kept with their snapshot, bounded, durable."""

from pathlib import Path
from typing import Any

import grpc

from slackwater.v1 import resources_pb2
from slackwater.v1 import secondary_pb2 as api
from tests.unit.services.secondary.secondary_site import GROUP, Site, in_loop, refused
from tests.unit.services.secondary.test_servicer import S1, frozen, snapshot

Code = grpc.StatusCode
PASSED, FAILED = resources_pb2.CHECK_VERDICT_PASSED, resources_pb2.CHECK_VERDICT_FAILED


def result(**fields: Any) -> resources_pb2.CheckResult:
    given: dict[str, Any] = {
        "id": "r1",
        "check": "checks/fsck",
        "verdict": FAILED,
        "output": "broken",
    } | fields
    return resources_pb2.CheckResult(**given)


async def shown(site: Site) -> resources_pb2.Snapshot:
    answer = await site.api.GetSnapshot(api.GetSnapshotRequest(name=S1))
    assert isinstance(answer, api.GetSnapshotResponse)
    return answer.snapshot


async def record(site: Site, found: resources_pb2.CheckResult, uid: str) -> None:
    request = api.RecordCheckRequest(snapshot=S1, snapshot_uid=uid, result=found)
    await site.api.RecordCheck(request)


@in_loop
async def test_result_stays_with_its_snapshot_and_not_with_its_name(tmp_path: Path) -> None:
    async with frozen(tmp_path) as (site, _, _):
        await snapshot(site)
        uid = (await shown(site)).uid
        await record(site, result(), uid)
        await record(site, result(verdict=PASSED), uid)  # the same id again changes nothing
        (found,) = (await shown(site)).checks
        assert (found.verdict, found.output) == (FAILED, "broken")
        for number in range(2, 14):
            await record(site, result(id=f"r{number}", verdict=PASSED), uid)
        await site.restart(clean=False)
        kept = (await shown(site)).checks
        assert [row.id for row in kept] == [f"r{number}" for number in range(13, 3, -1)]
        request = api.SecondaryServiceRefreshSnapshotRequest(name=S1)
        await site.api.RefreshSnapshot(request)
        assert not (await shown(site)).checks
        late = api.RecordCheckRequest(snapshot=S1, snapshot_uid=uid, result=result())
        await refused(site.api.RecordCheck(late), Code.FAILED_PRECONDITION)
        assert not (await shown(site)).checks


BAD: list[dict[str, Any]] = [
    {"id": ""},
    {"check": "fsck"},
    {"verdict": 0},
    {"verdict": 99},
    {"reason": "x" * 1001},
    {"output": "x" * 8193},
]


@in_loop
async def test_bad_result_is_refused(tmp_path: Path) -> None:
    async with frozen(tmp_path) as (site, _, _):
        await snapshot(site)
        uid = (await shown(site)).uid
        for fields in BAD:
            request = api.RecordCheckRequest(snapshot=S1, snapshot_uid=uid, result=result(**fields))
            await refused(site.api.RecordCheck(request), Code.INVALID_ARGUMENT)
        request = api.RecordCheckRequest(
            snapshot=f"{GROUP}/snapshots/none", snapshot_uid=uid, result=result()
        )
        await refused(site.api.RecordCheck(request), Code.NOT_FOUND)
        assert not (await shown(site)).checks
