"""Positions: where in a group's history something stands.

A position is a pair of a place (epoch, lsn) and a fingerprint of everything up to it (the chain
CRC of the record at that lsn), so two sides that hold equal positions hold equal history, and two
that do not can tell a divergence from a gap.
"""

import uuid
from dataclasses import dataclass

from crc32c import crc32c


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a group's history; equal positions mean equal history.

    Attributes:
        epoch: The fencing token of the Primary that wrote the record; at least 1.
        lsn: The dense sequence number of the record; 0 is before the first record.
        chain: The CRC32C chain value of the record at `lsn`; fits in 32 bits.
    """

    epoch: int
    lsn: int
    chain: int

    def __str__(self) -> str:
        """Return the one text form of a position used in logs and errors."""
        return f"{self.epoch}/{self.lsn}"


@dataclass(frozen=True, slots=True)
class LogPoint:
    """A place in one side's log: the byte right after the record at `position`.

    Offsets are local to a side; positions are not.
    """

    offset: int
    position: Position

    def __str__(self) -> str:
        """Return the position and the local offset."""
        return f"{self.position}@{self.offset}"


def origin(group_uid: uuid.UUID) -> Position:
    """Return the position before the first record of a group.

    The chain starts from the group's uid, so records of one group never continue another's.
    """
    return Position(epoch=1, lsn=0, chain=crc32c(group_uid.bytes))
