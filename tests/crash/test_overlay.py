"""An overlay crashed at every storage call still shows the volume as it was at the snapshot."""

import random
import uuid
from pathlib import Path
from typing import Any

import pytest

from slackwater import errors
from slackwater.snapshots.overlay import Overlay
from slackwater.storage.simulated import Policy, SimulatedStorage
from tests.support.simulation import every_crash

DIRECTORY = Path("/s")
OVERLAY, MAP, VOLUME = DIRECTORY / "1.overlay", DIRECTORY / "1.map", DIRECTORY / "1.raw"
UID = uuid.UUID(int=7)
CHUNK = 4096
SIZE = 9 * CHUNK + 512


class FileSource:
    """A bare file as the volume under an overlay."""

    def __init__(self, storage: SimulatedStorage) -> None:
        self.file = storage.open(VOLUME, create=True)

    def read_into(self, offset: int, target: memoryview) -> None:
        assert self.file.read_into(target, offset) == len(target)

    def extents(self, offset: int, length: int) -> Any:
        return self.file.extents(offset, length)


def original() -> bytes:
    data = bytearray(random.Random(1).randbytes(SIZE))
    data[2 * CHUNK : 7 * CHUNK] = bytes(5 * CHUNK)
    return bytes(data)


def workload(storage: SimulatedStorage, journal: list[Any]) -> None:
    storage.make_directory(DIRECTORY)
    source = FileSource(storage)
    data = original()
    source.file.resize(SIZE)
    source.file.write([data[: 2 * CHUNK]], 0)
    source.file.write([data[7 * CHUNK :]], 7 * CHUNK)
    source.file.sync()
    overlay = Overlay.create(storage, OVERLAY, MAP, UID, SIZE, CHUNK)
    storage.sync_directory(DIRECTORY)
    storage.sync_directory(DIRECTORY.parent)
    journal.append("created")
    rng = random.Random(2)
    for first, count in ((0, 1), (1, 2), (0, 3), (8, 2), (2, 8), (5, 1), (0, 10)):
        overlay.preserve(source, [(first, first + count)])
        overlay.sync()
        end = min((first + count) * CHUNK, SIZE)
        source.file.write([rng.randbytes(end - first * CHUNK)], first * CHUNK)
        if first == 1:
            source.file.sync()


def shown(storage: SimulatedStorage) -> bytes:
    source = FileSource(storage)
    overlay = Overlay.open(storage, OVERLAY, MAP, UID, SIZE, CHUNK, clean=False)
    pieces = []
    for chunk in range(overlay.chunks):
        length = overlay.chunk_length(chunk)
        data = bytearray(length)
        source.read_into(chunk * CHUNK, memoryview(data))
        found = overlay.read(chunk, 0, length)
        pieces.append(bytes(data) if found is None else found)
    overlay.close()
    return b"".join(pieces)


def verify(storage: SimulatedStorage, journal: list[Any]) -> None:
    if "created" not in journal:
        return
    assert shown(storage) == original()
    # It goes on as if nothing had been: what is overwritten now is preserved too.
    source = FileSource(storage)
    overlay = Overlay.open(storage, OVERLAY, MAP, UID, SIZE, CHUNK, clean=False)
    overlay.preserve(source, [(0, 10)])
    overlay.sync()
    source.file.write([bytes([9]) * SIZE], 0)
    overlay.close()
    assert shown(storage) == original()


def test_overlay_shows_the_snapshot_after_a_crash_at_every_call() -> None:
    assert every_crash(workload, verify) > 20


def test_what_a_failed_sync_dropped_is_written_again_before_it_counts() -> None:
    storage = SimulatedStorage()
    storage.make_directory(DIRECTORY)
    source = FileSource(storage)
    source.file.write([original()], 0)
    source.file.sync()
    overlay = Overlay.create(storage, OVERLAY, MAP, UID, SIZE, CHUNK)
    storage.sync_directory(DIRECTORY)
    storage.sync_directory(DIRECTORY.parent)
    overlay.preserve(source, [(0, 1)])
    storage.fail("sync", "1.overlay")
    with pytest.raises(errors.StorageFailed):
        overlay.sync()
    # The process is started again; the pages are still readable, and clean.
    storage = storage.kill()
    source = FileSource(storage)
    overlay = Overlay.open(storage, OVERLAY, MAP, UID, SIZE, CHUNK, clean=False)
    overlay.preserve(source, [(0, 1)])
    overlay.sync()
    source.file.write([bytes([9]) * CHUNK], 0)
    source.file.sync()
    assert shown(storage.after_crash(Policy.DROP)) == original()
