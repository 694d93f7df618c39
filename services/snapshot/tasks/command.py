"""Programs run for a step: without a shell, in a fixed environment, bounded in every way.

Each runs under a warden of its own (`warden`), which ends the program and all it started when its
time is over, when the step is cancelled, or when this service dies.
"""

import asyncio
import json
import os
import pwd
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.snapshot.tasks import warden
from slackwater.errors import FailedPrecondition, InvalidRequest

OUTPUT_LIMIT_BYTES = 64 << 10
GRACE_SECONDS = 5.0
"""From SIGTERM to SIGKILL."""

END_SECONDS = 2 * GRACE_SECONDS + warden.KILL_SECONDS
"""A warden that takes longer than this after the time-out is itself ended."""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
UNPRIVILEGED = "nobody"
_TAIL_NOTE_BYTES = 100


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom programs run as.

    Attributes:
        user: The name, for people.
        numbers: What the warden needs to become that user; empty: nothing.
        uid: The user's number.
        gid: Its group's.
    """

    user: str
    numbers: Mapping[str, object]
    uid: int
    gid: int


def identity(user: str | None) -> Identity:
    """Return whom programs run as: the service's own user, but never root unasked.

    Raises:
        InvalidRequest: there is no such user, or this service cannot become it.
    """
    ours = os.geteuid()
    if user is None and ours != 0:
        return Identity(str(ours), {}, ours, os.getegid())
    try:
        row = pwd.getpwnam(user or UNPRIVILEGED)
    except KeyError:
        raise InvalidRequest(
            "command_user", f"there is no user {user or UNPRIVILEGED!r}", "Name one that there is"
        ) from None
    if row.pw_uid == ours:
        return Identity(row.pw_name, {}, ours, os.getegid())
    if ours != 0:
        raise InvalidRequest(
            "command_user",
            f"this service runs as user {ours} and cannot become {row.pw_name}",
            "Leave it out, or start the service as that user",
        )
    numbers = {"user": row.pw_uid, "group": row.pw_gid, "extra_groups": []}
    return Identity(row.pw_name, numbers, row.pw_uid, row.pw_gid)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended.

    Attributes:
        status: Exit status; 128 and the signal's number if a signal ended it.
        timed_out: Its time was over.
        output: What it printed, capped.
    """

    status: int
    timed_out: bool
    output: str

    def check(self, what: str, seconds: float) -> None:
        """Raise FailedPrecondition if it did not succeed."""
        if self.timed_out:
            raise FailedPrecondition(
                "COMMAND_TIMED_OUT", f"{what} took longer than {seconds:g} s and was ended"
            )
        if self.status > 128:
            raise FailedPrecondition(
                "COMMAND_KILLED", f"{what} was ended by signal {self.status - 128}"
            )
        if self.status:
            raise FailedPrecondition("COMMAND_FAILED", f"{what} ended with status {self.status}")


class Output:
    """The head and the tail of what was printed."""

    def __init__(self, limit_bytes: int) -> None:
        """Keep at most so many bytes."""
        self._half = (limit_bytes - _TAIL_NOTE_BYTES) // 2
        self._head = bytearray()
        self._tail = bytearray()
        self._total = 0

    def add(self, data: bytes) -> None:
        """Take more in."""
        self._total += len(data)
        room = self._half - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        if len(self._tail) > 2 * self._half:
            del self._tail[: -self._half]

    def text(self) -> str:
        """Return it, with a note of what was left out."""
        tail = self._tail[-self._half :]
        missing = self._total - len(self._head) - len(tail)
        note = f"\n[{missing} bytes left out]\n".encode() if missing else b""
        # A replacement character takes three bytes where one was.
        return bytes(self._head + note + tail).decode("utf-8", "replace").replace("\ufffd", "?")


def tool(name: str) -> str:
    """Return the path of a program of the system, or ""."""
    return shutil.which(name, path=PATH) or ""


async def run(
    arguments: Sequence[str],
    directory: Path,
    variables: Mapping[str, str],
    who: Identity,
    seconds: float,
    limit_bytes: int = OUTPUT_LIMIT_BYTES,
) -> Ended:
    """Run a program to its end; a cancelled call has ended it, and all it started.

    Args:
        arguments: The program and its arguments; the program relative to the directory.
        directory: Where it starts.
        variables: Its environment, beside PATH and LANG.
        who: Whom it runs as.
        seconds: How long it may take.
        limit_bytes: How much of its output is kept.

    Raises:
        FailedPrecondition: it could not be started.
    """
    order = {
        "arguments": list(arguments),
        "directory": str(directory),
        "environment": {"PATH": PATH, "LANG": "C.UTF-8", **variables},
        "identity": dict(who.numbers),
        "timeout_seconds": seconds,
        "grace_seconds": GRACE_SECONDS,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        "-S",
        warden.__file__,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": PATH, "LANG": "C.UTF-8"},
        start_new_session=True,
    )
    output = Output(limit_bytes)
    following = asyncio.ensure_future(_follow(process, output))
    try:
        assert process.stdin is not None, "it was asked for"
        process.stdin.write(json.dumps(order).encode() + b"\n")
        report = await asyncio.wait_for(asyncio.shield(following), seconds + END_SECONDS)
    except (TimeoutError, ConnectionError, RuntimeError):
        report = b""  # RuntimeError: how uvloop says that nobody reads the order any more
    finally:
        await _end(process, following)
    return _ended(report, output, arguments[0], who)


async def _follow(process: asyncio.subprocess.Process, output: Output) -> bytes:
    """Read all that is printed; returns the warden's report."""
    assert process.stdout is not None, "it was asked for"
    assert process.stderr is not None, "it was asked for"
    reading = asyncio.ensure_future(process.stdout.read())
    try:
        while data := await process.stderr.read(64 << 10):
            output.add(data)
        return await reading
    finally:
        reading.cancel()


async def _end(process: asyncio.subprocess.Process, following: "asyncio.Future[bytes]") -> None:
    """See a warden to its end: it ends the program once its input is closed."""
    assert process.stdin is not None, "it was asked for"
    process.stdin.close()
    waiting = asyncio.ensure_future(process.wait())
    done, _ = await asyncio.wait({waiting}, timeout=END_SECONDS)
    if not done:
        process.kill()
    following.cancel()
    await asyncio.gather(following, waiting, return_exceptions=True)


def _ended(report: bytes, output: Output, program: str, who: Identity) -> Ended:
    try:
        words = json.loads(report)
    except ValueError:
        raise FailedPrecondition(
            "COMMAND_LOST", f"what became of {program} is not known: its warden was ended"
        ) from None
    if "problem" in words:
        raise FailedPrecondition(
            "COMMAND_NOT_STARTED",
            f"{program} cannot be started as {who.user}: {words['problem']}",
            "Its first line must name an interpreter that is there, and that user must be able to"
            " read it",
        )
    if words["left"]:
        output.add(f"\n[{words['left']} processes that it left were ended]\n".encode())
    return Ended(words["status"], words["timed_out"], output.text())
