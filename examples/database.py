"""A PostgreSQL server of one's own, and a client that knows which commits have returned."""

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import psycopg

from examples.scene import SceneFailed, require, wait
from slackwater.v1 import record_pb2

COMMAND_SECONDS = 120.0
USER = "postgres"


class Server:
    """PostgreSQL on a data directory, with its WAL elsewhere."""

    def __init__(self, data: Path, wal: Path, run_directory: Path) -> None:
        """Plan it; `run_directory` takes its socket and its log."""
        self._data, self._wal = data, wal
        self._run_directory = run_directory
        self.dsn = f"host={run_directory} user={USER} dbname=postgres"

    def make(self) -> None:
        """Make an empty cluster, its WAL on the other volume."""
        self._own(self._data.parent, self._wal.parent)
        self._run("initdb", "-D", str(self._data), "-X", str(self._wal), "-U", USER, "-A", "trust")

    def adopt(self) -> None:
        """Take over a copy of another server's directories: as after a crash of its machine."""
        link = self._data / "pg_wal"
        link.unlink()
        link.symlink_to(self._wal)
        (self._data / "postmaster.pid").unlink(missing_ok=True)

    def __enter__(self) -> Self:
        """Start it; a copy recovers first."""
        self._run_directory.mkdir(mode=0o755, exist_ok=True)
        self._own(self._run_directory)
        options = f"-k {self._run_directory} -c listen_addresses= -c shared_buffers=16MB"
        log = str(self._run_directory / "log")
        words = ("-D", str(self._data), "-o", options, "-l", log, "-w", "-t", "60", "start")
        self._run("pg_ctl", *words)
        return self

    def __exit__(self, *about: object) -> None:
        """Stop it."""
        self._run("pg_ctl", "-D", str(self._data), "-m", "fast", "-w", "stop")

    def pgbench(self, *words: str) -> subprocess.Popen[bytes]:
        """Start pgbench; it writes until it is ended."""
        return subprocess.Popen(
            self._command("pgbench", "-h", str(self._run_directory), "-U", USER, *words, USER),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    def recovers_from(self) -> str:
        """Where recovery of these directories will begin: the last checkpoint they know of."""
        done = subprocess.run(
            self._command("pg_controldata", "-D", str(self._data)),
            capture_output=True, text=True, check=True, cwd="/", timeout=COMMAND_SECONDS,
            env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
        (row,) = [row for row in done.stdout.splitlines() if "checkpoint's REDO location" in row]
        return row.split()[-1]

    def check(self) -> None:
        """`pg_amcheck` of everything."""
        self._run(
            "pg_amcheck",
            "-h",
            str(self._run_directory),
            "-U",
            USER,
            "--all",
            "--heapallindexed",
            "--install-missing",
        )

    def _own(self, *paths: Path) -> None:
        if os.geteuid() == 0:
            for path in paths:
                shutil.chown(path, USER, USER)

    def _command(self, program: str, *words: str) -> list[str]:
        user = ["runuser", "-u", USER, "--"] if os.geteuid() == 0 else []
        where = programs()
        require(where is not None, "PostgreSQL is missing; as root: apt-get install -y postgresql")
        return [*user, f"{where}/{program}", *words]

    def _run(self, program: str, *words: str) -> None:
        done = subprocess.run(
            self._command(program, *words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # a pipe would stay open as long as the server runs
            stderr=subprocess.DEVNULL,
            cwd="/",
            timeout=COMMAND_SECONDS,
        )
        if done.returncode:
            log = self._run_directory / "log"
            said = log.read_text()[-2000:] if log.exists() else ""
            raise SceneFailed(f"{program} {' '.join(words)} ended with {done.returncode}\n{said}")


def programs() -> Path | None:
    """Where Debian keeps the server's programs: the newest version there is."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3])
    )
    return found[-1].parent if found else None


class Directories(Protocol):
    """Of a server that was not started yet."""

    def recovers_from(self) -> str:
        """Where recovery will begin."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the agent's backup said: it is kept with the snapshot, in the Outcome's reports.

    Attributes:
        start_lsn: What pg_backup_start answered: its checkpoint.
        stop_lsn: What pg_backup_stop answered.
        label: The backup label.
    """

    start_lsn: str
    stop_lsn: str
    label: str

    @classmethod
    def of(cls, outcome: record_pb2.Outcome) -> Self:
        """Read it."""
        (report,) = outcome.reports
        started, stopped = json.loads(report.answer), json.loads(report.resume_answer)
        require(not stopped["tablespaceMap"], "there are tablespaces that were not copied")
        return cls(started["startLsn"], stopped["stopLsn"], stopped["backupLabel"])

    def check(self, copy: "Directories") -> None:
        """Hold a copy that was not started yet to it: its recovery begins within the backup."""
        named = f"START WAL LOCATION: {self.start_lsn} "
        require(named in self.label, f"the label is not of the backup at {self.start_lsn}")
        begins = copy.recovers_from()
        within = _number(self.start_lsn) <= _number(begins) < _number(self.stop_lsn)
        require(within, f"recovery begins at {begins}, outside of the backup: {self}")


def _number(lsn: str) -> int:
    high, _, low = lsn.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


@dataclass(frozen=True, slots=True)
class Commit:
    """One COMMIT: when it was issued and when it returned, in seconds since 1970."""

    number: int
    issued: float
    returned: float


class Committer(threading.Thread):
    """Commits numbers, one after the other, and never stops by itself."""

    def __init__(self, dsn: str) -> None:
        """Connect, and make the table."""
        super().__init__(name="committer", daemon=True)
        self.commits: list[Commit] = []
        self.problem: Exception | None = None
        self._connection = psycopg.connect(dsn, autocommit=True)
        self._connection.execute("CREATE TABLE ticks (number bigint PRIMARY KEY)")
        self._stopping = threading.Event()

    def run(self) -> None:
        """Commit until told to stop."""
        number = 0
        try:
            while not self._stopping.wait(0.001):
                number += 1
                issued = time.time()
                self._connection.execute("INSERT INTO ticks VALUES (%s)", (number,))
                self.commits.append(Commit(number, issued, time.time()))
        except psycopg.Error as error:
            self.problem = error

    def wait(self, count: int) -> None:
        """Wait until so many commits more have returned."""
        goal = len(self.commits) + count

        def is_reached() -> bool:
            require(self.problem is None, f"the committer has stopped: {self.problem}")
            return len(self.commits) >= goal

        wait(f"{count} commits more return", is_reached)

    def stop(self) -> None:
        """Stop, and raise what ended it early."""
        self._stopping.set()
        self.join()
        self._connection.close()
        if self.problem is not None:
            raise self.problem


def check_commits(dsn: str, commits: Sequence[Commit], began: float, ended: float) -> int:
    """Hold a copy to its point; returns how many commits it has.

    Args:
        dsn: the copy's server.
        commits: what was committed on the original.
        began: when the send was issued: what had returned by then has to be there.
        ended: when it had returned: what was issued later must not be there.
    """
    with psycopg.connect(dsn) as connection:
        there = {int(row[0]) for row in connection.execute("SELECT number FROM ticks")}
    check_numbers(there, commits, began, ended)
    return len(there)


def check_numbers(there: set[int], commits: Sequence[Commit], began: float, ended: float) -> None:
    """As check_commits, with what is in the copy."""
    missing = {one.number for one in commits if one.returned < began} - there
    require(not missing, f"{len(missing)} commits that had returned are missing")
    late = {one.number for one in commits if one.issued > ended} & there
    require(not late, f"{len(late)} commits issued after the send had returned are there")
