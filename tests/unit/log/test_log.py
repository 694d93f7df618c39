"""Appending, syncing, trimming, preparing, finding, and what failures do to them."""

import errno
import random
import re
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path

import pytest
from crc32c import crc32c

from slackwater.errors import InvalidRequest, LogCorrupt, NoSpace, StorageFailed
from slackwater.log import segment
from slackwater.log.layout import lay_out
from slackwater.log.log import Log
from slackwater.log.run import Run
from slackwater.log.segment import HEADER_BYTES, LogSettings, SegmentHeader, parse_header
from slackwater.position import LogPoint, Position
from slackwater.record import Buffer
from slackwater.storage.simulated import Policy
from tests.unit.log.history import (
    CAPACITY,
    DIRECTORY,
    ORIGIN,
    SETTINGS,
    START,
    UID,
    History,
    append,
    content,
    create,
    disk,
    reopen,
)


class TestSegment:
    def test_header_golden_bytes(self) -> None:
        """The offsets of docs/log-format.md."""
        header = SegmentHeader(UID, 5, Position(3, 41, 0xDEADBEEF), 1 << 26, 1 << 23)
        data = header.pack()
        assert len(data) == HEADER_BYTES
        assert data[:8] == b"SLKWSEG\0"
        assert data[8:16] == bytes.fromhex("0100000000100000")
        assert data[16:32] == UID.bytes
        assert data[32:40] == bytes.fromhex("0500000000000000")
        assert data[40:48] == bytes.fromhex("0300000000000000")
        assert data[48:56] == bytes.fromhex("2a00000000000000")
        assert data[56:64] == bytes.fromhex("0000000400000000")
        assert data[64:72] == bytes.fromhex("0000800000000000")
        assert data[72:76] == bytes.fromhex("efbeadde")
        assert data[76:80] == bytes.fromhex("0549d0ed")
        assert data[80:] == bytes(4016)
        assert parse_header(data) == header

    def test_header_table_of_the_documentation_is_the_header(self) -> None:
        """docs/log-format.md says the offsets once; they must be these."""
        page = (Path(__file__).parents[3] / "docs/log-format.md").read_text()
        table = page.split("## Segment header")[1].split("## ")[0]
        rows = re.findall(r"^\| (\d+) \| (\d+) \| ([a-zA-Z0-9 ]+) \|", table, re.MULTILINE)
        assert [(int(offset), int(size)) for offset, size, _ in rows] == [
            (0, 8), (8, 4), (12, 4), (16, 16), (32, 8), (40, 8), (48, 8), (56, 8), (64, 8),
            (72, 4), (76, 4), (80, 4016),
        ]  # fmt: skip

    def test_header_with_any_bit_flipped_is_none(self) -> None:
        data = SegmentHeader(UID, 5, ORIGIN, 1 << 26, 1 << 23).pack()
        for byte in (*range(80), 80, 511, 512, 4095):
            damaged = bytearray(data)
            damaged[byte] ^= 1
            assert parse_header(bytes(damaged)) is None
        assert parse_header(data[:-1]) is None
        assert parse_header(bytes(HEADER_BYTES)) is None

    def test_header_of_another_kind_of_file_is_none(self) -> None:
        data = bytearray(SegmentHeader(UID, 5, ORIGIN, 1 << 26, 1 << 23).pack())
        data[0] ^= 1
        data[76:80] = crc32c(bytes(data[:76])).to_bytes(4, "little")
        assert parse_header(bytes(data)) is None

    def test_names(self) -> None:
        assert segment.name(7) == "000000000007.seg"
        assert segment.lap_of("000000000007.seg") == 7
        for other in ("7.seg", "000000000007.seg.tmp", "x"):
            assert segment.lap_of(other) is None

    def test_settings_of_production_are_bounded(self) -> None:
        LogSettings().validate()
        for field, settings in (
            ("segment_bytes", LogSettings(segment_bytes=(8 << 20) + 1)),
            ("segment_bytes", LogSettings(segment_bytes=4 << 20)),
            ("segment_bytes", LogSettings(segment_bytes=256 << 20)),
            ("max_commit_bytes", LogSettings(max_commit_bytes=1 << 20)),
            ("max_commit_bytes", LogSettings(max_commit_bytes=256 << 20)),
        ):
            with pytest.raises(InvalidRequest) as caught:
                settings.validate()
            assert caught.value.field == field


