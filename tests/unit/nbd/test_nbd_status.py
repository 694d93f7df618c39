"""The error tables are total and never answer success."""

import errno
from collections.abc import Iterator

import pytest

from slackwater import errors
from slackwater.nbd import status, wire


def subclasses(kind: type[errors.SlackwaterError]) -> Iterator[type[errors.SlackwaterError]]:
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from subclasses(child)


def test_every_error_has_an_errno_of_its_own_choice() -> None:
    assert set(status.ERRNOS) == set(subclasses(errors.SlackwaterError))


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_every_errno_becomes_one_the_protocol_knows(number: int) -> None:
    assert status.error_on_wire(number) in {1, 5, 12, 22, 28, 75, 95, 108}


@pytest.mark.parametrize(
    ("number", "expected"),
    [(errno.EROFS, 1), (errno.ENOSPC, 28), (errno.EDQUOT, 28), (errno.ENOTSUP, 95), (9999, 5)],
)
def test_errno_keeps_its_meaning(number: int, expected: int) -> None:
    assert status.error_on_wire(number) == expected


def test_errors_are_answered_by_their_class() -> None:
    assert status.errno_of(errors.NoSpace("the log")) == errno.ENOSPC
    assert status.errno_of(OSError(errno.ENOSPC, "full")) == errno.ENOSPC


def test_error_without_errno_is_an_io_error() -> None:
    assert status.errno_of(OSError("no number")) == errno.EIO
    assert status.errno_of(errors.SlackwaterError("the root")) == errno.EIO


def test_child_of_a_known_error_is_answered_as_its_parent() -> None:
    class Fuller(errors.NoSpace):
        pass

    assert status.errno_of(Fuller("x")) == errno.ENOSPC


def test_option_reply_falls_back_to_policy() -> None:
    assert status.option_reply_of(errors.SlackwaterError("x")) == wire.REP_ERR_POLICY
