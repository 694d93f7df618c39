"""Whatever a client sends, only the protocol's own error comes out, and memory is bounded."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slackwater.nbd import wire
from slackwater.nbd.handshake import MAX_OPTION_BYTES, Handshake, Phase, TlsMode
from slackwater.nbd.transmission import (
    MAX_BATCH_READ_BYTES,
    MAX_BATCH_REQUESTS,
    Transmission,
)
from tests.support.memory_export import MemoryExport
from tests.unit.nbd.test_handshake import NAME, Shelf

EXPORT = MemoryExport(1 << 20)

options = st.builds(
    lambda number, declared, data: (
        b"IHAVEOPT" + struct.pack(">II", number, len(data) if declared is None else declared) + data
    ),
    st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 99]),
    st.one_of(st.none(), st.integers(0, 2**32 - 1)),
    st.one_of(
        st.binary(max_size=64),
        st.just(struct.pack(">I", len(NAME)) + NAME.encode() + b"\0\0"),
        st.just(struct.pack(">I", len(NAME)) + NAME.encode() + struct.pack(">II", 1, 15)),
    ),
)
handshake_bytes = st.one_of(
    st.binary(max_size=200),
    st.builds(
        lambda flags, parts: struct.pack(">I", flags) + b"".join(parts),
        st.integers(0, 4),
        st.lists(st.one_of(options, st.binary(max_size=20)), max_size=12),
    ),
)

heads = st.builds(
    lambda flags, kind, cookie, offset, length: struct.pack(
        ">IHHQQI", wire.REQUEST_MAGIC, flags, kind, cookie, offset, length
    ),
    st.one_of(st.just(0), st.integers(0, 2**16 - 1)),
    st.one_of(st.integers(0, 8), st.integers(0, 2**16 - 1)),
    st.integers(0, 2**64 - 1),
    st.one_of(st.integers(0, 1 << 20), st.integers(0, 2**64 - 1)),
    st.one_of(st.integers(0, 64), st.integers(0, 2**32 - 1)),
)
stream_bytes = st.lists(st.one_of(heads, st.binary(max_size=80)), max_size=40).map(b"".join)
steps = st.integers(1, 97)


def phase(handshake: Handshake) -> Phase:
    """Read anew: the type checker cannot know that calls change it."""
    return handshake.phase


@given(handshake_bytes, steps, st.sampled_from(TlsMode))
@pytest.mark.timeout(60)
def test_handshake_survives_any_bytes(data: bytes, step: int, tls: TlsMode) -> None:
    handshake = Handshake(Shelf(EXPORT), tls)
    for start in range(0, len(data), step):
        if phase(handshake) is Phase.SECURING:
            handshake.secured()
        if phase(handshake) is not Phase.NEGOTIATING:
            break
        try:
            handshake.receive(data[start : start + step])
        except wire.ProtocolError:
            assert phase(handshake) is Phase.CLOSED
            break
        assert len(handshake.trailing_data()) <= MAX_OPTION_BYTES + wire.OPTION.size
        handshake.data_to_send()


@given(stream_bytes, st.booleans(), st.booleans(), steps)
@pytest.mark.timeout(60)
def test_transmission_survives_any_bytes(
    data: bytes, structured: bool, block_status: bool, step: int
) -> None:
    transmission = Transmission(EXPORT, structured=structured, block_status=block_status)
    view = memoryview(data)
    start = end = 0
    while True:
        try:
            intake = transmission.parse(view, start, end)
        except wire.ProtocolError:
            return
        assert start <= intake.position <= end
        start = intake.position
        assert transmission.wanted <= wire.MAX_PAYLOAD + wire.REQUEST.size
        requests = intake.batch.requests
        assert len(requests) + len(intake.refused) + len(intake.queries) <= MAX_BATCH_REQUESTS + 1
        reads = [request.length for request in requests if request.kind == wire.CMD_READ]
        assert intake.batch.read_bytes == sum(reads)
        assert len(reads) <= 1 or sum(reads) <= MAX_BATCH_READ_BYTES
        for request in requests:
            assert request.offset + request.length <= EXPORT.size
            assert len(request.payload) == (request.length if request.kind == 1 else 0)
        assert all(request.error for request in intake.refused)
        transmission.replies(intake.refused)
        if intake.is_empty:
            if end == len(data) or transmission.is_closing:
                return
            end = min(len(data), end + step)