class TestRun:
    def test_both_shapes_hold_the_same_records(self) -> None:
        primary = History().run([10, 200, 3000], 7)
        secondary = History().slice([10, 200, 3000], 7)
        assert b"".join(primary.pieces) == b"".join(secondary.pieces)
        assert list(primary.records()) == list(secondary.records())
        for name in ("size", "first_lsn", "last"):
            assert getattr(primary, name) == getattr(secondary, name)

    def test_cut_returns_exactly_the_bytes_without_copying_whole_pieces(self) -> None:
        run = History().run([10, 200, 30])
        whole = b"".join(run.pieces)
        for start in range(0, run.size, 7):
            for end in range(start, run.size + 1, 11):
                assert b"".join(run.cut(start, end)) == whole[start:end]
        assert run.cut(0, run.size)[1] is run.pieces[1]
        first = next(iter(run.records()))[0]
        assert run.cut(first, run.size)[0] is run.pieces[2]


class TestLayout:
    def test_records_never_cross_a_segment_nor_leave_a_tail_too_short_for_padding(self) -> None:
        rng = random.Random(1)
        capacity, window = 500, 300
        for _ in range(300):
            history = History()
            runs = [history.run([rng.randrange(1, 60) for _ in range(9)]) for _ in range(3)]
            offset = rng.randrange(0, 490)
            end = 500
            steps = lay_out(runs, offset, end, capacity, window=window)
            written = b"".join(bytes(p) for step in steps for p in step.pieces)
            assert written == b"".join(history.frames)
            at = offset
            for step in steps:
                assert step.lap == step.offset // capacity
                assert step.size <= window
                left = capacity - (step.offset + step.size) % capacity
                assert left >= 8
                if step.offset != at:  # sealed: the next record did not fit there
                    assert step.offset % capacity == 0
                    assert 0 <= step.offset - at < 130
                at = step.offset + step.size
            assert steps[-1].last == history.position

    def test_record_that_ends_exactly_with_the_segment_stays_in_it(self) -> None:
        run = History().run([100])
        (step,) = lay_out([run], 500 - run.size, 500, 500, window=300)
        assert (step.lap, step.offset + step.size) == (0, 500)
        (step,) = lay_out([run], 500, 500, 500, window=300)
        assert (step.lap, step.offset) == (1, 500)


class TestAppend:
    def test_appended_is_not_durable_and_synced_is(self) -> None:
        storage, history = disk(), History()
        log = create(storage)
        append(log, history, [100, 200])
        assert log.durable == START
        assert log.end.position == history.position
        assert log.sync() == log.durable == log.end
        append(log, history, [300])
        bare, _ = reopen(storage.after_crash(Policy.DROP))
        assert bare.end == log.durable

    def test_append_of_many_runs_is_one_write(self) -> None:
        storage, history = disk(), History()
        log = create(storage)
        before = storage.calls
        log.append([history.run([100]), history.slice([200]), history.run([30, 30])])
        assert storage.calls == before + 1
        log.sync()
        assert storage.calls == before + 2
        assert content(storage, START, log.end) == history.to(4)

    def test_sync_without_anything_new_does_nothing(self) -> None:
        storage, history = disk(), History()
        log = create(storage)
        append(log, history, [100])
        log.sync()
        before = storage.calls
        assert log.sync() == log.end
        assert storage.calls == before

    def test_append_never_leaves_more_than_the_window_unsynced(self) -> None:
        storage, history = disk(), History()
        log = create(storage)
        for size in (900, 900, 900, 40, 1500, 1500, 700):
            log.append([history.run([size, 10])])
            assert log.end.offset - log.durable.offset <= 2 * SETTINGS.max_commit_bytes
            survivor, _ = reopen(storage.after_crash(Policy.DROP))
            assert survivor.end.position.lsn >= log.durable.position.lsn
        log.append([history.slice([900] * 9)])  # one run far larger than the window
        log.sync()
        assert content(storage, START, log.end) == history.to(history.position.lsn)

    def test_segment_is_synced_to_its_end_before_the_next_gets_a_byte(self) -> None:
        storage, history = disk(), History()
        log = create(storage)
        log.append([history.run([1500])])
        log.append([history.run([900, 900])])
        log.prepare()
        log.sync()
        log.append([history.run([300])])
        start = storage.calls
        log.append([history.run([1200])])
        calls = [(kind, name[-5:]) for _, kind, name in storage.call_log[start:]]
        assert calls == [
            ("write", "0.seg"), ("sync", "0.seg"),
            ("write", "1.seg"), ("sync", "1.seg"),
            ("write", "1.seg"),
        ]  # fmt: skip

    def test_records_that_do_not_continue_are_a_programmers_error(self) -> None:
        log, history = create(disk()), History()
        history.add(10)
        with pytest.raises(AssertionError):
            log.append([history.run([10])])

    def test_epoch_change_and_old_epochs_are_found_again_after_recovery(self) -> None:
        storage, history = disk(), History()
        log = create(storage)
        append(log, history, [10])
        frame = history.add_epoch()
        log.append([Run([frame], [(len(frame), history.position)])])
        append(log, history, [1500])
        append(log, history, [1500])
        append(log, history, [1500])
        log.sync()
        again, _ = reopen(storage.after_crash(Policy.DROP))
        assert again.end == log.end
        assert [again.find(p) is not None for p in history.positions] == [True] * 5


