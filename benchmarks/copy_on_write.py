"""Other ways to keep a past state under the same load: qcow2 internal snapshots, nbdkit's cow.

Both are served over NBD on a unix socket, as Slackwater's volumes are. Neither replicates.
"""

import random
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from slackwater.snapshots.gather import CHUNK_BYTES

CHANGES: Final = 32
"""Chunks that change between two snapshots, so that each holds something of its own."""
_START_SECONDS: Final = 20.0
_COMMAND_SECONDS: Final = 120.0


class Qcow2:
    """A qcow2 image with internal snapshots, served by qemu-nbd."""

    def __init__(self, directory: Path, size_bytes: int) -> None:
        """Make the image and write all of it; clusters are 64 KiB, as our chunks are."""
        directory.mkdir()
        self._image, self._socket = directory / "image.qcow2", directory / "qcow2.socket"
        self._size_bytes = size_bytes
        self._names: list[str] = []
        self._made = 0
        self._random = random.Random(size_bytes)
        options = f"cluster_size={CHUNK_BYTES}"
        _run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, self._image, size_bytes)
        self._io([f"write -P 1 0 {size_bytes}"])

    def take(self) -> None:
        """Take one more snapshot."""
        name = f"s-{self._made}"
        self._made += 1
        _run("qemu-img", "snapshot", "-c", name, self._image)
        self._names.append(name)

    def change(self) -> None:
        """Change some chunks."""
        chosen = self._random.sample(range(self._size_bytes // CHUNK_BYTES), CHANGES)
        self._io([f"write -P 2 {chunk * CHUNK_BYTES} 4k" for chunk in chosen])

    def drop_oldest(self) -> None:
        """Let the oldest snapshot go."""
        _run("qemu-img", "snapshot", "-d", self._names.pop(0), self._image)

    def _io(self, commands: Sequence[str]) -> None:
        words = [word for command in commands for word in ("-c", command)]
        _run("qemu-io", "-f", "qcow2", *words, self._image)

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Serve it while the context lasts; gives the URI."""
        command = ["qemu-nbd", "-f", "qcow2", "-t", "-k", str(self._socket), "--shared=4"]
        with _served([*command, str(self._image)], self._socket) as uri:
            yield uri


class Nbdkit:
    """A raw image under nbdkit, alone or under its cow filter, whose layer goes with the server."""

    def __init__(self, directory: Path, size_bytes: int, *, cow: bool) -> None:
        """Write the whole image."""
        directory.mkdir()
        self._image, self._socket = directory / "image.raw", directory / "nbdkit.socket"
        self._filter = ["--filter=cow"] if cow else []
        with self._image.open("wb") as file:
            for _ in range(size_bytes >> 20):
                file.write(b"\1" * (1 << 20))

    def take(self) -> None:
        """Its one snapshot comes with the server."""

    def change(self) -> None:
        """Nothing: there is no second snapshot to tell from the first."""

    def drop_oldest(self) -> None:
        """It goes with the server."""

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Serve it while the context lasts, with an empty layer; gives the URI."""
        self._socket.unlink(missing_ok=True)
        command = ["nbdkit", "--foreground", "--unix", str(self._socket), *self._filter]
        with _served([*command, "file", str(self._image)], self._socket) as uri:
            yield uri


def _run(*words: object) -> None:
    command = [str(word) for word in words]
    subprocess.run(command, capture_output=True, timeout=_COMMAND_SECONDS, check=True)


@contextmanager
def _served(command: list[str], socket: Path) -> Iterator[str]:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not socket.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} does not serve")
            time.sleep(0.02)
        yield f"nbd+unix:///?socket={socket}"
    finally:
        process.terminate()
        process.wait(30)
        socket.unlink(missing_ok=True)
