"""Whether a restore may begin, and what it would overwrite."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from services.primary.restores.source import SecondaryRefused, SnapshotSource, sizes
from slackwater.errors import FailedPrecondition, InvalidRequest, NotFound
from slackwater.v1 import resources_pb2

if TYPE_CHECKING:
    from services.primary.group import PrimaryGroup


@dataclass(frozen=True, slots=True)
class Plan:
    """A restore that may begin.

    Attributes:
        snapshot: Its resource name.
        snapshot_uid: Its identity.
        link: The name of the link.
        volumes: Names of the volumes.
        left: Names of the group's other volumes.
        differs: Bytes that may differ, by volume.
    """

    snapshot: str
    snapshot_uid: str
    link: str
    volumes: tuple[str, ...]
    left: tuple[str, ...]
    differs: Mapping[str, int]

    def losses(self) -> list[str]:
        """Say what is overwritten."""
        return [
            f"volume {name!r}: up to {self.differs[name]} bytes are overwritten by what"
            f" {self.snapshot} holds, on every Secondary too"
            for name in self.volumes
        ]


def choose_link(group: "PrimaryGroup", name: str) -> str:
    """Return the name of the link to read along: the one that is named, or the only one.

    Raises:
        NotFound: there is none of that name.
        InvalidRequest: none is named, and there is not exactly one.
    """
    if name:
        return group.link(name).name
    if len(group.links) != 1:
        raise InvalidRequest(
            "link",
            f"group {group.name!r} has {len(group.links)} links",
            "Name the link to the Secondary that has the snapshot",
        )
    return next(iter(group.links))


def plan(
    group: "PrimaryGroup",
    source: SnapshotSource,
    snapshot: str,
    link: str,
    volumes: Sequence[str],
) -> Plan:
    """Look at both sides; nothing changes.

    Raises:
        NotFound: no such snapshot or volume.
        FailedPrecondition: it cannot be done as things are.
        Unavailable: the Secondary does not answer.
    """
    held = _check_snapshot(group, source, snapshot)
    chosen = _choose_volumes(group, sizes(held), volumes)
    differs = {volume: sum(length for _, length in source.changed(volume)) for volume in chosen}
    others = (volume.name for volume in group.writer.volumes.values())
    left = tuple(sorted(set(others).difference(chosen)))
    return Plan(snapshot, held.uid, link, chosen, left, differs)


def _check_snapshot(
    group: "PrimaryGroup", source: SnapshotSource, name: str
) -> resources_pb2.Snapshot:
    try:
        found = source.snapshot()
    except SecondaryRefused as refused:
        if refused.code == grpc.StatusCode.NOT_FOUND:
            hint = f"See which there are: slackwater snapshot list {group.name}"
            raise NotFound("snapshot", name, hint) from refused
        raise
    if source.replica().group_uid != str(group.open.identity.uid):
        raise FailedPrecondition(
            "OTHER_GROUP",
            f"the Secondary's group {group.name!r} is another group of the same name",
            "Look at the link: slackwater status",
        )
    return found


def _choose_volumes(
    group: "PrimaryGroup", held: Mapping[str, int], wanted: Sequence[str]
) -> tuple[str, ...]:
    for name in wanted:
        if name not in held:
            raise NotFound("volume", name, f"The snapshot has: {', '.join(held)}")
    chosen = tuple(dict.fromkeys(wanted or held))
    for name in chosen:
        try:
            volume = group.volumes.by_name(name)
        except NotFound as missing:
            raise FailedPrecondition(
                "VOLUME_DELETED",
                f"volume {name!r} of the snapshot is not in group {group.name!r} any more",
                f"Restore others with --volume, or create it again with {held[name]} bytes",
            ) from missing
        if volume.size != held[name]:
            raise FailedPrecondition(
                "VOLUME_SIZE",
                f"volume {name!r} has {volume.size} bytes, in the snapshot {held[name]}",
                "Restore the other volumes with --volume",
            )
    return chosen
