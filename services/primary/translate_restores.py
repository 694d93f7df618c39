"""Restores as the API's messages."""

from services.primary.group import PrimaryGroup
from services.primary.restores.desk import restore_id
from services.primary.restores.planning import Plan
from slackwater.group.restoring import ACTIVE
from slackwater.group.rows import RestoreRow
from slackwater.runtime.wire import timestamp
from slackwater.v1 import primary_pb2 as api


def restore(owner: PrimaryGroup, row: RestoreRow) -> api.Restore:
    """Return a restore."""
    result = api.Restore(
        name=f"groups/{owner.name}/restores/{restore_id(row)}",
        snapshot=row.snapshot,
        link=f"groups/{owner.name}/links/{row.link}",
        volumes=row.volumes,
        state=api.Restore.State.Value(f"STATE_{row.state}"),
        state_reason=owner.restores.problem if row.state in ACTIVE else "",
        total_bytes=row.total_bytes,
        done_bytes=row.done_bytes,
        written_bytes=row.written_bytes,
        create_time=timestamp(row.created_ns),
        sha256=row.sha256,
        left_volumes=row.left,
    )
    if row.ended_ns:
        result.end_time.CopyFrom(timestamp(row.ended_ns))
    return result


def planned(owner: PrimaryGroup, plan: Plan) -> api.Restore:
    """Return what a restore would be; it has no name."""
    return api.Restore(
        snapshot=plan.snapshot,
        link=f"groups/{owner.name}/links/{plan.link}",
        volumes=plan.volumes,
        total_bytes=sum(plan.differs.values()),
        left_volumes=plan.left,
    )
