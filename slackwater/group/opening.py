"""Making a Primary's group, and bringing one back after a stop of any kind.

Recovery (D5, D6, D11, D28): the log proves its end, everything past the checkpoint is written into
the volumes again, rows that records imply and a crash prevented are written, the volumes are
synced, the checkpoint follows; then a `Start` record with a random incarnation ends the old
history for good, and messages whose quiesce nobody saw the end of are revoked (C17).
Only a group that has come through all of it is exported or shipped.
"""

import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace

from slackwater import record
from slackwater.clock import Clock
from slackwater.errors import (
    DataCorrupt,
    FailedPrecondition,
    NoSpace,
    SlackwaterError,
    StorageFailed,
)
from slackwater.group.database import GroupDatabase
from slackwater.group.directory import DataDirectory, GroupDirectory
from slackwater.group.holds import FULL
from slackwater.group.marks import Marks
from slackwater.group.outcomes import revoke_unjudged
from slackwater.group.rows import PRIMARY, Identity, MessageRow, VolumeRow
from slackwater.group.volume import Volume
from slackwater.group.writer import GroupWriter
from slackwater.log.log import Log
from slackwater.log.reader import LogReader, replay
from slackwater.log.segment import LogSettings
from slackwater.position import LogPoint, origin
from slackwater.storage.seam import Lock, Storage
from slackwater.v1 import record_pb2

WRITETHROUGH = "writethrough"
WRITEBACK = "writeback"


@dataclass(frozen=True)
class GroupSettings:
    """What is fixed when a group is made."""

    log: LogSettings
    durability: str = WRITETHROUGH

    def as_json(self) -> dict[str, object]:
        """Return the form kept in group.db."""
        return {
            "log_bytes": self.log.log_bytes,
            "segment_bytes": self.log.segment_bytes,
            "max_commit_bytes": self.log.max_commit_bytes,
            "durability": self.durability,
        }

    @classmethod
    def of(cls, identity: Identity) -> "GroupSettings":
        """Return the settings of a group."""
        kept = identity.settings
        log = LogSettings(kept["log_bytes"], kept["segment_bytes"], kept["max_commit_bytes"])
        return cls(log, kept.get("durability", WRITETHROUGH))


@dataclass
class OpenGroup:
    """A group that this process owns as its Primary."""

    directory: GroupDirectory
    identity: Identity
    settings: GroupSettings
    writer: GroupWriter
    lock: Lock
    replayed_records: int = 0
    revoked_messages: int = 0
    """Messages whose quiesce a stop left unjudged; they were REVOKED (C17)."""

    def close(self, *, clean: bool = True) -> None:
        """Close the group and let another process have it."""
        try:
            self.writer.close(clean=clean)
        finally:
            self.lock.close()


def create_group(
    storage: Storage,
    data: DataDirectory,
    name: str,
    uid: uuid.UUID,
    settings: GroupSettings,
    clock: Clock,
) -> GroupDirectory:
    """Make an empty group of which this side is the Primary.

    Raises:
        AlreadyExists: the name is taken.
        NoSpace: there is no room for the log.
        OSError: the storage failed; nothing is left under the name.
    """
    identity = Identity(uid, name, PRIMARY, 1, clock.time_ns(), settings.as_json())
    start = LogPoint(0, origin(uid))

    def fill(directory: GroupDirectory) -> None:
        GroupDatabase.create(storage, directory.database, identity, start).close()
        Log.create(storage, directory.log, uid, settings.log, start).close()
        storage.sync_directory(directory.log)

    return data.create_group(name, fill)


def open_group(
    storage: Storage,
    directory: GroupDirectory,
    clock: Clock,
    *,
    marks: Marks | None = None,
    wake: Callable[[], None] = lambda: None,
    incarnation: Callable[[], int] = lambda: secrets.randbits(64),
) -> OpenGroup:
    """Own and recover a group.

    Raises:
        FailedPrecondition: another process owns it, it is not a Primary's, or of a newer format.
        LogCorrupt: its log is damaged; nothing was changed.
        DataCorrupt: its records, rows and files contradict each other.
        NoSpace: a disk is full; what is there stays, and opening again goes on.
        StorageFailed: the storage reported an error.
    """
    lock = directory.lock(storage)
    try:
        database = GroupDatabase.open(storage, directory.database)
        try:
            return _recover(storage, directory, database, clock, lock, marks, wake, incarnation)
        except BaseException:
            database.close()
            raise
    except OSError as error:
        lock.close()
        raise _refusal(directory, error) from error
    except BaseException:
        lock.close()
        raise


def _refusal(directory: GroupDirectory, error: OSError) -> SlackwaterError:
    where = str(error.filename or directory.path)
    if error.errno in FULL:
        return NoSpace(where, "Free space, then open the group again")
    return StorageFailed(where, "recovery", error.errno or 0)


def _recover(
    storage: Storage,
    directory: GroupDirectory,
    database: GroupDatabase,
    clock: Clock,
    lock: Lock,
    marks: Marks | None,
    wake: Callable[[], None],
    incarnation: Callable[[], int],
) -> OpenGroup:
    identity = database.identity()
    if identity.role != PRIMARY:
        raise FailedPrecondition(
            "WRONG_ROLE",
            f"group {identity.name!r} is a replica here, not a Primary",
            "Open it with the secondary service",
        )
    settings = GroupSettings.of(identity)
    state = database.log_state()
    log, _ = Log.open(
        storage,
        directory.log,
        identity.uid,
        settings.log,
        state.start,
        state.checkpoint,
        _floor(database, state.clean_end),
        trust_synced_lsn=True,
    )
    replayed = _Replay(storage, directory, database)
    try:
        database.clear_clean_end()
        replayed.run(log, state.checkpoint, identity.uid)
        database.checkpoint(log.end)
        replayed.drop_gone()
        writer = GroupWriter(
            identity.name,
            database,
            log,
            replayed.volumes,
            epoch=identity.epoch,
            clock=clock,
            writeback=settings.durability == WRITEBACK,
            marks=marks,
            wake=wake,
        )
        start = record_pb2.Start(incarnation=incarnation())
        began = writer.append_control(record.KIND_START, start.SerializeToString())
        database.put_start(began.position)  # before anything after it can reach a Secondary (D16)
        revoked = revoke_unjudged(writer)
    except BaseException:
        replayed.close()
        log.close()
        raise
    return OpenGroup(directory, identity, settings, writer, lock, replayed.records, revoked)


