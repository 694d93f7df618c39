"""From the Secondary's own objects to the API's messages, in one place."""

import time
from typing import TYPE_CHECKING

from google.protobuf.json_format import ParseDict

from services.secondary import translate_budget, translate_checks, translate_kinds
from slackwater import errors
from slackwater.apply.status import FreezeInfo, ReplicaState
from slackwater.group.rows import MessageRow, SnapshotRow, SyncRow, VerdictRow
from slackwater.group.volume import Volume
from slackwater.ibc.actions import Delivered
from slackwater.ibc.messages import Behaviour, VerdictState
from slackwater.ibc.names import Application
from slackwater.link.wire import to_wire
from slackwater.runtime.wire import duration, timestamp
from slackwater.v1 import common_pb2, record_pb2, replication_pb2, resources_pb2, secondary_pb2

if TYPE_CHECKING:
    from services.secondary.group import SecondaryGroup

_PHASES = {
    "PREPARING": resources_pb2.Freeze.PHASE_AWAITING_RECEIVER,
    "UNREGISTERED": resources_pb2.Freeze.PHASE_UNREGISTERED,
    "AWAITING": resources_pb2.Freeze.PHASE_AWAITING_RECEIVER,
    "FROZEN": resources_pb2.Freeze.PHASE_FROZEN,
}
_BEHAVIOURS = {
    Behaviour.FREEZE: common_pb2.MESSAGE_BEHAVIOUR_FREEZE,
    Behaviour.NOTIFY: common_pb2.MESSAGE_BEHAVIOUR_NOTIFY,
    Behaviour.SNAPSHOT: common_pb2.MESSAGE_BEHAVIOUR_SNAPSHOT,
}


def message_name(group: str, message_id: str) -> str:
    """Return a message's resource name."""
    return f"groups/{group}/messages/{message_id}"


def replica_state(state: ReplicaState) -> common_pb2.ReplicaState.ValueType:
    """Return a replica's state."""
    return common_pb2.ReplicaState.Value(f"REPLICA_STATE_{state.value}")


def replica(group: "SecondaryGroup") -> resources_pb2.Replica:
    """Return a replica with all that is to be known of it."""
    engine = group.replica
    status = engine.status()
    lag = 0.0
    if group.primary_end is None or status.applied.lsn < group.primary_end.lsn:
        # Both times are of the Primary's clock (D19).
        known = status.applied_time_ns or group.primary_time_ns
        lag = max(0.0, (group.primary_time_ns - known) / 1e9)
    result = resources_pb2.Replica(
        name=f"groups/{group.name}",
        group_uid=str(engine.uid),
        replica_uid=str(engine.replica_uid),
        state=replica_state(status.state),
        state_reason=group.reason,
        durable=to_wire(status.durable),
        applied=to_wire(status.applied),
        backlog_bytes=status.backlog_bytes,
        apply_lag=duration(lag),
        log=resources_pb2.LogUse(
            used_bytes=status.log_used_bytes, capacity_bytes=status.log_capacity_bytes
        ),
        volumes=[volume(group.name, one) for one in engine.volumes.active()],
        snapshot_count=status.snapshots,
        connected=group.is_connected,
        epoch=max(status.epoch, group.epoch),
        snapshot_bytes=engine.catalogue.used_bytes,
    )
    settings = engine.catalogue.budget.settings
    if settings is not None:
        result.snapshot_budget.CopyFrom(translate_budget.budget(engine, settings))
    if group.heard_ns:
        result.heard_time.CopyFrom(timestamp(group.heard_ns))
    if status.freeze is not None:
        result.freeze.CopyFrom(freeze(group, status.freeze))
    if status.sync is not None:
        result.sync.CopyFrom(_sync(group, status.sync))
    return result


def failed_replica(name: str, error: errors.SlackwaterError) -> resources_pb2.Replica:
    """Return a replica that could not be opened."""
    return resources_pb2.Replica(
        name=f"groups/{name}",
        state=common_pb2.REPLICA_STATE_FAILED,
        state_reason=str(error),
    )


def volume(group: str, value: Volume) -> resources_pb2.Volume:
    """Return a volume."""
    return resources_pb2.Volume(
        name=f"groups/{group}/volumes/{value.name}",
        volume_number=value.id,
        size_bytes=value.size,
        allocated_bytes=value.allocated_bytes(),
    )


