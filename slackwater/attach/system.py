"""Programs of the system: found where distributions put them, run with a limit, errors in words."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

COMMAND_SECONDS = 60.0


class AttachError(Exception):
    """A step failed.

    Attributes:
        next_step: What to type or do now, or "".
    """

    def __init__(self, problem: str, next_step: str = "") -> None:
        """Say what, and what to do."""
        super().__init__(problem)
        self.next_step = next_step


def search_path() -> str:
    """Where programs are looked for: the PATH, and where administrators' programs are."""
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def has(program: str) -> bool:
    """Whether a program is installed."""
    return shutil.which(program, path=search_path()) is not None


def environment() -> dict[str, str]:
    """What programs get as their environment."""
    return {**os.environ, "PATH": search_path()}


def is_mounted(where: Path) -> bool:
    """Whether something is mounted there; asks the kernel's table, never what is mounted."""
    rows = Path("/proc/self/mounts").read_text().splitlines()
    return str(where).replace(" ", r"\040") in {row.split()[1] for row in rows}


def run(*command: str, fine: Sequence[int] = (0,), seconds: float = COMMAND_SECONDS) -> str:
    """Run a program to its end and return what it printed.

    Args:
        command: The program and its arguments.
        fine: Exit statuses that are no error.
        seconds: How long it may take.

    Raises:
        AttachError: it is not there, ended otherwise, or took too long.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, check=False, env=environment()
        )
    except FileNotFoundError as error:
        raise AttachError(f"the program {command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise AttachError(f"{' '.join(command)} did not end within {seconds:g} s") from error
    if done.returncode not in fine:
        said = (done.stderr or done.stdout).strip()
        raise AttachError(f"{' '.join(command)} ended with {done.returncode}: {said}")
    return done.stdout
