"""The bytes of an Append are protobuf's own, made and cut without it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slackwater import errors, record
from slackwater.link import wire
from slackwater.position import Position
from slackwater.v1 import replication_pb2

PREVIOUS = Position(3, 1 << 40, 0xDEADBEEF)
Request = replication_pb2.ReplicateRequest


def run_of(size: int, count: int = 1) -> bytes:
    run, chain = b"", PREVIOUS.chain
    for lsn in range(PREVIOUS.lsn + 1, PREVIOUS.lsn + 1 + count):
        head, chain = record.write_head(chain, 3, lsn, 1, None, 1, 0, b"p" * size)
        run += head + b"p" * size
    return run


@pytest.mark.parametrize("size", [1, 20, 100, 16_000, 70_000, record.MAX_PAYLOAD])
def test_prefix_and_run_parse_as_a_replicate_request(size: int) -> None:
    run = run_of(size, count=2 if size < 100_000 else 1)
    request = Request()
    request.ParseFromString(wire.append_prefix(PREVIOUS, len(run)) + run)
    assert request.WhichOneof("message") == "append"
    assert wire.from_wire(request.append.previous) == PREVIOUS
    assert {len(inner.write.payload) for inner in request.append.records} == {size}


def test_protobuf_makes_the_same_bytes() -> None:
    run = run_of(5000, count=3)
    joined = wire.append_prefix(PREVIOUS, len(run)) + run
    request = Request()
    request.ParseFromString(joined)
    assert request.SerializeToString() == joined


@pytest.mark.parametrize(
    "previous", [PREVIOUS, Position(1, 0, 0), Position(2**64 - 1, 2**64 - 1, 1)]
)
def test_split_returns_what_was_joined_without_a_copy(previous: Position) -> None:
    run = run_of(300)
    joined = wire.append_prefix(previous, len(run)) + run
    got, view = wire.split_append(joined)
    assert (got, bytes(view)) == (previous, run)
    assert view.obj is joined


def test_append_cut_anywhere_is_refused() -> None:
    run = run_of(40)
    joined = wire.append_prefix(PREVIOUS, len(run)) + run
    for cut in range(len(joined)):
        with pytest.raises(errors.InvalidRequest):
            wire.split_append(joined[:cut])


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x12\x00",
        b"\x12\x02\x12\x00",
        b"\x12\x04\x0a\x02\xff\xff",
        b"\x12\x02\x0a\x05",
        b"\x12\xff\xff\xff\xff\x01",
        b"\x12" + bytes(wire.MAX_APPEND + 100),
    ],
    ids=["empty", "no-previous", "bad-previous", "previous-too-long", "endless", "too-large"],
)
def test_malformed_append_is_refused(request_bytes: bytes) -> None:
    with pytest.raises(errors.InvalidRequest):
        wire.split_append(request_bytes)


@given(st.binary(max_size=200))
def test_garbage_is_refused_or_split_never_more(garbage: bytes) -> None:
    wire.peek_kind(garbage)
    try:
        wire.split_append(garbage)
    except errors.InvalidRequest:
        pass


def test_kind_is_told_from_the_first_byte() -> None:
    for field in Request.DESCRIPTOR.oneofs_by_name["message"].fields:
        message = Request()
        getattr(message, field.name).SetInParent()
        assert wire.peek_kind(message.SerializeToString()) == field.number
    assert wire.peek_kind(b"") == 0
    assert wire.peek_kind(b"\x08\x01") == 0
    assert wire.peek_kind(b"\x92\x01") == 0
