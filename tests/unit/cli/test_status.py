"""`slackwater status`: one screen, and what could not be seen."""

from collections.abc import Callable

import pytest

from slackwater.errors import NotFound
from slackwater.v1 import (
    primary_pb2,
    resources_pb2,
    secondary_pb2,
    snapshot_pb2,
)
from tests.unit.cli import messages as m
from tests.unit.cli.conftest import CommandLine


@pytest.fixture
def busy(cli: CommandLine) -> CommandLine:
    """All three have something to say."""
    cli.primary.answers["GetStatus"] = m.PRIMARY_STATUS
    cli.secondary.answers["GetStatus"] = m.SECONDARY_STATUS
    cli.snapshot.answers["GetStatus"] = m.SNAPSHOT_STATUS
    return cli


@pytest.mark.parametrize(
    "words",
    [
        "GROUP demo  READY",
        "log 12% of 64MiB",
        "2 NBD clients, 1 pending message",
        "data 256MiB",
        "STREAMING",
        "3MiB",
        "1.5s",
        "FROZEN at 1/42, durable 1/90, backlog 32MiB, log 50% of 64MiB",
        "heard 1h",
        f"1/42, message {m.MESSAGE}",
        "the unfreeze (application backup)",
        "holder     me@there",
        "in 9m",
        "32MiB received and not applied",
        f"next:  slackwater ibc unfreeze {m.MESSAGE}",
        "sees primary, secondary UNREACHABLE (last 1m15s ago)",
        "site here",
    ],
)
def test_status_shows(busy: CommandLine, words: str) -> None:
    assert words in busy("status")


def test_status_fits_a_screen(busy: CommandLine) -> None:
    lines = busy("status").splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 110


def test_status_names_each_service_it_could_not_reach_and_shows_the_rest(
    busy: CommandLine, closed_port: Callable[[], str]
) -> None:
    busy.environment["SLACKWATER_SECONDARY"] = closed_port()
    shown = busy("status", code=3)
    row = next(line for line in shown.splitlines() if line.startswith("secondary"))
    assert "UNREACHABLE" in row
    assert "connection refused" in row
    assert "next:  secondary: python -m services.secondary" in shown
    assert "GROUP demo  READY" in shown  # with the Secondary's state as the Primary last heard it


def test_status_in_json_says_what_was_reached(
    busy: CommandLine, closed_port: Callable[[], str]
) -> None:
    busy.environment["SLACKWATER_SNAPSHOT"] = closed_port()
    found = busy.json("status", code=3)
    assert [row["reachable"] for row in found["services"]] == [True, True, False]
    assert found["snapshot"] is None
    assert found["primary"]["groups"][0]["links"][0]["lagBytes"] == str(3 * m.MIB)


def test_status_of_nothing_says_how_to_begin(cli: CommandLine) -> None:
    assert "next:  slackwater group create demo" in cli("status")


def test_status_of_a_group_without_links_says_how_to_attach_one(busy: CommandLine) -> None:
    alone = primary_pb2.GroupStatus(group=m.GROUP)
    busy.primary.answers["GetStatus"] = primary_pb2.PrimaryServiceGetStatusResponse(groups=[alone])
    assert "next:  slackwater link create demo/site-b" in busy("status")


def test_status_shows_a_replica_whose_primary_is_elsewhere(busy: CommandLine) -> None:
    busy.primary.answers["GetStatus"] = primary_pb2.PrimaryServiceGetStatusResponse()
    assert "GROUP demo  on its Secondary only" in busy("status")


def test_status_shows_syncs_failures_and_runs(busy: CommandLine) -> None:
    sync = resources_pb2.SyncProgress(total_bytes=100 << 20, done_bytes=25 << 20)
    link = resources_pb2.Link(name="groups/demo/links/site-b", sync=sync, state_reason="gone away")
    group = primary_pb2.GroupStatus(group=m.GROUP, links=[link])
    busy.primary.answers["GetStatus"] = primary_pb2.PrimaryServiceGetStatusResponse(groups=[group])
    replica = resources_pb2.Replica(name="groups/demo", sync=sync, state_reason="being copied")
    busy.secondary.answers["GetStatus"] = secondary_pb2.SecondaryServiceGetStatusResponse(
        replicas=[replica]
    )
    run = snapshot_pb2.Run(
        name=m.RUN,
        state=snapshot_pb2.Run.STATE_WAITING,
        steps=[snapshot_pb2.RunStep(step="receive")],
    )
    busy.snapshot.answers["GetStatus"] = snapshot_pb2.SnapshotServiceGetStatusResponse(runs=[run])
    shown = busy("status")
    for words in (
        "25%",
        "25MiB of 100MiB",
        "gone away",
        "being copied",
        "NOT CONNECTED",
        "WAITING",
    ):
        assert words in shown


def test_status_of_an_unknown_group_is_not_found(busy: CommandLine) -> None:
    missing = NotFound("group", "none", "slackwater group list")
    busy.primary.answers["GetStatus"] = missing
    assert "FROZEN" in busy("status", "demo")  # the other side knows it
    busy.secondary.answers["GetStatus"] = missing
    busy("status", "none", code=4)
    assert "there is no group 'none'" in busy.error
