"""`slackwater log`: records of a group's log, typed, from a service or from the files."""

import enum
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from slackwater.cli import words
from slackwater.cli.command import command
from slackwater.cli.failure import EXIT_FAILED, Failure, usage
from slackwater.cli.screen import as_dict
from slackwater.cli.session import Session
from slackwater.v1 import primary_pb2, record_pb2, replication_pb2, secondary_pb2

PAGE = 1000

app = typer.Typer(help="Look into a group's log.", no_args_is_help=True)


class Side(enum.StrEnum):
    """Whose log."""

    PRIMARY = "primary"
    SECONDARY = "secondary"


def add_to(root: typer.Typer) -> None:
    """Add the noun."""
    root.add_typer(app, name="log")


@command(app, "dump", "slackwater log dump demo --first 1 --limit 20")
def dump(
    session: Session,
    group: Annotated[
        str | None, typer.Argument(help="The group; not with --directory.", metavar="GROUP")
    ] = None,
    side: Annotated[Side, typer.Option(help="Whose log.")] = Side.PRIMARY,
    first: Annotated[int, typer.Option(help="First lsn; 0: the oldest kept.", min=0)] = 0,
    limit: Annotated[int, typer.Option(help="Records at most.", min=1, max=1_000_000)] = 100,
    raw: Annotated[
        bool,
        typer.Option(
            "--raw", help="Bytes for: protoc --decode slackwater.v1.Append slackwater/v1/*.proto"
        ),
    ] = False,
    directory: Annotated[
        Path | None,
        typer.Option(
            help="Read the files of this log directory (DATA/groups/GROUP/log), no service.",
            metavar="DIR",
        ),
    ] = None,
) -> None:
    """Print records: from a running service, or from a log directory of this machine."""
    if (group is None) == (directory is None):
        raise usage("name a group, or a --directory", "slackwater log dump demo", "group")
    if directory is not None:
        _dump_files(session, directory, first, limit, raw=raw)
        return
    assert group is not None
    append = _read(session, words.group_name(group), side, first, limit, omit=not raw)
    if raw:
        sys.stdout.buffer.write(append.SerializeToString())
        sys.stdout.buffer.flush()
        return
    session.screen.listing(
        "records",
        append.records,
        ("lsn", "epoch", "time", "kind", "what"),
        [_row(record) for record in append.records],
        "the log holds no record there",
    )


def _read(
    session: Session, group: str, side: Side, first: int, limit: int, *, omit: bool
) -> replication_pb2.Append:
    """Records of a service's log, page by page."""
    found = replication_pb2.Append()
    while len(found.records) < limit:
        rpc: Any
        request: Any
        if side is Side.PRIMARY:
            rpc, request = session.primary.ReadLog, primary_pb2.PrimaryServiceReadLogRequest()
        else:
            rpc, request = session.secondary.ReadLog, secondary_pb2.SecondaryServiceReadLogRequest()
        request.group, request.first_lsn, request.omit_payloads = group, first, omit
        request.max_records = min(PAGE, limit - len(found.records))
        answer = session.call(side.value, rpc, request, hint="slackwater group list")
        if not found.records:
            found.previous.CopyFrom(answer.previous)
        found.records.extend(answer.records)
        if not answer.records or answer.records[-1].lsn >= answer.durable.lsn:
            break
        first = answer.records[-1].lsn + 1
    return found


def _row(record: record_pb2.Record) -> tuple[str, str, str, str, str]:
    seconds, nanos = divmod(record.time_unix_nanos, 10**9)
    stamp = f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(seconds))}.{nanos // 1000:06}"
    kind = record.WhichOneof("body") or "unknown"
    return (str(record.lsn), str(record.epoch), stamp, kind, _what(record, kind))


def _what(record: record_pb2.Record, kind: str) -> str:
    match kind:
        case "write":
            write = record.write
            length = f" length {len(write.payload)}" if write.payload else ""
            return f"volume {write.volume} offset {write.offset}{length}"
        case "zero":
            zero = record.zero
            return f"volume {zero.volume} offset {zero.offset} length {zero.length}"
        case "ibc_message":
            message = record.ibc_message
            return f"{message.application} {message.message_id} {message.text!r}"
        case "volume_change":
            change = record.volume_change
            done = words.word(record_pb2.VolumeChange.Kind.Name(change.kind), "KIND_")
            return f"{done} {change.volume} {change.name} {words.size(change.size_bytes)}"
        case "unknown":
            return "a kind that this release does not know"
        case _:
            found = as_dict(getattr(record, kind))
            return " ".join(f"{name}={value}" for name, value in found.items())


def _dump_files(session: Session, directory: Path, first: int, limit: int, *, raw: bool) -> None:
    """Let a process of its own read the files: the command line itself knows no log."""
    arguments = [sys.executable, "-m", "slackwater.log.dump", str(directory)]
    arguments += ["--first", str(first), "--limit", str(limit)]
    done = subprocess.run([*arguments, "--raw"], capture_output=True, check=False)
    if done.returncode:
        problem = done.stderr.decode(errors="replace").strip() or "cannot read the log"
        raise Failure(
            problem, EXIT_FAILED, "FAILED", "LOG", "directory", "ls DATA-DIR/groups/GROUP/log"
        )
    if raw:
        sys.stdout.buffer.write(done.stdout)
        sys.stdout.buffer.flush()
        return
    append = replication_pb2.Append.FromString(done.stdout)
    for record in append.records:
        if record.HasField("write") and session.screen.is_json:
            record.write.ClearField("payload")
    session.screen.listing(
        "records",
        append.records,
        ("lsn", "epoch", "time", "kind", "what"),
        [_row(record) for record in append.records],
        "the log holds no record there",
    )
