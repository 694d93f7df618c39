"""The operating system's side: what a contract suite cannot provoke on a good file system."""

import ctypes
import errno
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slackwater.errors import FailedPrecondition
from slackwater.extent import Extent
from slackwater.storage import real
from slackwater.storage.database import SqliteDatabase
from slackwater.storage.real import RealFile, RealStorage


@pytest.fixture
def file(tmp_path: Path) -> Iterator[RealFile]:
    opened = RealStorage().open(tmp_path / "f", create=True)
    yield opened
    opened.close()


class Libc:
    """Answers fallocate with errors, in turn, and nothing after them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *errors: int) -> None:
        self.errors = list(errors)
        monkeypatch.setattr(real, "_LIBC", self)

    def fallocate(self, *arguments: object) -> int:
        if not self.errors:
            return 0
        ctypes.set_errno(self.errors.pop(0))
        return -1

    def statfs(self, path: bytes, buffer: Any) -> int:
        if self.errors:
            ctypes.set_errno(self.errors.pop(0))
            return -1
        buffer.raw = (0x6969).to_bytes(8, "little") + bytes(248)
        return 0


class TestWrite:
    def test_short_writes_are_continued_within_and_between_pieces(
        self, file: RealFile, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def short(descriptor: int, pieces: Any, offset: int) -> int:
            return os.pwrite(descriptor, b"".join(pieces)[:5], offset)

        def one_byte(descriptor: int, data: Any, offset: int) -> int:
            return pwrite(descriptor, data[:1], offset)

        pwrite = os.pwrite
        monkeypatch.setattr(os, "pwritev", short)
        file.write([b"abc", b"def", b"", b"ghi"], 2)
        assert file.read(100, 0) == b"\0\0abcdefghi"
        monkeypatch.setattr(os, "pwritev", lambda descriptor, pieces, offset: 0)
        monkeypatch.setattr(os, "pwrite", one_byte)
        file.write([b"ABC", b"DEF"], 0)
        assert file.read(6, 0) == b"ABCDEF"

    def test_write_that_gets_nowhere_is_an_error(
        self, file: RealFile, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "pwritev", lambda descriptor, pieces, offset: 0)
        monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: 0)
        with pytest.raises(OSError, match="stuck"):
            file.write([b"x"], 0)

    def test_short_reads_are_continued(
        self, file: RealFile, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file.write([b"0123456789"], 0)
        pread, preadv = os.pread, os.preadv
        monkeypatch.setattr(os, "pread", lambda fd, length, at: pread(fd, min(length, 3), at))
        monkeypatch.setattr(os, "preadv", lambda fd, buffers, at: preadv(fd, [buffers[0][:3]], at))
        assert file.read(8, 1) == b"12345678"
        assert file.read(8, 7) == b"789"
        buffer = bytearray(8)
        assert file.read_into(memoryview(buffer), 1) == 8
        assert buffer == b"12345678"
        assert file.read_into(memoryview(buffer), 7) == 3


class TestZero:
    @pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV])
    def test_without_holes_zeroes_are_written_and_the_file_does_not_grow(
        self, file: RealFile, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        size = (2 << 20) + 100
        file.write([b"x" * size], 0)
        Libc(monkeypatch, number)
        file.zero(10, 1 << 30)
        assert file.read(size + 1, 0) == b"x" * 10 + bytes(size - 10)

    def test_interrupted_punch_is_tried_again(
        self, file: RealFile, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file.write([b"x" * 100], 0)
        libc = Libc(monkeypatch, errno.EINTR, errno.EINTR)
        file.zero(0, 100)
        assert libc.errors == []

    def test_other_failures_are_reported(
        self, file: RealFile, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file.write([b"x"], 0)
        Libc(monkeypatch, errno.EIO)
        with pytest.raises(OSError) as caught:
            file.zero(0, 1)
        assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(file.path))


class TestExtents:
    def test_hole_punched_between_both_seeks_does_not_split_the_hole(
        self, file: RealFile, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answers = iter([4096, 4096, 8192, 12288, 65536])
        monkeypatch.setattr(os, "lseek", lambda descriptor, offset, whence: next(answers))
        assert list(file.extents(0, 65536)) == [
            Extent(0, 8192, data=False),
            Extent(8192, 4096, data=True),
            Extent(12288, 53248, data=False),
        ]

    def test_failed_seek_is_reported(self, file: RealFile, monkeypatch: pytest.MonkeyPatch) -> None:
        def seek(descriptor: int, offset: int, whence: int) -> int:
            raise OSError(errno.EIO, "seek")

        monkeypatch.setattr(os, "lseek", seek)
        with pytest.raises(OSError):
            list(file.extents(0, 10))


class TestDevice:
    """A block device as far as a file can stand in for one: its size is fixed, it has no holes."""

    @pytest.fixture
    def device(self, file: RealFile) -> RealFile:
        file.write([b"x" * 8192], 0)
        file._is_device = True
        return file

    def test_size_is_where_the_device_ends(self, device: RealFile) -> None:
        assert device.size() == device.allocated_bytes() == 8192

    def test_it_does_not_grow_and_is_not_cut(self, device: RealFile) -> None:
        device.resize(100)
        assert device.size() == 8192
        with pytest.raises(OSError) as caught:
            device.resize(8193)
        assert caught.value.errno == errno.ENOSPC

    def test_all_of_it_is_data_and_zeroes_are_written(self, device: RealFile) -> None:
        assert list(device.extents(512, 1024)) == [Extent(512, 1024, data=True)]
        assert list(device.extents(512, 0)) == []
        device.zero(0, 8192)
        assert device.read(8192, 0) == bytes(8192)
        device._is_device = False
        assert device.allocated_bytes() == 8192


class TestCheck:
    def refused(self, directory: Path) -> str:
        with pytest.raises(FailedPrecondition) as caught:
            RealStorage().check(directory)
        assert caught.value.reason == "FILE_SYSTEM_UNFIT"
        assert "local ext4, XFS or Btrfs" in str(caught.value)
        return str(caught.value)

    def test_network_file_system_is_refused_by_name(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Libc(monkeypatch)
        assert "is on NFS, a network file system" in self.refused(tmp_path)

    def test_file_system_without_flock_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def flock(descriptor: object, operation: int) -> None:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        monkeypatch.setattr(fcntl, "flock", flock)
        assert "cannot lock or extend files (No locks available)" in self.refused(tmp_path)

    def test_file_system_without_sparse_files_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fstat = os.fstat

        class Dense:
            def __init__(self, descriptor: int) -> None:
                self._status = fstat(descriptor)
                self.st_blocks = self._status.st_size // 512

            def __getattr__(self, name: str) -> Any:
                return getattr(self._status, name)

        monkeypatch.setattr(os, "fstat", Dense)
        assert "has no sparse files" in self.refused(tmp_path)

    def test_unreadable_file_system_is_an_os_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Libc(monkeypatch, errno.EACCES)
        with pytest.raises(OSError):
            RealStorage().check(tmp_path)


def test_lock_that_the_file_system_refuses_is_an_os_error_and_leaks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(descriptor: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError):
        RealStorage().lock(tmp_path / "LOCK")
    assert len(os.listdir("/proc/self/fd")) == before


class Failing:
    """A connection whose next commit fails with an error of SQLite's."""

    def __init__(self, connection: sqlite3.Connection, code: int) -> None:
        self.connection = connection
        self.code = code

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        if sql == "COMMIT" and self.code:
            error = sqlite3.OperationalError("injected")
            error.sqlite_errorcode = self.code
            self.code = 0
            raise error
        return self.connection.execute(sql, *parameters)


