"""HTTP/2 by hand, for peers that keep to none of its rules (RFC 9113)."""

import socket
import struct
from collections.abc import Iterator

from tests.support.raw_sockets import exactly

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
ACK, END_STREAM, END_HEADERS = 1, 1, 4
MAX_CONCURRENT_STREAMS = 3


def frame(kind: int, flags: int = 0, stream: int = 0, body: bytes = b"") -> bytes:
    """One frame."""
    return struct.pack(">I", len(body))[1:] + struct.pack(">BBI", kind, flags, stream) + body


def request_head(method: str, stream: int) -> bytes:
    """The headers that begin a call, in literals without an index; its message may follow."""
    rows = [
        (":method", "POST"), (":scheme", "http"), (":path", method), (":authority", "test"),
        ("te", "trailers"), ("content-type", "application/grpc"),
    ]  # fmt: skip
    block = b"".join(
        b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in rows
    )
    return frame(HEADERS, END_HEADERS, stream, block)


def frames(sock: socket.socket) -> Iterator[tuple[int, int, int, bytes]]:
    """Frames of the server as kind, flags, stream and body, until it hangs up."""
    while True:
        try:
            first = sock.recv(1)
        except ConnectionResetError:
            return
        if not first:
            return
        head = first + exactly(sock, 8)
        length = int.from_bytes(head[:3], "big")
        kind, flags, stream = struct.unpack(">BBI", head[3:])
        yield kind, flags, stream, exactly(sock, length)


def settings_of(body: bytes) -> dict[int, int]:
    """The values of a SETTINGS frame by their identifiers."""
    return dict(struct.iter_unpack(">HI", body))
