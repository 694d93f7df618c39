"""SQLite as the seam wants it: every transaction durable when it returns."""

import errno
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from slackwater.errors import DataCorrupt

_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_STORAGE: Final = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_BUSY,
    }
)


class SqliteDatabase:
    """A connection to one database: one transaction at a time, from any thread.

    A transaction that failed for want of room changed nothing and may be tried again. One that
    failed otherwise is the last: what it synced is in doubt, and no later sync may say so (D3).
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        """Use an open connection in autocommit mode."""
        self._path = path
        self._lock = threading.RLock()
        self._connection = connection
        self._connection.row_factory = sqlite3.Row
        self._failed = 0

    @classmethod
    def open(cls, path: Path) -> "SqliteDatabase":
        """Open or make a file: write-ahead log, synchronous=FULL.

        Raises:
            OSError: it cannot be opened.
            DataCorrupt: it is not SQLite's.
        """
        try:
            connection = sqlite3.connect(
                path, isolation_level=None, check_same_thread=False, cached_statements=256
            )
        except sqlite3.Error as error:
            raise _translated(error, path) from error
        try:
            mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
        except sqlite3.Error as error:
            connection.close()
            raise _translated(error, path) from error
        if mode != "wal":
            connection.close()
            raise OSError(errno.ENOTSUP, "no write-ahead log on this file system", str(path))
        return cls(path, connection)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit the body durably, or nothing of it."""
        with self._lock:
            assert not self._connection.in_transaction, "transactions do not nest"
            if self._failed:
                raise OSError(self._failed, "an earlier commit failed", str(self._path))
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                self._commit()
            except sqlite3.Error as error:
                self._roll_back()
                raise self._noted(_translated(error, self._path)) from error
            except OSError as error:
                self._roll_back()
                raise self._noted(error) from None
            except BaseException:
                self._roll_back()
                raise

    def _commit(self) -> None:
        self._connection.execute("COMMIT")

    def _roll_back(self) -> None:
        with suppress(sqlite3.Error):  # the error that led here is the one to report
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def _noted(self, error: Exception) -> Exception:
        if isinstance(error, OSError) and error.errno not in _ROOM:
            self._failed = error.errno or errno.EIO
        return error

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """Return all rows of a select."""
        with self._lock:
            try:
                return self._connection.execute(sql, parameters).fetchall()
            except sqlite3.Error as error:
                raise _translated(error, self._path) from error

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._connection.close()


def _translated(error: sqlite3.Error, path: Path) -> Exception:
    """Give a full disk and a failed call the errno every file has for them, damage its name."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in _DAMAGED:
        return DataCorrupt(str(path), str(error))
    if code not in _STORAGE:
        return error
    number = errno.ENOSPC if code == sqlite3.SQLITE_FULL else errno.EIO
    return OSError(number, f"{os.strerror(number)} ({error})", str(path))
