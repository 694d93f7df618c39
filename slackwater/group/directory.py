"""Data directories and the directories of groups in them.

::

    <data-dir>/slackwater.json      what this directory is, and its format
    <data-dir>/primary.lock         one process per role: primary, secondary, snapshot
    <data-dir>/groups/<name>/       group.db  log/  volumes/  maps/  snapshots/  clones/  LOCK

A group's directory appears whole: it is built under a name that no group can have, synced, and
renamed; it goes the same way back. What a crash leaves of that is removed when the role that was
at it opens the data directory again.
"""

import errno
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from slackwater.errors import AlreadyExists, FailedPrecondition, NotFound
from slackwater.storage.seam import Lock, Storage

FORMAT = 1
KIND = "slackwater-data"
MARKER = "slackwater.json"
BUILDING = ".building-"
"""Prefix of a group being made or removed: a dot never begins a DNS label."""
_NO_DIRECTORY: Final = frozenset(
    {errno.ENOTDIR, errno.EEXIST, errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS}
)


@dataclass(frozen=True)
class GroupDirectory:
    """The paths of one group."""

    path: Path

    @property
    def name(self) -> str:
        """The group's name."""
        return self.path.name

    @property
    def database(self) -> Path:
        """group.db."""
        return self.path / "group.db"

    @property
    def log(self) -> Path:
        """The directory of the log's segments."""
        return self.path / "log"

    @property
    def volumes(self) -> Path:
        """The directory of the volumes' files."""
        return self.path / "volumes"

    @property
    def maps(self) -> Path:
        """The directory of the dirty maps."""
        return self.path / "maps"

    @property
    def snapshots(self) -> Path:
        """The directory of the snapshots."""
        return self.path / "snapshots"

    @property
    def clones(self) -> Path:
        """The directory of the clones."""
        return self.path / "clones"

    def volume(self, row_path: str) -> Path:
        """Return the path of a volume's row: a file of this directory, or a device."""
        return self.path / row_path  # an absolute path stays as it is

    def lock(self, storage: Storage) -> Lock:
        """Own the group in this process.

        Raises:
            FailedPrecondition: DIRECTORY_IN_USE.
        """
        return storage.lock(self.path / "LOCK")


