"""Marks: what the main process and its senders tell each other without a message.

One page of 64-bit words shared by memory. Each word has one writer; a word is loaded and stored
whole, through ``memoryview.cast("Q")`` and nothing else: packing by `struct` tears (D13). Words are
not consistent with each other; readers use each for itself.

Words, 8 bytes each: 8 of header (magic, group slots, link slots), then 8 per group slot, then 24
per link slot. A slot's words are zero when it is given out.
"""

import mmap
import os
from typing import Final, Self, overload

MAGIC: Final = 0x534C4B574D524B31  # "SLKWMRK1"
HEADER_WORDS: Final = 8
GROUP_WORDS: Final = 8
LINK_WORDS: Final = 24
_WORD_BYTES: Final = 8


class _Word:
    """One 64-bit word of a slot."""

    def __init__(self, index: int) -> None:
        self._index = index

    @overload
    def __get__(self, slot: None, owner: type) -> "_Word": ...
    @overload
    def __get__(self, slot: "_Slot", owner: type) -> int: ...
    def __get__(self, slot: "_Slot | None", owner: type) -> "int | _Word":
        if slot is None:
            return self
        return slot.words[slot.base + self._index]

    def __set__(self, slot: "_Slot", value: int) -> None:
        slot.words[slot.base + self._index] = value


class _Slot:
    """A run of words of the page."""

    __slots__ = ("base", "index", "words")

    def __init__(self, words: "memoryview[int]", base: int, index: int) -> None:
        self.words = words
        self.base = base
        self.index = index


class GroupMarks(_Slot):
    """What the main process says of a group's log; log offsets."""

    __slots__ = ()

    durable_offset = _Word(0)
    """The end of what is synced; a sender never reads past it."""
    in_volumes_offset = _Word(1)
    """Every record below it is in its volume (D2)."""
    trim_offset = _Word(2)
    """Below it segments may be recycled; a sender checks it again after each read (D14)."""
    failed = _Word(3)
    """Not zero once the group has failed: nothing more is sent (D3)."""
    durable_lsn = _Word(4)
    """The lsn at `durable_offset`; stored after it, so it may lag behind, and before any volume is
    written with what became durable."""
    sleepers = _Word(5)
    """Not zero while a sender sleeps and wants to be woken by the next durable record."""


class LinkMarks(_Slot):
    """What a sender says of its link; counters grow for ever."""

    __slots__ = ()

    acked_offset = _Word(0)
    """Log offset after the last record that is durable on the Secondary."""
    applied_offset = _Word(1)
    """Log offset after the last record that is in the replica's volumes."""
    acked_lsn = _Word(2)
    applied_lsn = _Word(3)
    applied_time_ns = _Word(4)
    """The Primary's own time of the last applied record (D19)."""
    sent_bytes = _Word(5)
    sent_records = _Word(6)
    inflight_bytes = _Word(7)
    last_ack_time_ns = _Word(8)
    """The Primary's clock when the last ack came."""
    state = _Word(9)
    """Code of the link's state; the codes are the link's."""
    reading_offset = _Word(10)
    """The lowest log offset the sender still needs; its segment is not recycled (D14)."""
    reconnects = _Word(11)
    regions_done_bytes = _Word(12)
    regions_total_bytes = _Word(13)
    sent_lsn = _Word(14)
    """The last record handed to the open stream; 0 while there is none."""


class SharedMarks:
    """The page: made by the main process, attached by its file descriptor in a child.

    Slots are given out and taken back by the maker alone, one thread at a time.
    """

    def __init__(self, fd: int) -> None:
        """Map the page behind a file descriptor, which this object then owns."""
        self.fd = fd
        self._map = mmap.mmap(fd, 0)
        self._words: memoryview[int] = memoryview(self._map).cast("Q")
        if self._words[0] != MAGIC:
            self.close()
            raise ValueError("not a page of marks")
        self._groups, self._links = self._words[1], self._words[2]
        self._free_groups = list(range(self._groups))
        self._free_links = list(range(self._links))

    @classmethod
    def create(cls, groups: int, links: int) -> Self:
        """Make a page with that many slots in anonymous memory; `fd` can be passed to a child."""
        fd = os.memfd_create("slackwater-marks")
        size = _WORD_BYTES * (HEADER_WORDS + GROUP_WORDS * groups + LINK_WORDS * links)
        os.ftruncate(fd, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE)
        with mmap.mmap(fd, 0) as page, memoryview(page).cast("Q") as words:
            words[0], words[1], words[2] = MAGIC, groups, links
        return cls(fd)

    @classmethod
    def attach(cls, fd: int) -> Self:
        """Map the page of the maker; the file descriptor is this object's from now on."""
        return cls(fd)

    def group(self, index: int) -> GroupMarks:
        """Return the group slot of that index."""
        assert 0 <= index < self._groups, "a slot that was given out"
        return GroupMarks(self._words, HEADER_WORDS + GROUP_WORDS * index, index)

    def link(self, index: int) -> LinkMarks:
        """Return the link slot of that index."""
        assert 0 <= index < self._links, "a slot that was given out"
        base = HEADER_WORDS + GROUP_WORDS * self._groups + LINK_WORDS * index
        return LinkMarks(self._words, base, index)

    def new_group(self) -> GroupMarks | None:
        """Give out a group slot, zeroed; None when there is none left."""
        if not self._free_groups:
            return None
        slot = self.group(self._free_groups.pop(0))
        _clear(slot, GROUP_WORDS)
        return slot

    def new_link(self) -> LinkMarks | None:
        """Give out a link slot, zeroed; None when there is none left."""
        if not self._free_links:
            return None
        slot = self.link(self._free_links.pop(0))
        _clear(slot, LINK_WORDS)
        return slot

    def release(self, slot: GroupMarks | LinkMarks) -> None:
        """Take a slot back, once no process uses it any more; it is given out last."""
        free = self._free_groups if isinstance(slot, GroupMarks) else self._free_links
        assert slot.index not in free, "a slot is released once"
        free.append(slot.index)

    def close(self) -> None:
        """Unmap the page and close the file descriptor; slots must not be used any more."""
        self._words.release()
        self._map.close()
        os.close(self.fd)


def _clear(slot: _Slot, words: int) -> None:
    for index in range(slot.base, slot.base + words):
        slot.words[index] = 0
