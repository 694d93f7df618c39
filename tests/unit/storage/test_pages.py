"""Sparse pages against a plain bytearray."""

from hypothesis import given
from hypothesis import strategies as st

from slackwater.extent import Extent
from slackwater.storage.pages import PAGE, Pages

SIZE = 5 * PAGE
OFFSETS = st.integers(0, SIZE)
LENGTHS = st.sampled_from([0, 1, 511, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE])


@given(st.lists(st.tuples(st.sampled_from(["write", "zero", "resize"]), OFFSETS, LENGTHS)))
def test_pages_read_as_the_bytes_they_stand_for(steps: list[tuple[str, int, int]]) -> None:
    pages, model = Pages(), bytearray()
    for number, (step, offset, length) in enumerate(steps):
        data = bytes([number % 255 + 1]) * length
        if step == "write" and length:
            model.extend(bytes(max(offset + length - len(model), 0)))
            model[offset : offset + length] = data
        elif step == "zero":
            end = min(offset + length, len(model))
            model[offset:end] = bytes(max(end - offset, 0))
        elif step == "resize":
            del model[offset:]
            model.extend(bytes(offset - len(model)))
        if step == "write":
            pages.write(offset, data)
        elif step == "zero":
            pages.zero(offset, length)
        else:
            pages.resize(offset)
        assert pages.size == len(model)
        assert pages.read(SIZE * 2, 0) == model
    for extent in pages.extents(0, pages.size):
        if not extent.data:
            assert not any(model[extent.offset : extent.offset + extent.length])


def test_copy_does_not_follow_the_original() -> None:
    pages = Pages()
    pages.write(0, b"x" * PAGE)
    copy = pages.copy()
    pages.write(10, b"y")
    pages.resize(5)
    assert (copy.size, copy.read(PAGE, 0)) == (PAGE, b"x" * PAGE)


def test_missing_bytes_are_those_of_pages_not_held() -> None:
    pages = Pages()
    pages.write(PAGE, b"x" * PAGE)
    assert pages.missing_bytes(0, 3 * PAGE) == 2 * PAGE
    assert pages.missing_bytes(PAGE + 1, 10) == 0
    assert pages.missing_bytes(0, 0) == 0
    assert pages.held_bytes() == PAGE


def test_adopted_range_is_taken_by_whole_pages() -> None:
    old, new = Pages(), Pages()
    old.write(0, b"o" * 3 * PAGE)
    new.write(0, b"n" * PAGE)
    new.resize(3 * PAGE)
    old.adopt(new, 100, PAGE)
    assert old.read(3 * PAGE, 0) == b"n" * PAGE + bytes(PAGE) + b"o" * PAGE


def test_a_terabyte_of_hole_costs_nothing() -> None:
    pages = Pages()
    pages.resize(1 << 50)
    pages.write(1 << 49, b"x")
    pages.zero(0, 1 << 48)
    assert list(pages.extents(0, 1 << 50)) == [
        Extent(0, 1 << 49, data=False),
        Extent(1 << 49, PAGE, data=True),
        Extent((1 << 49) + PAGE, (1 << 49) - PAGE, data=False),
    ]
    pages.resize(10)
    assert pages.held_bytes() == 0
