"""Whose files are run: only those that nobody but root and the service's own user can change."""

import os
import stat
from pathlib import Path


def distrust(path: Path) -> str:
    """Say why a file or directory cannot be trusted; empty: it can.

    Raises:
        OSError: it cannot be looked at.
    """
    status = path.stat()
    if status.st_uid not in (0, os.geteuid()):
        return f"belongs to user {status.st_uid}, neither to root nor to this service's user"
    writable = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if writable and not os.statvfs(path).f_flag & os.ST_RDONLY:
        return "can be written by its group or by others"
    return ""


def program_problem(directory: Path, program: str) -> str:
    """Say why a program of a task's directory is not run; empty: it may be."""
    path = directory / program
    try:
        real, home = path.resolve(strict=True), directory.resolve(strict=True)
        if not real.is_relative_to(home):
            return f"{path} leads to {real}, outside the task's directory"
        for part in (real, *real.parents):
            problem = distrust(part)
            if problem:
                return f"{part} {problem}"
            if part == home:
                break
        mode = real.stat().st_mode
    except OSError as error:
        return f"{path} cannot be used: {error.strerror or error}"
    if not stat.S_ISREG(mode):
        return f"{path} is not a file"
    if not mode & 0o111:
        return f"{path} is not executable; chmod +x makes it so"
    return ""
