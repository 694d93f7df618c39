"""The pool of sender processes, seen from the primary service (D15).

Each process has a thread here that reads its control channel. A sender that dies is started again
and given its links again; what it had not made durable it finds again from group.db and the log.
"""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Protocol

import structlog

from services.primary.sender import control
from slackwater.log.marks import SharedMarks
from slackwater.runtime.tls import TlsFiles

RESTART_SECONDS = 0.5


class CarriedLink(Protocol):
    """A link as its sender's process needs it."""

    key: str

    def specification(self) -> control.Message:
        """Return what the sender must know to carry the link."""
        ...

    def handle(self, message: control.Message) -> control.Message | None:
        """Take an event, or answer a question."""
        ...


class SenderProcess:
    """One sender process and the links it carries."""

    def __init__(
        self, marks: SharedMarks, tls: TlsFiles | None, log: structlog.BoundLogger
    ) -> None:
        """Start the process."""
        self.links: dict[str, CarriedLink] = {}
        self.restarts = 0
        self._marks = marks
        self._tls = tls
        self._log = log
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._stopped: dict[str, Callable[[], None]] = {}
        self._start()
        self._thread = threading.Thread(target=self._serve, name="sender-control", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        """Of the running process."""
        return self._process.pid

    def _start(self) -> None:
        ours, theirs = control.pair()
        descriptors = (theirs.fileno(), self._marks.fd, self._wake)
        command = [sys.executable, "-m", "services.primary.sender"]
        for name, descriptor in zip(("control", "marks", "wake"), descriptors, strict=True):
            command += [f"--{name}", str(descriptor)]
        self._process = subprocess.Popen(command, pass_fds=descriptors, stdin=subprocess.DEVNULL)
        theirs.close()
        self._end: socket.socket = ours
        self._sending = control.Sending(ours)
        if self._tls is not None:
            files = {name: str(path) for name, path in vars_of(self._tls).items()}
            self._sending.send({"do": "tls", "files": files})

    def wake(self) -> None:
        """Say that there is something new in a log."""
        os.eventfd_write(self._wake, 1)

    def carry(self, link: CarriedLink) -> None:
        """Let the process carry a link."""
        with self._lock:
            self.links[link.key] = link
            self._sending.send({"do": "link", **link.specification()})

    def drop(self, key: str, stopped: Callable[[], None]) -> None:
        """Let the process stop carrying a link; `stopped` is called when it has."""
        with self._lock:
            self.links.pop(key, None)
            self._stopped[key] = stopped
            gone = not self._sending.send({"do": "stop", "key": key})
        if gone:
            self._say_stopped(key)

    def tell(self, message: control.Message) -> None:
        """Tell the process something about a link; lost if it is being restarted."""
        self._sending.send(message)

    def _say_stopped(self, key: str) -> None:
        stopped = self._stopped.pop(key, None)
        if stopped is not None:
            stopped()

    # -- the thread ---------------------------------------------------------------------------

    def _serve(self) -> None:
        while not self._stopping.is_set():
            try:
                data = self._end.recv(control.MAX_BYTES)
            except OSError:
                data = b""
            if data:
                self._handle(control.decode(data))
            elif not self._stopping.is_set():
                self._restart()

    def _handle(self, message: control.Message) -> None:
        if message.get("event") == "stopped":
            self._say_stopped(message["key"])
            return
        link = self.links.get(message["key"])
        answer = link.handle(message) if link is not None else None
        if "ask" in message:
            # A link that is gone gets no answer: its task is being stopped.
            if answer is not None:
                self._sending.send({"answer": message["ask"], **answer})
        elif answer is not None:
            self._sending.send(answer)

    def _restart(self) -> None:
        code = self._process.wait()
        self._log.error("sender ended", exit_code=code, pid=self._process.pid)
        self._stopping.wait(RESTART_SECONDS)
        if self._stopping.is_set():
            return
        with self._lock:
            self._end.close()
            self._start()
            self.restarts += 1
            for link in self.links.values():
                self._sending.send({"do": "link", **link.specification()})
        for key in list(self._stopped):
            self._say_stopped(key)

    def stop(self) -> None:
        """End the process."""
        self._stopping.set()
        self._end.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join(5)
        self._end.close()
        os.close(self._wake)


def vars_of(files: TlsFiles) -> dict[str, object]:
    """Return the fields of a frozen dataclass with slots."""
    return {name: getattr(files, name) for name in files.__dataclass_fields__}


class SenderPool:
    """The sender processes of the service; links are spread over them by turns."""

    def __init__(
        self, marks: SharedMarks, count: int, tls: TlsFiles | None, log: structlog.BoundLogger
    ) -> None:
        """Start them, before gRPC is (D15)."""
        self.processes = [SenderProcess(marks, tls, log) for _ in range(count)]
        self._next = 0

    def choose(self) -> SenderProcess:
        """Return the process that carries the fewest links."""
        return min(self.processes, key=lambda process: len(process.links))

    def wake(self) -> None:
        """Say that there is something new in a log."""
        for process in self.processes:
            process.wake()

    def stop(self) -> None:
        """End all processes."""
        for process in self.processes:
            process.stop()
