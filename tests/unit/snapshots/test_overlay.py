"""Overlays: damage is named and never served, readers race the applier and win."""

import errno
import random
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slackwater import errors
from slackwater.extent import Extent
from slackwater.snapshots.chunkmap import HEAD_BYTES
from slackwater.snapshots.codec import HEADER_BYTES
from slackwater.snapshots.overlay import Overlay
from slackwater.snapshots.pins import Retired
from slackwater.snapshots.reader import SnapshotVolume
from slackwater.storage.simulated import SimulatedStorage

PLACE = Path("/s")
UID = uuid.UUID(int=9)
CHUNK = 4096
RECORD = HEADER_BYTES + CHUNK
SIZE = 8 * CHUNK + 1024


class Memory:
    """A volume in memory; `before_read` runs at every read."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        self.before_read: Callable[[], None] = lambda: None
        self.after_read: Callable[[], None] = lambda: None

    def read_into(self, offset: int, target: memoryview) -> None:
        self.before_read()
        target[:] = self.data[offset : offset + len(target)]
        self.after_read()

    def extents(self, offset: int, length: int) -> list[Extent]:
        found: list[Extent] = []
        for at in range(offset, offset + length, 512):
            size = min(512, offset + length - at)
            data = any(self.data[at : at + size])
            if found and found[-1].data is data:
                found[-1] = Extent(found[-1].offset, found[-1].length + size, data)
            else:
                found.append(Extent(at, size, data))
        return found


class OneChain:
    """A view of snapshots that never change places."""

    def __init__(self, *overlays: Overlay) -> None:
        self.overlays = list(overlays)

    def chain(self, snapshot_uid: uuid.UUID, volume_id: int) -> list[Overlay]:
        del snapshot_uid, volume_id
        return self.overlays


def made(storage: SimulatedStorage, name: str = "a", uid: uuid.UUID = UID) -> Overlay:
    storage.make_directory(PLACE)
    return Overlay.create(
        storage, PLACE / f"{name}.overlay", PLACE / f"{name}.map", uid, SIZE, CHUNK
    )


def opened(storage: SimulatedStorage, *, clean: bool, name: str = "a") -> Overlay:
    return Overlay.open(
        storage,
        PLACE / f"{name}.overlay",
        PLACE / f"{name}.map",
        UID,
        SIZE,
        CHUNK,
        clean=clean,
    )


def content() -> bytes:
    return random.Random(3).randbytes(SIZE)


def volume_of(*overlays: Overlay, source: Memory) -> SnapshotVolume:
    return SnapshotVolume(OneChain(*overlays), source, UID, 1, SIZE, CHUNK)


def damage(storage: SimulatedStorage, offset: int, name: str = "a.overlay") -> None:
    file = storage.open(PLACE / name)
    byte = file.read(1, offset)
    file.write([bytes([byte[0] ^ 1])], offset)


def preserved(storage: SimulatedStorage) -> tuple[Overlay, Memory]:
    """Preserve chunks 0 to 3, each in a batch of its own, and overwrite them."""
    source = Memory(content())
    overlay = made(storage)
    for chunk in range(4):
        overlay.preserve(source, [(chunk, chunk + 1)])
        overlay.sync()
        source.data[chunk * CHUNK : (chunk + 1) * CHUNK] = b"\xff" * CHUNK
    return overlay, source


def test_overlay_serves_old_bytes_of_any_range() -> None:
    overlay, source = preserved(SimulatedStorage())
    reader = volume_of(overlay, source=source)
    old = content()
    rng = random.Random(1)
    for _ in range(200):
        offset = rng.randrange(SIZE)
        length = rng.randrange(SIZE - offset + 1)
        assert reader.read(length, offset) == old[offset : offset + length]
    with pytest.raises(errors.OutOfRange):
        reader.read(2, SIZE - 1)


def test_flipped_data_bit_is_reported_for_exactly_that_chunk() -> None:
    storage = SimulatedStorage()
    overlay, source = preserved(storage)
    damage(storage, RECORD + HEADER_BYTES + 100)
    for again in (False, True):
        if again:
            overlay.close()
            overlay = opened(storage, clean=False)
        reader = volume_of(overlay, source=source)
        assert reader.read(CHUNK, 0) == content()[:CHUNK]
        with pytest.raises(errors.DataCorrupt):
            reader.read(1, CHUNK)
        assert reader.read(CHUNK, 2 * CHUNK) == content()[2 * CHUNK : 3 * CHUNK]


def test_rotten_header_below_the_synced_mark_is_named_by_the_next_one() -> None:
    storage = SimulatedStorage()
    _, source = preserved(storage)
    damage(storage, RECORD + 40)
    overlay = opened(storage, clean=False)
    assert not overlay.unnamed_loss
    reader = volume_of(overlay, source=source)
    for chunk in (0, 2, 3, 5):
        assert reader.read(9, chunk * CHUNK) == content()[chunk * CHUNK : chunk * CHUNK + 9]
    with pytest.raises(errors.DataCorrupt):
        reader.read(1, CHUNK)
    # Damage stays damage after a clean stop, and goes along when the snapshot is merged away.
    older = made(storage, "older", uuid.UUID(int=1))
    assert older.merge(overlay, 0, 100) is None
    with pytest.raises(errors.DataCorrupt):
        older.read(1, 0, 1)
    overlay.close_clean()
    with pytest.raises(errors.DataCorrupt):
        opened(storage, clean=True).read(1, 0, 1)


def test_two_rotten_headers_make_every_chunk_that_is_not_there_suspect() -> None:
    storage = SimulatedStorage()
    _, source = preserved(storage)
    damage(storage, RECORD + 40)
    damage(storage, 2 * RECORD + 40)
    overlay = opened(storage, clean=False)
    assert overlay.unnamed_loss
    reader = volume_of(overlay, source=source)
    assert reader.read(9, 0) == content()[:9]
    for chunk in (1, 2, 5):
        with pytest.raises(errors.DataCorrupt):
            reader.read(1, chunk * CHUNK)
    overlay.preserve(source, [(1, 2), (5, 6)])
    overlay.sync()
    with pytest.raises(errors.DataCorrupt):
        reader.read(1, CHUNK)


def test_clean_stop_keeps_the_map_and_an_unclean_one_makes_it_anew() -> None:
    storage = SimulatedStorage()
    overlay, source = preserved(storage)
    overlay.close_clean()
    before = storage.calls
    again = opened(storage, clean=True)
    assert storage.calls == before + 1, "the head goes; nothing was scanned or made anew"
    assert volume_of(again, source=source).read(SIZE, 0) == content()
    again.close()
    # The head is gone once the map was used: a stale map is never taken for a whole one.
    damage(storage, HEAD_BYTES, "a.map")
    assert volume_of(opened(storage, clean=True), source=source).read(SIZE, 0) == content()


def test_map_that_rotted_is_made_anew_from_the_overlay() -> None:
    storage = SimulatedStorage()
    overlay, source = preserved(storage)
    overlay.close_clean()
    damage(storage, HEAD_BYTES, "a.map")
    assert volume_of(opened(storage, clean=True), source=source).read(SIZE, 0) == content()


def test_wrong_map_entry_is_found_by_the_header() -> None:
    storage = SimulatedStorage()
    overlay, _ = preserved(storage)
    overlay._map.put(5, 1, RECORD, 0)
    with pytest.raises(errors.DataCorrupt):
        overlay.read(5, 0, 1)


def test_entry_that_is_loaded_while_it_is_stored_is_loaded_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    overlay, _ = preserved(SimulatedStorage())
    whole = overlay._map.get
    loads = [(RECORD, 0)]

    def get(chunk: int, *, settled: bool) -> tuple[int, int] | None:
        assert settled is not bool(loads), "the second time it waits for the store"
        return loads.pop() if loads else whole(chunk, settled=settled)

    monkeypatch.setattr(overlay._map, "get", get)
    assert overlay.read(3, 0, CHUNK) == content()[3 * CHUNK : 4 * CHUNK]
    assert not loads


def test_map_without_room_for_some_chunks_keeps_the_others_right() -> None:
    storage = SimulatedStorage()
    source = Memory(content())
    overlay = made(storage)
    put = overlay._map.put
    entries: list[int] = []

    def put_two(first: int, count: int, record_offset: int, flags: int) -> None:
        if len(entries) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        entries.append(first)
        put(first, count, record_offset, flags)

    overlay._map.put = put_two  # type: ignore[method-assign]
    with pytest.raises(OSError, match="No space"):
        overlay.preserve(source, [(0, 4)])
    assert [overlay.has(chunk) for chunk in range(4)] == [True, True, False, False]
    overlay._map.put = put  # type: ignore[method-assign]
    overlay.preserve(source, [(0, 4)])
    overlay.sync()
    source.data[: 4 * CHUNK] = bytes(4 * CHUNK)
    assert volume_of(overlay, source=source).read(SIZE, 0) == content()
    overlay.close()
    again = opened(storage, clean=False)
    assert volume_of(again, source=source).read(SIZE, 0) == content()


def test_missing_overlay_is_damage() -> None:
    storage = SimulatedStorage()
    storage.make_directory(PLACE)
    with pytest.raises(errors.DataCorrupt):
        opened(storage, clean=False)


def test_refused_write_preserves_nothing_and_can_be_tried_again() -> None:
    storage = SimulatedStorage()
    source = Memory(content())
    overlay = made(storage)
    storage.fail("write", "a.overlay", errno.ENOSPC)
    with pytest.raises(OSError, match="No space"):
        overlay.preserve(source, [(0, 3)])
    assert not overlay.has(0)
    overlay.preserve(source, [(0, 3)])
    overlay.sync()
    source.data[: 3 * CHUNK] = bytes(3 * CHUNK)
    assert volume_of(overlay, source=source).read(SIZE, 0) == content()


def test_failed_sync_is_repeated_for_ever_and_never_tried_again() -> None:
    storage = SimulatedStorage()
    overlay = made(storage)
    overlay.preserve(Memory(content()), [(0, 1)])
    storage.fail("sync", "a.overlay")
    for _ in range(2):
        with pytest.raises(errors.StorageFailed):
            overlay.sync()
    assert overlay.synced_bytes == 0


def test_zero_ranges_take_one_record_and_read_as_holes() -> None:
    storage = SimulatedStorage()
    source = Memory(bytes(SIZE))
    source.data[CHUNK : CHUNK + 3] = b"abc"
    overlay = made(storage)
    overlay.preserve(source, [(0, 100)])
    overlay.sync()
    assert overlay.end == 3 * HEADER_BYTES + CHUNK
    source.data[:] = b"\xff" * SIZE
    reader = volume_of(overlay, source=source)
    assert list(reader.extents(0, SIZE)) == [
        Extent(0, CHUNK, False),
        Extent(CHUNK, CHUNK, True),
        Extent(2 * CHUNK, SIZE - 2 * CHUNK, False),
    ]
    again = volume_of(opened(storage, clean=False), source=source)
    assert again.read(SIZE, 0) == bytes(CHUNK) + b"abc" + bytes(SIZE - CHUNK - 3)
    assert list(again.extents(CHUNK - 512, 1024)) == [
        Extent(CHUNK - 512, 512, False),
        Extent(CHUNK, 512, True),
    ]


def overwrite(overlay: Overlay, source: Memory) -> None:
    """What the applier does: preserve, sync, write."""
    hooks = source.before_read, source.after_read
    source.before_read = source.after_read = lambda: None
    overlay.preserve(source, [(2, 3)])
    overlay.sync()
    source.data[2 * CHUNK : 3 * CHUNK] = b"\xff" * CHUNK
    source.before_read, source.after_read = hooks


@pytest.mark.parametrize("moment", ["before_read", "after_read"])
def test_reader_is_right_when_the_applier_overtakes_it(moment: str) -> None:
    overlay, source = made(SimulatedStorage()), Memory(content())
    setattr(source, moment, lambda: overwrite(overlay, source))
    assert (
        volume_of(overlay, source=source).read(CHUNK, 2 * CHUNK)
        == (content()[2 * CHUNK : 3 * CHUNK])
    )


def test_reader_looks_at_a_snapshot_that_came_while_it_read() -> None:
    storage = SimulatedStorage()
    source = Memory(content())
    overlay = made(storage)
    view = OneChain(overlay)

    def another_snapshot() -> None:
        source.before_read = lambda: None
        view.overlays = [overlay, made(storage, "b", uuid.UUID(int=2))]
        overwrite(view.overlays[1], source)

    source.before_read = another_snapshot
    reader = SnapshotVolume(view, source, UID, 1, SIZE, CHUNK)
    assert reader.read(CHUNK, 2 * CHUNK) == content()[2 * CHUNK : 3 * CHUNK]


def test_reader_tries_again_when_a_merge_ends_under_it() -> None:
    storage = SimulatedStorage()
    source = Memory(content())
    older, newer = made(storage, "older"), made(storage, "newer", uuid.UUID(int=2))
    overwrite(newer, source)

    class Merging(OneChain):
        def chain(self, snapshot_uid: uuid.UUID, volume_id: int) -> list[Overlay]:
            found = list(self.overlays)
            if len(self.overlays) == 2:
                assert older.merge(newer, 0, 100) is None
                older.sync()
                self.overlays = [older]
                newer.close()
                return [newer, *found[2:]]
            return super().chain(snapshot_uid, volume_id)

    reader = SnapshotVolume(Merging(older, newer), source, UID, 1, SIZE, CHUNK)
    assert reader.read(CHUNK, 2 * CHUNK) == content()[2 * CHUNK : 3 * CHUNK]
    with pytest.raises(Retired):
        newer.read(2, 0, 1)


def test_merge_goes_in_bounded_steps_and_keeps_what_is_there() -> None:
    storage = SimulatedStorage()
    newer, _ = preserved(storage)
    older = made(storage, "older", uuid.UUID(int=2))
    older.preserve(Memory(b"o" * SIZE), [(1, 2)])
    steps: list[Any] = []
    at: int | None = 0
    while at is not None:
        at = older.merge(newer, at, 2)
        steps.append(at)
    assert steps == [3, None]
    older.sync()
    assert older.read(1, 0, 3) == b"ooo"
    assert older.read(3, 0, CHUNK) == content()[3 * CHUNK : 4 * CHUNK]
