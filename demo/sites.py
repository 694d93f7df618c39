"""Services as processes of their own: start, wait for readiness, kill, start again.

The demo, the benchmark and the end-to-end tests all run the real `python -m services.<role>` and
know a service only by its command line, its endpoints file and its health port.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

import grpc
from grpc_health.v1 import health_pb2

from demo import usage

REPOSITORY = Path(__file__).resolve().parent.parent
START_SECONDS = 40.0
STOP_SECONDS = 25.0


class ServiceError(Exception):
    """A service did not start, did not get ready or did not end as it should."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where a service can be reached, from its endpoints file."""

    grpc: str
    health: str
    metrics: str
    nbd: str = ""
    nbd_socket: str = ""
    pid: int = 0

    @classmethod
    def read(cls, path: Path) -> "Endpoints":
        """Read the file that `--endpoints-file` names."""
        known = {field.name for field in fields(cls)}
        rows = json.loads(path.read_text())
        return cls(**{key: value for key, value in rows.items() if key in known and value})

    def nbd_uri(self, export: str, *, tcp: bool = False) -> str:
        """The NBD URI of an export, over the unix socket if there is one."""
        if self.nbd_socket and not tcp:
            return f"nbd+unix:///{export}?socket={self.nbd_socket}"
        return f"nbd://{self.nbd}/{export}"


class Service:
    """One service process on one data directory, started as often as wanted."""

    def __init__(
        self,
        role: str,
        data_dir: Path,
        runtime_dir: Path,
        *,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Plan a service; `runtime_dir` takes its log, endpoints file and NBD socket."""
        self.role = role
        self.data_dir = data_dir
        self.log_path = runtime_dir / f"{role}.log"
        self.arguments = list(arguments)
        self._environment = dict(environment or {})
        self._endpoints_path = runtime_dir / f"{role}.endpoints.json"
        self._socket = runtime_dir / f"{role}.nbd"
        self._process: subprocess.Popen[bytes] | None = None
        self._endpoints: Endpoints | None = None

    @property
    def endpoints(self) -> Endpoints:
        """Where it listens, or listened last."""
        if self._endpoints is None:
            raise ServiceError(f"{self.role} was never started")
        return self._endpoints

    @property
    def pid(self) -> int:
        """The main process."""
        if self._process is None:
            raise ServiceError(f"{self.role} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """True while the main process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self, *, same_ports: bool = False, wait: bool = True) -> "Service":
        """Start it and, unless told otherwise, wait until it is ready."""
        if self.running:
            raise ServiceError(f"{self.role} is running already")
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._endpoints_path.unlink(missing_ok=True)
        ports = self._port_arguments(self._endpoints if same_ports else None)
        command = [sys.executable, "-m", f"services.{self.role}", "--data-dir", str(self.data_dir)]
        command += ["--endpoints-file", str(self._endpoints_path), *ports, *self.arguments]
        if shutil.which("setpriv"):  # it must not outlive whoever started it
            command = ["setpriv", "--pdeathsig", "KILL", *command]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env={**os.environ, **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, timeout_seconds: float = START_SECONDS) -> None:
        """Wait until the health port says that the service is ready."""
        deadline = time.monotonic() + timeout_seconds
        while not self._endpoints_path.exists():
            self._refuse_if_ended()
            if time.monotonic() > deadline:
                raise ServiceError(f"{self.role} wrote no endpoints file\n{self.log_tail()}")
            time.sleep(0.02)
        self._endpoints = Endpoints.read(self._endpoints_path)
        while self.health("readiness") != "SERVING":
            self._refuse_if_ended()
            if time.monotonic() > deadline:
                raise ServiceError(f"{self.role} did not get ready\n{self.log_tail()}")
            time.sleep(0.02)

    def health(self, name: str) -> str:
        """What the health port answers for one name; a status code's name if it is an error."""
        with grpc.insecure_channel(self.endpoints.health) as channel:
            ask = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            try:
                answer = ask(health_pb2.HealthCheckRequest(service=name), timeout=5.0)
            except grpc.RpcError as error:
                return str(error.code().name)
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

    def kill(self) -> None:
        """SIGKILL the main process and wait for it; what it started ends by itself."""
        if self._process is not None:
            children = [pid for pid in usage.tree(self.pid) if pid != self.pid]
            self._process.kill()
            self._process.wait()
            _wait_gone(children)
            self._process = None

    def stop(self, timeout_seconds: float = STOP_SECONDS) -> int:
        """SIGTERM and wait for the drain; the exit code."""
        if self._process is None:
            return 0
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServiceError(
                f"{self.role} did not end in {timeout_seconds:.0f} s\n{self.log_tail()}"
            ) from None
        self._process = None
        return code

    def restart(self, *, kill: bool = False) -> "Service":
        """End it, by SIGKILL if `kill`, and start it again on the same ports."""
        if kill:
            self.kill()
        else:
            self.stop()
        return self.start(same_ports=True)

    def anonymous_bytes(self) -> int:
        """Anonymous memory of all its processes; 0 while it is down."""
        return usage.anonymous_bytes(self.pid) if self.running else 0

    def cpu_seconds(self) -> float:
        """CPU time of all its processes that live; 0 while it is down."""
        return usage.cpu_seconds(self.pid) if self.running else 0.0

    def children(self, words: str = "") -> list[int]:
        """Processes it started whose command line holds `words`."""
        return [
            pid
            for pid in usage.tree(self.pid)
            if pid != self.pid and words in usage.command_line(pid)
        ]

    def log_tail(self, lines: int = 25) -> str:
        """The end of what it has logged."""
        try:
            text = self.log_path.read_text(errors="replace")
        except OSError:
            return ""
        return "\n".join([f"--- end of {self.log_path}", *text.splitlines()[-lines:]])

    def _refuse_if_ended(self) -> None:
        assert self._process is not None
        if self._process.poll() is not None:
            code, self._process = self._process.returncode, None
            raise ServiceError(f"{self.role} ended with {code} at its start\n{self.log_tail()}")

    def _port_arguments(self, known: Endpoints | None) -> list[str]:
        host = "127.0.0.1:0"
        rows = {
            "--listen": known.grpc if known else host,
            "--health-listen": known.health if known else host,
            "--metrics-listen": known.metrics if known else host,
        }
        if self.role != "snapshot":
            rows["--nbd-listen"] = known.nbd if known else host
            rows["--nbd-socket"] = str(self._socket)
        return [word for row in rows.items() for word in row]


