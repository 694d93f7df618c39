"""Bytes from sockets that tests hold in their own hands."""

import socket


def exactly(sock: socket.socket, length: int) -> bytes:
    """So many bytes, however they arrive."""
    data = b""
    while len(data) < length:
        part = sock.recv(length - len(data))
        assert part, f"hang-up after {len(data)} of {length} bytes"
        data += part
    return data
