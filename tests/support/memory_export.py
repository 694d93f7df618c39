"""An export whose bytes live in memory: what the NBD tests serve."""

import errno
import threading
from collections.abc import Iterator

from slackwater.extent import Extent
from slackwater.nbd import wire
from slackwater.nbd.export import Batch, Request

BLOCK = 4096


class MemoryExport:
    """A volume in memory that knows, block by block, what was never written or zeroed."""

    minimum_block = 1
    preferred_block = BLOCK
    maximum_payload = wire.MAX_PAYLOAD

    def __init__(
        self,
        size: int,
        *,
        name: str = "groups/g/volumes/v",
        description: str = "a volume in memory",
        read_only: bool = False,
        multi_conn: bool = True,
    ) -> None:
        self.name = name
        self.description = description
        self.size = size
        self.read_only = read_only
        self.multi_conn = multi_conn
        self.content = bytearray(size)
        self.allocated = bytearray(-(-size // BLOCK))
        self.batches: list[list[tuple[int, int, int, int]]] = []  # (kind, flags, offset, length)
        self.fails: Exception | None = None
        self.fails_request: dict[int, int] = {}  # kind -> errno
        self.gate = threading.Event()  # cleared: `submit` waits, as a slow disk would
        self.gate.set()
        self.entered = threading.Semaphore(0)  # one more for each batch that reached `submit`
        self._lock = threading.Lock()

    def submit(self, batch: Batch) -> None:
        self.entered.release()
        assert self.gate.wait(30), "the test never opened the gate"
        with self._lock:
            self.batches.append([(r.kind, r.flags, r.offset, r.length) for r in batch.requests])
            if self.fails is not None:
                raise self.fails
            for request in batch.requests:
                request.error = self.fails_request.get(request.kind, 0)
                if not request.error:
                    self._do(batch, request)

    def _do(self, batch: Batch, request: Request) -> None:
        start, stop = request.offset, request.offset + request.length
        match request.kind:
            case wire.CMD_READ:
                if not any(self.allocated[start // BLOCK : -(-stop // BLOCK)]):
                    request.hole = True
                    return
                data = batch.allocate(request.length)
                data[:] = memoryview(self.content)[start:stop]
                request.data = data
            case wire.CMD_WRITE:
                self.content[start:stop] = request.payload
                for block in range(start // BLOCK, -(-stop // BLOCK)):
                    self.allocated[block] = 1
            case wire.CMD_TRIM | wire.CMD_WRITE_ZEROES:
                if request.flags & wire.CMD_FLAG_FAST_ZERO and request.length % BLOCK:
                    request.error = errno.ENOTSUP
                    return
                self.content[start:stop] = bytes(request.length)
                if not request.flags & wire.CMD_FLAG_NO_HOLE:
                    for block in range(-(-start // BLOCK), stop // BLOCK):
                        self.allocated[block] = 0
            case wire.CMD_FLUSH | wire.CMD_CACHE:
                pass
            case _:
                raise AssertionError(f"the server let command {request.kind} through")

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        if self.fails is not None:
            raise self.fails
        stop = offset + length
        while offset < stop:
            block = offset // BLOCK
            end = min(stop, (block + 1) * BLOCK)
            yield Extent(offset, end - offset, bool(self.allocated[block]))
            offset = end
