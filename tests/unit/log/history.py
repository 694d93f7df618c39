"""A history of records for log tests, and a small log on a simulated disk to hold it."""

import uuid
from collections.abc import Sequence
from pathlib import Path

from slackwater import record
from slackwater.log.log import Log
from slackwater.log.reader import LogReader, replay
from slackwater.log.recovery import Recovery
from slackwater.log.run import Run
from slackwater.log.segment import HEADER_BYTES, LogSettings
from slackwater.position import LogPoint, Position, origin
from slackwater.storage.seam import Storage
from slackwater.storage.simulated import SimulatedStorage

UID = uuid.UUID("6c6f6773-6c61-636b-7761-746572000001")
GROUP = Path("/data/groups/g")
DIRECTORY = GROUP / "log"
ORIGIN = origin(UID)
SETTINGS = LogSettings(
    log_bytes=8 * (HEADER_BYTES + 4096), segment_bytes=HEADER_BYTES + 4096, max_commit_bytes=2048
)
CAPACITY = SETTINGS.capacity
START = LogPoint(0, ORIGIN)


def disk(capacity_bytes: int | None = None) -> SimulatedStorage:
    """Return a disk with a group's directory, durable."""
    storage = SimulatedStorage(capacity_bytes=capacity_bytes)
    storage.make_directory(GROUP)
    for directory in (*reversed(GROUP.parents), GROUP):
        storage.sync_directory(directory)
    storage.call_log.clear()
    storage.calls = 0  # what a crash test counts begins here
    return storage


class History:
    """Makes records that continue each other and remembers their frames."""

    def __init__(self, position: Position = ORIGIN) -> None:
        self.first_lsn = position.lsn + 1
        self.position = position
        self.frames: list[bytes] = []
        self.positions: list[Position] = []

    def add(self, payload_bytes: int, synced_lsn: int | None = None) -> tuple[bytes, bytes]:
        """Make a Write of that size; return its head and payload."""
        lsn = self.position.lsn + 1
        payload = bytes((lsn * 7 + index) % 251 for index in range(payload_bytes))
        head, chain = record.write_head(
            self.position.chain, self.position.epoch, lsn, lsn * 1000, synced_lsn, 1, lsn, payload
        )
        self.position = Position(self.position.epoch, lsn, chain)
        self.frames.append(head + payload)
        self.positions.append(self.position)
        return head, payload

    def add_epoch(self) -> bytes:
        """Make an EpochChange."""
        epoch, lsn = self.position.epoch + 1, self.position.lsn + 1
        framed, chain = record.frame(
            self.position.chain, epoch, lsn, 1, None, record.KIND_EPOCH_CHANGE, b""
        )
        self.position = Position(epoch, lsn, chain)
        self.frames.append(framed)
        self.positions.append(self.position)
        return framed

    def run(self, sizes: Sequence[int], synced_lsn: int | None = None) -> Run:
        """Make one commit as the Primary does: heads and payloads, the claim on the first."""
        pieces: list[record.Buffer] = []
        records = []
        for size in sizes:
            head, payload = self.add(size, synced_lsn)
            synced_lsn = None
            pieces += (head, payload)
            records.append((len(head) + len(payload), self.position))
        return Run(pieces, records)

    def slice(self, sizes: Sequence[int], synced_lsn: int | None = None) -> Run:
        """Make the same as the Secondary gets it: one buffer and the views of the check."""
        before = self.position
        data = b"".join(self.run(sizes, synced_lsn).pieces)
        views, stop, why = record.scan(data, 0, len(data), before)
        assert (stop, why) == (len(data), "end")
        return Run.of_views(data, views)

    def to(self, lsn: int) -> bytes:
        """Return the frames up to an lsn."""
        return b"".join(self.frames[: lsn - self.first_lsn + 1])


def create(storage: Storage, settings: LogSettings = SETTINGS, start: LogPoint = START) -> Log:
    """Make an empty log."""
    return Log.create(storage, DIRECTORY, UID, settings, start)


def reopen(
    storage: Storage,
    *,
    settings: LogSettings = SETTINGS,
    start: LogPoint = START,
    checkpoint: LogPoint | None = None,
    floor_lsn: int = 0,
    trust: bool = True,
) -> tuple[Log, Recovery]:
    """Open the log as after a stop."""
    return Log.open(
        storage, DIRECTORY, UID, settings, start, checkpoint or start, floor_lsn,
        trust_synced_lsn=trust,
    )  # fmt: skip


def reader(storage: Storage, settings: LogSettings = SETTINGS) -> LogReader:
    """Return a reader of the log."""
    return LogReader(storage, DIRECTORY, UID, settings)


def content(storage: Storage, start: LogPoint, end: LogPoint) -> bytes:
    """Return all frames between two points, proved."""
    return b"".join(
        bytes(buffer[view.start : view.end]) for buffer, view in replay(reader(storage), start, end)
    )


def append(log: Log, history: History, sizes: Sequence[int]) -> None:
    """Append a commit that claims what is durable, as the Primary's leader does."""
    log.append([history.run(sizes, log.durable.position.lsn)])
