"""Who changes which volume just now, so that none is removed under a write.

A record that names a volume must not come after the one that removes it: a replica would stop at
it, and here the write would never get into its volume (D28).
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from slackwater.errors import FailedPrecondition, NotFound
from slackwater.group.volume import Volume

DRAIN_SECONDS = 5.0


class VolumeUses:
    """Counts the writers of each volume of a group; thread-safe."""

    def __init__(self) -> None:
        """Start with no writer."""
        self.drain_seconds = DRAIN_SECONDS
        self._changed = threading.Condition()
        self._writers: Counter[int] = Counter()
        self._going: set[int] = set()

    @contextmanager
    def use(self, volume: Volume) -> Iterator[None]:
        """Keep a volume from being removed while the body writes to it.

        Raises:
            NotFound: it is removed, or just being removed.
        """
        with self._changed:
            if volume.id in self._going:
                raise NotFound("volume", volume.name, "It was deleted")
            self._writers[volume.id] += 1
        try:
            yield
        finally:
            with self._changed:
                self._writers[volume.id] -= 1
                if self._going:
                    self._changed.notify_all()

    @contextmanager
    def removal(self, volume: Volume, is_kept: Callable[[], bool]) -> Iterator[None]:
        """Let the body remove a volume that nobody writes to, and let nobody write to it again.

        Args:
            volume: the one to be removed.
            is_kept: asked after a failure whether the volume is certainly there still.

        Raises:
            FailedPrecondition: a write to it does not end.
        """
        with self._changed:
            self._going.add(volume.id)
            if not self._changed.wait_for(
                lambda: not self._writers[volume.id], timeout=self.drain_seconds
            ):
                self._going.discard(volume.id)
                raise FailedPrecondition(
                    "VOLUME_IN_USE",
                    f"a write to volume {volume.name!r} is under way and does not end",
                    "Look at the group's state: slackwater status",
                )
        try:
            yield
        except BaseException:
            if is_kept():
                with self._changed:
                    self._going.discard(volume.id)
            raise
