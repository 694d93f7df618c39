"""Files: what both sides of the seam promise of one that is open."""

import os
import random
from collections.abc import Iterator

import pytest

from slackwater.extent import Extent
from slackwater.storage.seam import File
from tests.contract.conftest import Place

PAGE = 4096


@pytest.fixture
def file(place: Place) -> Iterator[File]:
    opened = place.storage.open(place.path / "file", create=True, exclusive=True)
    yield opened
    opened.close()


def content(file: File) -> bytes:
    return file.read(file.size(), 0)


class TestReadAndWrite:
    def test_new_file_is_empty(self, file: File) -> None:
        assert (file.size(), file.read(100, 0), file.path.name) == (0, b"", "file")

    def test_pieces_of_every_buffer_kind_lie_back_to_back(self, file: File) -> None:
        file.write([b"ab", bytearray(b"cd"), memoryview(b"xefx")[1:3]], 3)
        assert content(file) == b"\0\0\0abcdef"

    def test_more_pieces_than_one_call_may_have_are_all_written(self, file: File) -> None:
        pieces = [bytes([number % 251]) * (number % 3) for number in range(3 * 1024 + 7)]
        file.write(pieces, 10)
        assert content(file) == bytes(10) + b"".join(pieces)

    def test_nothing_written_changes_nothing(self, file: File) -> None:
        file.write([], 100)
        file.write([b"", b""], 100)
        assert file.size() == 0

    def test_read_is_short_only_at_the_end(self, file: File) -> None:
        file.write([b"0123456789"], 0)
        assert file.read(4, 2) == b"2345"
        assert file.read(100, 8) == b"89"
        assert file.read(100, 10) == file.read(1, 999) == b""

    def test_read_into_fills_the_buffer_or_stops_at_the_end(self, file: File) -> None:
        file.write([b"0123456789"], 0)
        buffer = bytearray(b"........")
        assert file.read_into(memoryview(buffer), 1) == 8
        assert buffer == b"12345678"
        assert file.read_into(memoryview(buffer), 7) == 3
        assert buffer == b"78945678"
        assert file.read_into(memoryview(buffer), 10) == 0

    def test_second_opening_sees_what_the_first_wrote(self, place: Place, file: File) -> None:
        file.write([b"here"], 0)
        other = place.other.open(file.path, writable=False)
        assert content(other) == b"here"
        other.close()

    def test_sync_and_writeback_keep_the_bytes(self, file: File) -> None:
        file.write([b"x" * 9000], 0)
        file.start_writeback(0, 9000)
        file.sync()
        assert content(file) == b"x" * 9000

    def test_closing_twice_is_fine_and_using_a_closed_file_is_not(self, file: File) -> None:
        file.close()
        file.close()
        for use in (
            lambda: file.read(1, 0),
            lambda: file.write([b"x"], 0),
            lambda: file.sync(),
            lambda: file.size(),
        ):
            with pytest.raises(OSError):
                use()

    def test_read_only_file_refuses_every_change(self, place: Place, file: File) -> None:
        file.write([b"kept"], 0)
        reader = place.storage.open(file.path, writable=False)
        for change in (
            lambda: reader.write([b"x"], 0),
            lambda: reader.zero(0, 4),
            lambda: reader.resize(0),
            lambda: reader.map(),
        ):
            with pytest.raises(OSError):
                change()
        assert content(reader) == b"kept"
        reader.close()


class TestSize:
    def test_resize_extends_with_zeroes_and_cuts_for_good(self, file: File) -> None:
        file.write([b"x" * 5000], 0)
        file.resize(10_000)
        assert content(file) == b"x" * 5000 + bytes(5000)
        file.resize(100)
        file.resize(6000)
        assert content(file) == b"x" * 100 + bytes(5900)

    def test_large_hole_costs_nothing(self, file: File) -> None:
        file.resize(1 << 40)
        assert (file.size(), file.read(4, 1 << 39)) == (1 << 40, bytes(4))
        assert list(file.extents(0, 1 << 40)) == [Extent(0, 1 << 40, data=False)]
        file.zero(0, 1 << 40)
        assert file.allocated_bytes() == 0

    def test_allocated_bytes_follow_what_is_written_and_punched(self, file: File) -> None:
        file.resize(1 << 20)
        file.write([b"x" * PAGE], 8 * PAGE)
        file.sync()
        assert file.allocated_bytes() == PAGE
        file.zero(0, 1 << 20)
        assert file.allocated_bytes() == 0


