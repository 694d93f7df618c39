"""The suite of snapshots on the file systems they are kept on: ext4, XFS and Btrfs."""

import hashlib
import random
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from slackwater.clock import SystemClock
from slackwater.clones.catalogue import Clones
from slackwater.group.database import GroupDatabase
from slackwater.group.rows import Identity
from slackwater.group.volume import Volume
from slackwater.position import LogPoint, Position
from slackwater.snapshots.catalogue import Catalogue
from slackwater.snapshots.gather import CHUNK_BYTES
from slackwater.storage.real import RealStorage
from tests.support import disks

POINT = LogPoint(0, Position(1, 0, 0))
SIZE = 24 << 20
DATA_BYTES = 8 << 20
"""The volume's head is written; the rest is a hole."""


class Group:
    """One volume with snapshots and clones, in a directory of the file system."""

    def __init__(self, where: Path) -> None:
        storage = RealStorage()
        storage.check(where)
        self.where = where
        identity = Identity(uuid.uuid4(), "g", "SECONDARY", 1, 0, {})
        self.database = GroupDatabase.create(storage, where / "group.db", identity, POINT)
        self.volume = Volume.create(storage, where / "1.raw", 1, "data", SIZE)
        self.random = random.Random(5)
        self.contents: dict[str, str] = {}
        self.write(0, self.random.randbytes(DATA_BYTES))
        self.open()

    def open(self) -> None:
        storage = RealStorage()
        self.catalogue = Catalogue(
            storage, self.where / "snapshots", self.database, SystemClock(), lambda _: self.volume
        )
        self.catalogue.reached = lambda: POINT
        self.catalogue.open(clean=False)
        self.clones = Clones(
            storage,
            self.where / "clones",
            self.database,
            SystemClock(),
            lambda snapshot, volume: self.catalogue.open_by_uid(snapshot, volume),
        )
        self.clones.open()

    def close(self) -> None:
        self.clones.close(clean=False)
        self.catalogue.close(clean=False)

    def write(self, offset: int, data: bytes) -> None:
        self.volume.write(offset, data)
        self.volume.sync()

    def take(self, name: str) -> None:
        self.catalogue.create(name, POINT, [self.volume])
        self.contents[name] = self.content(name)

    def change(self, first: int, chunks: int) -> None:
        """What the applier does with a record: preserve, sync, write."""
        offset, length = first * CHUNK_BYTES, chunks * CHUNK_BYTES
        self.preserve(offset, length)
        self.write(offset, self.random.randbytes(length))

    def preserve(self, offset: int, length: int) -> None:
        feed = self.catalogue.feed(0)
        assert feed is not None
        feed.preserve([(1, offset, length)])
        feed.sync()

    def content(self, name: str) -> str:
        reader = self.catalogue.open_volume(name, "data")
        return hashlib.sha256(reader.read(SIZE, 0)).hexdigest()

    def check(self) -> None:
        """Every snapshot shows what it showed when it was made."""
        names = [row.name for row in self.catalogue.ready()]
        assert {name: self.content(name) for name in names} == {
            name: self.contents[name] for name in names
        }

    def overlay_bytes(self, name: str) -> bytes:
        row = self.catalogue.get(name)
        return (self.where / "snapshots" / row.uid.hex / "1.overlay").read_bytes()

    def allocated(self, pattern: str) -> int:
        return sum(path.stat().st_blocks * 512 for path in self.where.rglob(pattern))


@pytest.fixture(params=["ext4", "xfs", "btrfs"])
def group(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Group]:
    with disks.file_system(tmp_path, request.param) as where:
        made = Group(where)
        yield made
        made.close()
        made.volume.close()
        made.database.close()


def test_snapshots_stay_as_they_were_over_changes_deletes_and_an_unclean_stop(
    group: Group,
) -> None:
    for number in range(4):
        group.take(f"s-{number}")
        group.change(5 * number, 9)
    group.check()
    group.catalogue.delete("s-1")
    while group.catalogue.merge_step():
        pass
    group.check()
    group.close()
    group.open()
    group.check()
    assert [row.name for row in group.catalogue.ready()] == ["s-0", "s-2", "s-3"]


def test_clone_takes_what_is_written_to_it_and_changes_nothing(group: Group) -> None:
    group.take("s")
    group.change(0, 4)
    row = group.clones.begin("c", group.catalogue.get("s"))
    group.clones.make_files(row)
    group.clones.finish(row)
    before = group.allocated("*.data")
    clone = group.clones.open_volume("c", "data")
    clone.write(3 * CHUNK_BYTES + 100, b"mine")
    clone.flush()
    assert clone.read(4, 3 * CHUNK_BYTES + 100) == b"mine"
    assert 0 < group.allocated("*.data") - before < 4 * CHUNK_BYTES
    group.check()
    group.close()
    group.open()
    assert group.clones.open_volume("c", "data").read(4, 3 * CHUNK_BYTES + 100) == b"mine"
    group.check()


def test_holes_stay_holes(group: Group) -> None:
    """A snapshot of a hole takes a header, a trimmed range gives its room back."""
    before = group.allocated("1.raw")
    assert before < DATA_BYTES + (1 << 20)
    group.take("s")
    group.preserve(DATA_BYTES, SIZE - DATA_BYTES)
    assert len(group.overlay_bytes("s")) < CHUNK_BYTES
    assert group.allocated("*.map") < CHUNK_BYTES
    reader = group.catalogue.open_volume("s", "data")
    assert [extent.data for extent in reader.extents(0, SIZE)] == [True, False]
    group.preserve(0, DATA_BYTES // 2)
    group.volume.zero(0, DATA_BYTES // 2)
    group.volume.sync()
    assert group.allocated("1.raw") <= before - DATA_BYTES // 4
    group.check()


def test_full_disk_is_an_error_and_touches_no_other_snapshot(group: Group) -> None:
    group.take("older")
    group.change(0, 8)
    group.take("newer")
    group.change(0, 1)
    held = group.overlay_bytes("older")
    with disks.filled(group.where):
        with pytest.raises(OSError, match="No space left"):
            group.preserve(0, DATA_BYTES)
        group.check()
        assert group.overlay_bytes("older") == held
    group.change(0, DATA_BYTES // CHUNK_BYTES)
    group.check()
    assert group.overlay_bytes("older") == held
    group.close()
    group.open()
    group.check()
