"""The record codec: hand-made bytes are protobuf's own, and nothing but a record parses."""

import uuid

import pytest
from crc32c import crc32c
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from slackwater import errors, record
from slackwater.position import Position, origin
from slackwater.v1 import record_pb2

UID = uuid.UUID(int=0x0123456789ABCDEF0123456789ABCDEF)
ORIGIN = origin(UID)
TIME = 1_700_000_000_000_000_000

# Around every length at which the varint of the payload, the body or the record grows.
BOUNDARIES = sorted(
    {
        length
        for edge in (1 << 7, 1 << 14)
        for around in (edge, edge - 15, edge - 16, edge - 17, edge - 51, edge - 60)
        for length in range(around - 8, around + 9)
    }
    | {1, 2, 512, 4096, 65536, record.MAX_PAYLOAD - 1, record.MAX_PAYLOAD}
)


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes((value & 0x7F | 0x80,))
        value >>= 7
    return out + bytes((value,))


def framed_by_protobuf(
    previous_chain: int,
    epoch: int,
    lsn: int,
    time_ns: int,
    synced_lsn: int | None,
    field: str,
    body: Message,
) -> tuple[bytes, int]:
    """Make the same record the slow way, with protobuf alone."""
    message = record_pb2.Record(chain_crc32c=0, epoch=epoch, lsn=lsn, time_unix_nanos=time_ns)
    if synced_lsn is not None:
        message.synced_lsn = synced_lsn
    getattr(message, field).CopyFrom(body)
    chain = crc32c(message.SerializeToString()[5:], previous_chain)
    message.chain_crc32c = chain
    encoded = message.SerializeToString()
    return b"\x12" + varint(len(encoded)) + encoded, chain


def slow_crc32c(data: bytes, value: int) -> int:
    """Compute the Castagnoli CRC bit by bit, from its definition."""
    value ^= 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def make_write(previous: Position, payload: bytes, **changes: int) -> tuple[bytes, Position]:
    values = {"epoch": previous.epoch, "lsn": previous.lsn + 1, "volume": 1, "offset": 0}
    values.update(changes)
    head, chain = record.write_head(
        previous.chain,
        values["epoch"],
        values["lsn"],
        TIME,
        None,
        values["volume"],
        values["offset"],
        payload,
    )
    return head + payload, Position(values["epoch"], values["lsn"], chain)


def make_run(count: int, payload: bytes = b"x" * 100) -> tuple[bytes, list[Position]]:
    run, position, positions = b"", ORIGIN, []
    for _ in range(count):
        framed, position = make_write(position, payload)
        run += framed
        positions.append(position)
    return run, positions


class TestEncoding:
    @pytest.mark.parametrize("synced_lsn", [None, 0, 41])
    @pytest.mark.parametrize("length", BOUNDARIES)
    def test_write_head_equals_protobuf_at_every_length_class(
        self, length: int, synced_lsn: int | None
    ) -> None:
        payload = b"\xa5" * length
        head, chain = record.write_head(7, 3, 42, TIME, synced_lsn, 9, 1 << 40, payload)
        body = record_pb2.Write(volume=9, offset=1 << 40, payload=payload)
        assert (head + payload, chain) == framed_by_protobuf(
            7, 3, 42, TIME, synced_lsn, "write", body
        )

    def test_zero_values_keep_their_place(self) -> None:
        head, chain = record.write_head(0, 0, 0, 0, 0, 0, 0, b"z")
        body = record_pb2.Write(volume=0, offset=0, payload=b"z")
        assert (head + b"z", chain) == framed_by_protobuf(0, 0, 0, 0, 0, "write", body)

    @pytest.mark.parametrize(
        ("field", "kind", "body"),
        [
            (
                "zero",
                record.KIND_ZERO,
                record_pb2.Zero(volume=1, offset=0, length=1 << 45),
            ),
            (
                "ibc_message",
                record.KIND_IBC_MESSAGE,
                record_pb2.IbcMessage(message_id="m", text="t"),
            ),
            (
                "outcome",
                record.KIND_OUTCOME,
                record_pb2.Outcome(message_id="m", evidence="e" * 500),
            ),
            ("epoch_change", record.KIND_EPOCH_CHANGE, record_pb2.EpochChange(primary="p")),
            ("volume_change", record.KIND_VOLUME_CHANGE, record_pb2.VolumeChange(name="v")),
            ("start", record.KIND_START, record_pb2.Start(incarnation=5)),
            ("start", record.KIND_START, record_pb2.Start()),
        ],
    )
    def test_frame_equals_protobuf_and_body_reads_it_back(
        self, field: str, kind: int, body: Message
    ) -> None:
        framed, chain = record.frame(7, 3, 42, TIME, 41, kind, body.SerializeToString())
        assert (framed, chain) == framed_by_protobuf(7, 3, 42, TIME, 41, field, body)
        view = record.parse(framed, 0, len(framed))
        assert view is not None
        assert (view.kind, view.lsn, view.synced_lsn) == (kind, 42, 41)
        assert record.body(framed, view) == body

    def test_golden_write(self) -> None:
        head, chain = record.write_head(ORIGIN.chain, 1, 1, TIME, 0, 2, 4096, b"slackwater")
        assert head.hex() == (
            "1246" + "0d45803f5d" + "110100000000000000" + "190100000000000000"
            + "2100002a36fe9c9717" + "290000000000000000" + "fa011a" + "0d02000000"
            + "110010000000000000" + "7a0a"
        )  # fmt: skip
        assert chain == 0x5D3F8045
        assert chain == slow_crc32c(head[7:] + b"slackwater", slow_crc32c(UID.bytes, 0))

    def test_every_body_of_the_record_is_a_known_kind(self) -> None:
        oneof = record_pb2.Record.DESCRIPTOR.oneofs_by_name["body"]
        assert {field.number for field in oneof.fields} == record.KNOWN_KINDS

    def test_run_parses_as_records_of_an_append(self) -> None:
        run, positions = make_run(3)
        # Any message with `repeated Record records = 2` will do; unknown fields hold the rest.
        views, _, _ = record.scan(run, 0, len(run), ORIGIN)
        for view, position in zip(views, positions, strict=True):
            inner = record_pb2.Record()
            inner.ParseFromString(run[view.start + 3 : view.end])
            assert inner.chain_crc32c == position.chain
            assert inner.write.payload == b"x" * 100


