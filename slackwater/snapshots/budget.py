"""How many bytes the snapshots of a group may keep, and what is done when it is enough.

The bytes are those of the overlays: what was preserved. They are asked for before they are
appended, so that what applying preserves never comes above the limit, crash or not. Copies that a
snapshot which goes leaves to its older neighbour are not asked for: they are there once when it is
gone, and it could not go without them.
"""

import errno
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

HOLD_APPLY: Final = "hold_apply"
EXPIRE: Final = "expire_oldest_unheld"
POLICIES: Final = (HOLD_APPLY, EXPIRE)
OK: Final = "OK"
SOFT: Final = "SOFT"
HARD: Final = "HARD"
STATES: Final = (OK, SOFT, HARD)

SAMPLE_SECONDS: Final = 5.0
SAMPLES: Final = 120
"""Growth is that of the last ten minutes."""


class BudgetSpent(OSError):
    """There is no room in the budget; as a full disk it may be tried again."""

    def __init__(self, wanted: int, used: int, limit: int) -> None:
        """Say what was asked for."""
        super().__init__(
            errno.EDQUOT,
            f"the snapshot budget is spent: {used} of {limit} bytes are used, {wanted} more are"
            " needed",
        )


@dataclass(frozen=True, slots=True)
class BudgetSettings:
    """What an operator asked for.

    Attributes:
        limit_bytes: At most so many.
        soft_percent: From this share on new snapshots are refused; 1 to 100.
        at_limit: One of `POLICIES`.
    """

    limit_bytes: int
    soft_percent: int = 80
    at_limit: str = HOLD_APPLY

    @property
    def soft_bytes(self) -> int:
        """The soft mark."""
        return self.limit_bytes * self.soft_percent // 100


class Budget:
    """The budget of one group; thread-safe. Without settings there is no limit."""

    def __init__(self, used: Callable[[], int]) -> None:
        """`used` returns the bytes of all overlays."""
        self._used = used
        self._refused = 0
        self._settings: BudgetSettings | None = None
        self._reserved = 0
        self._lock = threading.Lock()
        self._samples: deque[tuple[float, int]] = deque(maxlen=SAMPLES)

    @property
    def settings(self) -> BudgetSettings | None:
        """What an operator asked for, if anything."""
        return self._settings

    def set(self, settings: BudgetSettings | None) -> None:
        """Use other settings from now on."""
        with self._lock:
            self._settings = settings
            self._refused = 0

    @property
    def used_bytes(self) -> int:
        """Bytes of all overlays now."""
        return self._used()

    @property
    def is_short(self) -> bool:
        """Whether what was refused last would be refused now."""
        settings = self._settings
        return (
            settings is not None
            and self._refused > 0
            and self._used() + self._refused > settings.limit_bytes
        )

    @contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """Let the body append so many bytes.

        Raises:
            BudgetSpent: they would be too many; nothing was appended.
        """
        with self._lock:
            settings, used = self._settings, self._used() + self._reserved
            if settings is not None and used + size > settings.limit_bytes:
                self._refused = size
                raise BudgetSpent(size, used, settings.limit_bytes)
            self._refused = 0
            self._reserved += size
        try:
            yield
        finally:
            with self._lock:
                self._reserved -= size

    def state(self, settings: BudgetSettings | None = None) -> str:
        """Return one of `STATES`, for other settings than those in force if they are given."""
        chosen = settings or self._settings
        if chosen is None:
            return OK
        used = self._used()
        is_short = self.is_short and settings in (None, self._settings)
        if is_short or used >= chosen.limit_bytes:
            return HARD
        return SOFT if used >= chosen.soft_bytes else OK

    def sample(self, now: float) -> None:
        """Note how much is used, for `seconds_left`; called often."""
        if not self._samples or now - self._samples[-1][0] >= SAMPLE_SECONDS:
            self._samples.append((now, self._used()))

    def seconds_left(self) -> float | None:
        """Return when the limit is reached if it goes on as of late; None: it does not grow."""
        settings = self._settings
        if settings is None or len(self._samples) < 2:
            return None
        (first_at, first), (last_at, last) = self._samples[0], self._samples[-1]
        if last <= first:
            return None
        rate = (last - first) / (last_at - first_at)
        return max(settings.limit_bytes - last, 0) / rate
