"""gRPC servers: the service's own port, and the plaintext port that serves health and nothing else.

The own port carries the service, health and reflection (v1 and v1alpha, which older clients ask
for), over TLS with client certificates, or plaintext.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from slackwater.errors import FailedPrecondition
from slackwater.runtime import client
from slackwater.runtime.health import Health
from slackwater.runtime.interceptor import CallInterceptor
from slackwater.runtime.limits import ServerLimits
from slackwater.runtime.metrics import Metrics
from slackwater.runtime.tls import CertificateStore, server_credentials

HEALTH_SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
_REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"

SERVER_OPTIONS: Sequence[tuple[str, int]] = (
    ("grpc.max_send_message_length", client.MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", client.MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", 16 << 10),
    # Two processes must never share a port without knowing.
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", client.KEEPALIVE_MILLISECONDS),
    ("grpc.keepalive_timeout_ms", client.KEEPALIVE_TIMEOUT_MILLISECONDS),
    ("grpc.keepalive_permit_without_calls", 1),
    # Clients ping every KEEPALIVE_MILLISECONDS; half of that forgives their clocks.
    ("grpc.http2.min_ping_interval_without_data_ms", client.KEEPALIVE_MILLISECONDS // 2),
)

Register = Callable[[grpc.aio.Server], None]


def make_server(
    metrics: Metrics, health: Health, service_names: Sequence[str], limits: ServerLimits
) -> grpc.aio.Server:
    """A server with health and reflection; the caller adds its servicers and binds it.

    Args:
        metrics: Where calls are counted.
        health: What the service says of itself.
        service_names: Full names of the services, for reflection.
        limits: What its peers may hold of it.
    """
    server = grpc.aio.server(
        # Every handler is a coroutine; the pool is only for what the library itself offloads.
        ThreadPoolExecutor(max_workers=1, thread_name_prefix="grpc"),
        interceptors=[CallInterceptor(metrics, limits)],
        options=[*SERVER_OPTIONS, *limits.options()],
    )
    health.register(server)
    _add_reflection(server, service_names)
    return server


def make_health_server(health: Health) -> grpc.aio.Server:
    """A server of `grpc.health.v1.Health` alone, for probes, which know no TLS."""
    limits = ServerLimits(calls=64, calls_per_connection=8, connections=64, idle_seconds=60.0)
    server = grpc.aio.server(
        options=[*SERVER_OPTIONS, *limits.options()], maximum_concurrent_rpcs=limits.calls
    )
    health.register(server)
    return server


def bind(
    server: grpc.aio.Server, address: str, certificates: CertificateStore | None = None
) -> str:
    """Bind `host:port`, port 0 picks one; returns the address with the port that was bound.

    Raises:
        FailedPrecondition: The address cannot be bound.
    """
    host, _, port = address.rpartition(":")
    try:
        if certificates is None:
            bound = server.add_insecure_port(address)
        else:
            bound = server.add_secure_port(address, server_credentials(certificates))
    except RuntimeError as error:
        raise cannot_listen(address) from error
    if bound == 0:
        raise cannot_listen(address)
    assert port in ("0", str(bound)), "gRPC binds the port it was told"
    return f"{host}:{bound}"


def cannot_listen(address: str) -> FailedPrecondition:
    """The error for an address that is taken or not ours."""
    return FailedPrecondition(
        "CANNOT_LISTEN",
        f"cannot listen on {address}",
        "Choose another address, or end the process that has it",
    )


def _add_reflection(server: grpc.aio.Server, service_names: Sequence[str]) -> None:
    """Serve reflection under both of its names; the two protocols have the same messages."""
    descriptor = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
    # Not v1's own name: what is listed can be described, and the library has no descriptor of it.
    names = (*service_names, HEALTH_SERVICE, descriptor.full_name)
    servicer = reflection.aio.ReflectionServicer(names)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for name in (descriptor.full_name, _REFLECTION_V1):
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler}),)
        )
