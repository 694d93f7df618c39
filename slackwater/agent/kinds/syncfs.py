"""Kind `sync`: what the application has written goes to the volume; nothing is held back.

Writes go on while the message is placed, so the point has all that was written before the quiesce
was answered, and of what came later whatever reached the volume. There is nothing to resume.
"""

import ctypes
import json
import os
import time
from collections.abc import Sequence

from slackwater.agent.keeper import Request
from slackwater.agent.kinds import mounts
from slackwater.agent.kinds.kind import KindFailed, Patience, Resumption, Undo

_libc = ctypes.CDLL(None, use_errno=True)


class Sync:
    """The file systems of some paths are synced."""

    name = "sync"

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = list(paths)

    def check(self) -> None:
        """Look at each path."""
        for path in self._paths:
            os.close(mounts.open_directory(path))

    def undo(self, request: Request) -> Undo | None:
        """Nothing outlives this process."""
        del request
        return None

    def hold(self, request: Request, patience: Patience) -> str:
        """Sync them, one after the other."""
        del request
        synced = []
        for path in self._paths:
            if patience.is_over:
                raise KindFailed(f"there was no time left to sync {path}")
            began = time.monotonic()
            descriptor = mounts.open_directory(path)
            try:
                sync(descriptor, path)
            finally:
                os.close(descriptor)
            synced.append({"path": path, "seconds": round(time.monotonic() - began, 6)})
        return json.dumps({"synced": synced})

    def resume(self, request: Request, message: str, patience: Patience) -> Resumption:
        """Nothing was held."""
        del request, message, patience
        return Resumption(True, "")

    def forget(self) -> None:
        """Nothing was kept."""


def sync(descriptor: int, path: str) -> None:
    """syncfs(2): returns when all that was written is on the device, or says that it is not."""
    if _libc.syncfs(descriptor) != 0:
        raise KindFailed(f"cannot sync {path}: {os.strerror(ctypes.get_errno())}")
