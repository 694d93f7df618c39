"""A storage that forgets, keeps and tears what was not synced, and fails when told to.

Every call that changes something is numbered. With ``crash_at = n`` call n raises `SimulatedCrash`
instead of happening, and so does every later call: the process is dead. What a machine would find
after it is another `SimulatedStorage`, made by `after_crash` (power loss) or `kill` (SIGKILL: what
was written is still in the page cache, and still not durable).

Injected: a crash at each call; unsynced bytes forgotten, kept or torn by sector; unsynced names
forgotten or kept; errors of chosen calls; a failed sync whose pages then count as clean; a full
disk. Assumed away: a disk that loses what it has synced, a sector torn in itself, a rename that
survives by half (`slackwater.storage.simulated_disk`).
"""

import errno
import random
from pathlib import Path
from typing import Final

from slackwater.errors import FailedPrecondition
from slackwater.storage.simulated_disk import Blob, Directory, Entry, Node, Policy
from slackwater.storage.simulated_files import SimulatedDatabase, SimulatedFile, SimulatedLock
from slackwater.storage.simulated_process import SimulatedCrash, SimulatedProcess, error_of

__all__ = ["Node", "Policy", "SimulatedCrash", "SimulatedStorage"]

_PLENTY: Final = 1 << 50


class SimulatedStorage(SimulatedProcess):
    """A simulated disk and the process that uses it."""

    # -- crashes ------------------------------------------------------------------------------

    def after_crash(self, policy: Policy, rng: random.Random | None = None) -> "SimulatedStorage":
        """Return what a power loss leaves: what is durable, and of the rest what `policy` says."""
        survivor = SimulatedStorage(capacity_bytes=self.capacity_bytes)
        survivor.names = self.names.after_power_loss(policy, rng or random.Random(0))
        return survivor

    def kill(self) -> "SimulatedStorage":
        """Return what SIGKILL leaves: everything visible, and no more of it durable than before."""
        survivor = SimulatedStorage(capacity_bytes=self.capacity_bytes)
        survivor.names = self.names.copy()
        return survivor

    def beside(self) -> "SimulatedStorage":
        """Return the same disk as another living process sees it: calls and faults of its own."""
        other = SimulatedStorage(capacity_bytes=self.capacity_bytes)
        other.names = self.names
        other._mutex = self._mutex
        return other

    # -- the seam -----------------------------------------------------------------------------

    def open(
        self, path: Path, *, create: bool = False, exclusive: bool = False, writable: bool = True
    ) -> SimulatedFile:
        """Open a file."""
        self.check_alive()
        entry = self._find(path)
        if entry is not None and exclusive:
            raise error_of(errno.EEXIST, path)
        if isinstance(entry, Directory):
            raise error_of(errno.EISDIR, path)
        if isinstance(entry, Node):
            self.check_fault("open", path)
            return SimulatedFile(self, path, entry, writable=writable)
        assert entry is None, "a database is opened as one"
        if not create and not exclusive:
            raise error_of(errno.ENOENT, path)
        node = Node()
        self._name("open", path, node)
        return SimulatedFile(self, path, node, writable=writable)

    def _find(self, path: Path) -> Entry | None:
        entry: Entry = self.names.root
        for name in path.parts[1:] if path.is_absolute() else path.parts:
            if not isinstance(entry, Directory) or name not in entry.visible:
                return None
            entry = entry.visible[name]
        return entry

    def _directory(self, path: Path) -> Directory:
        entry = self._find(path)
        if entry is None:
            raise error_of(errno.ENOENT, path)
        if not isinstance(entry, Directory):
            raise error_of(errno.ENOTDIR, path)
        return entry

    def _name(self, operation: str, path: Path, entry: Entry | None) -> None:
        """Give a name to an entry, or to nothing, as one call."""
        parent = self._directory(path.parent)
        with self.change(operation, path):
            self.names.change((parent, path.name, entry))

    def exists(self, path: Path) -> bool:
        """Tell whether the path names anything."""
        self.check_alive()
        return self._find(path) is not None

    def listing(self, path: Path) -> list[str]:
        """Return the names in a directory."""
        self.check_alive()
        return sorted(self._directory(path).visible)

    def make_directory(self, path: Path) -> None:
        """Make a directory and its parents."""
        self.check_alive()
        for directory in reversed((path, *path.parents)):
            entry = self._find(directory)
            if entry is None:
                self._name("make_directory", directory, Directory())
            elif not isinstance(entry, Directory):
                raise error_of(errno.EEXIST if directory == path else errno.ENOTDIR, directory)

    def remove(self, path: Path) -> None:
        """Remove a file."""
        self.check_alive()
        entry = self._find(path)
        if entry is None:
            raise error_of(errno.ENOENT, path)
        if isinstance(entry, Directory):
            raise error_of(errno.EISDIR, path)
        self._name("remove", path, None)

    def remove_tree(self, path: Path) -> None:
        """Remove a directory and all in it, one name at a time."""
        self.check_alive()
        entry = self._find(path)
        if entry is None:
            return
        for name, inner in sorted(self._directory(path).visible.items()):
            if isinstance(inner, Directory):
                self.remove_tree(path / name)
            else:
                self._name("remove", path / name, None)
        self._name("remove", path, None)

    def rename(self, old: Path, new: Path) -> None:
        """Rename a file or a directory with all in it, as one change."""
        self.check_alive()
        entry, target = self._find(old), self._find(new)
        if entry is None:
            raise error_of(errno.ENOENT, old)
        if isinstance(target, Directory):
            if not isinstance(entry, Directory):
                raise error_of(errno.EISDIR, new)
            if target.visible:
                raise error_of(errno.ENOTEMPTY, new)
        elif target is not None and isinstance(entry, Directory):
            raise error_of(errno.ENOTDIR, new)
        source, destination = self._directory(old.parent), self._directory(new.parent)
        with self.change("rename", old):
            self.names.change((source, old.name, None), (destination, new.name, entry))

    def sync_directory(self, path: Path) -> None:
        """Make the names in a directory durable."""
        directory = self._directory(path)
        with self.change("sync_directory", path):
            self.names.sync(directory)

    def lock(self, path: Path) -> SimulatedLock:
        """Take the exclusive lock on a file; a dead process holds none."""
        self.check_alive()
        with self._mutex:
            node = self.open(path, create=True)._node
            if node.holder is not None and not node.holder.is_dead:
                raise FailedPrecondition(
                    "DIRECTORY_IN_USE",
                    f"another process holds {path}",
                    "Stop that process, or give this one another directory",
                )
            node.holder = self
            return SimulatedLock(node)

    def open_database(self, path: Path) -> SimulatedDatabase:
        """Open or make a database."""
        self.check_alive()
        directory, entry = self._directory(path.parent), self._find(path)
        if entry is None:
            entry = Blob()
            self._name("open", path, entry)
        elif isinstance(entry, Node):
            content = entry.visible.read(entry.visible.size, 0)
            entry = Blob(content)  # whatever a test has put there
        elif isinstance(entry, Directory):
            raise error_of(errno.EISDIR, path)
        return SimulatedDatabase(self, path, directory, entry)

    def free_bytes(self, path: Path) -> int:
        """Return what is left of the capacity."""
        self._directory(path)
        if self.capacity_bytes is None:
            return _PLENTY
        return max(self.capacity_bytes - self.used_bytes(), 0)

    def check(self, directory: Path) -> None:
        """Accept any directory."""
        self._directory(directory)
