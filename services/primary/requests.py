"""What the servicers of the Primary share: threads, pages, remembered answers."""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

from google.protobuf.message import Message

from slackwater.errors import InvalidRequest

P = ParamSpec("P")
T = TypeVar("T")
M = TypeVar("M", bound=Message)

PAGE_DEFAULT, PAGE_LIMIT = 100, 1000
REQUEST_ID_LIMIT = 128
REMEMBERED = 4096


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run what waits for disks in a thread; a cancelled call does not stop it half-way."""
    return await asyncio.shield(asyncio.to_thread(function, *args, **kwargs))


def page(
    entries: Sequence[T], key: Callable[[T], str], size: int, token: str
) -> tuple[list[T], str]:
    """Return one page of entries in the order of their keys, and the next page's token.

    The token is the last key given, so entries that come and go between pages do no harm.

    Raises:
        InvalidRequest: the size is negative.
    """
    if size < 0:
        raise InvalidRequest("page_size", f"{size} is negative", "Leave it out for 100")
    size = min(size or PAGE_DEFAULT, PAGE_LIMIT)
    rest = sorted((entry for entry in entries if key(entry) > token), key=key)
    chosen = rest[:size]
    return chosen, key(chosen[-1]) if len(rest) > size else ""


def check_request_id(request_id: str) -> None:
    """Raise InvalidRequest if a request id is too long to be kept."""
    if len(request_id) > REQUEST_ID_LIMIT:
        raise InvalidRequest("request_id", f"is longer than {REQUEST_ID_LIMIT} characters")


class Remembered:
    """Answers by method and request id, for calls whose group may not exist (any more)."""

    def __init__(self) -> None:
        """Remember nothing yet."""
        self._answers: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, method: str, request_id: str, kind: type[M]) -> M | None:
        """Return the answer that a call with this id got."""
        check_request_id(request_id)
        with self._lock:
            data = self._answers.get((method, request_id))
        if data is None:
            return None
        return kind.FromString(data)

    def put(self, method: str, request_id: str, answer: Message) -> None:
        """Keep an answer; calls without an id are not kept."""
        if not request_id:
            return
        with self._lock:
            self._answers[(method, request_id)] = answer.SerializeToString()
            while len(self._answers) > REMEMBERED:
                self._answers.popitem(last=False)
