"""`slackwater snapshot check`: starts a check, waits for its result, ends as it ended."""

import pytest

from slackwater.v1 import resources_pb2, snapshot_pb2
from tests.unit.cli.conftest import CommandLine

SNAPSHOT = "groups/demo/snapshots/s1"


def found(number: str, verdict: resources_pb2.CheckVerdict.ValueType) -> resources_pb2.CheckResult:
    return resources_pb2.CheckResult(
        id=number, check="checks/fsck", verdict=verdict, reason="why", output="what it printed"
    )


def answer(cli: CommandLine, *results: resources_pb2.CheckResult) -> None:
    """Let run r2 begin, and the snapshot have these results."""
    run = snapshot_pb2.CheckRun(id="r2", snapshot=SNAPSHOT)
    cli.snapshot.answers["RunCheck"] = snapshot_pb2.RunCheckResponse(run=run)
    row = resources_pb2.Snapshot(name=SNAPSHOT, checks=results)
    listed = snapshot_pb2.SnapshotServiceListSnapshotsResponse(snapshots=[row])
    cli.snapshot.answers["ListSnapshots"] = listed


@pytest.mark.parametrize(
    ("verdict", "code"),
    [
        (resources_pb2.CHECK_VERDICT_PASSED, 0),
        (resources_pb2.CHECK_VERDICT_FAILED, 1),
        (resources_pb2.CHECK_VERDICT_INTERRUPTED, 1),
    ],
)
def test_check_ends_as_its_result_says(
    cli: CommandLine, verdict: resources_pb2.CheckVerdict.ValueType, code: int
) -> None:
    answer(cli, found("r2", verdict), found("r1", resources_pb2.CHECK_VERDICT_PASSED))
    shown = cli("snapshot", "check", "demo", "s1", "--check", "fsck", code=code)
    assert "what it printed" in shown
    assert resources_pb2.CheckVerdict.Name(verdict).removeprefix("CHECK_VERDICT_") in shown


def test_check_that_is_not_over_in_time_goes_on_and_says_where_to_look(cli: CommandLine) -> None:
    answer(cli, found("r1", resources_pb2.CHECK_VERDICT_PASSED))
    cli("snapshot", "check", "demo/s1", "--within", "0", code=6)
    assert "slackwater snapshot get demo s1" in cli.error
