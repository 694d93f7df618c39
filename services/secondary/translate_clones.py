"""Clones as the API shows them."""

from services.secondary.group import SecondaryGroup
from slackwater import names
from slackwater.clones.catalogue import FAILED
from slackwater.group.rows import CloneRow
from slackwater.runtime.wire import timestamp
from slackwater.v1 import resources_pb2


def name(group: str, clone: str) -> str:
    """Return the resource name of a clone."""
    return names.resource("groups", group, "clones", clone)


def clone(group: SecondaryGroup, row: CloneRow) -> resources_pb2.Clone:
    """Return a clone as it is now; looks at its files."""
    replica = group.replica
    is_failed = row.state == FAILED
    held = replica.clones.bytes_of(row)
    parent = replica.snapshot_of(row).name
    return resources_pb2.Clone(
        name=name(group.name, row.name),
        uid=str(row.uid),
        snapshot=names.resource("groups", group.name, "snapshots", parent),
        create_time=timestamp(row.created_ns),
        state=resources_pb2.CLONE_STATE_FAILED if is_failed else resources_pb2.CLONE_STATE_READY,
        state_reason="a sync of what was written to it failed; it can only be deleted"
        if is_failed
        else "",
        volumes=[
            resources_pb2.CloneVolume(
                volume=volume,
                size_bytes=size,
                own_bytes=held[number][0],
                shared_bytes=held[number][1],
                export_name=f"{name(group.name, row.name)}/volumes/{volume}"
                if row.exported
                else "",
            )
            for number, volume, size in row.volumes
        ],
        exported=row.exported,
        parent=_parent(group, row),
        layers=len(row.layers),
    )


def _parent(group: SecondaryGroup, row: CloneRow) -> str:
    rows = group.replica.clones.ready()
    return next((name(group.name, one.name) for one in rows if one.uid == row.parent), "")


def loss(group: SecondaryGroup, row: CloneRow) -> str:
    """Say what ends with a clone; looks at its files."""
    own = sum(bytes_here for bytes_here, _ in group.replica.clones.bytes_of(row).values())
    exported = ", which is exported now" if row.exported else ""
    return f"clone {row.name!r} with {own} bytes of its own{exported}"
