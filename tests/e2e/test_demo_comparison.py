"""The demo's comparison can fail: every doctored copy does, and says where."""

from pathlib import Path

import pytest

from demo.comparison import Comparison, compare
from demo.workload import BLOCK, JOURNAL, Mark, block, block_number, line, make_source

BLOCKS = 16


class MemoryDisk:
    """A volume in memory."""

    def __init__(self, last: int) -> None:
        self.data = bytearray(BLOCKS * BLOCK)
        self.size = len(self.data)
        for number in range(1, last + 1):
            self.put(number)

    def put(self, number: int) -> None:
        place = number % BLOCKS * BLOCK
        self.data[place : place + BLOCK] = block(number)

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.data[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        self.data[offset : offset + len(data)] = data

    def close(self) -> None:
        pass


class Copy:
    """A copy of both volumes, equal to its mark until a test changes it."""

    def __init__(self, directory: Path) -> None:
        self.source, self.root = directory / "source", directory / "copy"
        names = make_source(self.source, 5)
        make_source(self.root, 5)
        journal = line(1, 3) + line(2, 30)
        (self.root / JOURNAL).write_bytes(journal)
        self.wal = MemoryDisk(40)
        self.mark = Mark(frozenset([*names, JOURNAL]), journal, 38, 42)
        self.first = self.root / names[0]

    def compare(self) -> Comparison:
        return compare(self.root, self.wal, self.source, self.mark)


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


def test_exact_copy_passes(copy: Copy) -> None:
    found = copy.compare()
    assert found.equal, found.summary()
    assert (found.files, found.blocks) == (6, BLOCKS)


def test_one_changed_byte_is_found(copy: Copy) -> None:
    data = bytearray(copy.first.read_bytes())
    data[7] ^= 1
    copy.first.write_bytes(data)
    assert "other bytes" in copy.compare().summary()


def test_missing_file_is_found(copy: Copy) -> None:
    copy.first.unlink()
    assert "missing" in copy.compare().summary()


def test_newer_file_is_found(copy: Copy) -> None:
    (copy.root / "newer").write_bytes(b"")
    assert "newer was not there" in copy.compare().summary()


def test_longer_or_shorter_journal_is_found(copy: Copy) -> None:
    for journal in (copy.mark.journal + line(3, 31), copy.mark.journal[:-64]):
        (copy.root / JOURNAL).write_bytes(journal)
        assert f"{JOURNAL} has other bytes" in copy.compare().summary()


def test_wal_too_old_too_new_torn_or_with_a_gap_is_found(copy: Copy) -> None:
    copy.wal = MemoryDisk(37)
    assert "answered before the send" in copy.compare().summary()
    copy.wal = MemoryDisk(43)
    assert "issued after the send" in copy.compare().summary()
    copy.wal = MemoryDisk(40)
    copy.wal.write(5 * BLOCK + 100, b"torn")
    assert "torn" in copy.compare().summary()
    copy.wal = MemoryDisk(40)
    copy.wal.write(33 % BLOCKS * BLOCK, block(17))
    assert "block 17 where 33 belongs" in copy.compare().summary()


def test_volumes_at_two_points_are_found(copy: Copy) -> None:
    journal = line(1, 3) + line(2, 41)
    (copy.root / JOURNAL).write_bytes(journal)
    copy.mark = Mark(copy.mark.names, journal, 38, 42)
    assert "not at one point" in copy.compare().summary()


def test_blocks_keep_their_number() -> None:
    assert block_number(block(123456)) == 123456
    assert block_number(bytes(BLOCK)) == 0
