"""Does a file system of a snapshot hold together? Asked of its own checker, on a temporary copy.

The copy is sparse: only ranges with data are read, over NBD. It is taken because checkers want to
replay a journal first, and a snapshot is never written.
"""

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from slackwater.errors import FailedPrecondition, NoSpace, Unavailable
from slackwater.extent import Extent
from slackwater.nbd.client import Client
from slackwater.nbd.dialing import Address
from slackwater.runtime.tls import CertificateStore

PIECE_BYTES = 4 << 20
SPARE_BYTES = 64 << 20
"""A copy leaves so much free."""

PROBE_BYTES = 128 << 10
XFS = "xfs"
DIRTY = "state: <DIRTY>"
"""How xfs_logprint says that a log is to be replayed."""

_MOUNT = "mount -t xfs -o loop,nouuid,nosuid,nodev,noexec volume mnt && umount mnt"
REPLAY = ("unshare", "--mount", "sh", "-c", _MOUNT)
"""Replays the log of the copy `volume`. In a mount namespace of its own, so that nothing stays
mounted whoever is killed."""

_EXT_MAGIC, _EXT_INCOMPATIBLE = 1024 + 56, 1024 + 96
_EXT_NEEDS_RECOVERY = 0x4
_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104  # what a server that listens everywhere calls itself
_BTRFS_MAGIC = (64 << 10) + 64


@dataclass(frozen=True, slots=True)
class FileSystem:
    """A file system that was recognised.

    Attributes:
        kind: Its name.
        commands: What checks it, in order; the copy's name comes last.
        package: What brings the checker.
    """

    kind: str
    commands: tuple[tuple[str, ...], ...]
    package: str


def recognise(head: bytes) -> FileSystem | None:
    """Return the file system that a volume begins with, or None if it is none known here."""
    if head[_EXT_MAGIC : _EXT_MAGIC + 2] == b"\x53\xef":
        check = ("e2fsck", "-fn")
        flags = int.from_bytes(head[_EXT_INCOMPATIBLE : _EXT_INCOMPATIBLE + 4], "little")
        if flags & _EXT_NEEDS_RECOVERY:
            # As a mount would: without its journal a point in the write order has loose ends.
            return FileSystem("ext", (("e2fsck", "-p", "-E", "journal_only"), check), "e2fsprogs")
        return FileSystem("ext", (check,), "e2fsprogs")
    if head[:4] == b"XFSB":
        return FileSystem(XFS, (("xfs_repair", "-n", "-f"),), "xfsprogs")
    if head[_BTRFS_MAGIC : _BTRFS_MAGIC + 8] == b"_BHRfS_M":
        return FileSystem("btrfs", (("btrfs", "check", "--readonly"),), "btrfs-progs")
    return None


def may_mount() -> bool:
    """Whether this service may ask the kernel to mount."""
    return os.geteuid() == 0


def address_of(uri: str, host: str) -> tuple[Address, str, bool]:
    """Return where an NBD URI leads: address, export, whether over TLS.

    Args:
        uri: The URI, as the Secondary names it.
        host: Where the Secondary is reached, if the URI names no address of its own.
    """
    parts = urlsplit(uri)
    export = unquote(parts.path).removeprefix("/")
    is_tls = parts.scheme.startswith("nbds")
    if parts.scheme.endswith("+unix"):
        return Path(parse_qs(parts.query)["socket"][0]), export, is_tls
    named = parts.hostname or host
    if named in _EVERYWHERE:
        named = host
    return (named, parts.port or 10809), export, is_tls


class Copy:
    """A temporary copy of one volume. Everything here blocks; `stop` ends it from outside."""

    def __init__(
        self, uri: str, host: str, certificates: CertificateStore | None, stop: threading.Event
    ) -> None:
        """Connect to nothing yet."""
        self._uri = uri
        self._host = host
        self._certificates = certificates
        self._stop = stop

    def recognise(self) -> FileSystem | None:
        """Return what the volume carries."""
        with self._open() as client:
            return recognise(self._read(client, 0, min(PROBE_BYTES, client.size)))

    def make(self, path: Path, owner: tuple[int, int]) -> None:
        """Copy the volume into a new file of `owner`.

        Raises:
            NoSpace: there is no room for it.
            OSError: reading or writing failed.
        """
        with self._open() as client:
            extents = [extent for extent in self._extents(client) if extent.data]
            need = sum(extent.length for extent in extents) + SPARE_BYTES
            status = os.statvfs(path.parent)
            free = status.f_bavail * status.f_frsize
            if need > free:
                raise NoSpace(
                    f"{path.parent} for a copy of {need} bytes, with {free} free", "Make room"
                )
            with path.open("xb", buffering=0) as file:
                os.fchown(file.fileno(), *owner)
                os.truncate(file.fileno(), client.size)
                for extent in extents:
                    self._copy(client, file.fileno(), extent)

    def _copy(self, client: Client, file: int, extent: Extent) -> None:
        for offset in range(extent.offset, extent.next_offset, PIECE_BYTES):
            if self._stop.is_set():
                raise InterruptedError("the step was ended")
            length = min(PIECE_BYTES, extent.next_offset - offset)
            os.pwrite(file, self._read(client, offset, length), offset)

    def _read(self, client: Client, offset: int, length: int) -> bytes:
        try:
            return client.read(offset, length)
        except OSError as error:
            raise Unavailable(f"byte {offset} of {self._uri} ({error})", "Try again") from error

    def _extents(self, client: Client) -> Iterator[Extent]:
        if not client.has_block_status:
            yield Extent(0, client.size, True)
            return
        yield from client.extents()

    def _open(self) -> Client:
        address, export, is_tls = address_of(self._uri, self._host)
        try:
            return self._connect(address, export, is_tls=is_tls)
        except OSError as error:
            raise Unavailable(f"{self._uri} ({error})", "Is its NBD port open to here?") from error

    def _connect(self, address: Address, export: str, *, is_tls: bool) -> Client:
        if not is_tls:
            return Client(address, export)
        if self._certificates is None:
            raise FailedPrecondition(
                "TLS_REQUIRED",
                f"{self._uri} needs TLS",
                "Give this service --tls-cert and the rest",
            )
        return Client(
            address,
            export,
            tls_context=self._certificates.client_context(),
            server_hostname=self._host if isinstance(address, Path) else None,
        )
