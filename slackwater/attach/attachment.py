"""One volume, attached: the steps there, and back in the reverse order.

Where it stands is recorded before each step, so that what a killed process left is undone by the
next one. A file system is made only when asked for, and only where there is none.
"""

import contextlib
import fcntl
import json
import os
import subprocess
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from slackwater.attach.system import AttachError, environment, is_mounted, run
from slackwater.attach.ways import Export, Way, free_kernel_device, fuse_command, kernel_command
from slackwater.runtime import logs

OPEN_SECONDS = 30.0
_LOOK_SECONDS = 0.05
_READS_AS_ZERO = 2
"""Of a block's state in the NBD protocol's context ``base:allocation``."""
FILE_SYSTEMS = ("ext4", "xfs")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is attached where.

    Attributes:
        volume: `group/volume`.
        export: Where it is exported.
        where: The mount point.
        way: KERNEL or FUSE.
        make: The file system to make if there is none; "": none is made.
        owner: User and group of the root directory of one that is made; None: root's.
        options: For mount(8).
        read_only: Whether nothing is written.
        patience_seconds: How long an I/O waits for a Primary that is away (FUSE).
    """

    volume: str
    export: Export
    where: Path
    way: Way
    make: str = ""
    owner: tuple[int, int] | None = None
    options: str = ""
    read_only: bool = False
    patience_seconds: float = 3600.0


@dataclass(slots=True)
class _Standing:
    """How far an attachment is; empty: not that far."""

    way: str = ""
    disk: str = ""
    device: str = ""
    where: str = ""


class Attachment:
    """A plan, carried out and undone."""

    def __init__(self, plan: Plan, state: Path) -> None:
        """Plan it; `state` is a directory of this machine's own, gone after a boot."""
        self.plan = plan
        self._log = logs.get("attach")
        self._record = state / f"{plan.volume.replace('/', '.')}.json"
        self._fuse = state / f"{plan.volume.replace('/', '.')}.fuse"
        self._standing = _Standing()
        self._process: subprocess.Popen[bytes] | None = None
        self._said = ""
        self._held: IO[str] | None = None

    @property
    def device(self) -> str:
        """The block device; empty as long as there is none."""
        return self._standing.device

    def attach(self) -> str:
        """Go all steps; return the kind of file system that is mounted.

        Raises:
            AttachError: a step failed; those before it are undone.
        """
        self._lock()
        self._undo_leftover()
        try:
            self._check_free()
            device = self._join()
            kind, is_new = self._file_system(device)
            self.plan.where.mkdir(parents=True, exist_ok=True)
            self._note(where=str(self.plan.where))
            run("mount", *self._mount_options(), device, str(self.plan.where))
            if is_new and self.plan.owner is not None:
                os.chown(self.plan.where, *self.plan.owner)
        except BaseException:
            self.detach(0.0)
            raise
        return kind

    def problem(self) -> str:
        """Say what broke since it was attached; empty: nothing."""
        if self._process is not None and self._process.poll() is not None:
            return f"nbdfuse ended with {self._process.returncode}"
        if not is_mounted(self.plan.where):
            return f"{self.plan.where} was unmounted by somebody else"
        return ""

    def detach(self, patience_seconds: float) -> bool:
        """Undo all steps; return whether nobody was cut off.

        A mount point that stays in use for the patience is taken away from its users: they keep
        what they have open, and it goes with the last of them.
        """
        clean = self._undo(patience_seconds)
        if self._held is not None:
            self._held.close()
            self._held = None
        return clean

    def _undo(self, patience_seconds: float) -> bool:
        standing, clean = self._standing, True
        if standing.where and is_mounted(Path(standing.where)):
            clean = _unmount(standing.where, patience_seconds)
        if standing.device and standing.way == Way.KERNEL:
            _try("nbd-client", "-d", standing.device)
        elif standing.device:
            _try("losetup", "--detach", standing.device)
        if standing.disk:
            fuse = Path(standing.disk).parent
            if is_mounted(fuse):
                _unmount(str(fuse), patience_seconds)
            self._reap(patience_seconds)
        self._record.unlink(missing_ok=True)
        self._standing = _Standing()
        return clean

    # -- steps --------------------------------------------------------------------------------

    def _join(self) -> str:
        plan = self.plan
        # Once, and without patience: what is wrong with the address is told now.
        run("nbdinfo", "--size", plan.export.uri_with_certificates, seconds=OPEN_SECONDS)
        self._note(way=plan.way.value)
        if plan.way is Way.KERNEL:
            device = free_kernel_device()
            self._note(device=device)
            run(*kernel_command(plan.export, device, ro=plan.read_only))
            return device
        self._fuse.mkdir(parents=True, exist_ok=True)
        disk = self._fuse / "disk"
        self._note(disk=str(disk))
        self._process = subprocess.Popen(
            fuse_command(plan.export, disk, plan.patience_seconds, ro=plan.read_only),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # a terminal's ^C is for us, who undo in order
            env=environment(),
        )
        threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()
        self._wait_for(disk)
        read_only = ["--read-only"] if plan.read_only else []
        device = run("losetup", "--find", "--show", *read_only, str(disk)).strip()
        self._note(device=device)
        return device

    def _wait_for(self, disk: Path) -> None:
        process = self._process
        assert process is not None
        deadline = time.monotonic() + OPEN_SECONDS
        while True:
            # By a program: it hangs as long as the Primary is away, and we must not.
            with contextlib.suppress(AttachError):
                if run("stat", "--format=%s", str(disk), seconds=OPEN_SECONDS).strip() != "0":
                    return
            if process.poll() is not None:
                raise AttachError(f"{self.plan.export.uri} cannot be opened: {self._said}")
            if time.monotonic() > deadline:
                raise AttachError(
                    f"{self.plan.export.uri} did not answer within {OPEN_SECONDS:.0f} s",
                    "Look at the Primary: slackwater status",
                )
            time.sleep(_LOOK_SECONDS)

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        """Log what nbdfuse and nbdkit say; nobody else empties the pipe, which would fill."""
        assert process.stderr is not None
        with process.stderr as lines:
            for line in lines:
                self._said = line.decode(errors="replace").strip()
                self._log.warning("nbdfuse", volume=self.plan.volume, said=self._said)

    def _file_system(self, device: str) -> tuple[str, bool]:
        """Return what is on the device, and whether it was made now: where there was nothing."""
        kind = run("blkid", "-p", "-s", "TYPE", "-o", "value", device, fine=(0, 2)).strip()
        if kind:
            return kind, False
        is_blank = self._is_blank()
        if not is_blank or not self.plan.make:
            what = "nothing" if is_blank else "data"
            raise AttachError(
                f"volume {self.plan.volume} has {what} on it, and no file system to mount",
                "With nothing on it: --make ext4 makes one",
            )
        forced = "-F" if self.plan.make == "ext4" else "-f"
        run(f"mkfs.{self.plan.make}", "-q", forced, device)
        return self.plan.make, True

    def _is_blank(self) -> bool:
        """Whether every byte reads as zero, by the export's map of its blocks.

        That no tool knows what is on it says nothing: it may be a database's, or a file system
        whose first block rotted.
        """
        uri = self.plan.export.uri_with_certificates
        extents = json.loads(run("nbdinfo", "--map", "--totals", "--json", uri))
        return all(extent["type"] & _READS_AS_ZERO for extent in extents)

    def _mount_options(self) -> list[str]:
        chosen = [self.plan.options, "ro" if self.plan.read_only else ""]
        joined = ",".join(option for option in chosen if option)
        return ["-o", joined] if joined else []

    def _check_free(self) -> None:
        if is_mounted(self.plan.where):
            raise AttachError(
                f"{self.plan.where} is a mount point already", f"umount {self.plan.where}"
            )

    def _lock(self) -> None:
        """Be the only one that attaches the volume here; the kernel forgets it when we die."""
        self._record.parent.mkdir(parents=True, exist_ok=True)
        self._held = self._record.with_suffix(".lock").open("w")
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._held.close()
            self._held = None
            raise AttachError(
                f"volume {self.plan.volume} is attached by another process of this machine",
                "End that one first, or use what it mounted",
            ) from None

    # -- records ------------------------------------------------------------------------------

    def _note(self, **fields: str) -> None:
        for name, value in fields.items():
            setattr(self._standing, name, value)
        partial = self._record.with_suffix(".new")
        partial.write_text(json.dumps(asdict(self._standing)))
        partial.replace(self._record)

    def _undo_leftover(self) -> None:
        try:
            self._standing = _Standing(**json.loads(self._record.read_text()))
        except FileNotFoundError:
            return
        except (ValueError, TypeError) as error:
            raise AttachError(
                f"{self._record} cannot be understood", f"Unmount by hand, then: rm {self._record}"
            ) from error
        self._undo(0.0)

    def _reap(self, patience_seconds: float) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.wait(max(patience_seconds, 1.0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _unmount(where: str, patience_seconds: float) -> bool:
    """Unmount; return whether it was not in use any more."""
    deadline = time.monotonic() + patience_seconds
    while not _try("umount", where):
        if time.monotonic() >= deadline:
            _try("umount", "--lazy", where)
            return False
        time.sleep(_LOOK_SECONDS)
    return True


def _try(*command: str) -> bool:
    """A step on the way back: what it undoes may be gone already."""
    try:
        run(*command)
    except AttachError:
        return False
    return True
