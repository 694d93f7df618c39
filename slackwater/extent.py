"""Extents: byte ranges of a volume that either hold data or read as zeroes."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Extent:
    """A half-open byte range `[offset, offset + length)`; `data` False reads as zeroes."""

    offset: int
    length: int
    data: bool

    @property
    def next_offset(self) -> int:
        """The first byte after the extent."""
        return self.offset + self.length
