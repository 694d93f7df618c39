"""Reading a log beside its writer: slices, padding, trimming, proof."""

import threading

import pytest

from slackwater.errors import LogCorrupt, StorageFailed
from slackwater.log import segment
from slackwater.log.reader import LogReader, Trimmed, replay
from slackwater.log.segment import HEADER_BYTES
from slackwater.position import LogPoint, Position
from slackwater.storage.simulated import SimulatedStorage
from tests.unit.log.history import (
    CAPACITY,
    DIRECTORY,
    SETTINGS,
    START,
    UID,
    History,
    append,
    create,
    disk,
    reader,
)


def filled(sizes: list[int]) -> tuple[SimulatedStorage, History, LogPoint]:
    storage, history = disk(), History()
    log = create(storage)
    for size in sizes:
        append(log, history, [size])
    end = log.sync()
    log.close()
    return storage, history, end


SIZES = [1500, 30, 700, 900, 1100, 5, 120, 16300 % 1500, 1300, 1300, 1300, 64, 64, 64]


@pytest.mark.parametrize("max_bytes", [1, 64, 200, 1000, 3000, 1 << 20])
def test_slices_of_any_size_are_all_records_in_order(max_bytes: int) -> None:
    storage, history, end = filled(SIZES)
    log_reader = reader(storage)
    offset, frames, count = 0, [], 0
    while True:
        found = log_reader.read(offset, end.offset, max_bytes)
        if not found.count:
            break
        assert found.first == history.positions[count]
        count += found.count
        assert found.last == history.positions[count - 1]
        assert len(found.data) == found.next_offset - found.offset
        assert len(found.data) <= max(max_bytes, 64) or found.count == 1
        assert [view.position for view in found.views()] == history.positions[
            count - found.count : count
        ]
        frames.append(bytes(found.data))
        offset = found.next_offset
    assert b"".join(frames) == b"".join(history.frames)
    assert (offset, found.first, found.last) == (end.offset, None, None)


def test_reader_never_passes_the_limit_and_sees_what_is_appended_later() -> None:
    storage, history = disk(), History()
    log = create(storage)
    append(log, history, [100])
    first = log.sync()
    append(log, history, [100])
    log_reader = reader(storage)
    found = log_reader.read(0, first.offset, 1 << 20)
    assert (found.count, found.next_offset) == (1, first.offset)
    assert log_reader.read(first.offset, first.offset, 1 << 20).count == 0
    second = log.sync()
    assert log_reader.read(first.offset, second.offset, 1 << 20).last == second.position


def test_frames_of_every_width_of_length_are_walked() -> None:
    settings = segment.LogSettings(16 << 20, (2 << 20) + HEADER_BYTES, 1 << 21)
    storage, history = disk(), History()
    log = create(storage, settings)
    sizes = [1, 40, 70, 71, 72, 73, 74, 75, 16000, 16300, 16310, 16320, 16330, 16384, 1 << 20, 9]
    for size in sizes:
        log.append([history.run([size])])
    end = log.sync()
    found = LogReader(storage, DIRECTORY, UID, settings).read(0, end.offset, 4 << 20)
    assert found.count == len(sizes)
    assert bytes(found.data) == b"".join(history.frames)


def test_offset_of_a_trimmed_and_renamed_segment_raises_trimmed() -> None:
    storage, history = disk(), History()
    log = create(storage)
    for _ in range(12):
        append(log, history, [1500])
    end = log.sync()
    log_reader = reader(storage)
    slow = reader(storage)
    assert slow.read(0, end.offset, 100).count == 1
    log.trim(end.offset)
    assert log_reader.read(0, end.offset, 100).count == 1  # freed, and whole until it is renamed
    log.prepare()
    log_reader.close()
    with pytest.raises(Trimmed) as caught:
        log_reader.read(0, end.offset, 100)
    assert caught.value.offset == 0
    # Another reader still has the file open; it is whole until its new header is written.
    assert slow.read(0, end.offset, 100).count == 1
    for _ in range(9):
        append(log, history, [1500])
        log.trim(log.sync().offset)
        log.prepare()
    with pytest.raises(Trimmed):
        slow.read(0, log.end.offset, 100)


