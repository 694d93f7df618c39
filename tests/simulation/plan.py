"""What one run looks like: sizes, rates and faults, all drawn from the seed."""

import random
import uuid
from dataclasses import dataclass
from pathlib import Path

from slackwater.link.settings import SenderSettings
from slackwater.log.segment import LogSettings

UID = uuid.UUID(int=0x5EED)
GROUP = "demo"
LINK = "east"
ROOT = Path("/data")
APPLICATION = "app"
STRANGER = "nobody"  # registered on the Primary only
SECTOR = 512
SIZES = {"data": 96 << 10, "wal": 32 << 10}
CHUNK = 4096
NEVER = 1e9  # seconds


@dataclass(frozen=True)
class Plan:
    """The shape of a run."""

    seconds: float
    latency: float
    write_seconds: float
    burst_chance: float
    writeback: bool
    primary_log: LogSettings
    secondary_log: LogSettings
    sender: SenderSettings
    crash_seconds: float
    cut_seconds: float
    partition_seconds: float
    disk_fault_seconds: float
    operator_seconds: float
    message_seconds: float
    snapshot_seconds: float
    receiver_seconds: float
    unfreeze_chance: float
    volume_seconds: float
    slow_applier: float

    @classmethod
    def of(cls, seed: int) -> "Plan":
        """Draw a plan."""
        rng = random.Random(seed * 7919 + 1)

        def log(small: bool) -> LogSettings:
            size = rng.choice((256, 320)) if small else rng.choice((512, 768))
            return LogSettings(size << 10, 32 << 10, 24 << 10)

        often = rng.uniform
        return cls(
            seconds=rng.uniform(15, 35),
            latency=rng.choice((0.002, 0.01, 0.05)),
            write_seconds=rng.choice((0.02, 0.05, 0.15)),
            burst_chance=rng.choice((0.0, 0.02, 0.05)),
            writeback=rng.random() < 0.2,
            primary_log=log(rng.random() < 0.7),
            secondary_log=log(rng.random() < 0.5),
            sender=SenderSettings(
                window_bytes=rng.choice((16, 64)) << 10,
                slice_bytes=rng.choice((6, 16)) << 10,
                small_slice_bytes=2 << 10,
                region_bytes=rng.choice((2, 4, 16)) << 10,
                region_window_bytes=rng.choice((16, 32)) << 10,
                silence_seconds=rng.choice((3.0, 10.0)),
                greeting_seconds=12.0,
                backoff_max_seconds=2.0,
            ),
            crash_seconds=rng.choice((often(1.5, 3), often(4, 8), often(4, 8), NEVER)),
            cut_seconds=rng.choice((often(0.7, 2), often(2, 6), NEVER)),
            partition_seconds=rng.choice((often(3, 8), often(6, 12), NEVER)),
            disk_fault_seconds=rng.choice((often(4, 9), NEVER, NEVER)),
            operator_seconds=rng.choice((often(3, 8), NEVER)),
            message_seconds=often(0.3, 3),
            snapshot_seconds=often(0.5, 3),
            receiver_seconds=often(0.2, 2),
            unfreeze_chance=rng.choice((0.95, 0.6)),
            volume_seconds=rng.choice((often(2, 6), NEVER, NEVER)),
            slow_applier=rng.choice((0.004, 0.004, 0.05)),
        )
