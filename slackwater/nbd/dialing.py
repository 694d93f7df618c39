"""The client's side of the handshake, over a blocking socket."""

import socket
import ssl
import struct
from pathlib import Path
from typing import Final

from slackwater.errors import FailedPrecondition, NotFound, PermissionDenied, Unavailable
from slackwater.nbd import wire
from slackwater.nbd.export import EMPTY, Buffer, Listing

Address = Path | tuple[str, int]

TIMEOUT_SECONDS: Final = 60.0
# Most a server may say in one option reply: far above what any of them needs.
_MAX_OPTION_REPLY_BYTES: Final = 64 << 10


class Channel:
    """Whole messages over a socket."""

    def __init__(self, address: Address, timeout_seconds: float) -> None:
        """Connects."""
        if isinstance(address, tuple):
            self.sock = socket.create_connection(address, timeout=timeout_seconds)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(timeout_seconds)
            try:
                self.sock.connect(str(address))
            except OSError:
                self.sock.close()
                raise

    def send(self, head: bytes, data: Buffer = EMPTY) -> None:
        """Sends a head and what it announces, the data without a copy where that is possible."""
        if isinstance(self.sock, ssl.SSLSocket) or not data:
            self.sock.sendall(head + bytes(data))
            return
        sent = self.sock.sendmsg([head, data])
        if sent < len(head):
            self.sock.sendall(head[sent:])
            sent = len(head)
        if sent < len(head) + len(data):
            self.sock.sendall(memoryview(data)[sent - len(head) :])

    def receive(self, length: int) -> bytes:
        """Exactly that many bytes."""
        data = bytearray(length)
        view = memoryview(data)
        while view:
            count = self.sock.recv_into(view)
            if not count:
                raise ConnectionResetError("the NBD server hung up")
            view = view[count:]
        return bytes(data)

    def close(self) -> None:
        """Closes the socket."""
        self.sock.close()


class Negotiation:
    """The client's side of the handshake."""

    def __init__(
        self,
        address: Address,
        tls_context: ssl.SSLContext | None,
        server_hostname: str | None,
        timeout_seconds: float,
    ) -> None:
        """Connects, checks the greeting, and starts TLS if a context is given."""
        self.channel = Channel(address, timeout_seconds)
        try:
            _check_greeting(self.channel.receive(wire.GREETING.size))
            flags = wire.FLAG_FIXED_NEWSTYLE | wire.FLAG_NO_ZEROES
            self.channel.send(wire.CLIENT_FLAGS.pack(flags))
            if tls_context is not None:
                self._ask(wire.OPT_STARTTLS, b"", "")
                hostname = server_hostname
                if hostname is None and isinstance(address, tuple):
                    hostname = address[0]
                self.channel.sock = tls_context.wrap_socket(
                    self.channel.sock, server_hostname=hostname
                )
        except BaseException:
            self.channel.close()
            raise

    def structured_replies(self) -> bool:
        """Asks for structured replies; says whether the server agreed."""
        try:
            self._ask(wire.OPT_STRUCTURED_REPLY, b"", "")
        except FailedPrecondition:
            return False
        return True

    def base_allocation(self, export: str) -> bool:
        """Asks for base:allocation on an export; says whether the server agreed."""
        body = _string(export) + wire.LENGTH32.pack(1) + _string(wire.BASE_ALLOCATION)
        return bool(self._ask(wire.OPT_SET_META_CONTEXT, body, export))

    def go(self, export: str) -> list[bytes]:
        """Chooses an export and returns what the server says of it."""
        kinds = (wire.INFO_DESCRIPTION, wire.INFO_BLOCK_SIZE)
        body = _string(export) + struct.pack(f">H{len(kinds)}H", len(kinds), *kinds)
        return self._ask(wire.OPT_GO, body, export)

    def listing(self) -> list[Listing]:
        """Asks for the list of exports and says goodbye."""
        listings = []
        for body in self._ask(wire.OPT_LIST, b"", ""):
            (length,) = wire.LENGTH32.unpack_from(body)
            stop = wire.LENGTH32.size + length
            listings.append(Listing(body[wire.LENGTH32.size : stop].decode(), body[stop:].decode()))
        self.channel.send(wire.OPTION.pack(wire.OPTION_MAGIC, wire.OPT_ABORT, 0))
        return listings

    def _ask(self, option: int, body: bytes, export: str) -> list[bytes]:
        """Sends an option and returns the bodies of its answers up to the ACK."""
        self.channel.send(wire.OPTION.pack(wire.OPTION_MAGIC, option, len(body)), body)
        bodies: list[bytes] = []
        while True:
            head = self.channel.receive(wire.OPTION_REPLY.size)
            magic, answered, reply, length = wire.OPTION_REPLY.unpack(head)
            is_ours = magic == wire.OPTION_REPLY_MAGIC and answered == option
            if not is_ours or length > _MAX_OPTION_REPLY_BYTES:
                raise wire.ProtocolError(f"a broken answer to option {option}")
            data = self.channel.receive(length)
            if reply == wire.REP_ACK:
                return bodies
            if reply & wire.REP_FLAG_ERROR:
                raise _refusal(reply, export, data.decode(errors="replace"))
            bodies.append(data)


def _check_greeting(greeting: bytes) -> None:
    magic, option_magic, _flags = wire.GREETING.unpack(greeting)
    if magic != wire.GREETING_MAGIC or option_magic != wire.OPTION_MAGIC:
        raise wire.ProtocolError("no newstyle NBD server answers here")


def _refusal(reply: int, export: str, message: str) -> Exception:
    match reply:
        case wire.REP_ERR_UNKNOWN:
            return NotFound("export", export)
        case wire.REP_ERR_SHUTDOWN:
            return Unavailable(message or "the NBD server")
        case wire.REP_ERR_TLS_REQD:
            return FailedPrecondition("TLS_REQUIRED", message or "the server wants TLS")
        case wire.REP_ERR_POLICY:
            return PermissionDenied(message or f"export {export!r}")
        case _:
            return FailedPrecondition("NBD_OPTION_REFUSED", message or f"refused with {reply:#x}")


def _string(text: str) -> bytes:
    data = text.encode()
    return wire.LENGTH32.pack(len(data)) + data
