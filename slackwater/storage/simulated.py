"""A storage that forgets, keeps and tears what was not synced, and fails when told to.

Every call that changes something is numbered. With ``crash_at = n`` call n raises `SimulatedCrash`
instead of happening, and so does every later call: the process is dead. What a machine would find
after it is another `SimulatedStorage`, made by `after_crash` (power loss) or `kill` (SIGKILL: what
was written is still in the page cache, and still not durable).

A file has visible bytes and durable bytes, both sparse by page, and the list of writes between them.
Names are durable only once their directory was synced.
"""

import contextlib
import errno
import os
import random
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Final

from slackwater.errors import FailedPrecondition
from slackwater.extent import Extent
from slackwater.storage.pages import PAGE, Pages
from slackwater.storage.seam import Buffer

SECTOR: Final = 512


class SimulatedCrash(BaseException):
    """The process died here; only a test catches this."""


class Policy(Enum):
    """What a power loss does to writes that were not synced."""

    DROP = "drop"
    KEEP = "keep"
    TEAR = "tear"


@dataclass
class Fault:
    """An error that a storage reports; see `SimulatedStorage.fail`."""

    operation: str
    match: str
    number: int
    times: int
    mark_clean: bool


@dataclass
class Node:
    """A file: what a reader sees, what survives, and the writes not yet synced, in order."""

    visible: Pages = field(default_factory=Pages)
    durable: Pages = field(default_factory=Pages)
    unsynced: list[tuple[str, int, bytes | int]] = field(default_factory=list)
    mapped: list[bytearray] = field(default_factory=list)

    def settle(self) -> None:
        """Make everything visible durable."""
        self.take_mappings()
        self.durable = self.visible.copy()
        self.unsynced.clear()

    def take_mappings(self) -> None:
        """Count what was stored through mappings as writes, page by page."""
        for data in self.mapped:
            for offset in range(0, len(data), PAGE):
                page = bytes(data[offset : offset + PAGE])
                if page != self.visible.read(len(page), offset):
                    self.visible.write(offset, page)
                    self.unsynced.append(("write", offset, page))


