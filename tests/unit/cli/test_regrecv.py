"""`ibc regrecv`: its exit status is the command's, and the replica is always unfrozen."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from slackwater.cli import hold
from slackwater.cli.commands.ibc import shift
from slackwater.errors import FailedPrecondition, NotFound
from slackwater.v1 import common_pb2, secondary_pb2
from tests.unit.cli import messages as m
from tests.unit.cli.conftest import CommandLine
from tests.unit.cli.fakes import DESCRIPTORS, FakeService
from tests.unit.cli.lease import Lease, Response, thawed

REGRECV = ("ibc", "regrecv", "demo", "backup", "--holder", "me")
SHOW = "import json, os; print(json.dumps(dict(os.environ)))"


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hold, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(hold, "AGAIN_SECONDS", 0.02)
    monkeypatch.setattr(shift, "TICK_SECONDS", 0.02)


@pytest.fixture
def lease(cli: CommandLine) -> Lease:
    script = Lease()
    cli.secondary.answers["HoldMessage"] = script
    return script


def registered(cli: CommandLine) -> None:
    """Let the name be there already."""
    cli.secondary.answers["ListApplications"] = (
        secondary_pb2.SecondaryServiceListApplicationsResponse(applications=[m.APPLICATION])
    )


@pytest.mark.parametrize("status", [0, 1, 3, 122, 255])
def test_exit_status_of_the_command_is_ours_and_the_replica_goes_on(
    cli: CommandLine, lease: Lease, status: int
) -> None:
    cli(*REGRECV, "--", "sh", "-c", f"exit {status}", code=status)
    assert lease.said == ["unfreeze"]
    assert lease.openings[0].holder == "me"
    assert f"the command ended with {status}; UNFROZEN after 12ms" in cli.error


def test_command_that_a_signal_ended_is_128_and_its_number(cli: CommandLine, lease: Lease) -> None:
    cli(*REGRECV, "--", "sh", "-c", "kill -KILL $$", code=128 + signal.SIGKILL)
    assert lease.said == ["unfreeze"]


def test_name_that_was_registered_for_this_is_taken_back(cli: CommandLine, lease: Lease) -> None:
    cli(*REGRECV, "--", "true")
    assert len(cli.secondary.asked("RegisterApplication")) == 1
    assert cli.secondary.asked("UnregisterApplication")[0].application == "backup"
    names = [name for name, _ in cli.secondary.requests]
    assert names.index("RegisterApplication") < names.index("HoldMessage")
    assert names[-1] == "UnregisterApplication"


def test_name_that_was_there_before_is_left(cli: CommandLine, lease: Lease) -> None:
    registered(cli)
    cli(*REGRECV, "--", "true")
    assert not cli.secondary.asked("RegisterApplication")
    assert not cli.secondary.asked("UnregisterApplication")


def test_name_that_cannot_be_taken_back_is_said_and_changes_no_status(
    cli: CommandLine, lease: Lease
) -> None:
    cli.secondary.answers["UnregisterApplication"] = FailedPrecondition(
        "MESSAGE_PENDING", "a message of 'backup' is pending", ""
    )
    cli(*REGRECV, "--", "sh", "-c", "exit 4", code=4)
    assert "backup stays registered: a message of 'backup' is pending" in cli.error


def test_command_is_told_of_the_message(
    cli: CommandLine, lease: Lease, capfd: pytest.CaptureFixture[str]
) -> None:
    lease.delivers = secondary_pb2.DeliveredMessage(
        name=m.MESSAGE,
        application="backup",
        behaviour=common_pb2.MESSAGE_BEHAVIOUR_FREEZE,
        position=m.POSITION,
        task="tasks/nightly",
    )
    cli(*REGRECV, "--", sys.executable, "-c", SHOW)
    told = json.loads(capfd.readouterr().out)
    assert {name: told[f"SLACKWATER_{name}"] for name in ("GROUP", "APPLICATION", "TASK")} == {
        "GROUP": "demo",
        "APPLICATION": "backup",
        "TASK": "nightly",
    }
    assert told["SLACKWATER_MESSAGE_ID"] == "m1"
    assert told["SLACKWATER_POSITION"] == "1/42"
    assert told["SLACKWATER_BEHAVIOUR"] == "freeze"
    assert told["SLACKWATER_SECONDARY"] == cli.secondary.address  # a slackwater in it talks there
    assert told["SLACKWATER_SNAPSHOT"] == cli.snapshot.address
    assert not Path(told["SLACKWATER_BODY_FILE"]).exists()


def test_body_is_in_a_file_whatever_its_bytes(
    cli: CommandLine, lease: Lease, capfd: pytest.CaptureFixture[str]
) -> None:
    lease.delivers = secondary_pb2.DeliveredMessage(
        name=m.MESSAGE, behaviour=common_pb2.MESSAGE_BEHAVIOUR_FREEZE, data=b"\xff\x00\n"
    )
    cli(*REGRECV, "--", "sh", "-c", 'od -An -tx1 "$SLACKWATER_BODY_FILE"')
    assert capfd.readouterr().out.split() == ["ff", "00", "0a"]


def test_body_is_kept_in_a_named_file(cli: CommandLine, lease: Lease, tmp_path: Path) -> None:
    kept = tmp_path / "body"
    cli(
        *REGRECV,
        "-f",
        str(kept),
        "--",
        "sh",
        "-c",
        'test "$SLACKWATER_BODY_FILE" = "$0"',
        str(kept),
    )
    assert kept.read_bytes() == b"nightly"


def test_file_that_cannot_be_written_is_found_before_the_freeze(
    cli: CommandLine, lease: Lease, tmp_path: Path
) -> None:
    cli(*REGRECV, "-f", str(tmp_path / "none" / "body"), "--", "true", code=125)
    assert lease.said == []


def test_command_reads_an_empty_input(cli: CommandLine, lease: Lease) -> None:
    cli(*REGRECV, "--", "sh", "-c", 'test -z "$(cat)"')


def test_command_that_is_not_there_is_refused_before_anything_is_done(
    cli: CommandLine, tmp_path: Path
) -> None:
    cli(*REGRECV, "--", "no-such-command-here", code=127)
    plain = tmp_path / "plain"
    plain.write_text("#!/bin/sh\n")
    cli(*REGRECV, "--", str(plain), code=126)
    assert "chmod +x" in cli.error
    assert cli.secondary.requests == []


def test_command_that_cannot_be_started_leaves_no_freeze(
    cli: CommandLine, lease: Lease, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF")
    broken.chmod(0o755)
    cli(*REGRECV, "--", str(broken), code=126)
    assert lease.said == ["unfreeze"]


def test_no_message_in_time_is_124(cli: CommandLine, lease: Lease) -> None:
    lease.delivers = None
    cli(*REGRECV, "--receive-timeout", "0", "--", "true", code=124)
    assert "no message for backup" in cli.error
    assert cli.secondary.asked("UnregisterApplication")


def test_own_failures_are_not_taken_for_the_commands(cli: CommandLine) -> None:
    cli.secondary.answers["HoldMessage"] = lambda _: NotFound("application", "backup")
    cli(*REGRECV, "--", "true", code=125)
    cli.secondary.answers["ListApplications"] = NotFound("replica", "groups/demo")
    cli(*REGRECV, "--output", "json", "--", "true", code=125)
    assert json.loads(cli.error)["error"]["exitCode"] == 125


def test_stopped_receiver_ends(cli: CommandLine) -> None:
    cli.secondary.answers["HoldMessage"] = lambda _: FailedPrecondition("STOPPED", "stopped", "")
    cli(*REGRECV, "--", "true", code=125)
    assert "error: stopped" in cli.error


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_is_passed_on_to_the_command_and_the_replica_goes_on(
    cli: CommandLine, lease: Lease, tmp_path: Path, number: signal.Signals
) -> None:
    ready = tmp_path / "ready"
    lease.then = lambda: _when(ready.exists, lambda: os.kill(os.getpid(), number))
    name = number.name.removeprefix("SIG")
    script = f"trap 'exit 9' {name}; touch {ready}; while :; do sleep 0.02; done"
    cli(*REGRECV, "--", "bash", "-c", script, code=9)
    assert lease.said == ["unfreeze"]


def test_signal_while_waiting_takes_the_name_back(cli: CommandLine, lease: Lease) -> None:
    lease.delivers = None
    before = signal.getsignal(signal.SIGTERM)
    lease.then = lambda: _when(lambda: True, lambda: os.kill(os.getpid(), signal.SIGTERM))
    cli(*REGRECV, "--", "true", code=128 + signal.SIGTERM)
    assert "SIGTERM before a message came" in cli.error
    assert cli.secondary.asked("UnregisterApplication")
    assert signal.getsignal(signal.SIGTERM) is before


def test_command_that_hangs_is_ended_at_its_timeout(cli: CommandLine, lease: Lease) -> None:
    cli(*REGRECV, "--command-timeout", "100ms", "--", "sleep", "600", code=124)
    assert "out of time" in cli.error
    assert lease.said == ["unfreeze"]


def test_command_that_ignores_its_end_is_killed(
    cli: CommandLine, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shift, "KILL_SECONDS", 0.3)
    script = "trap '' TERM; while :; do sleep 0.02; done"
    cli(*REGRECV, "--command-timeout", "200ms", "--", "bash", "-c", script, code=124)
    assert "SIGKILL" in cli.error
    assert lease.said == ["unfreeze"]


@pytest.mark.parametrize("state", ["LEASE_LOST", "FREEZE_TIMED_OUT", "FREEZE_LOG_LIMIT"])
def test_freeze_that_ends_under_the_command_is_loud(  # C12, C13
    cli: CommandLine, lease: Lease, tmp_path: Path, state: str
) -> None:
    ended = tmp_path / "ended"
    lease.then = lambda: [thawed(common_pb2.VerdictState.Value(f"VERDICT_STATE_{state}"))]
    cli(*REGRECV, "--", "sh", "-c", f"sleep 0.3; touch {ended}", code=122)
    assert f"warning: the freeze is over ({state})" in cli.error
    assert "not to be trusted" in cli.error
    assert ended.exists()  # it ran to its end


def test_replica_that_the_command_unfroze_itself_is_no_failure(
    cli: CommandLine, lease: Lease
) -> None:
    lease.then = lambda: [thawed()]
    cli(*REGRECV, "--", "sh", "-c", "sleep 0.2; exit 6", code=6)
    assert "somebody unfroze the replica" in cli.error


def test_unfreeze_that_nobody_confirms_is_123(cli: CommandLine, lease: Lease) -> None:
    lease.thaws = False
    cli(*REGRECV, "--timeout", "1", "--", "true", code=123)
    assert f"next:  slackwater ibc unfreeze {m.MESSAGE}" in cli.error
    lease.said.clear()
    cli(*REGRECV, "--timeout", "1", "--", "sh", "-c", "exit 2", code=2)
    assert "warning: the command ended with 2, but the Secondary did not confirm" in cli.error


def test_heartbeats_go_on_while_the_command_runs(cli: CommandLine, lease: Lease) -> None:
    cli(*REGRECV, "--", "sleep", "0.5")
    assert lease.beats >= 3


def test_message_that_needs_no_freeze_is_only_run_for(cli: CommandLine, lease: Lease) -> None:
    lease.delivers = secondary_pb2.DeliveredMessage(
        name=m.MESSAGE,
        behaviour=common_pb2.MESSAGE_BEHAVIOUR_SNAPSHOT,
        snapshot="groups/demo/snapshots/ibc-1",
    )
    cli(*REGRECV, "--", "sh", "-c", 'test "$SLACKWATER_SNAPSHOT_ID" = ibc-1')
    assert "nothing was frozen" in cli.error
    assert lease.said == []


def test_broken_stream_is_taken_up_again_under_the_message(
    cli: CommandLine, lease: Lease, tmp_path: Path
) -> None:
    """C13: the holder comes back with the message's name, and unfreezes there."""
    services: list[FakeService] = []
    address = cli.secondary.address

    def restart() -> None:
        cli.secondary.stop()
        again = FakeService(DESCRIPTORS["secondary"], address)
        again.answers["HoldMessage"] = second
        services.append(again)

    second = Lease()
    go_on = tmp_path / "go-on"
    second.then = lambda: _when(lambda: True, go_on.touch)
    script = f"{sys.executable} -c pass; while ! test -e {go_on}; do sleep 0.02; done"
    in_background = threading.Thread(target=restart)
    lease.then = lambda: _when(lambda: True, in_background.start)
    try:
        cli(*REGRECV, "--", "sh", "-c", script)
        assert second.openings[0].message == m.MESSAGE
        assert second.said == ["unfreeze"]
        assert "the Secondary cannot be heard" in cli.error
    finally:
        in_background.join()
        for service in services:
            service.stop()


def test_summary_for_programs_is_on_standard_error(cli: CommandLine, lease: Lease) -> None:
    assert cli(*REGRECV, "--output", "json", "--", "true") == ""
    assert json.loads(cli.error) == {
        "message": m.MESSAGE,
        "state": "UNFROZEN",
        "frozenFor": "0.012s",
        "exitCode": 0,
    }


def test_time_for_a_command_is_more_than_nothing(cli: CommandLine) -> None:
    cli(*REGRECV, "--command-timeout", "0", "--", "true", code=2)


def _when(condition: Callable[[], bool], act: Callable[[], object]) -> list[Response]:
    """Act once something is so; nothing is answered."""
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    act()
    return []