class TestParse:
    def test_view_names_every_part(self) -> None:
        payload = bytes(range(256)) * 20
        head, chain = record.write_head(1, 2, 3, 4, 5, 6, 7, payload)
        buffer = b"junk" + head + payload + b"more"
        view = record.parse(buffer, 4, len(buffer))
        assert view is not None
        assert (view.start, view.end) == (4, len(buffer) - 4)
        assert (view.chain, view.epoch, view.lsn, view.time_ns) == (chain, 2, 3, 4)
        assert (view.synced_lsn, view.kind) == (5, record.KIND_WRITE)
        assert (view.volume, view.offset, view.length) == (6, 7, len(payload))
        assert buffer[view.payload_start : view.end] == payload
        assert view.position == Position(2, 3, chain)

    def test_zero_names_its_range(self) -> None:
        body = record_pb2.Zero(volume=1, offset=512, length=1 << 40).SerializeToString()
        framed, _ = record.frame(0, 1, 1, TIME, None, record.KIND_ZERO, body)
        view = record.parse(framed, 0, len(framed))
        assert view is not None
        assert (view.volume, view.offset, view.length) == (1, 512, 1 << 40)
        assert view.payload_start == view.end

    def test_unknown_kind_parses_so_that_it_can_be_refused_by_name(self) -> None:
        framed, _ = record.frame(0, 1, 9, TIME, None, 99, b"later")
        view = record.parse(framed, 0, len(framed))
        assert view is not None
        assert view.kind == 99
        with pytest.raises(errors.FailedPrecondition, match="unknown kind 99") as caught:
            record.body(framed, view)
        assert caught.value.reason == "UNKNOWN_RECORD"

    def test_body_that_is_no_message_is_data_corrupt(self) -> None:
        framed, _ = record.frame(0, 1, 9, TIME, None, record.KIND_OUTCOME, b"\xff\xff")
        view = record.parse(framed, 0, len(framed))
        assert view is not None
        with pytest.raises(errors.DataCorrupt):
            record.body(framed, view)

    @pytest.mark.parametrize("length", [1, 100, 5000])
    def test_record_cut_anywhere_is_not_a_record(self, length: int) -> None:
        framed, _ = make_write(ORIGIN, b"p" * length)
        for cut in range(len(framed)):
            assert record.parse(framed, 0, cut) is None
            assert record.parse(framed[:cut], 0, cut) is None

    @pytest.mark.parametrize("kind", [record.KIND_WRITE, record.KIND_ZERO, record.KIND_START])
    def test_every_flipped_structural_byte_is_refused_or_breaks_the_chain(self, kind: int) -> None:
        if kind == record.KIND_WRITE:
            framed, _ = make_write(ORIGIN, b"p" * 200)
        else:
            inner = {
                record.KIND_ZERO: record_pb2.Zero(volume=1, offset=0, length=512),
                record.KIND_START: record_pb2.Start(incarnation=1),
            }[kind]
            framed, _ = record.frame(ORIGIN.chain, 1, 1, TIME, 0, kind, inner.SerializeToString())
        for index in range(len(framed)):
            for bit in range(8):
                damaged = bytearray(framed)
                damaged[index] ^= 1 << bit
                view = record.parse(damaged, 0, len(damaged))
                assert view is None or not record.continues(damaged, view, ORIGIN)

    def test_longer_varint_than_needed_is_not_a_record(self) -> None:
        framed, _ = make_write(ORIGIN, b"p" * 10)
        assert framed[1] < 0x80
        padded = framed[:1] + bytes((framed[1] | 0x80, 0)) + framed[2:]
        assert record.parse(padded, 0, len(padded)) is None

    def test_four_byte_length_is_not_a_record(self) -> None:
        buffer = b"\x12\xff\xff\xff\x01" + bytes(200)
        assert record.parse(buffer, 0, len(buffer)) is None

    def test_payload_or_body_over_the_bound_is_not_a_record(self) -> None:
        body = record_pb2.Write(volume=1, offset=0, payload=bytes(record.MAX_PAYLOAD + 1))
        framed, _ = framed_by_protobuf(0, 1, 1, TIME, None, "write", body)
        assert record.parse(framed, 0, len(framed)) is None
        outcome = record_pb2.Outcome(evidence="e" * (record.MAX_BODY + 1))
        framed, _ = framed_by_protobuf(0, 1, 1, TIME, None, "outcome", outcome)
        assert record.parse(framed, 0, len(framed)) is None

    @pytest.mark.parametrize(
        ("field", "body"),
        [
            ("write", record_pb2.Write(volume=1, offset=0)),
            ("write", record_pb2.Write(volume=1, payload=b"p" * 20)),
            ("write", record_pb2.Write(offset=1, payload=b"p" * 20)),
            ("zero", record_pb2.Zero(volume=1, offset=0)),
            ("zero", record_pb2.Zero(volume=1, offset=0, length=0)),
        ],
    )
    def test_incomplete_write_or_zero_is_not_a_record(self, field: str, body: Message) -> None:
        framed, _ = framed_by_protobuf(0, 1, 1, TIME, None, field, body)
        assert record.parse(framed, 0, len(framed)) is None

    def test_record_with_a_missing_head_field_is_not_a_record(self) -> None:
        message = record_pb2.Record(chain_crc32c=1, epoch=1, lsn=1)
        message.start.incarnation = 1 << 60
        message.synced_lsn = 5
        encoded = message.SerializeToString()
        framed = b"\x12" + varint(len(encoded)) + encoded
        assert record.parse(framed, 0, len(framed)) is None

    @given(st.binary(max_size=300), st.integers(0, 20))
    @settings(max_examples=300, deadline=None)
    def test_parse_and_scan_never_raise_on_garbage(self, garbage: bytes, start: int) -> None:
        record.parse(garbage, start, len(garbage))
        record.scan(garbage, start, len(garbage), ORIGIN)
        record.parse_padding(garbage, start, len(garbage))

    @given(
        st.integers(1, 400),
        st.lists(st.tuples(st.integers(0, 79), st.integers(0, 255)), max_size=4),
        st.integers(0, 500),
    )
    @settings(max_examples=500, deadline=None)
    def test_parse_and_scan_never_raise_on_damage(
        self, length: int, damage: list[tuple[int, int]], cut: int
    ) -> None:
        framed, _ = make_write(ORIGIN, b"p" * length)
        damaged = bytearray(framed)
        for index, value in damage:
            if index < len(damaged):
                damaged[index] = value
        end = min(cut, len(damaged))
        view = record.parse(damaged, 0, end)
        assert view is None or view.end <= end
        views, stop, _ = record.scan(damaged[:end], 0, end, ORIGIN)
        assert bytes(damaged[:stop]) == framed[:stop] or not views

    @given(st.integers(1, 70_000), st.integers(0, 2**64 - 1), st.none() | st.integers(0, 2**64 - 1))
    @settings(max_examples=100, deadline=None)
    def test_any_write_reads_back(self, length: int, offset: int, synced: int | None) -> None:
        payload = b"\x12" * length
        head, _ = record.write_head(9, 1, 2, 3, synced, 4, offset, payload)
        view = record.parse(head + payload, 0, len(head) + length)
        assert view is not None
        assert (view.offset, view.synced_lsn, view.length) == (offset, synced, length)
        assert record.continues(head + payload, view, Position(1, 1, 9))


