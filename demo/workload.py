"""What the demo writes, and what it knows about it at the moment of the message.

Two writers that never stop. The `Copier` copies a source tree into the mounted file system; once
the message is out it also rewrites, removes and adds files, so that a replica that went on shows.
The `Appender` puts numbered blocks on the raw volume `wal` and numbered lines into a file of the
mounted volume `data`; each line names the last block that was answered before it, so that the two
volumes only fit together if they are at one point.
"""

import os
import random
import shutil
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from crc32c import crc32c

BLOCK = 4096
LINE = 64
JOURNAL = "appended.log"
PART = ".part"
RING_FILES = 48
RING_BYTES = 256 << 10
_HEAD = struct.Struct("<QI")
_FOLDER_FILES = 100
_AFTER_PAUSE_SECONDS = 0.003


class Disk(Protocol):
    """What the writers need of an NBD connection."""

    size: int

    def read(self, offset: int, length: int) -> bytes:
        """Read."""

    def write(self, offset: int, data: bytes) -> None:
        """Write and wait for the reply."""

    def close(self) -> None:
        """Hang up."""


def make_source(root: Path, files: int, seed: int = 1) -> list[str]:
    """A tree of small files of known content; their names relative to it, in order."""
    choice = random.Random(seed)
    names = []
    for number in range(files):
        name = f"folder-{number // _FOLDER_FILES:03d}/file-{number:05d}"
        path = root / name
        if number % _FOLDER_FILES == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(choice.randbytes(choice.randrange(200, 16_000)))
        names.append(name)
    return names


def block(number: int) -> bytes:
    """The block of one number: the number, its checksum, and bytes that follow from it."""
    body = number.to_bytes(8, "little") * ((BLOCK - _HEAD.size) // 8) + bytes(4)
    head = number.to_bytes(8, "little")
    return _HEAD.pack(number, crc32c(head + body)) + body


def block_number(data: bytes) -> int:
    """The number of a block, 0 if it was never written.

    Raises:
        ValueError: The block is torn.
    """
    if not any(data):
        return 0
    number, checksum = _HEAD.unpack_from(data)
    if crc32c(data[:8] + data[_HEAD.size :]) != checksum:
        raise ValueError("a block of wal is torn")
    return int(number)


def line(number: int, answered_block: int) -> bytes:
    """One line of the file that the appender grows."""
    return f"line {number} after block {answered_block}".ljust(LINE - 1).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class Mark:
    """What was on the volumes at the message, noted by the writers' side."""

    names: frozenset[str]  # every file, as listed while the file system was frozen
    journal: bytes  # the lines that the frozen file held
    answered_block: int  # answered before the send was issued, so in
    issued_block: int  # issued before the send returned; later ones are out


class Writer(threading.Thread):
    """A thread that repeats `step` until stopped, and keeps the problem that ended it early."""

    def __init__(self, name: str, step: Callable[[], None], pause_seconds: float) -> None:
        """Plan the thread."""
        super().__init__(name=name, daemon=True)
        self.problem: Exception | None = None
        self._step = step
        self._pause = pause_seconds
        self._stopping = threading.Event()

    def run(self) -> None:
        """Write until told to stop."""
        try:
            while not self._stopping.wait(self._pause):
                self._step()
        except Exception as problem:  # handed to the thread that calls stop or check
            self.problem = problem

    def check(self) -> None:
        """Raise what ended this writer early."""
        if self.problem is not None:
            raise RuntimeError(f"writer {self.name} stopped: {self.problem}") from self.problem

    def stop(self) -> None:
        """End after the step it is at."""
        self._stopping.set()
        self.join(30.0)
        self.check()


class Copier:
    """Copies the source tree into `target`, one file after the other, each renamed into place."""

    def __init__(self, source: Path, names: list[str], target: Path) -> None:
        """Plan the copying."""
        self.copied = 0
        self.bytes_after = 0
        self.message_is_out = threading.Event()
        self.writer = Writer("copier", self._step, 0.0)
        self._source = source
        self._names = names
        self._target = target
        self._after = 0

    def _step(self) -> None:
        if self.copied < len(self._names):
            self._copy(self._names[self.copied])
            self.copied += 1
        if self.message_is_out.is_set():
            self._go_on()

    def _copy(self, name: str) -> None:
        target = self._target / name
        target.parent.mkdir(exist_ok=True)
        part = target.with_name(target.name + PART)
        shutil.copyfile(self._source / name, part)
        part.rename(target)
        if self.copied % 20 == 0:
            _sync(target)

    def _go_on(self) -> None:
        """After the message: rewrite an old file, now and then remove one, add new bytes."""
        number, self._after = self._after, self._after + 1
        old = self._target / self._names[(number * 7) % (len(self._names) // 2)]
        if number % 10 == 9:
            old.unlink(missing_ok=True)
        else:
            old.write_bytes(f"rewritten {number} after the message\n".encode() * 40)
        new = self._target / f"written-after-the-message-{number % RING_FILES:02d}"
        data = number.to_bytes(8, "little") * (RING_BYTES // 8)
        with new.open("wb") as file:
            file.write(data)
            file.flush()
            os.fdatasync(file.fileno())
        self.bytes_after += len(data)
        time.sleep(_AFTER_PAUSE_SECONDS)  # a busy writer, not a flood


class Appender:
    """Numbered blocks on `wal`, numbered lines on `data`, without a pause for anybody."""

    def __init__(self, wal: Disk, journal: Path, block_pause: float, line_pause: float) -> None:
        """Plan the appending."""
        self.issued_block = 0
        self.answered_block = 0
        self.lines = 0
        self.blocks = Writer("appender on wal", self._block, block_pause)
        self.journal = Writer("appender on data", self._line, line_pause)
        self._wal = wal
        self._path = journal
        self._written = bytearray()

    def start(self) -> None:
        """Start both threads."""
        self._path.touch()
        self.blocks.start()
        self.journal.start()

    def stop(self) -> None:
        """Stop both threads."""
        self.blocks.stop()
        self.journal.stop()

    def check(self) -> None:
        """Raise what ended one of them early."""
        self.blocks.check()
        self.journal.check()

    def written(self, length: int) -> bytes:
        """The first bytes of the file, as they were written."""
        return bytes(self._written[:length])

    def _block(self) -> None:
        number = self.issued_block + 1
        self.issued_block = number
        place = number % (self._wal.size // BLOCK)
        self._wal.write(place * BLOCK, block(number))
        self.answered_block = number

    def _line(self) -> None:
        self.lines += 1
        row = line(self.lines, self.answered_block)
        self._written += row
        with self._path.open("ab") as file:
            file.write(row)
            file.flush()
            os.fdatasync(file.fileno())


def list_names(root: Path) -> frozenset[str]:
    """Every file under a directory, relative to it."""
    names: list[str] = []
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                name = f"{folder}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{name}/")
                else:
                    names.append(name)
    return frozenset(names)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