def _floor(database: GroupDatabase, clean_end: int | None) -> int:
    """Return the highest lsn durable for certain: acked, or the end of a clean stop (D6)."""
    acked = [link.acked.position.lsn for link in database.links() if link.acked is not None]
    return max([*acked, clean_end or 0])


class _Replay:
    """Writes what the log holds past the checkpoint into volumes and rows again."""

    def __init__(
        self, storage: Storage, directory: GroupDirectory, database: GroupDatabase
    ) -> None:
        self.volumes: dict[int, Volume] = {}
        self.records = 0
        self._storage = storage
        self._directory = directory
        self._database = database
        self._rows = {row.id: row for row in database.volumes()}

    def run(self, log: Log, start: LogPoint, uid: uuid.UUID) -> None:
        for row in self._rows.values():
            if row.state == "ACTIVE":
                self.volumes[row.id] = self._open(row)
        reader = LogReader(self._storage, self._directory.log, uid, log.settings)
        try:
            for data, view in replay(reader, start, log.end):
                self._redo(data, view)
                self.records += 1
        finally:
            reader.close()
        for volume in self.volumes.values():
            try:
                volume.sync()
            except OSError as error:
                raise StorageFailed(str(volume.path), "sync", error.errno or 0) from error

    def _open(self, row: VolumeRow) -> Volume:
        path = self._directory.volume(row.path)
        volume = Volume.open(self._storage, path, row.id, row.name, 0)
        found = volume.file.size()
        if found < row.size:
            volume.close()
            raise DataCorrupt(
                f"volume {row.name!r} of group {self._directory.name!r}",
                f"{path} has {found} bytes and should have {row.size}",
            )
        volume.size = row.size
        return volume

    def close(self) -> None:
        """Close the volumes of a group that did not open."""
        for volume in self.volumes.values():
            volume.close()

    def _redo(self, data: memoryview, view: record.RecordView) -> None:
        if view.kind in (record.KIND_WRITE, record.KIND_ZERO):
            volume = self.volumes.get(view.volume)
            if volume is None:
                row = self._rows.get(view.volume)
                if row is not None and row.state == "REMOVING":
                    return  # a later record removes it
                raise DataCorrupt(
                    f"log of group {self._directory.name!r}",
                    f"record {view.position} names volume {view.volume}, which is not there",
                )
            if view.kind == record.KIND_WRITE:
                volume.write(view.offset, data[view.payload_start : view.end])
            else:
                volume.zero(view.offset, view.length)
        elif view.kind == record.KIND_IBC_MESSAGE:
            message = record.body(data, view)
            assert isinstance(message, record_pb2.IbcMessage)
            self._database.put_message(
                message_row(message, view), awaits_outcome=bool(message.quiesced)
            )
        elif view.kind == record.KIND_OUTCOME:
            outcome = record.body(data, view)
            assert isinstance(outcome, record_pb2.Outcome)
            self._database.put_outcome_record(outcome, view.lsn)
        elif view.kind == record.KIND_START:
            self._database.put_start(view.position)
        elif view.kind == record.KIND_VOLUME_CHANGE:
            change = record.body(data, view)
            assert isinstance(change, record_pb2.VolumeChange)
            self._change(change, view.lsn)

    def _change(self, change: record_pb2.VolumeChange, lsn: int) -> None:
        row = self._rows.get(change.volume)
        if row is None:
            return  # removed since, files and all
        if change.kind == record_pb2.VolumeChange.KIND_ADD and row.state == "CREATING":
            row = replace(row, state="ACTIVE", lsn=lsn)
            self.volumes[row.id] = self._open(row)
        elif change.kind == record_pb2.VolumeChange.KIND_GROW:
            row = replace(row, size=max(row.size, change.size_bytes))
            if row.id in self.volumes:
                self.volumes[row.id].grow(row.size)
        elif change.kind == record_pb2.VolumeChange.KIND_REMOVE and row.state == "ACTIVE":
            self.volumes.pop(row.id).close()
            row = replace(row, state="REMOVING", lsn=lsn)
        else:
            return
        self._rows[row.id] = row
        self._database.put_volume(row)

    def drop_gone(self) -> None:
        """Remove volumes whose record never got into the log, and those that were removed.

        Only once the checkpoint has passed the removal: an earlier replay needs the row (D28).
        """
        for row in self._rows.values():
            if row.state == "ACTIVE":
                continue
            path = self._directory.volume(row.path)
            if path.parent == self._directory.volumes and self._storage.exists(path):
                self._storage.remove(path)
            self._database.remove_volume(row.id)


def message_row(message: record_pb2.IbcMessage, view: record.RecordView) -> MessageRow:
    """Return the row that a message's record implies (D11)."""
    return MessageRow(
        message.message_id,
        view.position,
        message.application,
        message.request_id,
        view.time_ns,
        message.SerializeToString(),
        tuple(message.links),
        message.fence_held_seconds,
    )
