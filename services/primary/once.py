"""Changes of a group: one after the other, and each once (idempotency by request id)."""

from collections.abc import Callable
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from services.primary.group import PrimaryGroup
from slackwater.runtime.calls import check_request_id, in_thread

M = TypeVar("M", bound=Message)


class Change(Protocol):
    """A request that changes something."""

    request_id: str


async def once(group: PrimaryGroup, request: Change, kind: type[M], change: Callable[[], M]) -> M:
    """Change a group; a request that is repeated gets the first answer.

    A caller that goes away in the middle finds the answer kept all the same.
    """
    check_request_id(request.request_id)
    method = type(request).__name__.removeprefix("PrimaryService").removesuffix("Request")
    return await in_thread(_in_turn, group, method, request.request_id, kind, change)


def _in_turn(
    group: PrimaryGroup, method: str, request_id: str, kind: type[M], change: Callable[[], M]
) -> M:
    with group.admin:
        data = group.database.remembered(request_id, method) if request_id else None
        if data is not None:
            return kind.FromString(data)
        answer = change()
        now = group.writer.clock.time_ns()
        group.database.remember(request_id, method, answer.SerializeToString(), now)
        return answer