class TestZero:
    @pytest.mark.parametrize(
        ("offset", "length"),
        [(0, 3 * PAGE), (PAGE, PAGE), (100, 50), (PAGE - 1, 2), (100, 2 * PAGE), (0, 0)],
        ids=["all", "page", "inside", "across", "unaligned", "nothing"],
    )
    def test_range_reads_as_zeroes_and_nothing_else_changes(
        self, file: File, offset: int, length: int
    ) -> None:
        file.write([b"x" * (3 * PAGE)], 0)
        file.zero(offset, length)
        expected = bytearray(b"x" * (3 * PAGE))
        expected[offset : offset + length] = bytes(length)
        assert content(file) == expected

    def test_zeroing_never_extends_the_file(self, file: File) -> None:
        file.write([b"x" * 100], 0)
        file.zero(50, 1 << 30)
        file.zero(5000, 100)
        assert content(file) == b"x" * 50 + bytes(50)


class TestExtents:
    def test_data_and_holes_alternate_and_cover_the_range_exactly(self, file: File) -> None:
        file.resize(64 * PAGE)
        file.write([b"x" * PAGE], 4 * PAGE)
        file.write([b"x" * PAGE], 5 * PAGE)
        file.write([b"x" * PAGE], 20 * PAGE)
        file.sync()
        assert list(file.extents(0, 64 * PAGE)) == [
            Extent(0, 4 * PAGE, data=False),
            Extent(4 * PAGE, 2 * PAGE, data=True),
            Extent(6 * PAGE, 14 * PAGE, data=False),
            Extent(20 * PAGE, PAGE, data=True),
            Extent(21 * PAGE, 43 * PAGE, data=False),
        ]

    def test_range_is_cut_where_it_was_asked_to(self, file: File) -> None:
        file.resize(8 * PAGE)
        file.write([b"x" * 2 * PAGE], 2 * PAGE)
        file.sync()
        assert list(file.extents(3 * PAGE + 512, 2 * PAGE)) == [
            Extent(3 * PAGE + 512, PAGE - 512, data=True),
            Extent(4 * PAGE, PAGE + 512, data=False),
        ]
        assert list(file.extents(PAGE, 0)) == []

    def test_past_the_end_is_a_hole(self, file: File) -> None:
        file.write([b"x" * PAGE], 0)
        assert list(file.extents(0, 3 * PAGE)) == [
            Extent(0, PAGE, data=True),
            Extent(PAGE, 2 * PAGE, data=False),
        ]

    def test_holes_read_as_zeroes_whatever_was_written_and_punched(self, file: File) -> None:
        rng = random.Random(5)
        model = bytearray(40 * PAGE)
        file.resize(len(model))
        for _ in range(60):
            offset = rng.randrange(len(model))
            length = rng.randrange(1, min(4 * PAGE, len(model) - offset) + 1)
            if rng.random() < 0.5:
                data = rng.randbytes(length)
                file.write([data], offset)
                model[offset : offset + length] = data
            else:
                file.zero(offset, length)
                model[offset : offset + length] = bytes(length)
        assert content(file) == model
        at, before = 0, None
        for extent in file.extents(0, len(model)):
            assert (extent.offset, extent.data) == (
                at,
                not before if before is not None else extent.data,
            )
            if not extent.data:
                assert not any(model[at : at + extent.length])
            at, before = at + extent.length, extent.data
        assert at == len(model)


class TestMap:
    def test_stores_are_read_by_file_and_writes_are_seen_in_the_mapping(self, file: File) -> None:
        file.resize(3 * PAGE)
        view = file.map()
        assert (len(view), view.readonly) == (3 * PAGE, False)
        view[5000:5004] = b"abcd"
        file.write([b"1234"], 5002)
        assert file.read(6, 5000) == bytes(view[5000:5006]) == b"ab1234"
        file.zero(5000, 1)
        assert view[5000] == 0
        view.release()

    def test_view_outlives_the_file(self, place: Place, file: File) -> None:
        file.resize(PAGE)
        view = file.map()
        file.close()
        view[0] = 7
        view.release()
        again = place.storage.open(place.path / "file")
        assert again.read(1, 0) == b"\x07"
        again.close()

    def test_two_mappings_show_the_same_bytes(self, place: Place, file: File) -> None:
        file.resize(PAGE)
        other = place.other.open(file.path)
        one = file.map()
        one[10] = 3
        two = other.map()
        assert two[10] == 3
        one.release()
        two.release()
        other.close()

    def test_empty_file_maps_to_nothing(self, file: File) -> None:
        assert len(file.map()) == 0


def test_io_errors_carry_an_errno_and_the_path(place: Place) -> None:
    with pytest.raises(OSError) as caught:
        place.storage.open(place.path / "absent")
    assert caught.value.errno == 2
    assert os.fspath(place.path / "absent") in str(caught.value)
