"""Times and positions as the API spells them."""

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from slackwater.position import Position
from slackwater.v1 import common_pb2


def timestamp(time_ns: int) -> Timestamp:
    """Return a wall clock time."""
    result = Timestamp()
    result.FromNanoseconds(time_ns)
    return result


def duration(seconds: float) -> Duration:
    """Return a length of time."""
    result = Duration()
    result.FromNanoseconds(int(seconds * 1e9))
    return result


def position(value: Position) -> common_pb2.Position:
    """Return a position."""
    return common_pb2.Position(epoch=value.epoch, lsn=value.lsn, chain_crc32c=value.chain)
