"""The replica's volumes, open: found by the ids that records use (D28).

A removed volume stays open, in state REMOVING, until the checkpoint has passed its removal, for
replay may still write to it, and until no snapshot looks through to it. Ids are never used again,
so nothing new can be written there.
"""

import errno
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from slackwater import errors
from slackwater.apply.writeback import AREA_BITS, AREA_BYTES, Writeback
from slackwater.group.database import GroupDatabase
from slackwater.group.directory import GroupDirectory
from slackwater.group.rows import VolumeRow
from slackwater.group.volume import Volume
from slackwater.log.failstop import FailStop
from slackwater.record import MAX_PAYLOAD
from slackwater.storage.seam import Storage

ACTIVE: Final = "ACTIVE"
CREATING: Final = "CREATING"
REMOVING: Final = "REMOVING"
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class VolumeSet:
    """The open volumes of one replica. Changed by the applier's thread, read by any.

    Syncs go one at a time, so that the failure of one is known before the next could hide it (D3).
    """

    def __init__(
        self,
        storage: Storage,
        directory: GroupDirectory,
        database: GroupDatabase,
        *,
        may_lack: bool = False,
    ) -> None:
        """Open every volume that group.db names; finish or forget what a crash left half made.

        With `may_lack`, those whose file is gone or was cut are named by `lost` and not opened.

        Raises:
            OSError: a file cannot be opened.
        """
        self.lost: dict[int, str] = {}
        self._may_lack = may_lack
        self._storage = storage
        self._directory = directory
        self._database = database
        self._volumes: dict[int, Volume] = {}
        self._rows: dict[int, VolumeRow] = {}
        self.writeback = Writeback()
        self._failstop = FailStop()
        self._sync_lock = threading.Lock()
        self.reopen(database.volumes())

    def reopen(self, rows: Sequence[VolumeRow]) -> None:
        """Hold exactly the volumes of these rows; an open file stays open."""
        for row in rows:
            held = self._volumes.get(row.id)
            if row.state == CREATING:
                self._make(row)
            elif held is None:
                path = self._directory.volume(row.path)
                if row.state == REMOVING and not self._storage.exists(path):
                    self._database.remove_volume(row.id)  # a crash came between file and row
                    self._rows.pop(row.id, None)
                    continue
                if self._may_lack and self._is_lost(path, row.size):
                    self.lost[row.id] = row.name
                    self._rows[row.id] = row
                    continue
                self._put(Volume.open(self._storage, path, row.id, row.name, row.size), row)
            else:
                if held.file.size() < row.size:
                    held.file.resize(row.size)
                held.name, held.size = row.name, row.size
                self._put(held, row)

    @property
    def failure(self) -> errors.DataCorrupt | None:
        """What is wrong with a replica whose volumes' files are gone or were cut."""
        if not self.lost:
            return None
        return errors.DataCorrupt(
            f"volumes {', '.join(self.lost.values())}",
            "their files are missing or too short; of this replica only complete snapshots of kind"
            " full can be used",
        )

    def _is_lost(self, path: Path, size: int) -> bool:
        if not self._storage.exists(path):
            return True
        file = self._storage.open(path)
        try:
            # The row is written after the file has grown (`grow`), so no crash leaves it shorter.
            return file.size() < size
        finally:
            file.close()

    def __getitem__(self, volume_id: int) -> Volume:
        """Return an open volume by id, one being removed too.

        Raises:
            DataCorrupt: its file is lost.
        """
        if volume_id in self.lost:
            assert self.failure is not None
            raise self.failure
        return self._volumes[volume_id]

    def active(self) -> list[Volume]:
        """Return the volumes the group has now, by id."""
        return [
            volume for number, volume in sorted(self._volumes.items()) if self.is_active(number)
        ]

    def all(self) -> list[Volume]:
        """Return every open volume."""
        return list(self._volumes.values())

    def is_active(self, volume_id: int) -> bool:
        """Tell whether the group has the volume now."""
        return self._rows[volume_id].state == ACTIVE

    def named(self, name: str) -> Volume:
        """Return the volume the group has under a name now.

        Raises:
            NotFound: there is none.
        """
        for volume in self.active():
            if volume.name == name:
                return volume
        raise errors.NotFound("volume", name)

    def of_record(self, volume_id: int, offset: int, length: int, lsn: int) -> Volume:
        """Return the volume a record writes.

        Raises:
            DataCorrupt: there is none, or the range reaches past its end.
        """
        volume = self._volumes.get(volume_id)
        if volume is None:
            raise errors.DataCorrupt(f"record {lsn}", f"it names volume id {volume_id}, not here")
        if offset + length > volume.size:
            raise errors.DataCorrupt(
                f"record {lsn}",
                f"{length} bytes at {offset} reach past the {volume.size} bytes of {volume.name!r}",
            )
        return volume

    def add(self, volume_id: int, name: str, size: int, lsn: int) -> None:
        """Make a volume that reads as zeroes; one that is there already is left alone (replay).

        Raises:
            OSError: no room; may be tried again.
        """
        if volume_id in self._volumes:
            return
        row = self.new_row(volume_id, name, size, lsn)
        self._database.put_volume(row)
        self._make(row)

    def new_row(self, volume_id: int, name: str, size: int, lsn: int) -> VolumeRow:
        """Return the row of a volume to be made, with a path that no other row has."""
        path = f"volumes/{name}.raw"
        if any(row.path == path for row in self._rows.values()):
            path = f"volumes/{name}.{volume_id}.raw"
        return VolumeRow(volume_id, name, size, CREATING, path, lsn)

    def _make(self, row: VolumeRow) -> None:
        path = self._directory.volume(row.path)
        try:
            volume = Volume.create(self._storage, path, row.id, row.name, row.size)
        except OSError as error:
            if error.errno in _FULL:
                raise
            raise self._failstop.fail(path, "create", error) from error
        row = replace(row, state=ACTIVE)
        try:
            self._database.put_volume(row)
        except OSError:
            volume.close()  # it is made anew when there is room for the row
            raise
        self._put(volume, row)

    def size_of(self, volume_id: int, lsn: int) -> int:
        """Return a volume's size as group.db has it.

        Raises:
            DataCorrupt: a record names a volume that is not here.
        """
        self.of_record(volume_id, 0, 0, lsn)
        return self._rows[volume_id].size

    def grow(self, volume_id: int, size: int) -> None:
        """Let a volume have the larger of both sizes; the new part reads as zeroes.

        Raises:
            OSError: the storage refused; may be tried again.
            StorageFailed: the sync failed, which is final (D3).
        """
        volume, row = self._volumes[volume_id], self._rows[volume_id]
        if size <= row.size:  # the row counts: it is written last, and again if it had no room
            return
        held = volume.file.size()
        if held > row.size:  # the sync of another history cut it; what lies there is stale
            volume.file.zero(row.size, min(held, size) - row.size)
        volume.grow(size)
        self._sync(volume)
        row = replace(row, size=size)
        self._database.put_volume(row)
        self._rows[volume_id] = row

    def remove(self, volume_id: int, lsn: int) -> None:
        """Take a volume from the group; its file stays until `drop_removed`."""
        row = self._rows.get(volume_id)
        if row is None or row.state == REMOVING:
            return
        row = replace(row, state=REMOVING, lsn=lsn)
        self._database.put_volume(row)
        self._rows[volume_id] = row

    def drop_removed(self, checkpoint_lsn: int, used: frozenset[int]) -> None:
        """Remove the files of removed volumes that neither replay nor a snapshot needs (D28)."""
        for volume_id, row in list(self._rows.items()):
            if row.state != REMOVING or row.lsn > checkpoint_lsn or volume_id in used:
                continue
            volume = self._volumes.pop(volume_id, None)
            if volume is not None:
                volume.close()
            path = self._directory.volume(row.path)
            if self._storage.exists(path):
                self._storage.remove(path)
                self._storage.sync_directory(path.parent)
            self._database.remove_volume(volume_id)
            del self._rows[volume_id]  # last: as long as group.db has it, its path is taken

    def sync(self) -> None:
        """Make every volume durable.

        Raises:
            StorageFailed: a sync failed, which is final (D3).
        """
        for volume in self.all():
            self._sync(volume)

    def _sync(self, volume: Volume) -> None:
        with self._sync_lock:
            self._failstop.check()
            try:
                volume.sync()
            except OSError as error:
                raise self._failstop.fail(volume.path, "sync", error) from error

    def start_writeback(self, *, everything: bool = False) -> None:
        """Let the system begin to write back some of what was written, or all (D10, D24)."""
        for volume_id, area in self.writeback.take(everything=everything):
            volume = self._volumes.get(volume_id)
            if volume is not None:
                # A write that began in the area may reach into the next.
                volume.start_writeback(area << AREA_BITS, AREA_BYTES + MAX_PAYLOAD)

    def rows(self) -> list[VolumeRow]:
        """Return the rows as they are now."""
        return list(self._rows.values())

    def close(self) -> None:
        """Close every file."""
        for volume in self.all():
            volume.close()

    def _put(self, volume: Volume, row: VolumeRow) -> None:
        self._volumes[row.id] = volume
        self._rows[row.id] = row
