"""What the configuration says of replicas."""

from dataclasses import dataclass

from slackwater.apply.replica_upkeep import COPY_BYTES_PER_SECOND
from slackwater.ibc.messages import MESSAGES_KEPT, MESSAGES_KEPT_SECONDS
from slackwater.ibc.receivers import LEASE_GRACE_SECONDS
from slackwater.log.segment import (
    MAX_LOG_BYTES,
    MAX_RECORD_BYTES,
    MIN_LOG_BYTES,
    LogSettings,
)


@dataclass(frozen=True)
class Limits:
    """What the configuration says of replicas.

    Attributes:
        log_bytes: Of a new replica whose Primary names no size.
        segment_bytes: One file of a new log, at most.
        freeze_log_limit: Share of the log at which a freeze ends by itself (C8).
        chunk_bytes: Unit of a first snapshot's copies.
        copy_bytes_per_second: How fast full copies of snapshots are made, at most.
        messages_kept: Messages of a replica kept with their verdicts; those not read beyond it.
        messages_kept_seconds: How long they are kept, if there are not too many.
        lease_grace: Seconds without a sign of life that end a lease (C13).
    """

    log_bytes: int = 1 << 30
    segment_bytes: int = 64 << 20
    freeze_log_limit: float = 0.8
    chunk_bytes: int = 64 << 10
    copy_bytes_per_second: int = COPY_BYTES_PER_SECOND
    messages_kept: int = MESSAGES_KEPT
    messages_kept_seconds: float = MESSAGES_KEPT_SECONDS
    lease_grace: float = LEASE_GRACE_SECONDS

    @property
    def of_freezes(self) -> dict[str, float]:
        """What a replica is told about the ends of freezes, by the names it knows them under."""
        return {"freeze_log_limit": self.freeze_log_limit, "lease_grace": self.lease_grace}

    def log_settings(self, log_bytes: int) -> LogSettings:
        """Return the sizes of a new replica's log, as large as its Primary's is."""
        size = min(max(log_bytes or self.log_bytes, MIN_LOG_BYTES), MAX_LOG_BYTES)
        segment = min(self.segment_bytes, size // 8 // 4096 * 4096)
        # A small window in a small log: it is kept free, and a freeze has to end before that.
        settings = LogSettings(size, segment, min(8 << 20, max(size // 32, MAX_RECORD_BYTES)))
        settings.validate()
        return settings
