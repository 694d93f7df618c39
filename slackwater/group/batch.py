"""What is handed in to a group commit: changes, in batches."""

import threading
from collections.abc import Sequence

from slackwater import record
from slackwater.errors import SlackwaterError
from slackwater.group.volume import Volume
from slackwater.names import SECTOR_BYTES
from slackwater.position import LogPoint
from slackwater.storage.seam import Buffer

RECORD_OVERHEAD_BYTES = 96
"""More than any head of a record takes, so that reserved space is never too little."""

Change = tuple[int, Volume | None, int, int, Buffer | None]
"""(kind, volume, offset, length, payload or body); volume None for a control record."""


def write_change(volume: Volume, offset: int, payload: Buffer) -> Change:
    """Return a write of whole sectors; at most `record.MAX_PAYLOAD` bytes."""
    _assert_sectors(offset, len(payload))
    return (record.KIND_WRITE, volume, offset, len(payload), payload)


def zero_change(volume: Volume, offset: int, length: int) -> Change:
    """Return zeroes over a range of any number of sectors (D12)."""
    _assert_sectors(offset, length)
    return (record.KIND_ZERO, volume, offset, length, None)


def _assert_sectors(offset: int, length: int) -> None:
    assert not (offset | length) % SECTOR_BYTES, "refused at the edge (names.check_sectors, nbd)"


def control_change(kind: int, body: bytes) -> Change:
    """Return a control record with its serialized body."""
    return (kind, None, 0, len(body), body)


class Batch:
    """Changes that commit together, in order; whole requests of one connection.

    After `Committer.commit` ``last`` is the log point after the commit it was part of; a control
    batch commits alone, so there it is the point right after its record.
    """

    __slots__ = ("changes", "control", "error", "finished", "last", "size", "sync", "wake")

    def __init__(self, changes: Sequence[Change], *, sync: bool, control: bool = False) -> None:
        """Take the changes; ``sync`` asks for durability before the answer in any mode."""
        self.changes = changes
        self.sync = sync
        self.control = control
        self.size = sum(
            RECORD_OVERHEAD_BYTES + (0 if change[4] is None else change[3]) for change in changes
        )
        self.wake: threading.Lock | None = None
        self.finished = False
        self.error: SlackwaterError | None = None
        self.last: LogPoint | None = None
