"""The snapshot budget as the API's messages."""

from collections.abc import Mapping

from slackwater.apply.replica import Replica
from slackwater.apply.replica_budget import Expired
from slackwater.runtime.wire import duration, timestamp
from slackwater.snapshots.budget import EXPIRE, HOLD_APPLY, BudgetSettings
from slackwater.v1 import common_pb2, resources_pb2
from slackwater.v1 import secondary_pb2 as api

Wire = resources_pb2.SnapshotBudget

POLICY_OF: Mapping[int, str] = {
    Wire.AT_LIMIT_UNSPECIFIED: HOLD_APPLY,
    Wire.AT_LIMIT_HOLD_APPLY: HOLD_APPLY,
    Wire.AT_LIMIT_EXPIRE_OLDEST_UNHELD: EXPIRE,
}


def budget(replica: Replica, settings: BudgetSettings) -> resources_pb2.SnapshotBudget:
    """Return the budget as it is, or as it would be with other settings."""
    found = replica.catalogue.budget
    result = Wire(
        limit_bytes=settings.limit_bytes,
        soft_percent=settings.soft_percent,
        at_limit=Wire.AtLimit.Value(f"AT_LIMIT_{settings.at_limit.upper()}"),
        used_bytes=found.used_bytes,
        state=Wire.State.Value(f"STATE_{found.state(settings)}"),
        expired_total=replica.expired_total,
    )
    left = found.seconds_left()
    if left is not None and settings == found.settings:
        result.exhausted_in.CopyFrom(duration(left))
    return result


def expired(group: str, value: Expired) -> api.ExpiredSnapshot:
    """Return a snapshot that the budget took."""
    return api.ExpiredSnapshot(
        name=f"groups/{group}/snapshots/{value.name}",
        position=value.position,
        message=f"groups/{group}/messages/{value.message_id}" if value.message_id else "",
        grade=common_pb2.SnapshotGrade.Value(f"SNAPSHOT_GRADE_{value.grade.upper()}"),
        create_time=timestamp(value.created_ns),
        expire_time=timestamp(value.expired_ns),
        kept_bytes=value.kept_bytes,
    )
