"""What servicers share: threads, pages, remembered answers."""

import asyncio
import errno
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import ParamSpec, TypeVar

from google.protobuf.message import Message

from slackwater.errors import InvalidRequest, NoSpace, StorageFailed

P = ParamSpec("P")
T = TypeVar("T")
M = TypeVar("M", bound=Message)

PAGE_DEFAULT, PAGE_LIMIT = 100, 1000
REQUEST_ID_LIMIT = 128
REMEMBERED = 4096
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run what waits for disks in a thread; a cancelled call does not stop it half-way.

    Raises:
        NoSpace, StorageFailed: in place of an OSError that came through.
    """
    call = partial(in_words, function, *args, **kwargs)
    return await asyncio.shield(asyncio.to_thread(call))


def in_words(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function; an OSError becomes one of our errors.

    Raises:
        NoSpace, StorageFailed: see above.
    """
    try:
        return function(*args, **kwargs)
    except OSError as error:
        where = str(error.filename or "the data directory")
        if error.errno in _FULL:
            raise NoSpace(where, "Make room, then try again") from error
        raise StorageFailed(where, "an operation", error.errno or errno.EIO) from error


def page_size(size: int) -> int:
    """Return how many entries a page has.

    Raises:
        InvalidRequest: the size is negative.
    """
    if size < 0:
        raise InvalidRequest("page_size", f"{size} is negative", "Leave it out for 100")
    return min(size or PAGE_DEFAULT, PAGE_LIMIT)


def page(
    entries: Sequence[T], key: Callable[[T], str], size: int, token: str
) -> tuple[list[T], str]:
    """Return one page of entries in the order of their keys, and the next page's token.

    The token is the last key given, so entries that come and go between pages do no harm.
    """
    size = page_size(size)
    rest = sorted((entry for entry in entries if key(entry) > token), key=key)
    chosen = rest[:size]
    return chosen, key(chosen[-1]) if len(rest) > size else ""


def newest_first(number: int) -> str:
    """Return a key under which larger numbers come first."""
    return f"{(1 << 64) - number:020d}"


def check_request_id(request_id: str) -> None:
    """Raise InvalidRequest if a request id is too long to be kept."""
    if len(request_id) > REQUEST_ID_LIMIT:
        raise InvalidRequest("request_id", f"is longer than {REQUEST_ID_LIMIT} characters")


class Remembered:
    """Answers by method and request id, for calls that make or end a group."""

    def __init__(self) -> None:
        """Remember nothing yet."""
        self._answers: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._running: dict[tuple[str, str], asyncio.Future[bytes]] = {}
        self._lock = threading.Lock()

    def get(self, method: str, request_id: str, kind: type[M]) -> M | None:
        """Return the answer that a call with this id got."""
        check_request_id(request_id)
        with self._lock:
            data = self._answers.get((method, request_id)) if request_id else None
        return None if data is None else kind.FromString(data)

    def put(self, method: str, request_id: str, answer: Message) -> None:
        """Keep an answer; calls without an id are not kept."""
        if not request_id:
            return
        with self._lock:
            self._answers[(method, request_id)] = answer.SerializeToString()
            while len(self._answers) > REMEMBERED:
                self._answers.popitem(last=False)

    async def once(
        self, method: str, request_id: str, kind: type[M], work: Callable[[], Awaitable[M]]
    ) -> M:
        """Do the work of a call, unless a call with its id does it now or did: then that answers.

        Belongs to the event loop's thread. What fails is not remembered.
        """
        known = self.get(method, request_id, kind)
        if known is not None:
            return known
        if not request_id:
            return await work()

        async def run() -> bytes:
            answer = await work()
            self.put(method, request_id, answer)
            return answer.SerializeToString()

        key = (method, request_id)
        running = self._running.get(key)
        if running is None:
            running = asyncio.ensure_future(run())
            self._running[key] = running
            running.add_done_callback(lambda _: self._running.pop(key))
        return kind.FromString(await asyncio.shield(running))
