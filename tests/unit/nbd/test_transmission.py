"""The transmission phase without a socket: parsing, every refusal, every reply."""

import errno
import struct
from collections.abc import Iterator

import pytest

from slackwater.extent import Extent
from slackwater.nbd import transmission as module
from slackwater.nbd import wire
from slackwater.nbd.export import Batch, Request
from slackwater.nbd.transmission import Intake, Transmission
from tests.support.memory_export import MemoryExport

SIZE = 1 << 20
NO_FLAGS = 0


def request(
    kind: int,
    offset: int = 0,
    length: int = 0,
    *,
    flags: int = 0,
    cookie: int = 7,
    payload: bytes = b"",
) -> bytes:
    return struct.pack(">IHHQQI", 0x25609513, flags, kind, cookie, offset, length) + payload


def write(offset: int, payload: bytes, *, flags: int = 0, cookie: int = 7) -> bytes:
    return request(
        wire.CMD_WRITE, offset, len(payload), flags=flags, cookie=cookie, payload=payload
    )


def make(
    *,
    structured: bool = False,
    block_status: bool = False,
    read_only: bool = False,
    size: int = SIZE,
    minimum_block: int = 1,
) -> Transmission:
    export = MemoryExport(SIZE, read_only=read_only)
    export.minimum_block = minimum_block
    export.size = size  # no test here looks at the bytes
    return Transmission(export, structured=structured, block_status=block_status)


def parse(transmission: Transmission, data: bytes) -> Intake:
    return transmission.parse(memoryview(data), 0, len(data))


