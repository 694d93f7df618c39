"""Time as an object that is handed in, so that tests own it.

Timers use `monotonic`; `time_ns` is only ever stamped into records and shown to people (D19).
"""

import time
from typing import Protocol


class Clock(Protocol):
    """What code that needs the time is given."""

    def monotonic(self) -> float:
        """Return seconds that never go back; the zero is arbitrary."""
        ...

    def time_ns(self) -> int:
        """Return the wall clock in nanoseconds since 1970."""
        ...


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        """Return the machine's monotonic seconds."""
        return time.monotonic()

    def time_ns(self) -> int:
        """Return the machine's wall clock in nanoseconds."""
        return time.time_ns()


class ManualClock:
    """A clock that moves only when it is told to."""

    def __init__(self, monotonic: float = 0.0, time_ns: int = 0) -> None:
        """Start both clocks at the given values."""
        self._monotonic = monotonic
        self._time_ns = time_ns

    def monotonic(self) -> float:
        """Return the seconds advanced so far."""
        return self._monotonic

    def time_ns(self) -> int:
        """Return the nanoseconds advanced so far."""
        return self._time_ns

    def advance(self, seconds: float) -> None:
        """Move both clocks forward together."""
        assert seconds >= 0, "a monotonic clock never goes back"
        self._monotonic += seconds
        self._time_ns += round(seconds * 1e9)
