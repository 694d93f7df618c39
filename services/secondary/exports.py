"""What the Secondary serves over NBD: snapshots and replicas as they are, read-only; clones."""

import errno
from collections.abc import Iterable, Iterator
from typing import Protocol

from services.secondary.clone_exports import CloneExport
from services.secondary.group import SecondaryGroup
from slackwater import names
from slackwater.apply.status import ReplicaState
from slackwater.errors import FailedPrecondition, InvalidRequest, NotFound, SlackwaterError
from slackwater.extent import Extent
from slackwater.nbd import wire
from slackwater.nbd.export import Batch, Export, Listing
from slackwater.nbd.status import errno_of

FORMS = (
    "Names have the form groups/<group>/snapshots/<snapshot>/volumes/<volume>,"
    " groups/<group>/clones/<clone>/volumes/<volume> or groups/<group>/volumes/<volume>"
)
STANDING = frozenset({ReplicaState.CONSISTENT, ReplicaState.FROZEN})
"""States in which the volumes are a past state of the group."""


class Readable(Protocol):
    """Something with bytes that do not change under its reader's feet unannounced."""

    @property
    def size(self) -> int:
        """Bytes there are."""
        ...

    def read(self, length: int, offset: int) -> bytes:
        """Return the bytes of a range."""
        ...

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """Yield data and holes of a range."""
        ...


class ReadOnlyExport:
    """One volume, of a snapshot or of a replica (an `slackwater.nbd.export.Export`)."""

    read_only = True
    minimum_block = 1
    preferred_block = 4096
    maximum_payload = 32 << 20
    multi_conn = True  # there is nothing to flush

    def __init__(self, name: str, description: str, volume: Readable) -> None:
        """Export `volume` under a resource name."""
        self.name = name
        self.description = description
        self.size = volume.size
        self._volume = volume

    def submit(self, batch: Batch) -> None:
        """Serve the reads; a flush has nothing to do, and whatever would write is refused."""
        for request in batch.requests:
            if request.kind == wire.CMD_READ:
                try:
                    request.data = self._volume.read(request.length, request.offset)
                except (SlackwaterError, OSError) as error:
                    request.error = errno_of(error)
            elif request.kind not in (wire.CMD_FLUSH, wire.CMD_CACHE):
                request.error = errno.EROFS

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """Return data and holes of the range."""
        return self._volume.extents(offset, length)


def listing(group: SecondaryGroup) -> Iterable[Listing]:
    """Return what a replica has to export."""
    for row in group.replica.snapshots():
        if row.exported:
            for _, volume, _ in row.volumes:
                name = names.resource(
                    "groups", group.name, "snapshots", row.name, "volumes", volume
                )
                yield Listing(name, _of_snapshot(group.name, row.name, volume))
    for clone in group.replica.clones.ready():
        if clone.exported:
            for _, volume, _ in clone.volumes:
                name = names.resource("groups", group.name, "clones", clone.name, "volumes", volume)
                yield Listing(name, _of_clone(group.name, clone.name, volume))
    for live in group.replica.volumes.active():
        name = names.resource("groups", group.name, "volumes", live.name)
        yield Listing(name, _of_replica(group.name, live.name))


def open_export(group: SecondaryGroup, name: str) -> Export:
    """Return the export of a name.

    Raises:
        NotFound: there is no such volume, or its snapshot or clone is not exported.
        FailedPrecondition: its bytes are no past state of the group now.
        StorageFailed, DataCorrupt: a clone cannot be opened.
    """
    if name.count("/") == 3:
        return _live(group, name)
    if name.split("/")[2:3] == ["clones"]:
        return _clone(group, name)
    try:
        _, snapshot, volume = names.parse("export", name, "groups", "snapshots", "volumes")
    except InvalidRequest:
        raise NotFound("export", name, FORMS) from None
    if not group.replica.snapshot(snapshot).exported:
        raise NotFound(
            "export",
            name,
            f"Export the snapshot: slackwater snapshot export {group.name} {snapshot}",
        )
    reader = group.replica.open_snapshot_volume(snapshot, volume)
    return ReadOnlyExport(name, _of_snapshot(group.name, snapshot, volume), reader)


def _live(group: SecondaryGroup, name: str) -> ReadOnlyExport:
    try:
        _, volume = names.child("export", name, "volumes")
    except InvalidRequest:
        raise NotFound("export", name, FORMS) from None
    replica = group.replica
    reader = replica.open_live_volume(volume)
    if replica.state not in STANDING:
        raise FailedPrecondition(
            "REPLICA_NOT_CONSISTENT",
            f"replica {group.name!r} is {replica.state.value}: its volumes are no past state of"
            " the group",
            "Try again when it is CONSISTENT, or export a snapshot",
        )
    return ReadOnlyExport(name, _of_replica(group.name, volume), reader)


def _clone(group: SecondaryGroup, name: str) -> CloneExport:
    try:
        _, clone, volume = names.parse("export", name, "groups", "clones", "volumes")
    except InvalidRequest:
        raise NotFound("export", name, FORMS) from None
    if not group.replica.clones.get(clone).exported:
        raise NotFound(
            "export",
            name,
            f"Export the clone: slackwater snapshot clone export {group.name} {clone}",
        )
    opened = group.replica.open_clone_volume(clone, volume)
    return CloneExport(name, _of_clone(group.name, clone, volume), opened)


def _of_clone(group: str, clone: str, volume: str) -> str:
    return f"volume {volume} of group {group} in clone {clone}, writable"


def _of_snapshot(group: str, snapshot: str, volume: str) -> str:
    return f"volume {volume} of group {group} at snapshot {snapshot}, read-only"


def _of_replica(group: str, volume: str) -> str:
    return (
        f"volume {volume} of group {group}, replica, read-only; it changes while records are"
        " applied and is stable only while the replica is frozen"
    )