class TestParsing:
    def test_all_whole_requests_of_the_buffer_become_one_batch(self) -> None:
        transmission = make()
        data = write(0, b"abcd", cookie=1) + request(wire.CMD_FLUSH, cookie=2)
        data += request(wire.CMD_READ, 4096, 512, cookie=3) + write(8, b"ef", flags=1, cookie=4)
        intake = parse(transmission, data)
        assert [
            (r.kind, r.flags, r.offset, r.length, bytes(r.payload), r.cookie)
            for r in intake.batch.requests
        ] == [
            (wire.CMD_WRITE, 0, 0, 4, b"abcd", 1),
            (wire.CMD_FLUSH, 0, 0, 0, b"", 2),
            (wire.CMD_READ, 0, 4096, 512, b"", 3),
            (wire.CMD_WRITE, 1, 8, 2, b"ef", 4),
        ]
        assert intake.batch.read_bytes == 512
        assert intake.position == len(data)
        assert not transmission.is_mid_request

    def test_payload_is_a_view_into_the_buffer_and_no_copy(self) -> None:
        buffer = bytearray(write(0, b"abcd"))
        intake = make().parse(memoryview(buffer), 0, len(buffer))
        buffer[-1:] = b"X"
        assert bytes(intake.batch.requests[0].payload) == b"abcX"

    def test_stream_cut_anywhere_gives_the_same_requests(self) -> None:
        data = write(0, b"payload") + request(wire.CMD_READ, 0, 9) + write(512, b"x" * 40)
        for cut in range(len(data) + 1):
            transmission = make()
            first = parse(transmission, data[:cut])
            assert transmission.is_mid_request == (first.position < cut)
            assert first.position + transmission.wanted <= len(data)
            rest = parse(transmission, data[first.position :])
            kinds = [r.kind for part in (first, rest) for r in part.batch.requests]
            assert kinds == [wire.CMD_WRITE, wire.CMD_READ, wire.CMD_WRITE]

    def test_half_a_head_wants_a_head_and_half_a_write_wants_all_of_it(self) -> None:
        transmission = make()
        data = write(0, bytes(1000))
        assert parse(transmission, data[:27]).is_empty
        assert transmission.wanted == 28
        assert parse(transmission, data[:28]).is_empty
        assert transmission.wanted == 1028
        assert transmission.is_mid_request

    def test_bytes_that_are_no_request_raise_after_the_good_ones_were_handed_out(self) -> None:
        transmission = make()
        data = request(wire.CMD_FLUSH) + bytes(28)
        intake = parse(transmission, data)
        assert len(intake.batch.requests) == 1
        with pytest.raises(wire.ProtocolError, match="request magic"):
            transmission.parse(memoryview(data), intake.position, len(data))

    def test_disconnect_ends_parsing_and_leaves_what_came_before(self) -> None:
        transmission = make()
        data = request(wire.CMD_FLUSH) + request(wire.CMD_DISC) + b"never looked at"
        intake = parse(transmission, data)
        assert len(intake.batch.requests) == 1
        assert transmission.is_closing
        assert parse(transmission, b"more").is_empty

    def test_write_over_the_bound_is_dropped_piece_by_piece_then_refused(self) -> None:
        transmission = make()
        length = wire.MAX_PAYLOAD + 1
        intake = parse(transmission, request(wire.CMD_WRITE, 0, length, cookie=5) + b"start")
        assert intake.is_empty
        assert transmission.is_mid_request
        left = length - 5
        chunk = bytes(1 << 20)
        while left > len(chunk):
            assert parse(transmission, chunk).is_empty
            left -= len(chunk)
        intake = parse(transmission, bytes(left) + request(wire.CMD_FLUSH, cookie=6))
        assert [(r.cookie, r.error) for r in intake.refused] == [(5, errno.EINVAL)]
        assert [r.cookie for r in intake.batch.requests] == [6]
        assert not transmission.is_mid_request

    def test_write_over_the_bound_held_whole_is_refused_at_once(self) -> None:
        export = MemoryExport(SIZE)
        export.maximum_payload = 4096
        transmission = Transmission(export, structured=False, block_status=False)
        intake = parse(transmission, write(0, bytes(4097), cookie=5) + request(wire.CMD_FLUSH))
        assert [r.cookie for r in intake.refused] == [5]
        assert len(intake.batch.requests) == 1

    def test_batch_never_asks_for_more_read_memory_than_its_bound(self) -> None:
        transmission = make(size=1 << 30)
        data = request(wire.CMD_READ, 0, 1 << 20) * 20
        sizes, position = [], 0
        while position < len(data):
            intake = transmission.parse(memoryview(data), position, len(data))
            sizes.append(intake.batch.read_bytes)
            position = intake.position
        assert sizes == [module.MAX_BATCH_READ_BYTES] * 5

    def test_one_read_larger_than_the_bound_goes_alone(self) -> None:
        transmission = make(size=1 << 30)
        data = request(wire.CMD_READ, 0, 512) + request(wire.CMD_READ, 0, wire.MAX_PAYLOAD)
        intake = parse(transmission, data)
        assert intake.batch.read_bytes == 512
        intake = transmission.parse(memoryview(data), intake.position, len(data))
        assert intake.batch.read_bytes == wire.MAX_PAYLOAD

    @pytest.mark.parametrize("one", [request(wire.CMD_FLUSH), write(0, b"x")])
    def test_batch_holds_a_bounded_number_of_requests(self, one: bytes) -> None:
        transmission = make()
        data = one * (module.MAX_BATCH_REQUESTS + 1)
        intake = parse(transmission, data)
        assert len(intake.batch.requests) == module.MAX_BATCH_REQUESTS
        assert intake.position == len(data) - len(one)

    def test_refused_requests_and_queries_count_towards_the_bounds(self) -> None:
        transmission = make(structured=True, block_status=True)
        data = request(wire.CMD_FLUSH, 1) * 2000
        assert len(parse(transmission, data).refused) == module.MAX_BATCH_REQUESTS
        data = request(wire.CMD_BLOCK_STATUS, 0, 512) * 2000
        most = module.MAX_BATCH_READ_BYTES // (module.MAX_BLOCK_DESCRIPTORS * 8)
        assert len(parse(transmission, data).queries) == most

    def test_requests_are_counted_by_command_and_unknown_ones_too(self) -> None:
        transmission = make()
        data = write(0, b"x") + write(0, b"") + request(wire.CMD_FLUSH) + request(500)
        parse(transmission, data)
        assert transmission.counts == [0, 2, 0, 1, 0, 0, 0, 0, 1]


FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO, UNKNOWN = 1, 2, 4, 8, 16, 32


class TestRefusal:
    @pytest.mark.parametrize(
        ("kind", "offset", "length", "flags"),
        [
            (wire.CMD_READ, 0, SIZE, NO_FLAGS),
            (wire.CMD_READ, SIZE - 1, 1, FUA | DF),
            (wire.CMD_WRITE, 0, SIZE, FUA),
            (wire.CMD_FLUSH, 0, 0, FUA),
            (wire.CMD_TRIM, 1, 2, FUA),
            (wire.CMD_CACHE, 0, 512, NO_FLAGS),
            (wire.CMD_WRITE_ZEROES, 0, SIZE, FUA | NO_HOLE | FAST_ZERO),
            (wire.CMD_BLOCK_STATUS, 0, SIZE, REQ_ONE),
        ],
    )
    def test_valid_request_is_not_refused(
        self, kind: int, offset: int, length: int, flags: int
    ) -> None:
        transmission = make(structured=True, block_status=True)
        assert transmission.refusal(kind, flags, offset, length) == 0

    @pytest.mark.parametrize(
        ("kind", "offset", "length", "flags", "number"),
        [
            (wire.CMD_READ, 0, 0, 0, errno.EINVAL),
            (wire.CMD_READ, 1, SIZE, 0, errno.EINVAL),
            (wire.CMD_READ, 2**64 - 1, 1, 0, errno.EINVAL),
            (wire.CMD_READ, 0, wire.MAX_PAYLOAD + 1, 0, errno.EINVAL),
            (wire.CMD_READ, 0, 512, NO_HOLE, errno.EINVAL),
            (wire.CMD_WRITE, 0, 0, 0, errno.EINVAL),
            (wire.CMD_WRITE, SIZE, 1, 0, errno.ENOSPC),
            (wire.CMD_WRITE, SIZE - 1, 2, 0, errno.ENOSPC),
            (wire.CMD_WRITE, 0, 512, UNKNOWN, errno.EINVAL),
            (wire.CMD_WRITE, 0, 512, DF, errno.EINVAL),
            (wire.CMD_FLUSH, 1, 0, 0, errno.EINVAL),
            (wire.CMD_FLUSH, 0, 1, 0, errno.EINVAL),
            (wire.CMD_FLUSH, 0, 0, NO_HOLE, errno.EINVAL),
            (wire.CMD_TRIM, SIZE, 512, 0, errno.EINVAL),
            (wire.CMD_TRIM, 0, 0, 0, errno.EINVAL),
            (wire.CMD_TRIM, 0, 512, FAST_ZERO, errno.EINVAL),
            (wire.CMD_CACHE, SIZE, 512, 0, errno.EINVAL),
            (wire.CMD_WRITE_ZEROES, SIZE, 512, 0, errno.ENOSPC),
            (wire.CMD_WRITE_ZEROES, 0, 512, REQ_ONE, errno.EINVAL),
            (wire.CMD_BLOCK_STATUS, 0, 512, NO_HOLE, errno.EINVAL),
            (wire.CMD_BLOCK_STATUS, SIZE, 512, 0, errno.EINVAL),
            (8, 0, 0, 0, errno.EINVAL),
            (65535, 0, 512, 0, errno.EINVAL),
        ],
    )
    def test_invalid_request_is_refused_with_its_errno_and_never_reaches_the_export(
        self, kind: int, offset: int, length: int, flags: int, number: int
    ) -> None:
        transmission = make(structured=True, block_status=True)
        payload = bytes(length) if kind == wire.CMD_WRITE else b""
        intake = parse(transmission, request(kind, offset, length, flags=flags, payload=payload))
        assert [r.error for r in intake.refused] == [number]
        assert not intake.batch.requests
        assert not intake.queries

    @pytest.mark.parametrize("kind", [wire.CMD_WRITE, wire.CMD_TRIM, wire.CMD_WRITE_ZEROES])
    def test_read_only_export_refuses_changes(self, kind: int) -> None:
        transmission = make(read_only=True)
        payload = bytes(512) if kind == wire.CMD_WRITE else b""
        intake = parse(transmission, request(kind, 0, 512, payload=payload))
        assert [r.error for r in intake.refused] == [errno.EPERM]

    @pytest.mark.parametrize("kind", [wire.CMD_WRITE, wire.CMD_TRIM, wire.CMD_WRITE_ZEROES])
    @pytest.mark.parametrize(("offset", "length"), [(1, 512), (512, 511), (256, 256), (0, 513)])
    def test_change_that_is_not_whole_blocks_never_reaches_the_export(
        self, kind: int, offset: int, length: int
    ) -> None:
        payload = bytes(length) if kind == wire.CMD_WRITE else b""
        data = request(kind, offset, length, payload=payload)
        intake = parse(make(minimum_block=512), data + write(512, bytes(512)))
        assert [r.error for r in intake.refused] == [errno.EINVAL]
        assert [r.offset for r in intake.batch.requests] == [512]

    def test_whole_blocks_are_changed_and_any_range_is_read(self) -> None:
        transmission = make(minimum_block=512, block_status=True)
        for kind in (wire.CMD_WRITE, wire.CMD_TRIM, wire.CMD_WRITE_ZEROES):
            assert transmission.refusal(kind, FUA, 512, 1024) == 0
        for kind in (wire.CMD_READ, wire.CMD_CACHE, wire.CMD_BLOCK_STATUS):
            assert transmission.refusal(kind, 0, 1, 513) == 0

    def test_df_needs_structured_replies(self) -> None:
        assert make().refusal(wire.CMD_READ, DF, 0, 512) == errno.EINVAL

    def test_block_status_needs_its_context(self) -> None:
        transmission = make(structured=True)
        assert transmission.refusal(wire.CMD_BLOCK_STATUS, 0, 0, 512) == errno.EINVAL


