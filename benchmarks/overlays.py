"""Snapshots without services: creating, applying and reading on the objects a Secondary uses."""

import random
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from slackwater.clock import SystemClock
from slackwater.group.database import GroupDatabase
from slackwater.group.rows import Identity
from slackwater.group.volume import Volume
from slackwater.position import LogPoint, Position
from slackwater.snapshots.catalogue import Catalogue
from slackwater.snapshots.codec import HEADER_BYTES
from slackwater.snapshots.gather import CHUNK_BYTES
from slackwater.storage.real import RealStorage

BLOCK_BYTES: Final = 4096
BATCH: Final = 64
"""Records a batch: preserved, synced once, then written, as the applier does."""
_FILL_BYTES: Final = 1 << 20
_END: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Applied:
    """One run of the load.

    Attributes:
        per_second: Records a second, until the volume is synced.
        preserves_per_chunk: Records appended to overlays for each chunk the load changed.
    """

    per_second: float
    preserves_per_chunk: float


class Group:
    """One volume with snapshots, on real files."""

    def __init__(self, directory: Path, size_bytes: int) -> None:
        """Make it, sparse."""
        storage = RealStorage()
        self.size_bytes = size_bytes
        self.chunks = size_bytes // CHUNK_BYTES
        self._snapshots = directory / "snapshots"
        identity = Identity(uuid.uuid4(), "bench", "SECONDARY", 1, time.time_ns(), {})
        self._point = LogPoint(0, Position(1, 0, 0))
        self._database = GroupDatabase.create(
            storage, directory / "group.db", identity, self._point
        )
        self.volume = Volume.create(storage, directory / "1.raw", 1, "data", size_bytes)
        self.catalogue = Catalogue(
            storage, self._snapshots, self._database, SystemClock(), lambda _: self.volume
        )
        self.catalogue.reached = lambda: LogPoint(_END, self._point.position)
        self.catalogue.open(clean=False)
        self._made = 0
        self._random = random.Random(size_bytes)

    def close(self) -> None:
        """Let the files go."""
        self.catalogue.close(clean=False)
        self.volume.close()
        self._database.close()

    def fill(self) -> None:
        """Write every byte of the volume, none of them zero."""
        for at in range(0, self.size_bytes, _FILL_BYTES):
            self.volume.write(at, bytes([at // _FILL_BYTES % 255 + 1]) * _FILL_BYTES)
        self.volume.sync()

    def take(self) -> float:
        """Take a snapshot; return the seconds it took."""
        name = f"s-{self._made}"
        self._made += 1
        began = time.perf_counter()
        self.catalogue.create(name, self._point, [self.volume])
        return time.perf_counter() - began

    def drop_oldest(self) -> None:
        """Let the oldest snapshot go."""
        self.catalogue.delete(self.catalogue.ready()[0].name)
        while self.catalogue.merge_step():
            pass

    def change(self, share: float = 0.01) -> None:
        """Change that share of the chunks, at random, once each."""
        chosen = self._random.sample(range(self.chunks), int(self.chunks * share))
        self._apply([chunk * CHUNK_BYTES for chunk in chosen])

    def load(self, records: int) -> Applied:
        """Apply so many records of 4 KiB at random places."""
        blocks = self.size_bytes // BLOCK_BYTES
        offsets = [self._random.randrange(blocks) * BLOCK_BYTES for _ in range(records)]
        before = self._preserved_bytes()
        began = time.perf_counter()
        self._apply(offsets)
        self.volume.sync()
        spent = time.perf_counter() - began
        changed = len({offset // CHUNK_BYTES for offset in offsets})
        kept = (self._preserved_bytes() - before) / (CHUNK_BYTES + HEADER_BYTES)
        return Applied(records / spent, round(kept / changed, 4))

    def _apply(self, offsets: list[int]) -> None:
        data = b"\xff" * BLOCK_BYTES
        for at in range(0, len(offsets), BATCH):
            batch = offsets[at : at + BATCH]
            feed = self.catalogue.feed(0)
            if feed is not None:
                feed.preserve([(1, offset, BLOCK_BYTES) for offset in batch])
                feed.sync()
            for offset in batch:
                self.volume.write(offset, data)

    def _preserved_bytes(self) -> int:
        return sum(
            overlay.end for entry in self.catalogue.entries() for overlay in entry.overlays.values()
        )

    def map_bytes(self) -> int:
        """Return what the indexes of all snapshots take on the disk."""
        files = [path for path in self._snapshots.rglob("*") if path.is_file()]
        return sum(path.stat().st_blocks * 512 for path in files if path.suffix != ".overlay")

    def preserved_chunks(self) -> int:
        """Return how many chunks all snapshots hold."""
        return self._preserved_bytes() // (CHUNK_BYTES + HEADER_BYTES)

    def oldest(self) -> Callable[[int, int], bytes]:
        """Return how to read the oldest snapshot: so many bytes at an offset."""
        return self.catalogue.open_volume(self.catalogue.ready()[0].name, "data").read

    def now(self) -> Callable[[int, int], bytes]:
        """Return how to read the volume: so many bytes at an offset."""
        return lambda length, offset: self.volume.read(offset, length)


@contextmanager
def group(directory: Path, size_bytes: int) -> Iterator[Group]:
    """Make a group of its own and close it afterwards."""
    directory.mkdir(parents=True)
    with closing(Group(directory, size_bytes)) as made:
        yield made


def read_rate(
    read: Callable[[int, int], bytes], size_bytes: int, block_bytes: int, reads: int
) -> float:
    """Return reads a second: from the beginning on in whole MiB, else at random places."""
    blocks = size_bytes // block_bytes
    if block_bytes >= _FILL_BYTES:
        offsets = [number % blocks * block_bytes for number in range(reads)]
    else:
        scatter = random.Random(7)
        offsets = [scatter.randrange(blocks) * block_bytes for _ in range(reads)]
    began = time.perf_counter()
    for offset in offsets:
        read(block_bytes, offset)
    return reads / (time.perf_counter() - began)
