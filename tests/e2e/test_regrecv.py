"""`slackwater ibc regrecv` against real services: whatever happens, the replica goes on (C13)."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from slackwater.v1 import common_pb2, primary_pb2
from tests.support.processes import CALL_SECONDS, MIB, Cluster, wait_until
from tests.support.typed import Running, Typed

pytestmark = pytest.mark.timeout(180)

NAME = "dss"
"""Registered on the Primary only: regrecv registers it where it receives."""


class Site:
    """A cluster with the command line, and a directory where commands leave marks."""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        """Replicate, and register the name on the Primary."""
        self.cluster = cluster.replicate(data=MIB)
        self.slackwater = Typed(cluster)
        self.directory = directory
        self.slackwater("ibc", "register", "demo", NAME, "--side", "primary")

    def mark(self, name: str) -> Path:
        """A file that a command makes."""
        return self.directory / name

    def start(self, script: str, *options: str) -> Running:
        """Start a receiver, and wait until it waits."""
        words = ["ibc", "regrecv", "demo", NAME, *options, "--", "bash", "-c", script]
        running = self.slackwater.start(*words)
        wait_until("the name is registered there", lambda: NAME in self.names())
        return running

    def send(self, *options: str) -> str:
        """Send a message that freezes; its name."""
        words = ["ibc", "send", "demo", NAME, "--fence", *options]
        return str(self.slackwater.json(*words)["message"]["name"])

    def names(self) -> list[str]:
        """The names registered on the Secondary."""
        found = self.slackwater.json("ibc", "status", "demo")["applications"]["secondary"]
        return [row["application"] for row in found]

    def verdict(self, message: str) -> str:
        """The final verdict of a message; waits for it."""
        found: list[str] = []

        def is_final() -> bool:
            request = primary_pb2.GetMessageRequest(name=message)
            row = self.cluster.primary_api.GetMessage(request, timeout=CALL_SECONDS).message
            found[:] = [common_pb2.VerdictState.Name(one.state) for one in row.verdicts]
            return row.final

        wait_until("the verdict is final", is_final)
        return found[0].removeprefix("VERDICT_STATE_")

    def goes_on(self) -> None:
        """The replica takes what is written now."""
        with self.cluster.device(1) as device:
            device.write(0, b"after".ljust(512))
        self.cluster.wait_no_lag()


@pytest.fixture
def site(cluster: Cluster, tmp_path: Path) -> Iterator[Site]:
    work = tmp_path / "marks"
    work.mkdir()
    site = Site(cluster, work)
    with site.slackwater:
        yield site
    for left in work.glob("*.pid"):  # commands that outlived what started them, on purpose
        try:
            os.killpg(int(left.read_text()), signal.SIGKILL)
        except (ProcessLookupError, ValueError):
            continue


def test_command_runs_at_the_point_and_the_name_goes_again(site: Site) -> None:
    body = site.mark("body")
    body.write_bytes(b"\xff\x00\xfe")
    running = site.start(
        'cmp "$SLACKWATER_BODY_FILE" ' + str(body) + " && slackwater -o json replica get demo"
    )
    message = site.send("--file", str(body))
    stood = json.loads(running.ends())
    assert (stood["state"], stood["freeze"]["message"]) == ("REPLICA_STATE_FROZEN", message)
    assert stood["freeze"]["leased"]
    assert site.verdict(message) == "UNFROZEN"
    assert NAME not in site.names()
    site.goes_on()


def test_snapshot_that_the_command_takes_is_at_the_message(site: Site) -> None:
    running = site.start("slackwater snapshot create demo nightly")
    message = site.send()
    running.ends()
    snapshot = site.slackwater.json("snapshot", "get", "demo", "nightly")
    assert snapshot["message"] == message


@pytest.mark.parametrize(
    ("script", "code"), [("exit 3", 3), ("kill -KILL $$", 137), ("sleep 600 & exit 5", 5)]
)
def test_command_that_fails_or_is_killed_leaves_no_freeze(
    site: Site, script: str, code: int
) -> None:
    running = site.start(f"echo $$ > {site.mark('command.pid')}; exec 1>&- 2>&-; {script}")
    message = site.send()
    running.ends(code)
    assert site.verdict(message) == "UNFROZEN"
    site.goes_on()


def test_command_that_hangs_is_ended_and_leaves_no_freeze(site: Site) -> None:
    running = site.start("sleep 600", "--command-timeout", "1s")
    message = site.send()
    running.ends(124)
    assert site.verdict(message) == "UNFROZEN"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_goes_to_the_command_and_leaves_no_freeze(
    site: Site, number: signal.Signals
) -> None:
    runs = site.mark("runs")
    running = site.start(f"touch {runs}; exec sleep 600")
    message = site.send()
    wait_until("the command runs", runs.exists)
    running.signal(number)
    running.ends(128 + number)
    assert site.verdict(message) == "UNFROZEN"
    assert NAME not in site.names()
    site.goes_on()


def test_signal_while_waiting_leaves_nothing(site: Site) -> None:
    running = site.start("true")
    running.signal(signal.SIGTERM)
    running.ends(128 + signal.SIGTERM)
    assert NAME not in site.names()


def test_receiver_that_is_killed_loses_its_lease_and_the_replica_goes_on(site: Site) -> None:
    runs = site.mark("command.pid")
    running = site.start(f"echo $$ > {runs}; exec sleep 600")
    message = site.send()
    wait_until("the command runs", lambda: runs.exists() and bool(runs.read_text()))
    running.kill()
    assert site.verdict(message) == "LEASE_LOST"
    site.goes_on()


def test_receiver_that_stood_still_too_long_is_told_that_its_lease_is_lost(site: Site) -> None:
    runs = site.mark("runs")
    running = site.start(f"touch {runs}; while ! test -e {site.mark('end')}; do sleep 0.1; done")
    message = site.send()
    wait_until("the command runs", runs.exists)
    running.signal(signal.SIGSTOP)
    assert site.verdict(message) == "LEASE_LOST"
    running.signal(signal.SIGCONT)
    site.mark("end").touch()
    running.ends(122)
    assert "LEASE_LOST" in running.error
    site.goes_on()


def test_freeze_timeout_that_the_sender_chose_ends_it_under_the_command(site: Site) -> None:  # C12
    running = site.start(f"while ! test -e {site.mark('end')}; do sleep 0.1; done")
    message = site.send("--freeze-timeout", "1s")
    assert site.verdict(message) == "FREEZE_TIMED_OUT"
    site.mark("end").touch()
    running.ends(122)
    assert "FREEZE_TIMED_OUT" in running.error


def test_secondary_that_dies_under_the_command_is_held_again(site: Site) -> None:  # C14, C15
    runs = site.mark("runs")
    running = site.start(f"touch {runs}; while ! test -e {site.mark('end')}; do sleep 0.1; done")
    message = site.send()
    wait_until("the command runs", runs.exists)
    site.cluster.secondary.kill()
    site.cluster.secondary.start(same_ports=True)

    def is_held() -> bool:
        replica = site.cluster.replica()
        return replica.freeze.message == message and replica.freeze.leased

    wait_until("it is held again", is_held)
    site.mark("end").touch()
    running.ends(0)
    assert site.verdict(message) == "UNFROZEN"


def test_two_receivers_take_one_message_each(site: Site) -> None:  # C10
    site.slackwater("ibc", "register", "demo", NAME)
    took = site.mark("took")
    receivers = [site.start(f"echo $SLACKWATER_MESSAGE_ID >> {took}") for _ in range(2)]
    messages = [site.send(), site.send()]
    for receiver in receivers:
        receiver.ends()
    assert sorted(took.read_text().split()) == sorted(name.split("/")[-1] for name in messages)
    assert [site.verdict(message) for message in messages] == ["UNFROZEN"] * 2
    assert NAME in site.names()


def test_message_in_the_inbox_is_run_for_without_a_freeze(site: Site) -> None:  # C7
    running = site.start('test "$SLACKWATER_BEHAVIOUR" = notify')
    site.send("--no-freeze")
    running.ends()
    assert "nothing was frozen" in running.error


def test_stopped_receiver_ends_and_takes_its_name_back(site: Site) -> None:
    running = site.start("true")

    def is_stopped() -> bool:
        return bool(site.slackwater.json("ibc", "stoprecv", "demo", NAME)["stopped"])

    wait_until("it waits and is stopped", is_stopped)
    running.ends(125)
    assert "stopped" in running.error
    assert NAME not in site.names()
