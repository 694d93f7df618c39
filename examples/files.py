"""An application of files: each is written and renamed into place, one after the other."""

import hashlib
import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from examples.scene import require, wait

PART = ".part"
FOLDER_FILES = 100
SYNCED_EVERY = 20


@dataclass(frozen=True, slots=True)
class Written:
    """One file, and when its writing began and was over, in seconds since 1970."""

    name: str
    began: float
    ended: float


class FileWriter(threading.Thread):
    """Writes files that are never the same, and never stops by itself."""

    def __init__(self, root: Path, pause_seconds: float = 0.002) -> None:
        """Write below `root`."""
        super().__init__(name="file-writer", daemon=True)
        self.written: list[Written] = []
        self.begun: dict[str, float] = {}
        self.problem: Exception | None = None
        self.root = root
        self._pause = pause_seconds
        self._stopping = threading.Event()

    def run(self) -> None:
        """Write until told to stop."""
        number = 0
        try:
            while not self._stopping.wait(self._pause):
                self._write(number)
                number += 1
        except OSError as error:
            self.problem = error

    def _write(self, number: int) -> None:
        name = f"folder-{number // FOLDER_FILES:03d}/file-{number:05d}"
        path = self.root / name
        path.parent.mkdir(exist_ok=True)
        began = self.begun[name] = time.time()
        part = path.with_suffix(PART)
        with part.open("wb") as file:
            file.write(content(name))
            if number % SYNCED_EVERY == 0:  # the others are on their way when the message comes
                file.flush()
                os.fsync(file.fileno())
        part.rename(path)
        self.written.append(Written(name, began, time.time()))

    def stop(self) -> None:
        """Stop, and raise what ended it early."""
        self._stopping.set()
        self.join()
        if self.problem is not None:
            raise self.problem


def wait_written(writers: Iterable[FileWriter], count: int) -> None:
    """Wait until each has written so many files more."""
    goals = [(writer, len(writer.written) + count) for writer in writers]

    def are_reached() -> bool:
        for writer, _ in goals:
            require(writer.problem is None, f"the writer has stopped: {writer.problem}")
        return all(len(writer.written) >= goal for writer, goal in goals)

    wait(f"{count} files more are written", are_reached)


def content(name: str) -> bytes:
    """What a file of that name holds: some kilobytes that follow from its name."""
    seed = hashlib.sha256(name.encode()).digest()
    return seed * (16 + seed[0])


def compare(root: Path, writer: FileWriter, began: float, ended: float) -> int:
    """Hold a copy to its point; returns how many files were compared.

    Args:
        root: the copy.
        writer: who wrote the original.
        began: when the send was issued: what was over by then has to be there.
        ended: when it had returned: what was begun later must not be there.
    """
    there = {str(path.relative_to(root)) for path in root.glob("folder-*/file-*")}
    whole = {name for name in there if not name.endswith(PART)}
    for name in whole:
        require((root / name).read_bytes() == content(name), f"{name} differs")
    missing = {one.name for one in writer.written if one.ended < began} - whole
    require(not missing, f"{len(missing)} files are missing, {min(missing, default='')} first")
    begun = {name.removesuffix(PART) for name in there}
    late = {name for name in begun if writer.begun[name] > ended}
    require(not late, f"{len(late)} files are too new, {min(late, default='')} first")
    return len(whole)


def digest(root: Path) -> str:
    """One hash over every file's name and bytes."""
    found = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.is_file():
            found.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return found.hexdigest()