class SimulatedFile:
    """An open simulated file."""

    def __init__(self, storage: "SimulatedStorage", path: Path, node: Node) -> None:
        """Open `node` under the name `path`."""
        self.path = path
        self._storage = storage
        self._node = node

    def read(self, length: int, offset: int) -> bytes:
        """Return what is visible."""
        self._storage.check_alive()
        self._storage.check_fault("read", self.path)
        return self._node.visible.read(length, offset)

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill the buffer with what is visible."""
        data = self.read(len(buffer), offset)
        buffer[: len(data)] = data
        return len(data)

    def write(self, pieces: Sequence[Buffer], offset: int) -> None:
        """Write; visible at once, durable at the next sync."""
        data = b"".join(pieces)
        with self._storage.change("write", self.path):
            self._node.visible.write(offset, data)
            self._node.unsynced.append(("write", offset, data))

    def zero(self, offset: int, length: int) -> None:
        """Punch a hole."""
        with self._storage.change("zero", self.path):
            self._node.visible.zero(offset, length)
            self._node.unsynced.append(("zero", offset, length))

    def sync(self) -> None:
        """Make the bytes durable, or fail and leave the pages marked clean."""
        try:
            with self._storage.change("sync", self.path):
                self._node.settle()
        except OSError:
            if self._storage.failed_sync_cleans:
                # The pages stay readable and count as clean: nothing will write them again.
                self._node.unsynced.clear()
            raise

    def start_writeback(self, offset: int, length: int) -> None:
        """Do nothing: the hint promises nothing."""

    def size(self) -> int:
        """Return the visible length."""
        self._storage.check_alive()
        return self._node.visible.size

    def resize(self, size: int) -> None:
        """Cut or extend."""
        with self._storage.change("resize", self.path):
            self._node.visible.resize(size)
            self._node.unsynced.append(("resize", size, 0))

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """Yield runs of pages that hold something, and holes."""
        self._storage.check_alive()
        yield from self._node.visible.extents(offset, length)

    def map(self) -> memoryview:
        """Return a writable view; what is stored through it is never synced unless the file is."""
        data = bytearray(self._node.visible.read(self._node.visible.size, 0))
        self._node.mapped.append(data)
        return memoryview(data)

    def close(self) -> None:
        """Close; mappings are counted as writes."""
        self._node.take_mappings()
        self._node.mapped.clear()


class SimulatedLock:
    """A lock on a path of one simulated disk."""

    def __init__(self, held: set[Path], path: Path) -> None:
        """Hold it."""
        self._held = held
        self._path = path

    def close(self) -> None:
        """Release it."""
        self._held.discard(self._path)


class SimulatedDatabase:
    """SQLite in memory; each commit is one atomic, durable storage call."""

    def __init__(self, storage: "SimulatedStorage", path: Path, content: bytes) -> None:
        """Open the bytes that the last commit left."""
        self._storage = storage
        self._path = path
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(
            ":memory:", isolation_level=None, check_same_thread=False
        )
        if content:
            self._connection.deserialize(content)
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("PRAGMA foreign_keys=ON")

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit the body as one call."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                with self._storage.change("commit", self._path):
                    self._connection.execute("COMMIT")
                    self._storage.databases[self._path] = self._connection.serialize()
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """Return all rows of a select."""
        with self._lock:
            self._storage.check_alive()
            return self._connection.execute(sql, parameters).fetchall()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class SimulatedStorage:
    """A simulated disk and the process that uses it."""

    def __init__(self, *, capacity_bytes: int | None = None) -> None:
        """Start with an empty disk.

        Args:
            capacity_bytes: visible bytes past which writes fail with ENOSPC; None: no bound.
        """
        self.calls = 0
        self.crash_at: int | None = None
        self.call_log: list[tuple[int, str, str]] = []
        self.databases: dict[Path, bytes] = {}
        self.capacity_bytes = capacity_bytes
        self.failed_sync_cleans = True
        self._names: dict[Path, Node | None] = {Path("/"): None}  # None: a directory
        self._durable_names: dict[Path, Node | None] = {Path("/"): None}
        self._faults: list[Fault] = []
        self._moved: dict[Path, Path] = {}  # directories renamed, by their new name
        self._locked: set[Path] = set()
        self._dead = False
        self._mutex = threading.RLock()

    # -- faults -------------------------------------------------------------------------------

    def fail(
        self,
        operation: str,
        match: str = "",
        number: int = errno.EIO,
        times: int = 1,
        *,
        mark_clean: bool = True,
    ) -> None:
        """Let the next `times` calls of `operation` on paths with `match` in them fail.

        Operations: write, zero, sync, resize, open, read, commit, rename, remove, make_directory,
        sync_directory. A failed sync marks the pages clean: reads still show them, a later sync
        succeeds without making them durable, a power loss drops them.
        """
        self._faults.append(Fault(operation, match, number, times, mark_clean))

    def heal(self) -> None:
        """Forget all faults that were asked for."""
        self._faults.clear()

    def check_alive(self) -> None:
        """Raise if the process has crashed."""
        if self._dead:
            raise SimulatedCrash

    def check_fault(self, operation: str, path: Path) -> None:
        """Raise the error that was asked for, if this call is one of those."""
        for fault in self._faults:
            if fault.operation == operation and fault.match in str(path) and fault.times > 0:
                fault.times -= 1
                self.failed_sync_cleans = fault.mark_clean
                raise OSError(fault.number, os.strerror(fault.number), str(path))

    @contextlib.contextmanager
    def change(self, operation: str, path: Path) -> Iterator[None]:
        """Number one mutating call; the body is what it does."""
        with self._mutex:
            self.check_alive()
            self.calls += 1
            self.call_log.append((self.calls, operation, str(path)))
            if self.crash_at is not None and self.calls >= self.crash_at:
                self._dead = True
                raise SimulatedCrash
            self.check_fault(operation, path)
            if (
                self.capacity_bytes is not None
                and operation == "write"
                and self.used_bytes() >= self.capacity_bytes
            ):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            yield

    def used_bytes(self) -> int:
        """Return the bytes that files hold, holes not counted."""
        return sum(node.visible.held_bytes() for node in self._names.values() if node is not None)

    # -- crashes ------------------------------------------------------------------------------

    def after_crash(self, policy: Policy, rng: random.Random | None = None) -> "SimulatedStorage":
        """Return what a power loss leaves: durable bytes, and of the rest what `policy` says."""
        rng = rng or random.Random(0)
        survivor = self._successor()
        kept: dict[int, Node] = {}
        for path, node in self._surviving_names(policy, rng).items():
            if node is None:
                survivor._names[path] = None
                continue
            if id(node) not in kept:
                node.take_mappings()
                kept[id(node)] = Node(visible=_after_power_loss(node, policy, rng))
                kept[id(node)].settle()
            survivor._names[path] = kept[id(node)]
        survivor._durable_names = dict(survivor._names)
        survivor.databases = {
            path: content
            for path, content in self.databases.items()
            if path.parent in survivor._names
        }
        return survivor

    def _surviving_names(self, policy: Policy, rng: random.Random) -> dict[Path, Node | None]:
        if policy is Policy.KEEP:
            return dict(self._names)
        names = dict(self._durable_names)
        if policy is Policy.TEAR:
            for path in sorted(self._names.keys() ^ self._durable_names.keys()):
                if rng.random() < 0.5:  # this change of a name made it to the disk
                    if path in self._names:
                        names[path] = self._names[path]
                    else:
                        names.pop(path, None)
        return {
            path: node
            for path, node in names.items()
            if all(parent in names for parent in path.parents)
        }

    def kill(self) -> "SimulatedStorage":
        """Return what SIGKILL leaves: everything visible, and no more of it durable than before."""
        survivor = self._successor()
        copies: dict[int, Node] = {}
        for names, target in (
            (self._names, survivor._names),
            (self._durable_names, survivor._durable_names),
        ):
            target.clear()
            for path, node in names.items():
                if node is None:
                    target[path] = None
                    continue
                if id(node) not in copies:
                    node.take_mappings()
                    copies[id(node)] = Node(
                        visible=node.visible.copy(),
                        durable=node.durable.copy(),
                        unsynced=list(node.unsynced),
                    )
                target[path] = copies[id(node)]
        survivor.databases = dict(self.databases)
        return survivor

    def _successor(self) -> "SimulatedStorage":
        return SimulatedStorage(capacity_bytes=self.capacity_bytes)

    # -- the seam -----------------------------------------------------------------------------

    def open(
        self, path: Path, *, create: bool = False, exclusive: bool = False, writable: bool = True
    ) -> SimulatedFile:
        """Open a file."""
        self.check_alive()
        del writable
        if path in self._names:
            node = self._names[path]
            if node is None:
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
            if exclusive:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
            self.check_fault("open", path)
            return SimulatedFile(self, path, node)
        if not create and not exclusive:
            raise _missing(path)
        self._need_directory(path.parent)
        with self.change("open", path):
            node = Node()
            self._names[path] = node
        return SimulatedFile(self, path, node)

    def _need_directory(self, path: Path) -> None:
        if path not in self._names or self._names[path] is not None:
            raise _missing(path)

    def exists(self, path: Path) -> bool:
        """Tell whether the path names anything."""
        self.check_alive()
        return path in self._names or path in self.databases

    def listing(self, path: Path) -> list[str]:
        """Return the names in a directory."""
        self.check_alive()
        self._need_directory(path)
        names = {other.name for other in self._names if other.parent == path and other != path}
        return sorted(names | {other.name for other in self.databases if other.parent == path})

    def make_directory(self, path: Path) -> None:
        """Make a directory and its parents."""
        self.check_alive()
        for directory in reversed((path, *path.parents)):
            if directory not in self._names:
                with self.change("make_directory", directory):
                    self._names[directory] = None

    def remove(self, path: Path) -> None:
        """Remove a file."""
        self.check_alive()
        if path in self.databases:
            with self.change("remove", path):
                del self.databases[path]
            return
        if self._names.get(path) is None:
            raise _missing(path)
        with self.change("remove", path):
            del self._names[path]

    def remove_tree(self, path: Path) -> None:
        """Remove a directory and all in it, one name at a time."""
        self.check_alive()
        inside = [
            name for name in (*self._names, *self.databases) if name == path or path in name.parents
        ]
        for name in sorted(inside, key=lambda one: len(one.parts), reverse=True):
            with self.change("remove", name):
                self._names.pop(name, None)
                self.databases.pop(name, None)

    def rename(self, old: Path, new: Path) -> None:
        """Rename a file or a directory with all in it."""
        self.check_alive()
        if old not in self._names:
            raise _missing(old)
        with self.change("rename", old):
            if self._names[old] is None:
                self._moved[new] = self._moved.pop(old, old)
            moved = [name for name in self._names if name == old or old in name.parents]
            for name in moved:
                self._names[new / name.relative_to(old)] = self._names.pop(name)
            for name in [name for name in self.databases if old in name.parents]:
                self.databases[new / name.relative_to(old)] = self.databases.pop(name)

    def sync_directory(self, path: Path) -> None:
        """Make the names in a directory durable, and the directory's own name."""
        with self.change("sync_directory", path):
            for name in {*self._names, *self._durable_names}:
                if name.parent != path or name == path:
                    continue
                if name in self._names:
                    self._durable_names[name] = self._names[name]
                    if name in self._moved:
                        self._settle_move(self._moved.pop(name), name)
                else:
                    for gone in [one for one in self._durable_names if name in (one, *one.parents)]:
                        del self._durable_names[gone]

    def _settle_move(self, old: Path, new: Path) -> None:
        """Let what was durable in a directory be durable under the directory's new name."""
        for name in [name for name in self._durable_names if name == old or old in name.parents]:
            self._durable_names[new / name.relative_to(old)] = self._durable_names.pop(name)

    def lock(self, path: Path) -> SimulatedLock:
        """Take the exclusive lock."""
        self.check_alive()
        if path in self._locked:
            raise FailedPrecondition(
                "DIRECTORY_IN_USE",
                f"another process holds {path}",
                "Stop that process, or give this one another directory",
            )
        self._locked.add(path)
        return SimulatedLock(self._locked, path)

    def open_database(self, path: Path) -> SimulatedDatabase:
        """Open or make a database."""
        self.check_alive()
        self._need_directory(path.parent)
        return SimulatedDatabase(self, path, self.databases.get(path, b""))

    def free_bytes(self, path: Path) -> int:
        """Return what is left of the capacity."""
        del path
        if self.capacity_bytes is None:
            return 1 << 50
        return max(self.capacity_bytes - self.used_bytes(), 0)

    def check(self, directory: Path) -> None:
        """Accept any directory."""


def _missing(path: Path) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def _after_power_loss(node: Node, policy: Policy, rng: random.Random) -> Pages:
    if policy is Policy.KEEP:
        return node.visible.copy()
    pages = node.durable.copy()
    if policy is Policy.DROP:
        return pages
    for operation, offset, argument in node.unsynced:
        fate = rng.random()
        if fate < 1 / 3:
            continue
        if operation == "resize":
            pages.resize(offset)
        elif isinstance(argument, int):
            pages.zero(offset, argument)
        elif fate < 2 / 3:
            pages.write(offset, argument)
        else:
            _tear(pages, offset, argument, rng)
    return pages


def _tear(pages: Pages, offset: int, data: bytes, rng: random.Random) -> None:
    """Write some of the sectors, in no order: a disk promises no more."""
    first = offset - offset % SECTOR
    for sector in range(first, offset + len(data), SECTOR):
        if rng.random() < 0.5:
            start, end = max(sector, offset), min(sector + SECTOR, offset + len(data))
            pages.write(start, data[start - offset : end - offset])