class TestSpace:
    def fill(self, log: Log, history: History, *, control: bool = False) -> None:
        with pytest.raises(NoSpace):
            while True:
                saved = History(history.position)
                log.append([saved.run([500])], control=control)
                log.sync()
                history.add(500)

    def test_full_log_refuses_before_writing_and_keeps_room_for_control(self) -> None:
        storage, history = disk(), History()
        log = create(storage)
        self.fill(log, history)
        end, calls = log.end, storage.calls
        with pytest.raises(NoSpace):
            log.append([History(history.position).run([1500, 1500])])
        assert (log.end, storage.calls) == (end, calls)
        assert log.free_bytes >= SETTINGS.control_reserve_bytes
        log.append([history.run([1000])], control=True)
        self.fill(log, history, control=True)
        assert log.used_bytes <= log.capacity_bytes

    def test_reserve_that_begins_within_a_segment_is_kept_as_well(self) -> None:
        twelve = LogSettings(12 * SETTINGS.segment_bytes, SETTINGS.segment_bytes, 2048)
        storage, history = disk(), History()
        log = create(storage, twelve)
        self.fill(log, history)
        assert 0 <= log.free_bytes - twelve.control_reserve_bytes < 600
        assert log.free_bytes % CAPACITY > 600

    def test_trim_makes_room_again_without_growing_the_directory(self) -> None:
        storage, history = disk(), History()
        log = create(storage)
        for _ in range(5):
            self.fill(log, history)
            log.trim(log.durable.offset)
            assert log.oldest == log.durable.offset // CAPACITY * CAPACITY
            assert log.used_bytes < CAPACITY
            assert len(storage.listing(DIRECTORY)) <= SETTINGS.segments
        assert not log.failed

    def test_trim_keeps_the_segment_of_durable_and_ignores_less(self) -> None:
        storage, history = disk(), History()
        log = create(storage)
        for _ in range(5):
            append(log, history, [1500])
        assert log.durable.offset // CAPACITY == log.end.offset // CAPACITY - 1
        log.trim(log.end.offset + 9 * CAPACITY)
        assert log.oldest == log.durable.offset // CAPACITY * CAPACITY
        log.sync()
        log.trim(log.end.offset)
        assert log.oldest == log.end.offset // CAPACITY * CAPACITY
        log.trim(0)
        assert log.oldest == log.end.offset // CAPACITY * CAPACITY

    def test_has_room_never_promises_what_append_refuses(self) -> None:
        rng = random.Random(3)
        storage, history = disk(), History()
        log = create(storage)
        refused = 0
        for _ in range(400):
            sizes = [rng.randrange(1, 900) for _ in range(rng.randrange(1, 5))]
            run = History(history.position).run(sizes)
            if log.has_room(run.size):
                log.append([history.run(sizes)])
                log.sync()
            else:
                refused += 1
                log.trim(log.durable.offset)
        assert refused > 5
        assert log.has_room(100)

    def test_smaller_log_gives_surplus_segments_back(self) -> None:
        storage, history = disk(), History()
        log = create(storage)
        self.fill(log, history)
        end = log.end
        log.close()
        smaller = LogSettings(4 * SETTINGS.segment_bytes, SETTINGS.segment_bytes, 2048)
        log, _ = reopen(storage, settings=smaller)
        assert log.free_bytes == 0
        log.trim(end.offset)
        assert len(storage.listing(DIRECTORY)) == 4

    def test_full_file_system_is_no_space_and_recoverable(self) -> None:
        storage, history = disk(), History()
        log = create(storage)
        storage.fail("write", ".tmp", errno.ENOSPC, times=2)
        storage.fail("sync", ".tmp", errno.EDQUOT)
        self.fill(log, history)
        assert log.end.offset < CAPACITY
        assert not log.failed
        assert not [name for name in storage.listing(DIRECTORY) if name.endswith(".tmp")]
        with pytest.raises(NoSpace):
            log.prepare()
        with pytest.raises(NoSpace):
            log.append([History(history.position).run([1500, 1500])])
        append(log, history, [1500, 1500])
        log.sync()
        assert content(storage, START, log.end) == history.to(history.position.lsn)

    def test_rename_without_room_is_recoverable_too(self) -> None:
        storage, _ = disk(), History()
        log = create(storage)
        storage.fail("rename", number=errno.ENOSPC)
        with pytest.raises(NoSpace):
            log.prepare()
        assert log.prepare()
        assert not log.failed


