"""The reduced run: no root, no mount. The file system is an image, written through our client."""

import contextlib
import re
import time
from collections.abc import Callable
from pathlib import Path

from demo import mounts
from demo.comparison import Comparison, compare_files, compare_volumes, compare_wal
from demo.ground import DATA, FILES, FILL_SECONDS, WAL, Window, connect
from demo.sites import Sites
from demo.workload import BLOCK, Appender, Disk, Mark, Writer, line, make_source
from slackwater.nbd.client import Client

IMAGE_BYTES = 192 << 20
STEP_BYTES = 1 << 20
SECTOR = 512
_LINE = re.compile(rb"line (\d+) after block (\d+)")


class TailAppender:
    """Numbered lines, one a sector, behind the file system on `data`."""

    def __init__(self, data: Client, appender: Appender, pause_seconds: float) -> None:
        """Plan the appending."""
        self.issued = 0
        self.answered = 0
        self.writer = Writer("appender on data", self._step, pause_seconds)
        self._data = data
        self._appender = appender

    def _step(self) -> None:
        number = self.issued + 1
        self.issued = number
        row = line(number, self._appender.answered_block).ljust(SECTOR, b" ")
        place = IMAGE_BYTES + (number - 1) * SECTOR
        if place + SECTOR > self._data.size:
            raise RuntimeError("the tail of data is full")
        self._data.write(place, row)
        self.answered = number


class ReducedGround:
    """An ext4 image made by `mke2fs -d`, and writers over our own NBD client."""

    def __init__(self, sites: Sites, directory: Path, stack: contextlib.ExitStack) -> None:
        """Plan it; connections go with `stack`."""
        self._primary = sites.primary
        self._directory = directory
        self._stack = stack
        self._source = directory / "source"
        self._after = 0
        self._bounds = (0, 0)
        self._rewriter = Writer("rewriter", self._rewrite, 0.02)

    def fill(self) -> str:
        """Write the image through NBD while the appenders run."""
        self._names = make_source(self._source, FILES)
        self._image = self._make_image(self._source, "first")
        changed = self._directory / "changed"
        make_source(changed, FILES // 2, seed=2)
        self._second = self._make_image(changed, "second")
        self._data = self._connect(DATA)
        self.appender = Appender(self._connect(WAL), self._directory / "unused", 0.002, 1.0)
        self.tail = TailAppender(self._connect(DATA), self.appender, 0.004)
        self._stack.callback(self._stop_quietly)
        self.appender.blocks.start()
        self.tail.writer.start()
        deadline = time.monotonic() + FILL_SECONDS
        for offset, piece in _pieces(self._image):
            self._data.write(offset, piece)
            self.check()
            if time.monotonic() > deadline:
                raise TimeoutError("the image was not written in time")
        self._data.flush()
        return (
            f"an ext4 image with {len(self._names)} files written, {self.tail.answered} lines on "
            f"data and {self.appender.answered_block} blocks on wal appended, and both go on"
        )

    def stand_still(self, send: Callable[[], None]) -> Window:
        """Nothing to freeze: the fence alone makes the point."""
        begun = time.monotonic()
        answered, answered_lines = self.appender.answered_block, self.tail.answered
        send()
        issued, issued_lines = self.appender.issued_block, self.tail.issued
        took = time.monotonic() - begun
        self._bounds = (answered_lines, issued_lines)
        self._rewriter.start()
        return Window(Mark(frozenset(self._names), b"", answered, issued), took)

    def bytes_written_after(self) -> int:
        """What was written over the image since."""
        return self._after

    def check(self) -> None:
        """Raise if a writer has stopped by itself."""
        for writer in (self.appender.blocks, self.tail.writer, self._rewriter):
            writer.check()

    def finish(self) -> None:
        """Stop the writers, and leave one whole other file system on the volume."""
        self._rewriter.stop()
        self.appender.blocks.stop()
        self.tail.writer.stop()
        for offset, piece in _pieces(self._second):
            self._data.write(offset, piece)
        self._data.flush()

    def inspect(self, data_uri: str, wal: Disk, mark: Mark, name: str) -> tuple[Comparison, str]:
        """Copy the export to a file, fsck it, take its files out, compare every byte."""
        where = self._directory / name
        where.mkdir()
        copy = where / "data.img"
        mounts.run("nbdcopy", data_uri, str(copy))
        lines = _tail_lines(copy)
        with copy.open("r+b") as file:
            file.truncate(IMAGE_BYTES)
        clean, said = mounts.check_file_system(copy)
        root = where / "files"
        root.mkdir()
        mounts.run("debugfs", "-R", f"rdump / {root}", str(copy))
        found = Comparison()
        last_block = compare_wal(wal, mark, found)
        compare_files(root, self._source, mark, found)
        compare_volumes(b"\n".join(row for _, row in lines), last_block, found)
        self._compare_tail([number for number, _ in lines], found)
        return found, "clean" if clean else f"NOT CLEAN: {said.splitlines()[-1]}"

    def _compare_tail(self, numbers: list[int], found: Comparison) -> None:
        answered, issued = self._bounds
        if numbers != list(range(1, len(numbers) + 1)):
            found.differences.append("the lines on data have gaps")
        if not answered <= len(numbers) <= issued:
            found.differences.append(
                f"data holds {len(numbers)} lines, but {answered} were answered before the send "
                f"and only {issued} issued before it returned"
            )

    def _rewrite(self) -> None:
        place = self._after % (64 << 20)  # over and over the first file system's inodes and files
        self._data.write(place, self._after.to_bytes(8, "little") * (STEP_BYTES // 8))
        self._after += STEP_BYTES

    def _make_image(self, tree: Path, name: str) -> Path:
        image = self._directory / f"{name}.img"
        words = ("-q", "-F", "-t", "ext4", "-b", str(BLOCK), "-d", str(tree))
        mounts.run("mke2fs", *words, str(image), f"{IMAGE_BYTES >> 10}k")
        return image

    def _connect(self, export: str) -> Client:
        client = connect(self._primary.endpoints, export)
        self._stack.callback(client.close)
        return client

    def _stop_quietly(self) -> None:
        for writer in (self._rewriter, self.appender.blocks, self.tail.writer):
            if writer.is_alive():
                with contextlib.suppress(Exception):  # the problem has been raised already
                    writer.stop()


def _pieces(image: Path) -> list[tuple[int, bytes]]:
    """The pieces of an image that hold anything."""
    found = []
    with image.open("rb") as file:
        for offset in range(0, IMAGE_BYTES, STEP_BYTES):
            piece = file.read(STEP_BYTES)
            if any(piece):
                found.append((offset, piece))
    return found


def _tail_lines(copy: Path) -> list[tuple[int, bytes]]:
    lines = []
    with copy.open("rb") as file:
        file.seek(IMAGE_BYTES)
        while row := _LINE.match(file.read(SECTOR)):
            lines.append((int(row[1]), row[0]))
    return lines
