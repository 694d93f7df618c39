"""The durable record of what an agent holds: one small file, synced before anything is held.

Three may resume an application: the agent, its guard, and the next agent at its start. Each does so
under a lock and looks into the record first, so that it happens once unless somebody dies midway.
"""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slackwater.errors import FailedPrecondition

POLL_SECONDS = 0.02
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """What is held, or was.

    Attributes:
        hold_id: The hold.
        undo: How it is resumed, as `slackwater.agent.undo` reads it.
        resumed_by: Who resumed it in the agent's place, or "" while it is held.
        why: Why that was done.
        format: Of this file.
    """

    hold_id: str
    undo: dict[str, Any]
    resumed_by: str = ""
    why: str = ""
    format: int = FORMAT


class Ledger:
    """The record of one application's holds in the state directory."""

    def __init__(self, directory: Path, group: str, application: str) -> None:
        """Plan the files; both names are DNS labels."""
        self.directory = directory
        self.group, self.application = group, application
        self._path = directory / f"{group}.{application}.json"

    def prepare(self) -> None:
        """Make the directory, for this user alone: what stands in it is run."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = self.directory.stat()
            writable = os.access(self.directory, os.W_OK | os.X_OK)
        except OSError as error:
            raise FailedPrecondition(
                "STATE_DIR", f"cannot use {self.directory}: {error.strerror}", _OTHER
            ) from error
        if not writable:
            raise FailedPrecondition("STATE_DIR", f"cannot write into {self.directory}", _OTHER)
        if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
            raise FailedPrecondition(
                "STATE_DIR", f"others can write into {self.directory}", "chmod 700 it, or chown it"
            )

    @contextlib.contextmanager
    def owned(self) -> Iterator[bool]:
        """For as long as the body runs nobody else may own the record; False: somebody does."""
        with self._open_lock(".lock") as descriptor:
            yield _try_lock(descriptor)

    @contextlib.contextmanager
    def acting(self, seconds: float) -> Iterator[bool]:
        """Resume alone, or after so long not alone: twice is better than not at all."""
        with self._open_lock(".acting") as descriptor:
            deadline = time.monotonic() + seconds
            while not (alone := _try_lock(descriptor)) and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
            yield alone

    def read(self) -> Entry | None:
        """What is recorded, or None.

        Raises:
            FailedPrecondition: It cannot be understood.
        """
        try:
            text = self._path.read_text()
        except FileNotFoundError:
            return None
        try:
            entry = Entry(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise self._not_understood(str(error)) from error
        if entry.format != FORMAT or not isinstance(entry.undo, dict):
            raise self._not_understood(f"format {entry.format!r}")
        return entry

    def _not_understood(self, problem: str) -> FailedPrecondition:
        return FailedPrecondition(
            "STATE_FILE",
            f"cannot understand {self._path}: {problem}",
            "See that the application is not held, then remove the file",
        )

    def write(self, entry: Entry) -> None:
        """Put an entry into the record; it is durable when this returns."""
        fresh = self._path.with_suffix(".new")
        with open(fresh, "w", opener=_private) as file:
            json.dump(asdict(entry), file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)
        self._sync_directory()

    def clear(self) -> None:
        """Nothing is held any more; durable when this returns."""
        self._path.unlink(missing_ok=True)
        self._sync_directory()

    def _sync_directory(self) -> None:
        descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _open_lock(self, suffix: str) -> Iterator[int]:
        path = self._path.with_suffix(suffix)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


_OTHER = "Name another directory: --state-dir"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
