"""SQLite as the seam wants it: every transaction durable when it returns."""

import errno
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class SqliteDatabase:
    """One SQLite file: write-ahead log, synchronous=FULL, one transaction at a time."""

    def __init__(self, path: Path | str) -> None:
        """Open or make the file.

        Raises:
            OSError: ENOSPC or EIO, from here and from every transaction.
        """
        self._path = str(path)
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(
            str(path), isolation_level=None, check_same_thread=False, cached_statements=256
        )
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.execute("PRAGMA foreign_keys=ON")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit the body durably, or nothing of it."""
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield self._connection
                    self._connection.execute("COMMIT")
                except BaseException:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                    raise
            except sqlite3.OperationalError as error:
                raise self._as_os_error(error) from error

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """Return all rows of a select."""
        with self._lock:
            return self._connection.execute(sql, parameters).fetchall()

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._connection.close()

    def _as_os_error(self, error: sqlite3.OperationalError) -> OSError:
        """Give a full disk and a failed write the errno that every file has for them."""
        code = error.sqlite_errorcode & 0xFF
        number = errno.ENOSPC if code == sqlite3.SQLITE_FULL else errno.EIO
        return OSError(number, f"{os.strerror(number)} ({error})", self._path)