def done(
    kind: int, *, error: int = 0, data: bytes | None = None, hole: bool = False, length: int = 4
) -> Request:
    result = Request(kind, 0, 0x1000, length, memoryview(b""), 0x1122334455667788)
    result.error, result.data, result.hole = error, data, hole
    return result


def answer(transmission: Transmission, request: Request) -> bytes:
    return b"".join(transmission.replies([request]))


COOKIE = "1122334455667788"


class TestReplies:
    @pytest.mark.parametrize("structured", [False, True])
    def test_write_is_answered_in_these_very_bytes(self, structured: bool) -> None:
        transmission = make(structured=structured)
        assert answer(transmission, done(wire.CMD_WRITE)) == bytes.fromhex(
            f"67446698 00000000 {COOKIE}"
        )
        assert transmission.bytes_written == 4

    def test_failed_write_carries_its_error_and_counts_no_bytes(self) -> None:
        transmission = make()
        assert answer(transmission, done(wire.CMD_WRITE, error=errno.ENOSPC)) == bytes.fromhex(
            f"67446698 0000001c {COOKIE}"
        )
        assert transmission.bytes_written == 0

    def test_simple_read_is_a_head_and_the_data(self) -> None:
        transmission = make()
        assert answer(transmission, done(wire.CMD_READ, data=b"data")) == bytes.fromhex(
            f"67446698 00000000 {COOKIE} 64617461"
        )
        assert transmission.bytes_read == 4

    def test_simple_read_of_a_hole_is_zeroes(self) -> None:
        assert answer(make(), done(wire.CMD_READ, hole=True))[16:] == bytes(4)

    def test_simple_read_error_has_no_data(self) -> None:
        assert answer(make(), done(wire.CMD_READ, error=errno.EIO)) == bytes.fromhex(
            f"67446698 00000005 {COOKIE}"
        )

    def test_structured_read_is_one_offset_data_chunk(self) -> None:
        assert answer(make(structured=True), done(wire.CMD_READ, data=b"data")) == bytes.fromhex(
            f"668e33ef 0001 0001 {COOKIE} 0000000c 0000000000001000 64617461"
        )

    def test_structured_read_of_a_hole_is_one_offset_hole_chunk(self) -> None:
        assert answer(make(structured=True), done(wire.CMD_READ, hole=True)) == bytes.fromhex(
            f"668e33ef 0001 0002 {COOKIE} 0000000c 0000000000001000 00000004"
        )

    @pytest.mark.parametrize("kind", [wire.CMD_READ, wire.CMD_BLOCK_STATUS])
    def test_structured_error_is_an_error_chunk(self, kind: int) -> None:
        assert answer(make(structured=True), done(kind, error=errno.EROFS)) == bytes.fromhex(
            f"668e33ef 0001 8001 {COOKIE} 00000006 00000001 0000"
        )

    def test_data_is_a_piece_of_its_own_and_no_copy(self) -> None:
        data = bytes(4)
        assert make().replies([done(wire.CMD_READ, data=data)])[1] is data

    @pytest.mark.parametrize("data", [None, b"", b"short!"])
    def test_read_left_without_its_data_is_a_programmers_error(self, data: bytes | None) -> None:
        with pytest.raises(AssertionError):
            make().replies([done(wire.CMD_READ, data=data)])


