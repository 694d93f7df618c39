"""Which file systems are mounted where, as the kernel says."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from slackwater.agent.kinds.kind import KindFailed

_TABLE = Path("/proc/self/mountinfo")
_ESCAPED = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One mounted file system."""

    path: str
    file_system: str
    source: str
    is_read_only: bool


def of(path: str) -> Mount:
    """The mount whose mount point `path` is.

    Raises:
        KindFailed: It is none.
    """
    try:
        real = str(Path(path).resolve(strict=True))
    except OSError as error:
        raise KindFailed(f"{path}: {error.strerror}") from error
    found = [mount for mount in map(_parse, _TABLE.read_text().splitlines()) if mount.path == real]
    if not found:
        raise KindFailed(f"{path} is not a mount point; name one: findmnt --target {path}")
    return found[-1]  # what is mounted over another hides it


def open_directory(path: str) -> int:
    """A descriptor that keeps the file system from being unmounted."""
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise KindFailed(f"{path}: {error.strerror}") from error


def _parse(line: str) -> Mount:
    before, _, after = line.partition(" - ")
    fields, (file_system, source, options) = before.split(" "), after.split(" ")[:3]
    return Mount(_plain(fields[4]), file_system, _plain(source), "ro" in options.split(","))


def _plain(text: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), text)
