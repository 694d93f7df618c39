"""What a sender shows of a link: figures in the shared page, the rest over the control channel."""

import time
from collections.abc import Callable
from typing import Any

from services.primary.sender import control
from slackwater.link.actions import LinkState
from slackwater.link.sender import LinkSender
from slackwater.log.marks import LinkMarks
from slackwater.position import LogPoint

STATES = list(LinkState)
TELL_SECONDS = 0.5


class Showing:
    """Tells the main process what changed of a link.

    Attributes:
        acked: where the last ack of this process's life was; offset and position belong together.
    """

    def __init__(
        self,
        key: str,
        core: LinkSender,
        marks: LinkMarks,
        tell: Callable[[control.Message], None],
    ) -> None:
        """Show the link with this key."""
        self._key = key
        self._core = core
        self._marks = marks
        self._tell = tell
        self.acked: LogPoint | None = None
        self._told: dict[str, Any] = {}
        self._states: tuple[LinkState, int] | None = None
        self._told_at = 0.0

    def show(self) -> None:
        """Tell what changed: a state at once, the rest at most every half second."""
        core = self._core
        self._marks.state = STATES.index(core.state)
        window = core.records.window
        self._marks.inflight_bytes = 0 if window is None else window.in_flight_bytes
        self._marks.sent_lsn = 0 if window is None else window.sent.position.lsn
        sync = core.sync.window
        self._marks.regions_done_bytes = 0 if sync is None else sync.done_bytes
        self._marks.regions_total_bytes = 0 if sync is None else sync.total_bytes
        states = (core.state, core.replica_state)
        now = time.monotonic()
        if states == self._states and now - self._told_at < TELL_SECONDS:
            return
        self._states, self._told_at = states, now
        status = self._status()
        if status != self._told:
            self._told = status
            self._tell({"event": "status", "key": self._key, **status})

    def _status(self) -> dict[str, Any]:
        core = self._core
        acked, diverged = self.acked, core.diverged_secondary
        if acked is not None and acked.position != core.acked_position:
            acked = None  # forgotten for a sync
        return {
            "state": core.state.value,
            "reason": core.reason or _of_replica(core.replica_reason),
            "replica_state": core.replica_state,
            "secondary_log": [
                core.secondary_log_used_bytes,
                core.secondary_log_capacity_bytes,
            ],
            "acked": None if acked is None else control.position_json(acked.position),
            "acked_offset": 0 if acked is None else acked.offset,
            "diverged": None if diverged is None else control.position_json(diverged),
            "lag_seconds": round(core.records.lag_seconds(time.time_ns()), 3),
            "connected": core.connection.stream.value == "open",
        }


def _of_replica(reason: str) -> str:
    """Say whose matter it is: the link itself is all right."""
    return f"the Secondary says: {reason}" if reason else ""
