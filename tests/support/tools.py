"""Programs from outside that a test needs."""

import os
import shutil
from typing import NoReturn

import pytest

_SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"


def require(tool: str) -> str:
    """Return the path of `tool`; without it the test is skipped, under CI=true it fails.

    A skip on a developer's machine is a convenience. In the continuous integration it would be a
    promise that nobody checked.
    """
    search = os.pathsep.join((os.environ.get("PATH", os.defpath), _SYSTEM_PATH))
    found = shutil.which(tool, path=search)
    if found is None:
        lacking(f"{tool} is not installed: run `make setup` as root")
    return found


def lacking(sentence: str) -> NoReturn:
    """Skip the test for want of something that its sentence names; under CI=true fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(sentence)
    pytest.skip(sentence)
