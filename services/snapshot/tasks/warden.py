"""The parent of one command: nothing that the command started outlives it or its service.

A program of its own (the standard library alone), because the service may be killed: it is told
what to run in one line on its input and ends everything when that input closes. It adopts what the
command leaves behind, so that a process which went into a session of its own is found too.

Output of the command goes to the error stream; the report, one line of JSON, to the output.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
KILL_SECONDS = 5.0
"""So long killing may take; a process in an uninterruptible wait is left to the kernel."""


def main() -> int:
    """Run what the first line of the input says; returns the exit status of this program."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    order = json.loads(sys.stdin.buffer.readline())
    try:
        child = subprocess.Popen(
            order["arguments"],
            cwd=order["directory"],
            env=order["environment"],
            stdin=subprocess.DEVNULL,
            stdout=2,
            stderr=2,
            start_new_session=True,
            **order["identity"],
        )
    except (OSError, subprocess.SubprocessError) as error:
        _report(problem=str(getattr(error, "strerror", None) or error))
        return 0
    why = _wait(child, order["timeout_seconds"], watch_input=True)
    if why:
        _signal_group(child.pid, signal.SIGTERM)
        _wait(child, order["grace_seconds"], watch_input=False)
        _signal_group(child.pid, signal.SIGKILL)
    status = _status_of(child)
    left = _end_descendants()
    if why != "closed":
        _report(status=status, timed_out=why == "timeout", left=left)
    return 0


def _wait(child: "subprocess.Popen[bytes]", seconds: float, *, watch_input: bool) -> str:
    """Wait for the command; returns why no longer: "timeout", "closed", or "" if it ended."""
    process = os.pidfd_open(child.pid)
    deadline = time.monotonic() + seconds
    try:
        while (left := deadline - time.monotonic()) > 0:
            ready, _, _ = select.select([process, 0] if watch_input else [process], [], [], left)
            if process in ready:
                return ""
            if 0 in ready and not os.read(0, 4096):
                return "closed"
        return "timeout"
    finally:
        os.close(process)


def _status_of(child: "subprocess.Popen[bytes]") -> int:
    """Return the exit status: 128 and the signal's number if a signal ended it."""
    try:
        code = child.wait(KILL_SECONDS)
    except subprocess.TimeoutExpired:
        return 128 + signal.SIGKILL
    return code if code >= 0 else 128 - code


def _end_descendants() -> int:
    """Kill whatever is left below us; returns how many processes lived until then."""
    ended: set[int] = set()
    deadline = time.monotonic() + KILL_SECONDS
    while (found := _children()) and time.monotonic() < deadline:
        for process, is_dead in found.items():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
                if not is_dead:
                    ended.add(process)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.002)
    return len(ended)


def _children() -> dict[int, bool]:
    """Return the processes whose parent we are, and whether they are dead already."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            state, parent, *_ = (entry / "stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            continue
        if int(parent) == os.getpid():
            found[int(entry.name)] = state == b"Z"
    return found


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _report(**words: object) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
