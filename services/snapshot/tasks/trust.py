"""Which programs of a task are run: executable ones that nobody else can change or lead away."""

import stat
from pathlib import Path

from slackwater.runtime.trust import distrust


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
