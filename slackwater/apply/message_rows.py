"""Messages of a replica between the record, the rows of group.db and the machine that delivers."""

from typing import Final, cast

from slackwater.group.rows import DeliveryRow, MessageRow, VerdictRow
from slackwater.ibc.actions import Phase, Timers
from slackwater.ibc.messages import Behaviour, Message, Verdict, VerdictState
from slackwater.position import Position
from slackwater.v1 import common_pb2, record_pb2

_BEHAVIOURS: Final = {
    common_pb2.MESSAGE_BEHAVIOUR_UNSPECIFIED: Behaviour.FREEZE,
    common_pb2.MESSAGE_BEHAVIOUR_FREEZE: Behaviour.FREEZE,
    common_pb2.MESSAGE_BEHAVIOUR_NOTIFY: Behaviour.NOTIFY,
    common_pb2.MESSAGE_BEHAVIOUR_SNAPSHOT: Behaviour.SNAPSHOT,
}


def message_of_record(
    body: record_pb2.IbcMessage, position: Position, time_ns: int, snapshot_id: str = ""
) -> Message:
    """Return a message as its record says; `snapshot_id`: the one that was taken at it."""
    is_text = body.WhichOneof("body") == "text"
    return Message(
        message_id=body.message_id,
        application=body.application,
        behaviour=_BEHAVIOURS.get(body.behaviour, Behaviour.FREEZE),
        position=position,
        body=body.text.encode() if is_text else body.data,
        body_is_text=is_text,
        links=tuple(body.links),
        request_id=body.request_id,
        deliver_timeout_seconds=body.deliver_timeout_seconds,
        freeze_timeout_seconds=body.freeze_timeout_seconds,
        unregistered_timeout_seconds=body.unregistered_timeout_seconds,
        time_ns=time_ns,
        fenced=body.fenced,
        fence_held_seconds=body.fence_held_seconds,
        freeze_timeout_chosen=body.freeze_timeout_chosen,
        quiesced=tuple(body.quiesced),
        task=body.task,
        snapshot_id=snapshot_id,
    )


def row_of(message: Message, body: record_pb2.IbcMessage) -> MessageRow:
    """Return the row of a message that was reached."""
    return MessageRow(
        id=message.message_id,
        position=message.position,
        application=message.application,
        request_id="",  # repeated sends are the Primary's matter; here it need not be unique
        time_ns=message.time_ns,
        record=body.SerializeToString(),
        links=message.links,
        fence_seconds=body.fence_held_seconds,
    )


def message_of_row(row: MessageRow, snapshot_id: str = "") -> Message:
    """Return a message as its row says."""
    body = record_pb2.IbcMessage.FromString(row.record)
    return message_of_record(body, row.position, row.time_ns, snapshot_id)


def verdict_row(message: Message, verdict: Verdict, time_ns: int) -> VerdictRow:
    """Return the row of a verdict that is news."""
    detail: dict[str, object] = {}
    if verdict.by:
        detail["by"] = verdict.by
    if verdict.frozen_seconds is not None:
        detail["frozen_seconds"] = verdict.frozen_seconds
    if verdict.snapshot_id:
        detail["snapshot_id"] = verdict.snapshot_id
    if verdict.text:
        detail["text"] = verdict.text
    return VerdictRow(
        sequence=0,
        message_id=message.message_id,
        link="",
        source=0,
        lsn=message.position.lsn,
        state=verdict.state.value,
        detail=detail,
        time_ns=time_ns,
        final=verdict.state.is_final,
    )


def verdict_of_row(row: VerdictRow) -> Verdict:
    """Return a verdict as its row says."""
    frozen = row.detail.get("frozen_seconds")
    return Verdict(
        VerdictState(row.state),
        by=str(row.detail.get("by", "")),
        frozen_seconds=None if frozen is None else float(frozen),
        snapshot_id=str(row.detail.get("snapshot_id", "")),
        text=str(row.detail.get("text", "")),
    )


def row_of_timers(timers: Timers, lsn: int) -> DeliveryRow:
    """Return what is left of a delivery as a row."""
    detail = {
        "remaining_seconds": timers.remaining_seconds,
        "stood_seconds": timers.stood_seconds,
        "holder": timers.holder,
        "holder_request_id": timers.holder_request_id,
        "delivered": timers.delivered,
        "leased": timers.leased,
    }
    return DeliveryRow(timers.message_id, lsn, timers.phase.value, detail)


def timers_of_row(row: DeliveryRow | None) -> Timers | None:
    """Return what is left of a delivery, if there is one."""
    if row is None:
        return None
    detail = row.detail
    return Timers(
        message_id=row.message_id,
        phase=Phase(row.phase),
        remaining_seconds=cast("float | None", detail["remaining_seconds"]),
        stood_seconds=float(detail["stood_seconds"]),
        holder=str(detail["holder"]),
        holder_request_id=str(detail["holder_request_id"]),
        delivered=bool(detail["delivered"]),
        leased=bool(detail["leased"]),
    )
