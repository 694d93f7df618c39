"""The replica's calls about snapshots."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final

from slackwater import errors
from slackwater.apply.applier import Applier
from slackwater.apply.messages import Messages
from slackwater.apply.replica_budget import ReplicaBudget
from slackwater.apply.replica_clones import ReplicaClones
from slackwater.apply.replica_reading import ReplicaReading
from slackwater.apply.syncing import Syncing
from slackwater.apply.volumes import VolumeSet
from slackwater.clock import Clock
from slackwater.group.rows import SnapshotRow
from slackwater.group.volume import Volume
from slackwater.ibc.messages import Message
from slackwater.names import check_label
from slackwater.position import LogPoint
from slackwater.snapshots.catalogue import Catalogue
from slackwater.snapshots.copying import SPACE_OPTIMIZED

MIN_CHUNK_BYTES: Final = 4 << 10
MAX_CHUNK_BYTES: Final = 1 << 20


class ReplicaSnapshots(ReplicaClones, ReplicaBudget, ReplicaReading):
    """Calls about snapshots; part of `Replica`."""

    name: str
    applier: Applier
    catalogue: Catalogue
    clock: Clock
    messages: Messages
    syncing: Syncing
    volumes: VolumeSet
    on_change: Callable[[], None]
    _recover_to: LogPoint | None

    @abstractmethod
    def _changing(self) -> AbstractContextManager[None]:
        """See `Replica`."""

    def create_snapshot(
        self,
        name: str,
        *,
        at_message: str = "",
        chunk_bytes: int = 0,
        exclude: Sequence[str] = (),
        kind: str = SPACE_OPTIMIZED,
        validate_only: bool = False,
    ) -> SnapshotRow | None:
        """Take a snapshot of the volumes where the replica stands; None with `validate_only`.

        With `at_message` the replica must stand at that message, and the snapshot is marked as
        taken at it (C12). Its grade is `crash` until a CONFIRMED outcome is applied (C17).

        Raises:
            InvalidRequest: the name is no DNS label, the chunk size is no good, or a volume to
                leave out is not there.
            AlreadyExists: the name is taken.
            FailedPrecondition: the replica recovers, is inconsistent, or does not stand there, or
                the group's other snapshots have another chunk size.
            Unavailable: a record is applied in part and cannot be finished now.
            NoSpace: there is no room, on the disk or in the snapshot budget.
            GroupFailed: the replica has failed.
        """
        check_label("snapshot_id", name)
        if chunk_bytes and (
            not MIN_CHUNK_BYTES <= chunk_bytes <= MAX_CHUNK_BYTES or chunk_bytes & chunk_bytes - 1
        ):
            raise errors.InvalidRequest(
                "chunk_bytes", f"{chunk_bytes} is not a power of two from 4 KiB to 1 MiB"
            )
        began = self.clock.monotonic()
        with self._changing():
            self._check_has_point()
            evidence: dict[str, object] = {}
            if at_message:
                evidence = self._evidence_at(at_message)
            self._included(exclude)
            if exclude:
                evidence["excluded"] = list(exclude)
            if any(row.name == name for row in self.catalogue.ready()):
                raise errors.AlreadyExists("snapshot", name)
            self.check_budget()
            if validate_only:
                return None
            self._finish_record()
            point = self.applier.reached
            row = self._create(name, point, at_message, evidence, chunk_bytes, began, kind)
        self.on_change()
        return row

    def refresh_snapshot(
        self, name: str, *, at_message: str = "", validate_only: bool = False
    ) -> SnapshotRow | None:
        """Take a snapshot in the place of the one of that name; None with `validate_only`.

        The name never stands for neither or both: a crash leaves the old one or the new one, whole.
        What `create_snapshot` says of `at_message` and the grade is so here.

        Raises:
            NotFound: there is none of that name.
            FailedPrecondition: it is exported or held, or no snapshot can be taken now.
            Unavailable, NoSpace, GroupFailed: see `create_snapshot`; the old one stays.
        """
        check_label("name", name)
        began = self.clock.monotonic()
        with self._changing():
            old = self.catalogue.get(name)
            self.check_free(old)
            self._check_has_point()
            evidence = self._evidence_at(at_message) if at_message else {}
            if excluded := self.catalogue.get(name).evidence.get("excluded"):
                evidence["excluded"] = excluded
            if validate_only:
                return None
            self._finish_record()
            point = self.applier.reached
            row = self._create(name, point, at_message, evidence, 0, began, old.kind, replaces=True)
        self.on_change()
        return row

    def _included(self, exclude: Sequence[str], *, is_known: bool = False) -> list[Volume]:
        """Return the volumes without those left out; `is_known`: one may be gone since.

        Raises:
            InvalidRequest: one that is left out is not there, or none is left.
        """
        volumes = self.volumes.active()
        names = [volume.name for volume in volumes]
        for name in () if is_known else exclude:
            if name not in names:
                raise errors.InvalidRequest(
                    "exclude_volumes",
                    f"there is no volume {name!r} in replica {self.name!r}",
                    f"There are: {', '.join(names) or 'none'}",
                )
        chosen = [volume for volume in volumes if volume.name not in exclude]
        if exclude and not chosen:
            raise errors.InvalidRequest(
                "exclude_volumes", "leaves no volume", "Leave out fewer, or take no snapshot"
            )
        return chosen

    def _check_has_point(self) -> None:
        if self._recover_to is not None:
            raise errors.FailedPrecondition(
                "RECOVERING",
                f"replica {self.name!r} is replaying its log and stands at no point yet",
                "Try again when it is done",
            )
        if self.syncing.is_running:
            raise errors.FailedPrecondition(
                "INCONSISTENT",
                f"replica {self.name!r} is being synchronised and stands at no point",
                "Try again when it is consistent",
            )

    def _evidence_at(self, message_id: str) -> dict[str, object]:
        standing = self.messages.delivery.standing
        if (
            standing is None
            or standing.message.message_id != message_id
            or self.applier.stopped is None
        ):
            raise errors.FailedPrecondition(
                "NOT_FROZEN",
                f"replica {self.name!r} does not stand at message {message_id!r}",
                "A snapshot taken now would not be at the message",
            )
        stood = self.clock.monotonic() - standing.stood_since
        return {**_evidence(standing.message), "frozen_seconds_before": stood}

    def _finish_record(self) -> None:
        """Bring a large zero to its end: a snapshot lies between records."""
        while not self.applier.is_at_boundary:
            if not self.applier.step():
                stall = self.applier.stall
                raise errors.Unavailable(
                    f"a snapshot of replica {self.name!r}",
                    f"Record {stall.lsn if stall else ''} is applied in part: no space or an error",
                )

    def _create(
        self,
        name: str,
        point: LogPoint,
        message_id: str,
        evidence: dict[str, object],
        chunk_bytes: int,
        began: float,
        kind: str,
        *,
        replaces: bool = False,
    ) -> SnapshotRow:
        try:
            return self.catalogue.create(
                name,
                point,
                self._included(_excluded(evidence), is_known=replaces),
                message_id=message_id,
                evidence=evidence,
                chunk_bytes=chunk_bytes,
                began=began,
                replaces=replaces,
                kind=kind,
            )
        except OSError as error:
            raise errors.NoSpace(
                f"snapshot {name!r} of replica {self.name!r}", str(error)
            ) from error

    def _snapshot_at(self, message: Message, snapshot_id: str, point: LogPoint) -> str:
        """Take the snapshot that a message asks for, once; return its name (C7, D20).

        Raises:
            OSError: no room; the applier stalls and tries again.
        """
        for row in self.catalogue.ready():
            if row.message_id == message.message_id and row.point == point:
                return row.name  # made before a crash that came before the effect's row
        began = self.clock.monotonic()
        taken = {row.name for row in self.catalogue.ready()}
        name = snapshot_id or f"ibc-{message.message_id[:13]}"
        stem, again = f"{name[:32]}-{point.position.lsn}", 1
        while name in taken:
            name, again = stem if again == 1 else f"{stem}-{again}", again + 1
        return self.catalogue.create(
            name,
            point,
            self.volumes.active(),
            message_id=message.message_id,
            evidence=_evidence(message),
            began=began,
        ).name

    def snapshots(self) -> list[SnapshotRow]:
        """Return the snapshots, oldest first."""
        return self.catalogue.ready()

    def snapshot(self, name: str) -> SnapshotRow:
        """Return one.

        Raises:
            NotFound: there is none of that name.
        """
        return self.catalogue.get(name)

    def delete_snapshot(self, name: str, *, force: bool = False) -> None:
        """Let a snapshot go; the work is done behind. With `force` its export and clones go too.

        Raises:
            NotFound: there is none of that name.
            FailedPrecondition: it is held, guards a running sync (D27), or is exported or cloned
                and not forced; nothing was ended.
        """
        with self._changing():
            row = self.catalogue.get(name)
            self.check_free(row, forced=force)
            ended = self.end_clones(row)
            # A guard that outlived its sync, for it was exported, is a snapshot like any other.
            self.catalogue.delete(name, guard=not self.syncing.is_running, exported=force)
        for clone in ended:
            self.remove_clone(clone)
        self.on_change()

    def export_snapshot(self, name: str) -> SnapshotRow:
        """Mark a snapshot as exported, durably; it cannot be deleted until it is unexported.

        Raises:
            NotFound: there is none of that name.
            FailedPrecondition: it is past the applied position after a restart (D21).
        """
        with self._using(self.catalogue.get(name)):
            self.check_reached(name)
            return self.catalogue.set_exported(name, True)

    def check_free(self, row: SnapshotRow, *, forced: bool = False) -> None:
        """Refuse to let a snapshot go that somebody relies on; `forced` ends exports and clones.

        Raises:
            FailedPrecondition: it is exported, cloned or held; names the command that ends that.
        """
        if not forced:
            self.check_no_clone(row)
        if row.exported and not forced:
            raise errors.FailedPrecondition(
                "SNAPSHOT_EXPORTED",
                f"snapshot {row.name!r} of replica {self.name!r} is exported",
                f"Unexport it first: slackwater snapshot unexport {self.name} {row.name}",
            )
        if row.held:
            note = f": {row.hold_note}" if row.hold_note else ""
            raise errors.FailedPrecondition(
                "SNAPSHOT_HELD",
                f"snapshot {row.name!r} of replica {self.name!r} is held{note}",
                f"Release it first: slackwater snapshot release {self.name} {row.name}",
            )

    def hold_snapshot(self, name: str, note: str) -> SnapshotRow:
        """Hold a snapshot, durably: it cannot be deleted; a later note replaces the first.

        Raises:
            NotFound: there is none of that name.
        """
        with self._changing():
            return self.catalogue.set_held(name, True, note)

    def release_snapshot(self, name: str) -> SnapshotRow:
        """Take a hold back.

        Raises:
            NotFound: there is none of that name.
        """
        with self._changing():
            return self.catalogue.set_held(name, False)

    def unexport_snapshot(self, name: str) -> SnapshotRow:
        """Take the mark off.

        Raises:
            NotFound: there is none of that name.
        """
        with self._using(self.catalogue.get(name)):
            return self.catalogue.set_exported(name, False)


def _evidence(message: Message) -> dict[str, object]:
    """Return what a snapshot taken at a message keeps of it (C20)."""
    return {
        "message_id": message.message_id,
        "position": str(message.position),
        "application": message.application,
        "fenced": message.fenced,
        "fence_held_seconds": message.fence_held_seconds,
        "quiesced": list(message.quiesced),
    }


def _excluded(evidence: dict[str, object]) -> list[str]:
    """Return the names of the volumes that a snapshot leaves out."""
    found = evidence.get("excluded", [])
    assert isinstance(found, list), "as it was kept"
    return found
