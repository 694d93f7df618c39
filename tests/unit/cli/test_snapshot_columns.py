"""What `slackwater snapshot list` and `get` say of a snapshot's worth, age and size."""

import time

import pytest

from slackwater.cli.commands.tasks import shown
from slackwater.v1 import record_pb2, resources_pb2
from slackwater.v1 import snapshot_pb2 as api
from tests.unit.cli import messages as m
from tests.unit.cli.conftest import CommandLine

CONFIRMED = record_pb2.Outcome(state=record_pb2.Outcome.STATE_CONFIRMED)
REVOKED = record_pb2.Outcome(state=record_pb2.Outcome.STATE_REVOKED)
UNNAMED = record_pb2.Outcome(message_id="m1")


@pytest.mark.parametrize(
    ("row", "word"),
    [
        (resources_pb2.Snapshot(), "-"),
        (resources_pb2.Snapshot(awaits_outcome=True), "to come"),
        (resources_pb2.Snapshot(judgement=CONFIRMED), "yes"),
        (resources_pb2.Snapshot(judgement=REVOKED), "revoked"),
        (resources_pb2.Snapshot(judgement=UNNAMED), "revoked"),
    ],
)
def test_grade_is_confirmed_only_by_a_confirmed_outcome(
    row: resources_pb2.Snapshot, word: str
) -> None:
    assert shown.confirmed(row) == word


@pytest.mark.parametrize("words", ["snapshot list demo", "snapshot get demo s1"])
def test_age_and_bytes_of_all_volumes_are_shown(cli: CommandLine, words: str) -> None:
    row = resources_pb2.Snapshot()
    row.CopyFrom(m.SNAPSHOT)
    row.judgement.CopyFrom(CONFIRMED)
    row.create_time.FromSeconds(int(time.time()) - 3 * 86_400 - 1800)
    row.volumes[0].preserved_bytes = 3 << 20
    row.volumes.add(volume="log", size_bytes=8 << 20, preserved_bytes=1 << 20)
    cli.snapshot.answers["ListSnapshots"] = api.SnapshotServiceListSnapshotsResponse(
        snapshots=[row]
    )
    printed = cli(*words.split())
    assert "3d00h ago" in printed and "4MiB" in printed and "confirmed" in printed.lower()
