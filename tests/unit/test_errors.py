"""Errors carry fields, a reason and a sentence."""

import errno
import inspect
import re

import pytest

from slackwater import errors
from slackwater.position import Position

OURS, THEIRS = Position(1, 5, 0xA), Position(1, 5, 0xB)

EVERY = [
    (errors.InvalidRequest("name", "is empty"), "INVALID_REQUEST", "name: is empty"),
    (errors.OutOfRange("offset", "past the end"), "OUT_OF_RANGE", "offset: past the end"),
    (errors.NotFound("group", "g"), "NOT_FOUND", "there is no group 'g'"),
    (errors.AlreadyExists("group", "g"), "ALREADY_EXISTS", "group 'g' exists already"),
    (errors.FailedPrecondition("IS_FROZEN", "it is frozen"), "IS_FROZEN", "it is frozen"),
    (
        errors.OutOfOrder(OURS, Position(1, 9, 0)),
        "GAP",
        "records must continue at 1/5, these follow 1/9",
    ),
    (errors.Fenced(3, 2), "FENCED", "epoch 2 is fenced by epoch 3"),
    (errors.NoSpace("the log"), "NO_SPACE", "no space in the log"),
    (
        errors.QuotaExceeded("size_bytes", "lab", 100, 60, 41),
        "QUOTA_EXCEEDED",
        "size_bytes: 41 bytes beside 60 in use are more than the quota of 100 bytes in the"
        " certificate of lab. Delete volumes that are not needed, or have a certificate with a"
        " larger quota issued",
    ),
    (
        errors.LogCorrupt("1.seg", 4096, "bad"),
        "LOG_CORRUPT",
        "log segment 1.seg is corrupt at byte 4096: bad",
    ),
    (errors.DataCorrupt("overlay", "bad"), "DATA_CORRUPT", "overlay is corrupt: bad"),
    (
        errors.StorageFailed("a/b", "sync", errno.EIO),
        "STORAGE_FAILED",
        "sync of a/b failed: Input/output error",
    ),
    (
        errors.DeadlineExceeded("the fence", 1.5),
        "DEADLINE_EXCEEDED",
        "the fence took longer than 1.5 s",
    ),
    (errors.Unavailable("group 'g'"), "UNAVAILABLE", "group 'g' is not available"),
    (errors.PermissionDenied("Promote"), "PERMISSION_DENIED", "not permitted: Promote"),
]


@pytest.mark.parametrize(
    ("error", "reason", "sentence"), EVERY, ids=[type(row[0]).__name__ for row in EVERY]
)
def test_error_builds_its_sentence(
    error: errors.SlackwaterError, reason: str, sentence: str
) -> None:
    assert str(error) == sentence
    assert error.reason == reason
    assert re.fullmatch(r"[A-Z][A-Z_]+", error.reason)


def test_diverged_shows_both_histories() -> None:
    error = errors.Diverged(OURS, THEIRS)
    assert (error.ours, error.theirs) == (OURS, THEIRS)
    assert "here 1/5 chain 0000000a, there 1/5 chain 0000000b" in str(error)


def test_next_step_ends_the_sentence() -> None:
    error = errors.NotFound("group", "g", "Create it first")
    assert str(error) == "there is no group 'g'. Create it first"
    assert error.next_step == "Create it first"
    assert "restart" in str(errors.GroupFailed("g", "sync failed"))


def test_every_error_is_listed_in_the_tree() -> None:
    classes = {
        name
        for name, value in inspect.getmembers(errors, inspect.isclass)
        if issubclass(value, errors.SlackwaterError)
    }
    assert errors.__doc__ is not None
    assert set(re.findall(r"\* (\w+)", errors.__doc__)) == classes
