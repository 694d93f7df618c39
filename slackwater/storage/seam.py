"""What everything durable is written through.

Two implementations keep these contracts: `slackwater.storage.real` over the operating system, and
`slackwater.storage.simulated`, which forgets, keeps and tears what was not synced. Errors are
`OSError` with an errno on both. Nothing here retries a sync: a failed one is final (D3).
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from slackwater.extent import Extent

Buffer = bytes | bytearray | memoryview


class File(Protocol):
    """An open file or block device. Offsets and lengths are bytes."""

    path: Path

    def read(self, length: int, offset: int) -> bytes:
        """Return `length` bytes; fewer only at the end of the file."""
        ...

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill the buffer and return the bytes read; fewer only at the end of the file."""
        ...

    def write(self, pieces: Sequence[Buffer], offset: int) -> None:
        """Write the pieces back to back, all of them or raise."""
        ...

    def zero(self, offset: int, length: int) -> None:
        """Make the range read as zeroes: a hole where the file can have one (D12)."""
        ...

    def sync(self) -> None:
        """Make everything written so far durable.

        Raises:
            OSError: it may not be; the caller never tries again (D3).
        """
        ...

    def start_writeback(self, offset: int, length: int) -> None:
        """Let the system begin to write the range back; a hint, it promises nothing."""
        ...

    def size(self) -> int:
        """Return the length in bytes."""
        ...

    def allocated_bytes(self) -> int:
        """Return the bytes that take space, holes not counted."""
        ...

    def resize(self, size: int) -> None:
        """Cut or extend with a hole."""
        ...

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """Yield data and holes in order, merged, covering the range exactly."""
        ...

    def map(self) -> memoryview:
        """Return a shared writable mapping of the whole file; never trusted after a crash."""
        ...

    def close(self) -> None:
        """Release the file; closing twice is fine."""
        ...


class Lock(Protocol):
    """An exclusive lock on a file, held until closed or the process ends."""

    def close(self) -> None:
        """Release the lock."""
        ...


class Database(Protocol):
    """One SQLite file whose every transaction is durable when it returns."""

    def transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        """Run the body in one transaction: committed durably at its end, or not at all."""
        ...

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """Return all rows of a select."""
        ...

    def close(self) -> None:
        """Close; closing twice is fine."""
        ...


class Storage(Protocol):
    """A place to keep files."""

    def open(
        self, path: Path, *, create: bool = False, exclusive: bool = False, writable: bool = True
    ) -> File:
        """Open a file; with `exclusive` it must not exist yet. Its name is not yet durable."""
        ...

    def exists(self, path: Path) -> bool:
        """Tell whether the path names anything."""
        ...

    def listing(self, path: Path) -> list[str]:
        """Return the names in a directory, sorted."""
        ...

    def make_directory(self, path: Path) -> None:
        """Make a directory and its missing parents; an existing one is fine."""
        ...

    def remove(self, path: Path) -> None:
        """Remove a file."""
        ...

    def remove_tree(self, path: Path) -> None:
        """Remove a directory and all in it; a missing one is fine."""
        ...

    def rename(self, old: Path, new: Path) -> None:
        """Rename, over an existing file if there is one; atomic, durable after sync_directory."""
        ...

    def sync_directory(self, path: Path) -> None:
        """Make the names in a directory durable."""
        ...

    def lock(self, path: Path) -> Lock:
        """Take the exclusive lock on a file, made if missing.

        Raises:
            FailedPrecondition: DIRECTORY_IN_USE, another holder has it.
        """
        ...

    def open_database(self, path: Path) -> Database:
        """Open or make a database."""
        ...

    def free_bytes(self, path: Path) -> int:
        """Return the bytes that can still be written under a directory."""
        ...

    def check(self, directory: Path) -> None:
        """Refuse a directory whose file system lacks what the product needs.

        Raises:
            FailedPrecondition: it is on a network, or has no flock or no sparse files.
        """
        ...
