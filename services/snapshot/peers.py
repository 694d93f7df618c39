"""The Primary and the Secondary as seen from here: a channel each, and whether they answer."""

import time
from collections.abc import Awaitable, Mapping
from typing import NoReturn, TypeVar

import grpc
from grpc_health.v1 import health_pb2

from slackwater.errors import Unavailable
from slackwater.runtime import client, status
from slackwater.runtime.health import READINESS
from slackwater.runtime.tls import CertificateStore
from slackwater.v1 import primary_pb2_grpc, secondary_pb2_grpc, snapshot_pb2

T = TypeVar("T")

ASK_SECONDS = 1.5
GONE = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
"""Codes with which a call ends when there was no answer."""

_DETAILS_KEY = "grpc-status-details-bin"


class Peer:
    """One other service.

    Attributes:
        role: What it is.
        address: Where it is, as configured.
        channel: How it is called.
    """

    def __init__(
        self, role: str, address: str, certificates: CertificateStore | None, advice: str = ""
    ) -> None:
        """Open the channel; it connects by itself, when it can."""
        self._advice = advice or f"Start it, or start this service with another --{role}"
        self.role = role
        self.address = address
        self.channel = client.open_channel(address, certificates)
        self.problem = "not asked yet"
        self.answered_at: float | None = None
        """Monotonic time of its last answer."""

    @property
    def is_reachable(self) -> bool:
        """True if it answered the last time it was asked."""
        return not self.problem

    async def ask(self) -> None:
        """See whether it answers. Any answer counts: a peer that drains is still there."""
        check = self.channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        request = health_pb2.HealthCheckRequest(service=READINESS)
        try:
            await check(request, timeout=ASK_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() in GONE:
                self.problem = error.details() or error.code().name
                return
        self.problem = ""
        self.answered_at = time.monotonic()

    def as_status(self) -> snapshot_pb2.PeerStatus:
        """What is known, with its age."""
        found = snapshot_pb2.PeerStatus(
            endpoint=self.address, reachable=self.is_reachable, problem=self.problem[:400]
        )
        if self.answered_at is not None:
            found.age.FromNanoseconds(round((time.monotonic() - self.answered_at) * 1e9))
        return found

    async def relay(self, error: grpc.aio.AioRpcError, context: status.Aborting) -> NoReturn:
        """End a call of ours as the peer ended the one we made for it.

        Raises:
            Unavailable: the peer did not answer.
        """
        if says_nothing(error):
            raise self.unavailable() from error
        details = tuple(
            (key, value) for key, value in error.trailing_metadata() or () if key == _DETAILS_KEY
        )
        await context.abort(error.code(), error.details() or "", details)

    async def forward(self, call: Awaitable[T], context: status.Aborting) -> T:
        """Return the peer's answer, or end a call of ours as it ended this one; see `relay`."""
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            await self.relay(error, context)

    def unavailable(self) -> Unavailable:
        """The error for a peer that does not answer."""
        return Unavailable(f"the {self.role} at {self.address}", self._advice)

    @property
    def secondary_api(self) -> "secondary_pb2_grpc.SecondaryServiceAsyncStub":
        """The calls of a Secondary."""
        return secondary_pb2_grpc.SecondaryServiceStub(self.channel)

    async def close(self) -> None:
        """Close the channel."""
        await self.channel.close()


class Peers:
    """Both others."""

    def __init__(
        self, primary: str, secondary: str, certificates: CertificateStore | None = None
    ) -> None:
        """Open the channels."""
        self.primary = Peer("primary", primary, certificates)
        self.secondary = Peer("secondary", secondary, certificates)

    @property
    def all(self) -> tuple[Peer, Peer]:
        """Both."""
        return (self.primary, self.secondary)

    @property
    def primary_api(self) -> "primary_pb2_grpc.PrimaryServiceAsyncStub":
        """The Primary's calls."""
        return primary_pb2_grpc.PrimaryServiceStub(self.primary.channel)

    @property
    def secondary_api(self) -> "secondary_pb2_grpc.SecondaryServiceAsyncStub":
        """The Secondary's calls."""
        return self.secondary.secondary_api


class Secondaries:
    """The Secondaries of links, each by a channel that is opened when first asked for."""

    def __init__(
        self, addresses: Mapping[str, str], certificates: CertificateStore | None = None
    ) -> None:
        """Open nothing yet; `addresses` names links whose endpoint is not reached from here."""
        self._addresses = addresses
        self._certificates = certificates
        self._peers: dict[str, Peer] = {}

    def address(self, link: str, endpoint: str) -> str:
        """Return where the Secondary of a link is reached from here."""
        return self._addresses.get(link, endpoint)

    def at(self, address: str) -> Peer:
        """Return the Secondary at an address."""
        if address not in self._peers:
            advice = "Start it, or say with --link-addresses where this service reaches it"
            self._peers[address] = Peer("secondary", address, self._certificates, advice)
        return self._peers[address]

    async def close(self) -> None:
        """Close the channels."""
        for peer in self._peers.values():
            await peer.close()


def says_nothing(error: grpc.aio.AioRpcError) -> bool:
    """Whether there was no answer: the code is gRPC's own, without our details."""
    return error.code() in GONE and not status.decode(error).fields


def sentence(error: grpc.aio.AioRpcError, peer: Peer) -> str:
    """What a failed call means, for people."""
    if says_nothing(error):
        return f"UNAVAILABLE: {peer.unavailable()}"
    found = status.decode(error)
    return f"{found.reason}: {found.message or 'no reason given'}"
