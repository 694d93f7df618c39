"""What became of messages is kept for a bounded time."""

from typing import Final

from slackwater.clock import Clock
from slackwater.group.database import GroupDatabase

LOOK_SECONDS: Final = 5.0


class History:
    """Forgets the messages of one group that are too old; see `forget_messages_before`.

    The age is told by the wall clock, as it is shown to people (D19): a clock that runs ahead loses
    history early, and never what is still to be done.
    """

    def __init__(self, database: GroupDatabase, clock: Clock, kept_seconds: float) -> None:
        """Forget nothing yet."""
        self._database = database
        self._clock = clock
        self._kept_ns = int(kept_seconds * 1e9)
        self._next_look = clock.monotonic()

    def tick(self) -> None:
        """Forget some of what is too old, now and then.

        Raises:
            OSError: no room in group.db; it is tried again.
        """
        now = self._clock.monotonic()
        if now < self._next_look:
            return
        gone = self._database.forget_messages_before(self._clock.time_ns() - self._kept_ns)
        self._next_look = now if gone else now + LOOK_SECONDS
