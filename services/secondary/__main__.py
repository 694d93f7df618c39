"""`python -m services.secondary`, also installed as `slackwater-secondary`."""

import asyncio
import contextlib
import sys
from collections.abc import Iterator, Sequence

import grpc

from services.secondary import metrics, replication
from services.secondary.limits import Limits
from services.secondary.node import SecondaryNode
from services.secondary.servicer import SecondaryServicer
from services.secondary.snapshot_servicer import Endpoints
from slackwater.clock import SystemClock
from slackwater.group.directory import DataDirectory
from slackwater.nbd.handshake import TlsMode
from slackwater.nbd.server import Server
from slackwater.nbd.stream import Settings
from slackwater.runtime import grpcserver, logs
from slackwater.runtime.config import SecondaryConfig, parse_arguments, split_address
from slackwater.runtime.lifecycle import Service, run_service
from slackwater.storage.real import RealStorage
from slackwater.v1 import secondary_pb2_grpc

SERVICES = ("slackwater.v1.SecondaryService", replication.SERVICE)
WATCH_SECONDS = 0.25


class Secondary:
    """The parts of the service, in the order in which they start."""

    def __init__(self, service: Service, config: SecondaryConfig, data: DataDirectory) -> None:
        """Put them together; nothing runs yet."""
        self._service = service
        self._config = config
        self._endpoints = Endpoints()
        self._storage = RealStorage()
        limits = Limits(
            log_bytes=int(config.log_bytes),
            segment_bytes=int(config.segment_bytes),
            freeze_log_limit=config.freeze_log_limit / 100,
            chunk_bytes=int(config.chunk_bytes),
            copy_bytes_per_second=int(config.copy_bytes_per_second),
            messages_kept=config.messages_kept,
            messages_kept_seconds=config.messages_kept_days * 86_400,
            lease_grace=config.lease_grace,
        )
        log = logs.get("secondary")
        self._node = SecondaryNode(self._storage, data, SystemClock(), limits, log)
        tls = service.certificates
        self._nbd = Server(
            self._node.access,
            settings=Settings(
                connection_limit=config.nbd_connections,
                host_limit=config.nbd_connections_per_host,
            ),
            tls_context=None if tls is None else tls.server_context(),
        )
        self._node.server = self._nbd

    def add_parts(self) -> None:
        """Replicas recover first; at the end streams go first, then servers, replicas last."""
        service = self._service
        service.metrics.collect_with(lambda: metrics.collect(self._node))
        service.add("replicas", self._start_replicas, self._stop_replicas)
        service.add("nbd", self._start_nbd, self._stop_nbd)
        service.serve(self._register, SERVICES)
        service.add("streams", self._start_streams, self._stop_streams)

    def _register(self, server: grpc.aio.Server) -> None:
        servicer = SecondaryServicer(self._node, self._storage, self._endpoints)
        secondary_pb2_grpc.add_SecondaryServiceServicer_to_server(servicer, server)
        server.add_generic_rpc_handlers((replication.handlers(self._node),))

    async def _start_replicas(self) -> None:
        await asyncio.to_thread(self._node.open_all)
        await asyncio.to_thread(self._node.wait_recovered)
        self._service.spawn(self._watch(), "replicas-health")

    async def _watch(self) -> None:
        """Keep each replica's own health name true, and see changes that nothing else reports."""
        shown: set[str] = set()
        while True:
            names = {*self._node.groups, *self._node.broken}
            for name in names:
                group = self._node.groups.get(name)
                if group is not None:
                    group.look()
                healthy = group is not None and group.is_healthy
                await self._service.health.set_group(name, is_serving=healthy)
            for name in shown - names:
                await self._service.health.forget_group(name)
            shown = names
            await asyncio.sleep(WATCH_SECONDS)

    async def _stop_replicas(self, grace: float) -> None:
        del grace
        await asyncio.to_thread(self._node.close)

    async def _start_nbd(self) -> None:
        is_secure = self._service.certificates is not None
        host, port = split_address(self._config.nbd_listen)
        try:
            bound_host, bound_port = self._nbd.listen_tcp(
                host, port, TlsMode.REQUIRED if is_secure else TlsMode.OFF
            )
        except OSError as error:
            raise grpcserver.cannot_listen(self._config.nbd_listen) from error
        shown = f"[{bound_host}]" if ":" in bound_host else bound_host
        address = f"{shown}:{bound_port}"
        self._service.endpoints["nbd"] = address
        self._endpoints.add_tcp(address, secure=is_secure)
        path = self._config.nbd_socket
        if path is not None:
            try:
                self._nbd.listen_unix(path)
            except OSError as error:
                raise grpcserver.cannot_listen(str(path)) from error
            self._service.endpoints["nbd_socket"] = str(path)
            self._endpoints.add_unix(str(path))

    async def _stop_nbd(self, grace: float) -> None:
        await asyncio.to_thread(self._nbd.stop, max(grace / 2, 0.5))

    async def _start_streams(self) -> None:
        """Streams come by themselves; holders of leases can be heard from now on."""
        await asyncio.to_thread(self._node.listen)

    async def _stop_streams(self, grace: float) -> None:
        del grace
        await self._node.drain()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the service until it is told to end; returns the exit status."""
    config = parse_arguments(SecondaryConfig, sys.argv[1:] if arguments is None else arguments)
    held: list[DataDirectory] = []

    @contextlib.contextmanager
    def lock() -> Iterator[None]:
        data = DataDirectory.open(RealStorage(), config.data_dir, "secondary")
        held.append(data)
        try:
            yield
        finally:
            data.close()

    async def assemble(service: Service) -> None:
        Secondary(service, config, held[0]).add_parts()

    return run_service("secondary", config, assemble, lock)


if __name__ == "__main__":
    sys.exit(main())
