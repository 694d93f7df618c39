"""`python -m slackwater.agent.guard`: resumes an application when its agent cannot.

A process of its own, in a session of its own, for one hold. Its first line of input says what to
resume and by when; it answers `ready` once it could. `held <seconds>` sets the deadline anew,
`over` ends it. It resumes when the input closes, since then the agent is gone, or at the deadline,
since then the agent hangs, and says so in the record. Signals that end others do not end it: who
stops a service stops the agent, and with it the reason for a guard.
"""

import contextlib
import json
import os
import select
import signal
import sys
import time
from pathlib import Path

from slackwater.agent import undo
from slackwater.agent.kinds.kind import KindFailed
from slackwater.agent.ledger import Entry, Ledger
from slackwater.errors import SlackwaterError

TRIES = 8
RETRY_SECONDS = 0.5
EXIT_RESUMED = 3
EXIT_FAILED = 1


class Guard:
    """The guard's side of the pipe."""

    def __init__(self, order: dict[str, object]) -> None:
        """Get ready, while paths can still be looked up."""
        self._entry = Entry(**order["entry"])  # type: ignore[arg-type]  # our agent's own words
        self._undoing = undo.prepare(self._entry.undo)
        self._ledger = Ledger(
            Path(str(order["directory"])), str(order["group"]), str(order["application"])
        )
        self._lock_seconds = float(str(order["lock_seconds"]))
        self._deadline = time.monotonic() + float(str(order["seconds"]))

    def watch(self, descriptor: int) -> str:
        """Wait until the hold is over, "", or until there is a reason to resume."""
        pending = b""
        while True:
            left = self._deadline - time.monotonic()
            if left <= 0:
                return "the agent did not resume in time"
            ready, _, _ = select.select([descriptor], [], [], left)
            if not ready:
                continue
            data = os.read(descriptor, 4096)
            if not data:
                return "the agent is gone"
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                word, _, seconds = line.decode().partition(" ")
                if word == "over":
                    return ""
                self._deadline = time.monotonic() + float(seconds)

    def resume(self, why: str) -> bool:
        """Resume unless somebody did; False if it could not be done."""
        with self._ledger.acting(self._lock_seconds):
            if not self._is_held():
                return True
            for number in range(TRIES):
                try:
                    done = self._undoing.run()
                except KindFailed as failure:
                    _say("error", "not resumed", hold=self._entry.hold_id, problem=str(failure))
                    time.sleep(RETRY_SECONDS * 2**number)
                    continue
                self._note(why)
                _say("warning", "resumed", hold=self._entry.hold_id, why=why, done=done)
                return True
        return False

    def _is_held(self) -> bool:
        """Whether the record still says so; without a readable record: yes."""
        try:
            entry = self._ledger.read()
        except (OSError, SlackwaterError):
            return True
        return entry is not None and entry.hold_id == self._entry.hold_id and not entry.resumed_by

    def _note(self, why: str) -> None:
        with contextlib.suppress(OSError):  # the application goes on; the next agent looks again
            self._ledger.write(Entry(self._entry.hold_id, self._entry.undo, "guard", why))


def _say(level: str, event: str, **about: str) -> None:
    """One line of log; nobody may be there to read it."""
    with contextlib.suppress(OSError):
        line = {"level": level, "event": event, "component": "agent-guard", **about}
        os.write(sys.stderr.fileno(), json.dumps(line).encode() + b"\n")


def main() -> int:
    """Guard one hold."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    line = _first_line(0)
    if not line:
        return 0
    guard = Guard(json.loads(line))
    os.write(1, b"ready\n")
    why = guard.watch(0)
    if not why:
        return 0
    return EXIT_RESUMED if guard.resume(why) else EXIT_FAILED


def _first_line(descriptor: int) -> bytes:
    """Read the order byte by byte, so that nothing behind it is taken; b"" at the end."""
    line = b""
    while not line.endswith(b"\n"):
        data = os.read(descriptor, 1)
        if not data:
            return b""
        line += data
    return line


if __name__ == "__main__":
    sys.exit(main())
