"""Small file systems of their own, and how to fill them to the last byte."""

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo import mounts

BLOCK_BYTES = 4096
MIB = 1 << 20
PATH = "/usr/sbin:/sbin:/usr/bin:/bin"
MAKE = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-b", str(BLOCK_BYTES), "-m", "0"),
    "xfs": ("mkfs.xfs", "-q", "-f"),
    "btrfs": ("mkfs.btrfs", "-q", "-f"),
}
SMALLEST = {"ext4": 64 * MIB, "xfs": 300 * MIB, "btrfs": 128 * MIB}


@contextlib.contextmanager
def small_disk(directory: Path, size: int) -> Iterator[Path]:
    """A mounted ext4 of this size, with no blocks reserved for anybody; else as `file_system`."""
    with file_system(directory, "ext4", size) as where:
        yield where


@contextlib.contextmanager
def file_system(directory: Path, kind: str, size: int = 0) -> Iterator[Path]:
    """A mounted file system of a kind, as small as may be unless told otherwise.

    Only who is not root may skip the test for want of it, and not in the continuous integration.
    """
    tools = ("losetup", "mount", "umount", MAKE[kind][0])
    lacks = [tool for tool in tools if shutil.which(tool, path=PATH) is None]
    if not os.access("/dev/loop-control", os.R_OK | os.W_OK):
        lacks.append("/dev/loop-control")
    if lacks:
        sentence = f"a small file system needs {', '.join(lacks)}"
        if os.geteuid() == 0 or os.environ.get("CI") == "true":
            pytest.fail(sentence)
        pytest.skip(sentence)
    image = directory / "disk.img"
    with image.open("wb") as file:
        file.truncate(size or SMALLEST[kind])
    with mounts.as_disk(image) as device:
        mounts.run(*MAKE[kind], device)
        with mounts.mounted(device, directory / "disk") as where:
            yield where
    image.unlink()


@contextlib.contextmanager
def filled(where: Path) -> Iterator[None]:
    """Take all room of a file system, also what somebody gives back meanwhile."""
    ballast, stop = where / "ballast", threading.Event()
    is_full = threading.Event()

    def fill() -> None:
        with ballast.open("wb", buffering=0) as file:
            while not stop.is_set():
                for step in (MIB, BLOCK_BYTES, 1):
                    with contextlib.suppress(OSError):
                        while not stop.is_set():
                            file.write(bytes(step))
                is_full.set()
                stop.wait(0.01)

    thread = threading.Thread(target=fill)
    thread.start()
    try:
        assert is_full.wait(60), f"{where} did not fill up"
        yield
    finally:
        stop.set()
        thread.join()
        ballast.unlink()
