"""A service from start to end: what starts in which order, and how it drains.

Health and metrics come first and go last, so a service that recovers or drains can be watched.
Parts start in the order in which they were added and stop in the reverse order. SIGTERM and SIGINT
drain: readiness goes, each part stops within what is left of the grace, the process exits 0. A part
that breaks ends the process with status 1: its supervisor starts it anew, recovery does the rest.
"""

import asyncio
import contextlib
import ctypes
import json
import logging
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from slackwater.errors import DeadlineExceeded, SlackwaterError
from slackwater.runtime import grpcserver, logs
from slackwater.runtime.config import BaseServiceConfig, split_address
from slackwater.runtime.health import Health
from slackwater.runtime.metrics import Metrics
from slackwater.runtime.tls import CertificateStore

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
"""What configuration that cannot be used ends with; `config.parse_arguments` exits so."""

_log = logs.get("lifecycle")

Start = Callable[[], Awaitable[None]]
Stop = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Part:
    name: str
    start: Start
    stop: Stop


@dataclass
class Service:
    """What a service is put together from; handed to its `assemble` function.

    Attributes:
        name: The service, as metrics and logs call it.
        config: Its settings.
        health: What it says of itself.
        metrics: What it counts.
        certificates: Its TLS files, or None for plaintext.
        endpoints: Addresses by name, for the endpoints file; parts add theirs while they start.
    """

    name: str
    config: BaseServiceConfig
    health: Health
    metrics: Metrics
    certificates: CertificateStore | None
    endpoints: dict[str, str] = field(default_factory=dict)
    _parts: list[_Part] = field(default_factory=list)
    _running: list[_Part] = field(default_factory=list)
    _tasks: asyncio.TaskGroup | None = None
    _spawned: set[asyncio.Task[None]] = field(default_factory=set)
    _end: asyncio.Event = field(default_factory=asyncio.Event)
    _watchdog: threading.Timer | None = None

    def add(self, name: str, start: Start, stop: Stop) -> None:
        """Add a part. `stop` gets the seconds that are left, and is called only if it started."""
        self._parts.append(_Part(name, start, stop))

    def serve(self, register: grpcserver.Register, service_names: Sequence[str]) -> None:
        """Add the gRPC server as a part: `register` puts the servicers on it."""
        server = grpcserver.make_server(
            self.metrics, self.health, service_names, self.config.limits
        )
        register(server)

        async def start() -> None:
            self.endpoints["grpc"] = grpcserver.bind(server, self.config.listen, self.certificates)
            await server.start()

        async def stop(grace: float) -> None:
            await server.stop(grace)

        self.add("grpc", start, stop)

    def spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        """Run a task until the parts have stopped; if it breaks, the service ends."""
        assert self._tasks is not None, "tasks belong to a running service"
        task = self._tasks.create_task(coroutine, name=name)
        self._spawned.add(task)
        task.add_done_callback(self._spawned.discard)

    def request_end(self) -> None:
        """Drain and end, as SIGTERM does. Belongs to the event loop's thread."""
        self._end.set()

    async def run(self) -> None:
        """Start the parts, be ready, wait for the end, drain."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                starting = tasks.create_task(self._start_parts(), name="start")
                tasks.create_task(self._drain_at_end(starting), name="end")
        finally:
            # After a failure as well: what runs is stopped in order, then the error ends it all.
            await self._stop_parts(self.config.grace_seconds)
            if self._watchdog is not None:
                self._watchdog.cancel()

    async def _start_parts(self) -> None:
        for part in self._parts:
            _log.debug("starting", part=part.name)
            await part.start()
            self._running.append(part)
        _write_endpoints(self.config.endpoints_file, self.endpoints)
        await self.health.become_ready()
        _log.info("ready", service=self.name, **self.endpoints)

    async def _drain_at_end(self, starting: asyncio.Task[None]) -> None:
        """Wait for the end, stop the parts, then every task that still runs."""
        await self._end.wait()
        _log.info("draining", service=self.name)
        self._arm_watchdog()
        starting.cancel()
        await asyncio.wait([starting])
        await self.health.become_draining()
        await self._stop_parts(self.config.grace_seconds)
        for task in self._spawned:
            task.cancel()

    async def _stop_parts(self, grace: float) -> None:
        """Stop what runs, newest first; a part that takes too long is an error."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace
        while self._running:
            part = self._running.pop()
            _log.debug("stopping", part=part.name)
            try:
                async with asyncio.timeout_at(deadline):
                    await part.stop(max(0.0, deadline - loop.time()))
            except TimeoutError:
                self._running.clear()
                raise DeadlineExceeded(f"stopping {part.name}", grace) from None

    def _arm_watchdog(self) -> None:
        """Make sure that the end comes even if a thread hangs the event loop.

        Everything answered is durable, so a hard end loses nothing that was promised.
        """
        self._watchdog = threading.Timer(self.config.grace_seconds + 2.0, os._exit, (EXIT_FAILED,))
        self._watchdog.daemon = True
        self._watchdog.start()


