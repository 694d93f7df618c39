"""What happened, told to those who watch (WatchEvents, WatchMessage)."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from slackwater.v1 import resources_pb2

QUEUE_LIMIT = 1000


class Subscription:
    """The events since somebody began to watch; bounded, and it says when it lost some."""

    def __init__(self) -> None:
        """Begin, in the event loop of the watcher."""
        self.overflowed = False
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[resources_pb2.Event] = asyncio.Queue()

    def put(self, event: resources_pb2.Event) -> None:
        """Add an event, from any thread."""
        with suppress(RuntimeError):  # the loop has ended, and with it the watcher
            self._loop.call_soon_threadsafe(self._put, event)

    def _put(self, event: resources_pb2.Event) -> None:
        if self._queue.qsize() >= QUEUE_LIMIT:
            self.overflowed = True
        else:
            self._queue.put_nowait(event)

    async def get(self, timeout_seconds: float) -> resources_pb2.Event | None:
        """Return the next event, or None when there is none in time."""
        try:
            async with asyncio.timeout(timeout_seconds):
                return await self._queue.get()
        except TimeoutError:
            return None


class EventHub:
    """Spreads events to subscriptions; publishing never blocks."""

    def __init__(self) -> None:
        """Start with nobody watching."""
        self._lock = threading.Lock()
        self._subscriptions: list[Subscription] = []

    def publish(self, resource: str, kind: str, text: str, **attributes: str) -> None:
        """Tell everybody who watches; from any thread."""
        with self._lock:
            watching = list(self._subscriptions)
        if not watching:
            return
        event = resources_pb2.Event(resource=resource, kind=kind, text=text, attributes=attributes)
        event.time.FromNanoseconds(time.time_ns())
        for subscription in watching:
            subscription.put(event)

    @contextmanager
    def subscribe(self) -> Iterator[Subscription]:
        """Watch while the body runs."""
        subscription = Subscription()
        with self._lock:
            self._subscriptions.append(subscription)
        try:
            yield subscription
        finally:
            with self._lock:
                self._subscriptions.remove(subscription)
