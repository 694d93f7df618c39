"""A Primary's group on simulated storage, for tests of its engine."""

import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slackwater import record
from slackwater.clock import Clock, SystemClock
from slackwater.group import opening
from slackwater.group.batch import write_change
from slackwater.group.changes import SentMessage, VolumeSet, send_message
from slackwater.group.directory import DataDirectory
from slackwater.group.opening import GroupSettings, OpenGroup
from slackwater.group.volume import Volume
from slackwater.group.writer import GroupWriter
from slackwater.log.reader import LogReader, replay
from slackwater.log.segment import LogSettings
from slackwater.position import LogPoint
from slackwater.storage.simulated import SimulatedStorage
from slackwater.v1 import record_pb2

ROOT = Path("/data")
UID = uuid.UUID(int=0xF1ED)
SIZE = 64 << 10
SMALL = LogSettings(log_bytes=512 << 10, segment_bytes=64 << 10, max_commit_bytes=48 << 10)
LARGE = LogSettings(log_bytes=8 << 20, segment_bytes=1 << 20, max_commit_bytes=256 << 10)
PATIENCE_SECONDS = 20.0
"""How long a test waits for what must happen: it fails then, it never passes by it."""


def open_group(
    storage: SimulatedStorage,
    *,
    settings: LogSettings = SMALL,
    durability: str = opening.WRITETHROUGH,
    clock: Clock | None = None,
) -> OpenGroup:
    """Open the group of a storage, made if it is not there yet."""
    clock = clock or SystemClock()
    data = DataDirectory.open(storage, ROOT, "primary")
    try:
        directory = data.group("g")
        if not storage.exists(directory.path):
            wanted = GroupSettings(settings, durability)
            opening.create_group(storage, data, "g", UID, wanted, clock)
        return opening.open_group(storage, directory, clock, incarnation=lambda: 7)
    finally:
        data.close()


def volumes_of(storage: SimulatedStorage, group: OpenGroup) -> VolumeSet:
    """Return the volume set of an open group."""
    return VolumeSet(storage, group.directory, group.writer)


def read(group: OpenGroup, volume: Volume, offset: int = 0, length: int = SIZE) -> bytes:
    """Read as an export does."""
    target = bytearray(length)
    group.writer.read_into(volume, offset, memoryview(target))
    return bytes(target)


def write(writer: GroupWriter, volume: Volume, offset: int, data: bytes, **options: Any) -> None:
    """Write as an export does."""
    writer.submit([write_change(volume, offset, data)], **options)


def send(writer: GroupWriter, name: str, fence: float | None = None) -> SentMessage:
    """Send a message whose id and request id are `name`."""
    message = record_pb2.IbcMessage(message_id=name, application="app", request_id=name)
    return send_message(writer, message, fence_timeout=fence)


def records(
    storage: SimulatedStorage, group: OpenGroup, start: LogPoint
) -> list[tuple[int, int, int, int, bytes]]:
    """Return (lsn, kind, volume, offset, payload) of every durable record after a point."""
    log = group.writer.log
    reader = LogReader(storage, group.directory.log, group.identity.uid, log.settings)
    try:
        return [
            (
                view.lsn,
                view.kind,
                view.volume,
                view.offset,
                bytes(data[view.payload_start : view.end]),
            )
            if view.kind == record.KIND_WRITE
            else (view.lsn, view.kind, 0, 0, b"")
            for data, view in replay(reader, start, log.durable)
        ]
    finally:
        reader.close()


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something holds that another thread brings about."""
    pause = threading.Event()
    for _ in range(int(PATIENCE_SECONDS / 0.001)):
        if condition():
            return
        pause.wait(0.001)
    raise AssertionError("it did not come about")


class Crew:
    """Threads whose errors reach the test."""

    def __init__(self) -> None:
        """Start none."""
        self.errors: list[BaseException] = []
        self._threads: list[threading.Thread] = []

    def start(self, work: Callable[..., object], *arguments: Any) -> None:
        """Run `work` in a thread of its own."""

        def run() -> None:
            try:
                work(*arguments)
            except BaseException as error:
                self.errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()

    def join(self) -> list[BaseException]:
        """Wait for all and return what they raised; a thread that hangs fails the test."""
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS)
            assert not thread.is_alive(), "a thread was left behind"
        return self.errors


class GatedSync:
    """Holds the log's sync until told, so that a test sees a leader at work."""

    def __init__(self, writer: GroupWriter) -> None:
        """Stand before the log's sync of `writer`."""
        self.entered = threading.Event()
        self.release = threading.Event()
        self.error: Exception | None = None
        self._sync = writer.log.sync
        writer.log.sync = self  # type: ignore[method-assign]

    def __call__(self) -> LogPoint:
        """Wait, then sync or fail."""
        self.entered.set()
        assert self.release.wait(PATIENCE_SECONDS)
        if self.error is not None:
            raise self.error
        return self._sync()
