"""docs/ibc.md shows every promise by tests that exist, and every verdict."""

import re
from pathlib import Path

import pytest

from slackwater.v1 import common_pb2

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs/ibc.md").read_text()
TABLE = PAGE.partition("## Which test shows what")[2]
ROWS = dict(re.findall(r"^\| (C\d+|row: [^|]+?)\b([^\n]*)$", TABLE, re.MULTILINE))
LATER = {"C13"}
"""Promises of this release that are not built yet; the page says so at its top."""


def test_every_promise_has_its_row() -> None:
    numbers = {f"C{number}" for number in range(1, 21)}
    assert set(ROWS) == numbers - LATER
    assert all(number in PAGE.partition("## A replica's moment")[0] for number in LATER)


@pytest.mark.parametrize("promise", ROWS)
def test_tests_that_show_a_promise_exist(promise: str) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", ROWS[promise])
    assert named, f"{promise} is shown by nothing"
    for path, name in named:
        source = (REPOSITORY / path).read_text()
        assert re.search(rf"^ *(async )?def {name}\(", source, re.MULTILINE), f"{path}::{name}"


def test_every_verdict_is_explained() -> None:
    words = {name.removeprefix("VERDICT_STATE_") for name in common_pb2.VerdictState.keys()}
    explained = PAGE.partition("## Verdicts")[2].partition("## Quiesce")[0]
    missing = {word for word in words - {"UNSPECIFIED"} if not re.search(rf"\b{word}\b", explained)}
    assert not missing


def test_time_lines_are_there() -> None:
    assert "```mermaid\nsequenceDiagram" in PAGE
    assert "◀── deliver timeout ──▶" in PAGE
