"""The edge to protobuf: what an agent says and hears, as its own types."""

from typing import assert_never

from slackwater.agent.keeper import Answer, Failed, Quiesced, Request, Resumed
from slackwater.v1 import primary_pb2

MAX_ANSWER_CHARACTERS = 64 << 10


def grace_seconds(message: primary_pb2.HoldQuiesceResponse) -> float:
    """The grace that an Opened names, or 0."""
    return message.opened.grace.ToNanoseconds() / 1e9


def request_of(hold: primary_pb2.HoldQuiesceResponse.Hold) -> Request:
    """A hold as the Primary asks for it."""
    return Request(
        hold.hold_id,
        hold.timeout.ToNanoseconds() / 1e9,
        hold.max_hold.ToNanoseconds() / 1e9,
        hold.application,
        hold.task,
        tuple(hold.links),
    )


def from_answer(answer: Answer) -> primary_pb2.HoldQuiesceRequest:
    """An answer to the Primary; texts are cut to a bounded length."""
    request = primary_pb2.HoldQuiesceRequest
    match answer:
        case Quiesced(hold_id, text):
            said = request.Quiesced(hold_id=hold_id, answer=text[:MAX_ANSWER_CHARACTERS])
            return request(quiesced=said)
        case Resumed(hold_id, unbroken, text):
            text = text[:MAX_ANSWER_CHARACTERS]
            return request(resumed=request.Resumed(hold_id=hold_id, unbroken=unbroken, answer=text))
        case Failed(hold_id, problem):
            problem = problem[:MAX_ANSWER_CHARACTERS]
            return request(failed=request.Failed(hold_id=hold_id, problem=problem))
        case _:
            assert_never(answer)
