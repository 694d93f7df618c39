"""A file system on an NBD export: nbdfuse makes it a file, a loop device a disk, ext4 the rest."""

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from slackwater.attach import system

WAIT_SECONDS = 15.0
COMMAND_SECONDS = 60.0
TOOLS = ("nbdfuse", "losetup", "mkfs.ext4", "mount", "umount", "fsfreeze", "e2fsck")


class MountError(Exception):
    """A step of the way from export to file system failed."""


def missing() -> list[str]:
    """What this machine lacks for a real file system over NBD, as words for people."""
    lacks = [f"the program {tool}" for tool in TOOLS if not system.has(tool)]
    if os.geteuid() != 0:
        lacks.append("root")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        lacks.append("/dev/fuse")
    if not os.access("/dev/loop-control", os.R_OK | os.W_OK):
        lacks.append("/dev/loop-control")
    return lacks


def run(*command: str, timeout_seconds: float = COMMAND_SECONDS) -> str:
    """Run a command to its end and return what it printed; an error carries what it said."""
    try:
        return system.run(*command, seconds=timeout_seconds)
    except system.AttachError as error:
        raise MountError(str(error)) from error


@contextlib.contextmanager
def as_file(uri: str, directory: Path, *, read_only: bool = False) -> Iterator[Path]:
    """An NBD export as a file in `directory`, while the context lasts."""
    directory.mkdir(parents=True, exist_ok=True)
    command = ["nbdfuse", *(["-r"] if read_only else []), f"{directory}/disk", uri]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    disk = directory / "disk"
    try:
        _wait_for(disk, process, uri)
        yield disk
    finally:
        _leave(lambda: run("umount", str(directory)))
        try:
            process.wait(WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            _leave(lambda: run("umount", "-l", str(directory)))
        if process.stderr:
            process.stderr.close()


@contextlib.contextmanager
def as_disk(disk: Path, *, read_only: bool = False) -> Iterator[str]:
    """A file as a loop device, while the context lasts."""
    flags = ["--read-only"] if read_only else []
    device = run("losetup", "--find", "--show", *flags, str(disk)).strip()
    try:
        yield device
    finally:
        _leave(lambda: run("losetup", "--detach", device))


@contextlib.contextmanager
def mounted(device: str, where: Path, options: str = "") -> Iterator[Path]:
    """A device mounted on `where`, while the context lasts."""
    where.mkdir(parents=True, exist_ok=True)
    run("mount", *(["-o", options] if options else []), device, str(where))
    try:
        yield where
    finally:
        thaw(where)
        try:
            run("umount", str(where))
        except MountError:  # still in use: it goes with its last user
            _leave(lambda: run("umount", "--lazy", str(where)))


@contextlib.contextmanager
def file_system(
    uri: str, directory: Path, *, make: bool = False, read_only: bool = False
) -> Iterator[Path]:
    """The whole way: export, file, disk, mount; with `make` an ext4 is made on it first."""
    with contextlib.ExitStack() as stack:
        disk = stack.enter_context(as_file(uri, directory / "fuse", read_only=read_only))
        device = stack.enter_context(as_disk(disk, read_only=read_only))
        if make:
            make_file_system(device)
        options = "ro,norecovery" if read_only else "noatime"
        yield stack.enter_context(mounted(device, directory / "mnt", options))


def make_file_system(device: str) -> None:
    """An ext4 whose tables are all written at once, so that nothing trickles in later."""
    lazy = "lazy_itable_init=0,lazy_journal_init=0"
    run("mkfs.ext4", "-q", "-F", "-b", "4096", "-E", lazy, device)


def freeze(where: Path) -> None:
    """Sync a file system and let no write into it until the thaw."""
    run("fsfreeze", "--freeze", str(where))


def thaw(where: Path) -> None:
    """Let writes in again; fine if it was not frozen."""
    _leave(lambda: run("fsfreeze", "--unfreeze", str(where)))


def check_file_system(disk: Path) -> tuple[bool, str]:
    """`e2fsck -fn`, which changes nothing: clean or not, and what it said."""
    done = subprocess.run(
        ["e2fsck", "-fn", str(disk)],
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
        env=system.environment(),
    )
    return done.returncode == 0, (done.stdout + done.stderr).strip()


def _wait_for(disk: Path, process: subprocess.Popen[bytes], uri: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        with contextlib.suppress(OSError):
            if disk.stat().st_size:
                return
        if process.poll() is not None:
            said = process.stderr.read().decode(errors="replace") if process.stderr else ""
            raise MountError(f"nbdfuse could not open {uri}: {said.strip()}")
        if time.monotonic() > deadline:
            raise MountError(f"nbdfuse did not show {uri} within {WAIT_SECONDS:.0f} s")
        time.sleep(0.01)


def _leave(step: Callable[[], object]) -> None:
    """A step on the way out: what it undoes may be gone already."""
    with contextlib.suppress(MountError):
        step()
