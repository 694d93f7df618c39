"""Who changes which volume just now, so that none is removed or restored under a write.

A record that names a volume must not come after the one that removes it: a replica would stop at
it, and here the write would never get into its volume (D28). And a write under a restore would be
lost in it, or be what the restore finds.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
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
        self._closed: dict[int, str] = {}

    @contextmanager
    def use(self, volume: Volume) -> Iterator[None]:
        """Keep a volume from being removed while the body writes to it.

        Raises:
            NotFound: it is removed, or just being removed.
            FailedPrecondition: it is closed.
        """
        with self._changed:
            if volume.id in self._going:
                raise NotFound("volume", volume.name, "It was deleted")
            self._check_open(volume)
            self._writers[volume.id] += 1
        try:
            yield
        finally:
            with self._changed:
                self._writers[volume.id] -= 1
                if self._going or self._closed:
                    self._changed.notify_all()

    @contextmanager
    def removal(self, volume: Volume, is_kept: Callable[[], bool]) -> Iterator[None]:
        """Let the body remove a volume that nobody writes to, and let nobody write to it again.

        Args:
            volume: the one to be removed.
            is_kept: asked after a failure whether the volume is certainly there still.

        Raises:
            FailedPrecondition: a write to it does not end, or it is closed.
        """
        with self._changed:
            self._check_open(volume)
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

    def close(self, volumes: Iterable[Volume], restore: str) -> None:
        """Let nobody write to volumes until `reopen`; returns when the last write has ended.

        Raises:
            FailedPrecondition: a write does not end, or a volume is being removed; none is closed.
        """
        ids = {volume.id for volume in volumes}
        with self._changed:
            self._closed.update(dict.fromkeys(ids, restore))
            if self._going & ids or not self._changed.wait_for(
                lambda: not any(self._writers[one] for one in ids), timeout=self.drain_seconds
            ):
                self._reopen(ids)
                raise FailedPrecondition(
                    "VOLUME_IN_USE",
                    "a write to a volume is under way and does not end, or one is being removed",
                    "Look at the group's state: slackwater status",
                )

    def reopen(self, volumes: Iterable[Volume]) -> None:
        """Let the volumes be written to again."""
        with self._changed:
            self._reopen({volume.id for volume in volumes})

    def check_open(self, volume: Volume) -> None:
        """Raise FailedPrecondition if a volume is closed."""
        with self._changed:
            self._check_open(volume)

    def _reopen(self, ids: Iterable[int]) -> None:
        for one in ids:
            self._closed.pop(one, None)

    def _check_open(self, volume: Volume) -> None:
        restore = self._closed.get(volume.id)
        if restore is not None:
            raise FailedPrecondition(
                "RESTORING",
                f"volume {volume.name!r} is being restored by {restore}",
                f"Wait until it is done, or end it: slackwater restore cancel {restore}",
            )
