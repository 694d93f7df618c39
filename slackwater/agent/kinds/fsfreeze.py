"""Kind `fsfreeze`: file systems are synced and let no write in until the thaw.

FIFREEZE and FITHAW of ioctl_fsfreeze(2). The thaw tells whether the file system was still frozen,
so a thaw by somebody else in between does not stay hidden.
"""

import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from slackwater.agent.keeper import Request
from slackwater.agent.kinds import mounts
from slackwater.agent.kinds.kind import KindFailed, Patience, Resumption, Undo

FIFREEZE = 0xC0045877
FITHAW = 0xC0045878
_PROBLEMS = {
    errno.EBUSY: "somebody else has frozen it already",
    errno.EOPNOTSUPP: "its file system cannot be frozen",
    errno.EPERM: "this user may not freeze it; the agent needs CAP_SYS_ADMIN",
    errno.EROFS: "it is mounted read-only",
}


class FsFreeze:
    """Some mount points are frozen, in the order given, and thawed in the reverse order."""

    name = "fsfreeze"

    def __init__(self, paths: Sequence[str], keep_off: Path) -> None:
        """`keep_off` is where the agent itself must be able to write while they are frozen."""
        self._paths = list(paths)
        self._keep_off = keep_off
        self._frozen: dict[str, int] = {}

    def check(self) -> None:
        """Each is a mount point, named once, and not what the agent itself writes to."""
        own = self._keep_off.stat().st_dev
        seen: dict[int, str] = {}
        for path in self._paths:
            mount = mounts.of(path)
            if mount.is_read_only:
                raise KindFailed(f"{path}: {_PROBLEMS[errno.EROFS]}")
            device = Path(path).stat().st_dev
            if device == own:
                raise KindFailed(
                    f"{path} holds the agent's own state ({self._keep_off}), which it could not"
                    " write while frozen; name another directory: --state-dir"
                )
            if device in seen:
                raise KindFailed(f"{path} and {seen[device]} are the same file system")
            seen[device] = path

    def undo(self, request: Request) -> Undo | None:
        """Thaw them all."""
        del request
        return {"kind": self.name, "paths": self._paths}

    def hold(self, request: Request, patience: Patience) -> str:
        """Freeze them; if one cannot be frozen, or there is no time left, thaw the others."""
        del request
        self.check()
        try:
            return json.dumps({"frozen": [self._freeze(path, patience) for path in self._paths]})
        except KindFailed:
            self._roll_back()
            raise

    def resume(self, request: Request, message: str, patience: Patience) -> Resumption:
        """Thaw them, and say which were thawed by somebody else."""
        del request, message, patience
        broken = []
        for path in reversed(list(self._frozen)):
            if not thaw(self._frozen[path], path):
                broken.append(path)
            os.close(self._frozen.pop(path))
        if broken:
            return Resumption(False, f"somebody else thawed {', '.join(broken)} meanwhile")
        return Resumption(True, json.dumps({"thawed": self._paths}))

    def forget(self) -> None:
        """Let go of the descriptors."""
        while self._frozen:
            os.close(self._frozen.popitem()[1])

    def _freeze(self, path: str, patience: Patience) -> dict[str, object]:
        """Freeze one, and return what there is to say about it."""
        began = time.monotonic()
        mount = mounts.of(path)
        descriptor = mounts.open_directory(path)
        try:
            fcntl.ioctl(descriptor, FIFREEZE, 0)
        except OSError as error:
            os.close(descriptor)
            problem = _PROBLEMS.get(error.errno or 0, error.strerror)
            raise KindFailed(f"cannot freeze {path}: {problem}") from error
        self._frozen[path] = descriptor
        if patience.is_over:
            raise KindFailed(f"{path} was frozen too late")
        return {
            "path": path,
            "fileSystem": mount.file_system,
            "device": mount.source,
            "seconds": round(time.monotonic() - began, 6),
        }

    def _roll_back(self) -> None:
        """Thaw what was frozen so far; what cannot be thawed here `resume` tries again."""
        for path in reversed(list(self._frozen)):
            with contextlib.suppress(KindFailed):
                thaw(self._frozen[path], path)
                os.close(self._frozen.pop(path))


class Thaw:
    """The thaw in another process; opened before the freeze, when paths can surely be looked up."""

    def __init__(self, paths: Sequence[str]) -> None:
        """Open what is still there: what is not mounted is not frozen."""
        self._open: dict[str, int] = {}
        for path in paths:
            with contextlib.suppress(KindFailed):
                self._open[path] = mounts.open_directory(path)

    def run(self) -> str:
        """Thaw what is frozen, and say what that was."""
        thawed = [path for path, opened in reversed(self._open.items()) if thaw(opened, path)]
        return f"thawed {', '.join(thawed)}" if thawed else "nothing was frozen"


def thaw(descriptor: int, path: str) -> bool:
    """Let writes in again; False if it was not frozen."""
    try:
        fcntl.ioctl(descriptor, FITHAW, 0)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        raise KindFailed(f"cannot thaw {path}: {error.strerror}") from error
    return True
