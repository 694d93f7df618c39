"""From the Primary's own objects to the API's messages, in one place."""

import time
from typing import cast

from services.primary.group import PrimaryGroup
from services.primary.links import PrimaryLink
from services.primary.messages import verdict_state
from services.primary.node import BrokenGroup
from services.primary.translate_restores import restore
from slackwater.group.opening import WRITEBACK
from slackwater.group.rows import ApplicationRow, MessageRow, VerdictRow
from slackwater.group.volume import Volume
from slackwater.ibc.quiesce import Session
from slackwater.runtime.wire import duration, position, timestamp
from slackwater.v1 import common_pb2, record_pb2, resources_pb2
from slackwater.v1 import primary_pb2 as api


def group(value: PrimaryGroup) -> resources_pb2.Group:
    """Return a group."""
    identity, settings = value.open.identity, value.open.settings
    failure = value.failure
    return resources_pb2.Group(
        name=f"groups/{value.name}",
        uid=str(identity.uid),
        epoch=identity.epoch,
        state=resources_pb2.GROUP_STATE_READY
        if failure is None
        else resources_pb2.GROUP_STATE_FAILED,
        state_reason=value.trouble or value.restores.sentence(),
        log_bytes=settings.log.log_bytes,
        durability=resources_pb2.DURABILITY_WRITEBACK
        if settings.durability == WRITEBACK
        else resources_pb2.DURABILITY_WRITETHROUGH,
        create_time=timestamp(identity.created_ns),
        durable=position(value.writer.log.durable.position),
    )


def broken_group(value: BrokenGroup) -> resources_pb2.Group:
    """Return a group that could not be opened."""
    return resources_pb2.Group(
        name=f"groups/{value.name}",
        state=resources_pb2.GROUP_STATE_FAILED,
        state_reason=str(value.error),
    )


def volume(group_name: str, value: Volume) -> resources_pb2.Volume:
    """Return a volume."""
    return resources_pb2.Volume(
        name=f"groups/{group_name}/volumes/{value.name}",
        volume_number=value.id,
        size_bytes=value.size,
        allocated_bytes=value.allocated_bytes(),
    )


def log_use(value: PrimaryGroup) -> resources_pb2.LogUse:
    """Return the use of a group's log."""
    log = value.writer.log
    return resources_pb2.LogUse(used_bytes=log.used_bytes, capacity_bytes=log.capacity_bytes)


def link(value: PrimaryLink, owner: PrimaryGroup) -> resources_pb2.Link:
    """Return a link as of now."""
    row = owner.database.link(value.name)
    status, marks = value.status, value.marks
    durable = owner.writer.log.durable
    result = resources_pb2.Link(
        name=f"groups/{owner.name}/links/{value.name}",
        endpoint=value.endpoint,
        mode=resources_pb2.LINK_MODE_ASYNCHRONOUS,
        state=common_pb2.LinkState.Value(f"LINK_STATE_{status.state}"),
        state_reason=status.reason,
        applied_lsn=marks.applied_lsn,
        lag_bytes=max(durable.offset - marks.acked_offset, 0),
        lag=duration(value.lag_seconds()),
        apply_lag=duration(_apply_lag(value, durable.position.lsn)),
        replica_state=cast("common_pb2.ReplicaState.ValueType", status.replica_state),
        create_time=timestamp(row.created_ns),
        secondary_log=resources_pb2.LogUse(
            used_bytes=status.secondary_log[0], capacity_bytes=status.secondary_log[1]
        ),
    )
    if value.acked is not None:
        result.acked.CopyFrom(position(value.acked.position))
    if marks.last_ack_time_ns:
        result.heard_time.CopyFrom(timestamp(marks.last_ack_time_ns))
    if status.diverged is not None:
        result.diverged_secondary.CopyFrom(position(status.diverged))
    if row.sync_id:
        result.sync.sync_id = row.sync_id
        result.sync.total_bytes = marks.regions_total_bytes
        result.sync.done_bytes = marks.regions_done_bytes
    return result


