"""Volumes of a Primary as NBD exports: requests in, one commit per batch out."""

import errno
from collections.abc import Iterator

from services.primary.uses import VolumeUses
from slackwater import record
from slackwater.errors import NoSpace, SlackwaterError
from slackwater.extent import Extent
from slackwater.group.batch import Change, write_change, zero_change
from slackwater.group.volume import Volume
from slackwater.group.writer import GroupWriter
from slackwater.names import SECTOR_BYTES
from slackwater.nbd import wire
from slackwater.nbd.export import Batch, Request

MUTATING = frozenset((wire.CMD_WRITE, wire.CMD_TRIM, wire.CMD_WRITE_ZEROES))


class VolumeExport:
    """One volume of a group that this Primary owns (an `slackwater.nbd.export.Export`)."""

    name: str
    read_only = False
    minimum_block = SECTOR_BYTES  # of changes; reads may begin and end anywhere
    preferred_block = 4096
    # A flush covers every answered write of the group, whatever connection it came on (D7).
    multi_conn = True

    def __init__(self, group: str, writer: GroupWriter, volume: Volume, uses: VolumeUses) -> None:
        """Export ``volume`` as ``groups/<group>/volumes/<volume>``."""
        self.name = f"groups/{group}/volumes/{volume.name}"
        self.description = f"volume {volume.name} of group {group}, Primary"
        self.maximum_payload = writer.largest_request_bytes
        self.size = volume.size
        self._writer = writer
        self._volume = volume
        self._uses = uses

    def submit(self, batch: Batch) -> None:
        """Serve the reads, then commit what changes the volume, as few times as sizes allow."""
        waiting: list[Request] = []
        changes: list[Change] = []
        size = 0
        sync = False
        for request in batch.requests:
            kind = request.kind
            if kind == wire.CMD_READ:
                self._read(batch, request)
            elif kind == wire.CMD_FLUSH:
                sync = True
                waiting.append(request)
            elif kind in MUTATING:
                if waiting and size + request.length > self._writer.batch_bytes:
                    self._commit(waiting, changes, sync=sync)
                    waiting, changes, size, sync = [], [], 0, False
                if kind == wire.CMD_WRITE:
                    size += request.length
                    self._cut(request, changes)
                else:
                    changes.append(zero_change(self._volume, request.offset, request.length))
                if request.flags & wire.CMD_FLAG_FUA:
                    sync = True
                waiting.append(request)
        if waiting:
            self._commit(waiting, changes, sync=sync)

    def _cut(self, request: Request, changes: list[Change]) -> None:
        """Cut a write at the largest payload a record takes, without copying it."""
        if request.length <= record.MAX_PAYLOAD:
            changes.append(write_change(self._volume, request.offset, request.payload))
            return
        for start in range(0, request.length, record.MAX_PAYLOAD):
            part = request.payload[start : start + record.MAX_PAYLOAD]
            changes.append(write_change(self._volume, request.offset + start, part))

    def _commit(self, waiting: list[Request], changes: list[Change], *, sync: bool) -> None:
        try:
            with self._uses.use(self._volume):
                self._writer.submit(changes, sync=sync)
        except NoSpace:
            _refuse(waiting, errno.ENOSPC)
        except SlackwaterError:
            _refuse(waiting, errno.EIO)

    def _read(self, batch: Batch, request: Request) -> None:
        target = batch.allocate(request.length)
        try:
            self._writer.read_into(self._volume, request.offset, target)
        except (OSError, SlackwaterError):
            request.error = errno.EIO
        else:
            request.data = target

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """Return data and holes of the range, changes still on their way counted as data."""
        return iter(self._writer.extents(self._volume, offset, length))


def _refuse(requests: list[Request], number: int) -> None:
    for request in requests:
        request.error = number
