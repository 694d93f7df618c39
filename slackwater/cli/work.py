"""A command that is run for somebody: in a session of its own, its end put into a queue."""

import contextlib
import os
import queue
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slackwater.cli.failure import Failure

EXIT_NOT_EXECUTABLE = 126
EXIT_NO_COMMAND = 127
EXIT_SIGNALLED = 128
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Signalled:
    """This process got a signal."""

    number: int


@dataclass(frozen=True)
class Exited:
    """The command ended; `status` as a shell has it, 128+n for signal n."""

    status: int


class Work:
    """The running command."""

    def __init__(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        events: "queue.SimpleQueue[Any]",
    ) -> None:
        """Start it, without a shell; its input is empty, its output is ours."""
        try:
            self._process = subprocess.Popen(
                argv,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                # A Ctrl-C is for us, to be passed on once; and nobody can be asked at a terminal
                # while a replica stands still.
                start_new_session=True,
            )
        except OSError as error:
            raise _not_run(argv[0], error) from error
        self._events = events
        threading.Thread(target=self._wait, name="work", daemon=True).start()

    def forward(self, number: int) -> None:
        """Pass a signal on to the command and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _wait(self) -> None:
        code = self._process.wait()
        self._events.put(Exited(code if code >= 0 else EXIT_SIGNALLED - code))


def check(name: str) -> None:
    """Refuse a command that could not be started, before anything is done for it."""
    if shutil.which(name) is not None:
        return
    if os.sep in name and Path(name).exists():
        raise _not_run(name, PermissionError())
    raise _not_run(name, FileNotFoundError())


def _not_run(name: str, error: OSError) -> Failure:
    if isinstance(error, FileNotFoundError):
        return Failure(
            f"there is no command {name!r}",
            EXIT_NO_COMMAND,
            "NOT_FOUND",
            "NO_COMMAND",
            next_step="give its path, or put it on the PATH",
        )
    return Failure(
        f"cannot run {name!r}: {error.strerror or 'not an executable file'}",
        EXIT_NOT_EXECUTABLE,
        "FAILED_PRECONDITION",
        "NOT_EXECUTABLE",
        next_step=f"chmod +x {name}",
    )


@contextlib.contextmanager
def signals_into(events: "queue.SimpleQueue[Any]") -> Iterator[None]:
    """While the body runs, signals that would end this process are events instead."""

    def handle(number: int, frame: object) -> None:
        del frame
        events.put(Signalled(number))

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