def _apply_lag(value: PrimaryLink, durable_lsn: int) -> float:
    """Return how far applying is behind, in the Primary's clock alone (D19)."""
    if value.marks.applied_lsn >= durable_lsn or not value.marks.applied_time_ns:
        return 0.0
    return max((time.time_ns() - value.marks.applied_time_ns) / 1e9, 0.0)


def status(value: PrimaryGroup, nbd_connections: int) -> api.GroupStatus:
    """Return a group with everything in it."""
    result = api.GroupStatus(
        group=group(value),
        volumes=[volume(value.name, one) for one in value.writer.volumes.values()],
        links=[link(one, value) for one in list(value.links.values())],
        log=log_use(value),
        pending_messages=len(value.messages.pending()),
        applications=[row.name for row in value.database.applications()],
        nbd_connections=nbd_connections,
        agents=[agent(value, one) for one in value.quiesce.core.sessions()],
    )
    restoring = value.restores.active
    if restoring is not None:
        result.restore.CopyFrom(restore(value, restoring))
    began = value.writer.fence_began
    if began is not None:
        result.fence_held.CopyFrom(duration(value.writer.clock.monotonic() - began))
    return result


def application(group_name: str, value: ApplicationRow) -> resources_pb2.Application:
    """Return a registration."""
    return resources_pb2.Application(
        group=f"groups/{group_name}",
        application=value.name,
        register_time=timestamp(value.created_ns),
    )


def message(
    owner: PrimaryGroup, row: MessageRow, *, with_body: bool = False
) -> resources_pb2.Message:
    """Return a message with its verdicts."""
    record = record_pb2.IbcMessage.FromString(row.record)
    verdicts = owner.messages.verdicts(row)
    result = resources_pb2.Message(
        name=owner.messages.resource(row.id),
        application=row.application,
        behaviour=record.behaviour,
        position=position(row.position),
        body_bytes=len(record.data) or len(record.text.encode()),
        verdicts=[_verdict(one) for one in verdicts],
        final=all(one.final for one in verdicts),
        send_time=timestamp(row.time_ns),
        fenced=record.fenced,
        deliver_timeout=duration(record.deliver_timeout_seconds),
        freeze_timeout=duration(record.freeze_timeout_seconds),
        quiesced=record.quiesced,
        task=record.task,
    )
    if record.fenced:
        result.fence_held.CopyFrom(duration(row.fence_seconds))
    judgement = _judgement(owner, row.id)
    if judgement is not None:
        result.outcome = judgement.state
        result.judgement.CopyFrom(judgement)
    if with_body and record.WhichOneof("body") == "text":
        result.text = record.text
    elif with_body:
        result.data = record.data
    return result


def _judgement(owner: PrimaryGroup, message_id: str) -> record_pb2.Outcome | None:
    """Return what the quiesce of a message was worth, if that is known."""
    known = owner.database.outcome(message_id)
    if known is None:
        return None
    outcome = record_pb2.Outcome.FromString(bytes.fromhex(known[1].get("record", "")))
    outcome.message_id = message_id
    outcome.state = record_pb2.Outcome.State.Value(f"STATE_{known[0]}")
    return outcome


def agent(owner: PrimaryGroup, session: Session) -> api.AgentStatus:
    """Return the session of an agent."""
    status = api.AgentStatus(
        application=session.application,
        kind=session.kind,
        host=session.host,
        connect_time=timestamp(session.opened_ns),
    )
    held = owner.quiesce.held_for(session)
    if held is not None:
        status.held_for.CopyFrom(duration(held))
    return status


def _verdict(row: VerdictRow) -> resources_pb2.Verdict:
    result = resources_pb2.Verdict(
        link=row.link,
        state=verdict_state(row.state),
        time=timestamp(row.time_ns),
        final=row.final,
    )
    if "detail" in row.detail:
        detail = common_pb2.VerdictDetail.FromString(bytes.fromhex(row.detail["detail"]))
        result.detail.CopyFrom(detail)
    return result
