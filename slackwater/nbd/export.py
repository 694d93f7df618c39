"""What the server needs of the thing it exports, and the requests it hands over.

A connection hands its export all whole requests that its socket held as one `Batch`: the queue
depth of the client is the size of a group commit, with no hand-over between threads.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from slackwater.extent import Extent

Buffer = bytes | bytearray | memoryview

EMPTY: Final = memoryview(b"")


class Request:
    """One valid request of a client; the export fills in `error`, and `data` of a READ.

    Attributes:
        kind: a ``wire.CMD_*``: READ, WRITE, FLUSH, TRIM, CACHE or WRITE_ZEROES.
        flags: ``wire.CMD_FLAG_*``. FUA counts on WRITE, TRIM and WRITE_ZEROES.
        offset: first byte; the range lies within the export, a change is whole blocks (checked
            before the export sees it).
        length: bytes; at least 1 except for FLUSH, where offset and length are 0.
        payload: what a WRITE carries: a view into the connection's receive buffer, valid until
            `Export.submit` returns. Empty for every other kind.
        cookie: the client's name for the request.
        error: an errno; 0 is success.
        data: what a READ read: exactly `length` bytes, unless `error` or `hole` is set.
        hole: a READ may set this in place of `data` when the whole range reads as zeroes.
    """

    __slots__ = ("cookie", "data", "error", "flags", "hole", "kind", "length", "offset", "payload")

    def __init__(
        self,
        kind: int,
        flags: int,
        offset: int,
        length: int,
        payload: memoryview = EMPTY,
        cookie: int = 0,
        error: int = 0,
    ) -> None:
        """Makes a request that is not done yet."""
        self.kind = kind
        self.flags = flags
        self.offset = offset
        self.length = length
        self.payload = payload
        self.cookie = cookie
        self.error = error
        self.data: Buffer | None = None
        self.hole = False


class Batch:
    """The requests a connection's socket held, in the order the client sent them.

    They may be done in any order, except that a FLUSH covers every write answered before it.

    Attributes:
        requests: at least one.
        read_bytes: the sum of the lengths of its READs.
    """

    __slots__ = ("_taken", "_workspace", "read_bytes", "requests")

    def __init__(self, requests: list[Request], read_bytes: int = 0) -> None:
        """Makes a batch without a workspace: `allocate` then makes new memory."""
        self.requests = requests
        self.read_bytes = read_bytes
        self._workspace = EMPTY
        self._taken = 0

    def lend(self, workspace: memoryview) -> None:
        """Gives the batch the connection's reusable memory for the data of its reads."""
        self._workspace = workspace
        self._taken = 0

    def allocate(self, length: int) -> memoryview:
        """Memory for the data of one READ, to read into and set as its `data`.

        It belongs to the connection and is used again for the next batch: cheaper than new
        bytes, whose pages the kernel would have to clear each time.
        """
        start = self._taken
        stop = start + length
        if stop > len(self._workspace):
            return memoryview(bytearray(length))
        self._taken = stop
        return self._workspace[start:stop]


class Export(Protocol):
    """One volume or snapshot as a client sees it; used by many connections at once.

    Attributes:
        minimum_block: a power of two. A WRITE, TRIM or WRITE_ZEROES that is not whole blocks of it
            is refused before the export sees it; reads may begin and end anywhere.
        multi_conn: true only if a FLUSH on one connection covers the writes of all.
    """

    name: str
    description: str
    size: int
    read_only: bool
    minimum_block: int
    preferred_block: int
    maximum_payload: int
    multi_conn: bool

    def submit(self, batch: Batch) -> None:
        """Does every request of the batch and returns when all are done.

        Trim means zeroes (D12). WRITE_ZEROES with FAST_ZERO that would not be faster than
        writing gets ENOTSUP and changes nothing. A `SlackwaterError` or `OSError` raised from
        here fails every request of the batch; single failures go into `Request.error`.
        """
        ...

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """What the range holds, in order, covering it exactly."""
        ...


@dataclass(frozen=True, slots=True)
class Listing:
    """One line of the answer to a client's LIST."""

    name: str
    description: str = ""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a connection.

    Attributes:
        address: host and port, or ``unix``.
        is_local: the connection came over a unix socket, which file permissions guard.
        is_secure: the connection runs over TLS.
        certificate: the verified certificate as `ssl.SSLSocket.getpeercert` gives it, if any.
    """

    address: str
    is_local: bool = False
    is_secure: bool = False
    certificate: Mapping[str, Any] | None = None

    @property
    def host(self) -> str:
        """The machine it calls from, or ``unix``."""
        return self.address if self.is_local else self.address.rpartition(":")[0]
