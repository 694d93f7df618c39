"""The pool of sender processes, seen from the primary service (D15).

Each process has a thread here that reads its control channel. A sender that dies is started again
and given its links again; what it had not made durable it finds again from group.db and the log.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Protocol

import structlog

from services.primary.sender import control
from slackwater.errors import SlackwaterError
from slackwater.log.marks import SharedMarks
from slackwater.runtime.tls import TlsFiles

RESTART_SECONDS = 0.5
END_SECONDS = 5.0
ANSWERERS = 4
"""Threads that answer a process's questions: a group whose disk hangs holds up few others."""


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
    """One sender process and the links it carries.

    What a new process is told is read and queued under one lock with what is told later, so that
    news never overtakes the specification it belongs to.
    """

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
        self._answerers = ThreadPoolExecutor(ANSWERERS, thread_name_prefix="sender-answers")
        self._start()
        self._thread = threading.Thread(target=self._serve, name="sender-control", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        """Of the running process."""
        return self._process.pid

    def _start(self) -> None:
        ours, theirs = control.pair()
        try:
            descriptors = (theirs.fileno(), self._marks.fd, self._wake)
            command = [sys.executable, "-m", "services.primary.sender"]
            for name, descriptor in zip(("control", "marks", "wake"), descriptors, strict=True):
                command += [f"--{name}", str(descriptor)]
            with _without_signals():
                self._process = subprocess.Popen(
                    command, pass_fds=descriptors, stdin=subprocess.DEVNULL
                )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._end: socket.socket = ours
        self._outbox = control.Outbox(ours)
        if self._tls is not None:
            files = {name: str(path) for name, path in vars_of(self._tls).items()}
            self._outbox.send({"do": "tls", "files": files})

    def wake(self) -> None:
        """Say that there is something new in a log."""
        if not self._stopping.is_set():
            os.eventfd_write(self._wake, 1)

    def carry(self, link: CarriedLink) -> None:
        """Let the process carry a link."""
        with self._lock:
            self.links[link.key] = link
            self._outbox.send({"do": "link", **link.specification()})

    def drop(self, key: str, stopped: Callable[[], None]) -> None:
        """Let the process stop carrying a link; `stopped` is called when it has."""
        with self._lock:
            self.links.pop(key, None)
            self._stopped[key] = stopped
            self._outbox.send({"do": "stop", "key": key})

    def tell(self, message: control.Message) -> None:
        """Tell the process something about a link.

        A process that is being started again misses it: what must not be lost is in the link's
        specification before it is told.
        """
        with self._lock:
            self._outbox.send(message)

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
                self._handle(control.decode(data), self._outbox)
            elif not self._stopping.is_set():
                self._restart()

    def _handle(self, message: control.Message, outbox: control.Outbox) -> None:
        if message.get("event") == "stopped":
            self._say_stopped(message["key"])
            return
        link = self.links.get(message["key"])
        if link is None:
            return  # it is being stopped, and waits for no answer
        if "ask" in message:
            self._answerers.submit(self._answer, link, message, outbox)
            return
        try:
            answer = link.handle(message)
        except (SlackwaterError, OSError) as error:
            # What is reported comes again: a status every half second, a verdict after each
            # Welcome until it is confirmed (D17).
            self._log.warning("report of a link not kept", link=link.key, error=str(error))
            return
        if answer is not None:
            outbox.send(answer)

    def _answer(self, link: CarriedLink, message: control.Message, outbox: control.Outbox) -> None:
        """Answer a question; the sender asks again if that failed."""
        answer: control.Message | None
        try:
            answer = link.handle(message)
        except (SlackwaterError, OSError) as error:
            self._log.warning(
                "question of a link not answered",
                link=link.key,
                what=message["what"],
                error=str(error),
            )
            answer = {"error": str(error)}
        except Exception as error:
            self._log.error("broken", link=link.key, what=message["what"], exc_info=error)
            answer = {"error": repr(error)}
        outbox.send({"answer": message["ask"], **(answer or {})})

    def _restart(self) -> None:
        self._process.kill()  # it closed its end; whatever it still does, it is of no use
        code = self._process.wait()
        self._log.error("sender ended", exit_code=code, pid=self._process.pid)
        self._stopping.wait(RESTART_SECONDS)
        with self._lock:
            if self._stopping.is_set():
                return
            self._let_go_of_channel()
            try:
                self._start()
            except OSError as error:
                self._log.error("sender not started", error=str(error))
                return  # the channel is still closed: this comes again
            self.restarts += 1
            gone = list(self._stopped)  # it held them when it died, and holds them no more
            for link in list(self.links.values()):
                self._give(link)
        for key in gone:
            self._say_stopped(key)

    def _give(self, link: CarriedLink) -> None:
        try:
            self._outbox.send({"do": "link", **link.specification()})
        except (SlackwaterError, OSError) as error:
            self._log.error("link not carried on", link=link.key, error=str(error))

    def _let_go_of_channel(self) -> None:
        if self._end.fileno() >= 0:
            with suppress(OSError):  # the other side was first
                self._end.shutdown(socket.SHUT_RDWR)
            self._outbox.close()
            self._end.close()

    def stop(self) -> None:
        """End the process."""
        self._stopping.set()
        with self._lock:
            if self._end.fileno() >= 0:
                with suppress(OSError):
                    self._end.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join(END_SECONDS)
        self._answerers.shutdown(wait=True)
        with self._lock:
            self._let_go_of_channel()
            os.close(self._wake)


@contextmanager
def _without_signals() -> Iterator[None]:
    """Let a child started in the body never see what asks for an end.

    Whoever signals the whole process group, it ends when we have drained and close its channel.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def vars_of(files: TlsFiles) -> dict[str, object]:
    """Return the fields of a frozen dataclass with slots."""
    return {name: getattr(files, name) for name in files.__dataclass_fields__}


class SenderPool:
    """The sender processes of the service; a new link goes to the one with the fewest."""

    def __init__(
        self, marks: SharedMarks, count: int, tls: TlsFiles | None, log: structlog.BoundLogger
    ) -> None:
        """Start them, before gRPC is (D15)."""
        self.processes = [SenderProcess(marks, tls, log) for _ in range(count)]

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
