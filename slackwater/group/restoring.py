"""Giving volumes of a Primary the content they had at a snapshot on a Secondary.

Nobody else writes to the volumes meanwhile (the caller sees to that), so what the replica differs
by from the snapshot is, once the replica has applied all that was written before, what the volumes
differ by. That is read from the snapshot and written as ordinary records; every Secondary follows
by itself. Then both sides are read again and compared.

It may stop anywhere and begin anew: what was written is written again, or found to be there
already. The row is COPYING, durably, before the first byte is written: as long as it is, the
volumes may be a mixture, and stay closed.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final, Protocol

from slackwater.errors import SlackwaterError
from slackwater.group.batch import Change, write_change, zero_change
from slackwater.group.rows import RestoreRow
from slackwater.group.volume import Volume
from slackwater.group.writer import GroupWriter

WAITING: Final = "WAITING"
COPYING: Final = "COPYING"
VERIFYING: Final = "VERIFYING"
DONE: Final = "DONE"
CANCELLED: Final = "CANCELLED"
ABANDONED: Final = "ABANDONED"
ACTIVE: Final = frozenset({WAITING, COPYING, VERIFYING})

PIECE_BYTES: Final = 1 << 20
"""Read from the Secondary at a time."""

GRAIN_BYTES: Final = 64 << 10
"""What differs is written in parts of this size."""

NOTE_BYTES: Final = 64 << 20
"""Progress is made durable after this much."""

PASSES: Final = 3
"""Copies that may be found wrong before a restore gives up trying at once."""


class Source(Protocol):
    """The snapshot on the Secondary; whatever it raises is for the caller of `Restoring.run`."""

    def hold(self) -> None:
        """Keep the snapshot from going away; raises if it is another one than it was."""

    def wait_applied(self, lsn: int) -> None:
        """Return once the replica has applied that record, and all before it."""

    def changed(self, volume: str) -> Iterator[tuple[int, int]]:
        """Yield ranges (offset, length) in which the replica may differ from the snapshot.

        Raises if the replica has lost since what `wait_applied` waited for.
        """

    def read(self, volume: str, offset: int, length: int) -> bytes:
        """Return bytes of the snapshot."""


class Stopped(Exception):
    """It was told to stop; it can be begun again."""


class Mismatch(SlackwaterError):
    """What was written is not what is read: the copy is made again."""

    reason = "RESTORE_MISMATCH"


class Restoring:
    """One restore, from where its row says to its end.

    Attributes:
        row: As it is now; durable at every change of the state.
    """

    def __init__(
        self,
        writer: GroupWriter,
        row: RestoreRow,
        source: Source,
        is_stopped: Callable[[], bool],
        changed: Callable[[RestoreRow], None] = lambda _row: None,
    ) -> None:
        """Restore into the group of `writer`; `changed` is told of each new state."""
        self.row = row
        self._writer = writer
        self._source = source
        self._is_stopped = is_stopped
        self._changed = changed
        self._noted_bytes = 0

    def run(self) -> None:
        """Do what is left, until it is DONE.

        Raises:
            Stopped: `is_stopped` said so.
            Mismatch: it did not come out right, however often it was tried.
            SlackwaterError, OSError: of the group or of the source; it may be run again.
        """
        for _ in range(PASSES):
            self._check_stopped()
            self._source.hold()
            self._writer.submit((), sync=True)
            self._source.wait_applied(self._writer.log.durable.position.lsn)
            if self._pass():
                return
        raise Mismatch(
            f"{self.row.snapshot} and the volumes still differ after {PASSES} copies",
            "Is anything else writing to the volumes' files? It is tried again",
        )

    def _pass(self) -> bool:
        total = sum(length for _, _, length in self._ranges())
        # Durable before the first byte is written.
        self._note(state=COPYING, total_bytes=total, done_bytes=0)
        for volume, offset, length in self._ranges():
            self._copy(volume, offset, length)
        self._writer.submit((), sync=True)
        self._note(state=VERIFYING, done_bytes=0)
        digest = self._verify()
        if digest is None:
            return False
        # All of it was read by the snapshot's name: was it the same one until now?
        self._source.hold()
        self._note(state=DONE, sha256=digest, ended_ns=self._writer.clock.time_ns())
        return True

    def _ranges(self) -> Iterator[tuple[Volume, int, int]]:
        """Yield what may differ; asked for again for each use, as it may be long."""
        volumes = {volume.name: volume for volume in self._writer.volumes.values()}
        for name in self.row.volumes:
            for offset, length in self._source.changed(name):
                self._check_stopped()
                yield volumes[name], offset, length

    def _copy(self, volume: Volume, offset: int, length: int) -> None:
        for at, wanted, found in self._pieces(volume, offset, length):
            changes = list(_changes(volume, at, wanted, found))
            if changes:
                self._writer.submit(changes)
            self._count(len(wanted), sum(change[3] for change in changes))

    def _verify(self) -> str | None:
        """Return the hash of both sides; None: they differ."""
        digest = hashlib.sha256()
        for volume, offset, length in self._ranges():
            for _, wanted, found in self._pieces(volume, offset, length):
                if wanted != found:
                    return None
                digest.update(wanted)
                self._count(len(wanted), 0)
        return digest.hexdigest()

    def _pieces(
        self, volume: Volume, offset: int, length: int
    ) -> Iterator[tuple[int, bytes, bytes]]:
        """Yield (offset, bytes of the snapshot, bytes of the volume)."""
        end = min(offset + length, volume.size)
        for at in range(offset, end, PIECE_BYTES):
            self._check_stopped()
            size = min(PIECE_BYTES, end - at)
            found = bytearray(size)
            self._writer.read_into(volume, at, memoryview(found))
            yield at, self._source.read(volume.name, at, size), bytes(found)

    def _count(self, done: int, written: int) -> None:
        row = self.row
        self.row = replace(
            row, done_bytes=row.done_bytes + done, written_bytes=row.written_bytes + written
        )
        self._noted_bytes += done
        if self._noted_bytes >= NOTE_BYTES:
            self._note()

    def _note(self, **fields: object) -> None:
        before = self.row.state
        row = replace(self.row, **fields)  # type: ignore[arg-type]
        self._writer.database.update_restore(row)
        self.row = row
        self._noted_bytes = 0
        if row.state != before:
            self._changed(row)

    def _check_stopped(self) -> None:
        if self._is_stopped():
            raise Stopped


def _changes(volume: Volume, at: int, wanted: bytes, found: bytes) -> Iterator[Change]:
    for start in range(0, len(wanted), GRAIN_BYTES):
        part = wanted[start : start + GRAIN_BYTES]
        if part == found[start : start + GRAIN_BYTES]:
            continue
        if any(part):
            yield write_change(volume, at + start, part)
        else:
            yield zero_change(volume, at + start, len(part))