def freeze(group: "SecondaryGroup", info: FreezeInfo) -> resources_pb2.Freeze:
    """Return the message a replica stands at, and the command that moves it on."""
    now_ns = time.time_ns()
    name = message_name(group.name, info.message.message_id)
    standing = group.replica.messages.delivery.standing
    in_phase = info.stood_seconds
    if standing is not None and standing.message.message_id == info.message.message_id:
        in_phase = group.replica.clock.monotonic() - standing.since
    application = info.message.application
    commands = {
        "UNREGISTERED": f"slackwater ibc register {group.name} {application}",
        "FROZEN": f"slackwater ibc unfreeze {name}",
    }
    result = resources_pb2.Freeze(
        message=name,
        application=application,
        phase=_PHASES[info.phase],
        holder=info.holder,
        since=timestamp(now_ns - int(in_phase * 1e9)),
        backlog_bytes=info.backlog_bytes,
        next_command=commands.get(
            info.phase, f"slackwater ibc receive {group.name} {application} --wait 60s"
        ),
        position=to_wire(info.message.position),
        leased=info.leased,
    )
    if info.remaining_seconds is not None:
        result.remaining.CopyFrom(duration(info.remaining_seconds))
        result.deadline.CopyFrom(timestamp(now_ns + int(info.remaining_seconds * 1e9)))
    return result


def _sync(group: "SecondaryGroup", row: SyncRow) -> resources_pb2.SyncProgress:
    """Return a running sync; what the cursor has passed is done."""
    # The row in memory is the one the sync began with; the checkpoint knows how far it has come.
    durable = group.replica.checkpointer.durable_progress
    cursor = (durable.cursor.volume, durable.cursor.offset) if durable.cursor else row.cursor
    done = 0
    if cursor is not None:
        volumes = group.replica.volumes.active()
        done = sum(one.size for one in volumes if one.id < cursor[0]) + cursor[1]
    return resources_pb2.SyncProgress(
        sync_id=row.sync_id,
        total_bytes=row.total_bytes,
        done_bytes=min(done, row.total_bytes),
        consistent_lsn=durable.consistent_lsn or row.consistent_lsn or 0,
    )


def application(group: str, value: Application) -> resources_pb2.Application:
    """Return a registration."""
    return resources_pb2.Application(
        group=f"groups/{group}",
        application=value.name,
        register_time=timestamp(value.registered_ns),
    )


def delivered(group: str, value: Delivered) -> secondary_pb2.DeliveredMessage:
    """Return a message as its receiver gets it."""
    message = value.message
    result = secondary_pb2.DeliveredMessage(
        name=message_name(group, message.message_id),
        application=message.application,
        behaviour=_BEHAVIOURS[message.behaviour],
        position=to_wire(message.position),
        send_time=timestamp(message.time_ns),
        fenced=message.fenced,
        redelivered=value.redelivered,
        dropped=value.dropped,
        task=message.task,
    )
    if message.snapshot_id:
        result.snapshot = f"groups/{group}/snapshots/{message.snapshot_id}"
    if message.body_is_text:
        result.text = message.body.decode()
    else:
        result.data = message.body
    if value.remaining_seconds is not None:
        result.remaining.CopyFrom(duration(value.remaining_seconds))
    return result


def message(
    group: "SecondaryGroup", row: MessageRow, verdicts: list[VerdictRow]
) -> resources_pb2.Message:
    """Return a message without its body; the verdict is this replica's own."""
    body = record_pb2.IbcMessage.FromString(row.record)
    link = group.replica.messages.delivery.link
    is_ours = not row.links or not link or link in row.links
    result = resources_pb2.Message(
        name=message_name(group.name, row.id),
        application=row.application,
        behaviour=body.behaviour or common_pb2.MESSAGE_BEHAVIOUR_FREEZE,
        position=to_wire(row.position),
        body_bytes=len(body.data) or len(body.text.encode()),
        final=not is_ours or any(one.final for one in verdicts),
        send_time=timestamp(row.time_ns),
        fenced=body.fenced,
        deliver_timeout=duration(body.deliver_timeout_seconds),
        freeze_timeout=duration(body.freeze_timeout_seconds),
        quiesced=body.quiesced,
        task=body.task,
    )
    if body.fenced:
        result.fence_held.CopyFrom(duration(row.fence_seconds))
    outcome = group.replica.database.outcome(row.id)
    if outcome is not None:
        result.outcome = record_pb2.Outcome.State.Value(f"STATE_{outcome[0]}")
        ParseDict(outcome[1].get("judgement", {}), result.judgement)
    if verdicts:
        last = verdicts[-1]
        shown = result.verdicts.add(
            link=link, state=verdict_state(last.state), detail=_detail(last), final=last.final
        )
        shown.time.CopyFrom(timestamp(last.time_ns))
    elif is_ours:
        result.verdicts.add(link=link, state=common_pb2.VERDICT_STATE_ARRIVED)
    return result


