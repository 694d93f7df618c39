"""Whose files are run: only those that nobody but root and this process's own user can change."""

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