Assemble = Callable[[Service], Awaitable[None]]
Lock = Callable[[], AbstractContextManager[object]]


def run_service(name: str, config: BaseServiceConfig, assemble: Assemble, lock: Lock) -> int:
    """Run a service in this process until it is told to end; returns the exit status.

    Args:
        name: The service, for example "primary".
        config: Its settings.
        assemble: Adds the parts; runs in the event loop, before any of them starts.
        lock: Takes what only one process may hold, such as the data directory, and raises
            SlackwaterError when another has it.
    """
    tune_malloc()
    logs.configure(config.log_level, config.log_format)
    try:
        with lock(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_main(name, config, assemble))
    except Exception as error:
        _report(name, error)
        return EXIT_FAILED
    _log.info("ended", service=name)
    return EXIT_OK


async def _main(name: str, config: BaseServiceConfig, assemble: Assemble) -> None:
    """Health and metrics around the service, signals into it."""
    certificates = None if config.tls is None else CertificateStore(config.tls)
    service = Service(name, config, Health(), Metrics(name), certificates)
    if certificates is not None:
        service.metrics.certificate_expiry.set_function(certificates.expires)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, service.request_end)
    async with contextlib.AsyncExitStack() as stack:
        await service.health.start()
        health_server = grpcserver.make_health_server(service.health)
        service.endpoints["health"] = grpcserver.bind(health_server, config.health_listen)
        await health_server.start()
        stack.push_async_callback(health_server.stop, 0)
        service.endpoints["metrics"] = _start_metrics(service.metrics, config.metrics_listen)
        stack.callback(service.metrics.stop)
        await assemble(service)
        await service.run()


def _start_metrics(metrics: Metrics, address: str) -> str:
    host, port = split_address(address)
    try:
        return f"{address.rpartition(':')[0]}:{metrics.start(host, port)}"
    except OSError as error:
        raise grpcserver.cannot_listen(address) from error


def _write_endpoints(path: Path | None, endpoints: dict[str, str]) -> None:
    """Write the bound addresses in one step, so that who waits for the file reads it whole."""
    if path is None:
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps({**endpoints, "pid": os.getpid()}) + "\n")
    draft.replace(path)


def _report(name: str, error: Exception) -> None:
    """Log why a service ended: our own errors in a line each, a bug with its trace."""
    leaves = _leaves(error)
    if not all(isinstance(leaf, SlackwaterError) for leaf in leaves):
        _log.error("broken", service=name, exc_info=error)
        return
    for leaf in leaves:
        reason = getattr(leaf, "reason", "")
        _log.error("failed", service=name, reason=reason, error=str(leaf))


def _leaves(error: BaseException) -> list[BaseException]:
    """The errors themselves, out of the groups that task groups raise."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for inner in error.exceptions for leaf in _leaves(inner)]


_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def tune_malloc() -> None:
    """Keep glibc from mapping and unmapping memory for every large message.

    By default each bytes object of 128 KiB or more is mapped, faulted in page by page and unmapped;
    that halves the rate of gRPC messages of 256 KiB and more. Where the allocator is another, this
    does nothing.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        logging.getLogger(__name__).debug("this allocator has no mallopt")
        return
    # Large enough for a few messages, small enough for the bound on a service's memory.
    mallopt(_M_MMAP_THRESHOLD, 32 << 20)
    mallopt(_M_TRIM_THRESHOLD, 64 << 20)
    mallopt(_M_TOP_PAD, 4 << 20)
