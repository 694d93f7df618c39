"""Torn tail or corruption (D6), and what recovery writes (D5)."""

import uuid

import pytest
from crc32c import crc32c

from slackwater import record
from slackwater.errors import FailedPrecondition, LogCorrupt, StorageFailed
from slackwater.log import segment
from slackwater.log.segment import HEADER_BYTES, LogSettings, SegmentHeader
from slackwater.position import LogPoint, Position
from slackwater.storage.simulated import Policy, SimulatedCrash, SimulatedStorage
from tests.unit.log.history import (
    CAPACITY,
    DIRECTORY,
    GROUP,
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


def flip(storage: SimulatedStorage, lap: int, byte: int, bits: int = 0x10) -> None:
    file = storage.open(segment.path(DIRECTORY, lap))
    (old,) = file.read(1, byte)
    file.write([bytes((old ^ bits,))], byte)
    file.sync()


def image(storage: SimulatedStorage) -> dict[str, bytes]:
    """Everything in the log's directory, to see that nothing changed."""
    return {
        name: storage.open(DIRECTORY / name).read(1 << 20, 0) for name in storage.listing(DIRECTORY)
    }


def filled(sizes: list[list[int]]) -> tuple[SimulatedStorage, History, list[LogPoint]]:
    """A log of synced commits; the points after each."""
    storage, history = disk(), History()
    log = create(storage)
    points = []
    for commit in sizes:
        append(log, history, commit)
        points.append(log.sync())
    log.close()
    return storage, history, points


THREE_SEGMENTS = [[900, 800], [700], [1000, 300], [900], [900, 100], [60], [500], [500], [700]]


def test_bit_flip_anywhere_in_a_sealed_segment_is_corrupt_and_named_and_nothing_is_cut() -> None:
    storage, _, points = filled(THREE_SEGMENTS)
    assert points[-1].offset // CAPACITY == 2
    sealed_end = max(p.offset for p in points if p.offset // CAPACITY == 0)
    for trust in (True, False):
        for byte in [*range(0, 90, 3), *range(HEADER_BYTES, HEADER_BYTES + sealed_end, 41)]:
            if byte in range(80, HEADER_BYTES):
                continue
            damaged = storage.kill()
            flip(damaged, 0, byte)
            before = image(damaged)
            with pytest.raises(LogCorrupt) as caught:
                reopen(damaged, trust=trust)
            assert caught.value.segment == segment.name(0)
            if byte < HEADER_BYTES:
                assert caught.value.offset == 0
            else:
                assert caught.value.offset <= byte < caught.value.offset + 1100
            assert image(damaged) == before


@pytest.mark.parametrize("trust", [True, False])
def test_bit_flip_in_a_later_header_is_corrupt(trust: bool) -> None:
    for lap in (1, 2):
        for byte in (0, 9, 20, 33, 50, 73, 77, 100, 4095):
            storage, _, _ = filled(THREE_SEGMENTS)
            flip(storage, lap, byte)
            with pytest.raises(LogCorrupt) as caught:
                reopen(storage, trust=trust)
            assert (caught.value.segment, caught.value.offset) == (segment.name(lap), 0)


def test_bit_flip_in_the_last_segment_is_corrupt_where_later_records_claim_a_sync() -> None:
    storage, history, points = filled([[100], [200], [300], [400]])
    for byte in range(0, points[1].offset, 7):
        damaged = storage.kill()
        flip(damaged, 0, HEADER_BYTES + byte)
        with pytest.raises(LogCorrupt) as caught:
            reopen(damaged)
        expected = 0 if byte < points[0].offset else points[0].offset
        assert caught.value.offset == HEADER_BYTES + expected
    assert history.position.lsn == 4


def test_claim_of_the_broken_record_itself_is_enough() -> None:
    """The second commit says that the first was durable; the first's payload is damaged."""
    storage, _, points = filled([[100], [200]])
    flip(storage, 0, HEADER_BYTES + points[0].offset - 3)
    with pytest.raises(LogCorrupt, match="lsn 1 was durable"):
        reopen(storage)


def test_secondary_does_not_take_the_primarys_claims_for_its_own_syncs() -> None:
    storage, history, points = filled([[100], [200], [300]])
    flip(storage, 0, HEADER_BYTES + points[0].offset + 20)
    log, found = reopen(storage, trust=False)
    assert log.end.position == history.positions[0]
    assert found.was_torn
    assert content(storage, START, log.end) == history.to(1)


def test_secondary_finds_a_break_corrupt_that_lies_a_window_behind_later_records() -> None:
    storage, _, points = filled([[700], [700], [700], [700], [700]])
    flip(storage, 0, HEADER_BYTES + 300)
    with pytest.raises(LogCorrupt, match="written only once this was synced"):
        reopen(storage, trust=False)
    assert points[-1].offset > SETTINGS.max_commit_bytes + 1000


def test_break_at_or_below_the_floor_is_corrupt() -> None:
    storage, history, points = filled([[100], [200]])
    flip(storage, 0, HEADER_BYTES + points[0].offset + 60)
    for trust in (True, False):
        with pytest.raises(LogCorrupt, match="lsn 2 is known to have been durable"):
            reopen(storage.kill(), floor_lsn=2, trust=trust)
        log, found = reopen(storage.kill(), floor_lsn=1, trust=trust)
        assert log.end.position == history.positions[0]
        assert found.proven_lsn == 1


def test_torn_commit_is_cut_and_never_seen_again() -> None:
    storage, history = disk(), History()
    log = create(storage)
    append(log, history, [300])
    log.sync()
    append(log, history, [200, 200, 200])
    torn = storage.after_crash(Policy.KEEP)
    flip(torn, 0, HEADER_BYTES + len(history.to(2)) - 5)
    log, found = reopen(torn)
    assert found.was_torn
    assert log.end.position == history.positions[0]
    # The same records again, as a Secondary gets them: what lay behind the cut is gone.
    again = History(history.positions[0])
    log.append([again.slice([200], 1)])
    log.sync()
    log, found = reopen(torn.after_crash(Policy.DROP))
    assert log.end.position == history.positions[1]
    assert not found.was_torn


def test_sealed_segment_goes_on_being_written_when_the_next_was_not_begun() -> None:
    storage, history = disk(), History()
    log = create(storage)
    append(log, history, [1500, 1500])
    log.sync()
    log.prepare()
    storage.crash_at = storage.calls + 3  # padding written and synced, not the header
    with pytest.raises(SimulatedCrash):
        append(log, history, [1500])
    assert storage.call_log[-1][1:] == ("write", str(segment.path(DIRECTORY, 1)))
    survivor = storage.after_crash(Policy.KEEP)
    log, found = reopen(survivor)
    assert not found.was_torn  # no record was lost
    assert log.end.position == history.positions[1]
    again = History(log.end.position)
    append(log, again, [200])
    assert log.end.offset < CAPACITY
    log.sync()
    assert reopen(survivor)[0].end == log.end


def test_log_that_ends_exactly_with_a_segment_is_opened_and_goes_on() -> None:
    storage, history = disk(), History()
    log = create(storage)
    append(log, history, [1500, 1500])
    left = CAPACITY - log.end.offset
    head = len(History(history.position).add(left - 60, 2)[0])
    append(log, history, [left - head])
    end = log.sync()
    assert end.offset == CAPACITY
    for checkpoint in (START, end):
        survivor = storage.after_crash(Policy.DROP)
        log, found = reopen(survivor, checkpoint=checkpoint)
        assert log.end == end
        assert not found.was_torn
        again = History(end.position)
        append(log, again, [100])
        log.sync()
        assert content(survivor, end, log.end) == again.to(4)
        assert reopen(survivor, checkpoint=end)[0].end == log.end


def test_leftovers_of_an_earlier_lap_never_continue_the_chain() -> None:
    """Equal sizes: the next record of the earlier lap lies exactly where the chain would go on."""
    storage, history = disk(), History()
    log = create(storage)
    ends = []
    for _ in range(60):
        append(log, history, [700])
        log.sync()
        ends.append(log.end)
        log.trim(log.durable.offset)
        survivor = storage.after_crash(Policy.KEEP)
        found, result = reopen(survivor, checkpoint=ends[max(len(ends) - 3, 0)])
        assert found.end == log.end
        assert not result.was_torn
    assert ends[-1].offset // CAPACITY > 10


def test_records_inside_a_payload_are_not_taken_for_evidence() -> None:
    """A volume may hold a copy of a log; the lsns there prove nothing here."""
    other = History(Position(1, 1, 99))
    for _ in range(6):
        other.add(40, 5)
    storage, history = disk(), History()
    log = create(storage)
    append(log, history, [50])
    copy = b"".join(other.frames)
    head, chain = record.write_head(history.position.chain, 1, 2, 1, 1, 1, 0, copy)
    log.sync()
    framed = head + copy
    file = storage.open(segment.path(DIRECTORY, 0))
    # A whole record of this group lies past a break, as an earlier lap would leave it.
    file.write([framed, *other_chain(chain)], HEADER_BYTES + log.end.offset + 5)
    with_copy, _ = reopen(storage)
    assert with_copy.end == log.end


def other_chain(chain: int) -> list[bytes]:
    """A record that chains to the one with the copy, old in lsn."""
    frame, _ = record.frame(chain, 1, 3, 1, None, 22, b"")
    return [frame]


@pytest.mark.parametrize("lap", [0, 1])
def test_missing_segment_is_corrupt(lap: int) -> None:
    storage, _, points = filled(THREE_SEGMENTS)
    storage.remove(segment.path(DIRECTORY, lap))
    with pytest.raises(LogCorrupt) as caught:
        reopen(storage, checkpoint=START if lap == 0 else points[0])
    assert caught.value.segment == segment.name(lap)


def test_segment_of_another_group_or_cut_file_or_other_sizes_is_refused() -> None:
    storage, _, _ = filled([[100]])
    path = segment.path(DIRECTORY, 0)
    stranger = SegmentHeader(uuid.UUID(int=7), 0, ORIGIN, SETTINGS.segment_bytes, 1)
    foreign = storage.kill()
    foreign.open(path).write([stranger.pack()], 0)
    with pytest.raises(LogCorrupt, match="belongs to group"):
        reopen(foreign)
    cut = storage.kill()
    cut.open(path).resize(SETTINGS.segment_bytes - 1)
    with pytest.raises(LogCorrupt, match="its file has"):
        reopen(cut)
    bigger = LogSettings(SETTINGS.log_bytes * 2, SETTINGS.segment_bytes * 2, 2048)
    with pytest.raises(FailedPrecondition, match="made for 8192"):
        reopen(storage, settings=bigger)


def test_header_that_does_not_follow_what_group_db_says_is_corrupt() -> None:
    storage, history, points = filled(THREE_SEGMENTS)
    other = Position(1, 0, ORIGIN.chain ^ 1)
    with pytest.raises(LogCorrupt, match="does not follow"):
        reopen(storage, start=LogPoint(0, other), checkpoint=points[0])
    with pytest.raises(LogCorrupt, match="its header follows"):
        reopen(storage, checkpoint=LogPoint(2 * CAPACITY + 1, history.positions[0]))
    # A whole header of the right lap that follows another record.
    wrong = SegmentHeader(UID, 1, Position(1, 3, 5), SETTINGS.segment_bytes, 2048)
    storage.open(segment.path(DIRECTORY, 1)).write([wrong.pack()], 0)
    with pytest.raises(LogCorrupt, match="its header does not follow"):
        reopen(storage)


def test_log_without_any_header_is_made_unless_something_says_it_was_begun() -> None:
    log, found = reopen(disk())
    assert (log.end, found.proven_lsn, found.was_torn) == (START, 0, False)
    with pytest.raises(LogCorrupt, match="the log was begun"):
        reopen(disk(), floor_lsn=1)
    storage, _, _ = filled([[100]])
    flip(storage, 0, 40)
    with pytest.raises(LogCorrupt, match="but records after 1/0 follow"):
        reopen(storage)


def test_reset_removes_older_segments_and_a_crash_before_it_opens_empty() -> None:
    storage, history, points = filled(THREE_SEGMENTS)
    start = segment.fresh_start(SETTINGS, points[-1].offset, Position(4, 700, 1234))
    assert start.offset == 4 * CAPACITY
    for fresh in (create(storage.kill(), start=start), reopen(storage, start=start)[0]):
        assert fresh.end == fresh.durable == start
        assert fresh.oldest == start.offset
        after = History(start.position)
        append(fresh, after, [500])
        assert fresh.sync().position == after.position
    assert storage.listing(DIRECTORY) == [segment.name(4)]
    assert history.position.lsn == 12


def test_unfinished_and_unusable_files_are_removed() -> None:
    storage, _, points = filled([[100]])
    storage.open(DIRECTORY / "000000000001.seg.tmp", create=True).write([b"x"], 0)
    storage.open(segment.path(DIRECTORY, 1), create=True).write([b"short"], 0)
    log, _ = reopen(storage)
    assert log.end == points[-1]
    assert storage.listing(DIRECTORY) == [segment.name(0)]


def test_file_under_two_names_is_used_under_the_old_one() -> None:
    storage, _, _ = filled(THREE_SEGMENTS)
    old = storage.open(segment.path(DIRECTORY, 0)).read(SETTINGS.segment_bytes, 0)
    storage.open(segment.path(DIRECTORY, 3), create=True).write([old], 0)
    reopen(storage)
    assert segment.name(3) not in storage.listing(DIRECTORY)


def test_everything_past_the_last_proof_is_written_again_and_no_more() -> None:
    storage, _, points = filled([[100], [100], [100]])
    _, primary = reopen(storage.kill())
    assert primary.proven_lsn == 2  # the last commit says so of the one before
    _, secondary = reopen(storage.kill(), trust=False)
    assert secondary.proven_lsn == 0
    _, from_checkpoint = reopen(storage.kill(), checkpoint=points[0], trust=False)
    assert (from_checkpoint.proven_lsn, from_checkpoint.records_after_checkpoint) == (1, 2)
    storage, _, _ = filled([[1000], [1000], [1000]])
    _, by_window = reopen(storage, trust=False)
    assert by_window.proven_lsn == 1  # the second ended a window before the third began


@pytest.mark.parametrize("operation", ["read", "write", "sync", "sync_directory"])
def test_storage_that_fails_in_recovery_is_reported(operation: str) -> None:
    storage, _, _ = filled([[100]])
    storage.fail(operation, str(GROUP))
    with pytest.raises(StorageFailed):
        reopen(storage)


def test_newer_format_is_refused_by_name() -> None:
    storage, _, _ = filled([[100]])
    file = storage.open(segment.path(DIRECTORY, 0))
    data = bytearray(file.read(80, 0))
    data[8] = 2
    data[76:80] = crc32c(bytes(data[:76])).to_bytes(4, "little")
    file.write([bytes(data)], 0)
    with pytest.raises(FailedPrecondition, match="format 2"):
        reopen(storage)