class TestBlockStatus:
    @staticmethod
    def extents(*lengths: int) -> Iterator[Extent]:
        """Extents that alternate between data and hole; 0 repeats the kind before."""
        offset, data = 0, True
        for length in lengths:
            yield Extent(offset, abs(length), data)
            offset += abs(length)
            data = not data

    def test_extents_are_described_in_these_very_bytes(self) -> None:
        transmission = make(structured=True, block_status=True)
        query = done(wire.CMD_BLOCK_STATUS)
        assert b"".join(transmission.block_status(query, self.extents(4096, 512))) == bytes.fromhex(
            f"668e33ef 0001 0005 {COOKIE} 00000014 00000001 00001000 00000000 00000200 00000003"
        )

    def test_neighbours_of_one_kind_are_merged(self) -> None:
        query = done(wire.CMD_BLOCK_STATUS)
        same = [Extent(0, 10, data=True), Extent(10, 20, data=True), Extent(30, 1, data=False)]
        (piece,) = make(structured=True).block_status(query, same)
        assert bytes(piece)[24:] == struct.pack(">IIII", 30, 0, 1, 3)

    def test_req_one_describes_one_extent_and_reads_no_further_than_needed(self) -> None:
        query = done(wire.CMD_BLOCK_STATUS)
        query.flags = REQ_ONE
        extents = self.extents(10, 20, 30)
        (piece,) = make(structured=True).block_status(query, extents)
        assert bytes(piece)[24:] == struct.pack(">II", 10, 0)
        assert next(extents).length == 30

    def test_number_of_extents_is_bounded(self) -> None:
        query = done(wire.CMD_BLOCK_STATUS)
        (piece,) = make(structured=True).block_status(query, self.extents(*[1] * 10000))
        assert len(piece) == 24 + 8 * module.MAX_BLOCK_DESCRIPTORS

    def test_export_without_any_extent_is_a_programmers_error(self) -> None:
        with pytest.raises(AssertionError):
            make().block_status(done(wire.CMD_BLOCK_STATUS), [])


class TestBatch:
    def test_workspace_is_lent_piece_by_piece_and_never_twice(self) -> None:
        batch = Batch([], 10)
        workspace = memoryview(bytearray(10))
        batch.lend(workspace)
        batch.allocate(4)[:] = b"aaaa"
        batch.allocate(6)[:] = b"bbbbbb"
        assert bytes(workspace) == b"aaaabbbbbb"

    def test_memory_past_the_workspace_is_new(self) -> None:
        batch = Batch([])
        assert bytes(batch.allocate(5)) == bytes(5)
