"""Making, opening and recovering the directory of a replica."""

import uuid
from dataclasses import asdict, dataclass

from slackwater.apply.database import ReplicaDatabase
from slackwater.apply.volumes import VolumeSet
from slackwater.clock import Clock
from slackwater.clones.catalogue import Clones
from slackwater.errors import FailedPrecondition
from slackwater.group.directory import GroupDirectory
from slackwater.group.rows import SECONDARY, Identity
from slackwater.log.log import Log, LogSettings
from slackwater.position import LogPoint, Position, origin
from slackwater.snapshots.catalogue import Catalogue
from slackwater.snapshots.making import READY
from slackwater.storage.seam import Lock, Storage


@dataclass(frozen=True)
class ReplicaSpec:
    """What a Hello says of a group that has no replica here yet.

    Attributes:
        group_uid: The group's identity; its origin is the replica's first position.
        group: The group's name, also that of the directory.
        link: The link's id on the Primary.
        epoch: The Primary's.
        log: Sizes of the replica's log.
    """

    group_uid: uuid.UUID
    group: str
    link: str
    epoch: int
    log: LogSettings


@dataclass
class Opened:
    """The parts of an open replica."""

    storage: Storage
    directory: GroupDirectory
    lock: Lock
    database: ReplicaDatabase
    identity: Identity
    settings: LogSettings
    log: Log
    checkpoint: LogPoint
    volumes: VolumeSet
    catalogue: Catalogue
    clones: Clones
    is_clean: bool
    last_start: Position | None


def fill(storage: Storage, directory: GroupDirectory, spec: ReplicaSpec, clock: Clock) -> None:
    """Write group.db and the log of a new replica: empty, consistent, at the group's origin."""
    start = LogPoint(0, origin(spec.group_uid))
    identity = Identity(
        uid=spec.group_uid,
        name=spec.group,
        role=SECONDARY,
        epoch=spec.epoch,
        created_ns=clock.time_ns(),
        settings={
            "log": asdict(spec.log),
            "link": spec.link,
            "replica_uid": uuid.uuid4().hex,
        },
        replica_state="CONSISTENT",
    )
    ReplicaDatabase.create(storage, directory.database, identity, start).close()
    Log.create(storage, directory.log, spec.group_uid, spec.log, start).close()


def open_parts(storage: Storage, directory: GroupDirectory, clock: Clock) -> Opened:
    """Open a replica's directory and prove what it holds (D5, D6, D21, D23).

    Raises:
        FailedPrecondition: it is in use, of a newer format, or not a Secondary's.
        LogCorrupt: the log is damaged; nothing was changed.
        DataCorrupt: an overlay is gone.
        StorageFailed, OSError: the storage failed.
    """
    lock = directory.lock(storage)
    try:
        return _open_locked(storage, directory, clock, lock)
    except BaseException:
        lock.close()
        raise


def _open_locked(storage: Storage, directory: GroupDirectory, clock: Clock, lock: Lock) -> Opened:
    database = ReplicaDatabase.open(storage, directory.database)
    assert isinstance(database, ReplicaDatabase), "opened as what it was asked for"
    identity = database.identity()
    if identity.role != SECONDARY:
        database.close()
        raise FailedPrecondition(
            "WRONG_ROLE",
            f"group {identity.name!r} is a {identity.role} here, not a Secondary",
            "Open it with the service of its role",
        )
    settings = LogSettings(**identity.settings["log"])
    state = database.log_state()
    clean_end = state.clean_end
    log, recovery = Log.open(
        storage,
        directory.log,
        identity.uid,
        settings,
        state.start,
        state.checkpoint,
        max(state.checkpoint.position.lsn, clean_end or 0),
        trust_synced_lsn=False,
    )
    is_clean = clean_end is not None and recovery.end.position.lsn == clean_end
    if clean_end is not None:
        database.clear_clean_end()  # before anything below is changed
    # A full copy outlives its volumes: then there is something to serve without them.
    has_copy = any(row.copied and row.state == READY for row in database.snapshots())
    volumes = VolumeSet(storage, directory, database, may_lack=has_copy)
    catalogue = Catalogue(storage, directory.snapshots, database, clock, volumes.__getitem__)
    catalogue.open(clean=is_clean)
    clones = Clones(storage, directory.clones, database, clock, catalogue.open_by_uid)
    clones.open()
    # What was free before the stop is free again: no checkpoint is due until something more is
    # applied, and nothing more is received into a log that counts as full.
    log.trim(state.checkpoint.offset)
    return Opened(
        storage,
        directory,
        lock,
        database,
        identity,
        settings,
        log,
        state.checkpoint,
        volumes,
        catalogue,
        clones,
        is_clean,
        # Those past the checkpoint may not have been applied yet; the others have their rows.
        recovery.last_start or database.newest_start(recovery.end.position.lsn),
    )
