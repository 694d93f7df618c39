"""What can be used of a replica's snapshots, and when: reached, or copied whole (kind FULL)."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from slackwater import errors
from slackwater.apply.applier import Applier
from slackwater.apply.volumes import VolumeSet
from slackwater.group.rows import SnapshotRow
from slackwater.snapshots.catalogue import Catalogue


class ReplicaCopies(ABC):
    """Calls about what a snapshot needs to be used; part of `Replica`."""

    name: str
    applier: Applier
    catalogue: Catalogue
    volumes: VolumeSet
    _apply_lock: AbstractContextManager[object]

    @abstractmethod
    def _changing(self) -> AbstractContextManager[None]:
        """See `Replica`."""

    @contextmanager
    def _using(self, row: SnapshotRow) -> Iterator[None]:
        """Change what stands on a snapshot; a whole copy may be used though volumes are lost.

        Only where the loss was found at the start: then all else is proved. A replica that failed
        since is opened anew first, for its database may be what failed (D3).
        """
        if row.copied and self.volumes.lost:
            with self._apply_lock:
                yield
            return
        with self._changing():
            yield

    def snapshot_is_readable(self, name: str) -> bool:
        """Tell whether the replica has come to the snapshot's place (D22), or is not needed."""
        row = self.catalogue.get(name)
        return row.copied or row.point.offset <= self.applier.reached.offset

    def check_reached(self, name: str) -> None:
        """Refuse to use a snapshot past the applied position (D21, D22).

        Raises:
            NotFound: there is none of that name.
            FailedPrecondition: the replica is not there yet.
        """
        if not self.snapshot_is_readable(name):
            raise errors.FailedPrecondition(
                "SNAPSHOT_NOT_REACHED",
                f"replica {self.name!r} is recovering and not yet at snapshot {name!r}",
                "Try again when it is done",
            )
