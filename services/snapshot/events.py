"""What happened, told to those who watch."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from slackwater.errors import NoSpace, Unavailable
from slackwater.v1 import resources_pb2

Queue = asyncio.Queue[resources_pb2.Event | None]
BEHIND_LIMIT = 1000
"""A watcher that is further behind is let go."""


class Events:
    """Spreads events within the event loop; publishing never waits."""

    def __init__(self) -> None:
        """Nobody watches yet."""
        self._watchers: set[Queue] = set()

    def publish(self, resource: str, kind: str, text: str, **attributes: str) -> None:
        """Tell everybody who watches."""
        event = resources_pb2.Event(resource=resource, kind=kind, text=text, attributes=attributes)
        event.time.GetCurrentTime()
        for queue in self._watchers:
            if queue.qsize() <= BEHIND_LIMIT:
                queue.put_nowait(event)

    @contextmanager
    def subscription(self) -> Iterator[Queue]:
        """Collect events while the body runs."""
        queue: Queue = asyncio.Queue()
        self._watchers.add(queue)
        try:
            yield queue
        finally:
            self._watchers.discard(queue)

    @staticmethod
    async def follow(queue: Queue, group: str) -> AsyncIterator[resources_pb2.Event]:
        """Yield what a subscription collects: what happened to one group if it is named.

        Raises:
            NoSpace: the watcher is too far behind.
            Unavailable: the service is ending.
        """
        while (event := await queue.get()) is not None:
            if queue.qsize() >= BEHIND_LIMIT:
                raise NoSpace("the watcher's queue", "Watch again, and read faster")
            if group in ("", event.attributes["group"]):
                yield event
        raise Unavailable("the snapshot service, which is ending,", "Watch again in a moment")

    def close(self) -> None:
        """Let every watcher go."""
        for queue in self._watchers:
            queue.put_nowait(None)
