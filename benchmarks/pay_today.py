"""What applications pay today: a file system frozen under a reflink, a logical message.

Both are existing ways to a known point: `fsfreeze` around `cp --reflink` of the image under the
file system, and PostgreSQL's `pg_logical_emit_message` to a logical decoding client.
"""

import contextlib
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg

from demo import mounts

COMMAND_SECONDS = 120.0
IMAGE_BYTES = 1 << 30
XFS_BYTES = 6 << 30
SLOT = "bench"


def reflink_windows(directory: Path, count: int, *, fragmented: bool) -> list[float]:
    """Milliseconds from freeze to thaw around `cp --reflink` of a 1 GiB image on XFS.

    The application's ext4 lies on the image by a loop device, with a writer at work in it.

    Args:
        directory: where the file systems may be made.
        count: how often.
        fragmented: the image's blocks were written in random order, as a database does.
    """
    disk, where = directory / "xfs.img", directory / "xfs"
    with disk.open("wb") as file:
        file.truncate(XFS_BYTES)
    mounts.run("mkfs.xfs", "-q", "-m", "reflink=1", str(disk))
    windows = []
    with contextlib.ExitStack() as stack:
        host = stack.enter_context(mounts.as_disk(disk))
        stack.enter_context(mounts.mounted(host, where))
        image = where / "image"
        with image.open("wb") as file:
            file.truncate(IMAGE_BYTES)
        if fragmented:
            _scatter(image)
        device = stack.enter_context(mounts.as_disk(image))
        mounts.make_file_system(device)
        mount = stack.enter_context(mounts.mounted(device, directory / "app"))
        stack.enter_context(_file_load(mount))
        for number in range(count):
            copy = where / f"copy-{number}"
            began = time.monotonic()
            mounts.freeze(mount)
            try:
                mounts.run("cp", "--reflink=always", str(image), str(copy))
            finally:
                mounts.thaw(mount)
            windows.append((time.monotonic() - began) * 1e3)
            copy.unlink()
    disk.unlink()
    return windows


def _scatter(image: Path) -> None:
    fio = ["fio", "--name=scatter", "--ioengine=psync", f"--filename={image}", "--rw=randwrite"]
    words = ["--bs=4k", "--size=1g", "--number_ios=50000", "--norandommap"]
    subprocess.run([*fio, *words], capture_output=True, timeout=COMMAND_SECONDS, check=True)


@contextlib.contextmanager
def _file_load(mount: Path) -> Iterator[None]:
    """4 KiB random writes into a file, 16 jobs deep, while the context lasts."""
    words = ["--ioengine=libaio", "--iodepth=16", "--rw=randwrite", "--bs=4k", "--size=256m"]
    process = subprocess.Popen(
        ["fio", "--name=load", f"--directory={mount}", *words, "--time_based", "--runtime=600"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        time.sleep(2.0)  # until its file is laid out
        yield
    finally:
        process.terminate()
        process.wait(30)


class Postgres:
    """A PostgreSQL of one's own, with logical decoding, while the context lasts."""

    def __init__(self, directory: Path) -> None:
        """Plan it; its server cannot run as root, so it runs as `postgres` then."""
        self._data = directory / "postgres"
        self._bin = postgres_programs()
        self._user = "postgres" if os.geteuid() == 0 else None
        self.dsn = f"host={self._data} dbname=postgres user=postgres"

    def __enter__(self) -> "Postgres":
        """Make and start it."""
        self._data.mkdir(mode=0o700)
        if self._user:
            shutil.chown(self._data, self._user)
            for parent in list(self._data.parents)[:2]:
                parent.chmod(parent.stat().st_mode | 0o011)
        self._run("initdb", "-D", str(self._data), "-U", "postgres", "-A", "trust")
        options = f"-k {self._data} -c listen_addresses= -c wal_level=logical"
        log = str(self._data / "log")
        self._run("pg_ctl", "-D", str(self._data), "-o", options, "-l", log, "-w", "start")
        return self

    def __exit__(self, *about: object) -> None:
        """Stop it."""
        self._run("pg_ctl", "-D", str(self._data), "-m", "immediate", "stop")

    def message_latencies(self, count: int) -> list[float]:
        """Milliseconds from `pg_logical_emit_message` to its coming out of logical decoding.

        Sixteen pgbench clients write all the while.
        """
        host = ["-h", str(self._data), "-U", "postgres"]
        self._run("pgbench", "-i", "-q", "-s", "10", *host, "postgres")
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_create_logical_replication_slot(%s, 'test_decoding')", (SLOT,)
            )
            load = self._start("pgbench", "-c", "16", "-T", "300", "-N", *host, "postgres")
            stream = self._start(
                *("pg_recvlogical", *host, "-d", "postgres", "--slot", SLOT),
                *("--start", "-f", "-", "-F", "0"),
            )
            seen: dict[str, float] = {}
            reader = threading.Thread(target=_watch, args=(stream, seen), daemon=True)
            reader.start()
            try:
                return [self._once(connection, f"m{number}", seen) for number in range(count)]
            finally:
                for process in (stream, load):
                    process.terminate()
                    process.wait(30)
                reader.join(5)

    @staticmethod
    def _once(connection: "psycopg.Connection[object]", name: str, seen: dict[str, float]) -> float:
        began = time.monotonic()
        connection.execute("SELECT pg_logical_emit_message(true, 'bench', %s)", (name,))
        deadline = began + COMMAND_SECONDS
        while name not in seen:
            if time.monotonic() > deadline:
                raise RuntimeError(f"message {name} did not come out")
            time.sleep(0.0001)
        return (seen[name] - began) * 1e3

    def _command(self, program: str, *words: str) -> list[str]:
        user = ["runuser", "-u", self._user, "--"] if self._user else []
        return [*user, str(self._bin / program), *words]

    def _run(self, program: str, *words: str) -> None:
        subprocess.run(
            self._command(program, *words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            timeout=COMMAND_SECONDS,
            check=True,
        )

    def _start(self, program: str, *words: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            self._command(program, *words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if program == "pg_recvlogical" else subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
        )


def _watch(stream: "subprocess.Popen[bytes]", seen: dict[str, float]) -> None:
    """Note when each message came; its line ends with `content:` and the message."""
    assert stream.stdout is not None
    for line in stream.stdout:
        head, found, content = line.rstrip().rpartition(b"content:")
        if found and head.startswith(b"message:"):
            seen[content.decode()] = time.monotonic()


def postgres_programs() -> Path:
    """Where Debian keeps the server's programs: the newest version there is."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parts[-2]))
    if not found:
        raise RuntimeError("PostgreSQL is missing; as root: apt-get install -y postgresql")
    return found[-1]
