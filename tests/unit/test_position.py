"""Positions name a place in one history."""

import uuid

from crc32c import crc32c

from slackwater.position import LogPoint, Position, origin


def test_position_shows_epoch_and_lsn() -> None:
    assert str(Position(3, 17, 0xABCD)) == "3/17"


def test_positions_with_another_chain_are_not_equal() -> None:
    assert Position(1, 2, 3) == Position(1, 2, 3)
    assert Position(1, 2, 3) != Position(1, 2, 4)


def test_log_point_shows_position_and_offset() -> None:
    assert str(LogPoint(4096, Position(1, 2, 3))) == "1/2@4096"


def test_origin_is_seeded_by_the_group_uid() -> None:
    uid = uuid.uuid4()
    assert origin(uid) == Position(1, 0, crc32c(uid.bytes))
