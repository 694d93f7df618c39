"""A Secondary's end of HoldMessage that follows a script."""

from collections.abc import Callable, Iterator

from slackwater.v1 import common_pb2, secondary_pb2
from tests.unit.cli import messages as m

Response = secondary_pb2.HoldMessageResponse
UNFROZEN = common_pb2.VERDICT_STATE_UNFROZEN
BEAT = Response(heartbeat=Response.Heartbeat())


def thawed(state: common_pb2.VerdictState.ValueType = UNFROZEN) -> Response:
    """The end of a freeze of 12 ms."""
    response = Response(thawed=Response.Thawed(state=state))
    response.thawed.frozen_for.FromMilliseconds(12)
    return response


class Lease:
    """Hands one message over and thaws at the unfreeze, or as the script says.

    Attributes:
        openings: The streams that were opened.
        said: The kinds of what the holder said, heartbeats left out.
        delivers: The message; None for none.
        then: What follows the message: called, its answers sent, before the holder is listened to.
        thaws: Whether an unfreeze is answered.
    """

    def __init__(self, delivers: secondary_pb2.DeliveredMessage | None = m.DELIVERED) -> None:
        """Script the usual."""
        self.openings: list[secondary_pb2.HoldMessageRequest.Open] = []
        self.said: list[str] = []
        self.beats = 0
        self.delivers = delivers
        self.then: Callable[[], list[Response]] = list
        self.thaws = True

    def __call__(self, requests: Iterator[secondary_pb2.HoldMessageRequest]) -> Iterator[Response]:
        """Serve one stream."""
        opening = secondary_pb2.HoldMessageRequest.Open()
        opening.CopyFrom(next(requests).open)
        self.openings.append(opening)
        yield BEAT
        if self.delivers is not None:
            yield Response(delivered=self.delivers)
        yield from self.then()
        for request in requests:
            kind = request.WhichOneof("message") or ""
            if kind == "heartbeat":
                self.beats += 1
                yield BEAT
                continue
            self.said.append(kind)
            if self.thaws:
                yield thawed()
                return
