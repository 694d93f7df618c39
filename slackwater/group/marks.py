"""What a group tells its senders without a message."""

from typing import Protocol


class Marks(Protocol):
    """Where a group tells its senders how far they may read (D13); log offsets in bytes."""

    durable_offset: int
    durable_lsn: int
    in_volumes_offset: int
    trim_offset: int
    failed: int


class LocalMarks:
    """Marks for a group without senders."""

    durable_offset = 0
    durable_lsn = 0
    in_volumes_offset = 0
    trim_offset = 0
    failed = 0
