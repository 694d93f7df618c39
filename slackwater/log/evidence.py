"""Evidence past a break, for D6: was what is broken once durable?

A search of raw bytes for records of this history that lie behind the break. Leftovers of earlier
laps are everywhere in a recycled segment and are told apart by their lsn: it is never past the
break's. Segments of another history are never recycled, so a newer lsn is ours.

A payload may hold a copy of some log, and so bytes that look like records. Records that chain to
each other are therefore stepped over whole, their payloads unsearched, and a newer lsn counts only
where that many records could lie between it and the break.
"""

import re
import struct
from dataclasses import dataclass
from typing import Final

from slackwater import record
from slackwater.log.segment import MAX_RECORD_BYTES
from slackwater.position import Position
from slackwater.storage.seam import File

_CHUNK_BYTES: Final = 4 * MAX_RECORD_BYTES
_PAIR_BYTES: Final = 2 * MAX_RECORD_BYTES
_MIN_RECORD_BYTES: Final = 32

# The frame, then the fields every head has: chain, epoch, lsn (captured), time.
_HEAD: Final = re.compile(
    rb"\x12[\x80-\xff]{0,2}[\x00-\x7f]\x0d.{4}\x11.{8}\x19(.{8})\x21", re.DOTALL
)
_U64: Final = struct.Struct("<Q")


@dataclass(slots=True)
class Evidence:
    """What lies past a break.

    Attributes:
        chained_end: File byte after the last newer record that chains to another, or 0.
        claim: The highest lsn such a record says was durable when it was built, or 0.
        has_newer: Something that looks like a record newer than the break was found at all.
    """

    chained_end: int = 0
    claim: int = 0
    has_newer: bool = False


def search(file: File, start: int, end: int, after: Position) -> Evidence:
    """Search file bytes `start` to `end` for records newer than `after`, where the chain broke."""
    found = Evidence()
    at = start
    while at < end:
        data = file.read(min(_CHUNK_BYTES, end - at), at)
        if at + len(data) >= end or not data:
            _search_chunk(data, len(data), at - start, at, after, found)
            break
        # Pairs that begin in the last part of a chunk are found in the next one, whole.
        at += _search_chunk(data, len(data) - _PAIR_BYTES, at - start, at, after, found)
    return found


def _search_chunk(
    data: bytes, reach: int, distance: int, base: int, after: Position, found: Evidence
) -> int:
    """Search from the chunk's first byte up to `reach`; return the first byte not searched.

    `distance` is that of the chunk from the break, `base` its place in the file.
    """
    at = data.find(b"\x12", 0, reach)
    while at >= 0:
        next_at = at + 1
        head = _HEAD.match(data, at)
        if head is not None:
            farthest = after.lsn + 1 + (distance + at) // _MIN_RECORD_BYTES
            found.has_newer |= after.lsn < _U64.unpack(head[1])[0] <= farthest
            next_at = _chained(data, at, base, after, farthest, found)
        if next_at >= reach:
            return next_at
        at = data.find(b"\x12", next_at, reach)
    return max(reach, 0)


def _chained(
    data: bytes, at: int, base: int, after: Position, farthest: int, found: Evidence
) -> int:
    """Follow records from `at` that chain to each other; return where to search on.

    The chain value of each proves it and the chain value stored in the one before, so two are the
    fewest that prove anything; only the content of the first stays unproved.
    """
    first = record.parse(data, at, len(data))
    if first is None:
        return at + 1
    views, stop, _ = record.scan(data, first.end, len(data), first.position)
    if not views:
        return at + 1
    if first.epoch >= after.epoch and first.lsn <= farthest and views[-1].lsn > after.lsn:
        found.chained_end = max(found.chained_end, base + stop)
        claims = [view.synced_lsn or 0 for view in (first, *views) if view.lsn > after.lsn]
        found.claim = max(found.claim, *claims)
    return stop
