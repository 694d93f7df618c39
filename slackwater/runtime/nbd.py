"""What both services that serve NBD do the same way: who may open what, and what is counted."""

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from slackwater.errors import InvalidRequest
from slackwater.nbd.export import Peer
from slackwater.nbd.server import Server
from slackwater.runtime import roles
from slackwater.runtime.tls import identity_of_certificate


def group_of(export: str) -> str:
    """Return the group that an export's name is about; empty if it names none."""
    parts = export.split("/")
    return parts[1] if len(parts) > 1 and parts[0] == "groups" else ""


def authorise(export: str, peer: Peer) -> bool:
    """Tell whether a client may see an export: over TLS its certificate says so."""
    if not peer.is_secure:
        return True  # a unix socket guarded by its permissions, or plaintext allowed on purpose
    if peer.certificate is None:
        return False
    try:
        identity = identity_of_certificate(peer.certificate)
    except InvalidRequest:
        return False  # what cannot be read in full grants nothing
    return identity.allows(roles.NBD_ROLE, group_of(export))


def families(server: Server | None) -> Iterable[Metric]:
    """Return what an NBD server counted; nothing before it listens."""
    if server is None:
        return
    counters = server.counters()
    connections = GaugeMetricFamily("slackwater_nbd_connections", "NBD clients connected.")
    connections.add_metric([], counters.open_connections)
    yield connections
    refused = CounterMetricFamily(
        "slackwater_nbd_refused",
        "NBD clients hung up on because of a limit: total, or of one host.",
        labels=["limit"],
    )
    for limit, count in counters.refused.items():
        refused.add_metric([limit], count)
    yield refused
    requests = CounterMetricFamily("slackwater_nbd_requests", "NBD requests.", labels=["command"])
    for command, count in counters.requests.items():
        requests.add_metric([command], count)
    yield requests
    moved = CounterMetricFamily(
        "slackwater_nbd_bytes", "Bytes of NBD reads and writes.", labels=["direction"]
    )
    moved.add_metric(["read"], counters.bytes_read)
    moved.add_metric(["write"], counters.bytes_written)
    yield moved
