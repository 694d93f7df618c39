"""The replica's calls about writable clones of its snapshots."""

import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress

from slackwater import errors
from slackwater.apply.check_results import CheckResults
from slackwater.apply.replica_copies import ReplicaCopies
from slackwater.clones.catalogue import CREATING, Clones
from slackwater.clones.volume import CloneVolume
from slackwater.group.rows import CheckRow, CloneRow, SnapshotRow
from slackwater.names import check_label
from slackwater.snapshots.catalogue import Catalogue


class ReplicaClones(ReplicaCopies):
    """Calls about clones; part of `Replica`. Files are made and removed beside the applier."""

    name: str
    catalogue: Catalogue
    clones: Clones
    checks: CheckResults

    def create_clone(
        self, name: str, snapshot: str, *, validate_only: bool = False
    ) -> CloneRow | None:
        """Make a writable clone of all volumes of a snapshot; None with `validate_only`.

        Raises:
            InvalidRequest: the name is no DNS label.
            NotFound: there is no such snapshot.
            AlreadyExists: the name is taken.
            FailedPrecondition: the snapshot guards a sync, or is not reached after a crash.
            NoSpace: there is no room; nothing is left behind.
            GroupFailed: the replica has failed.
        """
        check_label("clone_id", name)
        with self._using(self.catalogue.get(snapshot)):
            parent = self.catalogue.get(snapshot)
            self.check_reached(snapshot)
            if parent.guard:
                raise errors.FailedPrecondition(
                    "GUARD_SNAPSHOT",
                    f"snapshot {snapshot!r} guards the last consistent state during a sync and"
                    " goes with it",
                    "Clone another snapshot, or try again after the sync with a new one",
                )
            row = self._begin(name, parent, None, validate_only=validate_only)
        return None if row is None else self._make(row, self._finish)

    def create_clone_of_clone(
        self, name: str, parent: str, *, validate_only: bool = False
    ) -> CloneRow | None:
        """Make a clone that is another as it is now; None with `validate_only`.

        What was answered to the parent's writers until one instant is in it, durably, on all
        volumes; nothing later is. From then on neither sees what is written to the other.

        Raises:
            InvalidRequest: the name is no DNS label.
            NotFound: there is no such parent.
            AlreadyExists: the name is taken.
            FailedPrecondition: a read would pass too many layers.
            StorageFailed, DataCorrupt: the parent cannot be used.
            NoSpace: there is no room; nothing is left behind.
            GroupFailed: the replica has failed.
        """
        check_label("clone_id", name)
        with self._changing():
            source = self.clones.get(parent)
            snapshot = self.snapshot_of(source)
            row = self._begin(name, snapshot, source, validate_only=validate_only)
        if row is None:
            return None
        return self._make(row, lambda row: self.clones.split(row, source))

    def _begin(
        self, name: str, snapshot: SnapshotRow, parent: CloneRow | None, *, validate_only: bool
    ) -> CloneRow | None:
        if any(row.name == name for row in self.clones.ready()):
            raise errors.AlreadyExists("clone", name)
        return None if validate_only else self.clones.begin(name, snapshot, parent)

    def _changing_clone(self, row: CloneRow) -> AbstractContextManager[None]:
        """Change a clone; of a snapshot that is gone by then, as anything else is changed."""
        try:
            return self._using(self.snapshot_of(row))
        except errors.NotFound:
            return self._changing()

    def _finish(self, row: CloneRow) -> CloneRow:
        with self._using(self.snapshot_of(row)):
            return self.clones.finish(row)

    def _make(self, row: CloneRow, finish: Callable[[CloneRow], CloneRow]) -> CloneRow:
        try:
            self.clones.make_files(row)
            return finish(row)
        except OSError as error:
            self._abandon(row)
            raise errors.NoSpace(
                f"clone {row.name!r} of replica {self.name!r}", str(error)
            ) from error
        except errors.SlackwaterError:
            self._abandon(row)  # refused where the replica failed: then the next start does it
            raise

    def _abandon(self, row: CloneRow) -> None:
        with self._changing_clone(row):
            self.clones.abandon(row)

    def record_check(self, row: CheckRow) -> None:
        """Keep what a check found with its snapshot, durably; the same id again changes nothing.

        Raises:
            NoSpace: there is no room for it.
            GroupFailed: the replica has failed.
        """
        with self._changing():
            self.checks.add(row)

    def clones_of(self, snapshot: SnapshotRow) -> list[CloneRow]:
        """Return the clones that stand on a snapshot."""
        return self.clones.on(snapshot.uid)

    def snapshot_of(self, clone: CloneRow) -> SnapshotRow:
        """Return the snapshot a clone stands on.

        Raises:
            NotFound: it is gone, as the clone is.
        """
        return self._snapshot_with(clone.snapshot_uid)

    def export_clone(self, name: str) -> CloneRow:
        """Mark a clone as exported, durably: after a restart it is exported again.

        Raises:
            NotFound: there is none of that name.
            StorageFailed, DataCorrupt: it cannot be opened.
        """
        row = self.clones.get(name)
        for _, volume, _ in row.volumes:
            self.clones.open_volume(name, volume)
        with self._using(self.snapshot_of(row)):
            return self.clones.set_exported(name, True)

    def unexport_clone(self, name: str) -> CloneRow:
        """Take the mark off.

        Raises:
            NotFound: there is none of that name.
        """
        with self._using(self.snapshot_of(self.clones.get(name))):
            return self.clones.set_exported(name, False)

    def delete_clone(self, name: str, *, force: bool = False) -> None:
        """Remove a clone with all that was written to it. With `force` its export ends with it.

        Raises:
            NotFound: there is none of that name.
            FailedPrecondition: it is exported and not forced.
        """
        with self._using(self.snapshot_of(self.clones.get(name))):
            row = self.clones.get(name)
            if row.exported and not force:
                raise errors.FailedPrecondition(
                    "CLONE_EXPORTED",
                    f"clone {name!r} of replica {self.name!r} is exported",
                    f"Unexport it first: slackwater snapshot clone unexport {self.name} {name}",
                )
            row = self.clones.let_go(name)
        self.remove_clone(row)

    def remove_clone(self, row: CloneRow) -> None:
        """Remove what is left of a clone that was let go; what cannot go now goes at the start."""
        with suppress(OSError, errors.GroupFailed):
            self.clones.remove_files(row)
            with self._changing_clone(row):
                self.clones.forget(row)

    def open_clone_volume(self, name: str, volume_name: str) -> CloneVolume:
        """Return one volume of a clone; see `Clones.open_volume`."""
        return self.clones.open_volume(name, volume_name)

    def check_no_clone(self, row: SnapshotRow) -> None:
        """Refuse to let a snapshot go that a clone stands on.

        Raises:
            FailedPrecondition: there is one; names the command that ends it.
        """
        found = self.clones_of(row)
        if found:
            names = ", ".join(clone.name for clone in found)
            raise errors.FailedPrecondition(
                "SNAPSHOT_CLONED",
                f"snapshot {row.name!r} of replica {self.name!r} has writable clones: {names}",
                f"Delete them first: slackwater snapshot clone delete {self.name} {found[0].name}",
            )

    def end_clones(self, row: SnapshotRow) -> list[CloneRow]:
        """Let the clones of a snapshot go, durably, all or none; see `remove_clone` for the rest.

        Raises:
            FailedPrecondition: one is just being made.
        """
        found = self.clones_of(row)
        for clone in found:
            if clone.state == CREATING:
                raise errors.FailedPrecondition(
                    "CLONE_COMES",
                    f"clone {clone.name!r} of snapshot {row.name!r} is just being made",
                    "Try again when it is there",
                )
        return [self.clones.let_go(clone.name) for clone in found]

    def _snapshot_with(self, uid: uuid.UUID) -> SnapshotRow:
        for row in self.catalogue.ready():
            if row.uid == uid:
                return row
        raise errors.NotFound("snapshot", str(uid))
