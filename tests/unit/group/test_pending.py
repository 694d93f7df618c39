"""Pending: what is in the log and not yet in a volume stays visible, in order."""

import random

import pytest

from slackwater.extent import Extent
from slackwater.group import pending as module
from slackwater.group.pending import Pending, as_data, lay_over


class FakeVolume:
    """A volume as bytes, that refuses writes on demand."""

    def __init__(self, number: int, size: int) -> None:
        self.id = number
        self.size = size
        self.data = bytearray(size)
        self.refuse = False

    def write(self, offset: int, payload: bytes) -> None:
        if self.refuse:
            raise OSError(28, "full")
        self.data[offset : offset + len(payload)] = payload

    def zero(self, offset: int, length: int) -> None:
        if self.refuse:
            raise OSError(28, "full")
        self.data[offset : offset + length] = bytes(length)


def read(pending: Pending, volume: FakeVolume, offset: int, length: int) -> bytes:
    changes = pending.overlapping(volume, offset, length)  # type: ignore[arg-type]
    data = bytearray(volume.data[offset : offset + length])
    lay_over(data, offset, changes)
    return bytes(data)


def test_pending_shows_a_reader_each_held_change_in_log_order() -> None:
    volume = FakeVolume(1, 4096)
    pending = Pending()
    pending.add(volume, 0, 1024, b"a" * 1024)  # type: ignore[arg-type]
    pending.add(volume, 512, 1024, b"b" * 1024)  # type: ignore[arg-type]
    pending.add(volume, 1000, 8, None)  # type: ignore[arg-type]
    expected = b"a" * 512 + b"b" * 488 + bytes(8) + b"b" * 528
    assert read(pending, volume, 0, 1536) == expected
    assert read(pending, volume, 500, 24) == expected[500:524]
    assert bytes(volume.data) == bytes(4096)


def test_pending_drains_in_order_and_forgets() -> None:
    volume = FakeVolume(1, 4096)
    pending = Pending()
    pending.add(volume, 0, 4, b"aaaa")  # type: ignore[arg-type]
    pending.add(volume, 2, 4, b"bbbb")  # type: ignore[arg-type]
    assert pending.held_bytes == 8
    pending.drain()
    assert bytes(volume.data[:6]) == b"aabbbb"
    assert len(pending) == 0
    assert pending.held_bytes == 0
    assert pending.overlapping(volume, 0, 4096) == ()  # type: ignore[arg-type]


def test_pending_keeps_what_a_volume_refuses_and_all_after_it() -> None:
    volume = FakeVolume(1, 4096)
    pending = Pending()
    pending.add(volume, 0, 4, b"aaaa")  # type: ignore[arg-type]
    volume.refuse = True
    with pytest.raises(OSError, match="full"):
        pending.drain()
    pending.add(volume, 2, 4, b"bbbb")  # type: ignore[arg-type]
    assert read(pending, volume, 0, 6) == b"aabbbb"
    volume.refuse = False
    pending.drain()
    assert bytes(volume.data[:6]) == b"aabbbb"


def test_pending_keeps_volumes_apart() -> None:
    one, two = FakeVolume(1, 64), FakeVolume(2, 64)
    pending = Pending()
    pending.add(one, 0, 4, b"aaaa")  # type: ignore[arg-type]
    assert read(pending, two, 0, 4) == bytes(4)


def test_pending_shows_zeroes_over_a_range_too_wide_to_index(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "WIDE_BYTES", 1024)
    volume = FakeVolume(1, 8192)
    volume.data[:] = b"x" * 8192
    pending = Pending()
    pending.add(volume, 0, 4096, None)  # type: ignore[arg-type]
    pending.add(volume, 100, 4, b"aaaa")  # type: ignore[arg-type]
    assert read(pending, volume, 98, 8) == b"\0\0aaaa\0\0"
    assert read(pending, volume, 0, 8192)[4096:] == b"x" * 4096
    pending.drain()
    assert bytes(volume.data[96:104]) == b"\0\0\0\0aaaa"


def test_pending_agrees_with_a_plain_model() -> None:
    rng = random.Random(7)
    volume = FakeVolume(1, 4096)
    model = bytearray(4096)
    pending = Pending()
    for _ in range(400):
        offset = rng.randrange(4000)
        length = rng.randrange(1, 4096 - offset)
        if rng.random() < 0.3:
            pending.add(volume, offset, length, None)  # type: ignore[arg-type]
            model[offset : offset + length] = bytes(length)
        else:
            payload = rng.randbytes(length)
            pending.add(volume, offset, length, payload)  # type: ignore[arg-type]
            model[offset : offset + length] = payload
        if rng.random() < 0.1:
            pending.drain()
        offset = rng.randrange(4000)
        assert read(pending, volume, offset, 96) == bytes(model[offset : offset + 96])
    pending.drain()
    assert volume.data == model


def test_extents_report_a_held_change_over_a_hole_as_data() -> None:
    volume = FakeVolume(1, 4096)
    pending = Pending()
    pending.add(volume, 1024, 512, b"a" * 512)  # type: ignore[arg-type]
    changes = pending.overlapping(volume, 0, 4096)  # type: ignore[arg-type]
    assert as_data([Extent(0, 4096, data=False)], changes) == [
        Extent(0, 1024, data=False),
        Extent(1024, 512, data=True),
        Extent(1536, 2560, data=False),
    ]
    assert as_data([Extent(0, 4096, data=True)], changes) == [Extent(0, 4096, data=True)]
    assert as_data([Extent(0, 512, data=False)], []) == [Extent(0, 512, data=False)]