class TestPrepare:
    def test_prepare_works_once_per_segment_and_append_then_makes_nothing(self) -> None:
        storage, history = disk(), History()
        log = create(storage)
        assert log.prepare()
        assert not log.prepare()
        append(log, history, [1500, 500])
        log.sync()
        before = storage.calls
        append(log, history, [1400, 600])
        made = [name for _, kind, name in storage.call_log[before:] if kind == "open"]
        assert not made

    def test_prepare_of_a_full_log_has_nothing_to_do_and_recycles_after_a_trim(self) -> None:
        storage, history = disk(), History()
        log = create(storage)
        while log.end.offset // CAPACITY < 7:
            log.append([history.run([1500])], control=True)
        log.sync()
        assert not log.prepare()
        log.trim(log.durable.offset)
        before = storage.calls
        assert log.prepare()
        assert [kind for _, kind, _ in storage.call_log[before:]] == ["rename", "sync_directory"]

    def test_prepare_trim_and_sync_in_other_threads_disturb_nothing(self) -> None:
        storage, history = disk(), History()
        log = create(storage)
        stop = threading.Event()
        errors: list[BaseException] = []

        def maintain() -> None:
            try:
                while not stop.is_set():
                    log.trim(log.sync().offset)
                    log.prepare()
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=maintain)
        thread.start()
        try:
            for _ in range(300):
                while not log.has_room(2000):
                    log.trim(log.sync().offset)
                append(log, history, [300, 700, 500])
        finally:
            stop.set()
            thread.join(20)
        assert not errors
        log.sync()
        point = next(point for point in map(log.find, history.positions) if point)
        assert point.offset // CAPACITY <= log.oldest // CAPACITY
        found, _ = reopen(storage.after_crash(Policy.DROP), checkpoint=point)
        assert found.end == log.end


