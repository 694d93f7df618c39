"""A program that is run to its end, or to the end of patience: no shell, bounded output, one group.

The program gets a session of its own. When it takes too long or fails, its whole process group gets
SIGTERM and then SIGKILL. What it leaves in the background when it succeeds stays, as a quiesce that
holds a database's lock in a client needs it; such a process must not keep writing to the output.

A program may outlive the agent that ran it. Whoever resumes in the agent's place ends it first
(`end_unfinished`), so that no quiesce comes to its end after the resume.
"""

import contextlib
import os
import selectors
import signal
import stat
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from slackwater.agent.kinds.kind import KindFailed, Patience
from slackwater.runtime.trust import distrust

OUTPUT_BYTES = 64 << 10
POLL_SECONDS = 0.05
TERM_SECONDS = 2.0
_CHUNK = 64 << 10
_DRAIN_CHUNKS = 16


@dataclass(frozen=True, slots=True)
class Program:
    """What is run, and how."""

    path: str
    arguments: Sequence[str]
    environment: Mapping[str, str]

    def check(self) -> None:
        """Raise KindFailed unless it can be run and nobody else can change it."""
        path = Path(self.path)
        if not path.is_absolute():
            raise KindFailed(f"{self.path} is not an absolute path")
        try:
            real = path.resolve(strict=True)
            mode = real.stat().st_mode
            for part in (real, real.parent):
                if problem := distrust(part):
                    raise KindFailed(f"{part} {problem}")
        except OSError as error:
            raise KindFailed(f"{path} cannot be used: {error.strerror}") from error
        if not stat.S_ISREG(mode):
            raise KindFailed(f"{path} is not a file")
        if not os.access(real, os.X_OK):
            raise KindFailed(f"{path} is not executable; chmod +x makes it so")

    def run(self, patience: Patience) -> str:
        """Run it to its end and return what it printed.

        Raises:
            KindFailed: It could not be started, did not end in time, or did not end with 0.
        """
        self.check()
        try:
            process = subprocess.Popen(
                [self.path, *self.arguments],
                cwd=Path(self.path).parent,
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise KindFailed(f"{self.path} cannot be started: {error.strerror}") from error
        with cast(IO[bytes], process.stdout) as pipe:
            return _attend(process, pipe, self.path, patience)


class Output:
    """The head and the tail of what a program printed."""

    def __init__(self, limit: int = OUTPUT_BYTES) -> None:
        self._half = limit // 2
        self._head = b""
        self._tail = b""
        self._left_out = 0

    def add(self, data: bytes) -> None:
        """Keep what there is room for."""
        room = self._half - len(self._head)
        self._head += data[:room]
        self._tail += data[room:] if room < len(data) else b""
        surplus = len(self._tail) - self._half
        if surplus > 0:
            self._left_out += surplus
            self._tail = self._tail[surplus:]

    @property
    def text(self) -> str:
        """As text; bytes that are none are replaced."""
        head, tail = (part.decode(errors="replace") for part in (self._head, self._tail))
        middle = f"\n... {self._left_out} bytes left out ...\n" if self._left_out else ""
        return (head + middle + tail).strip().replace("\x00", "\N{REPLACEMENT CHARACTER}")


def end_unfinished(path: str, name: str, value: str) -> int:
    """End a program that still runs, by its path and one variable of its environment.

    All that has the variable goes with it. A program that has ended left what it wanted to leave:
    then nothing is touched.

    Returns:
        How many processes were ended.
    """
    marked = [pid for pid in _pids() if f"{name}={value}".encode() in _words(pid, "environ")]
    if not any(_leads(pid) and path.encode() in _words(pid, "cmdline") for pid in marked):
        return 0
    for pid in marked:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    return len(marked)


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def _words(pid: int, what: str) -> list[bytes]:
    """Return its arguments or its environment; nothing of what is gone or somebody else's."""
    try:
        return Path(f"/proc/{pid}/{what}").read_bytes().split(b"\0")
    except OSError:
        return []


def _leads(pid: int) -> bool:
    """Whether it leads a session: a program that is run here does."""
    try:
        return os.getsid(pid) == pid
    except OSError:
        return False


def _attend(
    process: subprocess.Popen[bytes], pipe: IO[bytes], path: str, patience: Patience
) -> str:
    output = Output()
    os.set_blocking(pipe.fileno(), False)
    ended = os.pidfd_open(process.pid)
    try:
        in_time = _follow(ended, pipe, output, patience)
        # Not reaped yet, so its number is still the group's and nobody else's.
        status = os.waitid(os.P_PIDFD, ended, os.WEXITED | os.WNOWAIT) if in_time else None
        if status is None or status.si_status != 0:
            _end_group(process, ended)
    finally:
        os.close(ended)
    code = process.wait()
    said = f"; it printed: {output.text}" if output.text else ""
    if status is None:
        raise KindFailed(f"{path} did not end within {patience.seconds:g} s and was ended{said}")
    if code < 0:
        raise KindFailed(f"{path} was ended by {_signal_name(-code)}{said}")
    if code:
        raise KindFailed(f"{path} ended with {code}{said}")
    return output.text


def _follow(ended: int, pipe: IO[bytes], output: Output, patience: Patience) -> bool:
    """Read what it prints until it ends; False if patience is over first."""
    with selectors.DefaultSelector() as selector:
        selector.register(ended, selectors.EVENT_READ)
        selector.register(pipe, selectors.EVENT_READ)
        while not patience.is_over:
            ready = [key.fileobj for key, _ in selector.select(POLL_SECONDS)]
            if pipe in ready and not _read(pipe, output):
                selector.unregister(pipe)
            if ended in ready:
                for _ in range(_DRAIN_CHUNKS):  # bounded: a child of its may still print
                    if not _read(pipe, output):
                        break
                return True
    return False


def _read(pipe: IO[bytes], output: Output) -> bool:
    """Take what is there; False if there is nothing (more)."""
    try:
        data = os.read(pipe.fileno(), _CHUNK)
    except BlockingIOError:
        return False
    output.add(data)
    return bool(data)


def _end_group(process: subprocess.Popen[bytes], ended: int) -> None:
    """End all that is left of its group; the program itself is not reaped before that."""
    deadline = time.monotonic() + TERM_SECONDS
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with selectors.DefaultSelector() as selector:
            selector.register(ended, selectors.EVENT_READ)
            selector.select(max(0.0, deadline - time.monotonic()))
        os.killpg(process.pid, signal.SIGKILL)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