def test_segment_renamed_between_open_and_reading_its_header_is_trimmed() -> None:
    storage, _, end = filled(SIZES)

    class Late(SimulatedStorage):
        def __init__(self) -> None:
            self.__dict__ = storage.__dict__

        def exists(self, path: object) -> bool:
            return False

    other = storage.open(segment.path(DIRECTORY, 1)).read(HEADER_BYTES, 0)
    storage.open(segment.path(DIRECTORY, 0)).write([other], 0)
    with pytest.raises(Trimmed):
        reader(Late()).read(0, end.offset, 100)
    with pytest.raises(LogCorrupt, match="header is not valid"):
        reader(storage).read(0, end.offset, 100)


def test_what_is_no_record_is_corrupt_and_named() -> None:
    storage, _, end = filled([100, 200, 300])
    file = storage.open(segment.path(DIRECTORY, 0))
    saved = file.read(1000, HEADER_BYTES)
    second = saved.index(b"\x12", 150) if saved[150] else 0
    for byte, value in ((0, 0x13), (1, 0xFF), (1, 0x7F), (2, 0xFF), (3, 0x00)):
        file.write([saved], HEADER_BYTES)
        file.write([bytes((value,))], HEADER_BYTES + byte)
        with pytest.raises(LogCorrupt) as caught:
            reader(storage).read(0, end.offset, 1 << 20)
        assert caught.value.segment == segment.name(0)
        assert caught.value.offset >= HEADER_BYTES
    file.write([saved], HEADER_BYTES)
    with pytest.raises(LogCorrupt):  # a limit inside a record
        reader(storage).read(0, 40, 1 << 20)
    assert second >= 0


def test_verify_proves_the_chain_and_names_the_record_that_breaks_it() -> None:
    storage, history, end = filled([100, 200, 300])
    log_reader = reader(storage)
    found = log_reader.read(0, end.offset, 1 << 20)
    assert len(log_reader.verify(found, START.position)) == 3
    with pytest.raises(LogCorrupt, match="does not continue 1/0") as caught:
        log_reader.verify(found, Position(1, 0, 1))
    assert caught.value.offset == HEADER_BYTES
    damaged = len(history.frames[0]) + 150
    storage.open(segment.path(DIRECTORY, 0)).write([b"\xff\xfe"], HEADER_BYTES + damaged)
    found = log_reader.read(0, end.offset, 1 << 20)
    with pytest.raises(LogCorrupt, match="does not continue 1/1") as caught:
        log_reader.verify(found, START.position)
    assert caught.value.offset == HEADER_BYTES + len(history.frames[0])


def test_replay_yields_every_record_between_two_points() -> None:
    storage, history, end = filled(SIZES)
    got = list(replay(reader(storage), START, end))
    assert [view.position for _, view in got] == history.positions
    assert [bytes(buffer[v.start : v.end]) for buffer, v in got] == history.frames
    third = LogPoint(len(history.to(3)), history.positions[2])
    assert third.offset < CAPACITY
    assert next(replay(reader(storage), third, end))[1].lsn == 4
    assert list(replay(reader(storage), end, end)) == []


def test_replay_that_ends_at_another_record_is_corrupt() -> None:
    storage, _, end = filled([100, 200])
    with pytest.raises(LogCorrupt, match="not at 1/9"):
        list(replay(reader(storage), START, LogPoint(end.offset, Position(1, 9, 9))))


@pytest.mark.parametrize("operation", ["open", "read"])
def test_storage_that_fails_is_reported(operation: str) -> None:
    storage, _, end = filled([100])
    storage.fail(operation)
    with pytest.raises(StorageFailed, match=operation):
        reader(storage).read(0, end.offset, 100)


def test_readers_follow_a_writer_that_trims_behind_them() -> None:
    storage, history = disk(), History()
    log = create(storage)
    mark = [0, 0]  # durable, reading
    done = threading.Event()
    got: list[bytes] = []
    errors: list[BaseException] = []

    def follow() -> None:
        try:
            log_reader = reader(storage)
            offset = 0
            while True:
                last = done.is_set()
                found = log_reader.read(offset, mark[0], 700)
                got.append(bytes(found.data))
                offset = mark[1] = found.next_offset
                if last and not found.count:
                    return
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        for size in range(400):
            append(log, history, [100 + size % 7 * 200])
            mark[0] = log.sync().offset
            while not log.has_room(3000) and thread.is_alive():
                log.trim(mark[1])
    finally:
        done.set()
        thread.join(20)
    assert not errors
    assert b"".join(got) == b"".join(history.frames)
    assert log.end.offset > 2 * SETTINGS.log_bytes
