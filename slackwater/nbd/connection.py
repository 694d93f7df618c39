"""One client's connection: the thin shell that moves bytes between a socket and the protocol.

A thread of its own receives all that the socket holds, hands it to the export as one batch, and
sends all answers in one call. With one thread from socket to disk and back, a request at queue
depth 1 is never handed over.
"""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from slackwater.errors import PermissionDenied
from slackwater.nbd import wire
from slackwater.nbd.export import Export, Listing, Peer
from slackwater.nbd.handshake import Handshake, Phase, TlsMode
from slackwater.nbd.memory import Allowance, Space
from slackwater.nbd.stream import Ended, Settings, Stream
from slackwater.nbd.transmission import Transmission

_NEGOTIATION_RECEIVE_BYTES: Final = 1024  # bounds how many answers one receive can cause


@dataclass(frozen=True, slots=True)
class Access:
    """What a server exports and to whom.

    Attributes:
        listing: all exports.
        open: the export of a name, or a `SlackwaterError`.
        authorise: whether this peer may see and open that export.
    """

    listing: Callable[[], Iterable[Listing]]
    open: Callable[[str, Peer], Export]
    authorise: Callable[[str, Peer], bool] = lambda _name, _peer: True


@dataclass(slots=True)
class Resources:
    """What the connections of one server share."""

    access: Access
    settings: Settings
    tls_context: ssl.SSLContext | None
    comfort: Allowance = field(init=False)
    receiving: Allowance = field(init=False)
    replying: Allowance = field(init=False)

    def __post_init__(self) -> None:
        """Makes the allowances. Order of waiting: receiving, then replying; never back."""
        self.comfort = Allowance(self.settings.comfort_bytes)
        self.receiving = Allowance(self.settings.large_bytes)
        self.replying = Allowance(self.settings.large_bytes)


@dataclass(frozen=True, slots=True)
class _PeerDirectory:
    """The exports as one peer may see them."""

    access: Access
    peer: Callable[[], Peer]
    claim: Callable[[str], None]

    def listing(self) -> Iterable[Listing]:
        peer = self.peer()
        return [entry for entry in self.access.listing() if self.access.authorise(entry.name, peer)]

    def open(self, name: str) -> Export:
        peer = self.peer()
        if not self.access.authorise(name, peer):
            raise PermissionDenied(f"export {name!r}")
        # Before it is opened: who withdraws an export and then ends its clients must find this one,
        # unless the withdrawal came first and opening fails.
        self.claim(name)
        return self.access.open(name, peer)


class Connection:
    """Serves one client until it leaves, breaks the protocol, stalls, or the server stops.

    Attributes:
        peer: who it is; complete once TLS is up.
        export_name: what it uses, None as long as it has not chosen.
        ended_by: why it ended, for the log; empty after a clean goodbye.
    """

    def __init__(self, sock: socket.socket, peer: Peer, tls: TlsMode, resources: Resources) -> None:
        """Takes over the socket; `run` serves it."""
        self.peer = peer
        self.export_name: str | None = None
        self.ended_by = ""
        self._socket = sock
        self._tls = tls
        self._resources = resources
        self._settings = resources.settings
        self._is_stopping = threading.Event()
        self._transmission: Transmission | None = None

    def run(self) -> None:
        """Serves until the end; never raises for what a client can cause."""
        try:
            handshake = self._negotiate()
            if handshake.phase is Phase.TRANSMITTING:
                self._transmit(handshake)
        except (Ended, wire.ProtocolError, OSError) as ended:
            self.ended_by = str(ended)
        finally:
            self._socket.close()

    def stop(self) -> None:
        """Asks for the end: the batch in hand is finished and answered first."""
        self._is_stopping.set()
        self._shut(socket.SHUT_RD)

    def abandon(self) -> None:
        """Ends it at once, in the middle of an answer if need be."""
        self._is_stopping.set()
        self._shut(socket.SHUT_RDWR)

    def counts(self) -> tuple[Sequence[int], int, int]:
        """Requests by command, bytes read and bytes written so far."""
        transmission = self._transmission
        if transmission is None:
            return (), 0, 0
        return transmission.counts, transmission.bytes_read, transmission.bytes_written

    def _shut(self, how: int) -> None:
        # Not the TLS socket's own method: that drops the session under the serving thread.
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._socket, how)

    # Handshake.

    def _negotiate(self) -> Handshake:
        deadline = time.monotonic() + self._settings.handshake_seconds
        directory = _PeerDirectory(self._resources.access, lambda: self.peer, self._claim)
        handshake = Handshake(directory, self._tls)
        while True:
            try:
                self._send_before(deadline, handshake.data_to_send())
                if handshake.phase is Phase.SECURING:
                    self._secure(deadline)
                    handshake.secured()
                if handshake.phase is not Phase.NEGOTIATING:
                    return handshake
                self.export_name = None  # what it only asked about it does not use
                self._limit(deadline)
                data = self._socket.recv(_NEGOTIATION_RECEIVE_BYTES)
            except TimeoutError:
                raise Ended("the handshake took too long") from None
            if not data:
                raise Ended("hang-up in the handshake")
            try:
                handshake.receive(data)
            except wire.ProtocolError:
                self._send_before(deadline, handshake.data_to_send())
                raise

    def _claim(self, name: str) -> None:
        self.export_name = name

    def _limit(self, deadline: float) -> None:
        remaining = deadline - time.monotonic()
        if remaining <= 0 or self._is_stopping.is_set():
            raise TimeoutError
        self._socket.settimeout(remaining)

    def _send_before(self, deadline: float, data: bytes) -> None:
        if data:
            self._limit(deadline)
            self._socket.sendall(data)

    def _secure(self, deadline: float) -> None:
        context = self._resources.tls_context
        assert context is not None, "TLS was offered without a context"
        self._limit(deadline)
        secured = context.wrap_socket(self._socket, server_side=True)
        self._socket = secured
        self.peer = Peer(
            self.peer.address, self.peer.is_local, is_secure=True, certificate=_certificate(secured)
        )

    # Transmission.

    def _transmit(self, handshake: Handshake) -> None:
        export = handshake.export
        assert export is not None, "transmission begins with an export"
        self.export_name = export.name
        self._transmission = Transmission(
            export,
            structured=handshake.is_structured,
            block_status=handshake.has_block_status,
        )
        receive = Space(self._resources.comfort, self._resources.receiving)
        reply = Space(self._resources.comfort, self._resources.replying)
        try:
            Stream(self._socket, export, self._transmission, receive, reply, self._settings).serve(
                handshake.trailing_data(), self._is_stopping
            )
        finally:
            receive.close()
            reply.close()


def _certificate(secured: ssl.SSLSocket) -> dict[str, Any] | None:
    return secured.getpeercert() or None
