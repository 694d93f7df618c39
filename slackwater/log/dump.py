"""Records of a log directory for people, without its service: `python -m slackwater.log.dump`.

It opens files for reading only and takes no lock, so it may run beside the service; what the
service writes or recycles meanwhile may be missing. A segment says itself where it begins (its
header), and its records prove each other by their chain: a segment ends where its chain does.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from google.protobuf import json_format

from slackwater import record
from slackwater.log import segment
from slackwater.log.segment import HEADER_BYTES
from slackwater.position import Position
from slackwater.record import RecordView
from slackwater.v1 import record_pb2, replication_pb2

MAX_RAW_BYTES: Final = 64 << 20
"""protoc reads a whole message; more than this is no use to anybody."""


class DumpError(Exception):
    """What was named is no log directory."""


def records(directory: Path) -> Iterator[tuple[memoryview, RecordView, Position]]:
    """Yield every record of the directory's segments in order, proved, with the position before it.

    Raises:
        DumpError: there is no segment with a valid header.
    """
    found = []
    for path in sorted(directory.glob(f"*{segment.SUFFIX}")):
        with path.open("rb") as file:
            header = segment.parse_header(file.read(HEADER_BYTES))
        if header is not None:
            found.append((path, header))
    if not found:
        raise DumpError(f"{directory} holds no log segment with a valid header")
    for path, header in sorted(found, key=lambda row: row[1].lap):
        previous = header.before
        buffer = memoryview(path.read_bytes())[HEADER_BYTES:]
        views, _, _ = record.scan(buffer, 0, len(buffer), previous)
        for view in views:
            yield buffer, view, previous
            previous = view.position


def main(arguments: Sequence[str] | None = None) -> int:
    """Print records as JSON lines, or with --raw the bytes of one Append."""
    parser = argparse.ArgumentParser(prog="slackwater.log.dump", description=__doc__)
    parser.add_argument("directory", type=Path, help="DATA-DIR/groups/GROUP/log")
    parser.add_argument("--first", type=int, default=0, help="first lsn; 0: the oldest kept")
    parser.add_argument("--limit", type=int, default=100, help="records at most")
    parser.add_argument(
        "--raw", action="store_true", help="bytes for protoc --decode slackwater.v1.Append"
    )
    given = parser.parse_args(arguments)
    try:
        _dump(given.directory, given.first, given.limit, raw=given.raw)
    except (DumpError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _dump(directory: Path, first: int, limit: int, *, raw: bool) -> None:
    out = sys.stdout.buffer
    size = count = 0
    for buffer, view, previous in records(directory):
        if view.lsn < first:
            continue
        framed = buffer[view.start : view.end]
        if raw:
            if not count:
                out.write(_head(previous))
            out.write(framed)
        else:
            out.write(_line(view, bytes(framed)))
        size, count = size + len(framed), count + 1
        if count >= limit or (raw and size >= MAX_RAW_BYTES):
            break
    out.flush()


def _head(previous: Position) -> bytes:
    """Field 1 of an Append; framed records are its field 2 as they stand."""
    append = replication_pb2.Append()
    append.previous.epoch = previous.epoch
    append.previous.lsn = previous.lsn
    append.previous.chain_crc32c = previous.chain
    return append.SerializeToString()


def _line(view: RecordView, framed: bytes) -> bytes:
    """One record as JSON, without the payload of a write: its length says enough."""
    message = record_pb2.Record()
    message.CopyFrom(replication_pb2.Append.FromString(framed).records[0])
    length = len(message.write.payload)
    if view.kind == record.KIND_WRITE:
        message.write.ClearField("payload")
    text = json_format.MessageToJson(message, indent=None)
    if view.kind == record.KIND_WRITE:
        text = f'{text[:-1]}, "payloadBytes": {length}}}'
    return text.encode() + b"\n"


if __name__ == "__main__":
    sys.exit(main())
