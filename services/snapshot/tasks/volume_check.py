"""Checks of file systems on temporary copies of exported volumes: for a step, for a named check."""

import contextlib
import os
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from services.snapshot.tasks import command, fsck
from services.snapshot.tasks.notes import Surroundings
from slackwater.errors import FailedPrecondition
from slackwater.runtime import calls

OUTPUT_BYTES = 8 << 10


class VolumeCheck:
    """Looks at volumes one after another, and says what the checkers print."""

    def __init__(
        self, around: Surroundings, host: str, name: str, seconds: float, say: Callable[[str], None]
    ) -> None:
        """Work for one user.

        Args:
            around: What the service has.
            host: Where the Secondary is reached.
            name: What temporary directories begin with; nobody else's do.
            seconds: How long one program may take.
            say: Takes what is printed.
        """
        self._around = around
        self._host = host
        self._name = name
        self._seconds = seconds
        self._say = say

    async def check(self, volume: str, uri: str, *, must: bool, kind: str = "") -> bool:
        """Check one volume; False if there is nothing to check.

        Args:
            volume: Its name.
            uri: Its export.
            must: There has to be something.
            kind: The file system that it has to carry; empty: any that is known.

        Raises:
            FailedPrecondition: it is damaged, or cannot be checked.
            NoSpace: there is no room for the copy.
        """
        async with self._scratch(volume) as (directory, stop):
            copy = fsck.Copy(uri, self._host, self._around.certificates, stop)
            found = await calls.in_thread(copy.recognise)
            if found is None or kind not in ("", found.kind):
                if must:
                    raise FailedPrecondition(
                        "NO_FILE_SYSTEM",
                        f"volume {volume} begins with no {kind or 'file system known here'}",
                    )
                self._say(f"{volume}: no {kind or 'file system known here'}, passed over\n")
                return False
            program = found.commands[0][0]
            path = command.tool(program)
            if not path:
                raise FailedPrecondition(
                    "NO_CHECKER",
                    f"volume {volume} carries {found.kind}, and {program} is not installed here",
                    f"Install {found.package} where the snapshot service runs",
                )
            who = self._around.who
            await calls.in_thread(copy.make, directory / "volume", (who.uid, who.gid))
            if found.kind == fsck.XFS:
                await self._replay_xfs(volume, directory)
            for words in found.commands:
                ended = await command.run(
                    [path, *words[1:], "volume"], directory, {}, who, self._seconds, OUTPUT_BYTES
                )
                self._say(f"{volume}: {' '.join(words)}\n{ended.output}")
                ended.check(f"{program} of volume {volume}", self._seconds)
        return True

    async def _replay_xfs(self, volume: str, directory: Path) -> None:
        """Let the kernel replay the log of a copy, which a frozen XFS has too, by design.

        Without it the checker ignores the log and calls the file system damaged.
        """
        ours = command.Identity("this service's user", {}, os.geteuid(), os.getegid())
        look = [command.tool("xfs_logprint") or "xfs_logprint", "-t", "volume"]
        told = await command.run(look, directory, {}, ours, self._seconds, OUTPUT_BYTES)
        if fsck.DIRTY not in told.output:
            return
        why = "this service does not run as root"
        if fsck.may_mount():
            (directory / "mnt").mkdir()
            words = [command.tool(fsck.REPLAY[0]) or fsck.REPLAY[0], *fsck.REPLAY[1:]]
            ended = await command.run(words, directory, {}, ours, self._seconds, OUTPUT_BYTES)
            self._say(f"{volume}: log replayed by a mount\n{ended.output}")
            if not ended.status:
                return
            why = ended.output.strip() or f"it ended with status {ended.status}"
        raise FailedPrecondition(
            "LOG_NOT_REPLAYED",
            f"the log of the XFS on volume {volume} must be replayed by a mount first: {why}",
            "Run this service as root where it may mount, or check with a command instead of fsck",
        )

    @contextlib.asynccontextmanager
    async def _scratch(self, volume: str) -> AsyncIterator[tuple[Path, threading.Event]]:
        """A directory for one copy, and what ends the copying."""
        directory = self._around.work_dir / f"{self._name}-{volume}"
        stop = threading.Event()
        directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        try:
            yield directory, stop
        finally:
            stop.set()
            await calls.in_thread(shutil.rmtree, directory, True)
