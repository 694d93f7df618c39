"""Letting files go only when the last who uses them is done."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager


class Retired(Exception):
    """The overlay was merged away; look at the chain of snapshots again."""


class Pins:
    """Counts who uses an overlay's files; `let_go` is called once, when nobody does any more."""

    def __init__(self, let_go: Callable[[], None]) -> None:
        """Nobody uses them yet."""
        self._let_go = let_go
        self._lock = threading.Lock()
        self._count = 0
        self._retired = False

    @contextmanager
    def pinned(self) -> Iterator[None]:
        """Keep the files open while the context lasts.

        Raises:
            Retired: nobody may begin to use them.
        """
        with self._lock:
            if self._retired:
                raise Retired
            self._count += 1
        try:
            yield
        finally:
            if self._is_last_out():
                self._let_go()

    def _is_last_out(self) -> bool:
        with self._lock:
            self._count -= 1
            return self._retired and not self._count

    def is_pinned_in(self, stack: ExitStack) -> bool:
        """Keep the files open until the stack is left; False: nobody may begin to use them."""
        try:
            stack.enter_context(self.pinned())
        except Retired:
            return False
        return True

    def retire(self) -> None:
        """Take nobody new; the files are let go when the last one is done."""
        with self._lock:
            already = self._retired
            self._retired = True
            idle = not self._count
        if idle and not already:
            self._let_go()

    def retire_kept(self) -> None:
        """Take nobody new; the caller lets the files go itself."""
        with self._lock:
            self._retired = True
