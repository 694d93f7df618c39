"""What a simulated storage hands out: files, locks and databases."""

import contextlib
import errno
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from slackwater.extent import Extent
from slackwater.storage.database import SqliteDatabase
from slackwater.storage.seam import Buffer
from slackwater.storage.simulated_disk import Blob, Directory, Node
from slackwater.storage.simulated_process import SimulatedProcess, error_of


class SimulatedFile:
    """An open simulated file."""

    def __init__(
        self, process: SimulatedProcess, path: Path, node: Node, *, writable: bool = True
    ) -> None:
        """Open `node` under the name `path`."""
        self.path = path
        self._process = process
        self._node = node
        self._is_writable = writable
        self._is_closed = False

    def read(self, length: int, offset: int) -> bytes:
        """Return what is visible."""
        self._check_open()
        self._process.check_fault("read", self.path)
        if self._node.mappings:
            self._node.take_mappings()
        return self._node.visible.read(length, offset)

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill the buffer with what is visible."""
        data = self.read(len(buffer), offset)
        buffer[: len(data)] = data
        return len(data)

    def write(self, pieces: Sequence[Buffer], offset: int) -> None:
        """Write; visible at once, durable at the next sync."""
        data = b"".join(pieces)
        with self._change("write"):
            room = self._process.room_for(self._node, offset, len(data))
            self._node.write(offset, data[:room])
            if room < len(data):
                raise error_of(errno.ENOSPC, self.path)

    def zero(self, offset: int, length: int) -> None:
        """Punch a hole."""
        with self._change("zero"):
            self._node.zero(offset, length)

    def sync(self) -> None:
        """Make the bytes durable, or fail and leave the pages marked clean."""
        self._node.take_mappings()
        try:
            with self._change("sync", needs_writable=False):
                self._node.settle()
        except OSError:
            if self._process.failed_sync_cleans:
                self._node.clean()
            raise

    def start_writeback(self, offset: int, length: int) -> None:
        """Do nothing: the hint promises nothing."""

    def size(self) -> int:
        """Return the visible length."""
        self._check_open()
        return self._node.visible.size

    def allocated_bytes(self) -> int:
        """Return the bytes in pages."""
        self._check_open()
        return self._node.visible.held_bytes()

    def resize(self, size: int) -> None:
        """Cut or extend."""
        with self._change("resize"):
            self._node.resize(size)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """Yield runs of pages that hold something, and holes."""
        self._check_open()
        self._node.take_mappings()
        yield from self._node.visible.extents(offset, length)

    def map(self) -> memoryview:
        """Return a writable view; what is stored through it is durable when the file is synced."""
        self._check_open()
        if not self._is_writable:
            raise error_of(errno.EACCES, self.path)
        return memoryview(self._node.map().data)

    def close(self) -> None:
        """Close the file; mappings live on."""
        self._is_closed = True

    def _check_open(self) -> None:
        self._process.check_alive()
        if self._is_closed:
            raise error_of(errno.EBADF, self.path)

    @contextlib.contextmanager
    def _change(self, operation: str, *, needs_writable: bool = True) -> Iterator[None]:
        self._check_open()
        if needs_writable and not self._is_writable:
            raise error_of(errno.EBADF, self.path)
        with self._process.change(operation, self.path):
            yield


class SimulatedLock:
    """A process's lock on a file of one simulated disk."""

    def __init__(self, node: Node) -> None:
        """Own the lock that `node` has for its holder."""
        self._node: Node | None = node

    def close(self) -> None:
        """Release it."""
        if self._node is not None:
            self._node.holder = None
            self._node = None


class SimulatedDatabase(SqliteDatabase):
    """SQLite in memory; each commit is one atomic, durable storage call."""

    def __init__(
        self, process: SimulatedProcess, path: Path, directory: Directory, blob: Blob
    ) -> None:
        """Open the bytes that the last commit left."""
        connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        if blob.content:
            connection.deserialize(blob.content)
        connection.execute("PRAGMA foreign_keys=ON")
        super().__init__(path, connection)
        self._process = process
        self._directory = directory
        self._blob = blob

    def _commit(self) -> None:
        with self._process.change("commit", self._path):
            super()._commit()
            self._blob.content = self._connection.serialize()
            # SQLite syncs the directory when it makes the write-ahead log.
            self._process.names.sync(self._directory, self._path.name)

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[sqlite3.Row]:
        """Return all rows of a select."""
        self._process.check_alive()
        return super().query(sql, parameters)
