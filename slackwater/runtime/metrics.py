"""Metrics of one process, for Prometheus, on a port of their own.

Counters on the data path live where they are counted; a collector reads them at scrape time.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from wsgiref.simple_server import WSGIServer

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

import slackwater
from slackwater import histogram

# A `_created` sample per series doubles the page and says nothing we use.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # theirs

_LATENCY_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60)


class _CallbackCollector(Collector):
    """Asks a function for metric families at every scrape."""

    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Metric]:
        return self._collect()

    def describe(self) -> Iterable[Metric]:
        # Nothing to ask yet at registration: groups and links come and go.
        return ()


class Metrics:
    """The registry of one process, and its page over HTTP."""

    def __init__(self, service: str) -> None:
        """Begin with the process's own figures, the build and the gRPC server's counters."""
        self.registry = CollectorRegistry(auto_describe=False)
        prometheus_client.ProcessCollector(registry=self.registry)
        prometheus_client.PlatformCollector(registry=self.registry)
        prometheus_client.GCCollector(registry=self.registry)
        build = prometheus_client.Gauge(
            "slackwater_build_info",
            "The running build; the value is always 1.",
            ["version", "service"],
            registry=self.registry,
        )
        build.labels(slackwater.__version__, service).set(1)
        self.certificate_expiry = prometheus_client.Gauge(
            "slackwater_certificate_expiry_timestamp_seconds",
            "When the certificate of this service ends; 0 over plaintext.",
            registry=self.registry,
        )
        method = ["grpc_type", "grpc_service", "grpc_method"]
        self.calls_started = Counter(
            "grpc_server_started_total", "RPCs begun on the server.", method, registry=self.registry
        )
        self.calls_handled = Counter(
            "grpc_server_handled_total",
            "RPCs completed on the server, by status code.",
            [*method, "grpc_code"],
            registry=self.registry,
        )
        self.call_seconds = Histogram(
            "grpc_server_handling_seconds",
            "How long the server handled RPCs; streams count from first to last message.",
            method,
            buckets=_LATENCY_BUCKETS,
            registry=self.registry,
        )
        self._server: WSGIServer | None = None
        self._thread: threading.Thread | None = None

    def collect_with(self, collect: Callable[[], Iterable[Metric]]) -> None:
        """Ask `collect` at every scrape; it runs on the page's thread and must not block."""
        self.registry.register(_CallbackCollector(collect))

    def start(self, host: str, port: int) -> int:
        """Serve the page on a thread of its own; returns the port.

        Raises:
            OSError: The port cannot be bound.
        """
        self._server, self._thread = prometheus_client.start_http_server(
            port, addr=host, registry=self.registry
        )
        return int(self._server.server_port)

    def stop(self) -> None:
        """Stop serving the page."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._server = self._thread = None


def histogram_family(
    name: str,
    documentation: str,
    labels: Sequence[str],
    rows: Iterable[tuple[Sequence[str], histogram.Histogram]],
) -> HistogramMetricFamily:
    """A Prometheus histogram from the cheap ones that the data path keeps."""
    family = HistogramMetricFamily(name, documentation, labels=labels)
    for values, row in rows:
        counts, total = list(row.counts), row.total
        buckets: list[tuple[str, float]] = []
        below = 0
        for bound, count in zip((*row.bounds, float("inf")), counts, strict=True):
            below += count
            buckets.append((_bound(bound), below))
        family.add_metric(list(values), buckets, total)
    return family


def _bound(bound: float) -> str:
    return "+Inf" if bound == float("inf") else repr(float(bound))
