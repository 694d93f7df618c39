"""The clones of one group: which there are, how one comes and goes, its open volumes.

A clone comes in three steps: a row that nobody sees, its files, synced with their names, and then
READY. What a crash leaves of that was never answered and is removed at the next start. It goes by a
row that is DELETING, in one step; the files follow, now or at the next start.

What writes group.db is called where a failed commit stops the replica (D3); files are made and
removed beside it.

Nothing here needs the applier or waits for it. A clone whose files are damaged, or one of whose
syncs failed, is FAILED by itself; the replica goes on.
"""

import errno
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from slackwater import errors
from slackwater.clock import Clock
from slackwater.clones.bits import Bits
from slackwater.clones.volume import CloneVolume, Parent
from slackwater.group.database import GroupDatabase
from slackwater.group.rows import CloneRow, SnapshotRow
from slackwater.storage.seam import File, Storage

CREATING: Final = "CREATING"
READY: Final = "READY"
FAILED: Final = "FAILED"
DELETING: Final = "DELETING"
_SEEN: Final = frozenset({READY, FAILED})
FindParent = Callable[[uuid.UUID, str], Parent]
"""Returns a volume, by name, of the snapshot with a uid."""


class Clones:
    """The clones of one group; from any thread. `_lock` guards rows and open volumes."""

    def __init__(
        self,
        storage: Storage,
        directory: Path,
        database: GroupDatabase,
        clock: Clock,
        find_parent: FindParent,
    ) -> None:
        """Hold nothing yet; `open` finds what there is."""
        self.on_failed: Callable[[errors.SlackwaterError], None] = lambda _: None
        self._storage = storage
        self._directory = directory
        self._database = database
        self._clock = clock
        self._find_parent = find_parent
        self._rows: dict[int, CloneRow] = {}
        self._open: dict[tuple[int, int], CloneVolume] = {}
        self._lock = threading.RLock()

    def open(self) -> None:
        """Find the clones; remove what a crash left half made or half removed.

        Raises:
            OSError: the storage failed.
        """
        self._storage.make_directory(self._directory)
        for row in self._database.clones():
            if row.state in _SEEN:
                self._rows[row.id] = row
            else:
                self._storage.remove_tree(self._path(row))
                self._database.remove_clone(row.id)
        known = {row.uid.hex for row in self._rows.values()}
        for name in self._storage.listing(self._directory):
            if name not in known:
                self._storage.remove_tree(self._directory / name)

    def close(self, *, clean: bool) -> None:
        """Close every volume; with `clean` what was written is made durable first."""
        with self._lock:
            volumes, self._open = list(self._open.values()), {}
        for volume in volumes:
            volume.close(flush=clean)

    # -- what there is -----------------------------------------------------------------------

    def ready(self) -> list[CloneRow]:
        """Return the clones, oldest first, without those that come or go."""
        with self._lock:
            return [row for row in self._rows.values() if row.state in _SEEN]

    def get(self, name: str) -> CloneRow:
        """Return one.

        Raises:
            NotFound: there is none of that name.
        """
        for row in self.ready():
            if row.name == name:
                return row
        raise errors.NotFound("clone", name)

    def on(self, snapshot_uid: uuid.UUID) -> list[CloneRow]:
        """Return the clones that need a snapshot, also those that are just being made."""
        with self._lock:
            rows = [row for row in self._rows.values() if row.snapshot_uid == snapshot_uid]
            return [row for row in rows if row.state != DELETING]

    # -- coming ------------------------------------------------------------------------------

    def begin(self, name: str, snapshot: SnapshotRow) -> CloneRow:
        """Take a name for a clone, durably; the snapshot is needed from here on.

        Raises:
            AlreadyExists: the name is taken.
        """
        with self._lock:
            if any(row.name == name for row in self._rows.values()):
                raise errors.AlreadyExists("clone", name)
            row = CloneRow(
                id=0,
                name=name,
                uid=uuid.uuid4(),
                snapshot_uid=snapshot.uid,
                state=CREATING,
                exported=False,
                chunk_bytes=snapshot.chunk_bytes,
                created_ns=self._clock.time_ns(),
                volumes=snapshot.volumes,
            )
            # The name is durable only with the files: what a failure leaves behind holds none.
            hidden = replace(row, name=f"{name}~{row.uid.hex}")
            row = replace(row, id=self._database.add_clone(hidden))
            self._rows[row.id] = row
            return row

    def make_files(self, row: CloneRow) -> None:
        """Make the files of a clone that was begun, durably.

        Raises:
            OSError: no room, or the storage refused; `abandon` what was begun.
        """
        directory = self._path(row)
        self._storage.make_directory(directory)
        for number, _, size in row.volumes:
            data = self._storage.open(_data(directory, number), create=True, exclusive=True)
            try:
                data.resize(size)
                data.sync()
            finally:
                data.close()
            Bits.create(
                self._storage, _bits(directory, number), row.uid, size, row.chunk_bytes
            ).close()
        self._storage.sync_directory(directory)
        self._storage.sync_directory(directory.parent)
        self._storage.sync_directory(directory.parent.parent)

    def finish(self, row: CloneRow) -> CloneRow:
        """Let a clone be seen whose files are there.

        Raises:
            OSError: no room in group.db; `abandon` what was begun.
        """
        return self._update(replace(row, state=READY))

    def abandon(self, row: CloneRow) -> None:
        """Leave nothing of a clone that could not be made."""
        with suppress(OSError):  # else the next start removes it
            self.remove_files(row)
            self.forget(row)
        with self._lock:
            self._rows.pop(row.id, None)

    # -- marks -------------------------------------------------------------------------------

    def set_exported(self, name: str, exported: bool) -> CloneRow:
        """Mark a clone as exported, durably, or take the mark off.

        Raises:
            NotFound: there is none of that name.
        """
        with self._lock:
            return self._update(replace(self.get(name), exported=exported))

    def _update(self, row: CloneRow) -> CloneRow:
        with self._lock:
            self._database.update_clone(row)
            self._rows[row.id] = row
        return row

    def _set_failed(self, number: int) -> None:
        """A sync of a clone failed: it takes no writes any more, after a restart neither (D3)."""
        with self._lock:
            row = self._rows.get(number)
            if row is None or row.state != READY:
                return
            self._rows[number] = row = replace(row, state=FAILED)
        try:
            self._database.update_clone(row)
        except errors.SlackwaterError as error:
            self.on_failed(error)
        except OSError:
            return  # no room for it: this run knows, and the next flush after it will find out

    # -- going -------------------------------------------------------------------------------

    def let_go(self, name: str) -> CloneRow:
        """Let a clone go, durably: it is not there any more; its files and row are to follow.

        Raises:
            NotFound: there is none of that name.
        """
        with self._lock:
            row = self.get(name)
            # No clone can be given a name with a tilde.
            return self._update(
                replace(row, state=DELETING, exported=False, name=f"{row.name}~{row.id}")
            )

    def remove_files(self, row: CloneRow) -> None:
        """Remove the files of a clone that was let go, once who uses them is done.

        Raises:
            OSError: the storage refused; the next start removes them.
        """
        with self._lock:
            volumes = [self._open.pop(key) for key in list(self._open) if key[0] == row.id]
        for volume in volumes:
            volume.close(flush=False)
        self._storage.remove_tree(self._path(row))

    def forget(self, row: CloneRow) -> None:
        """Remove the row of a clone whose files are gone."""
        self._database.remove_clone(row.id)
        with self._lock:
            self._rows.pop(row.id, None)

    # -- volumes -----------------------------------------------------------------------------

    def open_volume(self, name: str, volume_name: str) -> CloneVolume:
        """Return one volume of a clone, the same to all who ask; needs no closing.

        Raises:
            NotFound: there is no such clone or volume.
            StorageFailed: a sync of the clone failed.
            DataCorrupt: its files are damaged.
            OSError: the storage failed.
        """
        with self._lock:
            row = self.get(name)
            if row.state == FAILED:
                raise errors.StorageFailed(f"clone {name}", "a sync", errno.EIO)
            for number, of_name, size in row.volumes:
                if of_name == volume_name:
                    if (row.id, number) not in self._open:
                        self._open[row.id, number] = self._open_files(row, number, of_name, size)
                    return self._open[row.id, number]
        held = ", ".join(of_name for _, of_name, _ in row.volumes)
        raise errors.NotFound("volume", volume_name, f"Clone {name!r} has: {held}")

    def _open_files(self, row: CloneRow, number: int, name: str, size: int) -> CloneVolume:
        directory = self._path(row)
        try:
            data = self._storage.open(_data(directory, number))
        except FileNotFoundError as error:
            raise errors.DataCorrupt(f"clone {row.name}", "its data is gone") from error
        try:
            bits = self._open_bits(row, number, size, data)
        except BaseException:
            data.close()
            raise
        return CloneVolume(
            row.name,
            lambda: self._find_parent(row.snapshot_uid, name),
            data,
            bits,
            size,
            row.chunk_bytes,
            lambda: self._set_failed(row.id),
        )

    def _open_bits(self, row: CloneRow, number: int, size: int, data: File) -> Bits:
        if data.size() < size:
            raise errors.DataCorrupt(f"clone {row.name}", "its data is cut off")
        try:
            return Bits.open(
                self._storage, _bits(self._path(row), number), row.uid, size, row.chunk_bytes
            )
        except FileNotFoundError as error:
            raise errors.DataCorrupt(f"clone {row.name}", "its map is gone") from error

    def own_bytes(self, row: CloneRow) -> dict[int, int]:
        """Return the bytes that each volume's own data takes, by volume id; 0 if none is there."""
        result = {}
        for number, _, _ in row.volumes:
            result[number] = 0
            with suppress(OSError):  # it goes this moment, or is damaged
                file = self._storage.open(_data(self._path(row), number), writable=False)
                try:
                    result[number] = file.allocated_bytes()
                finally:
                    file.close()
        return result

    def _path(self, row: CloneRow) -> Path:
        return self._directory / row.uid.hex


def _data(directory: Path, number: int) -> Path:
    return directory / f"{number}.data"


def _bits(directory: Path, number: int) -> Path:
    return directory / f"{number}.bits"
