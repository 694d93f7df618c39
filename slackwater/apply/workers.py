"""The threads of a replica: one writes the log, one applies, one does what is due now and then."""

import threading
from collections.abc import Callable
from typing import Final

IDLE_SECONDS: Final = 0.5
TICK_SECONDS: Final = 0.25


class Worker:
    """A thread that works while there is work, and waits to be woken otherwise."""

    def __init__(
        self,
        name: str,
        work: Callable[[], bool],
        idle_seconds: float,
        died: Callable[[BaseException], None],
    ) -> None:
        """Make a worker that calls `work` until it returns False, then waits.

        Args:
            name: Of the thread.
            work: One bounded piece of work; False: nothing to do.
            idle_seconds: The longest wait.
            died: Told what `work` raised; the thread ends.
        """
        self._work = work
        self._idle_seconds = idle_seconds
        self._died = died
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """There is work."""
        self._wake.set()

    def stop(self) -> None:
        """Let the piece of work in hand end, and wait for that."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._wake.clear()
                if not self._work():
                    self._wake.wait(self._idle_seconds)
        except BaseException as error:
            self._died(error)
            raise
