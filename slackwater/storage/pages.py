"""Sparse bytes by page: what a simulated file is made of."""

from collections.abc import Iterator
from typing import Final

from slackwater.extent import Extent

PAGE: Final = 4096


class Pages:
    """Bytes of a length, in pages that share content between copies until one is written.

    Invariant: a page's bytes past `size` are zero. What a call costs depends on the pages held,
    not on the length: a terabyte of hole is free.
    """

    __slots__ = ("_pages", "size")

    def __init__(self) -> None:
        """Start empty."""
        self._pages: dict[int, bytes] = {}
        self.size = 0

    def copy(self) -> "Pages":
        """Return an independent copy; pages are immutable, so this is cheap."""
        other = Pages()
        other._pages = self._pages.copy()
        other.size = self.size
        return other

    def held_bytes(self) -> int:
        """Return the bytes in pages, holes not counted."""
        return len(self._pages) * PAGE

    def missing_bytes(self, offset: int, length: int) -> int:
        """Return the bytes of pages that a write of the range would have to add."""
        pages = range(offset // PAGE, -(-(offset + length) // PAGE))
        return sum(PAGE for page in pages if page not in self._pages)

    def read(self, length: int, offset: int) -> bytes:
        """Return up to `length` bytes; fewer only at the end."""
        end = min(offset + length, self.size)
        if end <= offset:
            return b""
        first, last = offset // PAGE, (end - 1) // PAGE
        hole = bytes(PAGE)
        whole = b"".join([self._pages.get(page, hole) for page in range(first, last + 1)])
        return whole[offset - first * PAGE : end - first * PAGE]

    def write(self, offset: int, data: bytes) -> None:
        """Write, extending the length as needed."""
        view = memoryview(data)
        at = offset
        end = offset + len(data)
        while at < end:
            page, inside = divmod(at, PAGE)
            size = min(PAGE - inside, end - at)
            piece = view[at - offset : at - offset + size]
            if size == PAGE:
                self._pages[page] = bytes(piece)
            else:
                old = self._pages.get(page, bytes(PAGE))
                self._pages[page] = old[:inside] + bytes(piece) + old[inside + size :]
            at += size
        if data:
            self.size = max(self.size, end)

    def zero(self, offset: int, length: int) -> None:
        """Drop whole pages of the range, clear the rest; the length stays."""
        end = min(offset + length, self.size)
        for page in self._held(offset, end):
            first, last = max(offset, page * PAGE), min(end, page * PAGE + PAGE)
            if last - first == PAGE:
                del self._pages[page]
            else:
                old = self._pages[page]
                inside = first - page * PAGE
                self._pages[page] = old[:inside] + bytes(last - first) + old[last - page * PAGE :]

    def resize(self, size: int) -> None:
        """Cut or extend with a hole."""
        if size < self.size:
            self.zero(size, self.size - size)
            for page in self._held(-(-size // PAGE) * PAGE, self.size):
                del self._pages[page]
        self.size = size

    def adopt(self, other: "Pages", offset: int, length: int) -> None:
        """Take over whole the other's pages that touch a range; the length stays."""
        end = offset + length
        for page in self._held(offset, end):
            del self._pages[page]
        for page in other._held(offset, end):
            self._pages[page] = other._pages[page]

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """Yield data and holes of the range, merged, by page."""
        at, end = offset, offset + length
        held = self._held(offset, end)
        for index, page in enumerate(held):
            if index and held[index - 1] == page - 1:
                continue
            start = max(page * PAGE, offset)
            if start > at:
                yield Extent(at, start - at, data=False)
            while index + 1 < len(held) and held[index + 1] == held[index] + 1:
                index += 1
            at = min((held[index] + 1) * PAGE, end)
            yield Extent(start, at - start, data=True)
        if at < end:
            yield Extent(at, end - at, data=False)

    def _held(self, offset: int, end: int) -> list[int]:
        """Return the numbers of the pages held that touch a range, in order."""
        pages = range(offset // PAGE, -(-end // PAGE))
        if end <= offset:
            return []
        if len(pages) <= len(self._pages):
            return [page for page in pages if page in self._pages]
        return sorted(page for page in self._pages if page in pages)
