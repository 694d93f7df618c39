"""The snapshots of one group: which there are, which is fed, how one comes and goes.

Newest last, by place in this side's log; places grow through every reset of the log, so "below a
record" means the same before and after a full sync. Only the newest snapshot below a record is fed
(D22); an older one looks through newer ones to the volume.

A snapshot comes in two steps (`making`), alone or in another's place. It costs the same at any
size.

A snapshot goes in any order: its row becomes DELETING, from then on it takes no more chunks; the
chunks that its older neighbour (of each volume: the next older that has it) lacks are copied there,
the copies synced, and only then the row and the files go. Chunks that a newer record would have
preserved in it are preserved in the neighbour.
"""

import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from slackwater import errors
from slackwater.clock import Clock
from slackwater.group.database import GroupDatabase
from slackwater.group.rows import SnapshotRow
from slackwater.group.volume import Volume
from slackwater.position import LogPoint
from slackwater.snapshots import files
from slackwater.snapshots.budget import Budget
from slackwater.snapshots.chains import Chains
from slackwater.snapshots.copies import Copies
from slackwater.snapshots.copying import SPACE_OPTIMIZED, Copier, open_copies
from slackwater.snapshots.feed import Entry, Feed
from slackwater.snapshots.gather import CHUNK_BYTES
from slackwater.snapshots.making import CREATING, DELETING, READY, Making, going
from slackwater.snapshots.marks import Marks
from slackwater.snapshots.merging import Merger
from slackwater.snapshots.overlay import Overlay
from slackwater.snapshots.reader import SnapshotVolume
from slackwater.storage.seam import Storage


