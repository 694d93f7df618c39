"""Where the demo's files live: a real mounted file system, or an image where none can be had."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from demo import mounts
from demo.comparison import Comparison, compare
from demo.sites import Endpoints, Sites
from demo.workload import (
    JOURNAL,
    Appender,
    Copier,
    Disk,
    Mark,
    list_names,
    make_source,
)
from slackwater.nbd.client import Client

FILES = 3000
FILES_BEFORE_THE_MESSAGE = 2000
FILL_SECONDS = 60.0
DATA = "groups/demo/volumes/data"
WAL = "groups/demo/volumes/wal"


@dataclass(frozen=True, slots=True)
class Window:
    """How long the file system stood still, and what was on the volumes then."""

    mark: Mark
    quiesce_seconds: float


class Ground(Protocol):
    """The demo's files, writers and checks."""

    def fill(self) -> str:
        """Make the file system, start the writers, wait for files; what was done, in words."""

    def stand_still(self, send: Callable[[], None]) -> Window:
        """Sync and freeze, call `send`, thaw."""

    def bytes_written_after(self) -> int:
        """Payload written since the message, at least."""

    def check(self) -> None:
        """Raise if a writer has stopped by itself."""

    def finish(self) -> None:
        """Stop the writers and leave the volumes clean."""

    def inspect(self, data_uri: str, wal: Disk, mark: Mark, name: str) -> tuple[Comparison, str]:
        """Compare a copy of the volumes with the mark; the verdict of fsck on it."""


def connect(endpoints: Endpoints, export: str) -> Client:
    """A connection to an export, over the unix socket if there is one."""
    if endpoints.nbd_socket:
        return Client(Path(endpoints.nbd_socket), export)
    host, _, port = endpoints.nbd.rpartition(":")
    return Client((host, int(port)), export)


class MountedGround:
    """The real thing: nbdfuse, a loop device, ext4, mounted."""

    def __init__(self, sites: Sites, directory: Path, stack: contextlib.ExitStack) -> None:
        """Plan it; what is mounted goes with `stack`."""
        self._primary = sites.primary
        self._directory = directory
        self._stack = stack
        self._mounts = contextlib.ExitStack()
        self._source = directory / "source"

    def fill(self) -> str:
        """Make and mount the file system, start both writers, wait for the first files."""
        names = make_source(self._source, FILES)
        self._stack.enter_context(self._mounts)
        self._root = self._mounts.enter_context(
            mounts.file_system(
                self._primary.endpoints.nbd_uri(DATA), self._directory / "primary-fs", make=True
            )
        )
        self._wal = connect(self._primary.endpoints, WAL)
        self._stack.callback(self._wal.close)
        self.appender = Appender(self._wal, self._root / JOURNAL, 0.002, 0.004)
        self.copier = Copier(self._source, names, self._root)
        self._stack.callback(self._stop_quietly)
        self.appender.start()
        self.copier.writer.start()
        deadline = time.monotonic() + FILL_SECONDS
        while self.copier.copied < FILES_BEFORE_THE_MESSAGE:
            self.check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"only {self.copier.copied} files copied")
            time.sleep(0.005)
        return (
            f"{self.copier.copied} files copied, {self.appender.lines} lines on data and "
            f"{self.appender.answered_block} blocks on wal appended, and both writers go on"
        )

    def stand_still(self, send: Callable[[], None]) -> Window:
        """Freeze the file system over the send, and note what it holds."""
        mounts.run("sync", "--file-system", str(self._root))
        begun = time.monotonic()
        mounts.freeze(self._root)
        try:
            answered = self.appender.answered_block
            send()
            issued = self.appender.issued_block
            journal_bytes = (self._root / JOURNAL).stat().st_size
            names = list_names(self._root)
        finally:
            mounts.thaw(self._root)
        took = time.monotonic() - begun
        self.copier.message_is_out.set()
        return Window(Mark(names, self.appender.written(journal_bytes), answered, issued), took)

    def bytes_written_after(self) -> int:
        """What the copier alone has written and synced since."""
        return self.copier.bytes_after

    def check(self) -> None:
        """Raise if a writer has stopped by itself."""
        self.copier.writer.check()
        self.appender.check()

    def finish(self) -> None:
        """Stop the writers and unmount."""
        self.copier.writer.stop()
        self.appender.stop()
        self._mounts.close()

    def inspect(self, data_uri: str, wal: Disk, mark: Mark, name: str) -> tuple[Comparison, str]:
        """Check with fsck, mount read-only without the journal, compare every byte."""
        where = self._directory / name
        with mounts.as_file(data_uri, where / "fuse", read_only=True) as disk:
            clean, said = mounts.check_file_system(disk)
            with mounts.as_disk(disk, read_only=True) as device:
                try:
                    with mounts.mounted(device, where / "mnt", "ro,norecovery") as root:
                        found = compare(root, wal, self._source, mark)
                except mounts.MountError as error:
                    found = Comparison(differences=[f"it cannot be mounted: {error}"])
        return found, "clean" if clean else f"NOT CLEAN: {said.splitlines()[-1]}"

    def _stop_quietly(self) -> None:
        mounts.thaw(self._root)
        for writer in (self.copier.writer, self.appender.blocks, self.appender.journal):
            with contextlib.suppress(Exception):  # the problem has been raised already
                writer.stop()
