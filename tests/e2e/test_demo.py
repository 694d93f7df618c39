"""The demo itself: it holds, it cleans up, and it never pretends."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo import mounts
from demo.sites import REPOSITORY
from tests.support.tools import lacking

pytestmark = [pytest.mark.timeout(400), pytest.mark.slow]

COMMAND = [sys.executable, "-m", "demo"]


def environment(directory: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(directory), "CI": "", **more}


def left_behind(directory: Path) -> list[str]:
    """Mounts, loop devices, processes and files that still know the demo's directory."""
    found = [row for row in Path("/proc/mounts").read_text().splitlines() if str(directory) in row]
    if os.geteuid() == 0:
        listed = mounts.run("losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE")
        found += [row for row in listed.splitlines() if str(directory) in row]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(directory) in words:
            found.append(words)
    return found + [path.name for path in directory.iterdir()]


@pytest.fixture
def room() -> Iterator[Path]:
    """A directory with a short name: the demo's sockets stand below it."""
    with tempfile.TemporaryDirectory(prefix="sw-", dir="/tmp") as directory:
        yield Path(directory)


@pytest.fixture
def real() -> None:
    """Skip where no file system can be mounted; CI may not."""
    lacks = mounts.missing()
    if lacks:
        lacking(f"this machine lacks {lacks}")


@pytest.mark.usefixtures("real")
def test_demo_holds_and_leaves_nothing_behind(room: Path) -> None:
    done = subprocess.run(
        COMMAND,
        cwd=REPOSITORY,
        env=environment(room, CI="true"),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All of it held" in done.stdout
    assert "R E D U C E D" not in done.stdout
    assert left_behind(room) == []


@pytest.mark.usefixtures("real")
def test_interrupted_demo_leaves_nothing_behind(room: Path) -> None:
    with subprocess.Popen(
        COMMAND,
        cwd=REPOSITORY,
        env=environment(room),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as demo:
        deadline = time.monotonic() + 60
        while not list(room.glob("*/primary-fs/mnt/folder-000")):
            assert demo.poll() is None, "it ended before it copied a file"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        demo.send_signal(signal.SIGINT)
        assert demo.wait(60) == 130
    assert left_behind(room) == []


def test_reduced_demo_says_so_and_holds(room: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "--reduced"],
        cwd=REPOSITORY,
        env=environment(room),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "R E D U C E D" in done.stdout
    assert "All of it held" in done.stdout
    assert left_behind(room) == []


def test_demo_in_ci_never_falls_back(room: Path) -> None:
    done = subprocess.run(
        COMMAND,
        cwd=REPOSITORY,
        env=environment(room, CI="true", PATH="/nonexistent"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "nbdfuse" in done.stdout
    assert "nothing was started" in done.stdout
