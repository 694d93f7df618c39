"""The shared page: words, slots, another process."""

import os
import subprocess
import sys

import pytest

from slackwater.log import marks
from slackwater.log.marks import GroupMarks, LinkMarks, SharedMarks

WORDS = {
    kind: [name for name, value in vars(kind).items() if isinstance(value, marks._Word)]
    for kind in (GroupMarks, LinkMarks)
}


def test_every_word_is_its_own() -> None:
    page = SharedMarks.create(3, 4)
    slots = [page.group(index) for index in range(3)] + [page.link(index) for index in range(4)]
    value = (1 << 64) - 1
    expected = {}
    for slot in slots:
        for name in WORDS[type(slot)]:
            setattr(slot, name, value)
            expected[slot, name] = value
            value -= 12345
    for (slot, name), stored in expected.items():
        assert getattr(slot, name) == stored
    page.close()


def test_words_fit_their_slots() -> None:
    assert 5 <= len(WORDS[GroupMarks]) <= marks.GROUP_WORDS
    assert 14 <= len(WORDS[LinkMarks]) <= marks.LINK_WORDS
    assert isinstance(GroupMarks.durable_offset, marks._Word)


def test_slots_are_given_out_zeroed_until_there_are_none() -> None:
    page = SharedMarks.create(2, 1)
    first, second = page.new_group(), page.new_group()
    assert first is not None
    assert second is not None
    assert page.new_group() is None
    first.durable_offset = 7
    page.release(first)
    again = page.new_group()
    assert again is not None
    assert (again.index, again.durable_offset) == (first.index, 0)
    link = page.new_link()
    assert link is not None
    assert page.new_link() is None
    link.state = 3
    page.release(link)
    with pytest.raises(AssertionError):
        page.release(link)
    fresh = page.new_link()
    assert fresh is not None
    assert fresh.state == 0
    for outside in (-1, 2):
        with pytest.raises(AssertionError):
            page.group(outside)
    page.close()


def test_child_process_sees_and_stores_words_by_the_file_descriptor() -> None:
    page = SharedMarks.create(2, 2)
    page.group(1).durable_offset = 1 << 40
    code = (
        "import sys; from slackwater.log.marks import SharedMarks;"
        "page = SharedMarks.attach(int(sys.argv[1]));"
        "page.link(1).reading_offset = page.group(1).durable_offset + 5"
    )
    subprocess.run([sys.executable, "-c", code, str(page.fd)], pass_fds=[page.fd], check=True)
    assert page.link(1).reading_offset == (1 << 40) + 5
    page.close()


def test_other_memory_is_refused() -> None:
    fd = os.memfd_create("other")
    os.ftruncate(fd, 4096)
    with pytest.raises(ValueError, match="not a page of marks"):
        SharedMarks.attach(fd)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)
