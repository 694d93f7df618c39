"""docs/ibc.md shows every promise by tests that exist, and every verdict."""

import re
from pathlib import Path

import pytest

from slackwater.v1 import common_pb2

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs/ibc.md").read_text()
TABLE = PAGE.partition("## Which test shows what")[2]
FAILURES = {
    "prefreeze",
    "quiesce, or its time-out",
    "fence or append",
    "resume, or the hold broke",
    "onfreeze, or its time-out",
    "one Secondary of several",
    "the runner dies",
    "the Primary dies in the fence",
    "postfreeze",
}
"""The rows of the table of what fails in a task."""


def rows() -> dict[str, str]:
    """The tests of each promise, and of each row of the failure table."""
    found = {}
    for line in TABLE.splitlines():
        if line.startswith("| ") and "--" not in line:
            promise, _, tests = line.removeprefix("| ").partition(" | ")
            is_number = re.match(r"C\d+ ", promise)
            found[promise.split()[0] if is_number else promise] = tests
    return {promise: tests for promise, tests in found.items() if not tests.startswith("tests")}


ROWS = rows()


def test_every_promise_has_its_row() -> None:
    wanted = {f"C{number}" for number in range(1, 21)} | FAILURES
    assert set(ROWS) == wanted


@pytest.mark.parametrize("promise", ROWS)
def test_tests_that_show_a_promise_exist(promise: str) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", ROWS[promise])
    assert named, f"{promise} is shown by nothing"
    for path, name in named:
        source = (REPOSITORY / path).read_text()
        assert re.search(rf"^ *(async )?def {name}\(", source, re.MULTILINE), f"{path}::{name}"


@pytest.mark.parametrize("failure", sorted(FAILURES))
def test_every_failure_is_shown_with_real_processes(failure: str) -> None:
    assert "`tests/e2e/" in ROWS[failure]


def test_every_verdict_is_explained() -> None:
    words = {name.removeprefix("VERDICT_STATE_") for name in common_pb2.VerdictState.keys()}
    explained = PAGE.partition("## Verdicts")[2].partition("## Quiesce")[0]
    missing = {word for word in words - {"UNSPECIFIED"} if not re.search(rf"\b{word}\b", explained)}
    assert not missing


def test_time_lines_are_there() -> None:
    assert "```mermaid\nsequenceDiagram" in PAGE
    assert "◀── deliver timeout ──▶" in PAGE
