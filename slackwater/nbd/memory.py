"""Memory of connections, bounded over the whole server and not only for each one.

A connection's `Space` is small at rest. It grows to a comfortable size from a shared allowance
if that has room, and keeps it while it is busy; what no comfortable size holds (one large
request) is taken from a second allowance, waiting for it if need be, and given back after the
request. So nothing that is held for long is ever waited for.
"""

import mmap
import threading
from typing import Final

BASE_BYTES: Final = 256 << 10
COMFORTABLE_BYTES: Final = 4 << 20


def _memory(size: int) -> memoryview:
    # Private pages straight from the kernel: untouched ones cost nothing, and all of them go back
    # at once; a bytearray would clear, and so touch, every page.
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    return memoryview(mmap.mmap(-1, size, flags=flags))


class Allowance:
    """A number of bytes that many threads share."""

    def __init__(self, limit: int) -> None:
        """Starts with all `limit` bytes free."""
        self.limit = limit
        self._used = 0
        self._is_closed = False
        self._changed = threading.Condition()

    @property
    def used(self) -> int:
        """Bytes taken and not given back."""
        return self._used

    def try_take(self, amount: int) -> bool:
        """Takes bytes if they are free now."""
        with self._changed:
            if self._used + amount > self.limit:
                return False
            self._used += amount
            return True

    def take(self, amount: int) -> bool:
        """Takes bytes, waiting until they are free; False once closed."""
        assert amount <= self.limit, "one request may never exceed the whole allowance"
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._used + amount <= self.limit)
            if self._is_closed:
                return False
            self._used += amount
            return True

    def give(self, amount: int) -> None:
        """Gives bytes back."""
        with self._changed:
            self._used -= amount
            assert self._used >= 0, "more was given back than taken"
            self._changed.notify_all()

    def close(self) -> None:
        """Wakes every waiter; `take` fails from now on."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()


class Space:
    """One connection's memory for one direction.

    Attributes:
        view: the whole of it. Growing and shrinking replace it, so no one may hold slices then.
        capacity: bytes it holds.
        is_borrowed: it holds bytes that others may be waiting for.
    """

    def __init__(self, comfort: Allowance, large: Allowance) -> None:
        """Starts at `BASE_BYTES`, whose untouched pages cost nothing."""
        self.view = _memory(BASE_BYTES)
        self.capacity = BASE_BYTES
        self.is_borrowed = False
        self._comfort = comfort
        self._large = large
        self._taken = 0
        self._taken_from: Allowance | None = None

    def stretch(self, keep: slice) -> bool:
        """Grows to the comfortable size if that can be had now; keeps a part, moved to 0."""
        if self.capacity >= COMFORTABLE_BYTES or not self._comfort.try_take(COMFORTABLE_BYTES):
            return False
        self._replace(COMFORTABLE_BYTES, keep, self._comfort)
        return True

    def reserve(self, amount: int, keep: slice) -> bool:
        """Makes room for `amount` bytes, waiting for memory; False when the server closes."""
        if amount <= self.capacity:
            return True
        if amount <= COMFORTABLE_BYTES and self.stretch(keep):
            return True
        # A thread that held what it waits for could wait for ever.
        assert not self.is_borrowed, "borrowed memory is given back after each request"
        if not self._large.take(amount):
            return False
        self._replace(amount, keep, self._large)
        return True

    def relax(self) -> None:
        """Goes back to the base size; nothing is kept."""
        if self._taken_from is not None:
            self._replace(BASE_BYTES, slice(0, 0), None)

    def close(self) -> None:
        """Gives everything back."""
        if self._taken_from is not None:
            self._taken_from.give(self._taken)
            self._taken_from = None
        self.view = memoryview(b"")

    def _replace(self, size: int, keep: slice, source: Allowance | None) -> None:
        view = _memory(size)
        kept = self.view[keep]
        view[: len(kept)] = kept
        if self._taken_from is not None:
            self._taken_from.give(self._taken)
        self.view = view
        self.capacity = size
        self.is_borrowed = source is self._large
        self._taken = size if source is not None else 0
        self._taken_from = source
