"""`slackwater log dump`: typed records, from a service and from the files of a log."""

import io
import sys
import uuid
from pathlib import Path

import pytest

from slackwater import record
from slackwater.cli.commands import log as log_command
from slackwater.log import dump
from slackwater.log.log import Log
from slackwater.log.run import Run
from slackwater.log.segment import LogSettings
from slackwater.position import LogPoint, origin
from slackwater.storage.real import RealStorage
from slackwater.v1 import primary_pb2, record_pb2, replication_pb2, secondary_pb2
from tests.unit.cli import messages as m
from tests.unit.cli.conftest import CommandLine

UID = uuid.UUID(int=5)
RECORDS = [
    record_pb2.Record(
        epoch=1, lsn=1, time_unix_nanos=10**18, start=record_pb2.Start(incarnation=9)
    ),
    record_pb2.Record(
        epoch=1, lsn=2, write=record_pb2.Write(volume=1, offset=512, payload=b"x" * 512)
    ),
    record_pb2.Record(epoch=1, lsn=3, zero=record_pb2.Zero(volume=1, offset=0, length=4096)),
    record_pb2.Record(
        epoch=1, lsn=4, ibc_message=record_pb2.IbcMessage(message_id="m1", text="nightly")
    ),
    record_pb2.Record(
        epoch=1,
        lsn=5,
        volume_change=record_pb2.VolumeChange(
            kind=record_pb2.VolumeChange.KIND_ADD, volume=2, name="wal", size_bytes=m.MIB
        ),
    ),
    record_pb2.Record(epoch=1, lsn=6),
]


def _pages(request: primary_pb2.PrimaryServiceReadLogRequest) -> object:
    first = request.first_lsn or 1
    found = [row for row in RECORDS if first <= row.lsn < first + 2][: request.max_records]
    answer = primary_pb2.PrimaryServiceReadLogResponse(records=found)
    answer.previous.lsn, answer.durable.lsn = first - 1, len(RECORDS)
    return answer


def test_dump_shows_typed_records_of_a_service_page_by_page(cli: CommandLine) -> None:
    cli.primary.answers["ReadLog"] = _pages
    shown = cli("log", "dump", "demo")
    for words in (
        "incarnation=9",
        "volume 1 offset 512 length 512",
        "volume 1 offset 0 length 4096",
        "m1 'nightly'",
        "ADD 2 wal 1MiB",
        "does not know",
    ):
        assert words in shown
    assert len(cli.json("log", "dump", "demo", "--limit", "3")["records"]) == 3


def test_dump_of_the_secondary_asks_the_secondary(cli: CommandLine) -> None:
    cli.secondary.answers["ReadLog"] = secondary_pb2.SecondaryServiceReadLogResponse()
    cli("log", "dump", "demo", "--side", "secondary", "--first", "7")
    assert cli.secondary.asked("ReadLog")[0].first_lsn == 7


def test_dump_needs_a_group_or_a_directory(cli: CommandLine, tmp_path: Path) -> None:
    cli("log", "dump", code=2)
    cli("log", "dump", "demo", "--directory", str(tmp_path), code=2)


class _Out:
    """Standard output as bytes."""

    def __init__(self) -> None:
        self.buffer = io.BytesIO()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A log of six records over more than one segment."""
    settings = LogSettings(log_bytes=1 << 20, segment_bytes=16384, max_commit_bytes=8192)
    path = tmp_path / "log"
    log = Log.create(RealStorage(), path, UID, settings, LogPoint(0, origin(UID)))
    previous = origin(UID)
    for lsn in range(1, 7):
        payload = bytes([lsn]) * 4096
        head, chain = record.write_head(previous.chain, 1, lsn, 0, None, 1, lsn * 4096, payload)
        previous = type(previous)(1, lsn, chain)
        size = len(head) + len(payload)
        log.append([Run([head, payload], [(size, previous)])])
        log.sync()
    log.close()
    return path


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, bytes]:
    out = _Out()
    monkeypatch.setattr(sys, "stdout", out)
    code = dump.main(list(arguments))
    return code, out.buffer.getvalue()


def test_files_of_a_log_are_dumped_across_segments(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(list(directory.glob("*.seg"))) > 1
    code, out = _run(monkeypatch, str(directory), "--first", "2", "--limit", "4")
    lines = out.splitlines()
    assert code == 0
    assert len(lines) == 4
    assert b'"lsn": "2"' in lines[0]
    assert b'"payloadBytes": 4096' in lines[0]


def test_raw_bytes_of_the_files_are_one_append(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out = _run(monkeypatch, str(directory), "--raw", "--first", "3")
    append = replication_pb2.Append.FromString(out)
    assert code == 0
    assert append.previous.lsn == 2
    assert [row.lsn for row in append.records] == [3, 4, 5, 6]
    assert append.records[0].write.payload == b"\x03" * 4096


def test_directory_that_is_no_log_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dump.main([str(tmp_path)]) == 1
    assert "no log segment" in capsys.readouterr().err


def test_command_line_starts_the_reader_of_files(cli: CommandLine, directory: Path) -> None:
    shown = cli("log", "dump", "--directory", str(directory), "--limit", "2")
    assert "volume 1 offset 4096 length 4096" in shown
    found = cli.json("log", "dump", "--directory", str(directory), "--first", "6")
    assert [row["lsn"] for row in found["records"]] == ["6"]
    cli("log", "dump", "--directory", str(directory / "none"), code=1)
    assert "no log segment" in cli.error


def test_what_of_an_outcome_names_its_fields() -> None:
    row = record_pb2.Record(outcome=record_pb2.Outcome(message_id="m1"))
    assert "messageId=m1" in log_command._what(row, "outcome")