class Sites:
    """A Primary, a Secondary and the snapshot service, each on its own data directory."""

    def __init__(
        self,
        directory: Path,
        *,
        arguments: Mapping[str, Sequence[str]] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Plan the three services under one directory; `arguments` go to one role each."""
        extra = arguments or {}
        runtime = directory / "run"
        runtime.mkdir(parents=True, exist_ok=True)

        def plan(role: str) -> Service:
            return Service(
                role,
                directory / role,
                runtime,
                arguments=extra.get(role, ()),
                environment=environment,
            )

        self.directory = directory
        self.primary = plan("primary")
        self.secondary = plan("secondary")
        self.snapshot = plan("snapshot")

    @property
    def services(self) -> tuple[Service, Service, Service]:
        """All three."""
        return (self.primary, self.secondary, self.snapshot)

    def start(self, *, snapshot: bool = True) -> Self:
        """Start all, side by side where they do not need each other's address."""
        self.primary.start(wait=False)
        self.secondary.start(wait=False)
        self.primary.wait_ready()
        self.secondary.wait_ready()
        if snapshot:
            self.start_snapshot()
        return self

    def start_snapshot(self) -> None:
        """Start the snapshot service against the other two."""
        self.snapshot.arguments += ["--primary", self.primary.endpoints.grpc]
        self.snapshot.arguments += ["--secondary", self.secondary.endpoints.grpc]
        self.snapshot.start()

    def kill(self) -> None:
        """SIGKILL whatever still runs."""
        for service in self.services:
            service.kill()

    def stop(self) -> dict[str, int]:
        """SIGTERM whatever still runs, in the order clients need; exit codes by role."""
        running = [service for service in reversed(self.services) if service.running]
        return {service.role: service.stop() for service in running}

    def __enter__(self) -> Self:
        """For `with`; does not start anything."""
        return self

    def __exit__(self, *about: object) -> None:
        """Kill what is left."""
        self.kill()


def _wait_gone(pids: Sequence[int], timeout_seconds: float = 10.0) -> None:
    """Wait until what a killed service had started has ended by itself (D15)."""
    deadline = time.monotonic() + timeout_seconds
    for pid in pids:
        while Path(f"/proc/{pid}").exists() and not _is_zombie(pid):
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                raise ServiceError(f"process {pid} outlived the service that started it")
            time.sleep(0.01)


def _is_zombie(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"
