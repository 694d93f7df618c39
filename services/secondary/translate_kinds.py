"""Kinds of snapshots between the engine and the wire."""

from slackwater.apply.replica import Replica
from slackwater.errors import InvalidRequest
from slackwater.group.rows import SnapshotRow
from slackwater.snapshots.copying import FULL, SPACE_OPTIMIZED
from slackwater.v1 import resources_pb2

_KINDS = {
    resources_pb2.SNAPSHOT_KIND_UNSPECIFIED: SPACE_OPTIMIZED,
    resources_pb2.SNAPSHOT_KIND_SPACE_OPTIMIZED: SPACE_OPTIMIZED,
    resources_pb2.SNAPSHOT_KIND_FULL: FULL,
}


def kind(number: "resources_pb2.SnapshotKind.ValueType") -> str:
    """Return the engine's name of a kind that a request asks for.

    Raises:
        InvalidRequest: the Secondary makes none of that kind.
    """
    if number == resources_pb2.SNAPSHOT_KIND_MIRROR:
        raise InvalidRequest(
            "kind",
            "this release makes no mirrors",
            "Ask for space-optimized, or for full, a copy that outlives the volumes",
        )
    if number not in _KINDS:
        raise InvalidRequest("kind", f"{number} is no kind", "Ask for space-optimized or full")
    return _KINDS[number]


def add_kind(result: resources_pb2.Snapshot, replica: Replica, row: SnapshotRow) -> None:
    """Say what a snapshot keeps, and how far its full copy is."""
    if row.kind != FULL:
        result.kind = resources_pb2.SNAPSHOT_KIND_SPACE_OPTIMIZED
        return
    result.kind = resources_pb2.SNAPSHOT_KIND_FULL
    result.copied_bytes = replica.catalogue.copied_of(row.uid)
    total = sum(size for _, _, size in row.volumes)
    percent = 100 * result.copied_bytes // total if total else 100
    # All of it may be there and not be durable yet.
    result.sync_percent = 100 if row.copied else min(percent, 99)
