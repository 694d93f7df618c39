"""The storage seam over the operating system."""

import ctypes
import errno
import fcntl
import mmap
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from slackwater.errors import FailedPrecondition
from slackwater.extent import Extent
from slackwater.storage.database import SqliteDatabase
from slackwater.storage.seam import Buffer

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_FALLOC_PUNCH_HOLE: Final = 0x02 | 0x01  # PUNCH_HOLE needs KEEP_SIZE
_SYNC_FILE_RANGE_WRITE: Final = 2
_PIECES: Final = os.sysconf("SC_IOV_MAX")
_ZERO_STEP: Final = 1 << 20
_ZEROES: Final = bytes(_ZERO_STEP)
_NO_PUNCH: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV, errno.EINVAL})
PROBE: Final = ".probe-"
"""How the name of a passing test file begins, where a file must have one."""
_NETWORK: Final = {0x6969: "NFS", 0xFF534D42: "CIFS", 0xFE534D42: "SMB2", 0x01021997: "9p"}


class RealFile:
    """A file or block device by its descriptor."""

    def __init__(self, path: Path, descriptor: int) -> None:
        """Own the descriptor."""
        self.path = path
        self.descriptor = descriptor
        self._maps: list[mmap.mmap] = []
        self._is_device = stat.S_ISBLK(os.fstat(descriptor).st_mode)

    def read(self, length: int, offset: int) -> bytes:
        """Return `length` bytes; fewer only at the end."""
        data = os.pread(self.descriptor, length, offset)
        if len(data) == length or not data:
            return data
        parts = [data]
        got = len(data)
        while got < length and (more := os.pread(self.descriptor, length - got, offset + got)):
            parts.append(more)
            got += len(more)
        return b"".join(parts)

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill the buffer; fewer only at the end."""
        got = os.preadv(self.descriptor, (buffer,), offset)
        while got < len(buffer):
            more = os.preadv(self.descriptor, (buffer[got:],), offset + got)
            if not more:
                break
            got += more
        return got

    def write(self, pieces: Sequence[Buffer], offset: int) -> None:
        """Write the pieces back to back."""
        for first in range(0, len(pieces), _PIECES):
            batch = pieces if len(pieces) <= _PIECES else pieces[first : first + _PIECES]
            size = sum(map(len, batch))
            written = os.pwritev(self.descriptor, batch, offset)
            if written != size:
                self._continue(batch, offset, written)
            offset += size

    def _continue(self, batch: Sequence[Buffer], offset: int, written: int) -> None:
        """Write what a short write left."""
        at = 0
        for piece in batch:
            view = memoryview(piece)
            done = min(max(written - at, 0), len(view))
            while done < len(view):
                more = os.pwrite(self.descriptor, view[done:], offset + at + done)
                if not more:
                    raise OSError(errno.EIO, "the write got stuck", str(self.path))
                done += more
            at += len(view)

    def zero(self, offset: int, length: int) -> None:
        """Punch a hole, or write zeroes in bounded steps (D12)."""
        end = min(offset + length, self.size())
        if end <= offset or (not self._is_device and self._punch(offset, end - offset)):
            return
        for step in range(offset, end, _ZERO_STEP):
            size = min(_ZERO_STEP, end - step)
            self.write((_ZEROES if size == _ZERO_STEP else bytes(size),), step)

    def _punch(self, offset: int, length: int) -> bool:
        """Punch a hole; False: the file system has none."""
        arguments = (_FALLOC_PUNCH_HOLE, ctypes.c_int64(offset), ctypes.c_int64(length))
        while _LIBC.fallocate(self.descriptor, *arguments) != 0:
            number = ctypes.get_errno()
            if number in _NO_PUNCH:
                return False
            if number != errno.EINTR:
                raise OSError(number, os.strerror(number), str(self.path))
        return True

    def sync(self) -> None:
        """Run fdatasync."""
        if self.descriptor < 0:
            raise OSError(errno.EBADF, "the file is closed", str(self.path))
        os.fdatasync(self.descriptor)

    def start_writeback(self, offset: int, length: int) -> None:
        """Run sync_file_range; errors say nothing that the next sync would not."""
        _LIBC.sync_file_range(
            self.descriptor,
            ctypes.c_int64(offset),
            ctypes.c_int64(length),
            _SYNC_FILE_RANGE_WRITE,
        )

    def size(self) -> int:
        """Return the length in bytes."""
        if self._is_device:
            return os.lseek(self.descriptor, 0, os.SEEK_END)
        return os.fstat(self.descriptor).st_size

    def allocated_bytes(self) -> int:
        """Return what the file system counts for the file; a device is all allocated."""
        return self.size() if self._is_device else os.fstat(self.descriptor).st_blocks * 512

    def resize(self, size: int) -> None:
        """Cut or extend with a hole; a device cannot grow here."""
        if self._is_device:
            if size > self.size():
                raise OSError(errno.ENOSPC, "the device is smaller", str(self.path))
            return
        os.ftruncate(self.descriptor, size)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """Yield data and holes by SEEK_DATA and SEEK_HOLE."""
        end = offset + length
        if self._is_device:
            if length:
                yield Extent(offset, length, data=True)
            return
        start = at = offset  # a hole begins at `start`, what is looked at next at `at`
        while at < end:
            data = self._seek(at, os.SEEK_DATA, end)
            at = self._seek(data, os.SEEK_HOLE, end) if data < end else end
            if data < end and at == data:
                continue  # another thread punched it in between: still the same hole
            if data > start:
                yield Extent(start, data - start, data=False)
            if at > data:
                yield Extent(data, at - data, data=True)
            start = at

    def _seek(self, at: int, whence: int, end: int) -> int:
        try:
            return min(os.lseek(self.descriptor, at, whence), end)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return end

    def map(self) -> memoryview:
        """Map the whole file, shared and writable."""
        size = self.size()
        if size == 0:
            return memoryview(bytearray())
        mapped = mmap.mmap(self.descriptor, size)
        self._maps.append(mapped)
        return memoryview(mapped)

    def close(self) -> None:
        """Close the descriptor; mappings live until the last view of them is gone."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
            self._maps.clear()