def verdict_state(name: str) -> common_pb2.VerdictState.ValueType:
    """Return a verdict's state."""
    return common_pb2.VerdictState.Value(f"VERDICT_STATE_{VerdictState(name).value}")


def verdict_report(row: VerdictRow) -> replication_pb2.VerdictReport:
    """Return a verdict as it rides back to the Primary."""
    return replication_pb2.VerdictReport(
        sequence=row.sequence,
        message_id=row.message_id,
        lsn=row.lsn,
        state=verdict_state(row.state),
        detail=_detail(row),
    )


def _detail(row: VerdictRow) -> common_pb2.VerdictDetail:
    detail = common_pb2.VerdictDetail(
        by=str(row.detail.get("by", "")),
        snapshot_id=str(row.detail.get("snapshot_id", "")),
        text=str(row.detail.get("text", "")),
    )
    if "frozen_seconds" in row.detail:
        detail.frozen_for.CopyFrom(duration(float(row.detail["frozen_seconds"])))
    return detail


def snapshot(group: "SecondaryGroup", row: SnapshotRow) -> resources_pb2.Snapshot:
    """Return a snapshot with its grade as of now (C17)."""
    engine = group.replica
    is_reached = row.copied or row.point.offset <= engine.applier.reached.offset
    name = f"groups/{group.name}/snapshots/{row.name}"
    try:
        preserved = engine.catalogue.preserved_bytes(row.name)
    except errors.NotFound:
        preserved = {}  # deleted this moment
    result = resources_pb2.Snapshot(
        name=name,
        uid=str(row.uid),
        position=to_wire(row.point.position),
        grade=common_pb2.SnapshotGrade.Value(f"SNAPSHOT_GRADE_{row.grade.upper()}"),
        grade_reason=_grade_reason(row),
        create_time=timestamp(row.created_ns),
        state=resources_pb2.SNAPSHOT_STATE_READY
        if is_reached
        else resources_pb2.SNAPSHOT_STATE_AHEAD,
        state_reason="" if is_reached else "the replica is replaying its log and not yet there",
        exported=row.exported,
        guard=row.guard,
        held=row.held,
        hold_note=row.hold_note,
        checks=[translate_checks.result(found) for found in engine.checks.of(row.uid)],
        clones=[f"groups/{group.name}/clones/{clone.name}" for clone in engine.clones.on(row.uid)],
    )
    translate_kinds.add_kind(result, engine, row)
    if row.message_id:
        _add_evidence(result, group, row)
    if "create_seconds" in row.evidence:
        result.create_duration.CopyFrom(duration(float(str(row.evidence["create_seconds"]))))
    for number, volume_name, size in row.volumes:
        result.volumes.add(
            volume=volume_name,
            size_bytes=size,
            preserved_bytes=preserved.get(number, 0),
            export_name=f"{name}/volumes/{volume_name}" if row.exported else "",
        )
    return result


def _add_evidence(
    result: resources_pb2.Snapshot, group: "SecondaryGroup", row: SnapshotRow
) -> None:
    """Say what the grade rests on (C20)."""
    evidence = row.evidence
    result.message = message_name(group.name, row.message_id)
    result.awaits_outcome = awaits_outcome(row)
    if evidence.get("fenced"):
        result.fence_held.CopyFrom(duration(float(evidence["fence_held_seconds"])))
    if "frozen_seconds_before" in evidence:
        result.frozen_for.CopyFrom(duration(float(evidence["frozen_seconds_before"])))
    if "judgement" in evidence:
        ParseDict(evidence["judgement"], result.judgement)


def awaits_outcome(row: SnapshotRow) -> bool:
    """Return whether the grade of a snapshot may still rise."""
    return bool(row.evidence.get("quiesced")) and "outcome" not in row.evidence


def _grade_reason(row: SnapshotRow) -> str:
    if not row.message_id:
        return "taken without a message"
    if not row.evidence.get("quiesced"):
        return "nothing was quiesced"
    return str(row.evidence.get("outcome", "unconfirmed")).lower()