class DataDirectory:
    """A service's data directory, open for one role."""

    def __init__(self, storage: Storage, path: Path, role: str, lock: Lock) -> None:
        """Use a directory that `open` has checked."""
        self.path = path
        self.groups_path = path / "groups"
        self._building = f"{BUILDING}{role}-"
        self._storage = storage
        self._lock = lock

    @classmethod
    def open(cls, storage: Storage, path: Path, role: str) -> "DataDirectory":
        """Open or make a data directory for the one process of a role.

        Raises:
            FailedPrecondition: it is not ours, of a newer format, on an unfit file system, in use
                by another process of the role, or cannot be a directory of this user's at all.
        """
        try:
            if _needs_marker(storage, path):
                missing = [one for one in reversed(path.parents) if not storage.exists(one)]
                storage.make_directory(path)
                for one in (*missing, path):  # its own name in any case: SIGKILL may have come
                    storage.sync_directory(one.parent)
            storage.check(path)
            lock = storage.lock(path / f"{role}.lock")
        except OSError as error:
            if error.errno not in _NO_DIRECTORY:
                raise
            raise FailedPrecondition(
                "UNUSABLE_DIRECTORY",
                f"{path} cannot be a data directory: {error.strerror}",
                "Give a directory that the service may make or write to",
            ) from error
        try:
            if _needs_marker(storage, path):
                _write_marker(storage, path, role)
            directory = cls(storage, path, role, lock)
            storage.make_directory(directory.groups_path)
            storage.sync_directory(path)
            # A group's name that survived a SIGKILL need not be durable (D5), and nobody who
            # writes to the group would make it so.
            storage.sync_directory(directory.groups_path)
            directory._clean_up()
        except BaseException:
            lock.close()
            raise
        return directory

    def _clean_up(self) -> None:
        """Remove what a crash of this role left of groups being made or removed."""
        for name in self._storage.listing(self.groups_path):
            if name.startswith(self._building):
                self._remove_leftover(self.groups_path / name)

    def _remove_leftover(self, path: Path) -> None:
        """Remove a group under its other name, once that name is durable.

        The rename that gave it may be what a crash cut off from its sync: what is removed then
        would be missing from the group when the power fails and brings its own name back.
        """
        if self._storage.exists(path):
            self._storage.sync_directory(self.groups_path)
            self._storage.remove_tree(path)

    def group(self, name: str) -> GroupDirectory:
        """Return a group's directory, whether it exists or not."""
        return GroupDirectory(self.groups_path / name)

    def groups(self) -> list[GroupDirectory]:
        """Return the groups there are, of whatever role, by name."""
        return [
            self.group(name)
            for name in self._storage.listing(self.groups_path)
            if not name.startswith(".")
        ]

    def create_group(self, name: str, fill: Callable[[GroupDirectory], None]) -> GroupDirectory:
        """Make a group's directory: whole, or not at all.

        Args:
            name: a DNS label, checked by the caller.
            fill: writes group.db and the log into the directory it is given, and syncs them.

        Raises:
            AlreadyExists: the name is taken.
        """
        target = self.group(name)
        if self._storage.exists(target.path):
            raise AlreadyExists("group", name)
        building = GroupDirectory(self.groups_path / f"{self._building}{name}")
        self._remove_leftover(building.path)
        try:
            for path in (building.log, building.volumes, building.maps, building.snapshots):
                self._storage.make_directory(path)
            fill(building)
            self._storage.sync_directory(building.path)
            self._rename_new(building, target)
        except Exception:
            with suppress(OSError):  # it would take room until the next start
                self._storage.remove_tree(building.path)
            raise
        self._storage.sync_directory(self.groups_path)
        return target

    def _rename_new(self, building: GroupDirectory, target: GroupDirectory) -> None:
        try:
            self._storage.rename(building.path, target.path)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):  # the other role was faster
                raise AlreadyExists("group", target.name) from error
            raise

    def remove_group(self, name: str) -> None:
        """Remove a group that no process owns: its name first, then what it held.

        Raises:
            NotFound: there is no such group.
            FailedPrecondition: DIRECTORY_IN_USE, by this process or another.
        """
        group = self.group(name)
        if not self._storage.exists(group.path):
            raise NotFound("group", name)
        lock = group.lock(self._storage)
        try:
            going = self.groups_path / f"{self._building}{name}"
            self._remove_leftover(going)
            self._storage.rename(group.path, going)
            self._remove_leftover(going)
        finally:
            lock.close()

    def close(self) -> None:
        """Let another process have the role."""
        self._lock.close()


def _needs_marker(storage: Storage, path: Path) -> bool:
    """Tell whether the directory is still to be made ours; nothing is changed.

    Raises:
        FailedPrecondition: it is somebody else's, or of a newer format.
    """
    marker = path / MARKER
    if not storage.exists(path):
        return True
    names = storage.listing(path)
    if MARKER not in names:
        foreign = [name for name in names if not _may_be_ours(name)]
        if foreign:
            raise FailedPrecondition(
                "NOT_OURS",
                f"data directory {path} has no {MARKER} but holds {foreign[0]!r}",
                "Give an empty directory, or the right one",
            )
        return True
    file = storage.open(marker, writable=False)
    try:
        content = json.loads(file.read(4096, 0))
        is_ours, version = content["kind"] == KIND, int(content["format"])
    except (ValueError, KeyError, TypeError):
        is_ours, version = False, 0
    finally:
        file.close()
    if not is_ours:
        raise FailedPrecondition(
            "NOT_OURS",
            f"{marker} does not describe a Slackwater data directory",
            "Give an empty directory, or the right one",
        )
    if version > FORMAT:
        raise FailedPrecondition(
            "NEWER_FORMAT",
            f"data directory {path} has format {version}, this release knows up to {FORMAT}",
            "Start a release that is at least as new as the one that wrote it",
        )
    return False


def _may_be_ours(name: str) -> bool:
    """Tell whether a directory without a marker may have this in it: roles start side by side."""
    return (
        name in ("run", "tasks", "lost+found")
        or name.endswith(".lock")
        or name.startswith((f"{MARKER}.", ".probe-"))
    )


def _write_marker(storage: Storage, path: Path, role: str) -> None:
    new = path / f"{MARKER}.{role}"
    file = storage.open(new, create=True)
    try:
        file.resize(0)
        file.write((json.dumps({"kind": KIND, "format": FORMAT}).encode() + b"\n",), 0)
        file.sync()
    finally:
        file.close()
    storage.rename(new, path / MARKER)
    storage.sync_directory(path)
