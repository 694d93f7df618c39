"""Reading what a replica holds: its volumes as they are, its snapshots, what differs."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

from slackwater import errors
from slackwater.apply.volumes import VolumeSet
from slackwater.extent import Extent
from slackwater.group.volume import Volume
from slackwater.snapshots.catalogue import Catalogue
from slackwater.snapshots.differences import Differences
from slackwater.snapshots.reader import SnapshotVolume


class LiveVolume:
    """A replica's volume, read-only; it stands still only while the replica is frozen."""

    def __init__(self, volume: Volume) -> None:
        """Read `volume`."""
        self._volume = volume

    @property
    def size(self) -> int:
        """Bytes in the volume now."""
        return self._volume.size

    def read(self, length: int, offset: int) -> bytes:
        """Return the bytes of a range within the volume."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise errors.OutOfRange("offset", f"{length} bytes at {offset} reach past {self.size}")
        return self._volume.read(offset, length)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """Yield data and holes of a range."""
        return self._volume.extents(offset, length)


class ReplicaReading(ABC):
    """Calls that read; part of `Replica`."""

    catalogue: Catalogue
    volumes: VolumeSet

    @abstractmethod
    def check_reached(self, name: str) -> None:
        """See `ReplicaSnapshots`."""

    def open_snapshot_volume(self, name: str, volume_name: str) -> SnapshotVolume:
        """Return a reader of one volume of a snapshot; needs no closing.

        Raises:
            NotFound: there is no such snapshot or volume.
            FailedPrecondition: it cannot be read yet (D22).
        """
        return self.catalogue.open_volume(name, volume_name)

    def differences(self, older: str, newer: str, volume_name: str) -> Differences:
        """Return what may differ in a volume between two snapshots; empty `newer`: now.

        Empty `older`: what is allocated in `newer`.

        Raises:
            NotFound: there is no such snapshot, or no such volume on the newer side.
            FailedPrecondition: one of them cannot be read yet (D22).
            InvalidRequest: `older` is not the older one.
        """
        base = self.catalogue.get(older) if older else None
        if base is not None:
            self.check_reached(older)
        if not newer:
            live = self.volumes.named(volume_name)
            return Differences(self.catalogue, base, None, live.id, LiveVolume(live))
        row, target = self.catalogue.get(newer), self.open_snapshot_volume(newer, volume_name)
        number = next(number for number, name, _ in row.volumes if name == volume_name)
        return Differences(self.catalogue, base, row, number, target)

    def volume_names(self, snapshot: str) -> list[str]:
        """Return the names of the volumes of a snapshot; without one, of the replica now.

        Raises:
            NotFound: there is no such snapshot.
        """
        if snapshot:
            return [name for _, name, _ in self.catalogue.get(snapshot).volumes]
        return [volume.name for volume in self.volumes.active()]

    def open_live_volume(self, volume_name: str) -> LiveVolume:
        """Return a reader of a volume as it is now.

        Raises:
            NotFound: there is none of that name.
        """
        return LiveVolume(self.volumes.named(volume_name))