class TestDatabase:
    def failing(self, path: Path, code: int) -> SqliteDatabase:
        database = SqliteDatabase.open(path / "x.db")
        with database.transaction() as connection:
            connection.execute("CREATE TABLE t (a)")
        database._connection = Failing(database._connection, code)  # type: ignore[assignment]
        return database

    def insert(self, database: SqliteDatabase) -> None:
        with database.transaction() as connection:
            connection.execute("INSERT INTO t VALUES (1)")

    def test_every_transaction_is_synced(self, tmp_path: Path) -> None:
        database = SqliteDatabase.open(tmp_path / "x.db")
        assert database.query("PRAGMA journal_mode")[0][0] == "wal"
        assert database.query("PRAGMA synchronous")[0][0] == 2
        database.close()

    def test_full_disk_changes_nothing_and_the_next_one_goes_on(self, tmp_path: Path) -> None:
        database = self.failing(tmp_path, sqlite3.SQLITE_FULL)
        with pytest.raises(OSError) as caught:
            self.insert(database)
        assert caught.value.errno == errno.ENOSPC
        self.insert(database)
        assert len(database.query("SELECT * FROM t")) == 1
        database.close()

    def test_failed_sync_is_the_last_commit(self, tmp_path: Path) -> None:
        """A retry may report success for pages that were dropped (D3)."""
        database = self.failing(tmp_path, sqlite3.SQLITE_IOERR_FSYNC)
        for _ in range(2):
            with pytest.raises(OSError) as caught:
                self.insert(database)
            assert caught.value.errno == errno.EIO
        assert database.query("SELECT * FROM t") == []
        database.close()

    def test_file_system_without_shared_memory_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        connection = sqlite3.connect(":memory:")  # answers "memory" when asked for a WAL
        monkeypatch.setattr(sqlite3, "connect", lambda *_, **__: connection)
        with pytest.raises(OSError, match="write-ahead log"):
            SqliteDatabase.open(tmp_path / "x.db")