class RealLock:
    """A flock on a file of its own."""

    def __init__(self, descriptor: int) -> None:
        """Own the descriptor that holds the lock."""
        self._descriptor = descriptor

    def close(self) -> None:
        """Release the lock."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class RealStorage:
    """Files of the operating system."""

    def open(
        self, path: Path, *, create: bool = False, exclusive: bool = False, writable: bool = True
    ) -> RealFile:
        """Open a file."""
        flags = os.O_RDWR if writable else os.O_RDONLY
        if create:
            flags |= os.O_CREAT
        if exclusive:
            flags |= os.O_CREAT | os.O_EXCL
        return RealFile(path, os.open(path, flags | os.O_CLOEXEC, 0o640))

    def exists(self, path: Path) -> bool:
        """Tell whether the path names anything."""
        return path.exists()

    def listing(self, path: Path) -> list[str]:
        """Return the names in a directory, sorted."""
        return sorted(os.listdir(path))  # noqa: PTH208 -- names, not paths

    def make_directory(self, path: Path) -> None:
        """Make a directory and its parents."""
        path.mkdir(mode=0o750, parents=True, exist_ok=True)

    def remove(self, path: Path) -> None:
        """Remove a file."""
        path.unlink()

    def remove_tree(self, path: Path) -> None:
        """Remove a directory and all in it."""
        if path.exists():
            shutil.rmtree(path)

    def rename(self, old: Path, new: Path) -> None:
        """Rename atomically."""
        old.rename(new)

    def sync_directory(self, path: Path) -> None:
        """Make names durable."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def lock(self, path: Path) -> RealLock:
        """Take the exclusive lock."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise FailedPrecondition(
                "DIRECTORY_IN_USE",
                f"another process holds {path}",
                "Stop that process, or give this one another directory",
            ) from None
        except OSError:
            os.close(descriptor)
            raise
        return RealLock(descriptor)

    def open_database(self, path: Path) -> SqliteDatabase:
        """Open or make a database."""
        return SqliteDatabase.open(path)

    def free_bytes(self, path: Path) -> int:
        """Return what statvfs calls available."""
        status = os.statvfs(path)
        return status.f_bavail * status.f_frsize

    def check(self, directory: Path) -> None:
        """Refuse network file systems, and those without flock or sparse files."""
        network = _NETWORK.get(_file_system_magic(directory))
        if network is not None:
            raise _unfit(directory, f"is on {network}, a network file system")
        try:
            # A file without a name: two roles that start at once do not see each other's.
            with tempfile.TemporaryFile(prefix=PROBE, dir=directory) as probe:
                fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
                probe.truncate(1 << 30)
                sparse = os.fstat(probe.fileno()).st_blocks * 512 < 1 << 20
        except OSError as error:
            raise _unfit(directory, f"cannot lock or extend files ({error.strerror})") from error
        if not sparse:
            raise _unfit(directory, "has no sparse files")


def _file_system_magic(directory: Path) -> int:
    buffer = ctypes.create_string_buffer(256)
    if _LIBC.statfs(os.fsencode(directory), buffer) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(directory))
    return int.from_bytes(buffer.raw[:8], "little") & 0xFFFFFFFF


def _unfit(directory: Path, problem: str) -> FailedPrecondition:
    return FailedPrecondition(
        "FILE_SYSTEM_UNFIT",
        f"data directory {directory} {problem}",
        "Use a directory on a local ext4, XFS or Btrfs file system",
    )
