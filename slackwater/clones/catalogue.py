"""The clones of one group: which there are, how one comes and goes, its open volumes.

A clone comes in three steps: a row that nobody sees, its files, synced with their names, and then
READY. What a crash leaves of that was never answered and is removed at the next start. It goes by a
row that is DELETING, in one step; the files follow, now or at the next start.

A clone of a clone comes the same way. Its last step freezes the parent's top layer while no volume
of the parent is written, in one transaction that gives both clones their layers (`layers`).

What writes group.db is called where a failed commit stops the replica (D3); files are made and
removed beside it.

Nothing here needs the applier or waits for it. A clone whose files are damaged, or one of whose
syncs failed, is FAILED by itself; the replica goes on.
"""

import errno
import threading
import uuid
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from slackwater import errors
from slackwater.clock import Clock
from slackwater.clones.layers import Layers
from slackwater.clones.volume import CloneVolume, Parent
from slackwater.group.database import GroupDatabase
from slackwater.group.rows import CloneRow, SnapshotRow
from slackwater.storage.seam import Storage

CREATING: Final = "CREATING"
READY: Final = "READY"
FAILED: Final = "FAILED"
DELETING: Final = "DELETING"
LAYERS_LIMIT: Final = 64
"""A read looks through all layers of a clone."""

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
        self._layers = Layers(storage, directory)
        self._database = database
        self._clock = clock
        self._find_parent = find_parent
        self._rows: dict[int, CloneRow] = {}
        self._open: dict[tuple[int, int], CloneVolume] = {}
        self._unused: set[int] = set()  # clones that go and whose volumes nobody uses any more
        self._lock = threading.RLock()

    def open(self) -> None:
        """Find the clones; remove what a crash left half made or half removed.

        Raises:
            OSError: the storage failed.
        """
        for row in self._database.clones():
            if row.state in _SEEN:
                self._rows[row.id] = row
            else:
                self._database.remove_clone(row.id)
        self._layers.sweep({uid for row in self._rows.values() for uid in _stack(row)})

    def close(self, *, clean: bool) -> None:
        """Close every volume; with `clean` what was written is made durable first."""
        with self._lock:
            volumes, self._open = list(self._open.values()), {}
        for volume in volumes:
            volume.close(flush=clean)
        with self._lock:
            self._layers.close()

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

    def begin(self, name: str, snapshot: SnapshotRow, parent: CloneRow | None = None) -> CloneRow:
        """Take a name for a clone, durably; the snapshot is needed from here on.

        With `parent` it will be a clone of that clone, which stands on the snapshot.

        Raises:
            AlreadyExists: the name is taken.
        """
        with self._lock:
            if any(row.name == name for row in self._rows.values()):
                raise errors.AlreadyExists("clone", name)
            uid = uuid.uuid4()
            row = CloneRow(
                id=0,
                name=name,
                uid=uid,
                snapshot_uid=snapshot.uid,
                state=CREATING,
                exported=False,
                chunk_bytes=snapshot.chunk_bytes,
                created_ns=self._clock.time_ns(),
                volumes=snapshot.volumes,
                top=uid,
                parent=None if parent is None else parent.uid,
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
        self._layers.make(row.top, row)

    def finish(self, row: CloneRow) -> CloneRow:
        """Let a clone be seen whose files are there.

        Raises:
            OSError: no room in group.db; `abandon` what was begun.
        """
        return self._update(replace(row, state=READY))

    def split(self, row: CloneRow, parent: CloneRow) -> CloneRow:
        """Let a clone be seen that is its parent as it is at one instant, all volumes together.

        Its files are there. Writers of the parent wait for one sync.

        Raises:
            NotFound: the parent is gone.
            StorageFailed: a sync failed: the parent's, or that of group.db, which ends the replica.
            FailedPrecondition: a read would pass too many layers.
            DataCorrupt: the parent's files are damaged.
            OSError: no room, or the storage refused; `abandon` what was begun.
        """
        volumes = {number: self.open_volume(parent.name, of) for number, of, _ in parent.volumes}
        for volume in volumes.values():
            volume.flush()  # what can be is written out before anybody has to wait
        top = uuid.uuid4()
        with ExitStack() as undo:
            undo.callback(self._remove_layer, top)
            self._layers.make(top, parent)
            tops = {number: self._layers.open(top, parent, number) for number in volumes}
            for layer in tops.values():
                undo.callback(layer.close)
            with ExitStack() as standing:
                is_written = [
                    standing.enter_context(volume.standing())
                    for _, volume in sorted(volumes.items())
                ]
                with self._lock:
                    parent = self._still(parent)
                    if not any(is_written):
                        return self._update(replace(row, state=READY, layers=parent.layers))
                    try:
                        made = self._commit_split(row, parent, top)
                    except errors.StorageFailed as error:
                        undo.pop_all()  # whether it is there the next start will know (D3)
                        self.on_failed(error)
                        raise
                    undo.pop_all()
                    for number, volume in volumes.items():
                        self._layers.freeze(parent.top, number, volume.grow(tops[number]))
                    return made

    def _still(self, parent: CloneRow) -> CloneRow:
        """Return the row of a clone as it is now."""
        now = self._rows.get(parent.id)
        if now is None or now.state not in _SEEN:
            raise errors.NotFound("clone", parent.name)
        return now

    def _commit_split(self, row: CloneRow, parent: CloneRow, top: uuid.UUID) -> CloneRow:
        layers = _stack(parent)
        if len(layers) > LAYERS_LIMIT:
            raise errors.FailedPrecondition(
                "CLONE_TOO_DEEP",
                f"clone {parent.name!r} reads through {LAYERS_LIMIT} layers: it, or what it was"
                " made of, was cloned so often",
                "Make a new clone of the snapshot and copy into it what you need",
            )
        made = replace(row, state=READY, layers=layers)
        grown = replace(parent, layers=layers, top=top)
        self._database.update_clones(made, grown)
        self._rows.update({made.id: made, grown.id: grown})
        return made

    def _remove_layer(self, uid: uuid.UUID) -> None:
        with suppress(OSError):  # else the next start removes it
            self._layers.remove(uid)

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
            self._database.update_clones(row)
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
            self._database.update_clones(row)
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
        with self._lock:
            self._unused.add(row.id)
            unneeded = set(_stack(row)) - self._needed_by(self._rows.keys() - self._unused)
            self._layers.let_go(unneeded)
        for uid in sorted(unneeded):
            self._layers.remove(uid)

    def _needed_by(self, clones: Iterable[int]) -> set[uuid.UUID]:
        return {uid for number in clones for uid in _stack(self._rows[number])}

    def forget(self, row: CloneRow) -> None:
        """Remove the row of a clone whose files are gone."""
        self._database.remove_clone(row.id)
        with self._lock:
            self._rows.pop(row.id, None)
            self._unused.discard(row.id)

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
        return CloneVolume(
            row.name,
            lambda: self._find_parent(row.snapshot_uid, name),
            self._layers.stack(row, number),
            size,
            row.chunk_bytes,
            lambda: self._set_failed(row.id),
        )

    def bytes_of(self, row: CloneRow) -> dict[int, tuple[int, int]]:
        """Return what each volume takes on disk, by volume id: what ends with it, what it shares.

        What is not there counts as nothing.
        """
        with self._lock:
            others = self._needed_by(self._rows.keys() - {row.id})
        own, shared = set(_stack(row)) - others, set(_stack(row)) & others
        return {
            number: (self._layers.bytes_of(own, number), self._layers.bytes_of(shared, number))
            for number, _, _ in row.volumes
        }


def _stack(row: CloneRow) -> tuple[uuid.UUID, ...]:
    return (*row.layers, row.top)
