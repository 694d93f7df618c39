"""Sizes of the wire structures, as the protocol's document gives them."""

import struct

import pytest

from slackwater.nbd import wire


@pytest.mark.parametrize(
    ("structure", "size"),
    [
        (wire.GREETING, 18),
        (wire.OPTION, 16),
        (wire.OPTION_REPLY, 20),
        (wire.REQUEST, 28),
        (wire.SIMPLE_REPLY, 16),
        (wire.CHUNK, 20),
        (wire.OFFSET_DATA, 28),
        (wire.OFFSET_HOLE, 32),
        (wire.ERROR_CHUNK, 26),
        (wire.BLOCK_DESCRIPTOR, 8),
        (wire.INFO_EXPORT_REPLY, 12),
        (wire.INFO_BLOCK_SIZE_REPLY, 14),
    ],
)
def test_structure_has_the_size_of_the_protocol(structure: struct.Struct, size: int) -> None:
    assert structure.size == size


def test_protocol_error_keeps_its_problem() -> None:
    error = wire.ProtocolError("no magic")
    assert error.problem == "no magic"
    assert str(error) == "NBD protocol error: no magic"
