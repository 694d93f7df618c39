"""Sparse bytes by page: what a simulated file is made of."""

from collections.abc import Iterator
from typing import Final

from slackwater.extent import Extent

PAGE: Final = 4096


class Pages:
    """Bytes of a length, in pages that share content between copies until one is written."""

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
        self.size = max(self.size, end)

    def zero(self, offset: int, length: int) -> None:
        """Drop whole pages of the range, clear the rest; the length stays."""
        end = min(offset + length, self.size)
        at = offset
        while at < end:
            page, inside = divmod(at, PAGE)
            size = min(PAGE - inside, end - at)
            old = self._pages.get(page)
            if old is not None:
                if size == PAGE:
                    del self._pages[page]
                else:
                    self._pages[page] = old[:inside] + bytes(size) + old[inside + size :]
            at += size

    def resize(self, size: int) -> None:
        """Cut or extend with a hole."""
        if size < self.size:
            self.zero(size, self.size - size)
            for page in [page for page in self._pages if page * PAGE >= size]:
                del self._pages[page]
        self.size = size

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """Yield data and holes of the range, merged, by page."""
        end = offset + length
        at = offset
        start, data = at, at // PAGE in self._pages
        while at < end:
            now = at // PAGE in self._pages
            if now is not data:
                yield Extent(start, at - start, data)
                start, data = at, now
            at = (at // PAGE + 1) * PAGE
        if start < end:
            yield Extent(start, end - start, data)
