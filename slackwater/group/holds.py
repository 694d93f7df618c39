"""Holds: what keeps the checkpoint back until rows have followed their records (D11, D28).

A record is in the log before its row is in group.db. In between, a crash is mended by replay, which
needs the checkpoint to stay before the record. When group.db has no room, the row is owed: the hold
stays until `Holds.settle` has written it.
"""

import errno
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from slackwater.errors import DataCorrupt, GroupFailed, NoSpace
from slackwater.position import LogPoint

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Hold:
    """One caller's hold; lives from before its record until after its row."""

    __slots__ = ("_holds", "is_over", "owes", "point")

    def __init__(self, holds: "Holds", point: LogPoint) -> None:
        """Hold the checkpoint at `point`."""
        self._holds = holds
        self.point = point
        self.owes = False
        self.is_over = False

    def write(self, row: Callable[[], None]) -> None:
        """Write the row that the record just appended implies; it may be written twice.

        Raises:
            NoSpace: group.db is full; the row is owed and the record stands.
            GroupFailed: group.db failed (D3).
        """
        self.owes = True
        self._holds.follow(self, row)


class Holds:
    """All holds of a group; thread-safe."""

    def __init__(self, group: str, fail: Callable[[str], GroupFailed]) -> None:
        """Start with none.

        Args:
            group: name, for errors.
            fail: stops the group (D3).
        """
        self._group = group
        self._fail = fail
        self._lock = threading.Lock()
        self._held: list[Hold] = []
        self._owed: deque[tuple[Hold, Callable[[], None]]] = deque()
        self._settling = threading.Lock()

    @contextmanager
    def hold(self, point: Callable[[], LogPoint]) -> Iterator[Hold]:
        """Hold at what `point` returns now, until the body ends and nothing is owed."""
        with self._lock:
            hold = Hold(self, point())
            self._held.append(hold)
        try:
            yield hold
        finally:
            with self._lock:
                hold.is_over = True
                if not hold.owes:
                    self._held.remove(hold)

    def lowest(self, point: LogPoint) -> LogPoint:
        """Return `point`, or the lowest hold if that lies before it."""
        with self._lock:
            return min((point, *(hold.point for hold in self._held)), key=lambda at: at.offset)

    def follow(self, hold: Hold, row: Callable[[], None]) -> None:
        """Write a row now if group.db takes it; see `Hold.write`."""
        with self._settling:
            self._owed.append((hold, row))
            self._write_owed()

    def settle(self) -> None:
        """Write what is owed, oldest first.

        Raises:
            NoSpace: group.db is still full.
            GroupFailed: group.db failed (D3).
        """
        if self._owed:
            with self._settling:
                self._write_owed()

    def _write_owed(self) -> None:
        while self._owed:
            hold, row = self._owed[0]
            try:
                row()
            except (OSError, DataCorrupt) as error:
                if isinstance(error, OSError) and error.errno in FULL:
                    raise NoSpace(
                        f"group.db of group {self._group!r}", "Free space; it goes on by itself"
                    ) from error
                raise self._fail(str(error)) from error
            self._owed.popleft()
            with self._lock:
                hold.owes = False
                if hold.is_over:
                    self._held.remove(hold)
