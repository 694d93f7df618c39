"""Channels to the services: the same settings for the command line, the services and the senders.

A unary call without a deadline gets one here; a call that may wait longer says so itself. Streams
have none: heartbeats in the stream find a dead peer.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import grpc

from slackwater.runtime.tls import CertificateStore, channel_credentials

DEADLINE_SECONDS = 30.0
MAX_MESSAGE_BYTES = 8 << 20
"""An Append is at most 2 MiB, a page of a list or a read at most 4 MiB; both ends refuse more."""

KEEPALIVE_MILLISECONDS = 60_000
KEEPALIVE_TIMEOUT_MILLISECONDS = 20_000

CHANNEL_OPTIONS: Sequence[tuple[str, int]] = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # Set on both sides: a server that does not expect pings ends the connection for them.
    ("grpc.keepalive_time_ms", KEEPALIVE_MILLISECONDS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MILLISECONDS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # A peer that restarts is back within seconds; gRPC would wait up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    # Channels in one process must not share a connection: each link has its own fate.
    ("grpc.use_local_subchannel_pool", 1),
)

_Details = TypeVar("_Details")


class _AsyncDeadline(grpc.aio.UnaryUnaryClientInterceptor):
    """Gives unary calls a deadline."""

    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: Any, request: Any
    ) -> Any:
        return await continuation(_with_deadline(client_call_details), request)


class _Deadline(grpc.UnaryUnaryClientInterceptor):
    """Gives unary calls a deadline."""

    def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: Any, request: Any
    ) -> Any:
        return continuation(_with_deadline(client_call_details), request)


def open_channel(address: str, certificates: CertificateStore | None = None) -> grpc.aio.Channel:
    """A channel of the running event loop; plaintext without certificates."""
    interceptors = [_AsyncDeadline()]
    if certificates is None:
        return grpc.aio.insecure_channel(
            address, options=CHANNEL_OPTIONS, interceptors=interceptors
        )
    return grpc.aio.secure_channel(
        address, channel_credentials(certificates), CHANNEL_OPTIONS, interceptors=interceptors
    )


def open_blocking_channel(
    address: str, certificates: CertificateStore | None = None
) -> grpc.Channel:
    """A channel whose calls block, for programs without an event loop."""
    if certificates is None:
        channel = grpc.insecure_channel(address, CHANNEL_OPTIONS)
    else:
        channel = grpc.secure_channel(address, channel_credentials(certificates), CHANNEL_OPTIONS)
    return grpc.intercept_channel(channel, _Deadline())


def _with_deadline(details: _Details) -> _Details:
    """The same call with the default deadline, unless it has one."""
    call = cast(Any, details)
    return details if call.timeout is not None else call._replace(timeout=DEADLINE_SECONDS)
