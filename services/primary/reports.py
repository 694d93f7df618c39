"""What a sender reports of a link, in the main process's terms."""

import time
from dataclasses import dataclass, field

from services.primary.sender import control
from slackwater.group.rows import VerdictRow
from slackwater.position import Position
from slackwater.v1 import common_pb2, replication_pb2


@dataclass
class LinkStatus:
    """What the sender last said."""

    state: str
    reason: str
    replica_state: int = 0
    secondary_log: tuple[int, int] = (0, 0)
    diverged: Position | None = None
    lag_seconds: float = 0.0
    connected: bool = False
    heard_at: float = field(default_factory=time.time)

    @classmethod
    def of(cls, message: control.Message) -> "LinkStatus":
        """Read a report."""
        diverged = message["diverged"]
        used, capacity = message["secondary_log"]
        return cls(
            message["state"],
            message["reason"],
            message["replica_state"],
            (used, capacity),
            None if diverged is None else control.json_position(diverged),
            message["lag_seconds"],
            message["connected"],
        )


def verdict_row(link: str, report: replication_pb2.VerdictReport) -> VerdictRow:
    """Return the row of a verdict that came back on a link."""
    name = common_pb2.VerdictState.Name(report.state).removeprefix("VERDICT_STATE_")
    return VerdictRow(
        sequence=0,
        message_id=report.message_id,
        link=link,
        source=report.sequence,
        lsn=report.lsn,
        state=name,
        detail={"detail": report.detail.SerializeToString().hex()},
        time_ns=time.time_ns(),
        final=report.state >= common_pb2.VERDICT_STATE_UNFROZEN,
        confirmed=True,
    )
