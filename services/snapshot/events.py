"""What happened, told to those who watch."""

import asyncio
from collections.abc import AsyncIterator

from slackwater.errors import NoSpace, Unavailable
from slackwater.v1 import resources_pb2

BEHIND_LIMIT = 1000
"""A watcher that is further behind is let go."""


class Events:
    """Spreads events within the event loop; publishing never waits."""

    def __init__(self) -> None:
        """Nobody watches yet."""
        self._watchers: set[asyncio.Queue[resources_pb2.Event | None]] = set()

    def publish(self, resource: str, kind: str, text: str, **attributes: str) -> None:
        """Tell everybody who watches."""
        event = resources_pb2.Event(resource=resource, kind=kind, text=text, attributes=attributes)
        event.time.GetCurrentTime()
        for queue in self._watchers:
            if queue.qsize() <= BEHIND_LIMIT:
                queue.put_nowait(event)

    async def watch(self, group: str) -> AsyncIterator[resources_pb2.Event]:
        """Yield what happens from now on: to one group if it is named.

        Raises:
            NoSpace: the watcher is too far behind.
            Unavailable: the service is ending.
        """
        queue: asyncio.Queue[resources_pb2.Event | None] = asyncio.Queue()
        self._watchers.add(queue)
        try:
            while (event := await queue.get()) is not None:
                if queue.qsize() >= BEHIND_LIMIT:
                    raise NoSpace("the watcher's queue", "Watch again, and read faster")
                if group in ("", event.attributes["group"]):
                    yield event
            raise Unavailable("the snapshot service, which is ending,", "Watch again in a moment")
        finally:
            self._watchers.discard(queue)

    def close(self) -> None:
        """Let every watcher go."""
        for queue in self._watchers:
            queue.put_nowait(None)
