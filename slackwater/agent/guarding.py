"""The agent's side of its guard: started before a hold, told how it goes, watched."""

import contextlib
import json
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import IO, cast

from slackwater.agent.kinds.kind import KindFailed
from slackwater.agent.ledger import Entry, Ledger

READY_SECONDS = 15.0
MARGIN_SECONDS = 1.0
"""The agent resumes at max_hold; the guard so much later, if the agent did not."""


class Guarding:
    """A running guard for one hold."""

    def __init__(
        self,
        ledger: Ledger,
        entry: Entry,
        seconds: float,
        lock_seconds: float,
        on_end: Callable[[], None],
    ) -> None:
        """Start it, and wait until it could resume.

        Args:
            ledger: Where the hold is recorded.
            entry: The hold.
            seconds: When it resumes unless told otherwise.
            lock_seconds: How long it waits for a resume that the agent has begun.
            on_end: Called from another thread if it ends unasked.
        """
        self._on_end = on_end
        self._is_dismissed = threading.Event()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "slackwater.agent.guard"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            bufsize=0,
        )
        order = {
            "directory": str(ledger.directory),
            "group": ledger.group,
            "application": ledger.application,
            "entry": asdict(entry),
            "seconds": seconds + MARGIN_SECONDS,
            "lock_seconds": lock_seconds,
        }
        self._say(json.dumps(order))
        self._wait_ready()
        threading.Thread(target=self._watch, name="guard", daemon=True).start()

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    def hold_for(self, seconds: float) -> None:
        """The application is held from now on, for at most so long."""
        self._say(f"held {seconds + MARGIN_SECONDS}")

    def dismiss(self) -> None:
        """The hold is over. The end of the guard is not waited for: the Primary does, for us."""
        self._is_dismissed.set()
        self._say("over")
        self._close_input()

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # it is gone: _watch notices
            cast(IO[bytes], self._process.stdin).write(line.encode() + b"\n")

    def _wait_ready(self) -> None:
        output = cast(IO[bytes], self._process.stdout)
        deadline = time.monotonic() + READY_SECONDS
        said = b""
        while not said.endswith(b"\n"):
            ready, _, _ = select.select([output], [], [], max(0.0, deadline - time.monotonic()))
            data = output.read(64) if ready else b""
            if not data:
                self._is_dismissed.set()
                self._process.kill()
                self._process.wait()
                self._close_input()
                output.close()
                raise KindFailed("the guard could not be started")
            said += data

    def _watch(self) -> None:
        self._process.wait()
        cast(IO[bytes], self._process.stdout).close()
        if not self._is_dismissed.is_set():
            self._close_input()
            self._on_end()

    def _close_input(self) -> None:
        with contextlib.suppress(OSError):
            cast(IO[bytes], self._process.stdin).close()
