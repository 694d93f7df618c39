"""A PostgreSQL server of the test's own."""

import contextlib
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

USER = "postgres"
START_SECONDS = 60


def binaries() -> Path:
    """Where the newest server's programs are; without one the test is skipped, in CI it fails."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4])
    )
    if not found:
        sentence = "postgresql is not installed: run `make setup` as root"
        if os.environ.get("CI") == "true":
            pytest.fail(sentence)
        pytest.skip(sentence)
    return found[-1].parent


@contextlib.contextmanager
def server(directory: Path) -> Iterator["Server"]:
    """A server on a socket in `directory`, whose data is below it; gone after the body."""
    running = Server(directory)
    try:
        running.start()
        yield running
    finally:
        running.stop()


class Server:
    """One server, as its own user: it refuses to run as root."""

    def __init__(self, directory: Path) -> None:
        """Make its data directory."""
        self._bin = binaries()
        self.directory = directory
        self.data = directory / "data"
        directory.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            for parent in [directory, *directory.parents]:
                if parent.stat().st_uid == 0 and not parent.stat().st_mode & 0o001:
                    parent.chmod(parent.stat().st_mode | 0o011)  # a way in, nothing to see
            row = pwd.getpwnam(USER)
            os.chown(directory, row.pw_uid, row.pw_gid)
        self._run("initdb", "--auth=trust", "--username=postgres", "--no-sync", str(self.data))

    @property
    def dsn(self) -> str:
        """How to connect."""
        return f"host={self.directory} dbname=postgres user=postgres"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = f"-c listen_addresses='' -c unix_socket_directories='{self.directory}'"
        self._run(
            "pg_ctl", "start", "-w", "-t", str(START_SECONDS), "-D", str(self.data),
            "-l", str(self.directory / "log"), "-o", options,
        )  # fmt: skip

    def stop(self) -> None:
        """End it at once."""
        with contextlib.suppress(subprocess.SubprocessError):
            self._run("pg_ctl", "stop", "-m", "immediate", "-w", "-D", str(self.data))
        shutil.rmtree(self.data, ignore_errors=True)

    def connect(self) -> "psycopg.Connection[tuple[object, ...]]":
        """A connection."""
        return psycopg.connect(self.dsn, autocommit=True)

    def ask(self, statement: str) -> object:
        """One value."""
        with self.connect() as connection:
            row = connection.execute(statement.encode()).fetchone()
        return row[0] if row else None

    def do(self, statement: str) -> None:
        """A statement that returns nothing."""
        with self.connect() as connection:
            connection.execute(statement.encode())

    def _run(self, program: str, *words: str) -> None:
        user = USER if os.geteuid() == 0 else None
        subprocess.run(
            [str(self._bin / program), *words],
            user=user, cwd="/", check=True, timeout=2 * START_SECONDS,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
