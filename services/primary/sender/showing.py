"""What a sender shows of a link: figures in the shared page, the rest over the control channel."""

import time
from collections.abc import Callable
from typing import Any

from services.primary.sender import control
from slackwater.link.actions import LinkState
from slackwater.link.sender import LinkSender
from slackwater.log.marks import LinkMarks

STATES = list(LinkState)
TELL_SECONDS = 0.5


class Showing:
    """Tells the main process what changed of a link."""

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
        self._told: dict[str, Any] = {}
        self._told_at = 0.0

    def show(self) -> None:
        """Tell what changed: a state at once, the rest at most every half second."""
        core = self._core
        self._marks.state = STATES.index(core.state)
        window = core.records.window
        self._marks.inflight_bytes = 0 if window is None else window.in_flight_bytes
        sync = core.sync.window
        self._marks.regions_done_bytes = 0 if sync is None else sync.done_bytes
        self._marks.regions_total_bytes = 0 if sync is None else sync.total_bytes
        status = self._status()
        now = time.monotonic()
        changed = any(status[one] != self._told.get(one) for one in ("state", "replica_state"))
        if changed or (now - self._told_at > TELL_SECONDS and status != self._told):
            self._told, self._told_at = status, now
            self._tell({"event": "status", "key": self._key, **status})

    def _status(self) -> dict[str, Any]:
        core = self._core
        acked, diverged = core.acked_position, core.diverged_secondary
        return {
            "state": core.state.value,
            "reason": core.reason,
            "replica_state": core.replica_state,
            "secondary_log": [
                core.secondary_log_used_bytes,
                core.secondary_log_capacity_bytes,
            ],
            "acked": None if acked is None else control.position_json(acked),
            "acked_offset": self._marks.acked_offset,
            "diverged": None if diverged is None else control.position_json(diverged),
            "lag_seconds": round(core.records.lag_seconds(time.time_ns()), 3),
            "connected": core.connection.stream.value == "open",
        }
