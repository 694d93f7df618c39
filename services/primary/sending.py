"""What a SendMessage asks for, read and checked as far as that needs no group."""

from dataclasses import dataclass
from typing import Self

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from services.primary.checks import check_known
from slackwater import names
from slackwater.errors import InvalidRequest
from slackwater.ibc.judging import MAX_HOLD_SECONDS, TIMEOUT_SECONDS, Asked
from slackwater.ibc.messages import (
    DELIVER_TIMEOUT_SECONDS,
    FREEZE_TIMEOUT_SECONDS,
    UNREGISTERED_TIMEOUT_SECONDS,
    Behaviour,
    Send,
)
from slackwater.v1 import common_pb2, record_pb2
from slackwater.v1 import primary_pb2 as api

FENCE_SECONDS = 1.0
FENCE_LIMIT_SECONDS = 60.0

_BEHAVIOURS = {
    common_pb2.MESSAGE_BEHAVIOUR_UNSPECIFIED: Behaviour.FREEZE,
    common_pb2.MESSAGE_BEHAVIOUR_FREEZE: Behaviour.FREEZE,
    common_pb2.MESSAGE_BEHAVIOUR_NOTIFY: Behaviour.NOTIFY,
    common_pb2.MESSAGE_BEHAVIOUR_SNAPSHOT: Behaviour.SNAPSHOT,
}
_FREEZING = {value for value, behaviour in _BEHAVIOURS.items() if behaviour is Behaviour.FREEZE}


@dataclass(frozen=True)
class SendOrder:
    """A send: the rules' view of it, the record to be, the fence in seconds, the quiesce."""

    send: Send
    record: record_pb2.IbcMessage
    fence: float | None
    asked: Asked | None

    @classmethod
    def of(cls, request: api.SendMessageRequest, fence_limit: float) -> Self:
        """Read a request; no fence may hold writes longer than `fence_limit` seconds.

        Raises:
            InvalidRequest: a field is no good, whatever the state.
        """
        check_known("behaviour", request.behaviour, common_pb2.MessageBehaviour.values())
        if request.task:
            names.parse("task", request.task, "tasks")
        if request.snapshot_id:
            names.check_label("snapshot_id", request.snapshot_id)
            if request.behaviour != common_pb2.MESSAGE_BEHAVIOUR_SNAPSHOT:
                raise InvalidRequest(
                    "snapshot_id", "is for behaviour SNAPSHOT alone", "Leave it out"
                )
        if request.HasField("freeze_timeout") and request.behaviour not in _FREEZING:
            raise InvalidRequest("freeze_timeout", "is for behaviour FREEZE alone", "Leave it out")
        send = _send(request)
        record = _record(request, send)
        asked = _asked(request)
        if asked is not None:
            record.quiesced.extend(sorted(asked.applications))
        return cls(send, record, _fence(request, fence_limit), asked)


def _send(request: api.SendMessageRequest) -> Send:
    body = request.text.encode() if request.WhichOneof("body") == "text" else request.data
    return Send(
        application=request.application,
        behaviour=_BEHAVIOURS[request.behaviour],
        body=body,
        links=tuple(request.links),
        request_id=request.request_id,
        deliver_timeout_seconds=seconds(request, "deliver_timeout", DELIVER_TIMEOUT_SECONDS),
        freeze_timeout_seconds=seconds(request, "freeze_timeout", FREEZE_TIMEOUT_SECONDS),
        unregistered_timeout_seconds=seconds(
            request, "unregistered_timeout", UNREGISTERED_TIMEOUT_SECONDS
        ),
    )


def _record(request: api.SendMessageRequest, send: Send) -> record_pb2.IbcMessage:
    record = record_pb2.IbcMessage(
        application=send.application,
        behaviour=request.behaviour or common_pb2.MESSAGE_BEHAVIOUR_FREEZE,
        request_id=send.request_id,
        deliver_timeout_seconds=send.deliver_timeout_seconds,
        freeze_timeout_seconds=send.freeze_timeout_seconds,
        unregistered_timeout_seconds=send.unregistered_timeout_seconds,
        freeze_timeout_chosen=request.HasField("freeze_timeout"),
        snapshot_id=request.snapshot_id,
        task=request.task,
    )
    if request.WhichOneof("body") == "text":
        record.text = request.text
    elif request.WhichOneof("body") == "data":
        record.data = request.data
    return record


def _fence(request: api.SendMessageRequest, limit: float) -> float | None:
    """Return how long writes may be held back; None without a fence (C2)."""
    if not (request.fence if request.HasField("fence") else request.HasField("quiesce")):
        if request.HasField("fence_timeout"):
            raise InvalidRequest(
                "fence_timeout",
                "is given for a message without a fence",
                "Set fence, or leave it out",
            )
        return None
    chosen = seconds(request, "fence_timeout", min(FENCE_SECONDS, limit))
    if not 0 < chosen <= limit:
        raise InvalidRequest(
            "fence_timeout",
            f"{chosen:g} s is not more than 0 s and at most {limit:g} s",
            "Writers wait that long; the limit is the service's --fence-seconds",
        )
    return chosen


def _asked(request: api.SendMessageRequest) -> Asked | None:
    if not request.HasField("quiesce"):
        return None
    return Asked(
        tuple(request.quiesce.applications),
        seconds(request.quiesce, "timeout", TIMEOUT_SECONDS),
        seconds(request.quiesce, "max_hold", MAX_HOLD_SECONDS),
        request.application,
        request.task,
    )


def seconds(request: Message, field: str, default: float) -> float:
    """Return a Duration field in seconds, or the default if it is unset."""
    if not request.HasField(field):
        return default
    value = getattr(request, field)
    assert isinstance(value, Duration)
    return value.seconds + value.nanos / 1e9