class Catalogue(Marks, Copies):
    """The snapshots of one group.

    The caller serialises everything that changes what is fed (`create`, `delete`) with the applier;
    `merge_step` runs beside it. `_lock` guards the chain, which readers load as one tuple.
    """

    def __init__(
        self,
        storage: Storage,
        directory: Path,
        database: GroupDatabase,
        clock: Clock,
        volumes: Callable[[int], Volume],
    ) -> None:
        """Hold nothing yet; `open` finds what there is."""
        self.reached: Callable[[], LogPoint] | None = None
        self._storage = storage
        self._directory = directory
        self._database = database
        self._volumes = volumes
        self._chain: tuple[Entry, ...] = ()
        self._lock = threading.Lock()
        self._merge_lock = threading.Lock()
        self._merger = Merger()
        self._chains = Chains()
        self._copier = Copier(self._reader)
        self._making = Making(storage, database, clock, self._path)
        self.budget = Budget(lambda: self.used_bytes)

    # -- opening and closing -----------------------------------------------------------------

    def open(self, *, clean: bool) -> None:
        """Open all snapshots; remove what a crash left half made or half removed.

        Raises:
            DataCorrupt: an overlay's file is gone.
            OSError: the storage failed.
        """
        self._storage.make_directory(self._directory)
        kept = []
        for row in self._database.snapshots():
            if row.state == CREATING:
                self._storage.remove_tree(self._path(row))
                self._database.remove_snapshot(row.id)
            else:
                kept.append(row)
        names = {row.uid.hex for row in kept}
        for name in self._storage.listing(self._directory):
            if name not in names:
                self._storage.remove_tree(self._directory / name)
        kept.sort(key=lambda row: (row.point.offset, row.id))
        self._chain = tuple(
            self._entry_of(
                Entry(
                    row,
                    self._open_overlays(row, clean),
                    open_copies(self._storage, self._path(row), row, clean=clean),
                )
            )
            for row in kept
        )

    def _entry_of(self, entry: Entry) -> Entry:
        for overlay in entry.overlays.values():
            overlay.room = self.budget.reserve
        return entry

    def _open_overlays(self, row: SnapshotRow, clean: bool) -> dict[int, Overlay]:
        return {
            volume_id: Overlay.open(
                self._storage,
                *files.paths(self._path(row), volume_id),
                row.uid,
                size,
                row.chunk_bytes,
                clean=clean,
            )
            for volume_id, _, size in row.volumes
        }

    def sync(self) -> None:
        """Make every overlay durable.

        Raises:
            StorageFailed: a sync failed, which is final (D3).
        """
        for entry in self._chain:
            for overlay in entry.files:
                overlay.sync()

    def close(self, *, clean: bool) -> None:
        """Close every overlay; with `clean` their maps are sealed, so the next start scans nothing.

        Raises:
            OSError: the storage failed; the stop is not a clean one.
        """
        with self._lock:
            chain, self._chain = self._chain, ()
        for entry in chain:
            for overlay in entry.files:
                if clean:
                    overlay.close_clean()
                else:
                    overlay.close()

    # -- what there is -----------------------------------------------------------------------

    def ready(self) -> list[SnapshotRow]:
        """Return the snapshots, oldest first, without those that are going."""
        return [entry.row for entry in self._chain if entry.row.state == READY]

    def get(self, name: str) -> SnapshotRow:
        """Return one.

        Raises:
            NotFound: there is none of that name.
        """
        return self._entry(name).row

    def entries(self) -> tuple[Entry, ...]:
        """Return the whole chain, oldest first, with those that are going."""
        return self._chain

    def preserved_bytes(self, name: str) -> dict[int, int]:
        """Return the bytes that each of its overlays takes, by volume id."""
        entry = self._entry(name)
        copied = {number: copy.end for number, copy in entry.copies.items()}
        return {
            number: overlay.end + copied.get(number, 0)
            for number, overlay in entry.overlays.items()
        }

    @property
    def used_bytes(self) -> int:
        """Bytes that what was preserved takes, of snapshots that are going too; no full copies."""
        return sum(overlay.end for entry in self._chain for overlay in entry.overlays.values())

    def used_volumes(self) -> frozenset[int]:
        """Return the ids of the volumes whose bytes a snapshot needs."""
        return frozenset(
            number for entry in self._chain if not entry.row.copied for number in entry.overlays
        )

    def _entry(self, name: str) -> Entry:
        for entry in self._chain:
            if entry.row.name == name and entry.row.state == READY:
                return entry
        raise errors.NotFound("snapshot", name)

    # -- feeding -----------------------------------------------------------------------------

    def feed(self, offset: int) -> Feed | None:
        """Return what takes the old bytes under records after log offset `offset` (D22)."""
        below = [entry for entry in reversed(self._chain) if entry.row.point.offset <= offset]
        if not any(entry.row.state == READY for entry in below):
            return None
        return Feed(below, self._volumes)

    def next_boundary(self, offset: int) -> int | None:
        """Return the place of the first snapshot past `offset`: no batch may cross it (D22)."""
        places = [entry.row.point.offset for entry in self._chain]
        return min((place for place in places if place > offset), default=None)

    # -- coming ------------------------------------------------------------------------------

    def create(
        self,
        name: str,
        point: LogPoint,
        volumes: Sequence[Volume],
        *,
        message_id: str = "",
        guard: bool = False,
        evidence: Mapping[str, object] | None = None,
        chunk_bytes: int = 0,
        began: float | None = None,
        replaces: bool = False,
        kind: str = SPACE_OPTIMIZED,
    ) -> SnapshotRow:
        """Make a snapshot of all volumes, which stand exactly at `point`.

        Snapshots look through each other chunk by chunk, so those of a group have one chunk size
        as long as there is any; 0 asks for that, or for 64 KiB. With `began`, a monotonic time,
        the evidence says how long it took since then. With `replaces` it takes the place of the
        one of its name, which goes as by `delete`, whatever its marks; a crash leaves one of them.

        Raises:
            AlreadyExists: the name is taken.
            NotFound: there is none of that name to replace.
            FailedPrecondition: the other snapshots have another chunk size.
            OSError: no room, or the storage refused; nothing is left behind, it may be tried again.
            StorageFailed: a sync or commit failed, which is final (D3).
        """
        replaced = self.get(name) if replaces else None
        if not replaces and any(entry.row.name == name for entry in self._chain):
            raise errors.AlreadyExists("snapshot", name)
        assert not self._chain or self._chain[-1].row.point.offset <= point.offset
        made = self._making.make(
            name,
            point,
            volumes,
            message_id=message_id,
            guard=guard,
            evidence=evidence or {},
            chunk_bytes=self._chunk_bytes(chunk_bytes),
            began=began,
            replaces=replaced,
            kind=kind,
        )
        with self._lock:
            chain = tuple(
                replace(held, row=going(held.row))
                if replaced is not None and held.row.uid == replaced.uid
                else held
                for held in self._chain
            )
            self._chain = (*chain, self._entry_of(Entry(*made)))
        return made[0]

    def _chunk_bytes(self, wanted: int) -> int:
        held = self._chain[-1].row.chunk_bytes if self._chain else 0
        if wanted and held and wanted != held:
            raise errors.FailedPrecondition(
                "CHUNK_BYTES",
                f"the group's snapshots have chunks of {held} bytes, not {wanted}",
                "Leave the chunk size out, or delete the other snapshots first",
            )
        return wanted or held or CHUNK_BYTES

    # -- going -------------------------------------------------------------------------------

    def delete(self, name: str, *, guard: bool = False, exported: bool = False) -> None:
        """Let a snapshot go; `merge_step` does the work. It is not listed any more.

        With `guard` or `exported` it may be that; an export's mark goes in the same step.

        Raises:
            NotFound: there is none of that name.
            FailedPrecondition: it is exported, or it is the guard of a running sync (D27).
        """
        row = self.get(name)
        if row.exported and not exported:
            raise errors.FailedPrecondition(
                "SNAPSHOT_EXPORTED",
                f"snapshot {name!r} is exported",
                f"Unexport it first: slackwater snapshot unexport GROUP {name}",
            )
        if row.guard and not guard:
            raise errors.FailedPrecondition(
                "GUARD_SNAPSHOT",
                f"snapshot {name!r} guards the last consistent state during a sync",
                "It goes by itself when the replica is consistent again",
            )
        self._update(going(row))

    def expire(self, name: str, detail: Mapping[str, object]) -> None:
        """Let a snapshot go for the budget's sake, and keep a note of it in the same step."""
        self._update(going(self.get(name)), detail)

    def merge_step(self) -> bool:
        """Do one bounded piece of work for the oldest snapshot that is going.

        Raises:
            StorageFailed: a sync failed, which is final (D3).
            OSError: no room for the copies; nothing is lost, it may be tried again.
        """
        with self._merge_lock:
            return self._merge()

    def _merge(self) -> bool:
        chain = self._chain
        for index, entry in enumerate(chain):
            if entry.row.state != DELETING:
                continue
            if not self._merger.step(chain[:index], entry):
                return True
            self._forget(entry)
            return True
        return False

    def _forget(self, entry: Entry) -> None:
        self._database.remove_snapshot(entry.row.id)
        with self._lock:
            self._chain = tuple(other for other in self._chain if other.row.uid != entry.row.uid)
        self._merger.forget(entry)
        self._copier.forget(entry.row)
        files.drop(self._storage, self._path(entry.row), entry.files)

    # -- reading -----------------------------------------------------------------------------

    def open_volume(self, name: str, volume_name: str) -> SnapshotVolume:
        """Return a reader of one volume of a snapshot.

        Raises:
            NotFound: there is no such snapshot or volume.
            FailedPrecondition: the replica has not caught up with it after a crash (D22).
        """
        row = self.get(name)
        for volume_id, of_name, size in row.volumes:
            if of_name == volume_name:
                self.chain(row.uid, volume_id)
                return self._reader(row, volume_id, size)
        held = ", ".join(of_name for _, of_name, _ in row.volumes)
        raise errors.NotFound("volume", volume_name, f"Snapshot {name!r} has: {held}")

    def open_by_uid(self, uid: uuid.UUID, volume_name: str) -> SnapshotVolume:
        """Return a reader of one volume of the snapshot with a uid; raises as `open_volume`."""
        for row in self.ready():
            if row.uid == uid:
                return self.open_volume(row.name, volume_name)
        raise errors.NotFound("snapshot", str(uid))

    def chain(self, snapshot_uid: uuid.UUID, volume_id: int) -> Sequence[Overlay]:
        """Return the overlays a reader looks at, in order; see `reader.View`."""
        found = self._chains.of(self._chain, snapshot_uid, volume_id)
        if found is None:
            raise errors.NotFound("snapshot", str(snapshot_uid))
        row, overlays = found
        assert self.reached is not None, "the applier is set before anything is read"
        if row.point.offset > self.reached().offset and not row.copied:
            raise errors.FailedPrecondition(
                "SNAPSHOT_NOT_REACHED",
                f"the replica is recovering and not yet at snapshot {row.name!r}",
                "Try again when recovery is done",
            )
        return overlays

    def _path(self, row: SnapshotRow) -> Path:
        return self._directory / row.uid.hex
