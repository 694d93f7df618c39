"""Padding: what fills the rest of a sealed log segment, so that it parses to its end.

A padding field is the tag of field 3 of an Append (0x1a), a length varint that always has four
bytes, and zeroes. `slackwater.record` passes these names on.
"""

from typing import Final

Buffer = bytes | bytearray | memoryview

PADDING_TAG: Final = 0x1A
MIN_PADDING: Final = 8
_PADDING_HEAD: Final = 5


def pad_head(length: int) -> bytes:
    """Return the first bytes of a padding field of `length` bytes; the rest must be zeroes.

    The length varint always has four bytes, so that any length from `MIN_PADDING` fits.
    """
    assert MIN_PADDING <= length <= 1 << 28, "a padding field has 8 bytes to 256 MiB"
    size = length - _PADDING_HEAD
    return bytes(
        (
            PADDING_TAG,
            size & 0x7F | 0x80,
            size >> 7 & 0x7F | 0x80,
            size >> 14 & 0x7F | 0x80,
            size >> 21,
        )
    )


def pad(length: int) -> bytes:
    """Return a whole padding field of `length` bytes."""
    return pad_head(length) + bytes(length - _PADDING_HEAD)


def parse_padding(buffer: Buffer, start: int, end: int) -> int | None:
    """Return where the padding field that begins at `start` ends, or None if none lies there."""
    if start + MIN_PADDING > end or buffer[start] != PADDING_TAG:
        return None
    low, middle, high, top = buffer[start + 1 : start + _PADDING_HEAD]
    if not (low & middle & high & 0x80) or top > 0x7F:
        return None
    size = low & 0x7F | (middle & 0x7F) << 7 | (high & 0x7F) << 14 | top << 21
    padding_end = start + _PADDING_HEAD + size
    return padding_end if padding_end <= end else None
