"""What people see when a call fails: one line, the next step, the exit code."""

import json
from collections.abc import Callable

import pytest

from slackwater import errors
from tests.unit.cli.conftest import CommandLine


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (errors.InvalidRequest("size_bytes", "1000 is not a multiple of 512"), 2, "--size: 1000"),
        (errors.OutOfRange("size_bytes", "past the limit"), 2, "--size: past"),
        (errors.Unavailable("the disk", "Wait"), 3, "the disk is not available"),
        (errors.NotFound("group", "demo"), 4, "there is no group 'demo'"),
        (errors.FailedPrecondition("FAILED", "it has failed"), 5, "it has failed"),
        (errors.AlreadyExists("volume", "data"), 5, "volume 'data' exists already"),
        (errors.DeadlineExceeded("the fence", 1), 6, "the fence took longer than 1 s"),
        (errors.NoSpace("the log", "Make room"), 1, "no space in the log"),
        (errors.PermissionDenied("operate"), 1, "not permitted"),
        (errors.DataCorrupt("the map", "bad sum"), 1, "the map is corrupt"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_error_ends_with_its_code_and_says_what_is_wrong(
    cli: CommandLine, error: errors.SlackwaterError, code: int, says: str
) -> None:
    cli.primary.answers["CreateVolume"] = error
    cli("volume", "create", "demo/data", "--size", "1000", code=code)
    first, *rest = cli.error.splitlines()
    assert first.startswith(f"error: {says}")
    assert len(rest) <= 1
    if error.next_step:
        assert rest == [f"next:  {error.next_step}"]


def test_error_is_one_json_document_for_programs(cli: CommandLine) -> None:
    cli.primary.answers["CreateVolume"] = errors.InvalidRequest("size_bytes", "bad", "Do better")
    cli("volume", "create", "demo/data", "--size", "1", "-o", "json", code=2)
    found = json.loads(cli.error)["error"]
    assert found == {
        "code": "INVALID_ARGUMENT",
        "reason": "INVALID_REQUEST",
        "message": "--size: bad",
        "field": "size_bytes",
        "nextStep": "Do better",
        "exitCode": 2,
    }


def test_service_that_is_down_is_named_with_its_address(
    cli: CommandLine, closed_port: Callable[[], str]
) -> None:
    address = closed_port()
    cli("group", "list", "--primary", address, code=3)
    first, second = cli.error.splitlines()
    assert first == f"error: the primary service at {address} cannot be reached: connection refused"
    assert "python -m services.primary" in second


def test_service_that_does_not_answer_meets_the_deadline(cli: CommandLine) -> None:
    import threading

    release = threading.Event()
    cli.primary.answers["ListGroups"] = lambda _: release.wait(20)
    cli("group", "list", "--timeout", "200ms", code=6)
    release.set()
    assert "did not answer within 0.2 s" in cli.error
    assert "--timeout" in cli.error


@pytest.mark.parametrize(
    "words", [("volume", "create"), ("group", "nonsense"), ("link", "create", "demo/x")]
)
def test_what_typer_refuses_ends_with_2(cli: CommandLine, words: tuple[str, ...]) -> None:
    cli(*words, code=2)


def test_version_is_printed(cli: CommandLine) -> None:
    assert cli("--version").startswith("slackwater 0.")
