"""`python -m services.primary`, also installed as `slackwater-primary`."""

import asyncio
import contextlib
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import grpc

from services.primary import metrics
from services.primary.node import GROUPS_LIMIT, LINKS_LIMIT, PrimaryNode
from services.primary.senders import SenderPool
from services.primary.servicer import PrimaryServicer
from slackwater.clock import SystemClock
from slackwater.group.directory import DataDirectory
from slackwater.log.marks import SharedMarks
from slackwater.nbd.handshake import TlsMode
from slackwater.nbd.server import Server
from slackwater.nbd.stream import Settings
from slackwater.runtime import logs
from slackwater.runtime.config import PrimaryConfig, parse_arguments, split_address
from slackwater.runtime.lifecycle import Service, run_service
from slackwater.storage.real import RealStorage
from slackwater.v1 import primary_pb2_grpc

CALL_THREADS = 32
SERVICE = "slackwater.v1.PrimaryService"


class Primary:
    """The parts of the service, in the order in which they start."""

    def __init__(self, service: Service, config: PrimaryConfig, data: DataDirectory) -> None:
        """Put them together; nothing runs yet."""
        self._service = service
        self._config = config
        log = logs.get("primary")
        # Before gRPC: a child must not inherit its threads' locks or descriptors (D15).
        self._marks = SharedMarks.create(GROUPS_LIMIT, LINKS_LIMIT)
        self._senders = SenderPool(self._marks, config.sender_processes, config.tls, log)
        self._node = PrimaryNode(
            RealStorage(),
            data,
            self._senders,
            self._marks,
            SystemClock(),
            int(config.window_bytes),
            log,
            writeback_tcp=config.nbd_writeback_tcp,
            messages_kept=config.messages_kept,
            messages_kept_seconds=config.messages_kept_days * 86_400,
            agent_grace_seconds=config.agent_grace_seconds,
            certificates=service.certificates,
        )
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
        """Groups recover first; then they are served; the senders outlive the servers."""
        service = self._service
        service.metrics.collect_with(lambda: metrics.collect(self._node))
        service.add("groups", self._start_groups, self._stop_groups)
        service.serve(self._register, [SERVICE])
        service.add("nbd", self._start_nbd, self._stop_nbd)
        # Stopped first: sessions have no end of their own, and a round that runs is seen through.
        service.add("agents", self._start_agents, self._stop_agents)

    def _register(self, server: grpc.aio.Server) -> None:
        servicer = PrimaryServicer(self._node, self._config)
        primary_pb2_grpc.add_PrimaryServiceServicer_to_server(servicer, server)

    async def _start_groups(self) -> None:
        await asyncio.to_thread(self._node.open_all)
        self._service.spawn(self._watch_groups(), "groups-health")

    async def _watch_groups(self) -> None:
        """Keep each group's own health name true."""
        shown: set[str] = set()
        while True:
            names = {*self._node.groups, *self._node.broken}
            for name in names:
                group = self._node.groups.get(name)
                healthy = group is not None and not group.trouble
                await self._service.health.set_group(name, is_serving=healthy)
            for name in shown - names:
                await self._service.health.forget_group(name)
            shown = names
            await asyncio.sleep(0.5)

    async def _stop_groups(self, grace: float) -> None:
        del grace
        await asyncio.to_thread(self._senders.stop)
        await asyncio.to_thread(self._node.close)

    async def _start_agents(self) -> None:
        """They come by themselves."""

    async def _stop_agents(self, grace: float) -> None:
        await self._node.end_agents(grace / 2)

    async def _start_nbd(self) -> None:
        mode = TlsMode.OFF if self._service.certificates is None else TlsMode.REQUIRED
        host, port = split_address(self._config.nbd_listen)
        bound_host, bound_port = self._nbd.listen_tcp(host, port, mode)
        self._service.endpoints["nbd"] = f"{bound_host}:{bound_port}"
        if self._config.nbd_socket is not None:
            self._nbd.listen_unix(self._config.nbd_socket)
            self._service.endpoints["nbd_socket"] = str(self._config.nbd_socket)

    async def _stop_nbd(self, grace: float) -> None:
        await asyncio.to_thread(self._nbd.stop, max(grace / 2, 0.5))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the service until it is told to end; returns the exit status."""
    config = parse_arguments(PrimaryConfig, sys.argv[1:] if arguments is None else arguments)
    held: list[DataDirectory] = []

    @contextlib.contextmanager
    def lock() -> Iterator[None]:
        data = DataDirectory.open(RealStorage(), config.data_dir, "primary")
        held.append(data)
        try:
            yield
        finally:
            data.close()

    async def assemble(service: Service) -> None:
        # Writers that wait for the log must not keep status and administration from a thread.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(CALL_THREADS))
        Primary(service, config, held[0]).add_parts()

    return run_service("primary", config, assemble, lock)


if __name__ == "__main__":
    sys.exit(main())
