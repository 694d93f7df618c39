"""The oracle itself: true prefixes pass, doctored images fail, and the message says why."""

import random
import threading

import pytest

from tests.support.oracle import SECTOR, ImageError, Journal, Write, check, label_write, read_label
from tests.support.oracle_load import Load

DATA, WAL = 1, 2
SIZES = {DATA: 64 * SECTOR, WAL: 32 * SECTOR}


class Group:
    """A group in memory whose history is known: writes take effect one at a time."""

    def __init__(self) -> None:
        self.history: list[tuple[int, int, bytes]] = []
        self.lock = threading.Lock()

    def connect(self, volume: int) -> "Connection":
        return Connection(self, volume)

    def images(self, records: int | None = None) -> dict[int, bytearray]:
        images = {volume: bytearray(size) for volume, size in SIZES.items()}
        for volume, offset, data in self.history[:records]:
            images[volume][offset : offset + len(data)] = data
        return images


class Connection:
    def __init__(self, group: Group, volume: int) -> None:
        self.group = group
        self.volume = volume

    def write(self, offset: int, data: bytes) -> None:
        with self.group.lock:
            self.group.history.append((self.volume, offset, data))

    def close(self) -> None:
        pass


@pytest.fixture
def busy() -> tuple[Group, Journal, int, int, int]:
    """A group under load, with the place of a message in its history and the ticks around it."""
    group, journal = Group(), Journal()
    load = Load(journal, group.connect, SIZES, largest_sectors=16)
    with load:
        load.wait_for(150)
        with group.lock:  # nothing takes effect between the ticks, however long this thread waits
            before = journal.tick()
            place = len(group.history)
            after = journal.tick()
        load.wait_for(150)
    return group, journal, place, before, after


def issue(journal: Journal, volume: int, first: int, sectors: int, writer: int = 1) -> Write:
    return journal.issue(writer, volume, first, sectors)


def put(images: dict[int, bytearray], write: Write) -> None:
    start = write.first_sector * SECTOR
    images[write.volume][start : start + write.sectors * SECTOR] = label_write(write)


def write_of(journal: Journal, volume: int, offset: int, data: bytes) -> Write:
    return journal.writes[read_label(data[:SECTOR], volume, offset // SECTOR) - 1]


def uncovers_older(journal: Journal, images: dict[int, bytearray], left_out: Write) -> bool:
    """Without this write one sees writes that were over before it began: no order explains that.

    Where two writes ran side by side either may be the later one, and leaving one out is a state
    they might have passed through.
    """
    image = memoryview(images[left_out.volume])
    for sector in range(left_out.first_sector, left_out.next_sector):
        place = sector * SECTOR
        seen = read_label(image[place : place + SECTOR], left_out.volume, sector)
        if not seen:
            return True
        answered = journal.writes[seen - 1].answered
        if answered is not None and answered < left_out.issued:
            return True
    return False


def blank() -> dict[int, bytearray]:
    return {volume: bytearray(size) for volume, size in SIZES.items()}


def test_every_true_prefix_passes(busy: tuple[Group, Journal, int, int, int]) -> None:
    group, journal, place, before, after = busy
    check(
        journal,
        group.images(place),
        everything_answered_before=before,
        nothing_issued_after=after,
    )
    choice = random.Random(7)
    for _ in range(20):
        check(journal, group.images(choice.randrange(len(group.history) + 1)))


def test_image_a_few_records_too_old_fails(busy: tuple[Group, Journal, int, int, int]) -> None:
    group, journal, place, before, _after = busy
    with pytest.raises(ImageError):
        check(journal, group.images(place - 20), everything_answered_before=before)


def test_image_a_few_records_too_new_fails(busy: tuple[Group, Journal, int, int, int]) -> None:
    group, journal, place, _before, after = busy
    with pytest.raises(ImageError, match="issued after"):
        check(journal, group.images(place + 20), nothing_issued_after=after)


def test_volumes_at_two_points_fail(busy: tuple[Group, Journal, int, int, int]) -> None:
    group, journal, place, _before, _after = busy
    images = group.images(place)
    images[WAL] = group.images(place // 2)[WAL]
    with pytest.raises(ImageError):
        check(journal, images)


def test_one_record_left_out_fails(busy: tuple[Group, Journal, int, int, int]) -> None:
    group, journal, place, before, _after = busy
    history = group.history[:place]
    for left_out in range(place - 10, 0, -1):
        group.history = history[:left_out] + history[left_out + 1 :]
        write = write_of(journal, *history[left_out])
        answered = write.answered is not None and write.answered < before
        if answered and uncovers_older(journal, group.images(), write):
            break
    with pytest.raises(ImageError):
        check(journal, group.images(), everything_answered_before=before)


def test_torn_sector_fails() -> None:
    journal, images = Journal(), blank()
    write = issue(journal, DATA, 4, 2)
    put(images, write)
    journal.answer(write)
    images[DATA][5 * SECTOR + 300 : 6 * SECTOR] = bytes(SECTOR - 300)
    with pytest.raises(ImageError, match="sector 5: torn"):
        check(journal, images)


def test_sector_in_the_wrong_place_fails() -> None:
    journal, images = Journal(), blank()
    write = issue(journal, DATA, 4, 1)
    journal.answer(write)
    images[DATA][9 * SECTOR : 10 * SECTOR] = label_write(write)
    with pytest.raises(ImageError, match="meant for"):
        check(journal, images)


def test_later_write_without_the_one_answered_before_it_fails() -> None:
    journal, images = Journal(), blank()
    first = issue(journal, DATA, 0, 1)
    journal.answer(first)
    second = issue(journal, WAL, 0, 1, writer=2)
    journal.answer(second)
    put(images, second)
    with pytest.raises(ImageError, match="reads as zeroes"):
        check(journal, images)
    put(images, first)
    check(journal, images)


def test_older_write_over_a_later_one_fails() -> None:
    journal, images = Journal(), blank()
    first = issue(journal, DATA, 0, 1)
    journal.answer(first)
    second = issue(journal, DATA, 0, 1)
    journal.answer(second)
    marker = issue(journal, WAL, 3, 1)
    put(images, first)
    check(journal, images)
    put(images, marker)
    with pytest.raises(ImageError, match="came after it"):
        check(journal, images)


def test_half_a_write_fails() -> None:
    journal, images = Journal(), blank()
    write = issue(journal, DATA, 0, 4)
    put(images, write)
    images[DATA][2 * SECTOR : 4 * SECTOR] = bytes(2 * SECTOR)
    with pytest.raises(ImageError, match="reads as zeroes"):
        check(journal, images)


def test_two_concurrent_writes_mixed_sector_by_sector_fail() -> None:
    journal, images = Journal(), blank()
    one = issue(journal, DATA, 0, 2, writer=1)
    two = issue(journal, DATA, 0, 2, writer=2)
    put(images, one)
    images[DATA][SECTOR : 2 * SECTOR] = label_write(two)[SECTOR:]
    with pytest.raises(ImageError, match="no order"):
        check(journal, images)


def test_unanswered_write_may_be_there_or_not() -> None:
    journal, images = Journal(), blank()
    write = issue(journal, DATA, 0, 1)
    end = journal.tick()
    check(journal, images, everything_answered_before=end)
    put(images, write)
    check(journal, images, everything_answered_before=end)