class TestChain:
    def test_record_continues_only_its_own_predecessor(self) -> None:
        framed, position = make_write(Position(2, 10, 77), b"payload")
        view = record.parse(framed, 0, len(framed))
        assert view is not None
        assert position == view.position
        assert record.continues(framed, view, Position(2, 10, 77))
        assert not record.continues(framed, view, Position(2, 10, 78))
        assert not record.continues(framed, view, Position(2, 9, 77))
        assert not record.continues(framed, view, Position(2, 11, 77))
        assert not record.continues(framed, view, Position(3, 10, 77))
        assert not record.continues(framed, view, Position(1, 10, 77))

    def test_epoch_rises_only_with_an_epoch_change(self) -> None:
        previous = Position(1, 4, 5)
        body = record_pb2.EpochChange(primary="b").SerializeToString()
        framed, _ = record.frame(5, 3, 5, TIME, None, record.KIND_EPOCH_CHANGE, body)
        view = record.parse(framed, 0, len(framed))
        assert view is not None
        assert record.continues(framed, view, previous)
        assert not record.continues(framed, view, Position(4, 4, 5))
        assert record.scan(framed, 0, len(framed), previous)[2] == "end"
        assert record.scan(framed, 0, len(framed), Position(4, 4, 5))[2] == "break"

    def test_groups_start_from_different_chains(self) -> None:
        assert origin(UID) != origin(uuid.UUID(int=1))
        assert (ORIGIN.epoch, ORIGIN.lsn) == (1, 0)


