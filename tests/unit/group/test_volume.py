"""Volumes over simulated files."""

import errno
from pathlib import Path

import pytest

from slackwater.extent import Extent
from slackwater.group.volume import Volume
from slackwater.storage.simulated import Policy, SimulatedStorage

PATH = Path("/volumes/data.raw")
SIZE = 1 << 20


@pytest.fixture
def storage() -> SimulatedStorage:
    storage = SimulatedStorage()
    storage.make_directory(PATH.parent)
    storage.sync_directory(Path("/"))
    return storage


@pytest.fixture
def volume(storage: SimulatedStorage) -> Volume:
    return Volume.create(storage, PATH, 3, "data", SIZE)


def test_new_volume_is_all_zeroes_sparse_and_durable(
    storage: SimulatedStorage, volume: Volume
) -> None:
    assert (volume.id, volume.name, volume.size, volume.path) == (3, "data", SIZE, PATH)
    assert volume.read(0, SIZE) == bytes(SIZE)
    assert list(volume.extents(0, SIZE)) == [Extent(0, SIZE, data=False)]
    assert volume.allocated_bytes() == 0
    after = storage.after_crash(Policy.DROP)
    assert Volume.open(after, PATH, 3, "data", SIZE).file.size() == SIZE


def test_leftover_of_an_earlier_try_does_not_shine_through(
    storage: SimulatedStorage, volume: Volume
) -> None:
    volume.write(0, b"old")
    volume.close()
    assert Volume.create(storage, PATH, 4, "data", SIZE).read(0, 3) == bytes(3)


def test_bytes_written_are_read_and_zeroed_ones_take_no_room(volume: Volume) -> None:
    volume.write(100, memoryview(b"abcdef")[1:])
    target = bytearray(7)
    volume.read_into(99, memoryview(target))
    assert target == b"\0bcdef\0"
    volume.zero(0, SIZE)
    assert volume.read(100, 5) == bytes(5)
    assert volume.allocated_bytes() == 0


def test_sync_makes_writes_durable_and_writeback_promises_nothing(
    storage: SimulatedStorage, volume: Volume
) -> None:
    volume.write(0, b"one")
    volume.start_writeback(0, 3)
    assert Volume.open(storage.after_crash(Policy.DROP), PATH, 3, "data", SIZE).read(0, 3) != b"one"
    volume.sync()
    assert Volume.open(storage.after_crash(Policy.DROP), PATH, 3, "data", SIZE).read(0, 3) == b"one"


def test_volume_grows_and_never_shrinks(volume: Volume) -> None:
    """Replay may come to an older size after a newer one (D28)."""
    volume.write(SIZE - 1, b"x")
    volume.grow(2 * SIZE)
    volume.grow(SIZE)
    assert (volume.size, volume.file.size()) == (2 * SIZE, 2 * SIZE)
    assert volume.read(SIZE - 1, 3) == b"x\0\0"


def test_larger_file_is_not_cut_by_growing_into_it(volume: Volume) -> None:
    volume.file.resize(4 * SIZE)
    volume.grow(2 * SIZE)
    assert (volume.size, volume.file.size()) == (2 * SIZE, 4 * SIZE)


def test_file_behind_its_grown_row_is_extended(storage: SimulatedStorage, volume: Volume) -> None:
    volume.close()
    assert Volume.open(storage, PATH, 3, "data", 2 * SIZE).file.size() == 2 * SIZE


def test_short_file_is_an_error_not_zeroes(volume: Volume) -> None:
    volume.file.resize(10)
    with pytest.raises(OSError, match="shorter") as caught:
        volume.read_into(0, memoryview(bytearray(20)))
    assert caught.value.errno == errno.EIO


@pytest.mark.parametrize("operation", ["resize", "sync", "sync_directory"])
def test_failed_creation_is_reported(storage: SimulatedStorage, operation: str) -> None:
    storage.fail(operation, number=errno.ENOSPC)
    with pytest.raises(OSError):
        Volume.create(storage, PATH, 3, "data", SIZE)
    Volume.create(storage, PATH, 3, "data", SIZE)


def test_failed_extension_is_reported(storage: SimulatedStorage, volume: Volume) -> None:
    storage.fail("resize", number=errno.EFBIG)
    with pytest.raises(OSError):
        Volume.open(storage, PATH, 3, "data", 2 * SIZE)
