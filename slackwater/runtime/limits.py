"""Bounds of a gRPC server: each one holds against a peer that means harm.

What a peer may begin is counted, and what it has begun must go on: a connection that does not
finish its handshake, a call whose request does not arrive and a connection that carries no call
are all ended after a while.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """How much of a server its peers may hold, and for how long.

    Attributes:
        calls: calls at one time; more are refused with RESOURCE_EXHAUSTED.
        calls_per_connection: calls of one connection at one time; a client keeps more back.
        connections: connections at one time; more are hung up on.
        handshake_seconds: TCP accepted to TLS done and HTTP/2 settings received.
        request_seconds: call begun to its request received. A stream's own first message is
            bounded by its servicer.
        idle_seconds: a connection that carries no call for so long is ended; clients dial again.
    """

    calls: int = 256
    calls_per_connection: int = 100
    connections: int = 256
    handshake_seconds: float = 20.0
    request_seconds: float = 20.0
    idle_seconds: float = 600.0

    def options(self) -> Sequence[tuple[str, int]]:
        """The bounds that gRPC keeps by itself, as arguments of a server."""
        return (
            ("grpc.max_allowed_incoming_connections", self.connections),
            ("grpc.max_concurrent_streams", self.calls_per_connection),
            ("grpc.server_handshake_timeout_ms", round(self.handshake_seconds * 1000)),
            ("grpc.max_connection_idle_ms", round(self.idle_seconds * 1000)),
        )