class TestScan:
    def test_scan_returns_all_records_to_the_end(self) -> None:
        run, positions = make_run(5)
        views, stop, why = record.scan(run, 0, len(run), ORIGIN)
        assert [view.position for view in views] == positions
        assert (stop, why) == (len(run), "end")

    def test_scan_of_nothing_ends_at_once(self) -> None:
        assert record.scan(b"", 0, 0, ORIGIN) == ([], 0, "end")

    @pytest.mark.parametrize("length", [60, 70, 80, 100, 127, 130, 16_200, 16_400, 70_000])
    def test_scan_checks_the_chain_in_every_length_class(self, length: int) -> None:
        first, position = make_write(ORIGIN, b"p" * length)
        second, _ = make_write(position, b"q" * length)
        run = bytearray(first + second)
        assert len(record.scan(run, 0, len(run), ORIGIN)[0]) == 2
        run[-1] ^= 1
        views, stop, why = record.scan(run, 0, len(run), ORIGIN)
        assert (len(views), stop, why) == (1, len(first), "break")

    def test_scan_stops_before_padding(self) -> None:
        run, _ = make_run(2)
        buffer = run + record.pad(100)
        assert record.scan(buffer, 0, len(buffer), ORIGIN)[1:] == (len(run), "padding")

    def test_scan_calls_a_cut_record_short_wherever_it_is_cut(self) -> None:
        run, positions = make_run(2)
        first_end = len(run) // 2
        for cut in range(first_end + 1, len(run)):
            views, stop, why = record.scan(run, 0, cut, ORIGIN)
            assert ([view.position for view in views], stop, why) == (
                positions[:1],
                first_end,
                "short",
            )

    @pytest.mark.parametrize(
        "rest",
        [b"\0" * 50, b"\x12" + b"\0" * 50, b"\x12\xff\xff\xff\xff" + b"\0" * 50],
        ids=["zeroes", "empty-record", "endless-length"],
    )
    def test_scan_breaks_at_anything_else(self, rest: bytes) -> None:
        run, _ = make_run(1)
        assert record.scan(run + rest, 0, len(run + rest), ORIGIN)[1:] == (len(run), "break")

    def test_record_of_an_earlier_lap_does_not_continue(self) -> None:
        run, _ = make_run(3)
        stale, _ = make_write(Position(1, 3, 12345), b"stale")
        assert record.scan(run + stale, 0, len(run + stale), ORIGIN)[1:] == (len(run), "break")


class TestPadding:
    @pytest.mark.parametrize("length", [8, 9, 100, 132, 133, 134, 20_000, 3_000_000])
    def test_padding_has_its_length_and_parses(self, length: int) -> None:
        padding = record.pad(length)
        assert len(padding) == length
        assert record.parse_padding(b"ab" + padding + b"c", 2, length + 3) == length + 2
        assert not any(padding[5:])
        assert record.pad_head(length) == padding[:5]

    def test_protobuf_skips_padding(self) -> None:
        message = record_pb2.EpochChange()
        message.ParseFromString(record.pad(50))
        assert len(message.SerializeToString()) > 0  # kept as an unknown field, parsed whole

    def test_cut_or_other_bytes_are_no_padding(self) -> None:
        padding = record.pad(64)
        assert record.parse_padding(padding, 0, 63) is None
        assert record.parse_padding(b"\x12" + padding[1:], 0, 64) is None
        assert record.parse_padding(b"\x1a\x03" + bytes(62), 0, 64) is None
        assert record.parse_padding(padding[:4] + b"\xff" + padding[5:], 0, 64) is None
