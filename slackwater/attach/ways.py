"""The ways from an NBD export to a block device, as the programs that go them.

A restart of the Primary is an I/O pause in both ways: nbdkit's retry filter opens the connection
again and repeats the request (nbdkit-retry-filter(1)), and so does the kernel's client with
``-persist`` (nbd-client(8)). That is safe: a request repeated is the same bytes again, and what was
answered before the restart is not lost.
"""

import enum
from dataclasses import dataclass
from pathlib import Path

from slackwater.attach.system import AttachError, has

NBD_PORT = 10809
RETRY_SECONDS = 1
KERNEL_BLOCK_BYTES = 512
_KERNEL = Path("/sys/block")
_FUSE = Path("/dev/fuse")


class Way(enum.StrEnum):
    """Which way."""

    AUTO = "auto"
    KERNEL = "kernel"
    FUSE = "fuse"


@dataclass(frozen=True, slots=True)
class Export:
    """Where a volume is exported.

    Attributes:
        host: Of the NBD server.
        port: Of the NBD server.
        name: The export's.
        certificates: Directory with ca-cert.pem, client-cert.pem and client-key.pem; None: no TLS.
    """

    host: str
    port: int
    name: str
    certificates: Path | None = None

    @property
    def uri_with_certificates(self) -> str:
        """As libnbd reads it, which finds the certificates by a parameter of its own."""
        if self.certificates is None:
            return self.uri
        return f"{self.uri}?tls-certificates={self.certificates}"

    @property
    def uri(self) -> str:
        """As the NBD URI specification writes it."""
        scheme = "nbd" if self.certificates is None else "nbds"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}/{self.name}"


def choose(way: Way) -> Way:
    """Return the way to go on this machine.

    Raises:
        AttachError: this machine cannot go it.
    """
    lacks = {Way.KERNEL: kernel_lacks(), Way.FUSE: fuse_lacks()}
    if way is Way.AUTO:
        way = Way.KERNEL if not lacks[Way.KERNEL] else Way.FUSE
    if lacks[way]:
        raise AttachError(
            f"the way {way} needs {', '.join(lacks[way])}",
            "docs/attach.md says what each way needs",
        )
    return way


def kernel_lacks() -> list[str]:
    """What the kernel's client lacks here."""
    lacks = [f"the program {name}" for name in ("nbd-client", "nbdinfo") if not has(name)]
    return lacks if (_KERNEL / "nbd0").exists() else [*lacks, "the kernel's module nbd"]


def fuse_lacks() -> list[str]:
    """What FUSE and a loop device lack here."""
    lacks = [
        f"the program {name}"
        for name in ("nbdfuse", "nbdinfo", "nbdkit", "losetup")
        if not has(name)
    ]
    return lacks if _FUSE.exists() else [*lacks, str(_FUSE)]


def fuse_command(export: Export, disk: Path, patience_seconds: float, *, ro: bool) -> list[str]:
    """Return the program that shows an export as the file `disk` until it is unmounted."""
    retries = max(round(patience_seconds / RETRY_SECONDS), 1)
    tls = []
    if export.certificates is not None:
        tls = ["tls=require", f"tls-certificates={export.certificates}"]
    return [
        "nbdfuse", *(["--readonly"] if ro else []), str(disk),
        "[", "nbdkit", "--exit-with-parent", *(["--readonly"] if ro else []), "--filter=retry",
        "nbd", f"uri={export.uri}", *tls,
        f"retries={retries}", f"retry-delay={RETRY_SECONDS}", "retry-exponential=no", "]",
    ]  # fmt: skip


def kernel_command(export: Export, device: str, *, ro: bool) -> list[str]:
    """Return the program that joins an export to a device of the kernel, and ends at once."""
    tls = []
    if export.certificates is not None:
        tls = [
            "-x", "-certfile", str(export.certificates / "client-cert.pem"),
            "-keyfile", str(export.certificates / "client-key.pem"),
            "-cacertfile", str(export.certificates / "ca-cert.pem"),
        ]  # fmt: skip
    return [
        "nbd-client", export.host, str(export.port), device, "-name", export.name,
        "-block-size", str(KERNEL_BLOCK_BYTES), "-persist", *(["-readonly"] if ro else []), *tls,
    ]  # fmt: skip


def free_kernel_device() -> str:
    """Return a device of the kernel's client that nobody uses.

    Raises:
        AttachError: there is none.
    """
    for block in sorted(_KERNEL.glob("nbd*"), key=lambda path: (len(path.name), path.name)):
        if not (block / "pid").exists():
            return f"/dev/{block.name}"
    raise AttachError("no NBD device of the kernel is free", "modprobe nbd nbds_max=64")