class TestFind:
    def test_every_held_position_is_found_and_its_offset_leads_to_the_next_record(self) -> None:
        storage, history = disk(), History()
        log = create(storage)
        for size in (1500, 900, 1400, 700, 1300, 1000, 100):
            append(log, history, [size])
        log.sync()
        assert log.find(ORIGIN) == START
        for position in history.positions:
            point = log.find(position)
            assert point is not None
            assert point.position == position
            rest = b"".join(history.frames[position.lsn :])
            assert content(storage, point, log.end) == rest

    def test_other_history_and_what_is_not_held_are_not_found(self) -> None:
        storage, history = disk(), History()
        log = create(storage)
        for _ in range(9):
            append(log, history, [1500])
        log.sync()
        held = history.positions[4]
        assert log.find(Position(held.epoch, held.lsn, held.chain ^ 1)) is None
        assert log.find(Position(held.epoch + 1, held.lsn, held.chain)) is None
        assert log.find(Position(1, 0, ORIGIN.chain ^ 1)) is None
        assert log.find(Position(1, 10, 5)) is None
        log.trim(log.durable.offset)
        assert log.find(history.positions[0]) is None
        oldest = log.find(history.positions[log.oldest // CAPACITY * 2 - 1])
        assert oldest == LogPoint(log.oldest, history.positions[log.oldest // CAPACITY * 2 - 1])

    def test_segment_recycled_under_find_is_not_found(self) -> None:
        storage, history = disk(), History()
        log = create(storage)
        append(log, history, [100, 100])
        storage.rename(segment.path(DIRECTORY, 0), DIRECTORY / "elsewhere")
        assert log.find(history.positions[0]) is None

    def test_lsns_that_are_not_dense_are_corrupt(self) -> None:
        storage, history = disk(), History()
        log = create(storage)
        append(log, history, [100, 100])
        file = storage.open(segment.path(DIRECTORY, 0))
        at = file.read(200, HEADER_BYTES).index(b"\x19\x01") + 1
        file.write([b"\x02"], HEADER_BYTES + at)
        with pytest.raises(LogCorrupt, match="not dense"):
            log.find(history.positions[0])


class TestFailure:
    @pytest.mark.parametrize("operation", ["write", "sync"])
    def test_failed_write_or_sync_is_final(self, operation: str) -> None:
        storage, history = disk(), History()
        log = create(storage)
        append(log, history, [100])
        durable = log.sync()
        storage.fail(operation)
        with pytest.raises(StorageFailed) as caught:
            append(log, history, [100])
            log.sync()
        assert caught.value.operation == operation
        assert log.failed
        calls = storage.calls
        for action in (
            lambda: log.append([History(log.end.position).run([5])]),
            log.sync,
            log.prepare,
            lambda: log.trim(0),
        ):
            with pytest.raises(StorageFailed) as again:
                action()
            assert again.value.errno == errno.EIO
        assert storage.calls == calls
        assert log.durable == durable

    def test_sync_that_failed_in_another_thread_is_not_covered_up_at_a_segments_end(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The pages it left clean would make the sync of the sealed segment succeed (D3)."""
        storage, history = disk(), History()
        log = create(storage)
        append(log, history, [1500, 300])
        append(log, history, [1500])
        durable = log.durable
        write = log._write

        def write_while_a_sync_fails(pieces: Sequence[Buffer], offset: int) -> None:
            write(pieces, offset)
            log._failstop.fail(DIRECTORY, "sync", OSError(errno.EIO, "elsewhere"))

        monkeypatch.setattr(log, "_write", write_while_a_sync_fails)
        with pytest.raises(StorageFailed):
            append(log, history, [1500])
        assert log.durable == durable

    @pytest.mark.parametrize("operation", ["write", "sync", "rename", "sync_directory", "open"])
    def test_failure_while_preparing_is_final(self, operation: str) -> None:
        storage = disk()
        log = create(storage)
        storage.fail(operation)
        with pytest.raises(StorageFailed):
            log.prepare()
        with pytest.raises(StorageFailed):
            log.sync()

    @pytest.mark.parametrize("operation", ["make_directory", "sync_directory", "write", "remove"])
    def test_failure_while_creating_is_reported(self, operation: str) -> None:
        storage = disk()
        if operation == "remove":
            create(storage).close()
        storage.fail(operation)
        with pytest.raises(StorageFailed):
            create(storage)

    def test_failures_of_single_files_are_reported(self) -> None:
        storage, history = disk(), History()
        log = create(storage)
        append(log, history, [1500, 500])
        append(log, history, [1500])
        log.prepare()
        storage.fail("open", "001.seg")
        with pytest.raises(StorageFailed, match="open"):
            append(log, history, [1500])
        again = storage.kill()
        again.fail("open", "000.seg")
        with pytest.raises(StorageFailed):
            reopen(again)

    def test_file_left_by_a_full_file_system_that_cannot_be_removed_is_final(self) -> None:
        storage = disk()
        log = create(storage)
        storage.fail("sync", ".tmp", errno.ENOSPC)
        storage.fail("remove", ".tmp")
        with pytest.raises(StorageFailed, match="remove"):
            log.prepare()

    def test_surplus_file_that_cannot_be_removed_is_final(self) -> None:
        storage, history = disk(), History()
        log = create(storage)
        for _ in range(12):
            append(log, history, [1500])
        log.sync()
        smaller = LogSettings(2 * SETTINGS.segment_bytes, SETTINGS.segment_bytes, 2048)
        log, _ = reopen(storage, settings=smaller)
        storage.fail("remove")
        with pytest.raises(StorageFailed, match="remove"):
            log.trim(log.durable.offset)


def test_log_is_a_context_manager() -> None:
    with create(disk()) as log:
        assert log.settings == SETTINGS
    assert uuid.UUID(bytes=UID.bytes) == UID
