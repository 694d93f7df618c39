"""The process side of a simulated storage: calls that count, fail, and end it."""

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from slackwater.storage.simulated_disk import Names, Node


class SimulatedCrash(BaseException):
    """The process died here; only a test catches this."""


@dataclass
class Fault:
    """An error that a storage reports; see `SimulatedStorage.fail`."""

    operation: str
    match: str
    number: int
    times: int
    mark_clean: bool


class SimulatedProcess:
    """A process and the disk it uses: counts its calls, fails some, dies at one."""

    def __init__(self, *, capacity_bytes: int | None = None) -> None:
        """Start with an empty disk.

        Args:
            capacity_bytes: bytes of pages past which writes fail with ENOSPC; None: no bound.
        """
        self.calls = 0
        self.crash_at: int | None = None
        self.call_log: list[tuple[int, str, str]] = []
        self.capacity_bytes = capacity_bytes
        self.failed_sync_cleans = True
        self.names = Names()
        self.is_dead = False
        self._faults: list[Fault] = []
        self._mutex = threading.RLock()

    # -- faults -------------------------------------------------------------------------------

    def fail(
        self,
        operation: str,
        match: str = "",
        number: int = errno.EIO,
        times: int = 1,
        *,
        mark_clean: bool = True,
    ) -> None:
        """Let the next `times` calls of `operation` on paths with `match` in them fail.

        Operations: write, zero, sync, resize, open, read, commit, rename, remove, make_directory,
        sync_directory. A failed sync marks the pages clean: reads still show them, a later sync
        succeeds without making them durable, a power loss drops them.
        """
        self._faults.append(Fault(operation, match, number, times, mark_clean))

    def heal(self) -> None:
        """Forget all faults that were asked for."""
        self._faults.clear()

    def check_alive(self) -> None:
        """Raise if the process has crashed."""
        if self.is_dead:
            raise SimulatedCrash

    def check_fault(self, operation: str, path: Path) -> None:
        """Raise the error that was asked for, if this call is one of those."""
        for fault in self._faults:
            if fault.operation == operation and fault.match in str(path) and fault.times > 0:
                fault.times -= 1
                self.failed_sync_cleans = fault.mark_clean
                raise error_of(fault.number, path)

    @contextlib.contextmanager
    def change(self, operation: str, path: Path) -> Iterator[None]:
        """Number one mutating call; the body is what it does."""
        with self._mutex:
            self.check_alive()
            self.calls += 1
            self.call_log.append((self.calls, operation, str(path)))
            if self.crash_at is not None and self.calls >= self.crash_at:
                self.is_dead = True
                raise SimulatedCrash
            self.check_fault(operation, path)
            yield

    def used_bytes(self) -> int:
        """Return the bytes that files hold, holes not counted."""
        return sum(node.visible.held_bytes() for node in self.names.nodes())

    def room_for(self, node: Node, offset: int, length: int) -> int:
        """Return how many of the bytes to be written still fit."""
        if self.capacity_bytes is None:
            return length
        missing = node.visible.missing_bytes(offset, length)
        short = self.used_bytes() + missing - self.capacity_bytes
        return length if missing == 0 or short <= 0 else max(length - short, 0)


def error_of(number: int, path: Path) -> OSError:
    """Return the error an operating system would raise."""
    return OSError(number, os.strerror(number), str(path))
