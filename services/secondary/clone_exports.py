"""A clone's volume over NBD: read, write, trim, zero, flush."""

import errno
from collections.abc import Iterator

from slackwater.clones.volume import CloneVolume
from slackwater.errors import SlackwaterError
from slackwater.extent import Extent
from slackwater.names import SECTOR_BYTES
from slackwater.nbd import wire
from slackwater.nbd.export import Batch, Request
from slackwater.nbd.status import errno_of


class CloneExport:
    """One volume of a clone (an `slackwater.nbd.export.Export`)."""

    read_only = False
    minimum_block = SECTOR_BYTES
    preferred_block = 4096
    maximum_payload = 32 << 20
    multi_conn = True  # all connections share the volume, and a flush is of the volume

    def __init__(self, name: str, description: str, volume: CloneVolume) -> None:
        """Export `volume` under a resource name."""
        self.name = name
        self.description = description
        self.size = volume.size
        self._volume = volume

    def submit(self, batch: Batch) -> None:
        """Do each request in order, then one flush for all that asked for it."""
        waiting: list[Request] = []
        for request in batch.requests:
            try:
                self._do(request)
            except (SlackwaterError, OSError) as error:
                request.error = errno_of(error)
                continue
            if request.kind == wire.CMD_FLUSH or request.flags & wire.CMD_FLAG_FUA:
                waiting.append(request)
        if waiting:
            try:
                self._volume.flush()
            except (SlackwaterError, OSError) as error:
                for request in waiting:
                    request.error = errno_of(error)

    def _do(self, request: Request) -> None:
        if request.kind == wire.CMD_READ:
            request.data = self._volume.read(request.length, request.offset)
        elif request.kind == wire.CMD_WRITE:
            self._volume.write(request.offset, request.payload)
        elif request.kind in (wire.CMD_TRIM, wire.CMD_WRITE_ZEROES):
            self._zero(request)

    def _zero(self, request: Request) -> None:
        """Trim means zeroes (D12); fast is what copies no chunk up."""
        chunk = self._volume.chunk_bytes
        ragged = request.offset % chunk or (
            (request.offset + request.length) % chunk
            and request.offset + request.length != self.size
        )
        if ragged and request.flags & wire.CMD_FLAG_FAST_ZERO:
            raise OSError(errno.EOPNOTSUPP, "chunks would have to be copied first")
        self._volume.zero(request.offset, request.length)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """Return data and holes of the range."""
        return self._volume.extents(offset, length)
